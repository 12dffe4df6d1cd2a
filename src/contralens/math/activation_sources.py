"""Where activations (I,N) come from: a matrix in memory or on disk, or sparse rows. Mining needs no more than this."""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from contralens.errors import InputError
from contralens.math.tensors import BLOCK_BYTES, blocks, matrix


@runtime_checkable
class ActivationSource(Protocol):
    """Activations that may never exist as one matrix. Values are float32 or float64, always of one kind.

    >>> found = source(activations)
    >>> for start, rows in found.blocks(neurons=torch.tensor([1])):
    ...     print(start, rows[:, 0].tolist())
    0 [0.0, 0.0, 2.0, 3.0]
    >>> found.lookup(torch.tensor([0, 2]), torch.tensor([0, 1]))  # image 0 of neuron 0, image 2 of neuron 1
    tensor([3., 2.])
    """

    shape: tuple[int, int]
    """(I,N)."""

    def blocks(self, neurons: Tensor | None = None, budget: int = BLOCK_BYTES) -> Iterator[tuple[int, Tensor]]:
        """(first image, rows (b,N)) in image order; only the columns `neurons` if given. A block has up to `budget`
        bytes."""
        ...

    def lookup(self, images: Tensor, neurons: Tensor) -> Tensor:
        """The activations of given pairs, (L),(L) -> (L). Asked rarely, and for many pairs at once."""
        ...


