"""Forward hooks that live for one call: what a layer gives, how often it runs, and nothing left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from contralens.checks import blaming, reason
from contralens.errors import InputError
from contralens.math.fast_kernels import tried
from contralens.math.tensors import products
from contralens.models.layer_outputs import images_first, module_of, tensor_of, tensors_in, valid_tokens

DTYPES = {"float32": None, "onednn": None, "bf16": torch.bfloat16}
"""Precisions, and what autocast takes for them; "onednn" is float32 with a CPU's matrix products by oneDNN."""
PROBES = 2
"""Images in the probe batch: two, so that an output whose first size is not the batch is noticed."""


class Enough(BaseException):
    """Ends a forward once the layer has run; no `except Exception` in a network catches it."""


def named(network: nn.Module) -> dict[str, nn.Module]:
    """All modules by name, "." for the network itself at the end."""
    found = {name: module for name, module in network.named_modules() if name}
    return {**found, ".": network}


def device_of(network: nn.Module) -> torch.device:
    """Where the network's first weight is; the CPU if it has none."""
    for tensor in (*network.parameters(), *network.buffers()):
        return tensor.device
    return torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Tap:
    """Where an extractor listens to a network, and what it makes of what it hears."""

    module: nn.Module
    layer: str
    dtype: str
    """One of `DTYPES`."""
    pick: Callable[[Tensor, Tensor | None], Tensor]
    """What the layer gave, and which of its tokens (B,L) are no padding (None: all), to what is kept of it; runs inside
    the forward."""
    rows: Callable[[Tensor], Tensor]
    """What was kept to rows (B,N) float32 on the CPU; runs after it."""


def run_taps(taps: Sequence[Tap], batch: Any) -> list[Tensor]:
    """The rows of several taps on one network from one forward, which ends as soon as all their layers have run.

    Raises:
        InputError: a layer did not run, or gave no tensor.
    """
    first = taps[0]

    def use_of(tap: Tap) -> Callable[[Tensor], Tensor]:
        return lambda output: tap.pick(output, valid_tokens(batch, output))

    picked = run_layers(first.module, [(tap.layer, use_of(tap)) for tap in taps], batch, first.dtype)
    return [tap.rows(one) for tap, one in zip(taps, picked, strict=True)]


def run_layers(
    network: nn.Module,
    wanted: Sequence[tuple[str, Callable[[Tensor], Tensor]]],
    batch: Any,
    dtype: str = "float32",
) -> list[Tensor]:
    """For each (layer, use), `use` of what the layer gives for a batch; the forward ends when all have run.

    Raises:
        InputError: a layer did not run, or gave no tensor.
    """
    found: dict[int, Tensor] = {}
    left = set(range(len(wanted)))

    def hook_of(at: int, use: Callable[[Tensor], Tensor]) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            tensor = images_first(network, tensor_of(output, wanted[at][0]), batch)
            if at in left and tensor is not None:
                found[at] = use(tensor.detach())
            left.discard(at)
            if not left:
                raise Enough

        return hook

    with still(network, dtype), ExitStack() as stack:
        for at, (layer, use) in enumerate(wanted):
            stack.callback(_listen(module_of(network, layer), hook_of(at, use), layer))
        with suppress(Enough):
            forward(network, batch)
    for at, (layer, _) in enumerate(wanted):
        if at not in found:
            raise InputError(f"the network did not run its layer {layer}, or it gave no floating-point tensor")
    return [found[at] for at in range(len(wanted))]


def _listen(module: nn.Module, hook: Callable[[nn.Module, Any, Any], None], what: str) -> Callable[[], None]:
    """Register a hook; what takes it away again.

    Raises:
        InputError: the module takes none, as what torch.jit has compiled.
    """
    try:
        return module.register_forward_hook(hook).remove
    except RuntimeError as e:
        raise InputError(
            f"{what} is compiled by torch.jit ({type(module).__name__}), where activations cannot be caught: give the "
            "nn.Module that it was made from"
        ) from e


def run_layer(
    network: nn.Module, layer: str, batch: Any, use: Callable[[Tensor], Tensor], dtype: str = "float32"
) -> Tensor:
    """`use` of what one layer gives for a batch; see `run_layers`."""
    return run_layers(network, [(layer, use)], batch, dtype)[0]


