"""Top-activating images and contrasts of all neurons at once.

Bouanani et al. 2026 (arXiv 2604.22477). For neuron n the positives are the K images with the largest activation. The
contrast of a positive p is the most similar image that does not activate the neuron:

    q(p) = argmax over { i : a[i,n] < mean_i a[i,n] } of <e[p], e[i]>,        s[p] = <e[p], e[q(p)]>

The work is done in four steps, none of which holds the whole (I,N) or (I,I) matrix:

1. `survey`: one pass over the activations gives means and positives.
2. `nearest_images`: every image that is a positive of some neuron gets its nearest images, once for all neurons.
3. `walk`: each positive of each neuron goes down its image's list to the first image that does not activate the neuron.
4. `scan`: the few that find none there look at all images, in blocks.

Cosines are approximate with a known error, and whatever is within it of the best is computed again in float64. All
ties go to the lower image index. So the result is the same on every machine, in every precision and number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from contralens.errors import InputError
from contralens.math.activation_sources import ActivationSource, source
from contralens.math.contrast_search import Pairs, search, settled, walk
from contralens.math.faiss_neighbours import approximate
from contralens.math.grouping import Groups
from contralens.math.neighbours import LENGTH, Neighbours, Products, nearest_images
from contralens.math.statistics import survey
from contralens.math.tensors import all_bits, matrix, return_memory
from contralens.types import Brief, Exemplars


def find_exemplars(
    activations: Any,
    embeddings: Any,
    k: int = 30,
    neurons: Any = None,
    reuse: bool = True,
    exclude: float | None = None,
    neighbours: str = "exact",
    groups: Any = None,
) -> Exemplars:
    """Exemplars and contrasts of every neuron.

    Args:
        activations: (I,N), one number per image and neuron: a matrix in memory or a memory map, a `torch.sparse_csr`
            tensor, or any `ActivationSource`. If a value is NaN or infinite, the image is excluded for that neuron.
        embeddings: (I,D), unit rows of the same images, in memory or a memory map; computed on their device. A row with
            NaN excludes the image for all neurons.
        k: exemplars per neuron; fewer if there are fewer images.
        neurons: indices of the neurons; all N by default.
        reuse: whether one image may be the contrast of several positives of a neuron. If not, contrasts are assigned
            greedily in rank order.
        exclude: skip contrasts whose cosine to the positive is above this (near-duplicates); off by default.
        neighbours: "exact", or "faiss:hnsw" or "faiss:ivf" for approximate lists of neighbours; see
            `contralens.math.faiss_neighbours`.
        groups: (I), a name or a number per image, equal for images that belong together (one patient, lesion, scene,
            video): at most one exemplar of a neuron comes from each group, and no contrast from its exemplar's group.
            `contralens.math.grouping.Groups` allows more per group.

    Returns:
        Exemplars with (N,K) fields on the CPU; -1 and NaN where there is no image, or no image below the mean.

    >>> e = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), dim=1)
    >>> found = find_exemplars(torch.tensor([[5.0], [0.0], [0.0]]), e, k=1)
    >>> found.positives.tolist(), found.contrasts.tolist()
    ([[0]], [[1]])
    """
    return mine(activations, embeddings, k, neurons, reuse, exclude, neighbours, groups).exemplars


@dataclass(frozen=True, slots=True, repr=False)
class Mined(Brief):
    """What `mine` finds."""

    exemplars: Exemplars
    cold: Tensor
    """(N,K): activation of each neuron on its contrasts, NaN where there is none."""
    recall: dict[str, Any]
    """How good approximate lists of neighbours are; empty where they are exact."""


def mine(
    activations: Any,
    embeddings: Any,
    k: int = 30,
    neurons: Any = None,
    reuse: bool = True,
    exclude: float | None = None,
    neighbours: str = "exact",
    groups: Any = None,
) -> Mined:
    """`find_exemplars`, and what is known besides when it is done."""
    e = matrix(embeddings, "embeddings")
    with all_bits(e.device):
        a, known = source(activations), Groups.of(groups, len(e))
        return _mine(a, e, k, neurons, reuse, exclude, neighbours, known.to(e.device) if known else None)


def _mine(
    a: ActivationSource, e: Tensor, k: int, neurons: Any, reuse: bool, exclude: float | None, neighbours: str,
    groups: Groups | None,
) -> Mined:  # fmt: skip
    images, width = a.shape
    if len(e) != images:
        raise InputError(f"`embeddings` must have {images} rows, one per image; got shape {tuple(e.shape)}")
    if images == 0:
        raise InputError("`activations` holds no image")
    if k < 1:
        raise InputError(f"`k` must be at least 1; got {k}")
    chosen = torch.arange(width) if neurons is None else torch.as_tensor(neurons, dtype=torch.int64).reshape(-1).cpu()
    if len(chosen) and not (0 <= int(chosen.min()) and int(chosen.max()) < width):
        raise InputError(f"`neurons` must lie in 0..{width - 1}; got {int(chosen.min())}..{int(chosen.max())}")

    return_memory()
    products = Products(e)
    wanted = None if neurons is None else chosen
    statistics, values, positives = survey(a, min(k, images), wanted, products.usable, groups)
    rank, neuron = (positives.T >= 0).nonzero(as_tuple=True)  # in rank order, as partners are given out
    pairs = Pairs(
        positives[neuron, rank].to(e.device), chosen[neuron].to(e.device), statistics.below()[neuron].to(e.device),
        None if groups is None else groups.numbers,
    )  # fmt: skip
    length, recall = LENGTH if reuse else 2 * LENGTH, dict[str, Any]()
    contrasts, cold = torch.full_like(positives, -1), torch.full_like(values, torch.nan)

    def lists(queries: Tensor) -> Neighbours:
        if neighbours == "exact":
            return nearest_images(products, queries, length)
        near, told = approximate(products, queries, length, neighbours)
        recall.update(told)
        return near

    if reuse:
        at_once = None if neighbours == "exact" else max(1, len(neuron))
        found, value = search(products, a, pairs, exclude, lists, at_once)
        contrasts[neuron, rank], cold[neuron, rank] = found.cpu(), value.cpu()
    else:
        queries, row = torch.unique(pairs.positive, return_inverse=True)
        near, ends = lists(queries), torch.bincount(rank, minlength=1).cumsum(0).tolist()
        for r, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
            these, taken = slice(begin, end), contrasts[neuron[begin:end], :r].to(e.device)
            walked = walk(products, a, near, row[these], pairs[these], exclude, taken)
            found, value = settled(products, a, pairs[these], exclude, *walked, taken)
            contrasts[neuron[these], rank[these]], cold[neuron[these], rank[these]] = found.cpu(), value.cpu()

    similarities = torch.full(positives.shape, torch.nan, dtype=e.dtype)
    paired = contrasts >= 0
    cosines = products.exact(positives[paired].to(e.device), contrasts[paired].to(e.device))
    similarities[paired] = cosines.to(e.dtype).cpu()
    return Mined(Exemplars(chosen, positives, values, contrasts, similarities), cold, recall)
