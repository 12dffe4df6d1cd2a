"""Networks that take other images than RGB: how many channels they want, and what gives them these."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from contralens.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Gray:
    """One gray channel: the image made gray (ITU-R 601), preprocessed, and the channels of the result averaged.

    >>> from PIL.Image import new
    >>> Gray(lambda image: torch.full((3, 2, 2), float(image.getpixel((0, 0))[0])))(new("RGB", (2, 2), "red")).shape
    torch.Size([1, 2, 2])
    """

    inner: Callable[[Any], Any]
    one: bool = False
    """Whether `inner` takes an image of one channel."""

    def __call__(self, image: Image) -> Any:
        """One RGB image to (1,H,W), or to a dict with such."""
        gray = image.convert("L")
        made = self.inner(gray if self.one else gray.convert("RGB"))
        return {key: _one(value) for key, value in made.items()} if isinstance(made, Mapping) else _one(made)


def _one(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dim() == 3 and value.shape[0] == 3:
        return value.mean(0, keepdim=True)
    return value


def channels_of(network: nn.Module) -> int | None:
    """Channels that a network's first convolution takes; None where it has none.

    >>> channels_of(nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3)))
    1
    """
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    return None if first is None else first.in_channels


def with_channels(network: nn.Module, count: int) -> nn.Module:
    """The network with a first convolution that takes another number of channels, as users and timm change it.

    Weights are summed over the channels for one channel, so that gray images give what they gave; for other numbers
    they are repeated and scaled.

    Raises:
        InputError: there is no convolution, or it is grouped.
    """
    name, first = next(((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d)), ("", None))
    if first is None or first.groups != 1 or not name:
        raise InputError(f"in_chans={count}: {type(network).__name__} has no first convolution that could take it")
    if count < 1:
        raise InputError(f"in_chans must be at least 1; got {count}")
    made = nn.Conv2d(
        count, first.out_channels, first.kernel_size, first.stride, first.padding, first.dilation, 1,  # type: ignore[arg-type]
        first.bias is not None, first.padding_mode,
    )  # fmt: skip
    with torch.no_grad():
        weight = first.weight
        repeated = weight.repeat(1, -(-count // weight.shape[1]), 1, 1)[:, :count] * (weight.shape[1] / count)
        made.weight.copy_(weight.sum(1, keepdim=True) if count == 1 else repeated)
        if first.bias is not None and made.bias is not None:
            made.bias.copy_(first.bias)
    parent = network.get_submodule(name.rpartition(".")[0])
    setattr(parent, name.rpartition(".")[2], made)
    return network


def adapted(preprocess: Callable[[Any], Any], network: nn.Module, name: str, notes: list[str]) -> Callable[[Any], Any]:
    """A library's preprocessing, made to give gray images to a network whose first convolution takes one channel.

    Raises:
        InputError: the network takes neither one nor three channels.
    """
    from PIL import Image

    count = channels_of(network)
    if count in (None, 3):
        return preprocess
    try:
        made = preprocess(Image.new("RGB", (256, 256)))
    except Exception:  # whoever probes it says why
        return preprocess
    shown = [t for t in (made.values() if isinstance(made, Mapping) else [made]) if isinstance(t, Tensor)]
    if not any(t.dim() == 3 and t.shape[0] == 3 for t in shown):
        return preprocess
    if count != 1:
        raise InputError(f"{name} takes {count} channels, and images give three: give a preprocess function in Python")
    notes.append("the network takes one channel: images are made gray, mean and deviation are averaged over channels")
    return Gray(preprocess)
