"""Thumbnails of a run, read from its file a few at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from contralens.checks import InputError


class Pictures:
    """Thumbnails of a run by row of `images`: the file stays open, a few groups of it stay in memory."""

    GROUPS = 96
    """Row groups kept, about 64 pictures or 0.4 MB each."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = pq.ParquetFile(path, memory_map=False, pre_buffer=False)
            prints = self._file.read(columns=["fingerprint"])["fingerprint"].to_pylist()
            if "jpeg" not in self._file.schema_arrow.names:
                raise InputError(f"{path} cannot be read: it has no column jpeg")
            rows = [self._file.metadata.row_group(g).num_rows for g in range(self._file.num_row_groups)]
            images = pq.ParquetFile(inside(path.parent, "images.parquet")).read(columns=["fingerprint"])
        except (pa.ArrowException, OSError, KeyError) as e:
            raise InputError(
                f"{path} cannot be read, it may be truncated or still being written: {first_line(e)}"
            ) from e
        places = ((group, row) for group, count in enumerate(rows) for row in range(count))
        where = dict(zip(prints, places, strict=True))
        self._place = {i: where[f] for i, f in enumerate(images["fingerprint"].to_pylist()) if f in where}
        self._groups: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, image: int) -> bool:
        return image in self._place

    def __iter__(self) -> Any:
        return iter(sorted(self._place, key=lambda i: self._place[i]))

    def get(self, image: int) -> bytes | None:
        """JPEG bytes of one image, None where no exemplar names it or the file is damaged there."""
        place = self._place.get(image)
        if place is None:
            return None
        with self._lock:
            group = self._groups.pop(place[0], None)
            if group is None:
                try:
                    group = self._file.read_row_group(place[0], columns=["jpeg"], use_threads=False)["jpeg"]
                except (pa.ArrowException, OSError):
                    return None
            self._groups[place[0]] = group
            while len(self._groups) > self.GROUPS:
                self._groups.popitem(last=False)
        blob = group[place[1]].as_py()
        return blob if isinstance(blob, bytes) and blob[:3] == b"\xff\xd8\xff" else None

    def many(self, images: Iterable[int]) -> dict[int, bytes | None]:
        """Several at once, each group read once."""
        wanted = sorted(set(images), key=lambda i: self._place.get(i, (-1, -1)))
        return {i: self.get(i) for i in wanted}


def inside(folder: Path, name: str) -> Path:
    """The file of a run, unless it is a link that leads out of the run folder, or no plain file."""
    path = folder / name
    real = path.resolve()
    if not real.is_relative_to(folder.resolve()):
        raise InputError(f"{path} is a link out of the run folder; it is not followed")
    if not path.exists():
        raise InputError(f"{path} is missing")
    if not real.is_file():
        raise InputError(f"{path} is not a file")
    return real


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
