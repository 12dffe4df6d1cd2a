"""A finished verification, kept inside the run folder whose labels it tests. Needs no torch.

RUN/verification/ holds verification.json (how the numbers were got) and four parquet tables:

- labels: neuron, name, label, outcome ("verified", "refuted" or "untested"), reason, editor, instead_of (the refuted
  label of the neuron, where this is a concept that was tested in its place, else null), remove_images, remove,
  remove_low, remove_high, remove_above, remove_above_low (the effect of removal, and what it is above that of
  controls), the same for insert, and nulls: outcomes of the neuron's control concepts in the label's place
- edits: neuron, label, kind ("remove" or "insert"), image (row of the run's images), concept, control, before, after
  (the neuron's activation), moved (how far the concept's similarity moved, in deviations over the images), alike
  (cosine of the embeddings before and after, without the concept), pixels (mean absolute change of a pixel, 0 to 255;
  of the editor inside the length of what is added), used, and why not
- pictures: neuron, label, kind, image, before, after (JPEG, at most 160 px), was, became (the neuron's activation): the
  edits of the label that moved the neuron most
- inside (with `--inside`): neuron, name, label, layer (that was steered), outcome, reason, the effects of removal and
  insertion as above, class (whose score the neuron moves most on its exemplars), change (of that score), beyond (share
  of other neurons that move theirs less)

A label that is tested later is added to those tested before; it takes the place of the same label of the same neuron.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from contralens.data.checked_reading import Checked
from contralens.data.experiment_evidence import OUTCOMES as OUTCOMES
from contralens.data.folder_kinds import VERIFICATION
from contralens.data.seals import seal
from contralens.data.showing import Tabled
from contralens.data.table_folders import part_of_run, plain, reading, write_tables
from contralens.errors import InputError

FORMAT = 4
READABLE = (3, FORMAT)
"""Formats that can be read; format 3 knows nothing of the inside of the network."""
ON_VERDICT = {"verified": "confirms it", "refuted": "contradicts it", "untested": "did not decide it"}
"""What an experiment says of an audit's verdict, by its outcome."""
TABLES = ("labels", "edits", "pictures", "inside")
_SIDE = ("images", "", "low", "high", "above", "above_low")
SIDES = [f"{kind}_{part}".rstrip("_") for kind in ("remove", "insert") for part in _SIDE]

LABELS = pa.schema([
    ("neuron", pa.int32()), ("name", pa.string()), ("label", pa.string()), ("outcome", pa.string()),
    ("reason", pa.string()), ("editor", pa.string()),
    ("instead_of", pa.string()),
    *((name, pa.int32() if name.endswith("images") else pa.float64()) for name in SIDES),
    ("nulls", pa.list_(pa.string())),
])  # fmt: skip
EDITS = pa.schema([
    ("neuron", pa.int32()), ("label", pa.string()), ("kind", pa.string()), ("image", pa.int32()),
    ("concept", pa.string()), ("control", pa.int32()), ("before", pa.float64()), ("after", pa.float64()),
    ("moved", pa.float64()), ("alike", pa.float64()), ("pixels", pa.float64()), ("used", pa.bool_()),
    ("why", pa.string()),
])  # fmt: skip
PICTURES = pa.schema([
    ("neuron", pa.int32()), ("label", pa.string()), ("kind", pa.string()), ("image", pa.int32()),
    ("before", pa.binary()), ("after", pa.binary()), ("was", pa.float64()), ("became", pa.float64()),
])  # fmt: skip
INSIDE = pa.schema([
    ("neuron", pa.int32()), ("name", pa.string()), ("label", pa.string()), ("layer", pa.string()),
    ("outcome", pa.string()), ("reason", pa.string()),
    *((name, pa.int32() if name.endswith("images") else pa.float64()) for name in SIDES),
    ("class", pa.string()), ("change", pa.float64()), ("beyond", pa.float64()),
])  # fmt: skip
SCHEMAS = dict(zip(TABLES, (LABELS, EDITS, PICTURES, INSIDE), strict=True))


@dataclass(frozen=True, repr=False)
class Verification(Tabled):
    """Labels tested by editing pictures.

    >>> import contralens
    >>> found = contralens.verify("run", neurons=[0, 1], images=3)
    >>> len(found.rows()) >= 2, sum(found.counts.values()) == len(found.rows()), found.path.name
    (True, True, 'verification')
    >>> found.added_to(found).rows() == found.rows()
    True
    """

    manifest: dict[str, Any]
    """verification.json: editor, scorer, settings, seed, false-discovery rate, notes."""
    labels: pa.Table
    edits: pa.Table
    pictures: pa.Table
    inside: pa.Table = field(default_factory=INSIDE.empty_table)
    """What steering the network came to; empty without `inside`."""
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

    def added_to(self, older: Verification) -> Verification:
        """These experiments and the older ones, except for labels tested again."""
        again = {(row["neuron"], row["label"]) for row in self.labels.select(["neuron", "label"]).to_pylist()}

        def joined(name: str) -> pa.Table:
            old = getattr(older, name)
            keys = zip(old["neuron"].to_pylist(), old["label"].to_pylist(), strict=True)
            kept = old.filter(pa.array([key not in again for key in keys], pa.bool_()))
            both = pa.concat_tables([kept, getattr(self, name)])
            return both.take(pc.sort_indices(both, [("neuron", "ascending")]))

        return replace(self, **{name: joined(name) for name in TABLES})

    def __repr__(self) -> str:
        return f"Verification({', '.join(f'{n} {word}' for word, n in self.counts.items())})"

    def _repr_html_(self) -> str:
        from contralens.data.views import verification_view

        return verification_view(self)._repr_html_()

    def save(self, run: str | Path) -> Verification:
        """Write the verification into a run folder, atomically; replaces an older one.

        Raises:
            InputError: the folder is not a run.

        >>> import contralens
        >>> found = contralens.verify("run", neurons=[0], images=3, save=False)
        >>> found.save("run").path.as_posix()
        'run/verification'
        """
        with part_of_run(run := Path(run), VERIFICATION) as folder:
            write_tables(folder, {name: getattr(self, name) for name in TABLES})
            manifest = seal(folder, "verification.json", plain({**self.manifest, "format": FORMAT}))
        return replace(self, manifest=manifest, path=run / "verification")


