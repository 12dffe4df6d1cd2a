"""A finished run: what was labeled, with which evidence, and how the numbers were got. Needs no torch.

A run folder holds manifest.json, labels.json (the labels again, for people), six parquet tables:

- neurons: neuron, name, status, mean, minimum, maximum, firing_rate, clarity (mean cosine of two exemplars), selected,
  histogram (32 bins, minimum to maximum)
- labels: neuron, name, scorer, status, label, score, concepts, scores, p, fdr, confidence, reasons; one row per neuron
  and scorer. confidence is how likely the label is right (0 to 1, null where it was not asked for). p and fdr
  say how the label stands against chance, null unless that was asked for; status "chance": no label beats chance, so
  the label is null
- exemplars: neuron, rank, positive, activation, contrast, contrast_activation, similarity; images by row of `images`.
  Ranked by relevance (manifest: ranking), activations are shares of relevance. Of crops (manifest: crop) also
  positive_box and contrast_box: left, top, right, bottom as shares of the image
- images: index, id, fingerprint, label; with groups also group, null for an image in none
- concepts: concept, source; in the order of the vectors' `texts`
- thumbnails: fingerprint, jpeg; for the images that exemplars name
- candidates, where concepts were proposed: concept, text, neuron, prompt, model, ...
- maps, classes and layout, where `contralens maps` added them: see `contralens.maps`; atlas, where `contralens atlas`
  added matches and edges between layers: see `contralens.data.layer_relations`

and vectors.safetensors, from which CSP's score at any gamma follows: with n the row of a labeled neuron (in the order
of `exemplars`), normalise(positive_mean[n] - gamma contrast_mean[n]) @ texts.T.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors import safe_open
from safetensors.numpy import save

from contralens.checks import as_path, nearest
from contralens.data.checked_reading import Checked
from contralens.data.folder_kinds import RUN
from contralens.data.replace_folder import reserved, restored
from contralens.data.seals import seal
from contralens.data.showing import Explorer, Neuron, Tabled
from contralens.data.table_folders import reading, rows_of, with_newer_columns
from contralens.data.trust import made_here
from contralens.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from contralens.data.views import View

FORMAT = 2
READABLE = (1, FORMAT)
"""Formats that can be read; format 1 has no digests."""
TABLES = ("neurons", "labels", "exemplars", "images", "concepts", "thumbnails")
COLUMNS = {
    "neurons": ("neuron", "name", "status"),
    "labels": ("neuron", "name", "scorer", "status", "label", "score", "concepts", "scores"),
    "exemplars": ("neuron", "rank", "positive", "activation", "contrast", "contrast_activation", "similarity"),
    "images": ("index", "id", "fingerprint", "label"),
    "concepts": ("concept", "source"),
    "thumbnails": ("fingerprint", "jpeg"),
}
"""Columns that readers of each table count on."""
CHECKSUMS: dict[str, Any] = {"write_page_checksum": True}
VECTORS = ("positive_mean", "contrast_mean", "texts")
LABELS = pa.schema([
    ("neuron", pa.int32()), ("name", pa.string()), ("scorer", pa.string()), ("status", pa.string()),
    ("label", pa.string()), ("score", pa.float64()), ("concepts", pa.list_(pa.string())),
    ("scores", pa.list_(pa.float64())), ("p", pa.float64()), ("fdr", pa.float64()),
    ("confidence", pa.float64()), ("reasons", pa.list_(pa.string())),
])  # fmt: skip
"""Columns of the table of labels."""


@dataclass(frozen=True, repr=False)
class Run(Tabled):
    """Labels of a layer's neurons with their evidence.

    >>> run = load("run")
    >>> len(run), run.scorers[-1], sorted(run.rows("csp")[0])[:6]
    (64, 'auto', ['concepts', 'confidence', 'fdr', 'label', 'name', 'neuron'])
    >>> pair = run.neuron("block3/5")["exemplars"][0]
    >>> pair["positive_id"].endswith(".png"), pair["activation"] > pair["contrast_activation"]
    (True, True)
    >>> run.thumbnail(pair["positive"])[:2]  # a JPEG
    b'\xff\xd8'
    >>> run.sources("striped"), run.proposals(5)  # nothing was proposed
    ([], [])
    >>> run.save("copy").path.name
    'copy'
    """

    manifest: dict[str, Any]
    neurons: pa.Table
    labels: pa.Table
    exemplars: pa.Table
    images: pa.Table
    concepts: pa.Table
    thumbnails: pa.Table
    vectors: dict[str, np.ndarray] = field(compare=False)
    """`positive_mean` and `contrast_mean` (labeled N,D), `texts` (C,D), float32."""
    candidates: pa.Table | None = None
    """Where proposed concepts came from (see `contralens.proposing.candidates`), if any were."""
    path: Path | None = field(default=None, compare=False)
    trusted: bool = field(default=True, compare=False)
    """Whether what the manifest names may be imported and opened: `label` made it here, or the user said so."""

    @property
    def scorers(self) -> list[str]:
        """Scorers of the run, the primary one last."""
        return list(self.manifest["scorers"])

    def rows(self, scorer: str | None = None) -> list[dict[str, Any]]:
        """Neuron, name, status, label, score, concepts and scores of each neuron, by default of the primary scorer.

        Raises:
            InputError: the run has no such scorer.
        """
        scorer = scorer or self.manifest["primary"]
        if scorer not in self.scorers:
            raise InputError(
                f"this run has no scorer {scorer!r}{nearest(scorer, self.scorers)} (it has: {', '.join(self.scorers)})"
            )
        return list(self.labels.filter(pc.field("scorer") == scorer).to_pylist())

    def neuron(self, neuron: int | str) -> Neuron:
        """All about one neuron, by index or name: its row of `neurons`, "labels" by scorer, "exemplars" by rank.

        Raises:
            InputError: the run has no such neuron.
        """
        at = self._index.get(str(neuron))
        if at is None:
            some = [str(n) for n in self.neurons["name"].to_pylist()]
            raise InputError(
                f"this run has no neuron {neuron!r}{nearest(str(neuron), some)}; it has {len(some)}, e.g. {some[0]!r}"
            )
        exemplars = rows_of(self.exemplars, at).to_pylist()
        ids = self.images["id"]
        for row in exemplars:
            for side in ("positive", "contrast"):
                row[f"{side}_id"] = ids[row[side]].as_py() if row[side] >= 0 else None
        labels = {row["scorer"]: row for row in rows_of(self.labels, at).to_pylist()}
        for row in labels.values():
            row["proposed"] = self.sources(row["label"])
        found = rows_of(self.neurons, at).to_pylist()[0]
        return Neuron({**found, "labels": labels, "proposals": self.proposals(at), "exemplars": exemplars}, self)

    def sources(self, concept: str | None) -> list[dict[str, Any]]:
        """Neurons, prompts and models that proposed a concept; empty if it is only in the vocabulary."""
        return list(self._proposed[0].get((concept or "").casefold(), ()))

    def proposals(self, neuron: int) -> list[dict[str, Any]]:
        """Concepts proposed for a neuron, in the order of the replies."""
        return list(self._proposed[1].get(neuron, ()))

    def thumbnail(self, image: int) -> bytes | None:
        """JPEG bytes of the image in that row of `images`, if it is an exemplar or a contrast."""
        at = self._pictures.get(self.images["fingerprint"][image].as_py())
        return None if at is None else bytes(self.thumbnails["jpeg"][at].as_py())

    def show(self, *neurons: int | str) -> View:
        """Neurons with their evidence: pictures in a notebook, text elsewhere; without a neuron, the run.

        >>> load("run").show("block3/5")
        block3/5: ...
        """
        from contralens.data.views import View, neuron_view, run_view

        shown = [neuron_view(self, neuron) for neuron in neurons] or [run_view(self)]
        return View([part for one in shown for part in one.parts], "\n\n".join(one.text for one in shown))

    def plot(self, *neurons: int | str, pairs: int = 6, dark: bool = False) -> Image:
        """A picture to share, as `contralens card` writes it: exemplars above contrasts, the label before and after.

        Args:
            neurons: indices or names, drawn below each other; by default the neuron with the clearest change by
                contrast.
            pairs: number of exemplars shown.
            dark: light text on a dark background.

        Raises:
            InputError: the run has no such neuron, or no labeled one.

        >>> load("run").plot("block3/5").size
        (1200, 630)
        """
        from contralens.data.card import card, stacked

        return stacked([card(self, neuron, pairs, dark) for neuron in neurons or (None,)])

    def explore(self, *, read_only: bool = False) -> Explorer:
        """Start the explorer on the saved run; a notebook shows its link, `.stop()` ends it.

        Args:
            read_only: load no encoder and write no notes.

        Raises:
            InputError: the run was never saved, or the explorer cannot start (`pip install 'contralens[explore]'`).

        >>> explorer = load("run").explore(read_only=True)
        >>> explorer.address.startswith("http://127.0.0.1:"), explorer.stop()
        (True, None)
        """
        if self.path is None:
            raise InputError("this run was never saved; save it first: run.save('FOLDER').explore()")
        return Explorer(self.path, read_only)

    def __getitem__(self, neuron: int | str) -> Neuron:
        return self.neuron(neuron)

    def _ipython_key_completions_(self) -> list[str]:
        return [str(name) for name in self.neurons["name"].to_pylist()]

    def _tables(self) -> dict[str, pa.Table]:
        """Those of the run's labels as finally judged; first, one row per neuron."""
        from contralens.data.final_labels import final

        tables = super(Run, final(self))._tables()
        first = tables["labels"].filter(pc.field("scorer") == self.manifest["primary"])
        summary = tables["neurons"].select(["neuron", "name"])
        first = first.take(pc.index_in(summary["neuron"], value_set=first["neuron"].combine_chunks()))
        for source in (first, tables["neurons"]):
            for name in source.column_names:
                if name not in (*summary.column_names, "histogram"):
                    summary = summary.append_column(name, source[name])
        return {"summary": summary, **tables}

    def __repr__(self) -> str:
        m, labeled = self.manifest, sum(row["label"] is not None for row in self.rows())
        where = "" if self.path is None else f"{self.path.as_posix()!r}, "
        of = f"{m['target']['name']} {m['target']['layer']}"
        return f"Run({where}{of}: {labeled:,} of {len(self):,} neurons labeled by {m['primary']})"

    def _repr_html_(self) -> str:
        from contralens.data.views import run_view

        return run_view(self)._repr_html_()

    def __len__(self) -> int:
        return int(self.neurons.num_rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows())

    @cached_property
    def _index(self) -> dict[str, int]:
        numbers = self.neurons["neuron"].to_pylist()
        names = dict(zip(self.neurons["name"].to_pylist(), numbers, strict=True))
        return {**names, **{str(n): n for n in numbers}}

    @cached_property
    def _proposed(self) -> tuple[dict[str, list[dict[str, Any]]], dict[int, list[dict[str, Any]]]]:
        """The rows of `candidates` by concept and by neuron."""
        by_concept: dict[str, list[dict[str, Any]]] = {}
        by_neuron: dict[int, list[dict[str, Any]]] = {}
        for row in [] if self.candidates is None else self.candidates.to_pylist():
            by_concept.setdefault(row["concept"].casefold(), []).append(row)
            by_neuron.setdefault(row["neuron"], []).append(row)
        return by_concept, by_neuron

    @cached_property
    def _pictures(self) -> dict[str, int]:
        return {f: i for i, f in enumerate(self.thumbnails["fingerprint"].to_pylist())}

    def save(self, path: str | Path, *, replace: bool = False) -> Run:
        """Write the run folder, atomically; replaces an older run and keeps an identical one.

        Args:
            path: the folder; a link is followed.
            replace: also replace an older run that was edited or contains an evaluation, an audit or maps.

        Raises:
            InputError: the folder contains files that contralens did not write, or results that would be lost.
            StoreError: it cannot be written.
        """
        path = Path(path)
        with reserved(path, RUN, replace=replace) as place, place.filled() as folder:
            for name in TABLES:
                size = 64 if name == "thumbnails" else 2**20
                pq.write_table(getattr(self, name), folder / f"{name}.parquet", row_group_size=size, **CHECKSUMS)
            if self.candidates is not None:
                pq.write_table(self.candidates, folder / "candidates.parquet", **CHECKSUMS)
            (folder / "vectors.safetensors").write_bytes(save({name: self.vectors[name] for name in VECTORS}))
            with (folder / "labels.json").open("w", encoding="utf-8") as f:
                f.writelines(_json_lines(self.labels))
            manifest = seal(folder, "manifest.json", {**self.manifest, "format": FORMAT})
        return dataclasses.replace(self, manifest=manifest, path=path)


