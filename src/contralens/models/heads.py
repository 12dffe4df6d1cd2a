"""What a layer's neurons do to the network's classes, where one linear layer turns their rows into class scores."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from contralens.checks import InputError
from contralens.models.scaling import class_scores
from contralens.models.targets import HookedTarget
from contralens.types import Target

CLOSE = 1e-3
"""Largest difference between the head's scores and the network's, as a share of the spread of the latter."""


def linear_head(target: Target, batch: Any) -> Tensor | None:
    """Weights (classes,N) of the linear layer by which the pooled neurons alone make the network's output.

    Not guessed from the network's code but tried out: some `nn.Linear` of it, given the target's rows (B,N) for the
    batch, must return what the whole network returns (B,classes). None where none does: later layers are not linear,
    the rows are pooled otherwise than the network pools them, or the target is of another kind.
    """
    if not isinstance(target, HookedTarget):
        return None
    try:
        scores = class_scores(target, batch)
    except InputError:
        return None
    rows = target(batch)
    spread = float(scores.std())
    for module in target.module.modules():
        if not isinstance(module, nn.Linear) or (module.in_features, module.out_features) != (
            rows.shape[1],
            scores.shape[1],
        ):
            continue
        with torch.no_grad():
            own = module(rows.to(module.weight.device, module.weight.dtype)).float().cpu()
        if spread > 0 and float((own - scores).abs().max()) <= CLOSE * spread:
            return module.weight.detach().float().cpu()
    return None
