"""Thumbnails of a run: read from its file when first wanted, then kept in a nameless temporary file."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contralens.checks import first_line
from contralens.data import checked_reading
from contralens.errors import RunError, StoreError

UNPACKED_BYTES = 1 << 30
"""Bytes of thumbnails up to which all are unpacked as soon as a run is open."""


class Pictures:
    """Thumbnails by row of `images`. The file stays open; a group of it is unpacked once and never held in memory."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = pq.ParquetFile(path, memory_map=False, pre_buffer=False, page_checksum_verification=True)
            if "jpeg" not in self._file.schema_arrow.names:
                raise RunError(f"{path} cannot be read: it has no column jpeg")
            kept = self._file.read(columns=["fingerprint"])["fingerprint"]
            images = pq.ParquetFile(inside(path.parent, "images.parquet")).read(columns=["fingerprint"])["fingerprint"]
            places = pc.index_in(images, value_set=kept.combine_chunks())
            self._row = np.asarray(pc.fill_null(places, -1).to_numpy(), np.int64)
        except (pa.ArrowException, OSError, KeyError) as e:
            raise RunError(f"{path} cannot be read, it may be truncated or still being written: {first_line(e)}") from e
        rows = [self._file.metadata.row_group(g).num_rows for g in range(self._file.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)])
        self._offset = np.full(len(kept), -1, np.int64)
        self._length = np.zeros(len(kept), np.int32)
        self._spool = tempfile.TemporaryFile(prefix="contralens-")  # noqa: SIM115, lives as long as this
        self._end = 0
        self._lock = threading.Lock()

    def __contains__(self, image: int) -> bool:
        return 0 <= image < len(self._row) and self._row[image] >= 0

    def __iter__(self) -> Iterator[int]:
        """Numbers of the images that have a thumbnail, in the order of the file."""
        have = np.flatnonzero(self._row >= 0)
        return iter(have[np.argsort(self._row[have], kind="stable")].tolist())

    def get(self, image: int) -> bytes | None:
        """JPEG bytes of one image, None where no exemplar names it or the file is damaged there."""
        if image not in self:
            return None
        row = int(self._row[image])
        if self._offset[row] < 0:
            with self._lock:
                if self._offset[row] < 0:
                    self._unpack(int(np.searchsorted(self._starts, row, side="right")) - 1)
        length = int(self._length[row])
        return os.pread(self._spool.fileno(), length, int(self._offset[row])) if length else None

    def many(self, images: Iterable[int]) -> dict[int, bytes | None]:
        """Several at once."""
        return {i: self.get(i) for i in images}

    def warm(self) -> None:
        """Unpack all groups, one after the other, unless they are very many: so that a far jump waits for none."""
        if (
            sum(self._file.metadata.row_group(g).total_byte_size for g in range(self._file.num_row_groups))
            > UNPACKED_BYTES
        ):
            return
        for group, row in enumerate(self._starts[:-1]):
            with contextlib.suppress(StoreError), self._lock:
                if row < len(self._offset) and self._offset[row] < 0:
                    self._unpack(group)
            time.sleep(0.002)  # others first

    def _unpack(self, group: int) -> None:
        first, last = int(self._starts[group]), int(self._starts[group + 1])
        lengths = np.zeros(last - first, np.int32)
        blobs = []
        try:
            column = self._file.read_row_group(group, columns=["jpeg"], use_threads=False)["jpeg"]
            for i, blob in enumerate(column.to_pylist()):
                if isinstance(blob, bytes) and blob.startswith(b"\xff\xd8\xff"):
                    blobs.append(blob)
                    lengths[i] = len(blob)
        except (pa.ArrowException, OSError):
            blobs, lengths = [], np.zeros(last - first, np.int32)
        try:
            os.pwrite(self._spool.fileno(), b"".join(blobs), self._end)
        except OSError as e:
            raise StoreError(f"no room for thumbnails in {tempfile.gettempdir()}: {e.strerror}; free some space") from e
        self._length[first:last] = lengths
        ends = self._end + np.cumsum(lengths, dtype=np.int64)
        self._offset[first:last] = ends - lengths
        self._end = int(ends[-1]) if len(ends) else self._end


def inside(folder: Path, name: str) -> Path:
    """The file of a run, unless it is a link that leads out of the run folder, or no plain file."""
    try:
        return checked_reading.inside(folder, name)
    except FileNotFoundError:
        raise RunError(f"{folder / name} is missing") from None
