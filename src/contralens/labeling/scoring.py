"""The scoring of `label`: each scorer's best concepts, and how likely the best one is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from contralens.collecting.streaming import RecomputedActivations
from contralens.labeling.crops import Crops
from contralens.math.activation_sources import ActivationSource
from contralens.math.confidence import Weighed
from contralens.math.ranking import NONE, Best, best
from contralens.math.scorer_panel import PANEL, Ballot, ballot_of
from contralens.math.scoring import score_blocks, wants_activations
from contralens.types import AUTO, Exemplars, Progress, silent


@dataclass(frozen=True)
class Ranked:
    """What the scorers that were asked for say."""

    best: Mapping[str, Best]
    """By scorer, in the order in which they were asked for."""
    weighed: Weighed | None
    """How likely labels are right; None where that was not asked for, or activations are not stored."""


def ranked(
    specs: Sequence[str],
    exemplars: Exemplars,
    embeddings: Tensor,
    texts: Tensor,
    activations: ActivationSource,
    *,
    top: int,
    allowed: Tensor | None = None,
    confidence: bool = True,
    level: Sequence[Weighed] = (),
    crops: Crops | None = None,
    decoder: Tensor | None = None,
    progress: Progress = silent,
) -> Ranked:
    """The `top` best concepts of each neuron by each scorer; with confidence, the panel's scorers are run as well.

    Args:
        specs: scorers with options, and "auto".
        allowed: (N,C), whether a neuron may have a concept.
        confidence: say how likely labels are right, where activations are stored and there is a neuron at all.
        level: neurons whose truth is known, which set the level of confidence.
        decoder: directions of latents in the encoder's space, for scorers that look at them.
        crops: what scorers compare in place of the whole pictures, but for those that look at all images.
    """
    asked = [spec for spec in specs if spec != AUTO]
    judged = confidence and len(exemplars) > 0 and not isinstance(activations, RecomputedActivations)
    every = list(dict.fromkeys([*asked, *(PANEL if judged else ())]))
    found: dict[str, Best] = {}
    panel: dict[str, Ballot] = {}
    for done, spec in enumerate(every):
        progress("scoring", done, len(every))
        seen: tuple[Exemplars, Tensor] = (exemplars, embeddings)
        if crops is not None and not wants_activations(spec):
            seen = (crops.exemplars, crops.embeddings)
        scores = score_blocks(spec, *seen, texts, activations, decoder)
        if allowed is not None:
            scores = ((at, some.masked_fill(~allowed[:, at].to(some.device), torch.nan)) for at, some in scores)
        if judged and spec in PANEL:
            panel[spec] = ballot_of(scores, top)
            found[spec] = panel[spec].best(top)
        else:
            found[spec] = best(scores, top)
    progress("scoring", len(every), len(every))
    weighed = None
    if judged:
        labels = [found[spec].labels for spec in asked]
        in_order = {spec: panel[spec] for spec in PANEL}
        weighed = Weighed.of(in_order, labels, exemplars, activations, embeddings, texts)
        weighed = weighed.calibrated({}, level)
    found[AUTO] = weighed.ranked(top) if weighed else NONE
    return Ranked({spec: found[spec] for spec in specs}, weighed)