def _json_lines(table: pa.Table, at_once: int = 4096) -> Iterator[str]:
    """The rows of a table as one JSON list, in pieces: as objects of Python they take many times the table's memory."""
    yield "["
    for start in range(0, len(table), at_once):
        rows = json.dumps(table.slice(start, at_once).to_pylist(), indent=1, ensure_ascii=False)
        yield ("," if start else "") + rows[1:-2]
    yield "\n]\n" if len(table) else "]\n"


def with_newer(labels: pa.Table) -> pa.Table:
    """A table of labels with the columns that an older contralens did not write, null."""
    return with_newer_columns(labels, LABELS, LABELS.names)


def load(path: str | Path, *, trust_code: bool = False) -> Run:
    """Read a run folder written by `contralens label` or `Run.save`.

    Args:
        path: the folder.
        trust_code: allow the run to name code to import and files to open, for example to load its network again. Runs
            made on this machine are trusted.

    Raises:
        InputError: no such folder.
        RunError: another format, or a file of it is missing or damaged.

    >>> run = load("run")
    >>> run.manifest["target"]["layer"], run.scorers[-1], run.neuron("block3/5")["exemplars"][0]["rank"]
    ('block3', 'auto', 0)
    """
    path = as_path("run", path)
    restored(path, RUN)
    with reading(path):
        held = Checked.of(path, "manifest.json", "Run", READABLE)
        manifest, tables = held.manifest, held.tables(COLUMNS)
        tables["labels"] = with_newer(tables["labels"])
        candidates = held.table("candidates") if held.has("candidates.parquet") else None
        with safe_open(held.file("vectors.safetensors"), "np") as f:
            vectors = {name: f.get_tensor(name) for name in VECTORS}
        if (path / "labels.json").exists():
            held.file("labels.json")  # for people: nothing reads it, and yet it is not to say anything else
    return Run(
        manifest, **tables, vectors=vectors, candidates=candidates, path=path, trusted=trust_code or made_here(manifest)
    )
