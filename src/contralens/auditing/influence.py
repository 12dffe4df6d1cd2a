"""What neurons add to the class scores, measured in three ways over the same images.

For neuron n the images are those that activate it most: its first K exemplars, set E. In units of the class score s[c]
(before any softmax):

- head[n,c] = W[c,n] mean_{i in E} a[i,n], where one linear layer W makes the scores of the pooled neurons alone;
- gradient[n,c] = mean_{i in E} sum over places of A ds[c]/dA, A what the layer gives for n: first order in A;
- ablation[n,c] = mean_{i in E} (s[c] - s[c] with A = 0), in the real network.

Where the scores are linear in the pooled neurons all three are equal: a few neurons are switched off to see it, and the
others have the head's. Elsewhere ablation is what happens, the others are estimates of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import default_collate

from contralens.models.hooked_layer import HookedTarget
from contralens.models.interventions import Variants, class_scores, gradient_times_activation
from contralens.types import Brief, Exemplars, Progress, silent

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_CLASSES = 20
"""Classes whose scores are followed where nobody says which."""
ASKED = 512
"""Images at most whose predictions choose these classes."""
CHECKED = 8
"""Neurons switched off where a linear head makes the scores of the neurons alone."""
CLOSE = 0.02
"""Largest difference between their effect and the head's, as a share of the largest effect (a run in bf16 rounds)."""


@dataclass(frozen=True, slots=True, repr=False)
class Influence(Brief):
    """Changes of class scores, all (N, followed classes) float64; NaN where not computed.

    >>> two = torch.tensor([16, 16])
    >>> found = Influence([0], *(torch.tensor([[1.0], [2.0]]),) * 3, images=two, measured=two > 0)
    >>> found.agreement()["head, ablation"]["correlation"]
    1.0
    """

    classes: list[int]
    """The classes followed."""
    head: Tensor
    gradient: Tensor
    ablation: Tensor
    images: Tensor
    """(N) images that the last two are means over."""
    measured: Tensor
    """(N) whether gradient and ablation were measured; where they were not, they are the head's or NaN."""

    def agreement(self) -> dict[str, dict[str, float | int]]:
        """Pearson's correlation and largest difference of each two measures, over the pairs of neuron and class for
        which both were measured."""
        out: dict[str, dict[str, float | int]] = {}
        for one, other in (("head", "ablation"), ("gradient", "ablation"), ("head", "gradient")):
            a, b = (getattr(self, name)[self.measured].flatten() for name in (one, other))
            both = a.isfinite() & b.isfinite()
            if not bool(both.any()):
                continue
            a, b = a[both].numpy(), b[both].numpy()
            out[f"{one}, {other}"] = {
                "correlation": _pearson(a, b), "largest difference": float(np.abs(a - b).max()),
                "root mean square": float(np.sqrt((b**2).mean())), "pairs": len(a),
            }  # fmt: skip
        return out


def _pearson(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / size) if size > 0 else float("nan")


