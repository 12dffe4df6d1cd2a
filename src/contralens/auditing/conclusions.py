"""What follows from an audit's numbers: one line, and explanations where verdicts and pruning say different things."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from contralens.auditing.concepts import ConceptList
from contralens.checks import counted, few

Row = Mapping[str, Any]


def conclusion(counts: Mapping[str, int], pruning: Sequence[Row], labeled: bool, mode: str = "hard") -> str:
    """One line: how many neurons look spurious, and whether to prune them.

    Args:
        counts: verdict -> neurons.
        pruning: rows of pruning.parquet.
        labeled: whether pruning could be measured.
        mode: of the mask.

    >>> row = {"group": "all", "mode": "hard", "difference": -0.15, "low": -0.19, "high": -0.11}
    >>> conclusion({"spurious": 29, "expected": 3}, [row], labeled=True)
    '29 neurons look spurious; pruning them costs 15.0 points of accuracy (11.0 to 19.0): do not prune.'
    """
    n = counts.get("spurious", 0)
    if not n:
        judged = counts.get("expected", 0)
        told = f"{counted(judged, 'neuron')} for an expected concept"
        told += "".join(f", {counts[v]:,} {v}" for v in ("undecided", "unexplained") if counts.get(v))
        return f"No neuron looks spurious ({told}): nothing to prune."
    start = f"{counted(n, 'neuron')} look{'s' if n == 1 else ''} spurious"
    done = "pruning" if mode == "hard" else "attenuating"
    them = "it" if n == 1 else "them"
    every = _of(pruning, "all", mode)
    if every is None:
        why = "was not measured" if labeled else "was not measured: give labeled images"
        return f"{start}; the effect of {done} {them} on accuracy {why}."
    low, high = 100 * every["low"], 100 * every["high"]
    change = 100 * every["difference"]
    if high < 0:
        return (
            f"{start}; {done} {them} costs {-change:.1f} points of accuracy ({-high:.1f} to {-low:.1f}): do not prune."
        )
    if not low > 0:
        return (
            f"{start}; {done} {them} changes accuracy by {change:+.1f} points ({low:+.1f} to {high:+.1f}), not "
            "significantly: no reason to prune."
        )
    told = f"{start}; {done} {them} raises accuracy by {change:.1f} points ({low:.1f} to {high:.1f})"
    random = _of(pruning, "all", "random")
    if random is not None and random["high"] >= every["low"]:
        return (
            f"{told}, but random neurons may have the same effect ({100 * random['difference']:+.1f}): no reason to "
            "prune these."
        )
    return f"{told}: pruning helps on these images."


def explanation(
    counts: Mapping[str, int], pruning: Sequence[Row], mode: str, output: bool, missing: Sequence[str], classes: int,
    head: Mapping[str, Any] | None,
) -> list[str]:  # fmt: skip
    """Why a verdict and an effect disagree, and what else the verdicts do not say by themselves."""
    out = []
    if output:
        out.append(
            "The audited layer is the classifier's output: a neuron is a class score. A verdict here describes the "
            "images of that class as the encoder sees them, not what the classifier uses; pruning removes a class. "
            "Audit a hidden layer to find the features behind the classes."
        )
    if missing:
        out.append(
            f"{len(missing)} of {classes} classes are missing from the list ({few(missing, 8)}): a neuron that "
            "represents such a class gets the nearest concept of the list, or none."
        )
    every = _of(pruning, "all", mode)
    if counts.get("spurious") and every is not None:
        out += _disagreement(every, pruning, mode)
    if head:
        row = head["rows"][0]
        out.append(_of_head(row, head))
    return out


def _disagreement(every: Row, pruning: Sequence[Row], mode: str) -> list[str]:
    """Where accuracy over all images does not follow from "spurious"."""
    out = []
    if every["high"] < 0:
        out.append(
            "A spurious verdict describes what a neuron responds to, not its effect on accuracy. If the spurious "
            "concept accompanies the class in these images as in training, it is a useful cue, and such neurons often "
            "carry part of the class as well. Measure on images where the two are not tied, and try a new head "
            "(--new-head)."
        )
    elif not every["low"] > 0:
        out.append(
            "Pruning the spurious neurons changes nothing on these images: the class scores barely depend on them, "
            "other neurons carry the same information, or gains and losses cancel out."
        )
    groups = [r for r in pruning if r["mode"] == mode and r["group"] not in ("all", "balanced")]
    gain = [r for r in groups if r["low"] > 0]
    lose = [r for r in groups if r["high"] < 0]
    if gain and not every["low"] > 0:
        out.append(f"Accuracy still rises on some images: {_named(sorted(gain, key=lambda r: -r['difference']))}.")
    if lose and not every["high"] < 0:
        out.append(f"Accuracy falls on some images: {_named(sorted(lose, key=lambda r: r['difference']))}.")
    return out


def _of_head(row: Row, head: Mapping[str, Any]) -> str:
    told = (
        f"A new head without the {counted(head['left_out'], 'spurious neuron')} is right on {row['after']:.1%} of "
        f"{row['images']} held-out images, the network on {row['before']:.1%}, pruned {row['pruned']:.1%}; "
        f"change {100 * row['difference']:+.1f} points ({100 * row['low']:+.1f} to {100 * row['high']:+.1f})"
    )
    gain = f"{100 * row['gain_difference']:+.1f} ({100 * row['gain_low']:+.1f} to {100 * row['gain_high']:+.1f})"
    if row["gain_low"] > 0 or row["gain_high"] < 0:
        return f"{told}; compared with a new head on all neurons {gain}."
    return (
        f"{told}. A new head on all neurons does as well within noise ({gain}): refitting helps, not removing neurons."
    )


def missing_classes(classes: Sequence[str], listed: ConceptList) -> list[str]:
    """Classes that no wording of the list names.

    >>> from contralens.auditing.concepts import concept_list
    >>> listed = concept_list({"expected": [{"name": "nevus", "synonyms": ["a mole"]}], "spurious": ["ruler"]})
    >>> missing_classes(["Nevus", "melanoma", "basal_cell"], listed)
    ['melanoma', 'basal_cell']
    """
    known = {_plain(text) for c in listed for text in (*c.wordings, *c.prompts)}
    return [name for name in classes if _plain(name) not in known]


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _of(rows: Sequence[Row], group: str, mode: str) -> Row | None:
    return next((r for r in rows if r["group"] == group and r["mode"] == mode), None)


def _named(rows: Sequence[Row], most: int = 4) -> str:
    shown = ", ".join(f"{r['group']} {100 * r['difference']:+.1f}" for r in rows[:most])
    return shown + (f" and {len(rows) - most} more groups" if len(rows) > most else "")