def outcomes_of(labels: pa.Table | None, inside: pa.Table | None = None) -> dict[tuple[int, str], tuple[str, str]]:
    """Neuron and label -> outcome, and what the experiment came to, in words; with what came of steering.

    >>> import contralens
    >>> found = contralens.verify("run", neurons=[0], images=3, save=False)
    >>> (key, (outcome, said)), = outcomes_of(found.labels).items()
    >>> key[0], outcome in OUTCOMES, said.endswith("(editor world)")
    (0, True, True)
    """
    if labels is None:
        return {}
    columns = (labels[name].to_pylist() for name in ("neuron", "label", "outcome", "reason", "editor"))
    instead = {
        (row["neuron"], row["instead_of"]): f"; {row['label']} is verified instead"
        for row in labels.select(["neuron", "label", "outcome", "instead_of"]).to_pylist()
        if row["instead_of"] is not None and row["outcome"] == "verified"
    }
    rows = [] if inside is None else inside.to_pylist()
    steered = {(row["neuron"], row["label"]): f"; {inside_words(row)}" for row in rows}
    return {
        (neuron, label): (
            outcome,
            f"{reason}{instead.get((neuron, label), '')} (editor {editor}){steered.get((neuron, label), '')}",
        )
        for neuron, label, outcome, reason, editor in zip(*columns, strict=True)
    }


def editors_of(labels: pa.Table | None) -> dict[tuple[int, str], str]:
    """Neuron and label -> the editor that tested it.

    >>> editors_of(pa.table({"neuron": [3], "label": ["striped"], "editor": ["world"]}))
    {(3, 'striped'): 'world'}
    """
    if labels is None:
        return {}
    neurons, names, editors = (labels[name].to_pylist() for name in ("neuron", "label", "editor"))
    return dict(zip(zip(neurons, names, strict=True), editors, strict=True))


def inside_words(row: Mapping[str, Any]) -> str:
    """What steering the network came to for a label, and which class its neuron moves.

    >>> row = {"layer": "block2", "outcome": "verified", "remove": 0.13, "insert": 0.07, "class": "star",
    ...        "change": 1.5, "beyond": 0.9}
    >>> inside_words(row)
    'inside the network verified (at block2: -13% without it, +7% with it); the neuron changes \
the score of star by +1.5, a larger effect than that of 90% of other neurons'
    """
    sides = [f"{sign}{row[kind]:.0%} {word}" for kind, sign, word in
             (("remove", "-", "without it"), ("insert", "+", "with it"))
             if row[kind] is not None and row[kind] == row[kind]]  # fmt: skip
    said = f"inside the network {row['outcome']} (at {row['layer']}: {', '.join(sides) or row['reason']})"
    if row["class"] is None:
        return said
    said += f"; the neuron changes the score of {row['class']} by {row['change']:+.2g}"
    alone = row["beyond"] is None or row["beyond"] != row["beyond"]
    return said if alone else f"{said}, a larger effect than that of {row['beyond']:.0%} of other neurons"


def on_verdict(outcome: tuple[str, str] | None) -> str:
    """What an experiment says of an audit's verdict that a neuron stands for a concept; empty without one.

    >>> on_verdict(("verified", "removing it costs 90% (editor world)"))
    'an experiment confirms it: removing it costs 90% (editor world)'
    """
    return "" if outcome is None else f"an experiment {ON_VERDICT[outcome[0]]}: {outcome[1]}"


def verification_of(run: Path | None, target: str) -> Verification | None:
    """The verification inside a run folder, if it is of this target (its fingerprint); None where there is none.

    Raises:
        RunError: there is one, and it is damaged.
    """
    if run is None or not (run / "verification" / "verification.json").is_file():
        return None
    found = load_verification(run)
    return found if found.manifest["target"] == target else None


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
        held = Checked.of(folder, "verification.json", "Verification", READABLE)
        older = held.manifest["format"] < FORMAT
        tables = held.tables({n: schema.names for n, schema in SCHEMAS.items() if not (older and n == "inside")})
    return Verification(held.manifest, **tables, path=folder)
