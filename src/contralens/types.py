"""The records and protocols that every room shares.

Shape letters, here and everywhere: I images, N neurons, K exemplars, C concepts, D embedding width, T templates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from contralens.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


AUTO = "auto"
"""The scorer that takes, for each neuron, the label with the highest confidence."""
SUPPORTED, UNCERTAIN = 0.9, 0.5
"""Confidence from which a label is called supported, and uncertain."""


def word_of(confidence: float | None) -> str:
    """What a confidence is called.

    >>> word_of(0.95), word_of(0.6), word_of(0.1), word_of(None)
    ('supported', 'uncertain', 'unsupported', 'no exemplars')
    """
    if confidence is None or confidence != confidence:
        return "no exemplars"
    return "supported" if confidence >= SUPPORTED else "uncertain" if confidence >= UNCERTAIN else "unsupported"


class Brief:
    """A record whose `repr` is one short line: of arrays, tables and long values it says what they are.

    >>> @dataclass(frozen=True, repr=False)
    ... class Found(Brief):
    ...     name: str
    ...     scores: tuple[float, ...]
    >>> Found("csp", (0.5,) * 1000)
    Found(name='csp', scores=tuple of 1,000)
    """

    __slots__ = ()

    def __repr__(self) -> str:
        shown = (f"{f.name}={brief(getattr(self, f.name))}" for f in fields(self) if f.repr)  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(shown)})"


def brief(value: Any, most: int = 60) -> str:
    """A value in at most `most` characters: itself, or what it is.

    >>> brief(3), brief({"a": "x" * 100}), brief("x" * 100, most=9)
    ('3', 'dict of 1', "'xxxxx...")
    """
    kind = type(value).__name__
    if hasattr(value, "num_rows"):
        return f"{value.num_rows:,} rows"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, (Mapping, list, tuple, set, frozenset)):
        small = len(value) <= 8 and all(isinstance(one, (str, int, float, bool)) for one in value)
        text = repr(value) if small and not isinstance(value, Mapping) else ""
        return text if text and len(text) <= most else f"{kind} of {len(value):,}" if value else repr(value)
    if isinstance(value, (str, bytes, int, float, Path)) or value is None:
        text = repr(str(value) if isinstance(value, Path) else value)
        return text if len(text) <= most else f"{text[: most - 3]}..."
    if isinstance(value, Brief):
        return repr(value)
    return kind


@dataclass(frozen=True, slots=True, repr=False)
class Exemplars(Brief):
    """Top-activating images of each neuron and the contrast of each (Bouanani et al. 2026, arXiv 2604.22477).

    Index -1 and NaN mark a missing image (fewer usable images than K, or no image below the mean); scorers skip it.

    >>> exemplars.positives, exemplars.contrasts  # neurons (2) by exemplars (2); see `contralens.find_exemplars`
    (tensor([[0, 2],
            [3, 2]]), tensor([[1, 3],
            [1, 0]]))
    >>> len(exemplars), exemplars.first(1).activations.tolist(), exemplars.to("cpu").similarities[0, 0].item()
    (2, [[3.0], [3.0]], 0.800000011920929)
    >>> exemplars.of([1]).positives.tolist()
    [[3, 2]]
    """

    neurons: Tensor
    """(N) int64: which column of the activations each row describes."""
    positives: Tensor
    """(N,K) int64: image indices by falling activation, ties by lower index."""
    activations: Tensor
    """(N,K): activation of the neuron on each positive."""
    contrasts: Tensor
    """(N,K) int64: the most similar image among those that activate the neuron below its mean."""
    similarities: Tensor
    """(N,K): cosine between each positive and its contrast."""

    def first(self, k: int) -> Exemplars:
        """The first `k` exemplars of every neuron."""
        if not 1 <= k <= self.positives.shape[1]:
            raise InputError(f"`k` must be between 1 and {self.positives.shape[1]}, the exemplars stored; got {k}")
        return Exemplars(self.neurons, *(getattr(self, f.name)[:, :k] for f in fields(self)[1:]))

    def of(self, rows: Any) -> Exemplars:
        """Those of some neurons, by rows (a slice, indices or a mask)."""
        return Exemplars(*(getattr(self, f.name)[rows] for f in fields(self)))

    def to(self, device: Any) -> Exemplars:
        """The same with all fields on a device."""
        return Exemplars(*(getattr(self, f.name).to(device) for f in fields(self)))

    def __len__(self) -> int:
        return int(self.neurons.shape[0])


@runtime_checkable
class Images(Protocol):
    """An ordered set of probe images. Nothing is decoded until `load`.

    >>> import contralens
    >>> found = contralens.images("world-1/images")
    >>> isinstance(found, Images), len(found), found.ids[0], found.load(0).size, len(found.fingerprints()[0])
    (True, 80, '00000.png', (96, 96), 32)
    """

    name: str
    """What to call the set in a manifest, e.g. the folder."""
    ids: Sequence[str]
    """One stable, unique, human-readable name per image, e.g. the path relative to the folder."""

    def __len__(self) -> int: ...

    def fingerprints(self) -> Sequence[str]:
        """32 hex digits per image: a hash of its CONTENT (file bytes or pixels), computed once and kept."""
        ...

    def load(self, index: int) -> Image:
        """Decode one image to RGB, upright; raises `errors.ImageError` for one that cannot be decoded."""
        ...


@runtime_checkable
class Extractor(Protocol):
    """What turns images into rows of numbers; a `Target` and an `Encoder` are both one, so one decode serves both.

    One whose rows are mostly zeros may set `sparse = True`: its rows are then stored without them.

    >>> import contralens
    >>> image = contralens.images("world-1/images").load(0)
    >>> for made in (contralens.target("world:1", layer="block3"), contralens.encoder("world")):
    ...     print(made.name, made.width, tuple(made(made.preprocess(image)[None]).shape))
    world:1 64 (1, 64)
    world 96 (1, 96)
    """

    name: str
    """As the user wrote it, e.g. "torchvision:resnet50"."""
    fingerprint: str
    """32 hex digits: hash of all that the rows depend on besides the image (weights, layer, pooling, preprocessing)."""
    width: int
    """Columns of a row: N of a target, D of an encoder."""

    def preprocess(self, image: Image) -> Any:
        """One RGB image to a tensor (3,H,W), or a dict of tensors, that torch's `default_collate` can stack."""
        ...

    def __call__(self, batch: Any) -> Tensor:
        """A collated batch to rows (B,width), float32 on the CPU, without gradient."""
        ...


