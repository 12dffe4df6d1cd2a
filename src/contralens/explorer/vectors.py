"""Concept vectors of a run: CSP at any gamma, neighbours, a map and search, in numpy over a file left on the disk."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from contralens.errors import RunError

Floats = NDArray[np.float32]
NAMES = ("positive_mean", "contrast_mean", "texts")
TYPES = {"F32": "<f4", "F16": "<f2"}
BLOCK = 2048
HALF_PRECISION_FROM = 12_000_000
"""Numbers above which unit rows are kept in half precision."""
GRID = np.linspace(0.0, 1.0, 101)


class Vectors:
    """positive_mean and contrast_mean (N,D), texts (C,D): v(gamma) = normalise(positive - gamma contrast)."""

    def __init__(self, path: Path, neurons: Sequence[int], concepts: Sequence[str]) -> None:
        arrays = _arrays(path)
        self.first, self.second, self.texts = (arrays[name] for name in NAMES)
        self.neurons = np.asarray(neurons, np.int64)
        self.concepts = list(concepts)
        self.row = {int(n): i for i, n in enumerate(neurons)}
        n, width = self.first.shape
        if (
            self.second.shape != (n, width)
            or self.texts.shape != (len(concepts), width)
            or n != len(neurons)
            or not width
        ):
            raise RunError(
                f"{path} does not fit its run: shapes {self.first.shape}, {self.second.shape} and {self.texts.shape} "
                f"for {len(neurons)} neurons and {len(concepts)} concepts"
            )
        few = len(concepts) * width <= HALF_PRECISION_FROM // 2
        self._words = self.texts[:] if few else None
        self._units: dict[float, NDArray[Any]] = {}
        self._lock = threading.Lock()

    def units(self, gamma: float) -> NDArray[Any]:
        """(N,D) unit rows, half precision where they are many; those of the last two gammas are kept."""
        gamma = round(gamma, 3)
        with self._lock:
            if gamma not in self._units:
                many = self.first.shape[0] * self.first.shape[1] > HALF_PRECISION_FROM
                out = np.empty(self.first.shape, np.float16 if many else np.float32)
                for start in range(0, len(out), BLOCK):
                    part = slice(start, start + BLOCK)
                    out[part] = normalise(self.first[part] - gamma * self.second[part])
                while len(self._units) > 1:
                    self._units.pop(next(iter(self._units)))
                self._units[gamma] = out
            return self._units[gamma]

    def similarities(self, vector: Floats, gamma: float) -> Floats:
        """<v(gamma), vector> of every neuron (N); a neuron without a vector has NaN or 0."""
        units = self.units(gamma)
        out = np.empty(len(units), np.float32)
        for start in range(0, len(units), BLOCK):
            out[start : start + BLOCK] = units[start : start + BLOCK].astype(np.float32, copy=False) @ vector
        return out

    def nearest(self, vector: Floats, gamma: float, most: int) -> list[tuple[int, float]]:
        """The neurons most similar to a unit vector (D), best first, ties by lower index."""
        found = self.similarities(vector, gamma)
        found = np.where(np.isfinite(found), found, -np.inf)
        best = np.argsort(-found, kind="stable")[:most]
        return [(int(self.neurons[i]), float(found[i])) for i in best if np.isfinite(found[i])]

    def neighbours(self, neuron: int, gamma: float, most: int = 12) -> list[tuple[int, float]] | None:
        """The neurons whose concept vectors are most similar, itself left out."""
        if neuron not in self.row:
            return None
        own = self.units(gamma)[self.row[neuron]].astype(np.float32, copy=False)
        return [(n, s) for n, s in self.nearest(own, gamma, most + 1) if n != neuron][:most]

    def gamma(self, neuron: int, top: int = 10) -> dict[str, Any] | None:
        """What a page needs to score one neuron at any gamma: see `shapes.Gamma`.

        The score of a concept over the common length is a line in gamma, so those among the best `top` somewhere on a
        fine grid are all that can be shown.
        """
        if neuron not in self.row:
            return None
        first = self.first.row(self.row[neuron])
        second = self.second.row(self.row[neuron])
        if not (np.isfinite(first).all() and np.isfinite(second).all() and first.any()):
            return None
        a, b = np.empty(len(self.texts), np.float32), np.empty(len(self.texts), np.float32)
        pair = np.stack([first, second], 1)
        for start in range(0, len(a), BLOCK):
            part = slice(start, start + BLOCK)
            a[part], b[part] = ((self.texts[part] if self._words is None else self._words[part]) @ pair).T
        top = min(top, len(a))
        # A line that never reaches the `top`-th best of all lines' least values is never among the best.
        reach = np.flatnonzero(np.maximum(a, a - b) >= np.partition(np.minimum(a, a - b), -top)[-top])
        keep = np.zeros(len(reach), bool)
        for g in GRID:
            keep[np.argpartition(g * b[reach] - a[reach], top - 1)[:top]] = True
        kept = reach[keep]
        return {
            "concepts": [self.concepts[c] for c in kept],
            "places": kept,
            "first": [float(f"{v:.7g}") for v in a[kept]],
            "second": [float(f"{v:.7g}") for v in b[kept]],
            "norms": [float(first @ first), float(first @ second), float(second @ second)],
        }

    def plane(self, gamma: float) -> tuple[NDArray[Any], list[float]]:
        """PCA of the unit vectors: (N,2) and the share of the variance on each axis."""
        units = self.units(gamma)
        width = units.shape[1]

        def centred(start: int) -> Floats:
            part: Floats = np.nan_to_num(units[start : start + BLOCK].astype(np.float32)) - mean
            return part

        starts = range(0, len(units), BLOCK)
        mean: Any = 0.0
        scatter, total = np.zeros((width, width)), np.zeros(width)
        for start in starts:
            total += centred(start).sum(0)  # centred at 0 so far
        mean = total / max(1, len(units))
        for start in starts:
            part = centred(start)
            scatter += part.T @ part
        values, axes = np.linalg.eigh(scatter)
        first = axes[:, ::-1][:, : min(2, width)]
        first = first * np.sign(first[np.abs(first).argmax(0), range(first.shape[1])])
        out = np.zeros((len(units), 2))
        for start in starts:
            out[start : start + BLOCK, : first.shape[1]] = centred(start) @ first.astype(np.float32)
        whole = max(float(values.clip(0).sum()), 1e-12)
        return out, [float(v) / whole for v in values.clip(0)[::-1][:2]]


def normalise(rows: Any) -> Any:
    """Rows to length 1; a row of zeros stays."""
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(length > 0, length, 1)


class Rows:
    """A tensor (R,D) of an open safetensors file, read by rows. Never mapped: a file cut short while it is mapped
    would end the process."""

    def __init__(self, file: BinaryIO, path: Path, kind: np.dtype[Any], start: int, shape: tuple[int, int]) -> None:
        self._file, self._path, self._kind, self._start, self.shape = file, path, kind, start, shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, places: slice) -> Floats:
        """Rows of a slice, float32."""
        first, last, _ = places.indices(len(self))
        size = self._kind.itemsize * self.shape[1]
        data = os.pread(self._file.fileno(), max(0, last - first) * size, self._start + first * size)
        if len(data) != max(0, last - first) * size:
            raise RunError(f"{self._path} is cut off; write the run again")
        rows = np.frombuffer(data, self._kind).reshape(-1, self.shape[1])
        return np.asarray(rows, np.float32)

    def row(self, at: int) -> Floats:
        row: Floats = self[at : at + 1][0]
        return row


def _arrays(path: Path) -> dict[str, Rows]:
    """The tensors of a safetensors file, its header checked against its size."""
    try:
        file = path.open("rb")
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, 1 << 20):
            raise ValueError("its header is broken")
        header = json.loads(file.read(length))
        out = {}
        for name in NAMES:
            entry = header[name]
            low, high = entry["data_offsets"]
            kind, (rows, width) = np.dtype(TYPES[entry["dtype"]]), (int(n) for n in entry["shape"])
            if min(rows, width, low) < 0 or high - low != kind.itemsize * rows * width or 8 + length + high > size:
                raise ValueError(f"{name} is cut off")
            out[name] = Rows(file, path, kind, 8 + length + low, (rows, width))
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise RunError(f"{path} cannot be read: {e if not isinstance(e, KeyError) else f'no {e}'}") from e
    return out
