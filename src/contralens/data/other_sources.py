"""What holds pictures and is no folder of them: where it is read, or what to do with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from contralens.checks import nearest
from contralens.errors import InputError

DATASET = "as hf-dataset:{folder}:train, or hf-dataset:{folder}:train:COLUMN (extra datasets)"
PYTHON = "in Python, give a data set with __len__ and __getitem__ that yields pictures; or save them as files"
WAYS = {
    ".parquet": f"parquet is read {DATASET}",
    ".arrow": f"Arrow files are read {DATASET}",
    ".tar": "WebDataset shards are read as hf-dataset:{folder}:train:jpg (extra datasets); unpack other archives",
    ".npz": "arrays are read as npz:{path}:NAME",
    ".npy": "an array is read as npz:{path}",
    ".csv": "a table is not a set of pictures: give their folder, and the table as --table or --groups",
    ".tsv": "a table is not a set of pictures: give their folder, and the table as --table or --groups",
    ".zip": "unpack it", ".gz": "unpack it", ".tgz": "unpack it", ".7z": "unpack it", ".rar": "unpack it",
    ".h5": PYTHON, ".hdf5": PYTHON, ".mat": PYTHON, ".mdb": PYTHON, ".tfrecord": PYTHON, ".pt": PYTHON, ".pkl": PYTHON,
    ".nii": "save the slices that count as PNG files", ".mha": "save the slices that count as PNG files",
    ".svs": "save tiles of the slide as PNG files", ".ndpi": "save tiles of the slide as PNG files",
    ".mp4": "save frames as PNG files", ".avi": "save frames as PNG files", ".mov": "save frames as PNG files",
}  # fmt: skip
"""By suffix, how else its pictures are read."""


def way_to_read(path: Path) -> str | None:
    """What to do about a file that holds pictures in another way; None where nothing is known.

    >>> way_to_read(Path("shards/a.tar")).partition(";")[0]
    'WebDataset shards are read as hf-dataset:shards:train:jpg (extra datasets)'
    """
    if path.suffix.lower() == ".json":
        return _json(path)
    way = WAYS.get(path.suffix.lower())
    return None if way is None else way.format(folder=path.parent, path=path)


def _json(path: Path) -> str | None:
    """COCO annotations name their pictures, which lie elsewhere."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        files = [image["file_name"] for image in content["images"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if not files:
        return None
    return (
        f"it is a COCO list of {len(files)} pictures, e.g. {str(files[0])!r}: give the folder that holds them; for "
        "classes, write a CSV file with the columns image and class and give it as --table"
    )


class Arrays:
    """Pictures (N,H,W) or (N,H,W,C) of a NumPy file as a map-style data set, with the labels beside them."""

    def __init__(self, file: str, name: str | None) -> None:
        self.pictures, labels = _arrays(Path(file), name)
        if labels is not None:
            self.targets = labels.reshape(-1).tolist()

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Any:
        return self.pictures[index]


def _arrays(file: Path, name: str | None) -> tuple[Any, Any]:
    try:
        held = np.load(file, allow_pickle=False)
        known: dict[str, Any] = {"": held} if isinstance(held, np.ndarray) else {key: held[key] for key in held.files}
    except FileNotFoundError:
        raise InputError(f"`images`: no file {str(file)!r}") from None
    except (OSError, ValueError, EOFError) as e:
        raise InputError(f"`images`: {str(file)!r} is no NumPy file of plain arrays: {e}") from e
    shapes = ", ".join(f"{key} {array.shape}" for key, array in known.items())
    if name is None:
        pictures = [key for key, array in known.items() if array.ndim in (3, 4)]
        if len(pictures) != 1:
            raise InputError(f"`images`: name the array of {file} with pictures, npz:{file}:NAME; it has {shapes}")
        name = pictures[0]
    if name not in known:
        raise InputError(f"`images`: {file} has no array {name!r}{nearest(name, known)}; it has {shapes}")
    if known[name].ndim not in (3, 4):
        raise InputError(f"`images`: {name} of {file} must be pictures (N,H,W) or (N,H,W,C); it has {shapes}")
    beside = (name.replace("images", "labels"), name.replace("x", "y", 1), name.replace("imgs", "labels"))
    labels = next((known[key] for key in beside if key != name and key in known), None)
    fits = labels is not None and labels.size == len(known[name]) and labels.dtype.kind in "iu"
    return known[name], labels if fits else None
