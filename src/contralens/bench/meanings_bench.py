"""The benchmark of meanings: planted neurons of a rendered world with one to four meanings, which the search must find.

Of each true number of meanings, for each scorer:

- right_count: as many meanings are found as there are.
- fewer, more: fewer or more than there are.
- named: share of the true meanings that a label names.
- true_labels: share of the labels that name a true meaning.
- one_label: share of the true meanings that the scorer's single label of the whole neuron names, for comparison.
- supported: share of the labels with a confidence of .9 or more; supported_true: of these, how many name a true one.

Meanings are drawn among the levels of shape, colour, pattern and background; labels are out of all 38 levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from contralens.bench.cases import embedded, spoken
from contralens.bench.versions import version
from contralens.bench.world_images import probe_scenes
from contralens.data.table_folders import plain
from contralens.math.exemplars import find_exemplars
from contralens.math.intervals import mean_interval
from contralens.math.meaning_labels import label_meanings
from contralens.math.meanings import meanings
from contralens.math.planted_neurons import plant_meanings
from contralens.math.ranking import best
from contralens.math.scoring import parse_scorer, score_blocks
from contralens.settings.bench import MeaningsBenchmark
from contralens.settings.record import job
from contralens.types import SUPPORTED
from contralens.world.scenes import Scenes
from contralens.world.targets import World
from contralens.world.truth import LEVELS

MEASURES = ("right_count", "fewer", "more", "named", "true_labels", "one_label", "supported", "supported_true")
FACTORS_USED = ("shape", "colour", "pattern", "background")
TRUE_COUNTS = (1, 2, 3, 4)


@dataclass(frozen=True)
class MeaningsBench:
    """What was found of each planted neuron."""

    settings: dict[str, Any]
    outcomes: dict[str, dict[str, NDArray[np.float64]]]
    """Scorer -> "meanings" (true number), "found" and each measure, a value per neuron; NaN where it does not arise."""

    def rows(self) -> list[dict[str, Any]]:
        """Scorer, meanings (true number), measure: mean, low, high, count; 95 % bootstrap over neurons."""
        return [
            {"scorer": scorer, "meanings": count, "measure": measure,
             **asdict(mean_interval(own[measure][own["meanings"] == count]))}
            for scorer, own in self.outcomes.items() for count in TRUE_COUNTS for measure in MEASURES
        ]  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Settings and rows as plain values, for JSON."""
        found: dict[str, Any] = plain({"settings": self.settings, "rows": self.rows()})
        return found


@job(MeaningsBenchmark)
def meanings_bench(settings: MeaningsBenchmark) -> MeaningsBench:
    """Judge the search for meanings in the rendered worlds; about .2 s of one core a neuron.

    >>> found = meanings_bench(["csp"], worlds=[5], seeds=[5], neurons=2, images=300)
    >>> [row["count"] for row in found.rows() if row["measure"] == "right_count"]
    [2, 2, 2, 2]
    """
    scorers, neurons, images, k = settings.scorers, settings.neurons, settings.images, settings.k
    for spec in scorers:
        parse_scorer(spec)
    chosen = [version(1).world(w) for w in settings.worlds]
    parts: dict[str, list[dict[str, NDArray[np.float64]]]] = {}
    todo = [(w, d, s) for w in chosen for d in settings.dials for s in settings.seeds]
    for done, (of, dial, seed) in enumerate(todo):
        settings.progress("worlds", done, len(todo))
        scenes = probe_scenes(of, images, seed, dial)
        for scorer, own in _found(of, scenes, seed, scorers, neurons, k).items():
            parts.setdefault(scorer, []).append(own)
    settings.progress("worlds", len(todo), len(todo))
    told = {
        "worlds": [w.index for w in chosen], "dials": list(settings.dials), "seeds": list(settings.seeds),
        "neurons": neurons, "images": images, "k": k, "scorers": list(scorers),
    }  # fmt: skip
    joined = {s: {m: np.concatenate([p[m] for p in own]) for m in own[0]} for s, own in parts.items()}
    return MeaningsBench(told, joined)


def shown(scenes: Scenes) -> torch.Tensor:
    """(I,38) bool: which levels each scene has, columns as in `LEVELS`."""
    return torch.from_numpy(np.stack([scenes.of(f) == number for f, number in LEVELS], 1))


def _found(
    of: World, scenes: Scenes, seed: int, scorers: Sequence[str], neurons: int, k: int
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """What was found on one probe set, by scorer."""
    e, texts = embedded(of, scenes), spoken()[1]["single"]
    usable = torch.tensor([factor in FACTORS_USED for factor, _ in LEVELS])
    wanted = [count for count in TRUE_COUNTS for _ in range(neurons)]
    a, truth = plant_meanings(shown(scenes) & usable, wanted, 1000 * seed + of.index)
    exemplars = find_exemplars(a, e, k=k)
    found = meanings(a, e, seed=seed)
    named = label_meanings(found, exemplars, a, e, texts, scorers, k=k)
    single = {s: best(score_blocks(s, exemplars, e, texts, a)).labels.tolist() for s in scorers}
    out = {}
    for scorer in scorers:
        rows = []
        for n, true in enumerate(truth):
            alone, several = single[scorer][n], named[scorer].get(n)
            labels = [alone] if several is None else [m.concept for m in several]
            sure = [] if several is None else [m.concept for m in several if m.confidence >= SUPPORTED]
            rows.append(_outcome(true, labels, sure, alone, several is not None))
        out[scorer] = {m: np.array([row[m] for row in rows], np.float64) for m in rows[0]}
    return out


def _outcome(true: set[int], labels: list[int], sure: list[int], alone: int, split: bool) -> dict[str, float]:
    count, hits = len(labels), len(true & set(labels))
    return {
        "meanings": len(true), "found": count,
        "right_count": count == len(true), "fewer": count < len(true), "more": count > len(true),
        "named": hits / len(true), "true_labels": hits / count, "one_label": float(alone in true) / len(true),
        "supported": len(sure) / count if split else np.nan,
        "supported_true": len(true & set(sure)) / len(sure) if sure else np.nan,
    }  # fmt: skip
