"""A finished verification, kept inside the run folder whose labels it tests. Needs no torch.

RUN/verification/ holds verification.json (how the numbers were got) and three parquet tables:

- labels: neuron, name, label, outcome ("verified", "refuted" or "untested"), reason, remove_images, remove, remove_low,
  remove_high, remove_above, remove_above_low (the effect of removal, and what it is above that of controls), the same
  for insert, and nulls: outcomes of the neuron's control concepts in the label's place
- edits: neuron, kind ("remove" or "insert"), image (row of the run's images), concept, control, before, after (the
  neuron's activation), moved (how far the concept's similarity moved, in deviations over the images), alike (cosine of
  the embeddings before and after, without the concept), pixels (mean absolute change of a pixel, 0 to 255), used, and
  why not
- pictures: neuron, kind, image, before, after (JPEG, at most 160 px): the edits of the label that moved the neuron most
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from contralens.data.checked_reading import Checked
from contralens.data.folder_kinds import VERIFICATION
from contralens.data.seals import seal
from contralens.data.table_folders import part_of_run, plain, reading, write_tables
from contralens.errors import InputError

FORMAT = 2
OUTCOMES = ("verified", "refuted", "untested")
TABLES = ("labels", "edits", "pictures")
_SIDE = ("images", "", "low", "high", "above", "above_low")
SIDES = [f"{kind}_{part}".rstrip("_") for kind in ("remove", "insert") for part in _SIDE]

LABELS = pa.schema([
    ("neuron", pa.int32()), ("name", pa.string()), ("label", pa.string()), ("outcome", pa.string()),
    ("reason", pa.string()), *((name, pa.int32() if name.endswith("images") else pa.float64()) for name in SIDES),
    ("nulls", pa.list_(pa.string())),
])  # fmt: skip
EDITS = pa.schema([
    ("neuron", pa.int32()), ("kind", pa.string()), ("image", pa.int32()), ("concept", pa.string()),
    ("control", pa.int32()), ("before", pa.float64()), ("after", pa.float64()), ("moved", pa.float64()),
    ("alike", pa.float64()), ("pixels", pa.float64()), ("used", pa.bool_()), ("why", pa.string()),
])  # fmt: skip
PICTURES = pa.schema([
    ("neuron", pa.int32()), ("kind", pa.string()), ("image", pa.int32()), ("before", pa.binary()),
    ("after", pa.binary()),
])  # fmt: skip
SCHEMAS = dict(zip(TABLES, (LABELS, EDITS, PICTURES), strict=True))


@dataclass(frozen=True)
class Verification:
    """Labels that were tested by changing pictures.

    >>> import contralens
    >>> found = contralens.verify("run", neurons=[0, 1], images=3)
    >>> len(found.rows()), sum(found.counts.values()), found.path.name
    (2, 2, 'verification')
    """

    manifest: dict[str, Any]
    """verification.json: editor, scorer, settings, seed, false-discovery rate, notes."""
    labels: pa.Table
    edits: pa.Table
    pictures: pa.Table
    path: Path | None = field(default=None, compare=False)

    @property
    def counts(self) -> dict[str, int]:
        """Outcome -> labels."""
        found = self.labels["outcome"].to_pylist()
        return {word: found.count(word) for word in OUTCOMES}

    def rows(self, outcome: str | None = None) -> list[dict[str, Any]]:
        """Rows of `labels`, all or of one outcome.

        Raises:
            InputError: no such outcome.
        """
        if outcome is not None and outcome not in OUTCOMES:
            raise InputError(f"an outcome is one of {', '.join(OUTCOMES)}; got {outcome!r}")
        return [row for row in self.labels.to_pylist() if outcome in (None, row["outcome"])]

    def save(self, run: str | Path) -> Verification:
        """Write it into a run folder, whole or not at all; an older one there is replaced.

        Raises:
            InputError: the folder is no run.

        >>> import contralens
        >>> found = contralens.verify("run", neurons=[0], images=3, save=False)
        >>> found.save("run").path.as_posix()
        'run/verification'
        """
        with part_of_run(run := Path(run), VERIFICATION) as folder:
            write_tables(folder, {name: getattr(self, name) for name in TABLES})
            manifest = seal(folder, "verification.json", plain({**self.manifest, "format": FORMAT}))
        return replace(self, manifest=manifest, path=run / "verification")


def load_verification(run: str | Path) -> Verification:
    """The verification inside a run folder.

    Raises:
        InputError: there is none.
        RunError: it cannot be read.

    >>> import contralens
    >>> made = contralens.verify("run", neurons=[0, 1], images=3)
    >>> load_verification("run").counts == made.counts
    True
    """
    folder = Path(run) / "verification"
    with reading(folder, f"{run} holds no verification; make one with: contralens verify {run}"):
        held = Checked.of(folder, "verification.json", "Verification", (FORMAT,))
        tables = held.tables({name: schema.names for name, schema in SCHEMAS.items()})
    return Verification(held.manifest, **tables, path=folder)
