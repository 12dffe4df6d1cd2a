"""Where activations (I,N) come from: a matrix in memory or on disk, or sparse rows. Mining needs no more than this."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from contralens.checks import InputError
from contralens.math.tensors import BLOCK_BYTES, blocks, matrix


@runtime_checkable
class ActivationSource(Protocol):
    """Activations that may never exist as one matrix. Values are float32 or float64, always of one kind."""

    shape: tuple[int, int]
    """(I,N)."""

    def blocks(self, neurons: Tensor | None = None, budget: int = BLOCK_BYTES) -> Iterator[tuple[int, Tensor]]:
        """(first image, rows (b,N)) in image order; only the columns `neurons` if given. A block has up to `budget`
        bytes."""
        ...

    def lookup(self, images: Tensor, neurons: Tensor) -> Tensor:
        """The activations of given pairs, (L),(L) -> (L). Asked rarely, and for many pairs at once."""
        ...


class DenseActivations:
    """A tensor, a numpy array or a memory map (I,N): read in row blocks and by index, never copied whole."""

    def __init__(self, values: Any) -> None:
        self._values = values if isinstance(values, Tensor) else _wrap(values)
        if self._values.ndim != 2:
            raise InputError(f"`activations` must be a matrix; got shape {tuple(self._values.shape)}")
        self._values = self._values.detach()
        self.shape = (self._values.shape[0], self._values.shape[1])

    def blocks(self, neurons: Tensor | None = None, budget: int = BLOCK_BYTES) -> Iterator[tuple[int, Tensor]]:
        columns = None if neurons is None else neurons.to(self._values.device)
        width = self.shape[1] if columns is None else len(columns)
        for block in blocks(self.shape[0], width * self._values.element_size(), budget):
            rows = self._values[block] if columns is None else self._values[block].index_select(1, columns)
            yield block.start, matrix(rows, "activations")

    def lookup(self, images: Tensor, neurons: Tensor) -> Tensor:
        images, neurons = images.to(self._values.device), neurons.to(self._values.device)
        if self._values.is_contiguous():
            values = self._values.view(-1).take(images * self.shape[1] + neurons)
        else:
            values = self._values[images, neurons]
        return values if values.dtype in (torch.float32, torch.float64) else values.float()


class SparseActivations:
    """Compressed sparse rows (CSR): whatever is not stored is 0, as in a sparse autoencoder's latents.

    Args:
        starts: (I+1), where each image's entries begin ("crow", "indptr").
        neurons: (E), the neuron of each entry, rising within an image.
        values: (E).
        shape: (I,N).

    >>> dense = torch.tensor([[0.0, 2.0], [0.0, 0.0], [3.0, 0.0]])
    >>> sparse = SparseActivations.of(dense)
    >>> sparse.lookup(torch.tensor([0, 1, 2]), torch.tensor([1, 1, 0]))
    tensor([2., 0., 3.])
    """

    def __init__(self, starts: Any, neurons: Any, values: Any, shape: tuple[int, int]) -> None:
        images, width = shape
        self.shape = (images, width)
        self._starts = torch.as_tensor(starts).to(torch.int64)
        self._values = matrix(torch.as_tensor(values).reshape(1, -1), "values")[0]
        columns = torch.as_tensor(neurons).to(torch.int64)
        if (
            len(self._starts) != images + 1
            or len(columns) != len(self._values)
            or int(self._starts[-1]) != len(columns)
        ):
            raise InputError(f"sparse activations of shape {shape} do not fit {len(columns)} entries")
        rows = torch.repeat_interleave(torch.arange(images, device=columns.device), self._starts.diff())
        self._keys = rows * width + columns
        if len(columns) and not (
            bool((self._keys.diff() > 0).all()) and 0 <= int(columns.min()) <= int(columns.max()) < width
        ):
            raise InputError("sparse activations need neurons that rise within each image, without repeats")

    @classmethod
    def of(cls, activations: Any) -> SparseActivations:
        """The non-zero entries of a matrix, or a `torch.sparse_csr` tensor."""
        if isinstance(activations, Tensor) and activations.layout == torch.sparse_csr:
            a = activations.detach()
            return cls(a.crow_indices(), a.col_indices(), a.values(), (a.shape[0], a.shape[1]))
        dense = matrix(activations, "activations")
        image, neuron = dense.nonzero(as_tuple=True)
        starts = torch.bincount(image + 1, minlength=len(dense) + 1).cumsum(0)
        return cls(starts, neuron, dense[image, neuron], (dense.shape[0], dense.shape[1]))

    def blocks(self, neurons: Tensor | None = None, budget: int = BLOCK_BYTES) -> Iterator[tuple[int, Tensor]]:
        images, width = self.shape
        for block in blocks(images, width * self._values.element_size(), budget):
            entries = slice(int(self._starts[block.start]), int(self._starts[block.stop]))
            rows = self._values.new_zeros((block.stop - block.start) * width)
            rows[self._keys[entries] - block.start * width] = self._values[entries]
            rows = rows.view(-1, width)
            yield block.start, rows if neurons is None else rows.index_select(1, neurons.to(rows.device))

    def lookup(self, images: Tensor, neurons: Tensor) -> Tensor:
        if not len(self._keys):
            return self._values.new_zeros(len(images))
        wanted = images.to(self._keys.device) * self.shape[1] + neurons.to(self._keys.device)
        place = torch.searchsorted(self._keys, wanted).clamp_max_(len(self._keys) - 1)
        return self._values[place].masked_fill_(self._keys[place] != wanted, 0.0)


def source(activations: Any) -> ActivationSource:
    """Whatever holds activations as an `ActivationSource`."""
    if isinstance(activations, Tensor) and activations.layout == torch.sparse_csr:
        return SparseActivations.of(activations)
    if isinstance(activations, ActivationSource) and not isinstance(activations, Tensor):
        return activations
    return DenseActivations(activations)


def _wrap(values: Any) -> Tensor:
    """A numpy array as a tensor that shares its memory; read-only memory maps included (nothing here writes)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.as_tensor(values)