@runtime_checkable
class RowActivations(ActivationSource, Protocol):
    """A source for which one value of an image costs as much as its whole row: mining asks it for rows, each once."""

    def visit(self, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """(which of `images` (b), their rows (b,N)) until all have come; `images` rise, and so do those of a step."""
        ...


@runtime_checkable
class LoggedActivations(RowActivations, Protocol):
    """Rows that cost so much that what was looked up along lists is saved, for a killed run to continue from."""

    def logged(self, key: str) -> Iterator[tuple[int, list[Tensor]]]:
        """What was written under this key, in order: (how many of the images, the values found on them)."""
        ...

    def log(self, key: str, images: int, values: Tensor) -> None:
        """Values that were found, and how many images are done with them; to be saved soon."""
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
            yield block.start, self.rows(block, columns)

    def rows(self, images: slice, neurons: Tensor | None = None) -> Tensor:
        """The rows (b,N) of consecutive images, only the columns `neurons` if given."""
        rows = self._values[images]
        return matrix(rows if neurons is None else rows.index_select(1, neurons), "activations")

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
        missing: images (any number) of which nothing is known; all their activations are NaN.

    >>> dense = torch.tensor([[0.0, 2.0], [0.0, 0.0], [3.0, 0.0]])
    >>> sparse = SparseActivations.of(dense)
    >>> sparse.lookup(torch.tensor([0, 1, 2]), torch.tensor([1, 1, 0]))
    tensor([2., 0., 3.])
    """

    def __init__(self, starts: Any, neurons: Any, values: Any, shape: tuple[int, int], missing: Any = ()) -> None:
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
        self._missing = torch.zeros(images, dtype=torch.bool, device=self._keys.device)
        self._missing[torch.as_tensor(missing, dtype=torch.int64)] = True

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

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return sum(t.nbytes for t in (self._keys, self._values, self._starts, self._missing))

    def to(self, device: torch.device) -> SparseActivations:
        """The same on another device."""
        moved = copy.copy(self)
        moved._starts, moved._keys = self._starts.to(device), self._keys.to(device)
        moved._values, moved._missing = self._values.to(device), self._missing.to(device)
        return moved

    def blocks(self, neurons: Tensor | None = None, budget: int = BLOCK_BYTES) -> Iterator[tuple[int, Tensor]]:
        images, width = self.shape
        wanted, back = (None, None) if neurons is None else torch.unique(neurons, return_inverse=True)
        columns = width if wanted is None else len(wanted)
        place = torch.full((width,), -1, device=self._keys.device)
        place[slice(None) if wanted is None else wanted.to(place.device)] = torch.arange(columns, device=place.device)
        for block in blocks(images, columns * self._values.element_size(), budget):
            entries = slice(int(self._starts[block.start]), int(self._starts[block.stop]))
            keys, values = self._keys[entries] - block.start * width, self._values[entries]
            column = place[keys % width]
            there = column >= 0
            rows = self._values.new_zeros(block.stop - block.start, columns)
            rows.view(-1)[(keys // width * columns + column)[there]] = values[there]
            rows[self._missing[block]] = torch.nan
            yield block.start, rows if back is None else rows.index_select(1, back.to(rows.device))

    def lookup(self, images: Tensor, neurons: Tensor) -> Tensor:
        if not len(self._keys):
            return self._values.new_zeros(len(images)).masked_fill_(
                self._missing[images.to(self._missing.device)], torch.nan
            )
        images = images.to(self._keys.device)
        wanted = images * self.shape[1] + neurons.to(self._keys.device)
        place = torch.searchsorted(self._keys, wanted).clamp_max_(len(self._keys) - 1)
        found = self._values[place].masked_fill_(self._keys[place] != wanted, 0.0)
        return found.masked_fill_(self._missing[images], torch.nan)


class Resampled:
    """Rows of another source, some of them perhaps more than once: what a bootstrap sample of the images sees.

    >>> drawn = Resampled(DenseActivations(torch.tensor([[1.0], [2.0], [3.0]])), torch.tensor([0, 2, 2]))
    >>> columns(drawn, torch.tensor([0])).flatten().tolist(), drawn.lookup(torch.tensor([1]), torch.tensor([0]))
    ([1.0, 3.0, 3.0], tensor([3.]))
    """

    def __init__(self, of: ActivationSource, rows: Tensor) -> None:
        if bool((rows.diff() < 0).any()):
            raise InputError("`rows` must be sorted, since a source is read in order")
        self._of, self._rows = of, rows
        self.shape = (len(rows), of.shape[1])

    def blocks(self, neurons: Tensor | None = None, budget: int = BLOCK_BYTES) -> Iterator[tuple[int, Tensor]]:
        for start, values in self._of.blocks(neurons, budget):
            ends = torch.tensor([start, start + len(values)], device=self._rows.device)
            first, last = torch.searchsorted(self._rows, ends).tolist()
            for some in blocks(last - first, values.shape[1] * values.element_size(), budget):
                rows = self._rows[first + some.start : first + some.stop] - start
                yield first + some.start, values[rows.to(values.device)]

    def lookup(self, images: Tensor, neurons: Tensor) -> Tensor:
        return self._of.lookup(self._rows[images.to(self._rows.device)], neurons)


class Beside:
    """More neurons (I,M), as a matrix, beside those of another source (I,N): column N is the first of them.

    >>> both = Beside(DenseActivations(torch.tensor([[1.0], [2.0]])), torch.tensor([[3.0, 5.0], [4.0, 6.0]]))
    >>> columns(both, torch.tensor([2, 0])).tolist(), both.lookup(torch.tensor([1, 0]), torch.tensor([0, 1])).tolist()
    ([[5.0, 1.0], [6.0, 2.0]], [2.0, 3.0])
    """

    def __init__(self, of: ActivationSource, more: Any) -> None:
        self._of, self._more = of, DenseActivations(more)
        if self._more.shape[0] != of.shape[0]:
            raise InputError(f"{self._more.shape[0]} and {of.shape[0]} images do not fit side by side")
        self.shape = (of.shape[0], of.shape[1] + self._more.shape[1])

    def blocks(self, neurons: Tensor | None = None, budget: int = BLOCK_BYTES) -> Iterator[tuple[int, Tensor]]:
        wanted, width = torch.arange(self.shape[1]) if neurons is None else neurons.cpu(), self._of.shape[1]
        own, more = (wanted < width).nonzero()[:, 0], (wanted >= width).nonzero()[:, 0]
        share = max(1, budget * max(1, len(own)) // max(1, len(wanted)))
        for start, rows in self._of.blocks(wanted[own], share):
            out = rows.new_empty(len(rows), len(wanted), device="cpu")
            out[:, own] = rows.cpu()
            out[:, more] = self._more.rows(slice(start, start + len(rows)), wanted[more] - width).to(out.dtype)
            yield start, out

    def lookup(self, images: Tensor, neurons: Tensor) -> Tensor:
        images, neurons, width = images.cpu(), neurons.cpu(), self._of.shape[1]
        own = neurons < width
        out = self._more.lookup(images, (neurons - width).clamp_min(0))
        out[own] = self._of.lookup(images[own], neurons[own]).to("cpu", out.dtype)
        return out


def columns(activations: Any, neurons: Tensor) -> Tensor:
    """The activations of some neurons on all images as a matrix, (I,N),(n) -> (I,n), on the CPU.

    >>> columns(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([2, 0]))
    tensor([[3., 1.]])
    """
    parts = [rows.cpu() for _, rows in source(activations).blocks(neurons)]
    return torch.cat(parts) if parts else torch.empty(0, len(neurons))


def along(activations: RowActivations, lists: Tensor, row: Tensor, neurons: Tensor) -> Tensor:
    """The activations of pairs (P) along lists of images: of `neurons[p]` on each of `lists[row[p]]`, (P,M) on the CPU.

    Each row of the source is read once, however many lists (Q,M) hold its image; 0 where a list holds -1.
    """
    lists, row, neurons = lists.cpu(), row.cpu(), neurons.cpu()
    length = lists.shape[1]
    order = row.argsort(stable=True)  # the pairs of a list lie together
    pairs_of = torch.bincount(row, minlength=len(lists))
    first_pair = pairs_of.cumsum(0) - pairs_of
    entry = lists.flatten().argsort(stable=True)  # places in the lists, those of an image together
    image = lists.flatten()[entry]
    wanted = torch.unique_consecutive(image[image >= 0]).long()
    out: Tensor | None = None

    def fill(some: Tensor, values_of: Callable[[Tensor, Tensor], Tensor]) -> Iterator[Tensor]:
        """Take in values_of(which of `some` images, neurons), in the order of the images, and pass them on."""
        nonlocal out
        begin, end = torch.searchsorted(image, (some[[0, -1]] + torch.tensor([0, 1])).to(image.dtype)).tolist()
        each = 64 * max(1, len(row) // max(1, len(lists)))
        for part in blocks(end - begin, each):
            here = slice(begin + part.start, begin + part.stop)
            which, place = entry[here] // length, entry[here] % length
            at = torch.searchsorted(some, image[here].long())
            count = pairs_of[which]
            within = torch.arange(int(count.sum())) - (count.cumsum(0) - count).repeat_interleave(count)
            pair = order[first_pair[which].repeat_interleave(count) + within]
            values = values_of(at.repeat_interleave(count), neurons[pair])
            if out is None:
                out = values.new_zeros(len(row), length)
            out[pair, place.repeat_interleave(count)] = values
            yield values

    done, key = 0, ""
    if isinstance(activations, LoggedActivations):
        key = hashlib.sha256(b"".join(x.contiguous().numpy().tobytes() for x in (lists, row, neurons))).hexdigest()
        for images, values in activations.logged(key):
            deque(fill(wanted[done : done + images], partial(_next_of, deque(values))), maxlen=0)
            done += images
    for some, rows in activations.visit(wanted[done:]) if done < len(wanted) else ():
        for found in fill(some, partial(_picked, rows.cpu())):
            if isinstance(activations, LoggedActivations):
                activations.log(key, 0, found)
        if isinstance(activations, LoggedActivations):
            activations.log(key, len(some), rows.new_empty(0))
    return torch.zeros(len(row), length) if out is None else out


def _picked(rows: Tensor, images: Tensor, neurons: Tensor) -> Tensor:
    return rows[images, neurons]


def _next_of(values: deque[Tensor], images: Tensor, neurons: Tensor) -> Tensor:
    """As many of the values as are asked for, in order."""
    parts, left = [], len(images)
    while left:
        part = values.popleft()
        if len(part) > left:
            values.appendleft(part[left:])
        parts.append(part[:left])
        left -= len(parts[-1])
    return torch.cat(parts)


def pairwise(activations: RowActivations, images: Tensor, neurons: Tensor) -> Tensor:
    """`lookup` for a source of rows: the activations of pairs (L),(L) -> (L), each row read once."""
    images, neurons = images.cpu(), neurons.cpu()
    order = images.argsort()
    image = images[order]
    out: Tensor | None = None
    for some, rows in activations.visit(torch.unique_consecutive(image)) if len(image) else ():
        if out is None:
            out = rows.new_empty(len(images))
        begin, end = torch.searchsorted(image, some[[0, -1]] + torch.tensor([0, 1])).tolist()
        these = order[begin:end]
        out[these] = rows[torch.searchsorted(some, images[these]), neurons[these]]
    return torch.empty(0) if out is None else out


def source(activations: Any) -> ActivationSource:
    """Whatever holds activations as an `ActivationSource`.

    >>> found = source(activations)
    >>> found.shape, isinstance(found, ActivationSource)
    ((4, 2), True)
    """
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
