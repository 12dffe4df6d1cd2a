"""The cache: rows of numbers, keyed by what the image IS and by what made the numbers; never by a name.

A table holds the rows of one extractor (its fingerprint names the table). Each row belongs to the content fingerprint
of an image, so a changed image, weight, layer, pooling or template recomputes what depends on it and nothing else.
Tables grow by tiles: files of up to 512 rows, written atomically, each with checksums over header and data (`sealed`).
The header is checked when a table is opened, the data when somebody asks whether a row is there: one that does not
check is not there. Its tile is set aside, never read, and computed again.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from contralens.data.atomic_files import TEMPORARY, digest, explained, sweep, write_whole
from contralens.data.sealed_tensors import Damaged, Sealed, sealed, set_aside
from contralens.errors import StoreError

TILE = 512
"""Images in a tile: what a killed run has to do again at most."""
MOST_IN_MEMORY = 256 * 2**20
"""Rows of more bytes are mapped from a file rather than read into memory, where they are asked for that way."""


def default_cache() -> Path:
    """$CONTRALENS_CACHE, or contralens/ in the user's cache folder."""
    if given := os.environ.get("CONTRALENS_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "contralens"


AGAIN = "its rows are recomputed"
_PER_ROW = ("rows", "counts", "ends")
"""Arrays of a tile with one entry for each of its fingerprints."""


class Table:
    """Rows keyed by fingerprints, in append-only tiles under one folder.

    A tile holds named arrays with one entry per row ("rows" for numbers; "bytes" and "ends" for blobs), the
    fingerprints of its rows, and the images that gave no row, each with its reason. Rows that are mostly zeros are kept
    as "counts" (entries of each row), "neurons" and "values" (of all entries, row by row) and "width"; see `sparse`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tiles: list[Sealed] = []
        self._place: dict[str, tuple[int, int]] = {}
        self.skipped: dict[str, str] = {}
        """Why there is no row, by fingerprint, where that lasts; a reason that is in the machine is not kept."""
        self._sound: set[int] = set()
        self.sparse = False
        """Whether its rows are kept without their zeros."""
        sweep(folder)
        for path in sorted(folder.glob("*.safetensors")):
            if not path.name.startswith(TEMPORARY):
                self._open(path)

    def __contains__(self, fingerprint: str) -> bool:
        return self.has_row(fingerprint) or fingerprint in self.skipped

    def has_row(self, fingerprint: str) -> bool:
        """Whether there is a row, as it was written; of a tile that does not check no row is there any more."""
        place = self._place.get(fingerprint)
        return place is not None and self._checks(place[0])

    def append(
        self, fingerprints: Sequence[str], arrays: Mapping[str, np.ndarray], skipped: Mapping[str, str] | None = None
    ) -> None:
        """Add one tile: `arrays` as described above, `skipped` maps fingerprints without a row to the reason."""
        skipped = dict(skipped or {})
        if not fingerprints and not skipped:
            return
        metadata = {"ids": " ".join(fingerprints), "skipped": json.dumps(skipped, sort_keys=True)}
        path = self.folder / f"{digest(*fingerprints, *sorted(skipped))}.safetensors"
        write_whole(path, sealed(arrays, metadata))
        self._open(path)

    def arrays(self, fingerprint: str) -> dict[str, np.ndarray]:
        """All arrays of the tile that holds this row."""
        return self._load(self._place[fingerprint][0])

    def rows(self, fingerprints: Sequence[str]) -> np.ndarray:
        """The rows (len(fingerprints),W) in the order asked for, zeros included."""
        if self.sparse:
            starts, neurons, values, width = self.sparse_rows(fingerprints)
            dense = np.zeros((len(fingerprints), width), values.dtype)
            dense[np.repeat(np.arange(len(dense)), np.diff(starts)), neurons] = values
            return dense
        return self.rows_at(self.places(fingerprints))

    def places(self, fingerprints: Sequence[str]) -> np.ndarray:
        """Where rows lie, for `rows_at`: (len(fingerprints),2) int32."""
        return np.array([self._place[f] for f in fingerprints], np.int32).reshape(-1, 2)

    def rows_at(self, places: np.ndarray, columns: np.ndarray | None = None) -> np.ndarray:
        """The rows (len(places),W) at some places of a table that is not sparse; only some columns if given.

        Of a tile that has been checked once, no more than that is read, in pages.
        """
        out: np.ndarray | None = None
        for tile in np.unique(places[:, 0]).tolist():
            to = np.flatnonzero(places[:, 0] == tile)
            rows, at = self._whole(tile).mapped("rows"), places[to, 1]
            if len(at) > 1 and at[-1] - at[0] == len(at) - 1 and (np.diff(at) == 1).all():
                rows = rows[at[0] : at[-1] + 1]
                rows = rows if columns is None else rows[:, columns]
            else:
                rows = rows[at] if columns is None else rows[np.ix_(at, columns)]
            if out is None:
                out = np.empty((len(places), *rows.shape[1:]), rows.dtype)
            out[to] = rows
        return out if out is not None else np.empty((0, 0), np.float32)

    def mapped(self, fingerprints: Sequence[str]) -> np.ndarray:
        """`rows`, from `MOST_IN_MEMORY` bytes on as a memory map of a nameless file that vanishes with the array."""
        one = self.rows(fingerprints[:1])
        if one.nbytes * len(fingerprints) <= MOST_IN_MEMORY:
            return self.rows(fingerprints)
        with explained(self.folder), tempfile.TemporaryFile(prefix=TEMPORARY, dir=self.folder) as f:
            for start in range(0, len(fingerprints), 8 * TILE):
                f.write(self.rows(fingerprints[start : start + 8 * TILE]).data)
            f.flush()
            return np.memmap(f, one.dtype, "c", shape=(len(fingerprints), *one.shape[1:]))

    def sparse_rows(self, fingerprints: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """Rows of a sparse table in the order asked for: starts (len(fingerprints)+1), neurons (E) and values (E) of
        their entries, and the width W. Memory is that of the entries and one tile."""
        wanted = [(tile, *np.array(places).T) for tile, places in self._by_tile(fingerprints).items()]
        starts = np.zeros(len(fingerprints) + 1, np.int64)
        for tile, to, at in wanted:
            starts[to + 1] = self._load(tile, "counts")["counts"][at]
        np.cumsum(starts, out=starts)
        neurons, values, width = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32), 0
        for tile, to, at in wanted:
            arrays = self._load(tile)
            counts = arrays["counts"].astype(np.int64)
            some = counts[at]
            within = np.arange(some.sum()) - np.repeat(some.cumsum() - some, some)
            source = within + np.repeat((counts.cumsum() - counts)[at], some)
            goal = within + np.repeat(starts[to], some)
            neurons[goal], values[goal] = arrays["neurons"][source], arrays["values"][source]
            width = int(arrays["width"][0])
        return starts, neurons, values, width

    def blobs(self, fingerprints: Sequence[str]) -> dict[str, bytes]:
        """The blobs of these fingerprints."""
        out: dict[str, bytes] = {}
        for tile, places in self._by_tile(fingerprints).items():
            arrays = self._load(tile)
            data, ends = arrays["bytes"].tobytes(), [0, *arrays["ends"].tolist()]
            for to, at in places:
                out[fingerprints[to]] = data[ends[at] : ends[at + 1]]
        return out

    def _by_tile(self, fingerprints: Sequence[str]) -> dict[int, list[tuple[int, int]]]:
        wanted: dict[int, list[tuple[int, int]]] = {}
        for to, fingerprint in enumerate(fingerprints):
            tile, at = self._place[fingerprint]
            wanted.setdefault(tile, []).append((to, at))
        return wanted

    def _open(self, path: Path) -> None:
        try:
            tile = Sealed(path)
            ids, skipped = tile.metadata["ids"].split(), json.loads(tile.metadata["skipped"])
            lengths = {tile.arrays[name].shape[0] for name in _PER_ROW if name in tile.arrays}
            if lengths - {len(ids)}:
                raise Damaged(f"it names {len(ids)} rows and holds {min(lengths)}")
        except (Damaged, OSError) as e:
            set_aside(path, e, AGAIN)
            return
        self._tiles.append(tile)
        self.sparse |= "counts" in tile.arrays
        for at, fingerprint in enumerate(ids):
            self._place.setdefault(fingerprint, (len(self._tiles) - 1, at))
        self.skipped.update(skipped)

    def _checks(self, tile: int) -> bool:
        """Whether a tile's data are as they were written; else it is set aside and its rows are no longer there."""
        if tile in self._sound:
            return True
        try:
            self._tiles[tile].check()
        except (Damaged, OSError) as e:
            self._place = {f: place for f, place in self._place.items() if place[0] != tile}
            set_aside(self._tiles[tile].path, e, AGAIN)
            return False
        self._sound.add(tile)
        return True

    def _whole(self, tile: int) -> Sealed:
        """A tile whose data have been checked."""
        if not self._checks(tile):
            path = self._tiles[tile].path
            raise StoreError(f"cached tile {path} was damaged on disk and is moved aside; run the command again")
        return self._tiles[tile]

    def _load(self, tile: int, *names: str) -> dict[str, np.ndarray]:
        """The arrays of a tile, all or those named."""
        whole = self._whole(tile)
        return {name: whole.read(name) for name in names or whole.arrays}


class Store:
    """All tables under one folder, by default the user's cache."""

    def __init__(self, root: str | Path | None = None) -> None:
        self.root = Path(root) if root is not None else default_cache()
        with explained(self.root):
            self.root.mkdir(parents=True, exist_ok=True)

    def table(self, kind: str, *identity: str) -> Table:
        """The table of this kind ("rows", "texts", "thumbnails"...) for whatever `identity` says made its rows."""
        return Table(self.root / kind / digest(*identity))

    def remember(self, kind: str, *identity: str) -> Remembered:
        """One result (a dict of arrays) that can be computed again from what `identity` names."""
        return Remembered(Table(self.root / kind / digest(*identity)))

    def snapshot(self, kind: str, *identity: str) -> Snapshot:
        """How far long work has come, as a dict of arrays that is replaced as a whole."""
        return Snapshot(self.root / kind / f"{digest(*identity)}.safetensors")


class Snapshot:
    """A dict of arrays in one file with a checksum, whole or absent; a damaged one counts as absent."""

    def __init__(self, path: Path) -> None:
        self.path = path
        sweep(path.parent)

    def get(self) -> dict[str, np.ndarray] | None:
        if not self.path.exists():
            return None
        try:
            kept = Sealed(self.path)
            kept.check()
            return {name: kept.read(name) for name in kept.arrays}
        except (Damaged, OSError) as e:
            set_aside(self.path, e, "the work starts over")
            return None

    def put(self, arrays: Mapping[str, np.ndarray]) -> None:
        write_whole(self.path, sealed(arrays, {}))

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)


