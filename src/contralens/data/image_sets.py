"""Sets of probe images by where they live: files, a map-style data set, a Hugging Face data set, another set."""

from __future__ import annotations

import copy
import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from contralens import types
from contralens.data.atomic_files import readable
from contralens.data.decode import MAX_PIXELS, content_hash, decode, picture, reason
from contralens.errors import ImageError, InputError

_THREADS = 8
_PIECE = 64


class ImageSet:
    """An ordered set of probe images (`types.Images`); what a kind of source adds is how to get at one item.

    `labels` are the class names of the images where the source shows them; `ignored` counts what lay beside them.
    """

    def __init__(
        self,
        name: str,
        ids: Iterable[str],
        keys: Iterable[Any],
        labels: Iterable[str] | None = None,
        ignored: dict[str, int] | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.name = readable(name)
        self.ids: Sequence[str] = unique(ids)
        self.labels = None if labels is None else [readable(label) for label in labels]
        self.ignored = ignored or {}
        self.max_pixels = max_pixels
        self.source: str | None = None
        """The text that `images` found the set by, or that of the set that it is a part of."""
        self._keys = list(keys)
        self._fingerprints: list[str] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"<{len(self)} images: {self.name}>"

    def fingerprints(self) -> Sequence[str]:
        """32 hex digits per image: of sha256 of its content, or of its id where the content cannot be read."""
        if self._fingerprints is None:
            self._fingerprints = self.named(range(len(self)), list(self._hashes(self._keys)))
        return self._fingerprints

    # What `data.fingerprint_cache` needs to remember fingerprints beyond one process.

    stamped = False
    """Whether `stamps` can tell a changed image without reading it."""

    @property
    def hashed(self) -> bool:
        """Whether the fingerprints are available already."""
        return self._fingerprints is not None

    def stamps(self, indices: Sequence[int]) -> tuple[list[str], float]:
        """A text per image that changes when the image does, and the newest change among them (seconds since 1970)."""
        raise NotImplementedError

    def hash_some(self, indices: Sequence[int]) -> list[str | None]:
        """The content hashes of some images, None where one cannot be read."""
        return list(self._hashes([self._keys[i] for i in indices]))

    def named(self, indices: Sequence[int], hashes: Sequence[str | None]) -> list[str]:
        """Hashes as fingerprints: an image that cannot be read stands for its id."""
        lost = (hashlib.sha256(f"unreadable {self.ids[i]}".encode()) for i in indices)
        return [found or other.hexdigest()[:32] for found, other in zip(hashes, lost, strict=True)]

    def settle(self, fingerprints: list[str]) -> list[str]:
        """Take these as the fingerprints of the set."""
        self._fingerprints = fingerprints
        return fingerprints

    def load(self, index: int) -> Image.Image:
        """Decode one image to RGB, upright; `errors.ImageError` "id: reason" for one that cannot be decoded."""
        try:
            return decode(self._item(self._keys[index]), self.max_pixels)
        except Exception as e:  # whatever a decoder or a data set raises over one image must not end the run
            raise ImageError(f"{self.ids[index]}: {reason(e)}") from e

    def take(self, indices: Sequence[int]) -> ImageSet:
        """The images at `indices`, in that order."""
        part = copy.copy(self)
        part.ids = [self.ids[i] for i in indices]
        part.labels = None if self.labels is None else [self.labels[i] for i in indices]
        part._keys = [self._keys[i] for i in indices]
        part._fingerprints = None if self._fingerprints is None else [self._fingerprints[i] for i in indices]
        return part

    def _item(self, key: Any) -> Any:
        raise NotImplementedError

    def _hash(self, key: Any) -> str | None:
        """The content hash of one image, None where it is not available."""
        try:
            return content_hash(self._item(key))
        except Exception:  # `load` will say what is wrong
            return None

    def _hashes(self, keys: Sequence[Any]) -> Iterable[str | None]:
        return _in_threads(lambda some: [self._hash(key) for key in some], keys)


class FileImages(ImageSet):
    """Images that are files; the keys are their paths."""

    stamped = True

    @property
    def files(self) -> list[Path]:
        """Their absolute paths, in order."""
        return [Path(key).absolute() for key in self._keys]

    def stamps(self, indices: Sequence[int]) -> tuple[list[str], float]:
        def look(paths: Sequence[Any]) -> list[tuple[str, float]]:
            return [_stamp(os.fspath(path)) for path in paths]

        seen = list(_in_threads(look, [self._keys[i] for i in indices]))
        return [stamp for stamp, _ in seen], max((changed for _, changed in seen), default=0.0)

    def _item(self, key: Any) -> Any:
        return Path(key)


class OtherImages(ImageSet):
    """Some images of any `types.Images`."""

    def __init__(self, images: types.Images) -> None:
        super().__init__(images.name, images.ids, range(len(images)), getattr(images, "labels", None))
        self._images = images

    def _hashes(self, keys: Sequence[Any]) -> Iterable[str | None]:
        all_of_them = self._images.fingerprints()
        return [all_of_them[key] for key in keys]

    def load(self, index: int) -> Image.Image:
        return self._images.load(self._keys[index])


class DatasetImages(ImageSet):
    """Images of a map-style data set without files: what identifies one is its decoded pixels.

    Its items are taken one at a time, since data sets are rarely safe to read from several threads at once.
    """

    def __init__(self, dataset: Any, max_pixels: int = MAX_PIXELS) -> None:
        n = len(dataset)
        super().__init__(type(dataset).__name__, map(str, range(n)), range(n), _targets(dataset), None, max_pixels)
        self._dataset = dataset
        self._lock = threading.Lock()
        if n:
            self._look_at_first()

    def _look_at_first(self) -> None:
        """A wrong kind of item, or one that a random transform changes at each look, is better reported at once."""
        try:
            first, again = (content_hash(self._item(0)) for _ in range(2))
        except (TypeError, ValueError) as e:
            raise InputError(f"`images`: items of {self.name} cannot be used: {reason(e)}") from e
        except Exception:
            return  # a single broken image is no reason to refuse the others
        if first != again:
            raise InputError(
                f"`images`: {self.name} gives different pixels each time; remove random transforms from the data set"
            )

    def _item(self, key: Any) -> Any:
        with self._lock:
            return picture(self._dataset[key])

    def _hashes(self, keys: Sequence[Any]) -> Iterable[str | None]:
        return map(self._hash, keys)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


class HuggingFaceImages(ImageSet):
    """The image column of a `datasets.Dataset`, as stored bytes: format, transform and decoder of it are not used."""

    def __init__(
        self, dataset: Any, column: str | None = None, name: str | None = None, max_pixels: int = MAX_PIXELS
    ) -> None:
        column, kind = _image_column(dataset, column)
        rows = len(dataset)
        title = name or f"{dataset.info.dataset_name or 'dataset'} {dataset.split or ''} {column}".replace("  ", " ")
        ids = (f"{dataset.split or 'row'}/{i}" for i in range(rows))
        super().__init__(title, ids, range(rows), _class_names(dataset), None, max_pixels)
        self._dataset = dataset
        self._column = column
        self._mark = getattr(dataset, "_fingerprint", None)  # changes with whatever changes the data set
        self._rows = dataset.with_format(None).select_columns([column])
        if kind is not None:
            self._rows = self._rows.cast_column(column, kind(decode=False))

    @property
    def stamped(self) -> bool:  # type: ignore[override]
        """Only where the rows hold the images' bytes: of files that they name, the data set knows no change."""
        first = self._rows[self._keys[0]][self._column] if self._mark and self._keys else None
        return isinstance(first, bytes) or (first is not None and first.get("bytes") is not None)

    def stamps(self, indices: Sequence[int]) -> tuple[list[str], float]:
        return [f"{self._mark} {self._column} {self._keys[i]}" for i in indices], 0.0

    def _item(self, key: Any) -> Any:
        stored = key if isinstance(key, dict | bytes) or key is None else self._rows[key][self._column]
        if stored is None:
            raise ValueError("no image in this row")
        if isinstance(stored, bytes):
            return stored
        if stored.get("bytes") is None and stored.get("path") is None:
            raise ValueError("neither bytes nor a path in this row")
        return stored["bytes"] if stored.get("bytes") is not None else Path(stored["path"])

    def values(self, column: str) -> list[str]:
        """Another column of the data set as texts: names of classes where it has them, "" for null.

        Raises:
            InputError: there is no such column.
        """
        if column not in self._dataset.features:
            known = ", ".join(map(str, self._dataset.features))
            raise InputError(f"`images`: the data set has no column {column!r}; it has {known}")
        names = getattr(self._dataset.features[column], "names", None)
        found = self._dataset.with_format(None)[column]
        rows = [found[key] for key in self._keys]
        return ["" if v is None or (names and v < 0) else str(names[v] if names else v) for v in rows]

    def _hashes(self, keys: Sequence[Any]) -> Iterable[str | None]:
        """Rows are read by the piece, which is many times faster than one by one."""
        return _in_threads(lambda some: [self._hash(s) for s in self._rows[list(some)][self._column]], keys)


def unique(names: Iterable[str]) -> list[str]:
    """The names with " (2)", " (3)" ... on those that came before, and with bytes that are no text spelled out.

    >>> unique(["a", "b", "a", "a (2)"])
    ['a', 'b', 'a (2)', 'a (2) (2)']
    """
    seen: set[str] = set()
    out: list[str] = []
    for name in names:
        clean = readable(name)
        new, count = clean, 1
        while new in seen:
            count += 1
            new = f"{clean} ({count})"
        seen.add(new)
        out.append(new)
    return out


def _image_column(dataset: Any, column: str | None) -> tuple[str, Any]:
    """The column with the images, and its kind of feature; None for plain bytes, as pandas writes them."""
    kinds: dict[str, str] = {name: _kind(feature) for name, feature in dataset.features.items()}
    found = [name for name, kind in kinds.items() if kind == "Image"]
    found = found or [name for name, kind in kinds.items() if kind == "bytes"]
    if column is not None and kinds.get(column) in ("Image", "bytes"):
        found = [column]
    for name in found:
        if name == column or (column is None and len(found) == 1):
            return name, type(dataset.features[name]) if kinds[name] == "Image" else None
    has = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
    if column is not None:
        raise InputError(f"`images`: the data set has no image column {column!r}; its columns: {has}")
    if found:
        raise InputError(f"`images`: the data set has several image columns, name one of {', '.join(found)}")
    raise InputError(f"`images`: the data set has no image column; its columns: {has}")


def _kind(feature: Any) -> str:
    """What a column holds: "bytes" for binary values and for structures with a part of that name."""
    if isinstance(feature, dict) and "bytes" in feature:
        return "bytes"
    return "bytes" if "binary" in str(getattr(feature, "dtype", "")) else type(feature).__name__


def _class_names(dataset: Any) -> list[str] | None:
    names = [n for n, feature in dataset.features.items() if type(feature).__name__ == "ClassLabel"]
    if not names:
        return None
    name = "label" if "label" in names else names[0]
    known = dataset.features[name].names
    return [str(known[i]) if i is not None and 0 <= i < len(known) else "" for i in dataset.with_format(None)[name]]


def _targets(dataset: Any) -> list[str] | None:
    """The class names of a torchvision data set, where it shows them without decoding its images."""
    found = getattr(dataset, "targets", None)
    if found is None:
        found = getattr(dataset, "labels", None)
    try:
        targets = [int(t) for t in found]  # type: ignore[union-attr]
        names = list(getattr(dataset, "classes", None) or [])
        if len(targets) != len(dataset):
            return None
        return [str(names[t]) if 0 <= t < len(names) else str(t) for t in targets]
    except (TypeError, ValueError):
        return None


def _stamp(path: str) -> tuple[str, float]:
    """What changes with a file, and when it last changed; a file that cannot be looked at is new for ever."""
    try:
        s = os.stat(path)
    except OSError:
        return f"{path} unreadable", float("inf")
    stamp = f"{path} {s.st_size} {s.st_ino} {s.st_mtime_ns} {s.st_ctime_ns}"
    return stamp, max(s.st_mtime, s.st_ctime)


T = TypeVar("T")


def _in_threads(piece: Callable[[Sequence[Any]], list[T]], keys: Sequence[Any]) -> Iterable[T]:
    pieces = [keys[i : i + _PIECE] for i in range(0, len(keys), _PIECE)]
    if len(pieces) < 2:
        return [one for part in pieces for one in piece(part)]
    with ThreadPoolExecutor(_THREADS) as pool:
        return [one for part in pool.map(piece, pieces) for one in part]
