"""Which neuron of one run is which of another, and how their labels differ: what `contralens.match` finds. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from contralens.checks import nearest
from contralens.errors import InputError

STATUSES = ("kept", "renamed", "unlabeled", "split", "merged", "new", "gone")
ABOUT = {
    "kept": "the same neuron with the same label",
    "renamed": "the same neuron with another label",
    "unlabeled": "the same neuron, without a label in one of the runs or in both",
    "split": "a further neuron of the other run whose best match is already taken",
    "merged": "a further neuron of the one run whose best match is already taken",
    "new": "a neuron of the other run without a match in the one",
    "gone": "a neuron of the one run without a match in the other",
}
PAIRS = pa.schema([
    ("status", pa.string()), ("one", pa.int32()), ("one_name", pa.string()), ("one_label", pa.string()),
    ("other", pa.int32()), ("other_name", pa.string()), ("other_label", pa.string()), ("correlation", pa.float64()),
])  # fmt: skip
BEST = pa.schema([
    ("run", pa.string()), ("neuron", pa.int32()), ("name", pa.string()), ("best", pa.int32()),
    ("best_name", pa.string()), ("correlation", pa.float64()), ("matches", pa.bool_()),
])  # fmt: skip


@dataclass(frozen=True, repr=False)
class Matching:
    """Neurons of two runs, paired.

    >>> import contralens
    >>> found = contralens.match("run", "run", null="permuted", fakes=100)
    >>> found
    <Matching run and run by activations on 65 images: 64 neurons of block3 matched (64 kept), threshold .38>
    >>> found.partners[7]
    7
    >>> found.counts["kept"], found.partner_of(5), len(found.rows("gone")), found.to_dict()["manifest"]["by"]
    (64, 5, 0, 'activations')
    """

    manifest: dict[str, Any]
    """Both runs, what they were compared by, images, threshold and null neurons, settings, notes; labels_new and
    labels_gone: labels that only one of the runs has."""
    pairs: pa.Table
    """One row per pair (kept, renamed, unlabeled) and per neuron of either run that is in none; split, merged, new and
    gone rows name the best match with its correlation, too, where it is above the threshold."""
    best: pa.Table
    """Many to one: of each neuron of either run (`run` is "one" or "other") the best match."""

    @property
    def counts(self) -> dict[str, int]:
        """Status -> rows."""
        found = self.pairs["status"].to_pylist()
        return {status: found.count(status) for status in STATUSES}

    def rows(self, status: str | None = None) -> list[dict[str, Any]]:
        """Rows of `pairs`, all or of one status.

        Raises:
            InputError: no such status.
        """
        if status is not None and status not in STATUSES:
            raise InputError(f"a status is one of {', '.join(STATUSES)}; got {status!r}{nearest(status, STATUSES)}")
        return [row for row in self.pairs.to_pylist() if status in (None, row["status"])]

    def partner_of(self, neuron: int) -> int | None:
        """The neuron of the other run matched to this neuron of the first; None without a match."""
        return self.partners.get(neuron)

    @property
    def partners(self) -> dict[int, int]:
        """One to one: neuron of the first run -> neuron of the other."""
        own = self.pairs.filter(pc.field("status").isin(["kept", "renamed", "unlabeled"]))
        return dict(zip(own["one"].to_pylist(), own["other"].to_pylist(), strict=True))

    def __repr__(self) -> str:
        m, counts = self.manifest, self.counts
        said = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
        layers = " and ".join(dict.fromkeys((m["one"]["layer"], m["other"]["layer"])))
        where = f"{m['by']} on {m['images']:,} images" if m["by"] == "activations" else "exemplars"
        threshold = f"{m['threshold']:.2f}".removeprefix("0")
        return (
            f"<Matching {m['one']['name']} and {m['other']['name']} by {where}: {len(self.partners)} neurons of "
            f"{layers} matched ({said}), threshold {threshold}>"
        )

    def to_dict(self) -> dict[str, Any]:
        """The matching as plain values, for JSON."""
        return {
            "manifest": self.manifest, "counts": self.counts, "pairs": self.pairs.to_pylist(),
            "best": self.best.to_pylist(),
        }  # fmt: skip
