"""Layer-wise relevance propagation by zennit: a copy of a network whose backward pass hands relevance down.

The rules are those that SemanticLens and CRP are run with, "epsilon plus flat": the epsilon rule in linear layers, the
positive contributions alone in convolutions (z+), equal shares in the first layer. Batch norms are merged into the
convolutions before them, and the sums of torchvision's residual blocks hand down shares (`zennit.torchvision`). What a
network computes outside modules goes down by its gradient. That is right for means, concatenations and reshapes and
wrong for sums and products (residual connections, gates, attention), so it is tried out: relevance must be conserved
from the class score to the pixels.
"""

from __future__ import annotations

import copy
from importlib.metadata import version
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from contralens.checks import blaming, require
from contralens.models import hooks
from contralens.models.hooked_layer import HookedTarget

NAME = "epsilon plus flat"
CONSERVED = 0.05
"""Relevance at the pixels may differ from the class score by this share of it."""
SAME = 0.01
"""The copy's class scores may differ from the network's by this share of the largest."""


def zennit_version() -> str:
    """Of the installed zennit, which decides what rules compute; raises `InputError` where there is none."""
    require("zennit", "relevance")
    return version("zennit")


_COPIES: WeakKeyDictionary[nn.Module, tuple[str, nn.Module | str]] = WeakKeyDictionary()
"""Of networks, with the digest that each had then; layers of one network share a copy."""


def lrp_copy(target: HookedTarget, batch: Any) -> nn.Module | str:
    """A copy of a target's network in whose backward pass gradients are relevance, or why there is none.

    Args:
        target: its network is left as it is.
        batch: a preprocessed batch (B,3,H,W) to try it out on.

    Raises:
        InputError: zennit is not installed, or the network cannot be copied.
    """
    zennit_version()
    digest, made = _COPIES.get(target.module, ("", ""))
    if digest != target.network or not digest:
        made = _copied(target.module, batch, target.name)
        _COPIES[target.module] = (target.network, made)
    return made


def _copied(network: nn.Module, batch: Any, name: str) -> nn.Module | str:
    from zennit.composites import EpsilonPlusFlat
    from zennit.torchvision import ResNetCanonizer

    if not isinstance(batch, Tensor):
        return "it takes more than pixels"
    with blaming(f"{name}: the network cannot be copied, which relevance propagation needs"):
        made = copy.deepcopy(network)
    made = made.float().eval().requires_grad_(False)
    try:
        why = _problem(network, made, batch)
    except Exception:  # hooks of zennit do not fit modules such as attention
        why = "it holds layers without a rule"
    if why is not None:
        return why
    EpsilonPlusFlat(canonizers=[ResNetCanonizer()]).register(made)
    return made.requires_grad_(False)  # biases that merging has made are new


def _problem(network: nn.Module, made: nn.Module, batch: Tensor) -> str | None:
    """Why relevance does not pass through a copy of a network; None where it is conserved."""
    from zennit.composites import LayerMapComposite
    from zennit.layer import Sum
    from zennit.rules import Pass
    from zennit.torchvision import ResNetCanonizer
    from zennit.types import Activation, AvgPool, Linear

    with hooks.still(network):
        wanted = hooks.forward(network, batch)
    shares = _magnitudes()
    rules = LayerMapComposite(
        [(Activation, Pass()), (Sum, shares), (AvgPool, shares), (Linear, shares)], canonizers=[ResNetCanonizer()]
    )
    pixels = hooks.moved(batch, hooks.device_of(made)).float().clone().requires_grad_(True)
    with rules.context(made), hooks.still(made), torch.enable_grad():
        scores = made(pixels)
        if not bool((scores - wanted).abs().max() <= SAME * wanted.abs().max()):
            return "merging its batch norms changes what it computes"
        best = scores.detach().argmax(1, keepdim=True)
        start = torch.zeros_like(scores).scatter_(1, best, scores.detach().gather(1, best))
        (found,) = torch.autograd.grad(scores, pixels, start)
    share = found.flatten(1).sum(1) / start.sum(1)
    if not bool(((share - 1).abs() <= CONSERVED).all()):
        return (
            f"relevance is not conserved: {float(share.mean()):.3g} of the class score reaches the pixels (sums or "
            "products outside modules, or layers without a rule)"
        )
    return None


def _magnitudes() -> Any:
    """Shares by |weight| |input|, without bias: a rule that loses nothing, whatever the weights and the image are."""
    from zennit.core import BasicHook, stabilize

    def above_zero(x: Tensor) -> Tensor:
        return x.abs() + 1e-3 * x.abs().mean() + 1e-9

    return BasicHook(
        input_modifiers=[above_zero],
        param_modifiers=[lambda p, name: torch.zeros_like(p) if name == "bias" else above_zero(p)],
        output_modifiers=[lambda x: x],
        gradient_mapper=lambda above, outputs: above / stabilize(outputs[0], 1e-20),
        reducer=lambda inputs, slopes: inputs[0] * slopes[0],
    )
