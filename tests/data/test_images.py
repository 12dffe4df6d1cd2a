"""Image sets from folders, lists, data sets: which images, in which order, with which names and fingerprints."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from contralens import types
from contralens.data.fingerprint_cache import known_fingerprints
from contralens.data.image_sets import unique
from contralens.data.images import images, set_fingerprint
from contralens.data.store import Store
from contralens.errors import ImageError, InputError


def write(path: Path, colour: object = "red", **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), colour).save(path, **options)
    return path


def numbered(i: int) -> tuple[int, int, int]:
    return (i % 256, i // 256 % 256, 7)


# ---- folders


def test_a_nested_folder(tmp_path):
    for name in ("b.PNG", "a/z.jpg", "a/y/x.Gif", "a.webp", "Z.tiff", "ü/日本.bmp", "a b/c d.ppm"):
        write(tmp_path / name)
    for name in ("notes.txt", ".hidden.png", "a/.DS_Store", "README", "a/more.TXT"):
        (tmp_path / name).write_text("x")
    write(tmp_path / ".cache" / "thumb.png")
    found = images(tmp_path)
    assert isinstance(found, types.Images)
    assert found.ids == sorted(found.ids, key=str.encode)
    assert found.ids == ["Z.tiff", "a b/c d.ppm", "a.webp", "a/y/x.Gif", "a/z.jpg", "b.PNG", "ü/日本.bmp"]
    assert len(found) == 7
    assert found.ignored == {".txt": 2, "hidden": 3, "without a suffix": 1}
    assert all(found.load(i).size == (6, 4) for i in range(7))
    assert found.name == str(tmp_path)
    assert images(str(tmp_path)).ids == found.ids
    assert images(found) is found


def test_fingerprints_are_of_the_bytes(tmp_path):
    one, two = write(tmp_path / "a/1.png", "red"), write(tmp_path / "b/2.png", "blue")
    (tmp_path / "c.png").write_bytes(one.read_bytes())
    found = images(tmp_path)
    want = [hashlib.sha256(p.read_bytes()).hexdigest()[:32] for p in (one, two, one)]
    assert found.fingerprints() == want
    assert found.fingerprints() is found.fingerprints()
    assert set_fingerprint(found) == hashlib.sha256("\n".join(want).encode()).hexdigest()[:32]
    os.rename(one, tmp_path / "a/0.png")
    assert set_fingerprint(images(tmp_path)) == set_fingerprint(found), "names are not content"
    write(two, "green")
    assert images(tmp_path).fingerprints()[1] not in want
    assert images(tmp_path).fingerprints()[::2] == want[::2]


def test_an_image_that_vanishes(tmp_path):
    for name in ("a.png", "b.png"):
        write(tmp_path / name)
    found = images(tmp_path)
    (tmp_path / "a.png").unlink()
    gone = hashlib.sha256(b"unreadable a.png").hexdigest()[:32]
    assert found.fingerprints() == [gone, images(tmp_path).fingerprints()[0]]
    with pytest.raises(ImageError, match=r"^a\.png: No such file or directory$"):
        found.load(0)


@pytest.fixture
def ordinary_user():
    """Whatever root may do, these tests do without."""
    if not hasattr(os, "geteuid"):
        pytest.skip("no permissions as on Unix")
    Image.init()  # plugins may lie where only root may look
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)

        def drop() -> None:
            if root:
                os.seteuid(65534)

        yield Path(folder), drop
        if root:
            os.seteuid(0)
        for path in (Path(folder), *Path(folder).rglob("*")):
            path.chmod(0o755)


def test_without_permission(ordinary_user):
    folder, drop = ordinary_user
    write(folder / "a.png").chmod(0)
    write(folder / "b.png")
    write(folder / "shut" / "c.png")
    write(folder / "locked" / "shut.png")
    (folder / "shut").chmod(0)
    (folder / "locked").chmod(0)
    drop()
    found = images(folder)
    assert found.ids == ["a.png", "b.png"]
    assert found.ignored == {"unreadable folder": 2}
    with pytest.raises(ImageError, match=r"^a\.png: Permission denied$"):
        found.load(0)
    assert len(set(found.fingerprints())) == 2
    with pytest.raises(InputError, match=r"the folder .* cannot be read: Permission denied"):
        images(folder / "locked")


def test_links_and_loops(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    write(root / "m" / "a.png")
    write(outside / "o.png", "blue")
    (root / "m" / "up").symlink_to(root, target_is_directory=True)
    (root / "again").symlink_to(root / "m", target_is_directory=True)
    (root / "z").symlink_to(outside, target_is_directory=True)
    (root / "b").symlink_to(outside, target_is_directory=True)
    (outside / "back").symlink_to(root, target_is_directory=True)
    (root / "linked.png").symlink_to(outside / "o.png")
    (root / "dangling.png").symlink_to(root / "nothing.png")
    (root / "self.png").symlink_to(root / "self.png")
    (root / "selfdir").symlink_to(root / "selfdir")
    found = images(root)
    assert found.ids == ["b/o.png", "dangling.png", "linked.png", "m/a.png", "self.png"]
    assert found.load(0).getpixel((0, 0)) == (0, 0, 255)
    for i in (1, 4):
        with pytest.raises(ImageError):
            found.load(i)
    assert len(set(found.fingerprints())) == 4, "the link and its goal are one content"


def test_names_that_are_no_text(tmp_path):
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    try:
        with open(name, "wb") as file:
            Image.new("RGB", (2, 2)).save(file, "PNG")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    found = images(tmp_path)
    assert found.ids == ["caf\\xe9.png"]
    found.ids[0].encode()
    assert found.load(0).size == (2, 2)


def test_class_folders(tmp_path):
    for name in ("cat/1.png", "cat/deep/2.png", "dog/1.png"):
        write(tmp_path / "in" / "photos" / name)
    assert images(tmp_path).labels == ["cat", "cat", "dog"]
    assert images(tmp_path / "in" / "photos" / "cat").labels is None
    write(tmp_path / "in" / "photos" / "loose.png")
    assert images(tmp_path).labels is None


@given(names=st.lists(st.text("ab./É💠 -_", min_size=1, max_size=8), min_size=1, max_size=12), order=st.randoms())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_order_and_ids_do_not_depend_on_how_the_folder_was_filled(names, order, tmp_path_factory):
    clean = set()
    for name in names:
        parts = [p.strip(" .") for p in name.split("/")]
        clean.add("/".join(p + "d" for p in parts[:-1] if p) + f"/{parts[-1]}i.png")
    clean = {c.strip("/") for c in clean}
    got = []
    for _ in range(2):
        root = tmp_path_factory.mktemp("r")
        for name in order.sample(sorted(clean), len(clean)):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(name.encode())
        found = images(root)
        got.append((found.ids, found.fingerprints(), found.labels))
    assert got[0] == got[1]
    assert got[0][0] == sorted((c for c in clean), key=str.encode)


# ---- what the user can get wrong


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda d: d / "phots", "no folder '.*phots'; did you mean photos?"),
        (lambda d: d / "photos" / "a.png", "is a file; give a folder"),
        (lambda d: d / "texts", "no images in '.*texts'; found 2 .csv, 1 .txt, 1 hidden; known kinds: .*jpg"),
        (lambda d: d / "nothing", "found nothing"),
        (lambda d: [], "list of 0 files is empty"),
        (
            lambda d: [d / "photos" / "a.png", "x.png", "y.png"],
            "2 of 3 files in list of 3 files do not exist, e.g. 'x.png'",
        ),
        (lambda d: f"@{d}/none.txt", "list '.*none.txt' cannot be read: No such file"),
        (lambda d: d / "empty.txt", "empty.txt is empty"),
        (lambda d: d / "bad.txt", "2 of 2 files in .*bad.txt do not exist, e.g. 'gone.png', looked for in"),
        (lambda d: f"@{d}/photos/a.png", "is not a list of paths"),
        (lambda d: "hf-datasets:x:train", "neither a folder nor one of hf-dataset:.*; did you mean hf-dataset?"),
        (lambda d: "hf-dataset:x", "expected hf-dataset:NAME_OR_PATH:SPLIT"),
        (lambda d: np.zeros((0, 4, 4, 3), np.uint8), "holds no images"),
        (lambda d: np.zeros((3, 5, 5, 9), np.uint8), "items of ndarray cannot be used: not the shape of a picture"),
        (lambda d: [{"a": 1}], "items of list cannot be used: not a picture: dict"),
    ],
)
def test_one_clear_line(tmp_path, make, says):
    write(tmp_path / "photos" / "a.png")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "texts").mkdir()
    for name in ("a.csv", "b.csv", "c.txt", ".d"):
        (tmp_path / "texts" / name).write_text("x")
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "bad.txt").write_text("gone.png\nlost.png\n")
    with pytest.raises(InputError, match=says) as e:
        images(make(tmp_path))
    assert "\n" not in str(e.value)


def test_wrong_types_and_limits(tmp_path):
    write(tmp_path / "a.png")
    for wrong in (5, None, b"x", {"a": 1}):
        with pytest.raises(TypeError, match="`images` must be a folder, a list of files"):
            images(wrong)
    with pytest.raises(InputError, match="`limit` must be at least 1"):
        images(tmp_path, limit=0)


# ---- lists


def test_lists_of_files(tmp_path, monkeypatch):
    a, b = write(tmp_path / "x" / "a.png", "red"), write(tmp_path / "x" / "b c.png", "blue")
    found = images([b, str(a), b])
    assert found.ids == [b.as_posix(), a.as_posix(), f"{b.as_posix()} (2)"]
    assert found.fingerprints()[0] == found.fingerprints()[2]
    assert [found.load(i).getpixel((0, 0)) for i in range(3)] == [(0, 0, 255), (255, 0, 0), (0, 0, 255)]
    text = "\ufeffx/b c.png\r\n\r\nx/a.png\r\nx/a.png\r\n" + a.as_posix()
    (tmp_path / "list.txt").write_text(text, "utf-8")
    (tmp_path / "list").write_text(text, "utf-8")
    monkeypatch.chdir(tmp_path / "x")
    for source in (tmp_path / "list.txt", str(tmp_path / "list.txt"), "@../list.txt", f"@{tmp_path}/list"):
        listed = images(source)
        assert listed.ids == ["x/b c.png", "x/a.png", "x/a.png (2)", a.as_posix()]
        assert listed.load(0).getpixel((0, 0)) == (0, 0, 255)
    assert images((tmp_path / "x").glob("*.png")).fingerprints() == images([a, b]).fingerprints()[:]


@given(st.lists(st.sampled_from(["a", "a (2)", "a (3)", "b", "a (2) (2)"]), max_size=12))
def test_ids_are_unique_and_the_first_keeps_its_name(names):
    got = unique(names)
    assert len(set(got)) == len(names)
    assert got == unique(names)
    assert all(new.startswith(old) for new, old in zip(got, names, strict=True))
    assert not names or got[0] == names[0]


# ---- limit


def test_limit_is_a_seeded_sample_in_order(tmp_path):
    for i in range(60):
        write(tmp_path / f"c{i % 2}" / f"{i:02}.png", numbered(i))
    whole = images(tmp_path)
    some = images(tmp_path, limit=20)
    assert len(some) == 20
    assert some.name == f"{tmp_path} (20 of 60, seed 0)"
    assert [whole.ids.index(i) for i in some.ids] == sorted(whole.ids.index(i) for i in some.ids)
    where = [whole.ids.index(i) for i in some.ids]
    assert some.fingerprints() == [whole.fingerprints()[i] for i in where]
    assert some.labels == [whole.labels[i] for i in where]
    assert some.load(3).tobytes() == whole.load(where[3]).tobytes()
    assert some.ids == images(tmp_path, limit=20).ids
    assert some.ids != images(tmp_path, limit=20, seed=1).ids
    assert set(images(tmp_path, limit=10).ids) < set(some.ids), "a smaller sample is a part of a larger one"
    assert images(tmp_path, limit=60).name == images(tmp_path).name
    again = images(whole, limit=20)
    assert again.ids == some.ids
    assert again.fingerprints() == some.fingerprints()


def test_limit_on_images_of_ones_own():
    class Own:
        name = "own"
        ids = ("p", "q", "r", "s")

        def __len__(self):
            return 4

        def fingerprints(self):
            return [c * 32 for c in "0123"]

        def load(self, index):
            return Image.new("RGB", (index + 1, 1))

    own = Own()
    assert images(own) is own
    two = images(own, limit=2)
    at = [own.ids.index(i) for i in two.ids]
    assert two.fingerprints() == [str(i) * 32 for i in at]
    assert two.load(1).size == (at[1] + 1, 1)


# ---- torchvision and torch


def test_image_folder_gives_its_files(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    from torch.utils.data import Subset

    for name in ("dog/b.png", "cat/a.png", "cat/c.png"):
        write(tmp_path / name)
    data = torchvision.datasets.ImageFolder(tmp_path, transform=lambda image: image.resize((2, 2)))
    found = images(data)
    assert found.ids == ["cat/a.png", "cat/c.png", "dog/b.png"]
    assert found.labels == ["cat", "cat", "dog"]
    assert found.fingerprints() == images(tmp_path).fingerprints()
    assert found.load(0).size == (6, 4), "the file, not the transformed item"
    part = images(Subset(Subset(data, [2, 0, 1]), [0, 2]))
    assert part.ids == ["dog/b.png", "cat/c.png"]
    assert part.labels == ["dog", "cat"]
    own = torchvision.datasets.ImageFolder(tmp_path, loader=lambda path: Image.new("RGB", (9, 9)))
    assert images(own).load(0).size == (9, 9), "a loader of one's own is used"


def test_fake_data_is_told_by_its_pixels():
    torchvision = pytest.importorskip("torchvision")
    plain = images(torchvision.datasets.FakeData(6, (3, 9, 7), 4, random_offset=3))
    as_tensors = images(
        torchvision.datasets.FakeData(6, (3, 9, 7), 4, torchvision.transforms.ToTensor(), random_offset=3)
    )
    assert plain.load(2).size == (7, 9)
    assert len(set(plain.fingerprints())) == 6
    assert plain.fingerprints() == as_tensors.fingerprints()
    assert plain.load(5).tobytes() == as_tensors.load(5).tobytes()
    assert plain.ids == list("012345")
    other = images(torchvision.datasets.FakeData(6, (3, 9, 7), 4, random_offset=90))
    assert not set(other.fingerprints()) & set(plain.fingerprints())
    copy = pickle.loads(pickle.dumps(plain))
    assert copy.fingerprints() == plain.fingerprints()
    assert copy.load(1).tobytes() == plain.load(1).tobytes()


class Map:
    """A map-style data set of whatever it is given; an exception in it is raised."""

    def __init__(self, items, **more):
        self.items = items
        self.__dict__.update(more)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        if isinstance(self.items[i], Exception):
            raise self.items[i]
        return self.items[i]


def test_items_of_any_kind_and_broken_ones(tmp_path):
    torch = pytest.importorskip("torch")
    red = np.zeros((4, 5, 3), np.uint8)
    red[..., 0] = 255
    file = write(tmp_path / "red.png")
    items = [
        Image.fromarray(red),
        (red, 1),
        torch.from_numpy(red).permute(2, 0, 1) / 255,
        {"image": red, "label": 0},
        file,
        KeyError("lost"),
        RuntimeError("first line\nsecond"),
    ]
    found = images(Map(items, targets=[0, 1, 0, 0, 1, 1, -1], classes=["x", "y"]))
    assert found.labels == ["x", "y", "x", "x", "y", "y", "-1"]
    prints = found.fingerprints()
    assert len(set(prints[:4])) == 1
    assert len(set(prints)) == 4
    assert all(found.load(i).getpixel((1, 1)) == (255, 0, 0) for i in range(5))
    for i, says in ((5, "5: 'lost'"), (6, "6: first line second")):
        with pytest.raises(ImageError, match=f"^{says}$"):
            found.load(i)
    assert images(items[:1] * 2).fingerprints() == [prints[0]] * 2, "a list of pictures is a data set too"
    assert images(np.stack([red, red])).fingerprints() == [prints[0]] * 2


def test_random_transforms_and_normalised_tensors_are_told_at_once():
    torch = pytest.importorskip("torch")

    class Random(Map):
        def __getitem__(self, i):
            return torch.rand(3, 8, 8)

    with pytest.raises(InputError, match="Random gives different pixels each time; remove random transforms"):
        images(Random([0, 1]))
    with pytest.raises(InputError, match=r"float pixels must lie within 0\.\.1, got -2\.\.2 \(without normalisation\)"):
        images(Map([torch.linspace(-2, 2, 48).reshape(3, 4, 4)]))

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter([1])

    with pytest.raises(TypeError, match="map-style"):
        images(Stream())


# ---- Hugging Face


def png_bytes(colour: object) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def hf(tmp_path):
    datasets = pytest.importorskip("datasets")
    file = write(tmp_path / "on-disk.png", "lime")
    stored = [{"bytes": png_bytes(numbered(i)), "path": None} for i in range(150)]
    stored += [{"bytes": None, "path": str(file)}, {"bytes": b"junk", "path": None}, None]
    kinds = datasets.Features({"photo": datasets.Image(), "label": datasets.ClassLabel(names=["no", "yes"])})
    return datasets.Dataset.from_dict({"photo": stored, "label": [i % 2 for i in range(153)]}, features=kinds)


def test_hugging_face_data_set(hf, tmp_path):
    found = images(hf)
    want = [hashlib.sha256(png_bytes(numbered(i))).hexdigest()[:32] for i in range(150)]
    assert found.fingerprints()[:150] == want
    assert found.fingerprints()[150] == hashlib.sha256((tmp_path / "on-disk.png").read_bytes()).hexdigest()[:32]
    assert found.ids[:2] == ["row/0", "row/1"]
    assert found.labels[:3] == ["no", "yes", "no"]
    assert found.load(7).getpixel((0, 0)) == numbered(7)
    assert found.load(150).getpixel((0, 0)) == (0, 255, 0)
    with pytest.raises(ImageError, match="row/151: not an image of a known format"):
        found.load(151)
    with pytest.raises(ImageError, match="row/152: no image in this row"):
        found.load(152)
    shuffled = hf.shuffle(seed=1).with_transform(lambda rows: {"photo": [0] * len(rows["photo"])})
    assert sorted(images(shuffled).fingerprints()[:10]) != sorted(want[:10])
    assert set(want) < set(images(shuffled).fingerprints())
    few = images(hf, limit=5)
    assert [found.fingerprints()[found.ids.index(i)] for i in few.ids] == few.fingerprints()
    assert pickle.loads(pickle.dumps(few)).fingerprints() == few.fingerprints()


def test_hugging_face_columns_and_splits(hf):
    datasets = pytest.importorskip("datasets")
    two = hf.add_column("note", [""] * 153).rename_column("photo", "front").add_column("back", hf["label"])
    assert images(two).load(3).getpixel((0, 0)) == numbered(3)
    with pytest.raises(
        InputError, match=r"no image column 'bak'; its columns: .*front \(Image\), label \(ClassLabel\)"
    ):
        images(two, column="bak")
    with pytest.raises(InputError, match="the data set has no image column; its columns: label"):
        images(hf.remove_columns("photo"))
    both = datasets.concatenate_datasets([hf, hf.select_columns("photo").rename_column("photo", "also")], axis=1)
    with pytest.raises(InputError, match="several image columns, name one of photo, also"):
        images(both)
    assert images(both, column="also").load(3).getpixel((0, 0)) == numbered(3)
    with pytest.raises(InputError, match="choose one split of the data set: train, test"):
        images(datasets.DatasetDict(train=hf, test=hf))
    with pytest.raises(InputError, match="streaming=False"):
        images(hf.to_iterable_dataset())


def test_hugging_face_by_name(hf, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.DatasetDict(train=hf, test=hf.select(range(4))).save_to_disk(tmp_path / "saved")
    found = images(f"hf-dataset:{tmp_path}/saved:test")
    assert len(found) == 4
    assert found.ids[0] == "test/0" or found.ids[0] == "row/0"
    assert found.name == f"hf-dataset:{tmp_path}/saved:test"
    assert images(f"hf-dataset:{tmp_path}/saved:train:photo").fingerprints() == images(hf).fingerprints()
    with pytest.raises(InputError, match="has no split 'val'; it has train, test"):
        images(f"hf-dataset:{tmp_path}/saved:val")
    for name in ("cat/a.png", "dog/b.png"):
        write(tmp_path / "plain" / "train" / name)
    plain = images(f"hf-dataset:{tmp_path}/plain:train")
    assert plain.labels == ["cat", "dog"]
    assert plain.fingerprints() == images(tmp_path / "plain").fingerprints()
    with pytest.raises(InputError, match="cannot be loaded") as e:
        images(f"hf-dataset:{tmp_path}/plain:dev")
    assert "\n" not in str(e.value)


# ---- speed


def test_many_files_are_listed_and_hashed(tmp_path):
    data = png_bytes("red")
    for folder in range(20):
        (tmp_path / f"{folder}").mkdir()
        for i in range(250):
            (tmp_path / f"{folder}" / f"{i}.png").write_bytes(data + bytes([folder]) + i.to_bytes(2, "big"))
    found = images(tmp_path)
    assert len(set(found.fingerprints())) == 5000


@pytest.mark.skipif(os.name != "posix" or sys.platform == "darwin", reason="file names are text there")
def test_a_file_name_that_is_no_text(tmp_path):
    folder = tmp_path / os.fsdecode(b"gr\xfcn")
    (folder / "a").mkdir(parents=True)
    write(tmp_path / "red.png").rename(folder / "a" / os.fsdecode(b"r\xf6t.png"))
    found = images(folder)
    assert found.ids == ["a/r\\xf6t.png"]
    assert (found.name, found.source) == (f"{tmp_path}/gr\\xfcn",) * 2
    assert known_fingerprints(found, Store(tmp_path / "cache")) == found.fingerprints()
    assert found.load(0).size == (6, 4)
