"""Classes and subgroups of images, from folders and from tables as data sets come with."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contralens import InputError, labeled_images

ISIC = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")


def draw(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (shade, 40, 90)).save(path)


def write(path: Path, *rows: tuple[object, ...]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture
def isic(tmp_path: Path) -> tuple[Path, Path, Path]:
    """The layout of ISIC 2019: pictures, one-hot ground truth, metadata."""
    kinds = [0, 1, 1, 4, 0, 7]
    folder = tmp_path / "ISIC_2019_Training_Input"
    names = [f"ISIC_{i:07d}" + ("_downsampled" if i == 2 else "") for i in range(6)]
    for i, name in enumerate(names):
        draw(folder / f"{name}.jpg", 40 * i)
    truth = write(
        tmp_path / "ISIC_2019_Training_GroundTruth.csv", ("image", *ISIC),
        *((name, *(float(c == k) for c in range(9))) for name, k in zip(names, kinds, strict=True)),
        ("ISIC_0000099", *(float(c == 1) for c in range(9))),
    )  # fmt: skip
    metadata = write(
        tmp_path / "ISIC_2019_Training_Metadata.csv",
        ("image", "age_approx", "anatom_site_general", "lesion_id", "sex"),
        *((name, 50 + 5 * (i % 2), "anterior torso" if i else "", f"MSK_{i}", "female" if i < 3 else "male")
          for i, name in enumerate(names[:5])),
    )  # fmt: skip
    return folder, truth, metadata


def test_isic_2019(isic):
    folder, truth, metadata = isic
    found = labeled_images(folder, [truth, metadata])
    assert found.classes == ISIC
    assert [found.classes[t] for t in found.targets] == ["MEL", "NV", "NV", "BKL", "MEL", "SCC"]
    assert found.ids[2] == "ISIC_0000002_downsampled.jpg"
    assert set(found.groups) == {"age_approx", "anatom_site_general", "lesion_id", "sex"}
    assert found.groups["sex"].tolist() == ["female"] * 3 + ["male"] * 2 + [""]
    assert found.groups["anatom_site_general"][0] == ""
    assert found.notes == ("1 row of ISIC_2019_Training_GroundTruth.csv without an image left out",)

    only = labeled_images({"images": folder, "table": [truth, metadata], "groups": ["sex"]})
    assert set(only.groups) == {"sex"}
    mapping = found.take(found.targets == 0)
    assert mapping.ids == ["ISIC_0000000.jpg", "ISIC_0000004.jpg"]
    assert mapping.groups["sex"].tolist() == ["female", "male"]
    assert mapping.images.load(1).getpixel((0, 0))[0] > 120

    eight = found.for_outputs(8)
    assert eight.classes == ISIC[:8]
    named = found.for_outputs(8, sorted(ISIC[:8]))
    assert [named.classes[t] for t in named.targets] == ["MEL", "NV", "NV", "BKL", "MEL", "SCC"]
    with pytest.raises(InputError, match="network has 3 outputs"):
        found.for_outputs(3)
    with pytest.raises(InputError, match="no output called 'MEL'"):
        found.for_outputs(8, ["NEL", *sorted(ISIC[1:8])])


def test_folders_and_data_sets(tmp_path):
    for i, name in enumerate(("b/2.png", "a/1.png", "b/1.png")):
        draw(tmp_path / "set" / name, 50 * i)
    found = labeled_images(tmp_path / "set")
    assert found.classes == ("a", "b")
    assert found.targets.tolist() == [0, 1, 1]
    assert labeled_images(found) is found
    assert labeled_images(tmp_path / "set", classes=["b", "a", "c"]).targets.tolist() == [1, 0, 0]
    torchvision = pytest.importorskip("torchvision")
    same = labeled_images(torchvision.datasets.ImageFolder(str(tmp_path / "set")))
    assert same.targets.tolist() == [0, 1, 1]
    assert same.classes == ("a", "b")
    with pytest.raises(InputError, match="class 'b' is not among"):
        labeled_images(tmp_path / "set", classes=["a"])
    draw(tmp_path / "flat" / "1.png")
    with pytest.raises(InputError, match="has no classes"):
        labeled_images(tmp_path / "flat")


def test_a_table_of_paths_classes_and_marks(tmp_path):
    for i, name in enumerate(("x/1.png", "y/1.png", "y/2.png")):
        draw(tmp_path / name, 50 * i)
    table = write(
        tmp_path / "labels.csv", ("image", "Class", "ruler", "taken"),
        ("x/1.png", "nevus", 0, "a"), ("y/1.png", "melanoma", 1, "b"), ("y/2.png", "", 1, "c"),
    )  # fmt: skip
    found = labeled_images(table)
    assert found.ids == ["x/1.png", "y/1.png"]
    assert [found.classes[t] for t in found.targets] == ["nevus", "melanoma"]
    assert found.groups["ruler"].tolist() == ["0", "1"]
    assert found.notes == ("1 image without a class in labels.csv left out",)
    assert len(labeled_images(table, limit=2)) <= 2


def test_numbers_of_a_one_hot_table_may_be_chosen(tmp_path):
    for i in range(2):
        draw(tmp_path / f"{i}.png", 50 * i)
    table = write(tmp_path / "t.csv", ("image", "cat", "dog", "outdoors"), (0, 1, 0, 1), (1, 0, 1, 1))
    with pytest.raises(InputError, match="'0' has 2 ones in the columns cat, dog, outdoors"):
        labeled_images(tmp_path, table)
    found = labeled_images(tmp_path, table, classes=["dog", "cat"], groups=["outdoors"])
    assert found.classes == ("dog", "cat")
    assert found.targets.tolist() == [1, 0]
    assert found.groups["outdoors"].tolist() == ["1", "1"]


def test_mistakes_are_told(tmp_path, isic):
    folder, truth, metadata = isic
    for tables, words in (
        ([tmp_path / "none.csv"], "no table"),
        ([metadata], "no column called class"),
        ([write(tmp_path / "a.csv", ("image", "class"), ("elsewhere", "x"))], "names none of the images"),
        ([write(tmp_path / "b.csv", ("image", "class"), ("a", "x"), ("a", "y"))], "is there twice"),
        ([write(tmp_path / "c.csv", ("image", "class"), ("ISIC_0000000",))], "line 2: 1 values for 2 columns"),
        ([write(tmp_path / "d.csv", ("image", "x", "x"), (1, 2, 3))], "two columns are called 'x'"),
        ([write(tmp_path / "e.csv", ("image", "class"))], "one line per image"),
        ([write(tmp_path / "g.csv", ("image", "class"), ("ISIC_0000000", "x|y"))], "no image has a single class"),
        ([write(tmp_path / "h.csv", ("image", "A", "B"), ("", 1, 0), ("", 0, 1))], "no line names an image"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            labeled_images(folder, tables)
    with pytest.raises(InputError, match="no table has a column 'sxe'; did you mean sex"):
        labeled_images(folder, [truth, metadata], groups=["sxe"])
    with pytest.raises(InputError, match=r"unknown key 'tabel'.*limit, seed"):
        labeled_images({"images": folder, "tabel": truth})
    draw(tmp_path / "two" / "a" / "1.png")
    draw(tmp_path / "two" / "b" / "1.png", 90)
    with pytest.raises(InputError, match=r"'1\.png' may be a"):
        labeled_images(tmp_path / "two", write(tmp_path / "f.csv", ("image", "class"), ("a/1", "x"), ("1.png", "y")))


def test_targets_are_whole_numbers(isic):
    folder, truth, _ = isic
    assert labeled_images(folder, truth).targets.dtype == np.int64
