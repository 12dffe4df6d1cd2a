"""Fake neurons, which mean nothing: what labels would look like by chance.

A null neuron has a real neuron's activations in a random order over the images ("permuted"), so it means nothing; or it
is a random mixture of the real ones ("mixture"), which asks whether a neuron says more than a random direction.
"""

from __future__ import annotations

from collections.abc import Iterator
from tempfile import TemporaryFile
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from contralens.errors import InputError
from contralens.math.activation_sources import ActivationSource, Beside, columns, source
from contralens.math.exemplars import find_exemplars
from contralens.math.tensors import blocks
from contralens.types import Exemplars

FAKES_AT_ONCE = 256
"""Null neurons made and mined at once."""


def fake_activations(
    activations: Any, count: int, seed: int = 0, kind: Literal["permuted", "mixture"] = "permuted", neurons: Any = None
) -> Tensor:
    """`count` null neurons (I,count) made of the activations (I,N) of `neurons` (all by default).

    "permuted": neuron n mod N in a random order over the images, so each keeps its distribution. "mixture": sums of all
    standardised neurons with normal weights. Memory: (I,count) and a block of columns, whatever N is.

    Raises:
        InputError: no neuron, a count below 1, another kind.

    >>> fakes = fake_activations(activations, 6)
    >>> tuple(fakes.shape), fakes[:, 0].sort().values  # neuron 0 in another order
    ((4, 6), tensor([0., 0., 2., 3.]))
    """
    a = source(activations)
    chosen = torch.arange(a.shape[1]) if neurons is None else torch.as_tensor(neurons, dtype=torch.int64)
    if not len(chosen) or count < 1:
        raise InputError("null neurons need at least one real neuron and a count of at least 1")
    generator = torch.Generator().manual_seed(seed)
    if kind == "permuted":
        out = columns(a, chosen[torch.arange(count) % len(chosen)])
        for column in range(count):
            out[:, column] = out[torch.randperm(len(out), generator=generator), column]
        return out
    if kind != "mixture":
        raise InputError(f'`kind` must be "permuted" or "mixture"; got {kind!r}')
    weights = torch.randn(len(chosen), count, generator=generator, dtype=torch.float64) / len(chosen) ** 0.5
    mixed = torch.zeros(a.shape[0], count, dtype=torch.float64)
    kind_of = torch.float32
    for some in blocks(len(chosen), 8 * a.shape[0]):
        part = columns(a, chosen[some])
        kind_of, part = part.dtype, part.double()
        part = part.masked_fill(~part.isfinite(), torch.nan)
        centred = part - part.nanmean(0)
        unit = centred / centred.square().nanmean(0).sqrt().clamp_min(1e-12)
        mixed += unit.nan_to_num(0.0) @ weights[some]
    return mixed.to(kind_of)


def fake_exemplars(
    activations: Any,
    embeddings: Any,
    count: int,
    seed: int = 0,
    kind: Literal["permuted", "mixture"] = "permuted",
    neurons: Any = None,
    **mining: Any,
) -> Exemplars:
    """Exemplars of null neurons, mined like real ones.

    Null neurons are numbered on from the real neurons: their indices begin at N.

    Args:
        activations: (I,N) of the real neurons.
        embeddings: (I,D), unit rows of the same images.
        count: null neurons to make.
        seed: of the null neurons.
        kind: "permuted" real neurons, in a random order over the images, or a random "mixture" of them.
        neurons: the real neurons that null neurons are made of; all by default.
        mining: k, reuse and exclude of `find_exemplars`.

    Returns:
        Exemplars of the null neurons, (count,K).

    >>> fake_exemplars(activations, embeddings, 3, k=2).neurons  # after the two real ones
    tensor([2, 3, 4])
    """
    a = source(activations)
    parts = []
    for start, fakes in _fakes(a, count, seed, kind, neurons):
        if isinstance(embeddings, Tensor):
            fakes = fakes.to(embeddings.device)
        found = find_exemplars(fakes, embeddings, **mining)
        parts.append(Exemplars(found.neurons + a.shape[1] + start, *_fields(found)))
    return together(*parts)


def with_fakes(
    activations: Any,
    count: int,
    seed: int = 0,
    kind: Literal["permuted", "mixture"] = "permuted",
    neurons: Any = None,
    *,
    budget: int = 2**30,
) -> ActivationSource:
    """Activations (I,N+M) of the real neurons and, beside them, of the null neurons whose exemplars `fake_exemplars`
    finds.

    The null neurons are in memory, (I,M), or where they need more than `budget` bytes in a temporary file.
    `activations`, `count`, `seed`, `kind` and `neurons` are those of `fake_exemplars`.

    >>> with_fakes(activations, 3).shape
    (4, 5)
    """
    a = source(activations)
    fakes: Tensor | None = None
    for start, made in _fakes(a, count, seed, kind, neurons):
        if fakes is None:
            fakes = _room(count, a.shape[0], made.dtype, budget)
        fakes[start : start + made.shape[1]] = made.T
    return Beside(a, torch.empty(a.shape[0], 0) if fakes is None else fakes.T)


def _room(count: int, images: int, dtype: torch.dtype, budget: int) -> Tensor:
    if count * images * dtype.itemsize <= budget:
        return torch.empty(count, images, dtype=dtype)
    kind = str(dtype).removeprefix("torch.")
    return torch.from_numpy(np.memmap(TemporaryFile(), kind, "w+", shape=(count, images)))


def _fakes(
    a: ActivationSource, count: int, seed: int, kind: Literal["permuted", "mixture"], neurons: Any
) -> Iterator[tuple[int, Tensor]]:
    """(number of the first, activations (I,b)) of null neurons, a block at a time."""
    for start in range(0, count, FAKES_AT_ONCE):
        size = min(FAKES_AT_ONCE, count - start)
        yield start, fake_activations(a, size, seed + 1_000_003 * start, kind, _from(neurons, a.shape[1], start))


def together(*parts: Exemplars) -> Exemplars:
    """Neurons of several exemplar sets in one; the shorter ones are filled up with -1 and NaN.

    >>> together(exemplars, exemplars.first(1)).positives
    tensor([[ 0,  2],
            [ 3,  2],
            [ 0, -1],
            [ 3, -1]])
    """
    k = max(p.positives.shape[1] for p in parts)
    columns = []
    for part in zip(*(_fields(p) for p in parts), strict=True):
        hole = torch.nan if part[0].is_floating_point() else -1
        columns.append(torch.cat([torch.nn.functional.pad(x, (0, k - x.shape[1]), value=hole) for x in part]))
    return Exemplars(torch.cat([p.neurons for p in parts]), *columns)


def _fields(e: Exemplars) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return e.positives, e.activations, e.contrasts, e.similarities


def _from(neurons: Any, width: int, start: int) -> Tensor:
    """The neurons in turn, beginning where the last block ended."""
    chosen = torch.arange(width) if neurons is None else torch.as_tensor(neurons, dtype=torch.int64)
    return chosen.roll(-start % max(1, len(chosen)))
