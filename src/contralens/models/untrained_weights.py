"""Weights that the source did not have: whether a layer depends on them is tried out, not guessed from names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from contralens.checks import some
from contralens.errors import InputError
from contralens.loading.loaded import Loaded
from contralens.models import hooks


def check_unused(loaded: Loaded, layers: Sequence[str], batch: Any, probe: Mapping[str, hooks.Seen], what: str) -> None:
    """Refuse layers whose output depends on weights that the source does not have.

    These weights are NaN meanwhile, and so is what depends on them. Weights of a checkpoint may be missing at the end
    of the network only (a head); elsewhere the file is of another network.

    Args:
        layers: those that gave a tensor in the probe.
        probe: what they gave for the batch with the weights as they are.

    Raises:
        InputError: a layer depends on them, or weights of the file run after them.
    """
    if not loaded.untrained or not layers:
        return
    network = loaded.network
    with unknown(network, loaded.untrained):
        try:
            seen = hooks.run_layers(network, [(layer, lambda x: x.isnan().sum()) for layer in layers], batch)
            before = [0 if (out := probe[layer].output) is None else int(out.isnan().sum()) for layer in layers]
            touched = [layers[i] for i in range(len(layers)) if int(seen[i]) > before[i]]
        except Exception:  # a network may look at its values and object to NaN
            touched = list(layers)
    if touched and not loaded.misfit:
        raise InputError(
            f"{what}: {touched[0]} depends on weights that were not in the source "
            f"({some('weights', list(loaded.untrained))}): pick a layer before them"
        )
    if touched:
        raise InputError(f"{loaded.misfit}; {touched[0]} depends on them")
    if loaded.misfit and (after := _trained_after(network, loaded.untrained, batch)):
        raise InputError(f"{loaded.misfit}; only a head at the end may be missing, but {after} runs after them")


@contextmanager
def unknown(network: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Within the block, these weights are NaN, and so is what is computed from them."""
    tensors: dict[str, Tensor] = dict(network.named_parameters(remove_duplicate=False))
    tensors |= dict(network.named_buffers(remove_duplicate=False))
    kept = {name: tensors[name].detach().clone() for name in names
            if name in tensors and tensors[name].is_floating_point()}  # fmt: skip
    try:
        with torch.no_grad():
            for name in kept:
                tensors[name].fill_(float("nan"))
        yield
    finally:
        with torch.no_grad():
            for name, value in kept.items():
                tensors[name].copy_(value)


def _trained_after(network: nn.Module, names: Sequence[str], batch: Any) -> str | None:
    """A module with weights from the file that runs after one without."""
    lost = {name.rpartition(".")[0] for name in names}
    order: list[str] = []

    def hook_of(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, inputs, output: order.append(name)

    with hooks.still(network), ExitStack() as stack:
        for name, module in network.named_modules():
            if any(True for _ in module.parameters(recurse=False)):
                stack.callback(module.register_forward_hook(hook_of(name)).remove)
        hooks.forward(network, batch)
    first = next((at for at, name in enumerate(order) if name in lost), len(order))
    return next((name for name in order[first:] if name not in lost and name), None)
