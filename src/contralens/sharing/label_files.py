"""Label files: what a run found, in one JSON file that anybody can read (docs/schemas/labels-1.schema.json).

A file holds the labels of every scorer, the evidence by image name and content hash, the proposals, what was measured
if the run was evaluated, and how it all was made. It holds no picture, and no absolute path of the machine that made
it. Needs no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from contralens.checks import first_line, nearest, require
from contralens.data.atomic_files import write_whole
from contralens.data.evaluations import Evaluation, evaluation_of
from contralens.data.final_labels import CORRECTED, FINAL, final
from contralens.data.runs import LABELS, Run
from contralens.data.table_folders import plain
from contralens.errors import InputError
from contralens.sharing.local_paths import anonymous, relative
from contralens.types import Brief

NAME, VERSION = "contralens-labels", 1
EXEMPLARS = "exemplars"
"""Stands for the scorer where an evaluation measured a neuron's exemplars, whatever its label."""
_STATISTICS = ("mean", "minimum", "maximum", "firing_rate")
_RATES = ["neuron", "scorer", "p", "fdr"]
_PROPOSAL = ("concept", "text", "cosine", "place", "prompt", "model", "score")
_SETTINGS = ("k", "ranking", "crop", "reuse", "exclude", "templates", "normalise_texts", "seed", "limit")


