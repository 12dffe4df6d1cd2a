"""Activations (I,N) that never are in memory as one matrix: read tile by tile from the store, or computed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from contralens.data.store import TILE, Table
from contralens.math.activation_sources import ActivationSource, SparseActivations, pairwise
from contralens.math.tensors import BLOCK_BYTES, blocks


def stored_activations(table: Table, fingerprints: Sequence[str]) -> ActivationSource:
    """Rows (I,N) of a table of the store in the order asked for, at least one of which it holds.

    Rows that are kept without their zeros stay so; an image without a row is NaN for every neuron.
    """
    there = [f for f in fingerprints if table.has_row(f)]
    lacking = [i for i, f in enumerate(fingerprints) if not table.has_row(f)] if len(there) < len(fingerprints) else []
    if table.sparse:
        starts, neurons, values, width = table.sparse_rows(there)
        if lacking:
            counts = np.zeros(len(fingerprints), np.int64)
            counts[np.setdiff1d(np.arange(len(counts)), lacking)] = np.diff(starts)
            starts = np.concatenate([[0], counts.cumsum()])
        return SparseActivations(starts, neurons, values, (len(fingerprints), width), lacking)
    width = table.rows(there[:1]).shape[1]
    places = np.full((len(fingerprints), 2), -1, np.int32)
    places[np.setdiff1d(np.arange(len(places)), lacking)] = table.places(there)

    def read(start: int, stop: int, neurons: Tensor | None = None) -> Tensor:
        some, columns = places[start:stop], None if neurons is None else neurons.numpy()
        if not lacking:
            return torch.from_numpy(table.rows_at(some, columns))
        known = some[:, 0] >= 0
        rows = torch.full((len(some), width if columns is None else len(columns)), torch.nan)
        if known.any():
            rows[torch.from_numpy(known)] = torch.from_numpy(table.rows_at(some[known], columns)).float()
        return rows

    return TiledActivations((len(fingerprints), width), TILE, read)


class TiledActivations:
    """An `ActivationSource` whose rows come in tiles of consecutive images.

    `read(start, stop, neurons)` gives rows (stop-start,N), of some neurons only unless that is None, the same bits
    whenever it is asked. Only one tile is held at a time, so memory is bounded by the tile, whatever I is.
    """

    def __init__(self, shape: tuple[int, int], tile: int, read: Callable[[int, int, Tensor | None], Tensor]) -> None:
        self.shape = shape
        self._tile = tile
        self._read = read

    def blocks(self, neurons: Tensor | None = None, budget: int = BLOCK_BYTES) -> Iterator[tuple[int, Tensor]]:
        """(first image, rows (b,N)) in image order, only the columns `neurons` if given."""
        for start in range(0, self.shape[0], self._tile):
            rows = self._read(start, min(start + self._tile, self.shape[0]), None if neurons is None else neurons.cpu())
            for block in blocks(len(rows), rows.shape[1] * rows.element_size(), budget):
                yield start + block.start, rows[block]

    def visit(self, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The tiles that hold some of `images`, rising: which, and their rows."""
        for some in torch.split(images, torch.unique_consecutive(images // self._tile, return_counts=True)[1].tolist()):
            start = int(some[0]) // self._tile * self._tile
            yield some, self._read(start, min(start + self._tile, self.shape[0]), None)[some - start]

    def lookup(self, images: Tensor, neurons: Tensor) -> Tensor:
        """The activations of given pairs, (L),(L) -> (L); each tile that holds one of them is read once."""
        return pairwise(self, images, neurons)