@dataclass(slots=True)
class Seen:
    """What a probe saw of one layer."""

    calls: int = 0
    output: Tensor | None = None
    """The first output; on the meta device (a shape without values) unless it was to be kept."""
    tensors: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes of all floating-point tensors of the first output, by where they are in it."""


def probe(
    network: nn.Module,
    names: Sequence[str],
    batch: Any,
    what: str,
    dtype: str = "float32",
    *,
    keep: bool = False,
) -> dict[str, Seen]:
    """One whole forward with hooks on the named layers.

    Raises:
        InputError: the network failed on the batch.
    """
    seen = {name: Seen() for name in names}

    def hook_of(name: str, record: Seen) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            record.calls += 1
            if record.calls == 1:
                record.tensors = {key: tuple(value.shape) for key, value in tensors_in(output).items()}
            tensor = images_first(network, tensor_of(output, name), batch)
            if tensor is not None and record.calls == 1:
                record.output = tensor.detach().clone() if keep else tensor.detach().to("meta")

        return hook

    with still(network, dtype), ExitStack() as stack:
        for name, record in seen.items():
            stack.callback(_listen(module_of(network, name), hook_of(name, record), f"{what}: {name}"))
        try:
            forward(network, batch)
        except (Exception, SystemExit) as e:
            raise InputError(
                f"{what}: the network failed on two preprocessed images of shape {_shape(batch)} "
                f"({reason(e)}); does the preprocessing belong to it?"
            ) from e
    return seen


def probe_batch(preprocess: Callable[[Any], Any], what: str) -> Any:
    """Two square images of noise, preprocessed and collated.

    Raises:
        InputError: the preprocessing fails on an RGB image, or returns no float tensor (3,H,W) nor a dict of tensors.
    """
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (PROBES, 256, 256, 3), dtype=np.uint8)
    wanted = "it gets one RGB PIL image and must return a float tensor (3,H,W), or a dict of tensors"
    try:
        made = [preprocess(Image.fromarray(pixels)) for pixels in noise]
    except (Exception, SystemExit) as e:
        raise InputError(f"{what}: preprocess failed ({reason(e)}); {wanted}") from e
    for one in made:
        values = list(one.values()) if isinstance(one, Mapping) else [one]
        if not values or not all(isinstance(v, Tensor) for v in values):
            raise InputError(f"{what}: preprocess returned {type(one).__name__}; {wanted}")
        if not isinstance(one, Mapping) and (one.dim() != 3 or not one.is_floating_point()):
            raise InputError(f"{what}: preprocess returned {one.dtype} of shape {tuple(one.shape)}; {wanted}")
    with blaming(f"{what}: two preprocessed images make no batch"):
        return default_collate(made)


def is_square(batch: Any) -> bool:
    """Whether the images of a batch are as high as wide."""
    tensors = batch.values() if isinstance(batch, Mapping) else [batch]
    return all(t.shape[-1] == t.shape[-2] for t in tensors if t.dim() == 4)


def check_batch(output: Tensor, what: str) -> None:
    """Refuse a probe's output whose first size is not the batch, e.g. (L,B,N) tokens or windows of images, one without
    neurons, and one that is no dense tensor."""
    if output.layout != torch.strided:
        raise InputError(
            f"{what} gives a sparse tensor ({output.layout}), which is not pooled here: pick another layer"
        )
    if output.numel() == 0:
        raise InputError(f"{what} gives shape {tuple(output.shape)}, which holds no neuron: pick another layer")
    if output.dim() < 2 or output.shape[0] != PROBES:
        raise InputError(
            f"{what} gives shape {tuple(output.shape)} for {PROBES} images, so its first size is not the batch: "
            "pick a layer around it"
        )


def _shape(batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return {name: tuple(value.shape[1:]) for name, value in batch.items()}
    return tuple(batch.shape[1:])


@contextmanager
def still(network: nn.Module, dtype: str = "float32") -> Iterator[None]:
    """Eval mode without gradient, each module's own training flag restored afterwards."""
    training = [module for module in network.modules() if module.training]
    for module in training:
        module.training = False
    try:
        with torch.no_grad(), computing(device_of(network).type, dtype):
            yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def computing(device: str, dtype: str) -> Iterator[None]:
    """Inside, a device computes in one of `DTYPES`, whatever the user's settings.

    An NVIDIA GPU computes float32 as float32. By default it rounds what convolutions read to 10 bits (TF32), which
    costs the third digit of an activation.
    """
    half, tf32 = DTYPES[dtype], torch.backends.cudnn.allow_tf32
    if device == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    try:
        with (
            products("medium" if (device, dtype) == ("cpu", "onednn") else "highest"),
            torch.autocast(device, dtype=half, enabled=half is not None),
        ):
            yield
    finally:
        if device == "cuda":
            torch.backends.cudnn.allow_tf32 = tf32


def known_dtype(dtype: Any) -> None:
    """Refuse a precision that is unknown, or "onednn" where that rounds float32 to bfloat16."""
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}")
    if dtype == "onednn" and not tried(dtype).right:
        raise InputError("dtype onednn: on this processor oneDNN rounds float32 to bfloat16; use float32 or bf16")


def forward(network: nn.Module, batch: Any) -> Any:
    """The network's own output for a batch, a tensor or a dict of tensors, moved to where the network is."""
    batch = moved(batch, device_of(network))
    return network(**batch) if isinstance(batch, Mapping) else network(batch)


def moved(batch: Any, device: torch.device) -> Any:
    """A batch, a tensor or a dict of tensors, on a device; through pinned memory to CUDA, so that the copy waits for
    nothing."""
    if isinstance(batch, Mapping):
        return {name: moved(value, device) for name, value in batch.items()}
    return pinned(batch, device).to(device, non_blocking=True)


def pinned(batch: Any, device: torch.device | None) -> Any:
    """A batch, a tensor or a dict of tensors, in memory from which a GPU reads by itself; unchanged for others."""
    if device is None or device.type != "cuda":
        return batch
    if isinstance(batch, Mapping):
        return {name: pinned(value, device) for name, value in batch.items()}
    return batch if batch.is_cuda or batch.is_pinned() else batch.pin_memory()
