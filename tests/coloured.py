"""Small real things that many tests use: pictures of coloured discs, an own network and an own encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw
from torch import Tensor, nn
from torch.nn.functional import normalize

COLOURS = ("red", "green", "blue", "yellow", "cyan", "magenta", "white")


def draw_discs(folder: Path, count: int = 42, size: int = 32) -> Path:
    """PNG files of discs, striped or plain, in seven colours on grey: every picture is different."""
    random = np.random.default_rng(0)
    for i in range(count):
        image = Image.new("RGB", (size, size), (int(random.integers(40, 90)),) * 3)
        draw = ImageDraw.Draw(image)
        x, y = random.integers(0, 8, 2).tolist()
        draw.ellipse((x, y, x + size - 12, y + size - 12), fill=ImageColor.getrgb(COLOURS[i % len(COLOURS)]))
        if i % 2:
            for row in range(0, size, 4):
                draw.line((0, row, size, row), fill=(0, 0, 0))
        (folder / COLOURS[i % len(COLOURS)]).mkdir(parents=True, exist_ok=True)
        image.save(folder / COLOURS[i % len(COLOURS)] / f"{i:03d}.png")
    return folder


def draw_hard(folder: Path) -> Path:
    """75 discs, six copies of some of them far from what they are copies of, and a file that is no picture."""
    draw_discs(folder, count=75)
    for i in (3, 40, 74):
        found = next(folder.rglob(f"{i:03d}.png"))
        (folder / f"copy{i}.png").write_bytes(found.read_bytes())
        (folder / "white" / f"zcopy{i}.png").write_bytes(found.read_bytes())
    (folder / "blue" / "broken.png").write_bytes(b"not a picture")
    return folder


def to_pixels(image: Image.Image) -> Tensor:
    """RGB image to (3,32,32) in [0,1]."""
    array = np.asarray(image.resize((32, 32)), np.float32) / 255
    return torch.from_numpy(array).permute(2, 0, 1)


class ColourNet(nn.Module):
    """Own network: one channel per primary colour, one dead and one constant neuron, then a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 1)
        self.relu = nn.ReLU()
        self.head = nn.Linear(6, 4)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.bias.zero_()
            for channel in range(3):
                self.conv.weight[channel] = -0.5
                self.conv.weight[channel, channel] = 1.0
            self.conv.weight[3] = 0.4
            self.conv.bias[4], self.conv.bias[5] = -1.0, 0.5
            self.head.bias.zero_()
            self.head.weight.copy_(torch.linspace(-1, 1, 24).reshape(4, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.conv(x)).mean((2, 3)))


class ColourEncoder:
    """Own encoder: an image is its mean colour, a text the colour that it names; unit rows of width 3."""

    name = "colours"
    fingerprint = "c0" * 16
    width = 3

    def preprocess(self, image: Image.Image) -> Tensor:
        return to_pixels(image)

    def __call__(self, batch: Tensor) -> Tensor:
        return normalize(batch.mean((2, 3)) + 1e-3, dim=1)

    def texts(self, texts: Sequence[str]) -> Tensor:
        return normalize(torch.tensor([ImageColor.getrgb(t.split()[-1]) for t in texts]).float() + 1e-3, dim=1)
