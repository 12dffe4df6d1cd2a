"""One neuron of the report: its label, what contrast changed, its exemplars above their contrasts, all scorers."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

from contralens.data.answers import answer, because, corrected, rates, several, sure_of, tested
from contralens.data.contrast_changes import Change, telling_pairs
from contralens.data.runs import Run
from contralens.report.concept_origin import is_proposed, origin
from contralens.specs import gamma_of

CONCEPTS = 5


class Pictures:
    """The thumbnails that a page shows, each once, by number."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._fingerprints = run.images["fingerprint"]
        self._numbers: dict[str, int | None] = {}
        self._jpegs: list[bytes] = []

    def place(self, image: int) -> int | None:
        """The number of an image's thumbnail, None where the run has none."""
        fingerprint = str(self._fingerprints[image].as_py())
        if fingerprint not in self._numbers:
            jpeg = self._run.thumbnail(image)
            self._numbers[fingerprint] = None if jpeg is None else len(self._jpegs)
            if jpeg is not None:
                self._jpegs.append(jpeg)
        return self._numbers[fingerprint]

    def encoded(self) -> list[str]:
        return [base64.b64encode(jpeg).decode() for jpeg in self._jpegs]


def card(
    run: Run, neuron: int, pairs: int, pictures: Pictures, without: str | None, contrasted: str | None
) -> dict[str, Any]:
    """One neuron, as pages/card.html shows it."""
    found = run.neuron(neuron)
    labels = found["labels"]
    primary = labels[run.manifest["primary"]]
    best = primary["label"]
    return {
        **{name: found[name] for name in ("name", "mean", "maximum", "firing_rate")},
        "neuron": neuron,
        "answer": answer(primary),
        "score": None if best is None else primary["score"],
        **sure_of(primary),
        "because": because(primary),
        "outcome": primary["verified"],
        "tested": tested(primary),
        "several": several(primary),
        "histogram": _histogram(found),
        "origin": _origin(run, neuron, best),
        "change": _change(labels[without], labels[contrasted]) if without and contrasted else None,
        "pairs": [pair(run, found, row, pictures) for row in found["exemplars"][:pairs] if row["positive"] >= 0],
        "scorers": [_scorer(run, labels[name], best, labels[name] is primary) for name in order(run)],
    }


def _origin(run: Run, neuron: int, label: str | None) -> list[str]:
    """Where the label came from, and what was proposed for the neuron."""
    lines = [came] if (came := origin(run, neuron, label)) else []
    if named := list(dict.fromkeys(row["concept"] for row in run.proposals(neuron))):
        lines.append(f"Proposed for this neuron: {', '.join(named)}")
    return lines


def _histogram(found: dict[str, Any]) -> dict[str, Any] | None:
    """Bars, in a field of 160 by 40, by the roots of the counts; where the mean stands."""
    counts = found.get("histogram") or []
    low, high, mean = found["minimum"], found["maximum"], found["mean"]
    if not counts or not all(map(math.isfinite, (low, high, mean))) or high <= low:
        return None
    highest, width = max(math.sqrt(c) for c in counts) or 1, 160 / len(counts)
    bars = [
        {
            "side": "contrast" if low + (i + 0.5) * (high - low) / len(counts) < mean else "positive",
            "x": i * width,
            "height": max(1.0, 38 * math.sqrt(count) / highest),
        }
        for i, count in enumerate(counts)
        if count
    ]
    return {"bars": bars, "width": width - 0.8, "mean": 160 * (mean - low) / (high - low), "low": low, "high": high}


def _change(without: dict[str, Any], contrasted: dict[str, Any]) -> dict[str, Any] | None:
    before, after = (row["best"] if row["label"] is not None else None for row in (without, contrasted))
    if before is None or after is None:
        return None
    first, second = (row["concepts"][:CONCEPTS] for row in (without, contrasted))
    return {
        "same": before == after,
        "before": before,
        "after": after,
        "without": _gamma(without["scorer"]),
        "contrasted": _gamma(contrasted["scorer"]),
        "top": CONCEPTS,
        "left": [c for c in first if c not in second],
        "entered": [c for c in second if c not in first],
    }


