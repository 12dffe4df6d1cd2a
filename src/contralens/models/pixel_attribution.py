"""Where on the pixels a neuron's activation comes from, handed down through the network."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from contralens.errors import InputError
from contralens.models import hooks
from contralens.models.hooked_layer import HookedTarget, network_target
from contralens.models.interventions import changed
from contralens.models.pooling import pool
from contralens.models.relevance import RelevanceTarget, method_of
from contralens.types import Target

AT_ONCE = 64
"""Pairs of image and neuron that are handed down together."""


@dataclass(frozen=True)
class PixelHeat:
    """Where on the pixels neurons' activations come from; made by `pixel_heat`."""

    layer: HookedTarget
    network: nn.Module = field(repr=False)
    method: str
    notes: tuple[str, ...] = ()

    def __call__(self, batch: Any, wanted: Sequence[Sequence[int]]) -> list[Tensor]:
        """For each image of a batch, how much of its neurons `wanted[i]` comes from each pixel, (len(wanted[i]),H,W).

        The neuron's pooled activation is handed down to the pixels and summed over colours: by LRP, conditional on the
        one neuron as in CRP, negative parts 0; or gradient times pixel, in magnitude.

        Raises:
            InputError: images are more than pixels.
        """
        if not isinstance(batch, Tensor) or batch.dim() != 4:
            raise InputError(
                f"{self.layer.name} takes more than pixels, so relevance cannot be propagated to them: use crop=map"
            )
        pixels = hooks.moved(batch, hooks.device_of(self.network)).float()
        image = torch.tensor([i for i, own in enumerate(wanted) for _ in own], dtype=torch.int64)
        neuron = torch.tensor([n for own in wanted for n in own], dtype=torch.int64)
        found = [
            self._down(pixels[i.to(pixels.device)].clone().requires_grad_(True), n.to(pixels.device))
            for i, n in zip(_parts(image), _parts(neuron), strict=True)
        ]
        made, at = torch.cat(found), 0
        out = []
        for own in wanted:
            out.append(made[at : at + len(own)])
            at += len(own)
        return out

    def _down(self, rows: Tensor, neurons: Tensor) -> Tensor:
        kept: list[Tensor] = []

        def keep(x: Tensor) -> Tensor:
            kept.append(x)
            raise hooks.Enough

        with hooks.still(self.network), torch.enable_grad():
            with changed(self.network, self.layer.layer, keep), suppress(hooks.Enough):
                hooks.forward(self.network, rows)
            leaf = kept[0].detach().requires_grad_(True)
            pooled = pool(self.layer.pooling, leaf, self.layer.tokens)
            own = pooled.gather(1, neurons[:, None])
            (start,) = torch.autograd.grad(own.sum(), leaf)
            if self.method == "lrp":
                start = (start * leaf.detach()).clamp_min(0)
            (down,) = torch.autograd.grad(kept[0], rows, start)
        made = down.sum(1).clamp_min(0) if self.method == "lrp" else (down * rows.detach()).abs().sum(1)
        return made.float().cpu()


def _parts(pairs: Tensor) -> list[Tensor]:
    return [pairs[start : start + AT_ONCE] for start in range(0, len(pairs), AT_ONCE)]


def pixel_heat(target: Target, method: str = "auto") -> PixelHeat:
    """Where on the pixels a target's neurons fire, by the method that ranks its images where that is by relevance.

    Raises:
        InputError: no layer of a network that contralens runs; a method that the network does not take.
    """
    own = network_target(target)
    if not isinstance(own, HookedTarget):
        raise InputError(
            f"{own.name}: relevance cannot locate where it fires: it needs a layer of a network: use crop=map"
        )
    if isinstance(target, RelevanceTarget) and method in ("auto", target.ranking.method):
        return PixelHeat(own, target.network, target.ranking.method)
    notes: list[str] = []
    batch = hooks.probe_batch(own.preprocess, own.name)
    method, network = method_of(own, own, method, batch, notes)
    return PixelHeat(own, network, method, tuple(notes))
