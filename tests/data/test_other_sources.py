"""Pictures that are no files: columns of bytes in parquet, tars of WebDataset, arrays; and what is not read."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from contralens import InputError, labeled_images
from contralens.data.images import images
from contralens.errors import ImageError


def jpeg(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 6), (shade, 40, 90)).save(out, "PNG")
    return out.getvalue()


PICTURES = [jpeg(40 * i) for i in range(4)]


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.disable_progress_bars()
    return tmp_path


@pytest.mark.parametrize("form", ["bytes", "large bytes", "struct", "struct with paths", "img2dataset"])
def test_columns_of_bytes_in_parquet(cached: Path, form: str) -> None:
    columns = {
        "bytes": {"photo": pa.array(PICTURES)},
        "large bytes": {"photo": pa.array(PICTURES, pa.large_binary())},
        "struct": {"photo": pa.array([{"bytes": b} for b in PICTURES])},
        "struct with paths": {"photo": pa.array([{"bytes": b, "path": f"{i}.png"} for i, b in enumerate(PICTURES)])},
        "img2dataset": {"jpg": pa.array(PICTURES), "caption": ["a"] * 4, "width": [8] * 4},
    }[form]
    folder = cached / "set"
    folder.mkdir()
    pq.write_table(pa.table({**columns, "verdict": ["nv", "mel", None, "nv"]}), folder / "train-0000.parquet")
    column = next(iter(columns))
    for spec in (f"{folder}:train", f"{folder}:train:{column}", f"{folder / 'train-0000.parquet'}:train"):
        found = images(f"hf-dataset:{spec}")
        assert [found.load(i).getpixel((0, 0))[0] for i in range(4)] == [0, 40, 80, 120]
        assert len(set(found.fingerprints())) == 4
        assert found.stamped
        assert found.stamps([0]) == found.stamps([0])
    named = labeled_images(f"hf-dataset:{folder}:train", class_column="verdict")
    assert [named.classes[t] for t in named.targets] == ["nv", "mel", "nv"]
    assert list(named.ids) == ["train/0", "train/1", "train/3"]
    with pytest.raises(InputError, match="no column 'verdikt'; it has"):
        labeled_images(f"hf-dataset:{folder}:train", class_column="verdikt")
    with pytest.raises(InputError, match="or name the column that does with class_column"):
        labeled_images(f"hf-dataset:{folder}:train")


def test_bytes_that_are_no_pictures_and_several_columns(cached: Path) -> None:
    folder = cached / "set"
    folder.mkdir()
    rows = {"a": [PICTURES[0], b"no picture", None], "b": [PICTURES[1]] * 3, "words": ["x", "y", "z"]}
    pq.write_table(pa.table(rows), folder / "train.parquet")
    with pytest.raises(InputError, match="several image columns, name one of a, b"):
        images(f"hf-dataset:{folder}:train")
    with pytest.raises(InputError, match=r"no image column 'words'; its columns: a \(bytes\), b \(bytes\), words"):
        images(f"hf-dataset:{folder}:train:words")
    found = images(f"hf-dataset:{folder}:train:a")
    assert found.load(0).size == (8, 6)
    for at, words in ((1, "not an image of a known format"), (2, "no image in this row")):
        with pytest.raises(ImageError, match=words):
            found.load(at)


def test_webdataset_tars(cached: Path) -> None:
    folder = cached / "shards"
    folder.mkdir()
    with tarfile.open(folder / "shard-000.tar", "w") as tar:
        for i, data in enumerate(PICTURES):
            for name, content in ((f"{i:04d}.png", data), (f"{i:04d}.cls", b"%d" % (i % 2))):
                about = tarfile.TarInfo(name)
                about.size = len(content)
                tar.addfile(about, io.BytesIO(content))
    for spec in (f"{folder}:train:png", f"{folder / 'shard-000.tar'}:train"):
        found = images(f"hf-dataset:{spec}")
        assert [found.load(i).getpixel((0, 0))[0] for i in range(4)] == [0, 40, 80, 120]
    assert labeled_images(f"hf-dataset:{folder}:train", class_column="cls").targets.tolist() == [0, 1, 0, 1]
    for source in (folder, folder / "shard-000.tar"):
        with pytest.raises(InputError, match=f"WebDataset shards are read as hf-dataset:{folder}:train:jpg"):
            images(source)


def test_arrays_of_numpy_files(tmp_path: Path) -> None:
    """The layout of MedMNIST."""
    random = np.random.default_rng(0)
    gray, colour = random.integers(0, 256, (5, 9, 7), np.uint8), random.integers(0, 256, (3, 9, 7, 3), np.uint8)
    file = tmp_path / "pathmnist.npz"
    np.savez(file, train_images=gray, train_labels=np.array([[0], [1], [1], [0], [2]]), test_images=colour)
    found = images(f"npz:{file}:train_images")
    assert len(found) == 5
    assert np.asarray(found.load(2))[:, :, 1].tolist() == gray[2].tolist()
    assert labeled_images(f"npz:{file}:train_images").targets.tolist() == [0, 1, 1, 0, 2]
    assert np.asarray(images(f"npz:{file}:test_images").load(1)).tolist() == colour[1].tolist()
    assert images(f"npz:{file}:test_images").labels is None
    np.save(tmp_path / "one.npy", colour)
    assert len(images(f"npz:{tmp_path / 'one.npy'}")) == 3
    for spec, words in (
        (f"npz:{file}", r"name the array of .* with pictures, npz:.*:NAME; it has train_images \(5, 9, 7\)"),
        (f"npz:{file}:train_image", "has no array 'train_image'; did you mean train_images"),
        (f"npz:{file}:train_labels", "must be pictures"),
        (f"npz:{tmp_path / 'none.npz'}:x", "no file"),
        (str(file), "arrays are read as npz:.*pathmnist.npz:NAME"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            images(spec)
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="is no NumPy file of plain arrays"):
        images(f"npz:{tmp_path / 'objects.npy'}")


def test_what_is_read_elsewhere_is_said_in_one_line(tmp_path: Path) -> None:
    coco = {"images": [{"id": 1, "file_name": "0001.jpg"}], "annotations": [], "categories": []}
    (tmp_path / "instances.json").write_text(json.dumps(coco))
    (tmp_path / "plain.json").write_text("[]")
    (tmp_path / "set").mkdir()
    for name in ("a.parquet", "b.zip", "c.h5", "d.csv", "set/e.parquet", "scan.nii"):
        (tmp_path / name).write_bytes(b"x")
    for name, words in (
        ("instances.json", "COCO list of 1 pictures, e.g. '0001.jpg': give the folder that holds them"),
        ("plain.json", "is a file; give a folder of images"),
        ("a.parquet", f"parquet is read as hf-dataset:{tmp_path}:train"),
        ("b.zip", "unpack it"),
        ("c.h5", "in Python, give a data set"),
        ("d.csv", "give their folder, and the table as --table"),
        ("set", f"found 1 .parquet; parquet is read as hf-dataset:{tmp_path / 'set'}:train"),
        ("scan.nii", "save the slices"),
    ):  # fmt: skip
        with pytest.raises(InputError) as told:
            images(tmp_path / name)
        assert words in str(told.value)
        assert "\n" not in str(told.value)
