"""INVERT: the formula of concepts that a neuron ranks highest (Bykov et al. 2023, NeurIPS, arXiv 2311.13594).

    AUC(n, phi) = P( a[i,n] > a[j,n] ) for an image i for which phi holds and an image j for which not; ties count half,

with phi a concept, or a formula of concepts by AND, OR and NOT. Formulas grow by beam search: each of the best ones
takes in one more concept by "and", "or", "and not" or "or not"; phi holds for at most half of the images. Where it is
not known what images show, a concept holds for the share of the images that are most similar to its text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from contralens.errors import InputError
from contralens.math.activation_sources import columns, source
from contralens.math.ranking import Columns, belonging, by_columns
from contralens.math.tensors import blocks, room
from contralens.types import Brief, Exemplars

MOST_SHARE = 0.5
"""Share of the images that a formula holds for, at most."""
WAYS = ("and", "or", "and not", "or not")
"""How a concept goes into a formula, in the order in which ties are broken."""


@by_columns
def invert(exemplars: Exemplars, embeddings: Any, texts: Any, *, activations: Any, share: float = 0.05) -> Columns:
    """INVERT with one concept: AUC (N,C) of all activations for the images that show the concept.

    A concept is shown by the `share` of the images whose <e, t> is largest, ties included. Where <e, t> is 0 or 1
    throughout, as with embeddings of labels and the unit matrix for texts, it is shown where that is 1.

    Args:
        exemplars: says which neurons; one without any exemplar scores NaN. Its images are not looked at.
        embeddings: (I,D); a row with NaN leaves its image out.
        texts: (C,D).
        activations: (I,N) of the same images, in memory or any `ActivationSource`; NaN leaves the image out for that
            neuron.
        share: of the images that show a concept, above 0 and at most .5.

    Memory: (I,N), and (I,c) for some concepts at a time.

    Raises:
        InputError: matrices that do not belong together, or a share out of range.

    >>> invert(exemplars, embeddings, texts, activations=activations, share=0.25).shape
    torch.Size([2, 3])
    """
    a, e, t = belonging(activations, embeddings, texts)
    if not 0 < share <= MOST_SHARE:
        raise InputError(f"`share` must be above 0 and at most {MOST_SHARE}; got {share}")
    t, usable = t.to(e), e.isfinite().all(1)
    values = columns(a, exemplars.neurons.cpu())
    rank, there = ranks(values.masked_fill(~usable[:, None], torch.nan))
    none = (exemplars.positives < 0).all(1).cpu()[:, None]

    def of(some: slice) -> Tensor:
        scores = torch.empty(rank.shape[1], len(t[some]), dtype=e.dtype)
        for part in blocks(len(t[some]), 16 * len(e), room(e.device)):
            held = _shown(e, t[some][part], usable, share).double()
            scores[:, part] = auc(rank.T @ held, there.T @ held, there.sum(0)[:, None]).to(e.dtype)
        return scores.nan_to_num(0.5).masked_fill(none, torch.nan)

    return Columns((rank.shape[1], len(t)), e, of, 3 * len(e))


def _shown(e: Tensor, t: Tensor, usable: Tensor, share: float) -> Tensor:
    """(I,c) bool: which images show each of some concepts."""
    similar = (e @ t.T).masked_fill(~usable[:, None], -torch.inf)
    count = max(1, round(share * int(usable.sum())))
    least = similar.topk(min(count, len(similar)), dim=0).values[-1]
    binary = ((similar == 0) | (similar == 1) | ~usable[:, None]).all(0)
    return (similar >= torch.where(binary, 1.0, least)) & usable[:, None]


def ranks(values: Tensor) -> tuple[Tensor, Tensor]:
    """Ranks (I,N) of activations, from 1 for the lowest, the mean among ties, 0 for NaN; and which count, both float64.

    >>> ranks(torch.tensor([[3.0], [1.0], [3.0], [torch.nan]]))[0].T
    tensor([[2.5000, 1.0000, 2.5000, 0.0000]], dtype=torch.float64)
    """
    there = values.isfinite()
    columns_, out = values.masked_fill(~there, torch.inf).T.contiguous(), []
    for column in columns_:
        ordered = column.sort().values
        low = torch.searchsorted(ordered, column)
        high = torch.searchsorted(ordered, column, right=True)
        out.append((low + high + 1).double() / 2)
    rank = torch.stack(out, 1) if out else torch.zeros(values.shape, dtype=torch.float64)
    return rank.masked_fill(~there, 0.0), there.double()


def auc(rank_sum: Tensor, count: Tensor, images: Tensor) -> Tensor:
    """(sum of the ranks of what a formula holds for - m (m + 1) / 2) / (m (I - m)); NaN where that is all or none.

    >>> auc(torch.tensor(7.0), torch.tensor(2.0), torch.tensor(4.0))  # ranks 3 and 4 of four
    tensor(1.)
    """
    return (rank_sum - count * (count + 1) / 2) / (count * (images - count))


@dataclass(frozen=True, slots=True, repr=False)
class Formula(Brief):
    """A formula of concepts and how a neuron ranks the images that it holds for.

    >>> Formula((0, 2), ("and not",), auc=0.9, share=0.2, p=1e-6).words(["dog", "cat", "wolf"])
    'dog and not wolf'
    """

    concepts: tuple[int, ...]
    """In the order in which they went in."""
    ways: tuple[str, ...]
    """How each further one went in: "((first way second) way third)"."""
    auc: float
    share: float
    """Of the images."""
    p: float
    """One-sided p-value of the Mann-Whitney test, by its normal approximation, not corrected for the search."""

    def words(self, names: Sequence[str]) -> str:
        """The formula in words."""
        text = names[self.concepts[0]]
        for place, (way, concept) in enumerate(zip(self.ways, self.concepts[1:], strict=True)):
            text = f"({text})" if place else text
            text = f"{text} {way} {names[concept]}"
        return text


def invert_formulas(
    activations: Any, shows: Any, neurons: Any = None, *, length: int = 3, beam: int = 5, least: int = 5
) -> list[list[Formula]]:
    """INVERT with formulas: for each neuron the best formula of each length from 1 to `length`, in this order.

    A longer formula is listed only if its AUC is larger.

    Args:
        activations: (I,N), in memory or any `ActivationSource`.
        shows: (I,C) bool, whether an image shows a concept: labels, or high similarity to its text.
        neurons: indices of the neurons wanted; all N by default.
        length: concepts of a formula, at most.
        beam: formulas that are kept at each length.
        least: images that a formula holds for, at least.

    Raises:
        InputError: matrices that do not belong together, or a length, beam or least below 1.

    >>> g = torch.Generator().manual_seed(0)
    >>> shows = torch.rand(500, 4, generator=g) < 0.3
    >>> a = (shows[:, :1] & ~shows[:, 2:3]) + 0.1 * torch.rand(500, 1, generator=g)
    >>> [formula.words(["red", "blue", "dotted", "round"]) for formula in invert_formulas(a, shows)[0]]
    ['red', 'red and not dotted']
    """
    a, held = source(activations), torch.as_tensor(shows).cpu().bool()
    if held.ndim != 2 or len(held) != a.shape[0] or min(length, beam, least) < 1:
        raise InputError(
            f"`shows` must hold a row for each of {a.shape[0]} images, and `length`, `beam` and `least` be at least 1; "
            f"got {tuple(held.shape)}, {length}, {beam} and {least}"
        )
    chosen = torch.arange(a.shape[1]) if neurons is None else torch.as_tensor(neurons, dtype=torch.int64)
    found = []
    for block in blocks(len(chosen), 32 * len(held)):
        rank, there = ranks(columns(a, chosen[block]))
        found += [_of_neuron(rank[:, n], there[:, n], held, length, beam, least) for n in range(rank.shape[1])]
    return found


def _of_neuron(rank: Tensor, there: Tensor, held: Tensor, length: int, beam: int, least: int) -> list[Formula]:
    """Beam search for one neuron: rank and there (I), held (I,C)."""
    each, images = held.double(), there.sum()
    sums, counts = rank @ each, there @ each
    kept: list[tuple[Tensor, tuple[int, ...], tuple[str, ...]]] = []
    value = _allowed(sums, counts, images, least)
    for c in _best(value, beam):
        kept.append((each[:, c], (c,), ()))
    best = [_formula(rank, there, *kept[0])] if kept else []
    for _ in range(1, length):
        if not kept:
            break
        phi = torch.stack([p for p, _, _ in kept])
        both_sum, both = (phi * rank) @ each, (phi * there) @ each
        own_sum, own = (phi @ rank)[:, None], (phi @ there)[:, None]
        options = torch.stack([
            _allowed(both_sum, both, images, least),
            _allowed(own_sum + sums - both_sum, own + counts - both, images, least),
            _allowed(own_sum - both_sum, own - both, images, least),
            _allowed(rank.sum() - sums + both_sum, images - counts + both, images, least),
        ], 1)  # fmt: skip
        for b, (_, used, _) in enumerate(kept):
            options[b, :, list(used)] = -torch.inf
        kept = [_grown(kept, held, place) for place in _best(options.flatten(), beam)]
        if kept:
            longer = _formula(rank, there, *kept[0])
            best += [longer] if longer.auc > max(f.auc for f in best) else []
    return best


def _allowed(sums: Tensor, counts: Tensor, images: Tensor, least: int) -> Tensor:
    """AUC where a formula holds for enough images and not too many; else -inf."""
    fits = (counts >= least) & (counts <= MOST_SHARE * images)
    return auc(sums, counts, images).masked_fill(~fits, -torch.inf).nan_to_num(-torch.inf)


def _best(value: Tensor, beam: int) -> list[int]:
    order = value.sort(descending=True, stable=True).indices[:beam]
    return [int(i) for i in order if value[i] > -torch.inf]


def _grown(
    kept: list[tuple[Tensor, tuple[int, ...], tuple[str, ...]]], held: Tensor, place: int
) -> tuple[Tensor, tuple[int, ...], tuple[str, ...]]:
    rest, concept = divmod(place, held.shape[1])
    phi, used, ways = kept[rest // len(WAYS)]
    way, one, other = WAYS[rest % len(WAYS)], phi.bool(), held[:, concept]
    other = ~other if way.endswith("not") else other
    both = one & other if way.startswith("and") else one | other
    return both.double(), (*used, concept), (*ways, way)


def _formula(rank: Tensor, there: Tensor, phi: Tensor, used: tuple[int, ...], ways: tuple[str, ...]) -> Formula:
    m, images = float(phi @ there), float(there.sum())
    value = float(auc(phi @ rank, phi @ there, there.sum()))
    _, ties = torch.unique(rank[there > 0], return_counts=True)
    correction = float((ties.double() ** 3 - ties).sum()) / max(1.0, images * (images - 1))
    spread = math.sqrt(max(1e-30, m * (images - m) / 12 * (images + 1 - correction)))
    p = 0.5 * math.erfc((value - 0.5) * m * (images - m) / spread / math.sqrt(2))
    return Formula(used, ways, value, m / images, p)
