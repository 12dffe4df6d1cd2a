"""What a layer's neurons do to the network's classes, where one linear layer turns their rows into class scores."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from contralens.checks import nearest
from contralens.errors import InputError
from contralens.models.hooked_layer import HookedTarget
from contralens.models.interventions import TOLERANCE, class_scores
from contralens.types import Target


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
    except InputError:  # it gives no class scores
        return None
    rows = target(batch)
    for module in target.module.modules():
        if isinstance(module, nn.Linear) and _makes(module, rows, scores):
            return module.weight.detach().float().cpu()
    return None


def named_head(target: HookedTarget, name: str, batch: Any) -> tuple[Tensor, bool]:
    """Weights (classes,N) of the linear layer called `name`, and whether it makes the output of the neurons alone.

    Raises:
        InputError: no such layer, no linear one, or one of other sizes.
    """
    found = dict(target.module.named_modules()).get(name)
    linear = [n for n, m in target.module.named_modules() if isinstance(m, nn.Linear)]
    if not isinstance(found, nn.Linear):
        raise InputError(
            f"{target.name} has no linear layer {name!r}{nearest(name, linear)} (it has: {', '.join(linear[-8:])})"
        )
    scores, rows = class_scores(target, batch), target(batch)
    if (found.in_features, found.out_features) != (rows.shape[1], scores.shape[1]):
        raise InputError(
            f"the linear layer {name} takes {found.in_features} numbers to {found.out_features}, but {target.layer} "
            f"has {rows.shape[1]} neurons and the network {scores.shape[1]} class scores"
        )
    return found.weight.detach().float().cpu(), _makes(found, rows, scores)


def _makes(linear: nn.Linear, rows: Tensor, scores: Tensor) -> bool:
    if (linear.in_features, linear.out_features) != (rows.shape[1], scores.shape[1]):
        return False
    with torch.no_grad():
        own = linear(rows.to(linear.weight.device, linear.weight.dtype)).float().cpu()
    spread = float(scores.std())
    return spread > 0 and float((own - scores).abs().max()) <= TOLERANCE * spread