@dataclass(frozen=True, repr=False)
class LabelFile(Brief):
    """Labels read from a file, or about to be written to one.

    >>> from contralens.data.runs import load
    >>> made = label_file(load("run"), pairs=2)
    >>> len(made), made.scorers[-1], made.labels.num_rows == 64 * len(made.scorers)
    (64, 'auto', True)
    >>> made.rows("auto")[0] == next(iter(made)), made.save("run.labels.json").path.name
    (True, 'run.labels.json')
    """

    content: dict[str, Any]
    """As the schema describes it."""
    path: Path | None = field(default=None, compare=False)

    @property
    def scorers(self) -> list[str]:
        """Scorers whose labels it holds."""
        return list(self.content["scorers"])

    @cached_property
    def labels(self) -> pa.Table:
        """The labels as a run holds them: neuron, name, scorer, status, label, score, concepts, scores, p, fdr,
        confidence, reasons."""
        rows = [
            {"neuron": neuron["neuron"], "name": neuron["name"], **{c: label.get(c) for c in LABELS.names[2:]}}
            for neuron in self.content["neurons"]
            for label in neuron["labels"]
        ]
        return pa.Table.from_pylist(rows, schema=LABELS)

    def rows(self, scorer: str | None = None) -> list[dict[str, Any]]:
        """The rows of one scorer, by default the primary.

        Raises:
            InputError: the file has no labels of it.
        """
        scorer = scorer or self.content["primary"]
        if scorer not in self.scorers:
            raise InputError(
                f"these labels have no scorer {scorer!r}{nearest(scorer, self.scorers)} "
                f"(they have: {', '.join(self.scorers)})"
            )
        return [row for row in self.labels.to_pylist() if row["scorer"] == scorer]

    def __len__(self) -> int:
        return len(self.content["neurons"])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows())

    def save(self, path: str | Path) -> LabelFile:
        """Write the file, atomically."""
        text = json.dumps(self.content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        write_whole(Path(path), text.encode())
        return LabelFile(self.content, Path(path))


def label_file(run: Run, *, pairs: int | None = None, names: bool = True, corrections: bool = True) -> LabelFile:
    """The labels of a run as finally judged, with their evidence and, if evaluated, the metrics.

    Args:
        run: a finished run.
        pairs: number of exemplar-contrast pairs per neuron; all by default.
        names: False omits image names; content hashes remain.
        corrections: False ignores labels corrected in the explorer.

    Raises:
        InputError: `pairs` is negative.

    >>> from contralens.data.runs import load
    >>> made = label_file(load("run"), pairs=2)
    >>> len(made), made.content["primary"], len(made.content["neurons"][0]["evidence"])
    (64, 'auto', 2)
    """
    if pairs is not None and pairs < 0:
        raise InputError(f"`pairs` must be 0 or more; got {pairs}")
    rates = {(row["neuron"], row["scorer"]): row for row in run.labels.select(_RATES).to_pylist()}
    run = final(run, corrections=corrections)
    m = run.manifest
    held = m["images"].get("holdout")
    evaluated = evaluation_of(run.path)
    images = _Images(run, names)
    content = {
        "format": NAME,
        "version": VERSION,
        "made_with": {"contralens": m.get("contralens", "unknown"), **m.get("versions", {})},
        "target": {key: m["target"][key] for key in ("name", "layer", "pooling", "fingerprint", "neurons")},
        "encoder": {key: m["encoder"][key] for key in ("name", "fingerprint", "width")},
        "probe": {
            "name": m["images"]["name"],
            "count": m["images"]["count"],
            "fingerprint": m["images"].get("fingerprint"),
            "held_out": held["share"] if held else None,
        },
        "vocabulary": {key: m["vocabulary"].get(key) for key in ("source", "concepts", "fingerprint")},
        "settings": {key: m.get(key) for key in _SETTINGS},
        "candidates": _candidates(run),
        "evaluation": _how(evaluated),
    }
    keys = {"scorers": run.scorers, "primary": m["primary"]}  # as the rows name them
    neurons = plain(list(_neurons(run, evaluated, images, pairs, rates)))
    return LabelFile({**anonymous(plain(content)), **keys, "images": images.told, "neurons": neurons})


def _neurons(
    run: Run,
    evaluated: Evaluation | None,
    images: _Images,
    pairs: int | None,
    rates: dict[tuple[int, str], dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    """An entry for each neuron that has rows among the labels; `rates` are those of the labeling itself."""
    known = {row["neuron"]: row for row in run.neurons.select(["neuron", *_STATISTICS]).to_pylist()}
    proposed = set(run.concepts.filter(pc.field("source") == "proposed")["concept"].to_pylist())
    evidence: dict[int, list[dict[str, Any]]] = {}
    for row in run.exemplars.to_pylist():
        if pairs is None or row["rank"] < pairs:
            pair = {**row, "positive": images.place(row["positive"]), "contrast": images.place(row["contrast"])}
            evidence.setdefault(pair.pop("neuron"), []).append(pair)
    measured = _measured(evaluated)
    entries: dict[int, dict[str, Any]] = {}
    for row in run.labels.to_pylist():
        n = row["neuron"]
        if n not in entries:
            entries[n] = {
                "neuron": n,
                "name": row["name"],
                "statistics": {key: known[n][key] for key in _STATISTICS} if n in known else dict.fromkeys(_STATISTICS),
                **measured.get((n, EXEMPLARS), {}),
                "labels": [],
                "proposals": [
                    {**{key: p[key] for key in _PROPOSAL}, "model": anonymous(p["model"])} for p in run.proposals(n)
                ],
                "evidence": evidence.get(n, []),
            }
        is_scored = row["label"] is not None and row["status"] != CORRECTED
        source = None if not is_scored else "proposed" if row["label"] in proposed else "vocabulary"
        own = {key: row.get(key) for key in FINAL.names[2:]}
        own |= {key: rates.get((n, row["scorer"]), {}).get(key) for key in ("p", "fdr")}
        entries[n]["labels"].append({**own, "source": source, **measured.get((n, row["scorer"]), {})})
    yield from entries.values()


class _Images:
    """The images of the evidence, each once, in the order in which they are first named."""

    def __init__(self, run: Run, names: bool) -> None:
        self._ids = relative(run.images["id"].to_pylist()) if names else None
        self._fingerprints = run.images["fingerprint"].to_pylist()
        self._places: dict[int, int] = {}
        self.told: list[dict[str, Any]] = []

    def place(self, image: int) -> int | None:
        """The place of the image in that row of the run's images; None for none."""
        if image < 0:
            return None
        if image not in self._places:
            self._places[image] = len(self.told)
            name = self._ids[image] if self._ids is not None else None
            self.told.append({"id": name, "fingerprint": self._fingerprints[image]})
        return self._places[image]


def _candidates(run: Run) -> dict[str, Any] | None:
    made = run.manifest.get("candidates")
    if not made:
        return None
    keys = ("proposer", "fingerprint", "prompt", "template", "count", "words", "domain", "pictures", "captions",
            "contrast", "merge", "own_only")  # fmt: skip
    return {key: made[key] for key in keys if key in made}


def _how(evaluated: Evaluation | None) -> dict[str, Any] | None:
    if evaluated is None:
        return None
    keys = ("metrics", "judge", "images", "label_images", "chance", "stability", "concepts", "seed", "notes")
    return {key: evaluated.manifest[key] for key in keys if key in evaluated.manifest}


def _measured(evaluated: Evaluation | None) -> dict[tuple[int, str], dict[str, Any]]:
    """By neuron and scorer: the verdict against chance where there is one, and the metrics."""
    out: dict[tuple[int, str], dict[str, Any]] = {}
    if evaluated is None:
        return out
    for row in evaluated.verdicts.to_pylist():
        told = {key: row[key] for key in ("p", "fdr", "beats_chance") if row[key] is not None}
        if told:
            out.setdefault((row["neuron"], row["scorer"]), {})["chance"] = told
    for row in evaluated.values.to_pylist():
        at = out.setdefault((row["neuron"], row["scorer"]), {})
        at.setdefault("measured", {})[row["metric"]] = row["value"]
    return out


def schema() -> dict[str, Any]:
    """The JSON schema of a label file."""
    text = (files("contralens.sharing") / "schemas" / f"labels-{VERSION}.schema.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def read_labels(path: str | Path) -> LabelFile:
    """Read a label file and check it against its schema.

    Raises:
        InputError: no such file, another format or version, or content that violates the schema.

    >>> from contralens.data.runs import load
    >>> path = label_file(load("run"), pairs=2).save("run.labels.json").path
    >>> rows = read_labels(path).rows("csp")
    >>> rows == [{name: row[name] for name in rows[0]} for row in final("run").rows("csp")]
    True
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no label file {path}; `contralens export-labels RUN` writes one") from None
    except (OSError, ValueError, RecursionError) as e:
        raise InputError(f"{path} cannot be read as a label file: {first_line(e)}") from e
    if not isinstance(content, dict) or content.get("format") != NAME:
        raise InputError(f"{path} is not a label file of contralens: its `format` must be {NAME!r}")
    if content.get("version") != VERSION:
        raise InputError(
            f"{path} is a label file of version {content.get('version')!r}; this contralens reads {VERSION}"
        )
    validator = require("fastjsonschema", "share")
    try:
        _check()(content)
    except validator.JsonSchemaValueException as e:
        raise InputError(f"{path} violates the schema of label files: {e.message.removeprefix('data.')[:300]}") from e
    count = len(content["images"])
    for neuron in content["neurons"]:
        for label in neuron["labels"]:
            if label["scorer"] not in content["scorers"] or len(label["concepts"]) != len(label["scores"]):
                raise InputError(
                    f"{path}: neuron {neuron['neuron']} has a scorer that the file does not list, "
                    "or not as many scores as concepts"
                )
        for pair in neuron["evidence"]:
            if any(pair[side] is not None and pair[side] >= count for side in ("positive", "contrast")):
                raise InputError(f"{path}: the evidence of neuron {neuron['neuron']} names an image that is not listed")
    if content["primary"] not in content["scorers"]:
        raise InputError(f"{path}: its primary scorer {content['primary']!r} is not among its scorers")
    read = LabelFile(content, path)
    try:
        _ = read.labels
    except (OverflowError, pa.ArrowException) as e:
        raise InputError(f"{path} has an impossible number: {first_line(e)}") from e
    return read


@cache
def _check() -> Any:
    """What raises for content that breaks the schema; made once."""
    return require("fastjsonschema", "share").compile(schema())
