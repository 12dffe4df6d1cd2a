"""Probe images from whatever holds them: `images("photos/")`, a list of files, a data set."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePath
from typing import Any

from contralens import types
from contralens.checks import nearest, require
from contralens.data.atomic_files import readable
from contralens.data.decode import DICOM_START, MAX_PIXELS, suffixes
from contralens.data.dicom import is_dicom
from contralens.data.image_sets import DatasetImages, FileImages, HuggingFaceImages, ImageSet, OtherImages
from contralens.data.other_sources import WAYS, Arrays, way_to_read
from contralens.data.split_names import classes_of
from contralens.errors import InputError, KindError
from contralens.specs import part_of, scheme

_LISTS = (".txt", ".lst", ".list")


def images(
    source: Any, *, limit: int | None = None, seed: int = 0, column: str | None = None, max_pixels: int = MAX_PIXELS
) -> types.Images:
    """The ordered set of images in `source`; images are decoded later.

    `source` is one of

    - a folder, with its subfolders: every file with an image suffix, in byte order of the relative path; hidden files
      and others are skipped and counted in `.ignored`; folders reached by several paths count once;
    - a list of files, or a text file (.txt or "@any.name") with one path per line, relative to its folder;
    - a map-style data set as of torchvision: its files if it is a folder data set (without its transform, since each
      model has its own), otherwise its items (anything that `decode` accepts, or tuples that begin with it);
    - a Hugging Face data set with an image column (`column` where there are several), also as
      "hf-dataset:NAME_OR_PATH:SPLIT[:COLUMN]"; parquet files and WebDataset tars are read so, and columns of bytes;
    - "npz:FILE[:ARRAY]", a NumPy file of pictures (N,H,W) or (N,H,W,C);
    - an `Images`, which is returned as it is.

    `limit` keeps a sample of this size, chosen by a hash of `seed` and id: it does not depend on the machine and
    changes little when images are added. The order is kept. `.labels` has class names if the source has them. Raises
    `InputError` if there are no images.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (8, 6), "red").save(f"{folder}/red.png")
    ...     found = images(folder)
    ...     print(found.ids, found.load(0).size, len(found.fingerprints()[0]))
    ['red.png'] (8, 6) 32
    """
    found = _find(source, column, max_pixels)
    if isinstance(found, ImageSet) and isinstance(source, (str, os.PathLike)):
        found.source = readable(os.fspath(source))
    if not len(found):
        raise InputError(
            f"`images`: {found.name} holds no images; give a folder, a list or a data set with at least one"
        )
    if limit is None:
        return found
    if limit < 1:
        raise InputError(f"`limit` must be at least 1 image, got {limit}")
    if limit >= len(found):
        return found
    order = sorted(range(len(found)), key=lambda i: hashlib.sha256(f"{seed}:{found.ids[i]}".encode()).digest())
    part = (found if isinstance(found, ImageSet) else OtherImages(found)).take(sorted(order[:limit]))
    part.name = f"{found.name} ({limit} of {len(found)}, seed {seed})"
    return part


def set_fingerprint(images: types.Images) -> str:
    """32 hex digits of all contents in order; names do not count, so a renamed set is the same set."""
    return hashlib.sha256("\n".join(images.fingerprints()).encode()).hexdigest()[:32]


def _find(source: Any, column: str | None, max_pixels: int) -> types.Images:
    if isinstance(source, types.Images):
        return source
    if isinstance(source, str) and (made := _scheme(source, column, max_pixels)) is not None:
        return made
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.suffix.lower() in _LISTS and path.is_file():
            return _listed_in(path, max_pixels)
        return _folder(path, max_pixels)
    if isinstance(source, Iterable) and not hasattr(source, "__getitem__") and not hasattr(source, "__len__"):
        source = _if_paths(source)
    if isinstance(source, Sequence) and all(isinstance(s, (str, os.PathLike)) for s in source):
        return listed([os.fspath(s) for s in source], Path(), f"list of {len(source)} files", max_pixels)
    if hasattr(source, "features") and hasattr(source, "cast_column"):
        if not hasattr(source, "__len__"):
            raise InputError("`images`: a streamed data set has no order; load it with streaming=False")
        return HuggingFaceImages(source, column, max_pixels=max_pixels)
    if hasattr(source, "cast_column") and hasattr(source, "keys"):
        raise InputError(f"`images`: choose one split of the data set: {', '.join(map(str, source.keys()))}")
    if hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, (dict, bytes)):
        return _dataset(source, max_pixels)
    raise KindError(
        f"`images` must be a folder, a list of files, a map-style data set or an Images; got {type(source).__name__}"
    )


def _if_paths(source: Iterable[Any]) -> Any:
    items = iter(source)
    return list(items) if iter(source) is items else source  # a generator, e.g. Path.glob; not a streamed data set


def _scheme(source: str, column: str | None, max_pixels: int) -> ImageSet | None:
    """A set from "@list" or "scheme:rest"; None where `source` is a path."""
    if source.startswith("@"):
        return _listed_in(Path(source[1:]), max_pixels)
    kind, rest = scheme(source)
    if kind in SOURCES:
        return SOURCES[kind](rest, column, max_pixels)
    if ":" in source and len(kind) > 1 and not os.path.exists(source):
        known = ", ".join(f"{s}:..." for s in SOURCES)
        raise InputError(
            f"`images`: {source!r} is neither a folder nor one of {known}, @list.txt{nearest(kind, SOURCES)}"
        )
    return None


def _folder(path: Path, max_pixels: int) -> FileImages:
    if not path.exists():
        near = nearest(path.name, _names(path.parent))
        raise InputError(f"`images`: no folder {str(path)!r}{near}")
    if not path.is_dir():
        way = way_to_read(path) or f"give a folder of images, or @{path} for a list of paths"
        raise InputError(f"`images`: {str(path)!r} is a file; {way}")
    try:
        names, ignored = _walk(str(path))
    except OSError as e:
        raise InputError(f"`images`: the folder {str(path)!r} cannot be read: {e.strerror}") from e
    if not names:
        what = ", ".join(f"{n} {kind}" for kind, n in sorted(ignored.items(), key=lambda kv: (-kv[1], kv[0]))[:6])
        known = ", ".join(sorted(s[1:] for s in suffixes() if len(s) < 6))
        held = [kind for kind in ignored if kind in WAYS and kind not in (".csv", ".tsv")]
        instead = way_to_read(path / f"FILE{held[0]}") if held else f"known kinds: {known}"
        raise InputError(f"`images`: no images in {str(path)!r}; found {what or 'nothing'}; {instead}")
    files = [os.path.join(path, name) for name in names]
    return FileImages(str(path), (PurePath(n).as_posix() for n in names), files, classes_of(names), ignored, max_pixels)


def _walk(root: str) -> tuple[list[str], dict[str, int]]:
    """Relative paths of the images below `root`, in byte order, and counts of what else is there.

    Linked folders are entered after all real ones and in byte order, and no folder twice: so a loop ends, and which of
    several ways to a folder gives its images their names is the same everywhere.
    """
    kinds = suffixes()
    found: list[str] = []
    ignored: Counter[str] = Counter()
    seen: set[tuple[int, int]] = set()
    links: list[str] = []

    def enter(folder: str) -> None:
        below = [folder]
        while below:
            relative = below.pop()
            here = os.path.join(root, relative)
            try:
                status = os.stat(here)
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
                entries = list(os.scandir(here))
            except OSError:
                if not relative:
                    raise
                ignored["unreadable folder"] += 1
                continue
            for entry in entries:
                name = os.path.join(relative, entry.name)
                suffix = os.path.splitext(entry.name)[1].lower()
                if entry.name.startswith("."):
                    ignored["hidden"] += 1
                elif entry.is_dir(follow_symlinks=False):
                    below.append(name)
                elif entry.is_symlink() and _is_dir(entry):
                    links.append(name)
                elif suffix not in kinds and not _is_dicom(entry, suffix):
                    ignored[suffix or "without a suffix"] += 1
                elif entry.is_symlink() or entry.is_file():  # a dangling link is an image that cannot be read
                    found.append(name)
                else:
                    ignored["pipe or device"] += 1

    enter("")
    while links:
        links.sort(key=_bytes, reverse=True)
        enter(links.pop())
    found.sort(key=_bytes)
    return found, dict(sorted(ignored.items()))


def _is_dicom(entry: os.DirEntry[str], suffix: str) -> bool:
    """Whether a file without a suffix, or with the end of a DICOM identifier for one, is DICOM and no index of such."""
    if (suffix and not suffix[1:].isdigit()) or entry.name == "DICOMDIR":
        return False
    try:
        if not entry.is_file():
            return False
        with open(entry.path, "rb") as file:
            return is_dicom(file.read(DICOM_START))
    except OSError:
        return False


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _bytes(name: str) -> bytes:
    return os.fsencode(name.replace(os.sep, "/"))


def _listed_in(path: Path, max_pixels: int) -> FileImages:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except OSError as e:
        raise InputError(f"`images`: the list {str(path)!r} cannot be read: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise InputError(f"`images`: {str(path)!r} is not a list of paths, since it is not UTF-8 text") from e
    return listed([s for line in lines if (s := line.strip())], path.parent, str(path), max_pixels)


def listed(names: Sequence[str], base: Path, title: str, max_pixels: int = MAX_PIXELS) -> FileImages:
    """Files by their paths relative to `base`; `InputError` where one does not exist."""
    if not names:
        raise InputError(
            f"`images`: the {title} is empty" if title.startswith("list") else f"`images`: {title} is empty"
        )
    files = [os.path.join(base, name) for name in names]
    missing = [name for name, file in zip(names, files, strict=True) if not os.path.lexists(file)]
    if missing:
        where = f", looked for in {str(base)!r}" if str(base) != "." and not os.path.isabs(missing[0]) else ""
        raise InputError(
            f"`images`: {len(missing)} of {len(names)} files in {title} do not exist, e.g. {missing[0]!r}{where}"
        )
    ids = [PurePath(name).as_posix() for name in names]
    return FileImages(title, ids, files, None, None, max_pixels)


def _dataset(dataset: Any, max_pixels: int) -> ImageSet:
    base, indices = dataset, None
    while hasattr(base, "dataset") and hasattr(base, "indices"):  # torch.utils.data.Subset
        indices = list(base.indices) if indices is None else [base.indices[i] for i in indices]
        base = base.dataset
    samples = getattr(base, "samples", None) or getattr(base, "imgs", None)
    if samples and _reads_plain_files(base):
        root = os.fspath(getattr(base, "root", "") or "")
        files = [os.fspath(sample[0]) for sample in samples]
        ids = [PurePath(os.path.relpath(f, root) if root else f).as_posix() for f in files]
        names = list(getattr(base, "classes", []))
        labels = [str(names[s[1]]) if 0 <= s[1] < len(names) else str(s[1]) for s in samples]
        found: ImageSet = FileImages(f"{type(base).__name__} {root}".strip(), ids, files, labels, None, max_pixels)
    else:
        found = DatasetImages(base, max_pixels)
    if indices is not None:
        found = found.take([int(i) for i in indices])
        found.name = f"{found.name}, subset"
    return found


def _reads_plain_files(dataset: Any) -> bool:
    loader: Any = getattr(dataset, "loader", None)
    plain = ("default_loader", "pil_loader", "accimage_loader")
    return getattr(loader, "__module__", "") == "torchvision.datasets.folder" and loader.__name__ in plain


def _hugging_face(rest: str, column: str | None, max_pixels: int) -> ImageSet:
    parts = rest.split(":")
    if len(parts) > 2 and len(parts[0]) == 1 and parts[1][:1] in ("\\", "/"):  # C:\folder
        parts[:2] = [":".join(parts[:2])]
    if not 2 <= len(parts) <= 3 or not all(parts):
        raise InputError(f"`images`: expected hf-dataset:NAME_OR_PATH:SPLIT[:COLUMN], got {'hf-dataset:' + rest!r}")
    name, split = parts[:2]
    datasets = require("datasets", "datasets")
    builder = BUILDERS.get(Path(name).suffix.lower()) if os.path.isfile(name) else None
    saved = any(os.path.exists(os.path.join(name, file)) for file in ("state.json", "dataset_dict.json"))
    try:
        if builder is not None:
            found = datasets.load_dataset(builder, data_files={split: name}, split=split)
        else:
            found = datasets.load_from_disk(name) if saved else datasets.load_dataset(name, split=split)
    except Exception as e:
        raise InputError(f"`images`: the data set {name!r}, split {split!r}, cannot be loaded: {_line(e)}") from e
    if hasattr(found, "keys"):
        if split not in found:
            raise InputError(f"`images`: {name!r} has no split {split!r}; it has {', '.join(found)}")
        found = found[split]
    elif saved and str(found.split or split) != split:
        raise InputError(f"`images`: {name!r} holds the split {str(found.split)!r}, not {split!r}")
    return HuggingFaceImages(found, parts[2] if len(parts) == 3 else column, f"hf-dataset:{rest}", max_pixels)


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _names(folder: Path) -> list[str]:
    try:
        return [e.name for e in os.scandir(folder) if e.is_dir()]
    except OSError:
        return []


def _numpy(rest: str, column: str | None, max_pixels: int) -> ImageSet:
    file, name = (rest, "") if os.path.isfile(rest) else part_of(rest)
    found = DatasetImages(Arrays(file or rest, (name if file else "") or column), max_pixels)
    found.name = f"npz:{rest}"
    return found


BUILDERS = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}
"""What of `datasets` reads a single file."""
SOURCES: dict[str, Callable[[str, str | None, int], ImageSet]] = {"hf-dataset": _hugging_face, "npz": _numpy}
"""What a string before the first colon may say; it gets the rest, `column` and `max_pixels`."""