@runtime_checkable
class Target(Extractor, Protocol):
    """The network under study: images to activations (B,N).

    >>> import contralens
    >>> made = contralens.target("world:1", layer="block3")
    >>> isinstance(made, Target), made.layer, made.pooling, made.neurons[:2]
    (True, 'block3', 'mean', ['block3/0', 'block3/1'])
    """

    layer: str
    pooling: str
    neurons: Sequence[str]
    """(N) names, e.g. "layer4/17", or the class name where the layer is the classifier of known classes."""


@runtime_checkable
class Encoder(Extractor, Protocol):
    """A model that embeds images and texts in one space: rows are L2-normalised.

    >>> import contralens
    >>> made = contralens.encoder("world")
    >>> isinstance(made, Encoder), tuple(made.texts(["striped", "a red star"]).shape)
    (True, (2, 96))
    """

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Texts to unit rows (len(texts),D), float32 on the CPU."""
        ...


class Progress(Protocol):
    """Hears how far long work has come; called with done = total when a stage ends.

    >>> def dots(stage, done, total):
    ...     print(f"{stage}: {done} of {total}")
    >>> import contralens
    >>> found = contralens.audit("run", {"expected": ["striped"], "spurious": ["red"]}, fakes=50, sample=0, save=False,
    ...     progress=lambda stage, done, total: stage == "null neurons" and dots(stage, done, total))
    null neurons: 0 of 50
    null neurons: 50 of 50
    """

    def __call__(self, stage: str, done: int, total: int) -> None: ...


def silent(stage: str, done: int, total: int) -> None:
    """A `Progress` that says nothing."""