def _gamma(scorer: str) -> str:
    """A scorer by what its gamma is, since that is what the two beside each other differ in.

    >>> _gamma("csp"), _gamma("csp:gamma=0"), _gamma("semanticlens")
    ('csp, γ = 1', 'csp, γ = 0', 'semanticlens')
    """
    gamma = gamma_of(scorer)
    return scorer if gamma is None else f"csp, γ = {gamma:g}"


def change_card(run: Run, change: Change, pictures: Pictures, pairs: int) -> dict[str, Any]:
    """One of the changes that the page leads with: the labels, and the pair that shows most of those in the page."""
    found = run.neuron(change.neuron)
    row = found["labels"][run.manifest["primary"]]
    own = [one for one in found["exemplars"] if one["rank"] < pairs]
    best = next(iter(telling_pairs(own)), None)
    return {
        **{name: getattr(change, name) for name in ("neuron", "name", "before", "after")},
        "pair": None if best is None else pair(run, found, dict(best), pictures),
        **sure_of(row),
    }


def more_pairs(run: Run, neuron: int, first: int, last: int, pictures: Pictures) -> list[dict[str, Any]]:
    """The pairs of a neuron that the page shows when it is asked to."""
    found = run.neuron(neuron)
    return [pair(run, found, row, pictures) for row in found["exemplars"][first:last] if row["positive"] >= 0]


def pair(run: Run, found: dict[str, Any], row: dict[str, Any], pictures: Pictures) -> dict[str, Any]:
    """An exemplar above its contrast, as `pair` of pages/parts.html shows them."""
    return {
        "positive": _side(run, found, row, "positive", row["activation"], pictures),
        "contrast": _side(run, found, row, "contrast", row["contrast_activation"], pictures),
        "cosine": f"cos {row['similarity']:.2f}" if math.isfinite(row["similarity"]) else "no contrast",
    }


def _side(
    run: Run, found: dict[str, Any], row: dict[str, Any], side: str, value: float, pictures: Pictures
) -> dict[str, Any]:
    image = row[side]
    if image < 0:
        return {"side": side, "id": "", "none": "none below the mean"}
    if side == "contrast" and image == row["positive"]:
        return {"side": side, "id": "", "none": "itself: already below the mean"}
    return picture(found, side, row[f"{side}_id"], pictures.place(image), value, run.images["label"][image].as_py())


def picture(
    neuron: Mapping[str, Any], side: str, name: str, at: int | None, value: float, word: str | None = None
) -> dict[str, Any]:
    """A picture with its place on the page, and the activation as a share of the neuron's range."""
    low = min(0.0, neuron["minimum"])
    span = neuron["maximum"] - low
    share = round(100 * max(0, min(1, (value - low) / span))) if span > 0 and math.isfinite(value) else 0
    word = word or name.rpartition("/")[2]
    return {"side": side, "none": "", "id": name, "word": word, "at": at, "share": share, "value": value}


def _scorer(run: Run, row: dict[str, Any], best: str | None, primary: bool) -> dict[str, Any]:
    listed = [] if row["label"] is None else list(zip(row["concepts"], row["scores"], strict=True))[:CONCEPTS]
    return {
        "name": row["scorer"],
        "primary": primary,
        "answer": answer(row),
        "rates": corrected(row) or rates(row),
        "concepts": [
            {"name": name, "score": score, "best": name == best, "proposed": is_proposed(run, name)}
            for name, score in listed
        ],
    }


def order(run: Run) -> list[str]:
    """The scorers, the primary first."""
    return sorted(run.scorers, key=lambda scorer: scorer != run.manifest["primary"])
