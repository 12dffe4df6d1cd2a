"""Preprocessing on the decoded pixels as a tensor: one decode serves all networks, each with its own resize and crop.

Reference transforms resize with Pillow in plain C; torch resizes 8-bit tensors with the vector units, three to five
times faster. The two round differently here and there: `Steps` gives values that are one 8-bit level off in a few of a
thousand pixels, so its rows have fingerprints of their own. Nothing is guessed: a preprocessing is replaced only if it
is of a known kind (shorter side or fixed size, bilinear or bicubic, centre crop, normalisation) AND the replacement
agrees with it on test pictures; any other stays as it is. The picture itself is decoded by the one decoder of
`data.decode` in both cases, so orientation, transparency, CMYK and 16 bits are treated the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from contralens.loading.preprocessing import Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image

DECODES = ("exact", "fast")
"""`exact` is each network's own transform; `fast` is `Steps` wherever that agrees with it."""
LARGEST_DIFFERENCE, MEAN_DIFFERENCE = 8.0, 0.25
"""What a replacement may differ by on the test pictures, which are noisy: one value and their mean, levels of 255."""
_MODES = {"bilinear": "bilinear", "bicubic": "bicubic", 2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True, slots=True)
class Steps:
    """Resize, crop the centre, scale to 0..1, subtract `mean` and divide by `std`, on a tensor of 8-bit pixels."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | tuple[int, int] | None
    """The shorter side, or (height, width)."""
    crop: tuple[int, int] | None
    """(height, width)"""
    mode: str
    """bilinear or bicubic, both with antialiasing"""
    name: str | None = None
    """The network's argument, for a preprocessing that returns a dict."""
    version: int = 1
    """Raise it when the code changes its results."""

    def __call__(self, image: Image | Tensor) -> Any:
        """One RGB image, or its pixels (3,H,W) uint8, to (3,h,w) float32 or a dict of it."""
        x = image if isinstance(image, Tensor) else pixels(image)
        size = self._size(x.shape[1], x.shape[2])
        if size != tuple(x.shape[1:]):
            x = interpolate(x[None], size, mode=self.mode, antialias=True, align_corners=False)[0]
        if self.crop is not None:
            x = _centre(x, *self.crop)
        y = x.to(torch.float32).div_(255)  # in the order of torchvision, whose bits these are where nothing is resized
        y.sub_(torch.tensor(self.mean)[:, None, None]).div_(torch.tensor(self.std)[:, None, None])
        y = y.contiguous()
        return y if self.name is None else {self.name: y}

    def _size(self, height: int, width: int) -> tuple[int, int]:
        if self.resize is None:
            return height, width
        if isinstance(self.resize, tuple):
            return self.resize
        short = min(height, width)
        return self.resize * height // short, self.resize * width // short


