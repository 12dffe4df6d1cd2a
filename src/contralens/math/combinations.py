"""Combinations among labels ("red striped", "dog or wolf"): kept only where they explain more than each of their parts.

A concept whose words hold all words of another is a combination, and the other one of its parts. Scorers that compare
directions prefer combinations: among many, one always names some of the noise. So for each neuron n, combination c and
part d, with r[c] the correlation over all images of a[:,n] and <e, t[c]>, c has to be the better explanation:

    z = (atanh r[c] - atanh r[d]) sqrt((I - 3) / (2 (1 - r[c,d]) h)),    h = (1 - f q) / (1 - q),
    q = (r[c]^2 + r[d]^2) / 2,    f = min(1, (1 - r[c,d]) / (2 (1 - q))),

with r[c,d] the correlation of both similarities: the test of two correlations that share a variable (Meng, Rosenthal &
Rubin 1992, Psychological Bulletin 111). A combination whose part holds for the neuron as well falls short of it, since
images that show the part alone activate the neuron too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from contralens.math.activation_products import products
from contralens.math.activation_sources import source
from contralens.math.tensors import blocks, finite_rows, matrix

LEAST = 1.645
"""z from which a combination is the better explanation (one-sided, level .05)."""
EMPTY = frozenset({
    "a", "an", "and", "at", "background", "by", "from", "in", "is", "it", "its", "light", "lit", "object", "objects",
    "of", "on", "or", "over", "pattern", "photo", "picture", "scene", "side", "the", "thing", "things", "to", "under",
    "with",
})  # fmt: skip
"""Words that make no combination of a concept."""


def parts_of(concepts: Sequence[str]) -> Tensor:
    """Combinations and their parts, places in `concepts` (R,2): the words of a part are some of the combination's.

    >>> parts_of(["red", "striped", "red striped", "sand background", "red on sand", "a red thing"]).tolist()
    [[2, 0], [2, 1], [2, 5], [4, 0], [4, 3], [4, 5]]
    """
    words = [frozenset(re.findall(r"\w+", text.casefold())) - EMPTY for text in concepts]
    by_word: dict[str, list[int]] = {}
    for place, own in enumerate(words):
        if own:
            by_word.setdefault(min(own), []).append(place)
    rows = []
    for c, own in enumerate(words):
        if len(own) > 1:
            near = sorted(d for word in own for d in by_word.get(word, ()) if words[d] < own)
            rows += [(c, d) for d in near]
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 2)


def allowed_combinations(
    activations: Any, embeddings: Any, texts: Any, parts: Tensor, neurons: Any = None, least: float = LEAST
) -> Tensor:
    """Which concepts may label which neuron (N,C): all but combinations that do not beat each of their parts.

    Args:
        activations: (I,N), in memory or any `ActivationSource`; NaN counts as the neuron's mean.
        embeddings: (I,D), unit rows; rows with NaN are left out.
        texts: (C,D).
        parts: of `parts_of`.
        neurons: indices of the neurons wanted; all N by default.
        least: z from which a combination is the better explanation.

    One pass over the activations; memory (N,D), and (N,R) in blocks of neurons.

    >>> t = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), dim=1)
    >>> shows = torch.rand(400, 2, generator=torch.Generator().manual_seed(0)) < 0.3
    >>> e = torch.nn.functional.normalize(shows + 0.1 * torch.randn(400, 2), dim=1)
    >>> a = torch.stack([shows[:, 0], shows[:, 0] & shows[:, 1]], 1).float()
    >>> allowed_combinations(a, e, t, torch.tensor([[2, 0], [2, 1]]))
    tensor([[ True,  True, False],
            [ True,  True,  True]])
    """
    a, e = source(activations), matrix(embeddings, "embeddings").cpu()
    t = matrix(texts, "texts").cpu().double()
    chosen = torch.arange(a.shape[1]) if neurons is None else torch.as_tensor(neurons, dtype=torch.int64)
    out = torch.ones(len(chosen), len(t), dtype=torch.bool)
    if not len(parts) or not len(chosen):
        return out
    usable = finite_rows(e)
    images = int(usable.sum())
    x = (e.double() - e[usable].double().mean(0)).masked_fill(~usable[:, None], 0.0)
    covariance = x.T @ x / images
    used, place = torch.unique(parts, return_inverse=True)
    t, (c, d) = t[used], place.T
    deviation = (t @ covariance * t).sum(1).clamp_min(1e-30).sqrt()
    between = ((t[c] @ covariance) * t[d]).sum(1) / (deviation[c] * deviation[d])
    along, squares, count = products(a, chosen, x, usable)
    along, own = along / count.clamp_min(1)[:, None], (squares / count.clamp_min(1)).sqrt()
    r = (along @ t.T / (own[:, None] * deviation)).clamp(-0.999999, 0.999999).nan_to_num(0.0)
    for block in blocks(len(chosen), 8 * 8 * len(parts)):
        z = _difference(r[block][:, c], r[block][:, d], between, images)
        worst = torch.full((len(z), len(out.T)), torch.inf, dtype=z.dtype)
        worst.scatter_reduce_(1, parts[:, 0].expand(len(z), -1), z, "amin")
        out[block] = worst >= least
    return out


def _difference(one: Tensor, other: Tensor, between: Tensor, images: int) -> Tensor:
    """z (N,R) that the first of two correlations is the larger one; `between` (R) is that of both similarities."""
    q = (one.square() + other.square()) / 2
    f = ((1 - between) / (2 * (1 - q))).clamp_max(1.0)
    h = (1 - f * q) / (1 - q)
    scale = ((images - 3) / (2 * (1 - between).clamp_min(1e-9) * h)).clamp_min(0.0).sqrt()
    return (one.atanh() - other.atanh()) * scale
