"""What separates two classes of images, neuron by neuron: the result of `contralens.contrast_classes`. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from contralens.errors import InputError

NEURONS = pa.schema([
    ("neuron", pa.int32()), ("name", pa.string()), ("label", pa.string()), ("auc", pa.float64()),
    ("low", pa.float64()), ("high", pa.float64()), ("p", pa.float64()), ("q", pa.float64()),
    ("separates", pa.bool_()), ("fires_for", pa.string()), ("mean_a", pa.float64()), ("mean_b", pa.float64()),
    ("concept", pa.string()), ("score", pa.float64()), ("pairs", pa.float64()),
    ("concepts", pa.list_(pa.string())), ("scores", pa.list_(pa.float64())), ("histogram_a", pa.list_(pa.int32())),
    ("histogram_b", pa.list_(pa.int32())), ("minimum", pa.float64()), ("maximum", pa.float64()),
])  # fmt: skip
EXEMPLARS = pa.schema([
    ("neuron", pa.int32()), ("rank", pa.int32()), ("positive", pa.int32()), ("activation", pa.float64()),
    ("contrast", pa.int32()), ("contrast_activation", pa.float64()), ("similarity", pa.float64()),
])  # fmt: skip
FILM = pa.schema([
    ("neuron", pa.int32()), ("quantile", pa.float64()), ("image", pa.int32()), ("activation", pa.float64()),
    ("side", pa.string()),
])  # fmt: skip


@dataclass(frozen=True, repr=False)
class ClassContrast:
    """Neurons that separate class A from class B of a run's images, and the difference in words.

    >>> import contralens
    >>> found = contralens.contrast_classes("run", "striped", "dotted", words=True)
    >>> strongest = found.rows()[0]
    >>> strongest["auc"] > 0.9 or strongest["auc"] < 0.1, len(found.film_of(strongest["neuron"]))
    (True, 9)
    >>> len(found.rows("striped")) + len(found.rows("dotted")) == len(found.rows())
    True
    >>> found.to_dict()["exemplars"][0]["positive_id"].endswith(".png"), found.pairs_of(strongest["neuron"])[0]["rank"]
    (True, 0)
    >>> repr(found)[:45]
    "<ClassContrast 'striped' (6 images) against '"
    """

    manifest: dict[str, Any]
    """Classes, images of each, where their labels came from, scorer, settings, words for the difference, notes."""
    neurons: pa.Table
    """One row per neuron, strongest first: auc with its interval, p, q, fires_for; concept is what it reacts to in
    words, null where it was not described; score, pairs (share of pairs that the concept separates), histograms."""
    exemplars: pa.Table
    """Of described neurons: strongest images of the class that it fires for, most similar cold ones of the other."""
    film: pa.Table
    """Of described neurons: images of both classes at quantiles of activation."""
    ids: list[str] = field(compare=False)
    """(I) names of the run's images; tables name images by row."""
    pictures: dict[int, bytes] = field(default_factory=dict, compare=False)
    """Row of an image -> JPEG, at most 160 px, for those that exemplars and film name."""

    def __repr__(self) -> str:
        m = self.manifest
        found = self.rows()
        more = f"; strongest {_words(found[0], m)}" if found else ""
        return (
            f"<ClassContrast {m['a']!r} ({m['images_a']:,} images) against {m['b']!r} ({m['images_b']:,} images): "
            f"{len(found)} of {m['tested']} neurons of {m['layer']} separate them{more}>"
        )

    def rows(self, fires_for: str | None = None) -> list[dict[str, Any]]:
        """Rows of neurons that separate the classes, strongest first: all, or those that fire for one class.

        Raises:
            InputError: no such class.
        """
        a, b = self.manifest["a"], self.manifest["b"]
        if fires_for not in (None, a, b):
            raise InputError(f"the classes are {a!r} and {b!r}; got {fires_for!r}")
        rows = self.neurons.filter(pc.field("separates")).to_pylist()
        return [row for row in rows if fires_for in (None, row["fires_for"])]

    def pairs_of(self, neuron: int) -> list[dict[str, Any]]:
        """Exemplars and contrasts of a described neuron, by rank."""
        return list(self.exemplars.filter(pc.field("neuron") == neuron).to_pylist())

    def film_of(self, neuron: int) -> list[dict[str, Any]]:
        """Images over the whole range of a described neuron's activation, from the lowest to the highest."""
        return list(self.film.filter(pc.field("neuron") == neuron).to_pylist())

    def to_dict(self) -> dict[str, Any]:
        """Everything except the pictures as plain values, for JSON."""
        tables = {name: getattr(self, name).to_pylist() for name in ("neurons", "exemplars", "film")}
        for row in tables["exemplars"]:
            row |= {f"{side}_id": self.ids[row[side]] if row[side] >= 0 else None for side in ("positive", "contrast")}
        for row in tables["film"]:
            row["id"] = self.ids[row["image"]]
        return {"manifest": self.manifest, **tables}


def _words(row: dict[str, Any], manifest: dict[str, Any]) -> str:
    said = f": {row['concept']}" if row["concept"] else ""
    return f"{row['name']} (AUC {row['auc']:.2f}, fires for {row['fires_for']!r}{said})"
