"""The network under study: images to activations (B,N) of one layer.

`target("torchvision:resnet50", layer="layer4")` or `target(my_module, layer="encoder.3", preprocess=f)`. Activations
are caught by a forward hook that lives for one call only; nothing is patched onto the network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from contralens.checks import InputError, first_line, nearest
from contralens.models import hooks, identity
from contralens.models.fast import DECODES, fast_or_own
from contralens.models.loaded import Loaded, Loader
from contralens.models.loaders import TARGETS, load, preprocess_of
from contralens.models.pooling import POOLINGS, Choice, choose, pool
from contralens.models.preprocessing import Preprocessing

__all__ = [
    "POOLINGS",
    "TARGETS",
    "HookedTarget",
    "LayerInfo",
    "Loaded",
    "Loader",
    "Preprocessing",
    "layers",
    "target",
    "targets",
]

DTYPES = {"float32": None, "bf16": torch.bfloat16}


@dataclass(eq=False)
class HookedTarget:
    """One layer of a network as a `contralens.types.Target`; made by `target`.

    >>> from PIL.Image import new
    >>> made = target(nn.Conv2d(3, 8, 3), layer=".", preprocess="resize=16x16,mean=half")
    >>> made.neurons[7], made.device.type, tuple(made(made.preprocess(new("RGB", (20, 20)))[None]).shape)
    ('output/7', 'cpu', (1, 8))
    >>> made.tap.layer, made.with_dtype("bf16").fingerprint == made.fingerprint
    ('.', False)
    """

    name: str
    fingerprint: str
    width: int
    """N, the neurons."""
    layer: str
    pooling: str
    neurons: Sequence[str]
    """(N) names."""
    preprocess: Callable[[Any], Any]
    """One RGB image to a tensor (3,H,W), or to a dict of tensors by name of the network's argument."""
    module: nn.Module
    """The network itself."""
    prefix_tokens: int
    """Tokens before the patches, which token poolings over patches leave out."""
    dtype: str
    notes: list[str] = field(default_factory=list)
    """What a reader of the run should know, e.g. where preprocessing was taken from."""
    network: str = ""
    """Digest of the network, a part of `fingerprint`."""
    origin: dict[str, Any] = field(default_factory=dict)
    """"spec" and "options" that `target` makes the same one from; "spec" is None where no text names the network."""

    @property
    def device(self) -> torch.device:
        """Where the network stands."""
        return hooks.device_of(self.module)

    def __call__(self, batch: Any) -> Tensor:
        """A collated batch, (B,3,H,W) or a dict of such, to activations (B,N), float32 on the CPU, without gradient.

        The forward stops as soon as the layer has run. The network is in eval mode meanwhile and as it was afterwards.

        Raises:
            InputError: the network did not run the layer, or gave another number of neurons than at the start.
        """

        return hooks.run_taps([self.tap], batch)[0]

    @property
    def tap(self) -> hooks.Tap:
        """Where it listens; targets on one network run in one forward by theirs (`models.together`)."""
        return hooks.Tap(self.module, self.layer, DTYPES[self.dtype], self._pooled, self._rows)

    def with_dtype(self, dtype: str) -> HookedTarget:
        """The same layer computed in another precision, as `target(..., dtype=...)` makes it."""
        choice = Choice(self.pooling, self.prefix_tokens, self.width)
        options = {key: value for key, value in self.origin.get("options", {}).items() if key != "dtype"}
        return replace(
            self,
            dtype=dtype,
            fingerprint=_fingerprint(self.network, self.layer, choice, dtype, self.preprocess, []),
            origin={**self.origin, "options": {**options, **({} if dtype == "float32" else {"dtype": dtype})}},
        )

    def _pooled(self, output: Tensor) -> Tensor:
        return pool(self.pooling, output, self.prefix_tokens).clone()  # a view would keep the whole output alive

    def _rows(self, pooled: Tensor) -> Tensor:
        if pooled.dim() != 2 or pooled.shape[1] != self.width:
            raise InputError(
                f"{self.name}: {self.layer} gave rows of shape {tuple(pooled.shape)}, but had {self.width} neurons "
                "before"
            )
        return pooled.cpu()


