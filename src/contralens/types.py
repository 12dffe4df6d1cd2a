"""The records and protocols that every room shares.

Shape letters, here and everywhere: I images, N neurons, K exemplars, C concepts, D embedding width, T templates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Exemplars:
    """Activating images of each neuron and, for each, its contrastive partner (Bouanani et al. 2026, arXiv 2604.22477).

    A place without an image (fewer usable images than K, or nothing below the mean to pair with) holds index -1 and a
    NaN value; scorers skip it.
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
            raise ValueError(f"`k` must be between 1 and {self.positives.shape[1]}, the exemplars stored; got {k}")
        return Exemplars(self.neurons, *(getattr(self, f.name)[:, :k] for f in fields(self)[1:]))

    def to(self, device: Any) -> Exemplars:
        """The same with all fields on a device."""
        return Exemplars(*(getattr(self, f.name).to(device) for f in fields(self)))

    def __len__(self) -> int:
        return int(self.neurons.shape[0])


@runtime_checkable
class Images(Protocol):
    """An ordered set of probe images. Nothing is decoded until `load`."""

    name: str
    """What to call the set in a manifest, e.g. the folder."""
    ids: Sequence[str]
    """One stable, unique, human-readable name per image, e.g. the path relative to the folder."""

    def __len__(self) -> int: ...

    def fingerprints(self) -> Sequence[str]:
        """32 hex digits per image: a hash of its CONTENT (file bytes or pixels), computed once and kept."""
        ...

    def load(self, index: int) -> Image:
        """Decode one image to RGB, upright; raises `checks.ImageError` for one that cannot be decoded."""
        ...


@runtime_checkable
class Extractor(Protocol):
    """What turns images into rows of numbers; a `Target` and an `Encoder` are both one, so one decode serves both.

    One whose rows are mostly zeros may set `sparse = True`: its rows are then stored without them.
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
    """The network under study: images to activations (B,N)."""

    layer: str
    pooling: str
    neurons: Sequence[str]
    """(N) names, e.g. "layer4/17", or the class name where the layer is the classifier of known classes."""


@runtime_checkable
class Encoder(Extractor, Protocol):
    """A model that embeds images and texts in one space: rows are L2-normalised."""

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Texts to unit rows (len(texts),D), float32 on the CPU."""
        ...


class Progress(Protocol):
    """Hears how far long work has come; called with done = total when a stage ends."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...


def silent(stage: str, done: int, total: int) -> None:
    """A `Progress` that says nothing."""