class Log:
    """Dicts of arrays written one after the other, each in a file of its own; read back up to one that is damaged."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        """`count`: how many have been read or written; the next one written takes the place of what comes after."""

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        while (arrays := self._next().get()) is not None:
            self.count += 1
            yield arrays

    def append(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._next().put(arrays)
        self.count += 1

    def _next(self) -> Snapshot:
        return Snapshot(self.folder / f"{self.count:06d}.safetensors")


class Remembered:
    """A dict of arrays kept as the single tile of a table."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def get(self) -> dict[str, np.ndarray] | None:
        return self._table.arrays("result") if self._table.has_row("result") else None

    def put(self, arrays: Mapping[str, Any]) -> None:
        self._table.append(["result"], {name: np.asarray(array) for name, array in arrays.items()})

    def get_or_make(self, make: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        arrays = self.get()
        if arrays is None:
            self.put(made := make())
            return made
        return arrays


def sparse(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Rows (b,W) as the arrays of a tile without their zeros; those of several blocks follow each other.

    >>> {name: array.tolist() for name, array in sparse(np.array([[0.0, 2.0], [0.0, 0.0]])).items()}
    {'counts': [1, 0], 'neurons': [1], 'values': [2.0]}
    """
    row, neuron = rows.nonzero()
    return {
        "counts": np.bincount(row, minlength=len(rows)).astype(np.int32),
        "neurons": neuron.astype(np.int32),
        "values": rows[row, neuron],
    }


def pack(blobs: Sequence[bytes]) -> dict[str, np.ndarray]:
    """Blobs as the arrays of a tile."""
    return {
        "bytes": np.frombuffer(b"".join(blobs), np.uint8),
        "ends": np.cumsum([len(b) for b in blobs], dtype=np.int64),
    }
