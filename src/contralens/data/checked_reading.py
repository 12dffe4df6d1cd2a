"""Reading what a seal vouches for: manifests by their schema and digest, files by the digests in the manifest.

A folder of format 1 has no digests: of it only the schema is checked. Each file is hashed once, when it is loaded.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from contralens.checks import first_line
from contralens.data.seals import DIGEST, FILES, PENDING, file_digest, manifest_digest
from contralens.errors import RunError

AGAIN = {
    "Run": "use another copy of the run, or label again (cached results are reused)",
    "Evaluation": "run `contralens evaluate` again",
    "Audit": "run `contralens audit` again",
    "Verification": "run `contralens verify` again",
    "Added": "run `contralens maps` again",
    "Share": "pull it again, or push the run again",
    "Candidates": "run `contralens propose` again (saved replies are reused)",
}
"""What to do about damage, by the model in `contralens.data.manifests`."""
SEALED_FROM = 2
"""The first format whose manifests have to have a digest."""


def read_manifest(file: Path, model: str, formats: Sequence[Any]) -> dict[str, Any]:
    """A manifest that is as it was written and holds what its readers count on.

    Args:
        file: a JSON file.
        model: name of its schema in `contralens.data.manifests`.
        formats: those that can be read, the newest last.

    Raises:
        RunError: it is no such manifest; one line with the file, the place in it and what to do.
        OSError: it cannot be opened.
    """
    text = inside(file.parent, file.name).read_bytes()
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise RunError(f"{file} cannot be read: {first_line(e)}; {AGAIN[model]}") from e
    if not isinstance(content, dict):
        raise RunError(f"{file} cannot be read: it holds no object; {AGAIN[model]}")
    made = content.get("format")
    if type(made) is not type(formats[-1]) or made not in formats:
        raise RunError(f"{file.parent} has format {made!r}; this contralens reads {formats[-1]}")
    check_seal(file, content, model, needed=model == "Added" or (isinstance(made, int) and made >= SEALED_FROM))
    check_schema(file, content, model)
    return content


def check_seal(file: Path, content: Mapping[str, Any], model: str, needed: bool = False) -> None:
    """Refuse a manifest whose digest is not that of its content."""
    if (DIGEST in content or needed) and content.get(DIGEST) != manifest_digest(content):
        raise RunError(f"{file} is damaged or was edited; {AGAIN[model]}")


def check_schema(file: Path, content: Mapping[str, Any], model: str) -> None:
    """Refuse a manifest with a missing entry or one of another kind."""
    from pydantic import ValidationError

    from contralens.data import manifests

    try:
        getattr(manifests, model).model_validate(content)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise RunError(
            f"{file} is damaged or was edited: {place + ': ' if place else ''}{first['msg']}; {AGAIN[model]}"
        ) from e


def inside(folder: Path, name: str) -> Path:
    """The plain file of a folder, unless it is a link that leads out of it.

    Raises:
        RunError: it is one, or is no plain file.
        FileNotFoundError: it is not there.
    """
    path = folder / name
    real = path.resolve()
    if not real.is_relative_to(folder.resolve()):
        raise RunError(f"{path} is a link out of the run folder; it is not followed")
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if not real.is_file():
        raise RunError(f"{path} is not a file")
    return real


@dataclass(frozen=True)
class Checked:
    """The files of a folder, each looked at before it is read.

    >>> held = Checked.of(Path("run"), "manifest.json", "Run", (1, 2))
    >>> held.manifest["primary"], held.table("concepts").num_rows > 10
    ('auto', True)
    """

    folder: Path
    manifest: dict[str, Any]
    model: str

    @classmethod
    def of(cls, folder: Path, name: str, model: str, formats: Sequence[int]) -> Checked:
        """The folder whose manifest is `name`."""
        return cls(folder, read_manifest(folder / name, model, formats), model)

    def has(self, name: str) -> bool:
        """Whether a file belongs to the folder; where there are no digests, whether it is there."""
        files = self.manifest.get(FILES)
        return name in files if isinstance(files, dict) else (self.folder / name).exists()

    def file(self, name: str) -> Path:
        """A file that is as it was written.

        Raises:
            RunError: it is not; one line with the file and what to do.
            FileNotFoundError: it is not there.
        """
        path, files = inside(self.folder, name), self.manifest.get(FILES)
        if isinstance(files, dict):
            known = {files.get(name), (self.manifest.get(PENDING) or {}).get(name)}
            if file_digest(path) not in known:
                raise RunError(f"{self.folder / name} is damaged or was edited; {AGAIN[self.model]}")
        return path

    def table(self, name: str) -> pa.Table:
        """A parquet table, by its name without the suffix."""
        return pq.read_table(self.file(f"{name}.parquet"), page_checksum_verification=True)

    def tables(self, schemas: Mapping[str, Sequence[str]]) -> dict[str, pa.Table]:
        """Tables, each with at least the columns named."""
        found = {}
        for name, columns in schemas.items():
            found[name] = self.table(name)
            if lacking := [column for column in columns if column not in found[name].column_names]:
                raise RunError(
                    f"{self.folder / name}.parquet is damaged or was edited: it has no column {', '.join(lacking)}; "
                    f"{AGAIN[self.model]}"
                )
        return found