def influence(
    target: HookedTarget,
    exemplars: Exemplars,
    picture: Callable[[int], Image | None],
    *,
    weight: Tensor | None,
    exact: bool = False,
    chosen: Sequence[int],
    follow: Sequence[int] | None = None,
    images: int = 16,
    batch_size: int = 32,
    progress: Progress = silent,
) -> Influence:
    """The three measures; gradient and ablation of the rows `chosen` of the exemplars, the head's of all.

    Args:
        target: the layer of the network.
        exemplars: the images of each neuron, of which the first `images` are taken.
        picture: an image's picture, or None where it is not available.
        weight: (classes,N) of the linear head, if there is one.
        exact: whether that head makes the scores of the neurons alone: then 8 of the chosen are switched off, and if
            they do what the head says, the others are not.
        chosen: rows of the exemplars.
        follow: classes; None takes all, or the 20 that are predicted most often on the exemplars of the chosen (512 of
            them at most).
        images: per neuron.
        batch_size: images decoded and run at once.
        progress: called with stage, done and total.

    Returns:
        Three measures (N, followed classes), float64; NaN for neurons that were not chosen, and where there is no head.

    >>> import contralens
    >>> images = contralens.images("world-1/images")
    >>> made = contralens.target("world:1", layer="block3")
    >>> eyes = contralens.encoder("world")
    >>> a, e = (torch.cat([x(x.preprocess(images.load(i))[None]) for i in range(20)]) for x in (made, eyes))
    >>> mined = contralens.find_exemplars(a, e, k=3)
    >>> found = influence(made, mined, images.load, weight=None, chosen=[5], images=3)
    >>> tuple(found.ablation.shape), int(found.ablation.isfinite().any(1).sum())
    ((64, 6), 1)
    """
    first = exemplars.first(min(images, exemplars.positives.shape[1]))
    prepared = _Prepared(target, picture)
    shown = sorted({image for row in chosen for image in first.positives[row].tolist() if image >= 0})
    if follow is None:
        follow = _predicted(target, prepared, shown[:: -(-len(shown) // ASKED) or 1], batch_size) if shown else []
    effects = _Effects(target, prepared, first, follow, batch_size, progress)
    few = list(chosen[:: -(-len(chosen) // CHECKED) or 1]) if exact and weight is not None else list(chosen)
    effects.measure(few)
    head = effects.of_head(weight)
    rest = sorted(set(chosen) - set(few))
    if rest and not effects.agree(head, few):
        effects.measure(rest)
        head, rest = effects.of_head(weight), []
    return effects.influence(head, rest)


class _Effects:
    """Gradient and ablation of rows of the exemplars, summed over their images."""

    def __init__(
        self, target: HookedTarget, prepared: _Prepared, first: Exemplars, follow: Sequence[int], batch_size: int,
        progress: Progress,
    ) -> None:  # fmt: skip
        self._target, self._prepared, self._first, self._follow = target, prepared, first, list(follow)
        self._batch_size, self._progress = batch_size, progress
        shape = (len(first), len(self._follow))
        self._sums = {name: torch.zeros(shape, dtype=torch.float64) for name in ("gradient", "ablation")}
        self._count = torch.zeros(len(first), dtype=torch.float64)
        self._usable = first.positives >= 0

    def measure(self, rows: Sequence[int]) -> None:
        """Switch each of these neurons off, on each of its images."""
        positives, prepared = self._first.positives, self._prepared
        work = [(image, row) for row in rows for image in positives[row].tolist() if image >= 0]
        sample = prepared.some([image for image, _ in work])
        if not sample:
            return
        variants = Variants(self._target, default_collate(sample))
        done = 0
        for part in _parts(sorted(work), self._batch_size, variants.at_once):
            done += len(part)
            part = [(image, row) for image, row in part if prepared(image) is not None]
            if part:
                _measure(variants, prepared, part, self._first.neurons, self._follow, self._sums)
                ones = torch.ones(len(part), dtype=torch.float64)
                self._count.index_add_(0, torch.tensor([row for _, row in part]), ones)
            self._progress("ablation", done, len(work))
        for image, row in work:
            if image in prepared.lost:
                self._usable[row] &= positives[row] != image

    def of_head(self, weight: Tensor | None) -> Tensor:
        """What a linear head says, over the images that could be had."""
        if weight is None:
            return torch.full_like(self._sums["ablation"], torch.nan)
        mean = self._first.activations.double().masked_fill(~self._usable, torch.nan).nanmean(1)
        return weight[self._follow].double().T[self._first.neurons] * mean[:, None]

    def agree(self, head: Tensor, rows: Sequence[int]) -> bool:
        """Whether switching these neurons off did what the head says."""
        there = [row for row in rows if self._count[row]]
        if not there:
            return False
        effect = self._sums["ablation"][there] / self._count[there][:, None]
        return bool((effect - head[there]).abs().max() <= CLOSE * effect.abs().max())

    def influence(self, head: Tensor, rest: Sequence[int]) -> Influence:
        """All three; the rows `rest` have the head's."""
        measured = self._count > 0
        means = {}
        for name, total in self._sums.items():
            means[name] = (total / self._count.clamp_min(1)[:, None]).masked_fill(~measured[:, None], torch.nan)
            means[name][rest] = head[rest]
        images = self._count.long()
        images[rest] = self._usable[rest].sum(1)
        return Influence(self._follow, head, means["gradient"], means["ablation"], images, measured)


def _measure(
    variants: Variants,
    prepared: _Prepared,
    part: list[tuple[int, int]],
    neurons: Tensor,
    follow: Sequence[int],
    sums: dict[str, Tensor],
) -> None:
    """Adds the effects of (image, row) pairs: one forward with and without each neuron, one gradient per class."""
    shown = sorted({image for image, _ in part})
    at = {image: i for i, image in enumerate(shown)}
    batch = default_collate([prepared(image) for image in shown])
    place = torch.tensor([at[image] for image, _ in part])
    row = torch.tensor([row for _, row in part])
    keep = torch.ones(len(shown) + len(part), variants.target.width)
    keep[torch.arange(len(shown), len(keep)), neurons[row]] = 0.0
    scores = variants(batch, torch.cat([torch.arange(len(shown)), place]), keep)[:, list(follow)].double()
    sums["ablation"].index_add_(0, row, scores[place] - scores[len(shown) :])
    slopes = gradient_times_activation(variants.target, batch, follow).double()
    sums["gradient"].index_add_(0, row, slopes[:, place, neurons[row]].T)


def _parts(work: list[tuple[int, int]], images: int, variants: int) -> Iterator[list[tuple[int, int]]]:
    """Pairs of image and row, at most `images` different images and about `variants` variants at once."""
    part: list[tuple[int, int]] = []
    shown: set[int] = set()
    for image, row in work:
        full = len(part) + len(shown | {image}) >= max(2, variants)
        if part and (full or (image not in shown and len(shown) == images)):
            yield part
            part, shown = [], set()
        part.append((image, row))
        shown.add(image)
    if part:
        yield part


def _predicted(target: HookedTarget, prepared: _Prepared, images: list[int], batch_size: int) -> list[int]:
    """All classes where there are few, else those predicted most often, by falling count and rising number."""
    counts: Tensor | None = None
    for start in range(0, len(images), batch_size):
        made = [x for x in map(prepared, images[start : start + batch_size]) if x is not None]
        if not made:
            continue
        scores = class_scores(target, default_collate(made))
        if scores.shape[1] <= MOST_CLASSES:
            return list(range(scores.shape[1]))
        found = torch.bincount(scores.argmax(1), minlength=scores.shape[1])
        counts = found if counts is None else counts + found
    assert counts is not None
    order = counts.sort(descending=True, stable=True).indices[:MOST_CLASSES]
    return sorted(order[counts[order] > 0].tolist())


class _Prepared:
    """Preprocessed images, the last thousand or so of them kept."""

    def __init__(self, target: HookedTarget, picture: Callable[[int], Image | None]) -> None:
        self._target, self._picture = target, picture
        self._kept: dict[int, Any] = {}
        self.lost: set[int] = set()

    def __call__(self, image: int) -> Any:
        if image not in self._kept:
            if len(self._kept) >= 512:
                self._kept.clear()
            made = self._picture(image)
            if made is None:
                self.lost.add(image)
            self._kept[image] = None if made is None else self._target.preprocess(made)
        return self._kept[image]

    def some(self, images: Sequence[int], count: int = 2) -> list[Any]:
        """The first images that are available, the same twice where there is one only."""
        out: list[Any] = []
        for image in dict.fromkeys(images):
            if (made := self(image)) is not None:
                out.append(made)
            if len(out) == count:
                return out
        return out * count if out else out
