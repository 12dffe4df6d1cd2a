"""Graded contrast: activations over the whole range, regressed on how images differ from their look-alikes.

Ours, unpublished. CSP contrasts the strongest images of a neuron with one look-alike each. Here every image is
contrasted with its `pairs` nearest images (of more than 2^14 images, as many drawn at random are), and with the average
image, and how much of each contrast is trusted depends on how well the encoder's space explains the neuron at all:

    b[i,n]  = max(0, a[i,n] - mean_i a[i,n])^power, standardised over the images
    x[i]    = e[i] - mean e
    y[i]    = the pairs' Laplacian of x, so that sum_i b[i] y[i] = sum over look-alike pairs of (b - b')(e - e')
    S       = D/2 ( E'Y / tr(E'Y) + X'X / tr(X'X) )
    g[n]    = generalised cross-validated R^2 of the ridge regression of b[:,n] on x, in [0, 1)
    v[n]    = g sum_i b y / tr(E'Y) + (1 - g) sum_i b x / tr(X'X)
    score   = v' (g S + (1 - g) 1)^-1 t

A neuron that the space explains (g near 1) gets the regression coefficient, in which what merely goes along with the
true concept cancels; one that it barely explains (g near 0) gets the plain covariance, which such an inversion would
drown in noise. Where no image differs from its look-alikes, the average image replaces them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from contralens.errors import InputError
from contralens.math.activation_sources import ActivationSource
from contralens.math.neighbours import Products, nearest_images
from contralens.math.ranking import Columns, belonging, by_columns
from contralens.math.statistics import NeuronStatistics, survey
from contralens.math.tensors import blocks, eigen, finite_rows
from contralens.types import Exemplars

RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Ridge penalties tried for g, in units of the mean eigenvalue of X'X / I."""
POWERS = (0.5, 0.625, 0.75, 0.875, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0)
"""Powers p that `power="auto"` tries."""
ABOVE = 1.5
"""The power taken is this times the p under which the embeddings explain the neurons best."""
SPARSE = 0.75
"""Power for sparse latents, of which most are 0 on most images."""
FEW = 0.2
"""Neurons are sparse latents if half of them fire on at most this share of the images."""
LOOKED_AT = 512
"""Most neurons that `power="auto"` looks at; fewer where there are more than 2^15 images."""
CONTRASTED = 2**14
"""Most images whose look-alikes are sought; of more, as many are drawn, so that cost grows as the images do."""
NOTHING = 1e-9
"""Look-alikes that differ by no more than this share of what images differ by are copies."""


@by_columns
def lookalike(
    exemplars: Exemplars, embeddings: Any, texts: Any, *, activations: Any, power: float | Literal["auto"] = 1.5,
    pairs: int = 5,
) -> Columns:  # fmt: skip
    """Graded contrast over look-alike pairs, from all activations: scores (N,C); see the module for the equation.

    Two passes over the activations, in blocks; memory is blocks, rows of the images with look-alikes, (N,D) and the
    answer. On the CPU. Look-alikes are sought of at most `CONTRASTED` images, among all.

    Args:
        exemplars: says which neurons; one without any exemplar scores NaN. Its images are not looked at.
        embeddings: (I,D), unit rows; a row with NaN leaves its image out.
        texts: (C,D).
        activations: (I,N) of the same images, in memory or any `ActivationSource`. NaN or infinite: the image is left
            out for that neuron.
        power: how much the strongest images count, above 0; "auto" chooses it for the layer (`chosen_power`).
        pairs: look-alikes of each image, at least 1.

    Raises:
        InputError: matrices that do not belong together, power or pairs out of range.

    >>> lookalike(exemplars, embeddings, texts, activations=activations).argmax(1)
    tensor([1, 2])
    """
    a, e, t = belonging(activations, embeddings, texts)
    if (power != "auto" and not (isinstance(power, int | float) and power > 0)) or pairs < 1:
        raise InputError(f'`power` must be above 0 or "auto", and `pairs` at least 1; got {power!r} and {pairs}')
    usable = finite_rows(e)
    n = exemplars.neurons.cpu()
    alike = _look_alikes(e, pairs)
    statistics = survey(a, 0, n, usable)[0]
    mean, x = statistics.mean, Centred(e, usable)
    if power == "auto":
        firing = statistics.firing.double() / usable.sum()
        power = SPARSE if float(firing.median()) <= FEW else chosen_power(a, n, statistics, usable, x)
    y = _laplacian(x, alike)
    near, far = _gram(x, y), _gram(x, x)
    total, look, every = _sums(a, n, mean, usable, x, y, power)
    explained = _explained(every, eigen(far / usable.sum()), int(usable.sum()))
    if not near.trace() > NOTHING * far.trace():
        near, look = far, every
    near_trace, far_trace = float(near.trace()), float(far.trace())
    if not far_trace > 0:
        return Columns((len(n), len(t)), e, lambda some: e.new_full((len(n), len(t[some])), torch.nan))
    metric = e.shape[1] / 2 * (near / near_trace + far / far_trace)
    values, axes = eigen((metric + metric.T) / 2)
    g = explained[:, None]
    v = (g * look / near_trace + (1 - g) * every / far_trace) @ axes / (g * values.clamp_min(0.0) + 1 - g)
    nothing = (exemplars.positives < 0).all(1) | ~(total > 0)
    v = (v @ axes.T).to(e.dtype).masked_fill(nothing[:, None], torch.nan)
    return Columns((len(n), len(t)), v, lambda some: v @ t[some].to(v.dtype).T)


