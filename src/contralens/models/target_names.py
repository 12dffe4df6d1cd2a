"""Names around a target: of its layer, its neurons and its classes, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized

import torch
from torch import Tensor, nn

from contralens.checks import nearest, shown
from contralens.errors import InputError
from contralens.loading.loaded import Loaded
from contralens.models import hooks
from contralens.models.layer_outputs import PART


def known_layer(
    layer: str | None, modules: Mapping[str, nn.Module], network: nn.Module, loaded: Loaded, name: str
) -> str:
    """The layer's name, once it is sure that it can be asked for."""
    if layer is None:
        raise InputError(
            f"{name} needs a layer, such as {', '.join(_suggested(network))}; all: contralens layers TARGET"
        )
    if layer.partition(PART)[0] not in modules:
        raise InputError(f"{name} has no layer {layer!r}{nearest(layer, modules)}; all: contralens layers TARGET")
    random = [k for k in loaded.untrained if k.startswith(f"{layer.partition(PART)[0]}.")]
    if random and loaded.misfit:
        raise InputError(f"{loaded.misfit}; {layer} depends on them")
    if random:
        raise InputError(
            f"{name}: the weights of {layer} were not in the source ({random[0]}, ...): pick another layer"
        )
    return layer


def _suggested(network: nn.Module) -> list[str]:
    names: list[str] = []
    for name, child in network.named_children():
        names.append(name)
        if isinstance(child, nn.Sequential | nn.ModuleList) and len(child):
            last = f"{name}.{list(child._modules)[-1]}"
            names[-1:] = [last] if isinstance(child, nn.ModuleList) else [name, last]
    return names[-6:] or ["."]


def calls_problem(layer: str, seen: hooks.Seen, modules: Mapping[str, nn.Module]) -> str:
    calls = seen.calls
    if calls == 0:
        return (
            f"{layer} is not run by the network's forward (its weights may be used directly): pick the layer around it"
        )
    if calls == 1:
        base, mark, part = layer.partition(PART)
        if mark and seen.tensors:
            raise InputError(f"{base} gives no tensor {part!r}; it gives {', '.join(seen.tensors)}")
        return f"{layer} gives no floating-point tensor"
    around = layer.rpartition(".")[0]
    hint = f", such as {around}" if around in modules else ""
    return (
        f"{layer} runs {calls} times in one forward, so its activation is ambiguous: pick a layer that runs once{hint}"
    )


def neuron_names(
    given: Sequence[str] | None, layer: str, rows: Tensor, whole: Tensor | None, loaded: Loaded, notes: list[str]
) -> list[str]:
    """Neuron names: as given; the classes where the layer gives the network's own output; else "layer/index"."""
    width = int(rows.shape[1])
    if given is not None:
        if isinstance(given, str) or not isinstance(given, Sequence) or len(given) != width:
            got = len(given) if isinstance(given, Sized) and not isinstance(given, str) else shown(given)
            raise InputError(f"`neurons` must be {width} names, one per neuron of {layer}; got {got}")
        return [str(name) for name in given]
    classes = class_names(whole, loaded)
    if classes is not None and whole is not None and whole.shape == rows.shape and torch.equal(whole.float(), rows):
        if loaded.suffix:
            notes.append("class names are those of the default weights, as the checkpoint has as many classes")
        return list(classes)
    prefix = "output" if layer == "." else layer
    return [f"{prefix}/{i}" for i in range(width)]


def class_names(whole: Tensor | None, loaded: Loaded) -> tuple[str, ...] | None:
    """Names of the network's outputs, if the weights know as many as there are."""
    if loaded.classes is None or "random" in loaded.suffix or whole is None or whole.dim() != 2:
        return None
    return tuple(map(str, loaded.classes)) if len(loaded.classes) == whole.shape[1] else None
