"""Where neurons are: whether neuron n of one run and neuron n of another are the same place of a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def place_of(target: Mapping[str, Any]) -> tuple[Any, ...]:
    """Network, layer and number of neurons, as a run's manifest names its target; weights do not count.

    >>> place_of({"name": "resnet50 (a.pt)", "layer": "layer4", "neurons": 2048})
    ('resnet50', 'layer4', 2048)
    """
    return tuple(_bare(target.get(key)) for key in ("name", "layer", "neurons"))


def same_place(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether neurons of two targets pair by number: the same layer of the same network, whatever its weights.

    >>> same_place({"name": "net (a.pt)", "layer": "fc"}, {"name": "net (b.pt)", "layer": "fc"})
    True
    """
    known = one.get("fingerprint")
    return (known is not None and known == other.get("fingerprint")) or place_of(one) == place_of(other)


def _bare(value: Any) -> Any:
    return value.split(" (")[0] if isinstance(value, str) else value