class Centred:
    """Embeddings (I,D) less their mean, 0 for images that are not usable (I, bool); read in parts, so never in memory.

    >>> Centred(embeddings, torch.tensor([True, True, False, False]))[1:3]
    tensor([[ 0.1000, -0.3000,  0.0000],
            [ 0.0000,  0.0000,  0.0000]])
    """

    def __init__(self, e: Tensor, usable: Tensor) -> None:
        self._e, self._usable = e, usable
        self._mean = (e if bool(usable.all()) else e[usable]).mean(0)
        self.shape, self.dtype = e.shape, e.dtype

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, images: slice | Tensor) -> Tensor:
        return (self._e[images] - self._mean).masked_fill_(~self._usable[images, None], 0.0)


@dataclass(frozen=True)
class _Few:
    """Rows (I,D) of which few are not 0."""

    shape: torch.Size
    images: Tensor
    """Those with a row (R), rising."""
    rows: Tensor
    """(R,D)"""

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, images: slice) -> Tensor:
        first, last = torch.searchsorted(self.images, torch.tensor([images.start, images.stop])).tolist()
        out = self.rows.new_zeros(images.stop - images.start, self.rows.shape[1])
        out[self.images[first:last] - images.start] = self.rows[first:last]
        return out


def chosen_power(a: ActivationSource, n: Tensor, statistics: NeuronStatistics, usable: Tensor, x: Centred) -> float:
    """1.5 p*, with p* the p of `POWERS` under which the embeddings explain the neurons `n` best.

    R2(p) is the mean over neurons of the generalised cross-validated R^2 of the ridge regression of
    b_p = standardised max(0, a - mean)^p on the centred embeddings x (I,D). Chosen by what predicts, without any label.

    Args:
        statistics: of the neurons `n`.

    One pass over the activations for all powers, of which each is a product of eighth roots.
    """
    most = max(1, min(LOOKED_AT, len(n), 2**24 // max(1, len(x))))
    drawn = torch.randperm(len(n), generator=torch.Generator().manual_seed(0))[:most].sort().values
    mean, reach = statistics.mean[drawn], (statistics.maximum.double() - statistics.mean)[drawn].clamp_min(1e-30)
    sums = torch.zeros(len(POWERS), most, x.shape[1], dtype=torch.float64)
    moments = torch.zeros(len(POWERS), 2, most, dtype=torch.float64)
    count, lost = torch.zeros(most, dtype=torch.float64), torch.zeros(most, x.shape[1], dtype=torch.float64)
    for start, rows in a.blocks(n[drawn], budget=4 * 2**20):
        rows, here = rows.cpu(), slice(start, start + len(rows))
        counts = rows.isfinite() & usable[here, None]
        b = ((rows.double() - mean) / reach).clamp(0.0, 1.0).masked_fill_(~counts, 0.0).to(x.dtype)
        eighth, now, reached = b.sqrt().sqrt().sqrt(), torch.ones_like(b), 0
        for place, power in enumerate(POWERS):
            for _ in range(round(8 * power) - reached):
                now.mul_(eighth)
            reached = round(8 * power)
            moments[place, 0] += now.sum(0)
            moments[place, 1] += now.square().sum(0)
            sums[place] += now.T @ x[here]
        count += counts.sum(0)
        if not bool(counts.all()):
            lost += (~counts).to(x.dtype).T @ x[here]
    middle = moments[:, 0] / count
    deviation = (moments[:, 1] / count - middle.square()).clamp_min(0.0).sqrt()
    every = (sums + middle[:, :, None] * lost) / deviation[:, :, None]  # x sums to 0 over all images
    covariance, images = _gram(x, x) / usable.sum(), int(usable.sum())
    axes = eigen(covariance)
    explained = [
        float(_explained(some[told > 0], axes, images).mean().nan_to_num(-1.0))
        for some, told in zip(every, deviation, strict=True)
    ]
    return ABOVE * POWERS[explained.index(max(explained))]


def _look_alikes(e: Tensor, pairs: int) -> list[tuple[Tensor, Tensor]]:
    """The `pairs` nearest images of each: first, second, ... as (images, their look-alikes), ties by index.

    Of more than `CONTRASTED` images, those of so many drawn at random.
    """
    images = finite_rows(e).nonzero()[:, 0]
    if len(images) > CONTRASTED:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        images = images[order[:CONTRASTED].sort().values]
    products = Products(e)
    found = nearest_images(products, images, 4 * (pairs + 1)).images[:, : 4 * (pairs + 1)].long()
    place = found.clamp_min(0)
    exact = products.exact(images[:, None].expand_as(found).reshape(-1), place.reshape(-1)).view(found.shape)
    exact = exact.masked_fill((found < 0) | (found == images[:, None]) | ~e[place, 0].isfinite(), -torch.inf)
    by_index = place.argsort(dim=1, stable=True)  # ties go to the lower image
    best = exact.gather(1, by_index).sort(dim=1, descending=True, stable=True)
    chosen = place.gather(1, by_index).gather(1, best.indices)[:, :pairs]
    there = best.values[:, :pairs] > -torch.inf
    return [(images[ok], column[ok]) for ok, column in zip(there.T, chosen.T, strict=True)]


def _laplacian(x: Centred, alike: list[tuple[Tensor, Tensor]]) -> _Few:
    """y (I,D): sum over the pairs that an image belongs to of its embedding minus the other's, some pairs at a time."""
    images = torch.unique(torch.cat([image for pair in alike for image in pair]))
    out = torch.zeros(len(images), x.shape[1], dtype=x.dtype)
    for one, other in alike:
        for this, that in ((one, other), (other, one)):
            for part in blocks(len(this), 12 * x.shape[1], budget=16 * 2**20):
                out.index_add_(0, torch.searchsorted(images, this[part]), x[this[part]] - x[that[part]])
    return _Few(x.shape, images, out)


def _gram(left: Centred, right: Centred | _Few) -> Tensor:
    """left' right (D,D) in float64, in blocks of images."""
    out = torch.zeros(left.shape[1], right.shape[1], dtype=torch.float64)
    for block in blocks(len(left), 16 * left.shape[1]):
        out += left[block].double().T @ right[block].double()
    return out


def _sums(
    a: Any, n: Tensor, mean: Tensor, usable: Tensor, x: Centred, y: _Few, power: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Deviation of b (N), and sum_i b y and sum_i b x (N,D) of b standardised; images that do not count add nothing."""
    sums, holes = torch.zeros(len(n), y.shape[1] + x.shape[1], dtype=torch.float64), None
    first, second, count = (torch.zeros(len(n), dtype=torch.float64) for _ in range(3))
    for start, rows in a.blocks(n, budget=16 * 2**20):
        rows, here = rows.cpu(), slice(start, start + len(rows))
        counts = rows.isfinite() & usable[here, None]
        b = (rows.double() - mean).clamp_min(0.0).pow(power).masked_fill(~counts, 0.0)
        first, second, count = first + b.sum(0), second + b.square().sum(0), count + counts.sum(0)
        both = torch.cat([y[here], x[here]], 1)
        sums += (b.to(both.dtype).T @ both).double()
        if not bool(counts.all()):
            lost = ((~counts).to(both.dtype).T @ both).double()
            holes = lost if holes is None else holes.add_(lost)
    middle = first / count
    deviation = (second / count - middle.square()).clamp_min(0.0).sqrt()
    if holes is not None:  # x and y each sum to 0 over all images
        sums += middle[:, None] * holes
    sums /= deviation[:, None]
    width = y.shape[1]
    return deviation, sums[:, :width], sums[:, width:]


def _explained(every: Tensor, covariance: tuple[Tensor, Tensor], images: int) -> Tensor:
    """g (N): the best generalised cross-validated R^2 over `RIDGES`, from sum_i b x (N,D) and X'X / I by its axes."""
    values, axes = covariance
    values = values.clamp_min(0.0)
    along = (every @ axes / images).square()
    best = torch.ones(len(every), dtype=every.dtype)
    for ridge in RIDGES:
        kept = values / (values + ridge * values.mean())
        left = 1 - along @ ((2 * kept - kept.square()) / values.clamp_min(1e-12))
        best = torch.minimum(best, left / (1 - kept.sum() / images).square())
    return (1 - best).clamp(0.0, 0.999)
