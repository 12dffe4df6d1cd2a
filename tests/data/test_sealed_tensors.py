"""Every bit of a cached file, flipped: nothing wrong is read, what does not check is told, set aside and made again."""

from __future__ import annotations

import itertools
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coloured import COLOURS, ColourEncoder, ColourNet, to_pixels
from safetensors.numpy import load_file, save_file

import contralens
from contralens.data.sealed_tensors import Damaged, Sealed, sealed
from contralens.data.store import Snapshot, Store, Table, pack, sparse

ROWS = np.arange(6, dtype=np.float32).reshape(3, 2)


def flipped(data: bytes, bit: int) -> bytes:
    out = bytearray(data)
    out[bit // 8] ^= 1 << bit % 8
    return bytes(out)


def dense(root: Path) -> Callable[[], Any]:
    Store(root).table("rows", "x").append(["a", "b", "c"], {"rows": ROWS}, {"d": "too small"})

    def read() -> Any:
        table = Store(root).table("rows", "x")
        return table.rows(["c", "a"]).tolist() if "a" in table and "c" in table else None

    return read


def skipping(root: Path) -> Callable[[], Any]:
    dense(root)
    return lambda: dict(Store(root).table("rows", "x").skipped) or None


def without_zeros(root: Path) -> Callable[[], Any]:
    arrays = {**sparse(ROWS), "width": np.array([2])}
    Store(root).table("rows", "x").append(["a", "b", "c"], arrays)

    def read() -> Any:
        table = Store(root).table("rows", "x")
        return table.rows(["c", "a"]).tolist() if all(f in table for f in "ac") else None

    return read


def pictures(root: Path) -> Callable[[], Any]:
    Store(root).table("thumbnails").append(["a", "b"], pack([b"one", b"three"]))

    def read() -> Any:
        table = Store(root).table("thumbnails")
        return table.blobs(["b", "a"]) if "a" in table and "b" in table else None

    return read


def remembered(root: Path) -> Callable[[], Any]:
    Store(root).remember("exemplars", "x").put({"neurons": np.arange(3), "similarity": ROWS})

    def read() -> Any:
        kept = Store(root).remember("exemplars", "x").get()
        return kept and {name: array.tolist() for name, array in kept.items()}

    return read


def snapshot(root: Path) -> Callable[[], Any]:
    Store(root).snapshot("surveys", "x").put({"given": np.array([True, False]), "survey.sum": ROWS})

    def read() -> Any:
        kept = Store(root).snapshot("surveys", "x").get()
        return kept and {name: array.tolist() for name, array in kept.items()}

    return read


@pytest.mark.parametrize("kind", [dense, skipping, without_zeros, pictures, remembered, snapshot])
def test_every_flipped_bit_is_told_and_none_is_believed(kind: Any, tmp_path: Path) -> None:
    read = kind(tmp_path)
    right = read()
    (file,) = tmp_path.rglob("*.safetensors")
    whole = file.read_bytes()
    assert right is not None
    bits = range(8 * len(whole)) if kind is dense else range(0, 8 * len(whole), 7)
    for bit in bits:
        file.with_suffix(".damaged").unlink(missing_ok=True)
        file.unlink(missing_ok=True)
        file.write_bytes(flipped(whole, bit))
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = read()
        if kind is skipping and not told:  # the reasons lie in the header, which is whole: the data are not looked at
            assert found == right, bit
            continue
        assert found is None, f"bit {bit} was believed"
        assert len(told) == 1, f"bit {bit}: {[str(w.message) for w in told]}"
        assert file.name in str(told[0].message)
        assert "\n" not in str(told[0].message)
        assert not file.exists()


@pytest.mark.parametrize("size", [0, 4, 8, 40, -1])
def test_a_file_cut_short_is_told(size: int, tmp_path: Path) -> None:
    read = dense(tmp_path)
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:size])
    with pytest.warns(UserWarning, match="is damaged"):
        assert read() is None


def test_a_header_that_only_looks_right_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    for arrays, metadata in (({"rows": ROWS}, {"ids": "a", "crc32": "{}", "sha256": "0"}), ({"rows": ROWS}, {})):
        save_file(arrays, file, metadata)
        with pytest.raises(Damaged):
            Sealed(file)
    for raw in (b"null", b"[]", b'{"__metadata__":[]}', b'{"__metadata__":{"sha256":1}}', b"[" * 5000):
        file.write_bytes(len(raw).to_bytes(8, "little") + raw)
        with pytest.raises(Damaged):
            Sealed(file)


def test_as_many_rows_as_names(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "x.safetensors").write_bytes(sealed({"rows": ROWS}, {"ids": "a b", "skipped": "{}"}))
    with pytest.warns(UserWarning, match="names 2 rows and holds 3"):
        assert "a" not in Table(tmp_path / "t")


def test_a_tile_of_an_older_release_is_made_anew(tmp_path: Path) -> None:
    """Its checksums covered the data alone, so its names could not be believed."""
    (tmp_path / "t").mkdir()
    old = tmp_path / "t" / "old.safetensors"
    save_file({"rows": ROWS}, old, {"ids": "a b c", "skipped": "{}", "crc32": json.dumps({"rows": 1})})
    with pytest.warns(UserWarning, match="older contralens"):
        assert "a" not in Table(tmp_path / "t")
    assert not list((tmp_path / "t").iterdir()), "nothing is left over of it"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Table(tmp_path / "t")


def test_it_is_a_plain_safetensors_file(tmp_path: Path) -> None:
    Snapshot(tmp_path / "x.safetensors").put({"a": ROWS, "none": np.zeros((0, 3))})
    assert np.array_equal(load_file(tmp_path / "x.safetensors")["a"], ROWS)
    found = Snapshot(tmp_path / "x.safetensors").get()
    assert found is not None
    assert found["none"].shape == (0, 3)


def test_labels_are_the_same_after_damage_to_every_file_of_the_cache(discs: Path, tmp_path: Path) -> None:
    def label() -> contralens.Run:
        options: dict[str, Any] = {"layer": "relu", "preprocess": to_pixels, "k": 5, "cache": tmp_path / "cache"}
        return contralens.label(ColourNet(), images, ColourEncoder(), list(COLOURS), fdr=0.2, fakes=20, **options)

    images = shutil.copytree(discs, tmp_path / "images")
    right = label()
    files = sorted((tmp_path / "cache").rglob("*.safetensors"))
    kinds = {f.relative_to(tmp_path / "cache").parts[0] for f in files}
    assert kinds >= {"rows", "texts", "thumbnails", "exemplars", "fakes"}
    for file, place in zip(files, itertools.cycle((0.0, 0.5, 1.0)), strict=False):
        whole = file.read_bytes()
        bit = 70 + round(place * (8 * len(whole) - 73))
        file.write_bytes(flipped(whole, bit))
        with pytest.warns(UserWarning, match=file.name):
            again = label()
        assert again.labels.equals(right.labels), (file, bit)
        assert again.exemplars.equals(right.exemplars)
        assert file.exists(), "it was made again"