def _centre(x: Tensor, height: int, width: int) -> Tensor:
    """The middle of a picture, after black margins where it is smaller, to the pixel as torchvision has it."""
    lacks = (max(0, width - x.shape[2]), max(0, height - x.shape[1]))
    if any(lacks):
        sideways, upright = lacks
        x = pad(x, [sideways // 2, (sideways + 1) // 2, upright // 2, (upright + 1) // 2])
    top, left = round((x.shape[1] - height) / 2), round((x.shape[2] - width) / 2)
    return x[:, top : top + height, left : left + width]


def pixels(image: Image) -> Tensor:
    """An RGB image as (3,H,W) uint8, channels last in memory, which is what resizing is fastest on."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def fast(preprocess: Callable[[Any], Any]) -> Steps | None:
    """`preprocess` on tensors, or None where it is not of a known kind or the two differ on test pictures.

    >>> from contralens.loading.preprocessing import preprocessing
    >>> fast(preprocessing("resize=256,crop=224,mean=imagenet")).resize
    256
    >>> fast(lambda image: torch.zeros(3, 8, 8)) is None
    True
    """
    try:
        steps = _read(preprocess)
        return steps if steps is not None and difference(steps, preprocess)[0] <= LARGEST_DIFFERENCE else None
    except (AttributeError, TypeError, ValueError, KeyError, IndexError, RuntimeError):
        return None  # not as it is known


def fast_or_own(preprocess: Callable[[Any], Any], notes: list[str]) -> Callable[[Any], Any]:
    """`fast(preprocess)`, or `preprocess` where that is None; `notes` gets what a manifest must say of it."""
    steps = fast(preprocess)
    if steps is None:
        notes.append("decode=fast: its preprocessing is unknown to it, so the network's own was used")
        return preprocess
    most, mean = difference(steps, preprocess)
    notes.append(
        f"decode=fast: on test pictures up to {most:.0f} of 255 levels from its own transform, {mean:.4f} mean"
    )
    return steps


def difference(steps: Steps, preprocess: Callable[[Any], Any], images: Any = None) -> tuple[float, float]:
    """The greatest and the mean difference of the two on images, in levels of 255; infinite if shapes differ."""
    most, total, count = 0.0, 0.0, 0
    for image in sample_pictures() if images is None else images:
        ours, theirs = steps(image), preprocess(image)
        if isinstance(ours, Mapping) != isinstance(theirs, Mapping) or (
            isinstance(ours, Mapping) and set(ours) != set(theirs)
        ):
            return float("inf"), float("inf")
        a, b = (next(iter(v.values())) if isinstance(v, Mapping) else v for v in (ours, theirs))
        if a.shape != b.shape:
            return float("inf"), float("inf")
        levels = (a - b).abs() * torch.tensor(steps.std)[:, None, None] * 255
        if float(levels.mean()) > MEAN_DIFFERENCE and images is None:
            return float("inf"), float("inf")
        most, total, count = max(most, float(levels.max())), total + float(levels.mean()), count + 1
    return most, total / max(1, count)


def sample_pictures() -> list[Image]:
    """Noisy, textured pictures of several shapes: wide, high, square, tiny, with an odd rest to crop."""
    from PIL import Image

    random = np.random.default_rng(0)
    made = []
    for width, height in ((500, 375), (333, 501), (224, 224), (97, 61)):
        coarse = Image.fromarray(random.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height)), np.int16)
        noise = random.integers(-30, 31, (height, width, 3))
        made.append(Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8)))
    return made


def _read(preprocess: Any) -> Steps | None:
    """The steps that a preprocessing says it takes."""
    if isinstance(preprocess, Steps):
        return preprocess
    if type(preprocess) is Preprocessing:
        mode = _MODES.get(preprocess.interpolation)
        return mode and Steps(  # type: ignore[return-value]
            preprocess.mean, preprocess.std, _turned(preprocess.resize), _pair(_turned(preprocess.crop)), mode
        )
    owner = getattr(preprocess, "__self__", preprocess)  # an encoder, of which `preprocess` is the method
    if hasattr(owner, "_transform"):
        return _read(owner._transform)
    processor = getattr(owner, "processor", None) or getattr(owner, "_processor", None)
    if processor is not None and hasattr(processor, "to_dict"):
        return _of_transformers(processor.to_dict())
    if hasattr(preprocess, "transforms"):
        return _of_list(list(preprocess.transforms))
    if type(preprocess).__name__ == "ImageClassification":
        return Steps(
            _numbers(preprocess.mean),
            _numbers(preprocess.std),
            _side(preprocess.resize_size),
            _pair(_side(preprocess.crop_size)),
            _MODES[preprocess.interpolation.value],
        )
    return None


def _of_list(transforms: list[Any]) -> Steps | None:
    """A `Compose` as torchvision, timm and open_clip make them."""
    kinds = [type(t).__name__ for t in transforms if not _only_converts(t)]
    if kinds not in (["Resize", "CenterCrop", "Normalize"], ["Resize", "Normalize"]):
        return None
    by_kind = {type(t).__name__: t for t in transforms}
    resize, crop, normalise = by_kind["Resize"], by_kind.get("CenterCrop"), by_kind["Normalize"]
    if resize.max_size is not None or not resize.antialias:
        return None
    return Steps(
        _numbers(normalise.mean),
        _numbers(normalise.std),
        _side(resize.size),
        None if crop is None else _pair(_side(crop.size)),
        _MODES[resize.interpolation.value],
    )


def _only_converts(transform: Any) -> bool:
    """Whether a transform leaves an RGB image as it is, or makes a tensor within 0..1 of it."""
    name = getattr(transform, "__name__", type(transform).__name__)
    return name in ("ToTensor", "MaybeToTensor", "MaybeConvertMode", "_convert_to_rgb", "PILToTensor",
                    "MaybePILToTensor", "ConvertImageDtype")  # fmt: skip


def _of_transformers(settings: Mapping[str, Any]) -> Steps | None:
    if not settings.get("do_normalize") or not settings.get("do_rescale") or settings.get("do_pad"):
        return None
    size, crop = settings.get("size") or {}, settings.get("crop_size") or {}
    resize: Any = size.get("shortest_edge") or (size.get("height"), size.get("width"))
    return Steps(
        _numbers(settings["image_mean"]),
        _numbers(settings["image_std"]),
        resize if settings.get("do_resize") else None,
        (crop["height"], crop["width"]) if settings.get("do_center_crop") else None,
        _MODES[int(settings.get("resample") or 0)],
        "pixel_values",
    )


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(float(v) for v in values)


def _side(size: Any) -> int | tuple[int, int]:
    """torchvision's way to give a size: a number, a list of it, or (height, width)."""
    if isinstance(size, int):
        return size
    return int(size[0]) if len(size) == 1 else (int(size[0]), int(size[1]))


def _pair(side: int | tuple[int, int] | None) -> tuple[int, int] | None:
    return (side, side) if isinstance(side, int) else side


def _turned(size: int | tuple[int, int] | None) -> int | tuple[int, int] | None:
    """(width, height) as (height, width)."""
    return (size[1], size[0]) if isinstance(size, tuple) else size
