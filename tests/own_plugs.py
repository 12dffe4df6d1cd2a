"""Plugs of a user's own in one file, one of each kind: what tests name as FILE.py:NAME."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize

COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0), "white": (0.6, 0.6, 0.6)}


def words(most: int = 4) -> list[str]:
    """Colours, few of them."""
    return list(COLOURS)[:most]


def network(rest: str, *, weights: Any = None, checkpoint: Any = None) -> Any:
    """The mean of each channel."""
    from contralens.loading.loaded import Loaded

    pool = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    return Loaded(pool, preprocess=_pixels, default_layer="1", notes=[f"channels of {rest}"])


def build() -> Any:
    """The same without a rest: what `module:` takes."""
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()), _pixels


def _pixels(image: Any) -> torch.Tensor:
    small = image.convert("RGB").resize((4, 4), Image.Resampling.BOX)
    return torch.from_numpy(np.array(small, np.float32)).permute(2, 0, 1) / 255


class Eyes:
    """The mean colour."""

    width = 3

    def __init__(self, rest: str, power: float) -> None:
        self.name, self.power = f"eyes:{rest}", power
        self.fingerprint = hashlib.sha256(f"eyes-1 {power}".encode()).hexdigest()[:32]

    def preprocess(self, image: Any) -> torch.Tensor:
        return _pixels(image).mean((1, 2))

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        return normalize((batch + 1e-3) ** self.power, dim=1)

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        return normalize(torch.tensor([COLOURS[text] for text in texts]), dim=1)


def eyes(rest: str, device: str, *, power: float = 1.0) -> Eyes:
    """Sees the mean colour."""
    return Eyes(rest, power)


def strongest(exemplars: Any, embeddings: Any, texts: Any, *, rank: int = 0) -> Any:
    """Cosine of one exemplar alone."""
    return embeddings[exemplars.positives[:, rank].clamp_min(0)] @ texts.T


def hit_rate(activations: Any, predictions: Any, k: int = 10) -> Any:
    """Share of the k images with the highest prediction on which the neuron is above its mean."""
    top = predictions.topk(min(k, len(predictions)), dim=0).indices
    return (activations > activations.mean(0)).gather(0, top).double().mean(0)


class Brush:
    """Plain areas in the colour that a prompt names, with noise."""

    name, fingerprint = "brush", "0" * 32

    def __init__(self, size: int) -> None:
        self.size = size

    def paint(self, prompt: str, seeds: Sequence[int]) -> list[Any]:
        colour = next((c for word, c in COLOURS.items() if word in prompt), (0.0, 0.0, 0.0))
        return [Image.new("RGB", (self.size, self.size), tuple(int(200 * c) + s % 50 for c in colour)) for s in seeds]


def brush(rest: str, device: str, *, size: int = 8) -> Brush:
    """Paints one colour."""
    return Brush(size)


class Namer:
    """Always the same concept."""

    fingerprint, batch, workers = "namer-1", 4, 1

    def __init__(self, word: str) -> None:
        self.name, self.word = f"namer:{word}", word

    def ask(self, requests: Sequence[Any]) -> list[Any]:
        from contralens.proposing.proposers import Reply

        return [Reply(f'{{"concepts": ["{self.word}"]}}') for _ in requests]


def namer(rest: str, *, loud: bool = False) -> Namer:
    """Names what its name says."""
    return Namer(rest.upper() if loud else rest)


class Nothing:
    """Changes nothing."""

    name, fingerprint, by_region, exact = "nothing", "0" * 32, False, False

    def __init__(self, bench: Any) -> None:
        self.bench = bench

    def edit(self, request: Any) -> Any:
        return "nothing to change"


def nothing(rest: str, bench: Any) -> Nothing:
    """Changes nothing."""
    return Nothing(bench)
