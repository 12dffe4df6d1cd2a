"""The dual encoder of the rendered world: a small CNN and a small text transformer trained with CLIP's loss.

Architecture, shipped weights and the `Encoder` that the pipeline uses; `scripts/make_world.py` trains it. Two versions
are shipped: 2 names combinations of levels that it never saw, 1 does not and stays for older results. Their cards,
`weights/encoder.json` and `encoder-2.json`, hold the zero-shot accuracy on such combinations.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from contralens.checks import nearest
from contralens.errors import InputError, ModelUnavailable
from contralens.world.captions import VOCABULARY, words
from contralens.world.render import SIZE
from contralens.world.scenes import Scenes

WEIGHTS = Path(__file__).parent / "weights"
ENCODER_FILES = {1: "encoder.safetensors", 2: "encoder-2.safetensors"}
WIDTH = 96
FEATURES = {1: 16 * 36 + 256, 2: 16 * 36 + 256 + 192}
"""How many numbers the image tower's head reads, by version."""
LENGTH = 20
"""Most words of a text that are read."""


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )  # fmt: skip


class Residual(nn.Module):
    """x + two convolutions of x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = conv(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


class ImageTower(nn.Module):
    """(B,3,96,96) in [-1,1] to (B,D) unit rows. The 6x6 map is read with its places, for count and position.

    Version 2 looks longer at fine detail, for patterns of small objects; it also reads the mean and the maximum of the
    finer 12x12 map, of which a place sees an object and little ground; and its head is one linear layer, in which
    levels of different factors cannot exclude one another.
    """

    def __init__(self, version: int = 1) -> None:
        super().__init__()
        first = (conv(3, 16, 2), conv(16, 48, 2)) if version == 1 else (conv(3, 24, 2), conv(24, 48, 2), Residual(48))
        self.body = nn.Sequential(*first, conv(48, 96, 2), Residual(96), conv(96, 128, 2), Residual(128))
        self.fine = 0 if version == 1 else len(first) + 1
        self.places = nn.Conv2d(128, 16, 1)
        two = nn.Sequential(nn.Linear(FEATURES[1], 192), nn.ReLU(), nn.Linear(192, WIDTH))
        self.head = two if version == 1 else nn.Linear(FEATURES[2], WIDTH)

    def features(self, x: Tensor) -> Tensor:
        """What the head reads, (B,832) or (B,1024)."""
        fine = self.body[: self.fine](x)
        x = self.body[self.fine :](fine)
        pooled = [part for y in ([x, fine] if self.fine else [x]) for part in (y.mean((2, 3)), y.amax((2, 3)))]
        return torch.cat([self.places(x).flatten(1), *pooled], 1)

    def project(self, features: Tensor) -> Tensor:
        """Features to unit rows (B,D)."""
        return F.normalize(self.head(features).float(), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.features(x))


class TextTower(nn.Module):
    """(B,L) word numbers, 0 for none and 1 for unknown, to (B,D) unit rows: two transformer layers, mean over words."""

    def __init__(self) -> None:
        super().__init__()
        self.word = nn.Embedding(len(VOCABULARY) + 2, 64)
        self.place = nn.Parameter(torch.zeros(LENGTH, 64))
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, WIDTH))

    def forward(self, ids: Tensor) -> Tensor:
        none = ids == 0
        x = self.layers(self.word(ids) + self.place[: ids.shape[1]], src_key_padding_mask=none)
        keep = (~none)[..., None].to(x.dtype)
        return F.normalize(self.out((x * keep).sum(1) / keep.sum(1)).float(), dim=1)


class DualEncoder(nn.Module):
    """Both towers and CLIP's learned temperature."""

    def __init__(self, version: int = 1) -> None:
        super().__init__()
        self.image, self.text = ImageTower(version), TextTower()
        self.log_scale = nn.Parameter(torch.tensor(np.log(1 / 0.07), dtype=torch.float32))

    def loss(self, rows: Tensor, ids: Tensor) -> Tensor:
        """CLIP's symmetric cross-entropy between image rows (B,D) and word numbers (B,L) (Radford et al. 2021)."""
        logits = self.log_scale.exp().clamp(max=100) * rows @ self.text(ids).T
        own = torch.arange(len(logits))
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def to_tensor(pictures: NDArray[np.uint8]) -> Tensor:
    """(I,S,S,3) uint8 to (I,3,S,S) float32 in [-1,1], channels last in memory."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


_NUMBER = {word: number for number, word in enumerate(VOCABULARY, start=2)}


def word_ids(texts: Sequence[str]) -> Tensor:
    """Texts to (len(texts), 20) word numbers; 0 pads, 1 stands for an unknown word."""
    ids = torch.zeros(len(texts), LENGTH, dtype=torch.int64)
    for row, text in zip(ids, texts, strict=True):
        found = [_NUMBER.get(word, 1) for word in words(text)[:LENGTH]]
        row[: len(found)] = torch.tensor(found, dtype=torch.int64)
    return ids


def held_out(scenes: Scenes) -> NDArray[np.bool_]:
    """(I): scenes with a combination that version 1 never saw: 8 of 64 pairs of shape and colour, 6 of 36 of
    pattern and background. Every level appears in training, with other partners."""
    s, c, p, b = (scenes.of(f) for f in ("shape", "colour", "pattern", "background"))
    return np.asarray(((3 * s + c) % 8 == 0) | ((p + b) % 6 == 0))


def save(module: nn.Module, path: Path) -> None:
    """Store a module's parameters and buffers as float16 safetensors."""
    state = {name: value.detach().half().contiguous() for name, value in module.state_dict().items()
             if value.is_floating_point()}  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)


