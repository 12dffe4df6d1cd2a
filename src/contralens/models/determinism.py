"""Whether a network's rows are a function of the image: the same twice, and the same alone as among other images.

Random masking, dropout that is always on, noise, a call counter, random augmentation and statistics of the batch make
an image's activation depend on chance or on its neighbours. It is separated from rounding by its size:

- The same images twice, in the same batch, give the same bits on a CPU and differ in the last bits at most on a GPU.
  What moves a row by more than `TWICE` of the rows' length is no rounding.
- Alone and together, kernels of another batch size round differently. A row must move by more than `TOGETHER` of its
  length (`COARSE` where anything was computed in 16 bits or less) and by more than `SPREAD` of what shows the images
  apart, which also lets pass a choice that rounding tips over (a route, a merged token) at a few places of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.data import default_collate

TWICE, TOGETHER, COARSE, SPREAD = 1e-5, 3e-4, 0.1, 2e-2
_HALF = (torch.bfloat16, torch.float16)
Rows = Callable[[Any], Sequence[Tensor]]
"""A collated batch to rows (B,N) of one or more layers."""


def why_not_repeatable(
    images: Sequence[Any], preprocess: Callable[[Any], Any], rows: Rows, network: nn.Module | None = None
) -> str | None:
    """What makes the rows of an image differ from one call to the next, in words; None where nothing does.

    Args:
        images: two or more, that preprocess to one shape.
        preprocess: one image to a tensor, or a dict of tensors.
        rows: what is asked about.
        network: looked at for weights in 16 or 8 bits, which round more.

    >>> from PIL.Image import new
    >>> images = [new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    >>> pixels = lambda image: torch.tensor(image.getpixel((0, 0)))[:, None, None].expand(3, 8, 8) / 255
    >>> why_not_repeatable(images, pixels, lambda x: [x.mean((2, 3))]) is None
    True
    >>> why_not_repeatable(images, pixels, lambda x: [x.mean((2, 3)) - x.mean()])
    "an image's row depends on the other images of its batch (statistics of the batch?)"
    """
    made, again = [preprocess(image) for image in images], [preprocess(image) for image in images]
    if not all(map(_same, made, again)):
        return "its preprocessing gives another tensor for the same image each time (random augmentation?)"
    try:
        with _Precision() as precision:
            together = _floats(rows(default_collate(made)))
    except Exception:  # what is compiled or traced may not bear to be listened to
        precision = _Precision(half=True)
        together = _floats(rows(default_collate(made)))
    twice = _floats(rows(default_collate(made)))
    coarse = precision.half or is_coarse(network)
    allowed = COARSE if coarse and precision.device != "cpu" else TWICE
    if any(_length(a - b).max() > allowed * _length(a).max() for a, b in zip(together, twice, strict=True)):
        return "the same images gave other rows the second time (dropout, random masking, noise or a counter?)"
    order = list(range(len(made)))[::-1]
    try:
        alone = [_floats(rows(default_collate([made[i]]))) for i in order]
    except Exception:  # it cannot take a single image; whoever meets one will say so
        return None
    for at, whole in enumerate(together):
        one = torch.cat([alone[order.index(i)][at] for i in range(len(made))])
        moved = float(_length(one - whole).max())
        size, spread = float(_length(whole).max()), float(_length(whole - whole.mean(0)).square().mean().sqrt())
        if not moved <= max((COARSE if coarse else TOGETHER) * size, SPREAD * spread):
            return "an image's row depends on the other images of its batch (statistics of the batch?)"
    return None


def not_a_function(name: str, why: str, allowed: bool = False) -> str:
    """What is said of a network whose rows are not a function of the image, as an error or as a note.

    >>> not_a_function("mine", "it draws")
    'mine: it draws; use another network, or --allow-nondeterministic (allow_nondeterministic=True)'
    """
    if allowed:
        return f"{name}: {why}; its rows, and all that is computed from them, may differ from run to run"
    return f"{name}: {why}; use another network, or --allow-nondeterministic (allow_nondeterministic=True)"


def noise(count: int, size: tuple[int, int] = (256, 256), seed: int = 0) -> list[Any]:
    """Images of noise, the same everywhere; each darker than the last, lest they be alike to a network that averages.

    >>> [image.size for image in noise(2)]
    [(256, 256), (256, 256)]
    """
    from PIL import Image

    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (count, size[1], size[0], 3), dtype=np.uint16)
    shade = np.array([[1.0, 1.0, 1.0], [0.8, 0.5, 0.2], [0.2, 0.3, 0.5]])
    return [Image.fromarray((one * shade[i % 3]).astype(np.uint8)) for i, one in enumerate(pixels)]


class _Precision(TorchFunctionMode):
    """Hears whether anything is computed in 16 bits, and where."""

    def __init__(self, half: bool = False) -> None:
        super().__init__()
        self.half, self.device = half, "cpu"

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.half = self.half or made.dtype in _HALF or made.is_quantized
            self.device = made.device.type if made.device.type not in ("cpu", "meta") else self.device
        return made


def is_coarse(network: Any) -> bool:
    """Whether a network's weights have 16 bits or fewer, also where that is in the kind of the modules only."""
    if not isinstance(network, nn.Module):
        return False
    kinds = {type(module).__module__ for module in network.modules()}
    stored = {t.dtype for t in (*network.parameters(), *network.buffers())}
    return bool(stored & {*_HALF, torch.int8, torch.uint8}) or any("quant" in kind for kind in kinds)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return one.shape == other.shape and bool(torch.equal(one.nan_to_num(0), other.nan_to_num(0)))


def _floats(rows: Sequence[Tensor]) -> list[Tensor]:
    """Rows (B,N) in float64 with what is not finite left out of the comparison."""
    return [one.detach().cpu().double().flatten(1).nan_to_num(0.0, 0.0, 0.0) for one in rows]


def _length(rows: Tensor) -> Tensor:
    length: Tensor = rows.norm(dim=1)
    return length
