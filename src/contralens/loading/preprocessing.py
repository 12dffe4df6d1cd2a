"""Preprocessing that a user spells out, as a dictionary or on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from contralens.checks import nearest
from contralens.errors import InputError
from contralens.specs import settings

if TYPE_CHECKING:
    from PIL.Image import Image

STATISTICS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Known channel means and standard deviations by name."""

_INTERPOLATIONS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
_KEYS = ("resize", "crop", "mean", "std", "interpolation", "channels", "range")
CHANNELS = ("rgb", "bgr", "gray")
"""What the network takes, in this order."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Resize, crop the centre, scale to 0..1, subtract `mean`, divide by `std`, as torchvision does on a PIL image.

    `resize` is the new shorter side, or (width, height) regardless of the image's own shape; `crop` a side or
    (width, height); None leaves the step out.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | tuple[int, int] | None = None
    crop: int | tuple[int, int] | None = None
    interpolation: str = "bilinear"

    def __call__(self, image: Image) -> Tensor:
        """One RGB image to (3,H,W) float32."""
        x = torch.from_numpy(np.asarray(self._cut(image), dtype=np.float32).transpose(2, 0, 1) / 255)
        return (x - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]

    def _cut(self, image: Image) -> Image:
        """Resized and cropped."""
        from PIL.Image import Resampling

        if self.resize is not None:
            if isinstance(self.resize, int):
                short = min(image.size)
                size = (self.resize * image.width // short, self.resize * image.height // short)
            else:
                size = self.resize
            image = image.resize(size, Resampling(_INTERPOLATIONS[self.interpolation]))
        if self.crop is not None:
            width, height = (self.crop, self.crop) if isinstance(self.crop, int) else self.crop
            left, top = round((image.width - width) / 2), round((image.height - height) / 2)
            image = image.crop((left, top, left + width, top + height))
        return image


@dataclass(frozen=True, slots=True)
class OtherChannels(Preprocessing):
    """The same for a network that takes gray or BGR images, or values up to another number than 1.

    `mean` and `std` are in the unit of `range` and in the order of `channels`.

    >>> from PIL.Image import new
    >>> made = preprocessing("crop=2,mean=0/0/0,std=1/1/1,channels=bgr,range=255")
    >>> made(new("RGB", (4, 4), (10, 20, 30)))[:, 0, 0]
    tensor([30., 20., 10.])
    """

    channels: str = "rgb"
    range: float = 1.0

    def __call__(self, image: Image) -> Tensor:
        """One RGB image to (3,H,W) float32, or (1,H,W) of gray."""
        pixels = np.asarray(
            Preprocessing._cut(self, image.convert("L") if self.channels == "gray" else image), np.float32
        )
        pixels = pixels[None] if self.channels == "gray" else pixels.transpose(2, 0, 1)
        if self.channels == "bgr":
            pixels = pixels[::-1]
        x = torch.from_numpy(pixels / 255)
        x = x if self.range == 1 else x * self.range
        return (x - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]


def preprocessing(spec: str | Mapping[str, Any]) -> Preprocessing:
    """Preprocessing from "resize=256,crop=224,mean=imagenet" or the same as a dictionary.

    Keys: `resize` and `crop` (a number, or WIDTHxHEIGHT), `mean` and `std` (a name of `STATISTICS`, or three numbers
    with slashes; one for gray), `interpolation` (bilinear, bicubic, lanczos, nearest), `channels` (rgb, bgr, gray),
    `range` (the value of white: 1, or 255 for networks that take 0..255). A named mean brings its own std and is
    brought to the range; numbers are in its unit and in the order of the channels. `mean` must be given, as must `crop`
    or a `resize` to WIDTHxHEIGHT, so that images of any shape can be in one batch.

    Raises:
        InputError: an unknown key or a value that does not fit it.

    >>> preprocessing("resize=256,crop=224,mean=half").std
    (0.5, 0.5, 0.5)
    """
    if isinstance(spec, str):
        pairs = settings(spec)
        broken = next((key for key, value in pairs if value is None), None)
        if broken is not None:
            raise InputError(f"preprocess: {broken!r} is not KEY=VALUE; write e.g. resize=256,crop=224,mean=imagenet")
        values: dict[str, Any] = dict(pairs)
    else:
        values = dict(spec)
    for key in values:
        if key not in _KEYS:
            raise InputError(f"preprocess: unknown key {key!r}{nearest(key, _KEYS) or '; known: ' + ', '.join(_KEYS)}")
    resize, crop = _side("resize", values.get("resize")), _side("crop", values.get("crop"))
    if values.get("mean") is None or (crop is None and not isinstance(resize, tuple)):
        raise InputError(
            "preprocess must name a mean, and a crop or a resize to WIDTHxHEIGHT, "
            "e.g. resize=256,crop=224,mean=imagenet"
        )
    channels, most = str(values.get("channels", "rgb")).lower().replace("grey", "gray"), _range(values.get("range", 1))
    if channels not in CHANNELS:
        raise InputError(f"preprocess: channels must be one of {', '.join(CHANNELS)}; got {values['channels']!r}")
    mean = _triple("mean", values["mean"], 0, channels, most)
    std = values.get("std") or (
        values["mean"] if isinstance(values["mean"], str) and values["mean"] in STATISTICS else None
    )
    if std is None:
        raise InputError("preprocess: a mean in numbers needs a std too, e.g. mean=.5/.5/.5,std=.2/.2/.2")
    interpolation = str(values.get("interpolation", "bilinear"))
    if interpolation not in _INTERPOLATIONS:
        raise InputError(
            f"preprocess: interpolation must be one of {', '.join(_INTERPOLATIONS)}; got {interpolation!r}"
        )
    deviation = _triple("std", std, 1, channels, most)
    if (channels, most) == ("rgb", 1.0):
        return Preprocessing(mean, deviation, resize, crop, interpolation)
    return OtherChannels(mean, deviation, resize, crop, interpolation, channels, most)


def in_gray(made: Preprocessing) -> Preprocessing:
    """The same for a network that takes one channel, mean and deviation averaged over channels.

    >>> in_gray(preprocessing("crop=8,mean=.2/.4/.6,std=.5/.5/.5")).mean
    (0.4,)
    """
    mean, std = (round(sum(v) / len(v), 7) for v in (made.mean, made.std))
    return OtherChannels((mean,), (std,), made.resize, made.crop, made.interpolation, "gray", 1.0)


def _range(value: Any) -> float:
    try:
        most = float(value)
    except (TypeError, ValueError):
        most = 0.0
    if not 0 < most < float("inf"):
        raise InputError(f"preprocess: range must be the value of white, such as 1 or 255; got {value!r}")
    return most


def _triple(key: str, value: Any, which: int, channels: str = "rgb", most: float = 1.0) -> tuple[float, ...]:
    """A number for each channel: a name's, in the order and unit asked for, or as given."""
    wanted = 1 if channels == "gray" else 3
    if isinstance(value, str) and value in STATISTICS:
        named: tuple[float, ...] = STATISTICS[value][which]
        # white minus black spans `most`, but "none" divides by 1 whatever the range
        named = named if value == "none" else tuple(v * most for v in named)
        return (round(sum(named) / 3, 7),) if wanted == 1 else named[::-1] if channels == "bgr" else named
    try:
        numbers = tuple(float(v) for v in (value.split("/") if isinstance(value, str) else np.atleast_1d(value)))
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != wanted or (key == "std" and min(numbers) <= 0):
        such = "one number such as .5" if wanted == 1 else "three numbers such as .5/.5/.5"
        raise InputError(f"preprocess: {key} must be one of {', '.join(STATISTICS)}, or {such}; got {value!r}")
    return numbers


def _side(key: str, value: Any) -> int | tuple[int, int] | None:
    if value is None:
        return None
    try:
        sides = tuple(int(v) for v in (value.lower().split("x") if isinstance(value, str) else np.atleast_1d(value)))
    except (TypeError, ValueError):
        sides = ()
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise InputError(f"preprocess: {key} must be a number of pixels or WIDTHxHEIGHT; got {value!r}")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])
