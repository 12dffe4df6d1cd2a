"""Proposed labels and where each came from, and the folder that keeps every reply that was paid for. Needs no torch.

A folder RUN.candidates is next to the run, not in it, since a run folder is replaced as a whole when it is written
again:

- candidates.json: the candidates with their provenance, the neurons without any and why, and how they were made
- replies/KEY.json: one reply each, by hash of model, prompt and images; written and synced before the next question
- pictures/HASH.jpg: the exact pictures sent, by hash of their bytes
- ledger.jsonl: one line before each question, so that a question whose answer was lost in a crash is still counted
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from contralens.checks import as_path
from contralens.data.atomic_files import explained, sweep, write_whole
from contralens.data.checked_reading import read_manifest
from contralens.data.locks import lock_beside, locked
from contralens.data.replace_folder import apart
from contralens.data.seals import DIGEST, manifest_digest
from contralens.errors import InputError, RunError
from contralens.types import Brief

FORMAT = 1


@dataclass(frozen=True, repr=False)
class Candidates(Brief):
    """Concepts proposed for neurons, each with its provenance.

    >>> given = {"neuron": 5, "name": "block3/5", "place": 0, "prompt": "contrastive", "model": "m", "text": "stripes"}
    >>> found = Candidates(["stripes"], [{"concept": "stripes", **given}])
    >>> len(found), found.of(5), found.sources("Stripes")[0]["model"], found.join(["red", "striped"])
    (1, ['stripes'], 'm', ['red', 'striped', 'stripes'])
    >>> found.allowed(["red"], neurons=[4, 5]).tolist()  # "red" for both, "stripes" for neuron 5
    [[True, False], [True, True]]
    >>> found.table().num_rows, sorted(found.to_json())
    (1, ['concepts', 'errors', 'format', 'manifest', 'provenance'])
    >>> from pathlib import Path
    >>> load_candidates(found.save(Path("run.candidates")).path).concepts
    ['stripes']
    """

    concepts: list[str]
    """The distinct texts, near-synonyms merged, in order of first proposal."""
    provenance: list[dict[str, Any]]
    """One entry per proposal: concept (the text it counts as), text (as proposed, cleaned), cosine (of the two, None if
    they are the same), neuron, name, place (0 for the first named), prompt, model, reply (key of its file, if any),
    score (of the caption bank, else None)."""
    errors: list[dict[str, Any]] = field(default_factory=list)
    """Neurons without any candidate: neuron, name, error, reply (key of its file, if there was one)."""
    manifest: dict[str, Any] = field(default_factory=dict)
    """How they were made: proposer, prompt, pictures, merging, plan, tokens, cost."""
    path: Path | None = field(default=None, compare=False)

    def __len__(self) -> int:
        return len(self.concepts)

    def of(self, neuron: int) -> list[str]:
        """The concepts proposed for one neuron, in the order in which they were named."""
        return list(dict.fromkeys(p["concept"] for p in self.provenance if p["neuron"] == neuron))

    def sources(self, concept: str) -> list[dict[str, Any]]:
        """Which neurons, prompts and models proposed a concept (upper and lower case count as one)."""
        return [p for p in self.provenance if p["concept"].casefold() == concept.casefold()]

    def join(self, vocabulary: Sequence[str]) -> list[str]:
        """The vocabulary followed by the candidates that are not in it."""
        known = {concept.casefold() for concept in vocabulary}
        return [*vocabulary, *(c for c in self.concepts if c.casefold() not in known)]

    def allowed(self, vocabulary: Sequence[str], neurons: Sequence[int]) -> NDArray[np.bool_]:
        """(N,C) for the concepts of `join`: whether a neuron may be labeled with each, if candidates are scored for
        their own neurons only. Concepts of the vocabulary are allowed for all."""
        joined = self.join(vocabulary)
        column = {concept.casefold(): i for i, concept in enumerate(joined)}
        out = np.zeros((len(neurons), len(joined)), bool)
        out[:, : len(vocabulary)] = True
        row = {neuron: i for i, neuron in enumerate(neurons)}
        for p in self.provenance:
            if p["neuron"] in row:
                out[row[p["neuron"]], column[p["concept"].casefold()]] = True
        return out

    def table(self) -> pa.Table:
        """The provenance as a table, for a run folder."""
        kinds = {
            "concept": pa.string(),
            "text": pa.string(),
            "cosine": pa.float64(),
            "neuron": pa.int32(),
            "name": pa.string(),
            "place": pa.int32(),
            "prompt": pa.string(),
            "model": pa.string(),
            "reply": pa.string(),
            "score": pa.float64(),
        }
        return pa.table({k: pa.array([p.get(k) for p in self.provenance], t) for k, t in kinds.items()})

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON holds it."""
        return {
            "format": FORMAT,
            "manifest": self.manifest,
            "concepts": self.concepts,
            "provenance": self.provenance,
            "errors": self.errors,
        }

    def save(self, folder: str | Path) -> Candidates:
        """Write candidates.json into `folder`, atomically."""
        folder = Path(folder)
        content = self.to_json()
        made = {**content, DIGEST: manifest_digest(json.loads(json.dumps(content)))}
        text = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
        write_whole(folder / "candidates.json", text.encode())
        return Candidates(self.concepts, self.provenance, self.errors, self.manifest, folder)


