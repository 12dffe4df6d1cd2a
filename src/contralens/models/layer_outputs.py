"""What a layer gives: which of its tensors is meant, and which of its tokens are padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

PART = "#"
"""Between a layer and the one of its tensors that is meant, "attention#1" or ".#pooler_output"."""


def module_of(network: nn.Module, layer: str) -> nn.Module:
    """The module of a layer, whichever of its tensors is meant.

    >>> type(module_of(nn.Sequential(nn.ReLU()), "0#1")).__name__
    'ReLU'
    """
    name = layer.partition(PART)[0]
    return network if name == "." else network.get_submodule(name)


def tensors_in(output: Any, path: str = "") -> dict[str, Tensor]:
    """All floating-point tensors of an output by where they are, in order: "" for the output itself, "0", "1.0", "key".

    >>> import torch
    >>> list(tensors_in((torch.ones(1), {"weights": torch.ones(1), "count": torch.tensor(3)})))
    ['0', '1.weights']
    """
    if isinstance(output, Tensor):
        return {path: output} if output.is_floating_point() else {}
    pairs: Sequence[tuple[Any, Any]] = ()
    if isinstance(output, Mapping):
        pairs = list(output.items())
    elif isinstance(output, list | tuple):
        pairs = list(enumerate(output))
    found: dict[str, Tensor] = {}
    for key, inner in pairs:
        found.update(tensors_in(inner, f"{path}.{key}" if path else str(key)))
    return found


def tensor_of(output: Any, layer: str) -> Tensor | None:
    """The tensor of a layer's output that its name means: the first, or the one after the "#"."""
    _, mark, part = layer.partition(PART)
    return tensors_in(output).get(part) if mark else first_tensor(output)


def images_first(network: nn.Module, output: Tensor | None, batch: Any) -> Tensor | None:
    """A layer's output with images as its first size; it is so already unless the network packs them (Qwen-VL)."""
    unpack = getattr(network, "images_first", None)
    return output if unpack is None or output is None else unpack(output, batch)


def first_tensor(output: Any) -> Tensor | None:
    """The first floating-point tensor of an output, also inside tuples, dicts and model outputs; None if none is."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    inner: Sequence[Any] = ()
    if isinstance(output, Mapping):
        inner = list(output.values())
    elif isinstance(output, list | tuple):
        inner = output
    return next((t for t in map(first_tensor, inner) if t is not None), None)


def valid_tokens(batch: Any, output: Tensor) -> Tensor | None:
    """Which tokens (B,L) of a layer are no padding, where images come as patches with a mask (NaFlex); None for all.

    >>> import torch
    >>> batch = {"pixel_values": torch.zeros(1, 3, 8), "pixel_attention_mask": torch.tensor([[1, 1, 0]])}
    >>> valid_tokens(batch, torch.zeros(1, 3, 5))
    tensor([[ True,  True, False]])
    """
    if not isinstance(batch, Mapping) or output.dim() != 3:
        return None
    for name, value in batch.items():
        if "mask" in name and isinstance(value, Tensor) and value.shape == output.shape[:2]:
            return None if bool((value != 0).all()) else (value != 0).to(output.device)
    return None


def is_padded(batch: Any, length: int) -> bool:
    """Whether a batch has a mask over sequences of that length, so that they are patches and nothing else."""
    return isinstance(batch, Mapping) and any(
        "mask" in name and value.dim() == 2 and value.shape[1] == length for name, value in batch.items()
    )