def target(
    spec: str | nn.Module | HookedTarget,
    layer: str | None = None,
    *,
    pooling: str | None = None,
    preprocess: Callable[[Any], Any] | str | Mapping[str, Any] | None = None,
    weights: str | None = None,
    checkpoint: str | Path | None = None,
    device: str | torch.device | None = None,
    neurons: Sequence[str] | None = None,
    prefix_tokens: int | None = None,
    dtype: str = "float32",
    decode: str = "exact",
) -> HookedTarget:
    """A layer of a network, ready to turn images into activations (B,N).

    Args:
        spec: "torchvision:resnet50" (or "torchvision:resnet50/IMAGENET1K_V1"), "timm:NAME", "hf:ID-or-folder",
            "module:FILE.py:CALLABLE" (runs that code), "world:1", or an `nn.Module`.
        layer: a name as in `named_modules()`; "." is the network's own output. `layers(spec)` lists them.
        pooling: a key of `POOLINGS`; None infers it: mean of maps, the class token or the mean of patches, rows as is.
        preprocess: one RGB image to a tensor (3,H,W), or a text such as "resize=256,crop=224,mean=imagenet"; None takes
            that of the weights. An `nn.Module` needs it.
        weights: another set than the default, or "random" (seed 0, no download).
        checkpoint: a file with the user's own weights; nothing is downloaded.
        device: "cpu", "cuda", "auto"; None leaves an `nn.Module` where it is and means "cpu" otherwise.
        neurons: N names, instead of the class names or "layer/index".
        prefix_tokens: class and register tokens before the patches, where that cannot be found out.
        dtype: "float32", or "bf16" for autocast.
        decode: "exact" preprocesses as the weights ask for; "fast" on tensors, where that agrees (`models.fast`).

    Raises:
        InputError: anything that the user named is unknown, cannot be had or does not fit; in one line.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    >>> t = target(net, layer="1", preprocess="resize=16x16,mean=half")
    >>> t.width, t.pooling, t(torch.zeros(5, 3, 16, 16)).shape
    (8, 'mean', torch.Size([5, 8]))
    """
    if isinstance(spec, HookedTarget):
        return spec
    return _made(
        spec,
        [layer],
        pooling=pooling,
        preprocess=preprocess,
        weights=weights,
        checkpoint=checkpoint,
        device=device,
        neurons=neurons,
        prefix_tokens=prefix_tokens,
        dtype=dtype,
        decode=decode,
    )[0]


def targets(spec: str | nn.Module, layers: Sequence[str], **options: Any) -> list[HookedTarget]:
    """Several layers of one network, which is loaded once; `collect` gets the rows of all from one forward.

    `options` are those of `target`. Each target is the same as the one that `target` makes of its layer.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    >>> [t.neurons[0] for t in targets(net, ["0", "1"], preprocess="resize=16x16,mean=half")]
    ['0/0', '1/0']
    """
    if isinstance(layers, str) or not layers:
        raise InputError(f"`layers` must be a list of names; got {layers!r}")
    if twice := [name for at, name in enumerate(layers) if name in layers[:at]]:
        raise InputError(f"`layers` names {twice[0]} twice")
    if options.get("neurons") is not None:
        raise InputError("`neurons` names the neurons of one layer: leave it out with several")
    return _made(spec, list(layers), **options)


def _made(
    spec: str | nn.Module,
    wanted: Sequence[str | None],
    *,
    pooling: str | None = None,
    preprocess: Any = None,
    weights: str | None = None,
    checkpoint: str | Path | None = None,
    device: str | torch.device | None = None,
    neurons: Sequence[str] | None = None,
    prefix_tokens: int | None = None,
    dtype: str = "float32",
    decode: str = "exact",
) -> list[HookedTarget]:
    """The network loaded, placed, hashed and probed once, and one target per layer of it."""
    if dtype not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}")
    if decode not in DECODES:
        raise InputError(f"decode must be one of {', '.join(DECODES)}; got {decode!r}")
    loaded, name = load(spec, weights, checkpoint)
    function = preprocess_of(preprocess, loaded, name)
    if decode == "fast":
        function = fast_or_own(function, loaded.notes)
    network = _placed(loaded.network, device, own=not isinstance(spec, nn.Module))
    modules = hooks.named(network)
    names = [_known(layer if layer is not None else loaded.default_layer, modules, network, loaded, name)
             for layer in wanted]  # fmt: skip
    batch = hooks.probe_batch(function, name)
    probe = hooks.probe(network, [*names, "."], batch, name, DTYPES[dtype], keep=True)
    described = identity.network_digest(network)
    given = {"pooling": pooling, "preprocess": preprocess, "weights": weights, "checkpoint": checkpoint,
             "prefix_tokens": prefix_tokens, "dtype": None if dtype == "float32" else dtype,
             "decode": None if decode == "exact" else decode}  # fmt: skip
    origin = {
        "spec": spec if isinstance(spec, str) else None,
        "options": {key: value for key, value in given.items() if value is not None},
    }
    made = []
    for layer in names:
        seen = probe[layer]
        if seen.calls != 1 or seen.output is None:
            raise InputError(f"{name}: {_calls_problem(layer, seen.calls, modules)}")
        hooks.check_batch(seen.output, f"{name}: {layer}")
        choice = choose(
            seen.output.shape,
            modules[layer],
            network,
            pooling=pooling,
            prefix_tokens=prefix_tokens,
            square=hooks.is_square(batch),
            layer=f"{name}: {layer}",
        )
        notes = [*loaded.notes, *choice.notes]
        rows = pool(choice.name, seen.output, choice.prefix)
        neuron_names = _names(neurons, layer, rows, probe["."].output, loaded, notes)
        made.append(
            HookedTarget(
                name=name,
                fingerprint=_fingerprint(described, layer, choice, dtype, function, notes),
                width=choice.width,
                layer=layer,
                pooling=choice.name,
                neurons=neuron_names,
                preprocess=function,
                module=network,
                prefix_tokens=choice.prefix,
                dtype=dtype,
                notes=notes,
                network=described,
                origin=origin,
            )
        )
    return made


