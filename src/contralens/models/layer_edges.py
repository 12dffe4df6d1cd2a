"""What a layer's neurons do to those of a later layer: by weights where that is linear, or by switching them off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from contralens.models import hooks
from contralens.models.hooked_layer import HookedTarget
from contralens.models.interventions import along, changed, neurons_last, scaled
from contralens.models.layer_outputs import images_first, module_of, tensor_of

SAME = 1e-3
"""How much slopes may differ from image to image, as a share of the largest, to count as linear."""


def linear_weights(one: HookedTarget, other: HookedTarget, batch: Any) -> Tensor | None:
    """(M,N): what each of the M neurons of `other` gains when a neuron of `one` rises by 1 at all places and tokens.

    None where that is not the same for the images of the batch: `other` is not linear in `one`.

    >>> from torch import manual_seed, nn
    >>> from contralens import targets
    >>> _ = manual_seed(1)
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2), nn.ReLU())
    >>> conv, linear, relu = targets(net, ["0", "3", "4"], preprocess="resize=8x8,mean=half")
    >>> torch.allclose(linear_weights(conv, linear, torch.randn(2, 3, 8, 8)), net[3].weight, atol=1e-5)
    True
    >>> linear_weights(conv, relu, 9 * torch.randn(4, 3, 8, 8)) is None
    True
    """
    leaf: list[Tensor] = []
    last = neurons_last(one)

    def change(x: Tensor) -> Tensor:
        torch.set_grad_enabled(True)  # from here on; `still` puts it back
        leaf.append(torch.zeros(len(x), one.width, dtype=x.dtype, device=x.device, requires_grad=True))
        return x + along(leaf[0], x, last)

    found: list[Tensor] = []

    def listen(module: Any, inputs: Any, output: Any) -> None:
        tensor = images_first(other.module, tensor_of(output, other.layer), batch)
        if tensor is not None:
            found.append(other.tap.pick(tensor, None))
            raise hooks.Enough

    with hooks.still(one.module), changed(one.module, one.layer, change):
        handle = module_of(other.module, other.layer).register_forward_hook(listen)
        try:
            hooks.forward(one.module, batch)
        except hooks.Enough:
            pass
        finally:
            handle.remove()
        if not found or not found[0].requires_grad:
            return None
        slopes = [torch.autograd.grad(found[0][:, m].sum(), leaf[0], retain_graph=True)[0] for m in range(other.width)]
    every = torch.stack(slopes, 1).float().cpu()  # (B,M,N)
    spread = (every - every[:1]).abs().max()
    return every[0] if bool(spread <= SAME * every.abs().max().clamp_min(1e-12)) else None


@torch.no_grad()
def ablated(one: HookedTarget, other: HookedTarget, batch: Any, neuron: int, switched: Sequence[int]) -> Tensor:
    """What a neuron of `other` loses on average over a batch when each of some neurons of `one` is switched off.

    >>> from torch import manual_seed, nn
    >>> from contralens import targets
    >>> _ = manual_seed(1)
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> conv, linear = targets(net, ["0", "3"], preprocess="resize=8x8,mean=half")
    >>> batch = torch.randn(2, 3, 8, 8)
    >>> expected = conv(batch).mean(0) * net[3].weight[1]
    >>> torch.allclose(ablated(conv, linear, batch, 1, [0, 3]), expected[[0, 3]], atol=1e-5)
    True
    """
    whole = other(batch)[:, neuron]
    lost = []
    for source in switched:
        with scaled(one, source, 0.0):
            lost.append((whole - other(batch)[:, neuron]).mean())
    return torch.stack(lost)
