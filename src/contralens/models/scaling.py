"""Interventions: the network's class scores with one neuron of the layer scaled or switched off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from contralens.checks import InputError
from contralens.models import hooks
from contralens.models.pooling import POOLINGS
from contralens.models.targets import HookedTarget


@contextmanager
def scaled(target: HookedTarget, neuron: int, factor: float) -> Iterator[None]:
    """Within the block, what the layer gives for `neuron` is multiplied by `factor`, at every place or token."""
    kind = POOLINGS[target.pooling].kind
    last = kind != "map" or target.pooling.endswith("_last")

    def hook(module: Any, inputs: Any, output: Any) -> Any:
        tensor = hooks.first_tensor(output)
        if tensor is None:
            raise InputError(f"{target.layer} gave no tensor, so its neuron {neuron} cannot be scaled")
        changed = tensor.clone()
        channel = changed[..., neuron] if last else changed[:, neuron]
        channel *= factor
        return _replaced(output, tensor, changed)

    handle = hooks.named(target.module)[target.layer].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _replaced(output: Any, old: Tensor, new: Tensor) -> Any:
    """`output` with one of its tensors exchanged."""
    if output is old:
        return new
    if isinstance(output, tuple):
        parts = [_replaced(part, old, new) for part in output]
        return type(output)(*parts) if hasattr(output, "_fields") else tuple(parts)
    if isinstance(output, list):
        return [_replaced(part, old, new) for part in output]
    if isinstance(output, dict):
        for key, part in list(output.items()):
            output[key] = _replaced(part, old, new)
    return output


def class_scores(target: HookedTarget, batch: Any) -> Tensor:
    """The network's own output for a batch, (B,classes) float32 on the CPU, before any softmax.

    Raises:
        InputError: the output is no row of scores per image.
    """
    keep: Callable[[Tensor], Tensor] = lambda output: output.float().cpu()  # noqa: E731
    scores = hooks.run_layer(target.module, ".", batch, keep)
    if scores.dim() != 2:
        raise InputError(f"{target.name} gives {tuple(scores.shape)}, not one row of class scores per image")
    return scores


def shares(target: HookedTarget, batch: Any, neuron: int, factors: Sequence[float]) -> Tensor:
    """Class probabilities (len(factors),B,classes) with the neuron scaled by each factor (1 leaves it alone)."""
    out = []
    for factor in factors:
        with scaled(target, neuron, factor):
            out.append(class_scores(target, batch).softmax(dim=1))
    return torch.stack(out)