def _known(layer: str | None, modules: Mapping[str, nn.Module], network: nn.Module, loaded: Loaded, name: str) -> str:
    """The layer's name, once it is sure that it can be asked for."""
    if layer is None:
        raise InputError(
            f"{name} needs a layer, such as {', '.join(_suggested(network))}; all: contralens layers MODEL"
        )
    if layer not in modules:
        raise InputError(f"{name} has no layer {layer!r}{nearest(layer, modules)}; all: contralens layers MODEL")
    untrained = [k for k in loaded.untrained if k.startswith(f"{layer}.")]
    if untrained:
        raise InputError(
            f"{name}: the weights of {layer} were not in the source ({untrained[0]}, ...): pick another layer"
        )
    return layer


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


def layers(
    spec: str | nn.Module | HookedTarget,
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
        if isinstance(spec, str) and weights is None and checkpoint is None:
            weights = "random" if spec.partition(":")[0] in ("torchvision", "timm", "hf") else None
        loaded, name = load(spec, weights, checkpoint)
        network, function = loaded.network, preprocess_of(preprocess, loaded, name)
    batch = hooks.probe_batch(function, name)
    modules = hooks.named(network)
    seen = hooks.probe(network, list(modules), batch, name)
    square = hooks.is_square(batch)
    rows = []
    for key, module in modules.items():
        found = seen[key]
        if found.calls == 0 and isinstance(module, nn.ModuleList | nn.ModuleDict | nn.ParameterList):
            continue
        shape = None if found.output is None else tuple(found.output.shape[1:])
        choice, note = None, ""
        if found.calls != 1 or found.output is None:
            note = _short_problem(found.calls)
        else:
            try:
                hooks.check_batch(found.output, "it")
                choice = choose(
                    found.output.shape, module, network, prefix_tokens=prefix_tokens, square=square, layer="it"
                )
                note = "; ".join(choice.notes)
            except InputError as e:
                note = str(e)
        pooling, width = (choice.name, choice.width) if choice else (None, None)
        rows.append(LayerInfo(key, type(module).__name__, shape, width, pooling, found.calls, note))
    return rows


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


def _suggested(network: nn.Module) -> list[str]:
    names: list[str] = []
    for name, child in network.named_children():
        names.append(name)
        if isinstance(child, nn.Sequential | nn.ModuleList) and len(child):
            last = f"{name}.{list(child._modules)[-1]}"
            names[-1:] = [last] if isinstance(child, nn.ModuleList) else [name, last]
    return names[-6:] or ["."]


def _calls_problem(layer: str, calls: int, modules: Mapping[str, nn.Module]) -> str:
    if calls == 0:
        return (
            f"{layer} is not run by the network's forward (its weights may be used directly): pick the layer around it"
        )
    if calls == 1:
        return f"{layer} gives no floating-point tensor"
    around = layer.rpartition(".")[0]
    hint = f", such as {around}" if around in modules else ""
    return (
        f"{layer} runs {calls} times in one forward, so its activation is ambiguous: pick a layer that runs once{hint}"
    )


def _short_problem(calls: int) -> str:
    return {0: "not run by the forward", 1: "no floating-point tensor"}.get(calls, f"runs {calls} times: ambiguous")


def _names(
    given: Sequence[str] | None, layer: str, rows: Tensor, whole: Tensor | None, loaded: Loaded, notes: list[str]
) -> list[str]:
    """Neuron names: as given; the classes where the layer gives the network's own output; else "layer/index"."""
    width = int(rows.shape[1])
    if given is not None:
        if isinstance(given, str) or len(given) != width:
            raise InputError(f"`neurons` must be {width} names, one per neuron of {layer}; got {len(given)}")
        return [str(name) for name in given]
    is_output = whole is not None and whole.shape == rows.shape and torch.equal(whole.float(), rows)
    if is_output and loaded.classes is not None and len(loaded.classes) == width and "random" not in loaded.suffix:
        if loaded.suffix:
            notes.append("class names are those of the default weights, as the checkpoint has as many classes")
        return [str(name) for name in loaded.classes]
    prefix = "output" if layer == "." else layer
    return [f"{prefix}/{i}" for i in range(width)]


def _fingerprint(
    network: str, layer: str, choice: Choice, dtype: str, function: Callable[[Any], Any], notes: list[str]
) -> str:
    """Of a target; `network` is the network's own digest."""
    parts = [
        identity.CODE,
        network,
        repr(layer),
        choice.name,
        str(choice.prefix),
        dtype,
        identity.describe(function, notes),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
