"""A small real case: coloured pictures, a network that sees colours, two encoders that know colour words."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageColor
from torch import Tensor, nn
from torch.nn.functional import normalize

from contralens.models.targets import HookedTarget, target

COLOURS = ("red", "lime", "blue", "yellow", "magenta", "cyan", "white", "black")


class ColourEncoder:
    """Images by their mean colour, texts by the colours that they name; both centred on grey."""

    width = 4

    def __init__(self, sharpness: float = 1.0) -> None:
        self.name, self.sharpness = f"colours:{sharpness}", sharpness
        self.fingerprint = hashlib.sha256(self.name.encode()).hexdigest()[:32]

    def preprocess(self, image: Image.Image) -> Tensor:
        return torch.from_numpy(np.asarray(image.resize((4, 4)), np.float32).copy()).permute(2, 0, 1) / 255

    def __call__(self, batch: Tensor) -> Tensor:
        return self._rows(batch.mean((2, 3)))

    def texts(self, texts: list[str]) -> Tensor:
        return self._rows(torch.tensor([ImageColor.getrgb(t.split()[-1]) for t in texts]).float() / 255)

    def _rows(self, rgb: Tensor) -> Tensor:
        centred = (rgb - 0.5) * self.sharpness
        return normalize(torch.cat([centred, torch.full((len(rgb), 1), 0.2)], dim=1), dim=1)


def colour_network() -> nn.Module:
    """Eight channels, one per colour of `COLOURS`, then a classifier that reads them."""
    rgb = torch.tensor([ImageColor.getrgb(c) for c in COLOURS]).float() / 255
    conv = nn.Conv2d(3, 9, 1)
    head = nn.Linear(9, 8)
    with torch.no_grad():
        conv.weight[:8, :, 0, 0] = 4 * (rgb - 0.5)
        conv.bias[:8] = -4 * (rgb * (rgb - 0.5)).sum(1) + 1
        conv.weight[8], conv.bias[8] = 0.0, 0.0  # a dead neuron
        head.weight.zero_()
        head.weight[:, :8] = 3 * torch.eye(8)
        head.bias.zero_()
    return nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()


def paint_folder(folder: Path, count: int, seed: int, nested: bool = False) -> Path:
    """`count` noisy pictures, each of one of the colours; nested: one sub-folder a colour."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        name = COLOURS[i % len(COLOURS)]
        where = folder / name if nested else folder
        where.mkdir(parents=True, exist_ok=True)
        noise = rng.normal(0, 25, (12, 12, 3)) + rng.normal(0, 30, 3)
        pixels = np.clip(np.array(ImageColor.getrgb(name)) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(where / f"{name}-{i:04}.png")
    return folder


def colour_target() -> HookedTarget:
    """The network's layer of eight colour neurons and a dead one."""
    return target(colour_network(), "1", preprocess="resize=12x12,mean=none")
