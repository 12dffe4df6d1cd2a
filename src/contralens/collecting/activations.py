"""Activations (I,N) that never stand in memory as one matrix: read tile by tile from the store, or computed anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from contralens.math.tensors import BLOCK_BYTES, blocks


class TiledActivations:
    """An `ActivationSource` whose rows come in tiles of consecutive images.

    `read(start, stop)` gives rows (stop-start,N), the same bits whenever it is asked. Only one tile is held at a time,
    so memory is bounded by the tile, whatever I is.
    """

    def __init__(self, shape: tuple[int, int], tile: int, read: Callable[[int, int], Tensor]) -> None:
        self.shape = shape
        self._tile = tile
        self._read = read

    def blocks(self, neurons: Tensor | None = None, budget: int = BLOCK_BYTES) -> Iterator[tuple[int, Tensor]]:
        """(first image, rows (b,N)) in image order, only the columns `neurons` if given."""
        for start in range(0, self.shape[0], self._tile):
            rows = self._read(start, min(start + self._tile, self.shape[0]))
            if neurons is not None:
                rows = rows.index_select(1, neurons.cpu())
            for block in blocks(len(rows), rows.shape[1] * rows.element_size(), budget):
                yield start + block.start, rows[block]

    def lookup(self, images: Tensor, neurons: Tensor) -> Tensor:
        """The activations of given pairs, (L),(L) -> (L); each tile that holds one of them is read once."""
        images, neurons = images.cpu(), neurons.cpu()
        order = images.argsort()
        tiles, counts = torch.unique_consecutive(images[order] // self._tile, return_counts=True)
        out: Tensor | None = None
        ends = counts.cumsum(0).tolist()
        for tile, begin, end in zip(tiles.tolist(), [0, *ends], ends, strict=False):
            these = order[begin:end]
            start = tile * self._tile
            rows = self._read(start, min(start + self._tile, self.shape[0]))
            if out is None:
                out = rows.new_empty(len(images))
            out[these] = rows[images[these] - start, neurons[these]]
        return torch.empty(0) if out is None else out
