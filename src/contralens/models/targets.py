"""The network under study: images to activations (B,N) of one layer.

`target("torchvision:resnet50", layer="layer4")` or `target(my_module, layer="encoder.3", preprocess=f)`. Activations
are caught by a forward hook that lives for one call only; nothing is patched onto the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from contralens.checks import as_path, as_text, blaming, whole
from contralens.errors import InputError
from contralens.fingerprint.network import network_digest
from contralens.loading.fast_preprocessing import DECODES, fast_or_own
from contralens.loading.loaded import Loaded, Loader
from contralens.loading.loaders import TARGETS, preprocess_of
from contralens.loading.preprocessing import Preprocessing
from contralens.models import determinism, hooks, tokens, untrained_weights
from contralens.models.compiled import compiled
from contralens.models.hooked_layer import HookedTarget, fingerprint_of
from contralens.models.input_scale import scale_notes
from contralens.models.layer_outputs import module_of
from contralens.models.layer_trace import traced
from contralens.models.layers import LayerInfo, found_tokens, layers, several, unpadded
from contralens.models.opened_network import OpenedNetwork, open_network
from contralens.models.pooling import POOLINGS, choose, pool
from contralens.models.sae_target import sae as with_sae
from contralens.models.target_names import calls_problem, class_names, known_layer, neuron_names
from contralens.types import Target

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
    compile: bool = False,
    decode: str = "exact",
    allow_nondeterministic: bool = False,
) -> HookedTarget:
    """A layer of a network that maps images to activations (B,N).

    Args:
        spec: "torchvision:resnet50" (or "torchvision:resnet50/IMAGENET1K_V1"), "timm:NAME", "hf:ID-or-folder", with
            arguments "timm:NAME?img_size=384&in_chans=1",
            "module:FILE.py:CALLABLE" (runs that code), "world:1", or an `nn.Module`.
        layer: a name as in `named_modules()`; "." is the network's own output; "NAME#1" or "NAME#key" selects another
            of its output tensors than the first. `layers(spec)` lists them.
        pooling: a key of `POOLINGS`; None infers it: mean of maps, the class token or the mean of patches, rows as is.
        preprocess: one RGB image to a tensor (3,H,W), or a text such as "resize=256,crop=224,mean=imagenet"; None uses
            that of the weights. Required for an `nn.Module`.
        weights: name of pretrained weights, or "random" (seed 0, no download).
        checkpoint: a file with your weights, or "FILE::PART" for a part of it; no download.
        device: "cpu", "cuda", "auto"; None keeps the device of an `nn.Module` and means "cpu" otherwise.
        neurons: N names, instead of the class names or "layer/index".
        prefix_tokens: number of class and register tokens before the patches, if detection fails.
        dtype: "float32", "onednn" (float32 with a CPU's matrix products by oneDNN), or "bf16" for autocast.
        compile: run the network by torch.compile, where it can be compiled and gives the same rows to within 2e-6;
            `.notes` says whether it is.
        decode: "exact" uses the preprocessing of the weights; "fast" tensor operations, if they agree with it
            (`loading.fast_preprocessing`).
        allow_nondeterministic: accept a network whose activations are not a function of the image (random masking,
            active dropout, batch statistics); `.notes` records it.

    Raises:
        InputError: an argument is unknown or does not fit, or activations are not a function of the image.
        ModelUnavailable: the weights cannot be loaded.
        MissingPackage: a package is not installed.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    >>> t = target(net, layer="1", preprocess="resize=16x16,mean=half")
    >>> t.width, t.pooling, t(torch.zeros(5, 3, 16, 16)).shape
    (8, 'mean', torch.Size([5, 8]))
    """
    if isinstance(spec, HookedTarget):
        return spec
    made = _made(
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
        allow_nondeterministic=allow_nondeterministic,
    )[0]
    return compiled(made) if compile else made


def targets(spec: str | nn.Module | OpenedNetwork, layers: Sequence[str], **options: Any) -> list[HookedTarget]:
    """Several layers of one network, loaded once; `collect` computes the rows of all in one forward pass.

    `spec` and `options` are those of `target`, or `spec` is a network that is opened already. Each target is the same
    as the one that `target` makes of its layer.

    Raises:
        InputError: as in `target`, or a duplicate layer.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    >>> [t.neurons[0] for t in targets(net, ["0", "1"], preprocess="resize=16x16,mean=half")]
    ['0/0', '1/0']
    """
    if isinstance(layers, str) or not layers:
        raise InputError(f"`layers` must be a list of names; got {layers!r}")
    if twice := [name for at, name in enumerate(layers) if name in layers[:at]]:
        raise InputError(f"`layers` names {twice[0]} twice")
    if options.get("neurons") is not None:
        raise InputError("`neurons` names the neurons of one layer: omit it with several")
    if options.pop("compile", False):
        raise InputError("`compile` is for one layer: give that layer alone")
    return _made(spec, list(layers), **options)


def outputs_of(layer: HookedTarget) -> HookedTarget:
    """The outputs of a layer's network, by class, as another target; one forward serves both.

    Raises:
        InputError: the weights do not know the names of their classes, or the layer is the output itself.

    >>> outputs_of(target("world:1", layer="block3")).neurons[1]
    'striped'
    """
    if layer.classes is None:
        raise InputError(f"{layer.name} does not know the names of its outputs")
    if list(layer.neurons) == list(layer.classes):
        raise InputError(f"{layer.name}: the layer {layer.layer} is the output itself")
    return target(
        layer.module, layer=".", preprocess=layer.preprocess, neurons=layer.classes, dtype=layer.dtype,
        allow_nondeterministic=not layer.repeatable,
    )  # fmt: skip


def load_model(model: Any, options: dict[str, Any], sae: Any = None, sae_pooling: str | None = None) -> Target:
    """A ready `Target` as it is, anything else made into one; with a sparse autoencoder on top if one is given."""
    if not isinstance(model, Target):
        model = target(model, **options)
    elif given := [n for n, value in options.items() if value is not None and n != "allow_nondeterministic"]:
        raise InputError(f"the target is already built; give {', '.join(given)} to `contralens.target` instead")
    if sae is not None and getattr(model, "compiled", None) is not None:
        raise InputError("a sparse autoencoder reads the network itself: omit `compile`")
    return model if sae is None else with_sae(model, sae, pooling=sae_pooling)


def _made(
    spec: str | nn.Module | OpenedNetwork,
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
    allow_nondeterministic: bool = False,
) -> list[HookedTarget]:
    """The network loaded, placed, hashed and probed once, and one target per layer of it."""
    _check(weights, checkpoint, prefix_tokens, dtype, decode)
    opened = spec if isinstance(spec, OpenedNetwork) else open_network(spec, weights, checkpoint, device)
    loaded, name, network = opened.loaded(), opened.name, opened.network
    function = preprocess_of(preprocess, loaded, name)
    if decode == "fast":
        function = fast_or_own(function, loaded.notes)
    modules = hooks.named(network)
    names = [known_layer(loaded.default_layer if w is None else w, modules, network, loaded, name) for w in wanted]
    batch = hooks.probe_batch(function, name)
    found: dict[int, tokens.Found] = {}
    with traced(network) as trace:
        probe = hooks.probe(network, [*names, "."], batch, name, dtype, keep=True)
    if preprocess is not None or loaded.preprocess_note or name.startswith("module:"):
        loaded.notes += scale_notes(function, loaded.preprocess, network, preprocess is not None)
    untrained_weights.check_unused(loaded, [n for n in names if probe[n].output is not None], batch, probe, name)
    described = network_digest(network, opened.attributes)
    origin = _origin(
        opened.spec, pooling=pooling, preprocess=preprocess, weights=weights, checkpoint=checkpoint,
        prefix_tokens=prefix_tokens, dtype=None if dtype == "float32" else dtype,
        decode=None if decode == "exact" else decode, allow_nondeterministic=allow_nondeterministic or None,
    )  # fmt: skip
    made = []
    for layer in names:
        seen = probe[layer]
        if seen.calls != 1 or seen.output is None:
            raise InputError(f"{name}: {calls_problem(layer, seen, modules)}")
        hooks.check_batch(seen.output, f"{name}: {layer}")
        choice = choose(
            seen.output.shape,
            module_of(network, layer),
            network,
            pooling=pooling,
            prefix_tokens=unpadded(batch, seen.output, prefix_tokens),
            square=hooks.is_square(batch),
            layer=f"{name}: {layer}",
            found=found_tokens(network, batch, seen.output, found, prefix_tokens),
        )
        notes = [*loaded.notes, *choice.notes, *several(layer, seen.tensors)]
        rows, whole = pool(choice.name, seen.output, choice.tokens), probe["."].output
        called = neuron_names(neurons, layer, rows, whole, loaded, notes)  # may add to the notes
        made.append(
            HookedTarget(
                name=name,
                fingerprint=fingerprint_of(described, layer, choice, dtype, function, notes),
                width=choice.width,
                layer=layer,
                pooling=choice.name,
                neurons=called,
                preprocess=function,
                module=network,
                prefix_tokens=choice.prefix,
                layout=choice.layout,
                untrained=loaded.untrained,
                dtype=dtype,
                notes=notes,
                network=described,
                classes=class_names(whole, loaded),
                depth=trace.depth(layer),
                origin=origin,
            )
        )
    _check_repeatable(made, allow_nondeterministic)
    return made


def _origin(spec: str | nn.Module, **given: Any) -> dict[str, Any]:
    """What makes the same targets again: the text, and the options that were given."""
    options = {key: value for key, value in given.items() if value is not None}
    return {"spec": spec if isinstance(spec, str) else None, "options": options}


def _check(weights: Any, checkpoint: Any, prefix_tokens: Any, dtype: Any, decode: Any) -> None:
    if weights is not None:
        as_text("weights", weights)
    if checkpoint is not None:
        as_path("checkpoint", checkpoint)
    if prefix_tokens is not None:
        whole("prefix_tokens", prefix_tokens, 0)
    hooks.known_dtype(dtype)
    if decode not in DECODES:
        raise InputError(f"decode must be one of {', '.join(DECODES)}; got {decode!r}")


def _check_repeatable(made: Sequence[HookedTarget], allowed: bool) -> None:
    """Refuse targets on one network whose rows are not a function of the image, or note that."""
    taps = [replace(one.tap, dtype="float32") for one in made]
    first = made[0]
    with blaming(f"{first.name}: the network failed after a first batch"):
        why = determinism.why_not_repeatable(
            determinism.noise(hooks.PROBES), first.preprocess, lambda batch: hooks.run_taps(taps, batch), first.module
        )
    if why is None:
        return
    if not allowed:
        raise InputError(determinism.not_a_function(first.name, why))
    for one in made:
        one.repeatable = False
        one.notes.append(determinism.not_a_function(one.name, why, allowed=True))
