"""Scores some concepts at a time and only the best of them kept, so that (N,C) need not be in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from contralens.errors import InputError
from contralens.math.activation_sources import ActivationSource, source
from contralens.math.statistics import RunningTop
from contralens.math.tensors import SPARE, all_bits, blocks, matrix, return_memory, room
from contralens.types import Brief, Exemplars

Scorer = Callable[..., Tensor]
"""(Exemplars, embeddings (I,D), texts (C,D), options) -> (N,C)."""


@dataclass(frozen=True, slots=True, repr=False)
class Columns(Brief):
    """Scores (N,C) that are computed when they are asked for, all neurons and some concepts at a time.

    >>> scores = torch.rand(2, 3)
    >>> [which for which, some in Columns((2, 3), scores, lambda some: scores[:, some]).blocks()]
    [slice(0, 3, None)]
    """

    shape: tuple[int, int]
    """(N,C)."""
    like: Tensor
    """Any tensor of the scores' kind and device."""
    of: Callable[[slice], Tensor]
    """Concepts to their scores (N,c)."""
    each: int = 1
    """Numbers besides the scores that one more concept takes while it is computed."""

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """(which concepts, scores (N,c)) in the order of the concepts, as many at a time as scratch memory holds."""
        bytes_each = (self.shape[0] + self.each) * self.like.element_size()
        for block in blocks(self.shape[1], bytes_each, room(self.like.device)):
            with all_bits(self.like.device):
                scores = self.of(block)
            yield block, scores
            return_memory(SPARE)


def belonging(activations: Any, embeddings: Any, texts: Any) -> tuple[ActivationSource, Tensor, Tensor]:
    """Activations (I,N), embeddings (I,D) and texts (C,D) as what looks at all images reads them; on the CPU.

    Raises:
        InputError: no matrices, or not of the same images and width.
    """
    a, e, t = source(activations), matrix(embeddings, "embeddings").cpu(), matrix(texts, "texts").cpu()
    if a.shape[0] != len(e) or e.shape[1] != t.shape[1]:
        raise InputError(
            f"activations {a.shape}, embeddings {tuple(e.shape)} and texts {tuple(t.shape)} do not belong together"
        )
    return a, e, t


def by_columns(prepare: Callable[..., Columns]) -> Scorer:
    """A scorer made of a function that takes the same arguments and gives `Columns` (`scoring.score_blocks`).

    >>> @by_columns
    ... def strongest(exemplars, embeddings, texts):
    ...     v = embeddings[exemplars.positives[:, 0]]
    ...     return Columns((len(v), len(texts)), v, lambda some: v @ texts[some].T)
    >>> strongest(exemplars, embeddings, texts)
    tensor([[0.8000, 0.6000, 0.0000],
            [0.8000, 0.0000, 0.6000]])
    """

    @wraps(prepare)
    def scorer(exemplars: Exemplars, embeddings: Any, texts: Any, *args: Any, **options: Any) -> Tensor:
        columns = prepare(exemplars, embeddings, texts, *args, **options)
        out = columns.like.new_empty(columns.shape)
        for block, scores in columns.blocks():
            out[:, block] = scores
        return out

    setattr(scorer, "columns", prepare)  # noqa: B010
    return scorer


@dataclass(frozen=True, slots=True, repr=False)
class Best(Brief):
    """The best concepts of each neuron, by falling score, ties by lower index; fields (N,T) on the CPU.

    >>> found = best(iter([(slice(0, 2), torch.tensor([[0.1, 0.3], [torch.nan, torch.nan]]))]))
    >>> found.labels, found.scores[:, 0]
    (tensor([ 1, -1]), tensor([0.3000,    nan]))
    """

    concepts: Tensor
    """int64, -1 where there is none: a score that is NaN makes no label."""
    scores: Tensor
    """NaN where there is none."""

    @property
    def labels(self) -> Tensor:
        """(N) the best concept of each neuron, -1 for none."""
        return self.concepts[:, 0]


NONE = Best(torch.empty(0, 1, dtype=torch.int64), torch.empty(0, 1))
"""Of no neuron."""


def best(scores: Iterator[tuple[slice, Tensor]], count: int = 1) -> Best:
    """The `count` best concepts of each neuron from (which concepts, scores (N,c)) in the order of the concepts.

    >>> best(iter([(slice(0, 2), torch.tensor([[0.1, 0.3]])), (slice(2, 3), torch.tensor([[0.3]]))]), 2).concepts
    tensor([[1, 2]])
    """
    top: RunningTop | None = None
    for block, some in scores:
        if top is None:
            top = RunningTop(some.T, count)
        top.add(block.start, some.T)
    assert top is not None
    values, concepts = top.result()
    return Best(concepts, values.masked_fill(concepts < 0, torch.nan))