def load_into(module: nn.Module, path: Path) -> nn.Module:
    """Fill a module from `save`'s file, in evaluation mode; raises `InputError` where the file is missing."""
    if not path.exists():
        raise ModelUnavailable(f"{path} is missing: run `make world` to train the rendered world's networks")
    state = {name: value.float() for name, value in load_file(path).items()}
    missing, unexpected = module.load_state_dict(state, strict=False)
    if unexpected or any(not name.endswith("num_batches_tracked") for name in missing):
        raise ModelUnavailable(f"{path} does not fit this version: run `make world` to train the networks again")
    return module.eval()


def preprocess(image: Image.Image) -> Tensor:
    """An RGB image to (3,96,96) in [-1,1], resized if it has another size."""
    if image.size != (SIZE, SIZE):
        image = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return to_tensor(np.asarray(image.convert("RGB"))[None])[0]


class WorldEncoder:
    """A shipped dual encoder as a `types.Encoder`, D = 96. It knows the rendered world and nothing else."""

    width = WIDTH

    def __init__(self, version: int = 1) -> None:
        if version not in ENCODER_FILES:
            known = ", ".join(map(str, ENCODER_FILES))
            raise InputError(f"the rendered world's encoder has the versions {known}; got {version}")
        path = WEIGHTS / ENCODER_FILES[version]
        self.name = "world" if version == 1 else f"world:v{version}"
        self.model = load_into(DualEncoder(version), path)
        self.fingerprint = hashlib.sha256(path.read_bytes() + f"world encoder {version}".encode()).hexdigest()[:32]
        self._told: set[str] = set()

    def preprocess(self, image: Image.Image) -> Tensor:
        """An RGB image of any size to (3,96,96)."""
        return preprocess(image)

    @torch.inference_mode()
    def __call__(self, batch: Tensor) -> Tensor:
        """(B,3,96,96) to unit rows (B,96)."""
        assert isinstance(self.model, DualEncoder)
        rows: Tensor = self.model.image(batch.contiguous(memory_format=torch.channels_last))
        return rows

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Texts to unit rows (len(texts),96).

        A word outside the closed vocabulary is read as unknown, with one warning for new ones; a text of which no
        word is known is refused with an `InputError` that names the nearest known words.
        """
        strange: set[str] = set()
        for text in texts:
            unknown = [word for word in words(text) if word not in _NUMBER]
            if len(unknown) == len(words(text)):
                hint = nearest(unknown[0], VOCABULARY) if unknown else ""
                raise InputError(
                    f"the rendered world's encoder knows no word of {text[:80]!r}; its {len(VOCABULARY)} words are in "
                    f"contralens.world.captions.VOCABULARY{hint}"
                )
            strange.update(unknown)
        if strange - self._told:
            some = ", ".join(sorted(strange - self._told)[:5])
            number = len(strange - self._told)
            warnings.warn(f"the rendered world's encoder does not know {number} words ({some})", stacklevel=2)
            self._told |= strange
        assert isinstance(self.model, DualEncoder)
        parts = [self.model.text(part) for part in torch.split(word_ids(texts), 1024) if len(part)]
        return torch.cat([torch.zeros(0, WIDTH), *parts])


@cache
def load_encoder(version: int = 1) -> WorldEncoder:
    """A shipped encoder, loaded once. Version 2 names combinations of levels that it never saw, version 1 does not."""
    return WorldEncoder(version)
