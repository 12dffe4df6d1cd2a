"""A network opened once for all that is asked of it: which layers it has, and targets on some of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from contralens.checks import first_line
from contralens.errors import InputError
from contralens.fingerprint.network import attributes
from contralens.loading.loaded import Loaded
from contralens.loading.loaders import load


@dataclass(frozen=True)
class OpenedNetwork:
    """A network with its weights, on its device."""

    spec: str | nn.Module
    """What it was opened from."""
    name: str
    network: nn.Module
    attributes: Mapping[str, str]
    """Of the network before it first ran (`fingerprint.network.attributes`)."""
    as_loaded: Loaded

    def loaded(self) -> Loaded:
        """What the loader handed over; its notes may be added to."""
        return replace(self.as_loaded, network=self.network, notes=list(self.as_loaded.notes))


def open_network(
    spec: str | nn.Module, weights: str | None = None, checkpoint: str | Path | None = None,
    device: str | torch.device | None = None,
) -> OpenedNetwork:  # fmt: skip
    """Load a network and place it on its device; arguments as of `contralens.target`.

    Raises:
        InputError: an argument is unknown or does not fit.
        ModelUnavailable: the weights cannot be loaded.

    >>> opened = open_network("world:1")
    >>> opened.name, opened.loaded().default_layer
    ('world:1', 'block3')
    """
    loaded, name = load(spec, weights, checkpoint)
    if any(t.is_meta for t in (*loaded.network.parameters(), *loaded.network.buffers())):
        raise InputError(f"{name}: weights are on the meta device, so they have no values: load them first")
    network = _placed(loaded.network, device, own=not isinstance(spec, nn.Module))
    return OpenedNetwork(spec, name, network, attributes(network), loaded)


def _placed(network: nn.Module, device: str | torch.device | None, *, own: bool) -> nn.Module:
    """The network on its device; a convolutional one of our own making in the memory layout that is faster there."""
    if device is None and not own:
        return network
    wanted = str(device or "cpu")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        network = network.to(torch.device(wanted))
    except (RuntimeError, AssertionError) as e:
        raise InputError(f"device {wanted!r} cannot be used here: {first_line(e)}") from e
    if own:
        network.eval()
        if sum(isinstance(m, nn.Conv2d) for m in network.modules()) > 3:
            network = network.to(memory_format=torch.channels_last)
    return network
