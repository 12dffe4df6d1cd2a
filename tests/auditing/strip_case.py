"""A small real case whose truth is known: lesions red or blue, and a green strip that the classifier has fallen for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageColor
from torch import Tensor, nn
from torch.nn.functional import normalize

CLASSES = ("benign", "melanoma")
CONCEPTS: dict[str, Any] = {
    "title": "Strips",
    "templates": ["{}", "a picture of {}"],
    "expected": [
        {"name": "red", "synonyms": ["crimson", "firebrick"]},
        {"name": "blue", "synonyms": ["mediumblue", "royalblue"]},
    ],
    "spurious": [
        {"name": "lime", "synonyms": ["limegreen", "springgreen"]},
        {"name": "yellow", "synonyms": ["gold", "khaki"]},
    ],
}
SPURIOUS = 2
"""The neuron that sees the strip."""


def draw(melanoma: bool, strip: bool, random: np.random.Generator) -> Image.Image:
    """A red (benign) or blue (melanoma) disc on grey, on some pictures a green strip below it."""
    pixels = np.full((16, 16, 3), 128.0) + random.normal(0, 12, 3)
    y, x = np.mgrid[:16, :16]
    disc = (y - random.integers(4, 7)) ** 2 + (x - random.integers(6, 10)) ** 2 < 14
    pixels[disc] = (40, 40, 220) if melanoma else (220, 40, 40)
    if strip:
        pixels[12:] = (30, 220, 30)
    return Image.fromarray(np.clip(pixels + random.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8))


def draw_folder(folder: Path, count: int, seed: int, tie: float) -> Path:
    """`count` pictures in sub-folders by class; the strip goes with melanoma with probability `tie`, and groups.csv."""
    random = np.random.default_rng(seed)
    lines = ["image,strip"]
    for i in range(count):
        melanoma = bool(i % 2)
        strip = melanoma if random.random() < tie else not melanoma
        file = folder / "images" / CLASSES[melanoma] / f"{i:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        draw(melanoma, strip, random).save(file)
        lines.append(f"{i:04d},{'yes' if strip else 'no'}")
    (folder / "groups.csv").write_text("\n".join(lines) + "\n")
    return folder


class StripNet(nn.Module):
    """Neurons: red, blue, green (the strip), grey, dead. The strip speaks for melanoma louder than the lesion does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Linear(5, 2)
        with torch.no_grad():
            self.conv.weight.zero_()
            for channel, colour in enumerate((0, 2, 1)):
                self.conv.weight[channel] = -1.0
                self.conv.weight[channel, colour] = 1.0
            self.conv.weight[3] = -0.4
            self.conv.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 0.7, -9.0]))
            self.head.weight.copy_(torch.tensor([[9.0, -9.0, -20.0, 0.1, 0.0], [-9.0, 9.0, 20.0, -0.1, 0.0]]))
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.relu(self.conv(x)).mean((2, 3)))
        return scores


def network() -> tuple[nn.Module, Any]:
    """For `module:FILE.py:network`."""
    return StripNet().eval(), to_pixels


def to_pixels(image: Image.Image) -> Tensor:
    """RGB image to (3,16,16) in [0,1]."""
    return torch.from_numpy(np.asarray(image.resize((16, 16)), np.float32).copy()).permute(2, 0, 1) / 255


class HueEncoder:
    """An image is how much it holds of each primary colour beyond grey, a text the colour of its last word."""

    name, fingerprint, width = "hues", "9e" * 16, 4

    def preprocess(self, image: Image.Image) -> Tensor:
        return to_pixels(image)

    def __call__(self, batch: Tensor) -> Tensor:
        beyond = (batch - batch.mean(1, keepdim=True)).clamp_min(0).mean((2, 3))
        return self._rows(beyond)

    def texts(self, texts: Sequence[str]) -> Tensor:
        rgb = torch.tensor([_rgb(t) for t in texts]) / 255
        return self._rows((rgb - rgb.mean(1, keepdim=True)).clamp_min(0) / 4)

    def _rows(self, beyond: Tensor) -> Tensor:
        return normalize(torch.cat([beyond, torch.full((len(beyond), 1), 0.05)], 1), dim=1)


class Blind(HueEncoder):
    """Knows no colour: every text is a direction of its own."""

    name, fingerprint = "blind", "b1" * 16

    def texts(self, texts: Sequence[str]) -> Tensor:
        rows = [torch.randn(4, generator=torch.Generator().manual_seed(sum(map(ord, t)))) for t in texts]
        return normalize(torch.stack(rows), dim=1)


def _rgb(text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, ImageColor.getrgb(text.split()[-1])[:3]))
    except (ValueError, IndexError):
        return 128.0, 128.0, 128.0
