"""The layers of a network, and which of them can be a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from contralens.errors import InputError
from contralens.loading.loaders import load, preprocess_of
from contralens.models import hooks, tokens
from contralens.models.hooked_layer import HookedTarget
from contralens.models.layer_kinds import kinds_of
from contralens.models.layer_outputs import PART, is_padded
from contralens.models.layer_trace import traced
from contralens.models.opened_network import OpenedNetwork
from contralens.models.pooling import choose
from contralens.specs import scheme


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """One row of the list of layers.

    >>> row = layers(nn.Sequential(nn.Conv2d(3, 8, 3)), preprocess="resize=16x16,mean=half")[0]
    >>> row.name, row.type, row.shape, row.neurons, row.pooling, row.calls
    ('0', 'Conv2d', (8, 14, 14), 8, 'mean', 1)
    """

    name: str
    type: str
    shape: tuple[int, ...] | None
    """Output per image, without B; None where the layer gave no tensor."""
    neurons: int | None
    """N, or None where the layer cannot be used as it is."""
    pooling: str | None
    """The pooling that `target` would use."""
    calls: int
    """How often it runs in one forward; only a layer that runs once can be used."""
    note: str = ""
    kinds: tuple[str, ...] = ()
    """What it is, as keys of `contralens.models.layer_kinds.KINDS`; most inner modules are none of these."""
    depth: float | None = None
    """Share of the network's innermost modules that have run when it ends, 0 to 1; None where it does not run."""


def layers(
    spec: str | nn.Module | HookedTarget | OpenedNetwork,
    *,
    preprocess: Callable[[Any], Any] | str | Mapping[str, Any] | None = None,
    weights: str | None = None,
    checkpoint: str | Path | None = None,
    prefix_tokens: int | None = None,
) -> list[LayerInfo]:
    """All layers of a network with output shape, neurons and the pooling that would be used, from one forward.

    For torchvision, timm and transformers the weights do not matter for this and are not fetched.

    Raises:
        InputError: as `target` does.

    >>> [(x.name, x.shape, x.pooling) for x in layers(nn.Sequential(nn.Flatten()), preprocess="resize=4x4,mean=none")]
    [('0', (48,), 'none'), ('.', (48,), 'none')]
    """
    if isinstance(spec, HookedTarget):
        network, function, name = spec.module, spec.preprocess, spec.name
    else:
        if isinstance(spec, OpenedNetwork):
            loaded, name = spec.loaded(), spec.name
        else:
            if isinstance(spec, str) and weights is None and checkpoint is None:
                weights = "random" if scheme(spec)[0] in ("torchvision", "timm", "hf") else None
            loaded, name = load(spec, weights, checkpoint)
        network, function = loaded.network, preprocess_of(preprocess, loaded, name)
    batch = hooks.probe_batch(function, name)
    modules = hooks.named(network)
    with traced(network) as trace:
        seen = hooks.probe(network, list(modules), batch, name)
    square = hooks.is_square(batch)
    rows = []
    lengths: dict[int, tokens.Found] = {}
    for key, module in modules.items():
        found = seen[key]
        if found.calls == 0 and isinstance(module, nn.ModuleList | nn.ModuleDict | nn.ParameterList):
            continue
        shape = None if found.output is None else tuple(found.output.shape[1:])
        choice, note = None, ""
        if found.calls != 1 or found.output is None:
            short = {0: "not run by the forward", 1: "no floating-point tensor"}
            note = short.get(found.calls, f"runs {found.calls} times: ambiguous")
        else:
            try:
                hooks.check_batch(found.output, "it")
                before = unpadded(batch, found.output, prefix_tokens)
                own = found_tokens(network, batch, found.output, lengths, prefix_tokens)
                choice = choose(
                    found.output.shape, module, network, prefix_tokens=before, square=square, layer="it", found=own
                )
                note = "; ".join([*choice.notes, *several(key, found.tensors)])
            except InputError as e:  # it cannot be pooled
                note = str(e)
        pooling, width = (choice.name, choice.width) if choice else (None, None)
        depth = trace.depth(key)
        rows.append(LayerInfo(key, type(module).__name__, shape, width, pooling, found.calls, note, depth=depth))
    shapes = {row.name: row.shape for row in rows if row.shape is not None and row.neurons is not None}
    kinds = kinds_of(network, shapes, trace)
    return [replace(row, kinds=kinds.get(row.name, ())) for row in rows]


def layer_before(target: HookedTarget) -> str:
    """The last layer that has run, and can be a target, before the target's layer begins; of the network's output,
    before its last module begins.

    Raises:
        InputError: there is none.

    >>> from contralens import target
    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    >>> layer_before(target(network, layer="2", preprocess="resize=16x16,mean=half"))
    '1'
    """
    with traced(target.module) as trace:
        hooks.probe(target.module, (), hooks.probe_batch(target.preprocess, target.name), target.name)
    layer = list(trace.begun)[-1] if target.layer == "." else target.layer.partition(PART)[0]
    usable = {row.name for row in layers(target) if row.pooling is not None}
    before = [name for name in trace.order[: trace.begun[layer]] if name in usable]
    if not before:
        raise InputError(f"no layer of {target.name} that could be steered runs before {target.layer}; name one")
    return before[-1]


def found_tokens(
    network: nn.Module, batch: Any, output: Tensor, lengths: dict[int, tokens.Found], prefix_tokens: int | None
) -> tokens.Found | None:
    """What is found out about the tokens of a layer, once per length; None where it gives none or the user says it."""
    if output.dim() != 3 or prefix_tokens is not None:
        return None
    length = int(output.shape[1])
    if length not in lengths:
        lengths[length] = tokens.locate(network, batch, length)
    return lengths[length]


def unpadded(batch: Any, output: Tensor, prefix_tokens: int | None) -> int | None:
    """The prefix tokens that the user says; 0 where the batch has a mask over all tokens of the layer, all patches."""
    return 0 if prefix_tokens is None and output.dim() == 3 and is_padded(batch, output.shape[1]) else prefix_tokens


def several(layer: str, tensors: Mapping[str, tuple[int, ...]]) -> list[str]:
    """A note on which of several tensors that a layer gives is looked at, and how to say another.

    >>> several("attention", {"0": (2, 17, 24), "1": (2, 17, 17)})
    ['attention gives 2 tensors, 0 (17, 24) and 1 (17, 17): the first is taken; --layer "attention#1" takes the other']
    """
    if len(tensors) < 2 or PART in layer:
        return []
    shown = [f"{key} {shape[1:]}" for key, shape in list(tensors.items())[:4]]
    other = list(tensors)[1]
    which = "the other" if len(tensors) == 2 else "the second"
    return [
        f"{layer} gives {len(tensors)} tensors, {', '.join(shown[:-1])} and {shown[-1]}: the first is taken; "
        f'--layer "{layer}{PART}{other}" takes {which}'
    ]