def load_candidates(path: str | Path) -> Candidates:
    """Read a folder written by `contralens propose`, or its candidates.json."""
    path = as_path("candidates", path)
    file = path / "candidates.json" if path.is_dir() else path
    try:
        content = read_manifest(file, "Candidates", (FORMAT,))
        parts = [content[name] for name in ("concepts", "provenance", "errors", "manifest")]
        if not all(p["concept"] in set(parts[0]) for p in parts[1]):
            raise RunError(f"{file}: its provenance names concepts that it does not hold; propose again")
    except FileNotFoundError:
        raise InputError(f"no candidates in {path}; `contralens propose RUN` writes RUN.candidates") from None
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise RunError(f"{file} cannot be read as candidates: {type(e).__name__}") from e
    concepts, provenance, errors, manifest = parts
    return Candidates(concepts, provenance, errors, manifest, file.parent)


def folder_of(run: Path) -> Path:
    """Where the candidates of a run folder are kept: RUN.candidates beside it.

    >>> folder_of(Path("out/run")).as_posix()
    'out/run.candidates'
    """
    path = Path(os.path.abspath(run)) if run.name in ("", ".", "..") else run
    return path.with_name(f"{path.name}.candidates")


@contextmanager
def claimed(folder: Path, inputs: Iterable[Path] = ()) -> Iterator[None]:
    """Hold the folder of candidates, after a look that nothing would be overwritten that is not ours.

    Raises:
        InputError: something would be; the folder is, contains or is in one of `inputs`.
        StoreError: another process has it.
    """
    real = folder.resolve()
    if os.path.lexists(real) and not real.is_dir():
        raise InputError(f"{folder} is a file; choose another folder for the candidates")
    apart(folder, real, inputs)
    for name, ours in (("candidates.json", _is_candidates), ("ledger.jsonl", _is_ledger)):
        if os.path.lexists(real / name) and not ours(real / name):
            raise InputError(
                f"{folder / name} is not as `contralens propose` wrote it and would be changed: move it away"
            )
    with ExitStack() as held:
        with explained(folder):
            real.parent.mkdir(parents=True, exist_ok=True)
            busy = f"another process is writing {folder}: wait until it has ended, or choose another folder"
            held.enter_context(locked(lock_beside(real), busy))
        yield


def _is_candidates(file: Path) -> bool:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        whole = {"format", "concepts", "provenance", "errors", "manifest"} <= content.keys()
        return whole and (DIGEST not in content or content[DIGEST] == manifest_digest(content))
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def _is_ledger(file: Path) -> bool:
    try:
        return file.stat().st_size == 0 or file.read_bytes().startswith(b'{"key"')
    except OSError:
        return False


class Replies:
    """Replies on disk by key, the pictures they are about, and the ledger of what was asked. Safe for threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; choose another folder for the candidates")
        for part in ("", "replies", "pictures"):
            sweep(folder / part)

    def get(self, key: str) -> dict[str, Any] | None:
        """The record of a reply, or None if there is none (or it is damaged, which is said)."""
        path = self.folder / "replies" / f"{key}.json"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            return record if isinstance(record["attempts"], list) else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as e:
            warnings.warn(f"reply {path} is damaged ({type(e).__name__}); it is requested again", stacklevel=2)
            return None

    def put(self, key: str, record: Mapping[str, Any]) -> None:
        """Write a reply; when this returns, it is on the disk."""
        text = json.dumps(dict(record), indent=1, ensure_ascii=False) + "\n"
        write_whole(self.folder / "replies" / f"{key}.json", text.encode("utf-8", "backslashreplace"))

    def picture(self, data: bytes) -> str:
        """Keep a picture, once however often it is sent; its name within the folder."""
        name = f"pictures/{hashlib.sha256(data).hexdigest()[:32]}.jpg"
        if not (self.folder / name).is_file():
            write_whole(self.folder / name, data)
        return name

    def asking(self, key: str, attempt: int, cost: float | None, free: bool = False) -> None:
        """Note, before a question goes out, that it does and what it may cost at most; `free`, that it cost nothing."""
        line = json.dumps({"key": key, "attempt": attempt, "cost": cost, **({"free": True} if free else {})}) + "\n"
        path = self.folder / "ledger.jsonl"
        with self._lock, explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as f:
                f.write(line.encode())
                f.flush()
                os.fsync(f.fileno())

    def ledger(self) -> list[dict[str, Any]]:
        """Every question that ever went out; a last line that a crash cut is skipped."""
        try:
            lines = (self.folder / "ledger.jsonl").read_bytes().splitlines()
        except FileNotFoundError:
            return []
        out = []
        for line in lines:
            try:
                out.append(json.loads(line))
            except ValueError:
                continue
        return out

    def all(self) -> dict[str, dict[str, Any]]:
        """Every reply by key."""
        found = {path.stem: self.get(path.stem) for path in sorted((self.folder / "replies").glob("[!.]*.json"))}
        return {key: record for key, record in found.items() if record is not None}
