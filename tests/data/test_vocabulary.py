"""Vocabularies: what is cleaned, what is counted, and what is refused."""

import subprocess
import sys

import pytest

from contralens.data.vocabulary import VOCABULARIES, read_vocabulary
from contralens.errors import InputError


def test_a_text_file_is_cleaned_and_linted(tmp_path):
    file = tmp_path / "words.txt"
    long = " ".join(["word"] * 41)
    file.write_bytes(
        f"\ufeffpolar_bear\r\nzebra\r\n\r\n  red   wine \r\nZebra\r\nnul\x00l\u200b\r\n42\r\n{long}\r\n".encode()
    )
    made = read_vocabulary(file)
    assert made.concepts == ["polar bear", "zebra", "red wine", "null", "42", long]
    assert made.lint.counts == {
        "underscores": 1,
        "empty": 1,
        "spaces": 1,
        "duplicates": 1,
        "non_printing": 1,
        "no_letters": 1,
        "long": 1,
    }
    assert made.lint.examples["duplicates"] == ["Zebra"]
    assert all("\n" not in line for line in made.lint.lines())
    assert len(made) == 6
    assert made.source == str(file)


def test_the_order_is_kept_and_the_fingerprint_is_of_the_content(tmp_path):
    one, two = read_vocabulary(["b", "a"]), read_vocabulary(["a", "b"])
    file = tmp_path / "x.txt"
    file.write_text("b\na\n")
    assert one.concepts == ["b", "a"]
    assert one.fingerprint != two.fingerprint
    assert read_vocabulary(str(file)).fingerprint == one.fingerprint
    assert len(one.fingerprint) == 32


def test_tables(tmp_path):
    csv, tsv = tmp_path / "a.csv", tmp_path / "a.tsv"
    csv.write_text('"crane, bird",n1\nzebra,n2\n\n')
    tsv.write_text("wnid\tname\nn1\tcrane\nn2\tzebra\n")
    assert read_vocabulary(csv).concepts == ["crane, bird", "zebra"]
    assert read_vocabulary(csv, column=1).concepts == ["n1", "n2"]
    assert read_vocabulary(tsv, column="name").concepts == ["crane", "zebra"]
    with pytest.raises(InputError, match="no column 'nam'"):
        read_vocabulary(tsv, column="nam")
    with pytest.raises(InputError, match="line 1: there is no column 7"):
        read_vocabulary(tsv, column=7)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \n__\n", "is empty"),
        (b"zebra\nZEBRA\n", "needs at least two"),
        (b"caf\xe9\nx\n", "not UTF-8"),
        ("a\nb\n".encode("utf-16"), "not UTF-8"),
    ],
)
def test_bad_files_are_one_line(tmp_path, content, message):
    file = tmp_path / "x.txt"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_vocabulary(file)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match="did you mean imagenet"):
        read_vocabulary("imagnet")
    with pytest.raises(InputError, match="there is no file"):
        read_vocabulary(tmp_path / "none.txt")
    with pytest.raises(InputError, match="cannot be read"):
        read_vocabulary(tmp_path)
    with pytest.raises(InputError, match="must be texts; got 3"):
        read_vocabulary(["a", 3])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("name", "count", "some"),
    [
        ("imagenet", 999, ["tench", "toilet tissue", "crane bird"]),
        ("coco", 80, ["person", "toothbrush"]),
        ("colours", 141, ["dark olive green", "light goldenrod yellow", "papaya whip"]),
        ("textures", 47, ["striped", "polka-dotted"]),
        ("dermoscopy", 28, ["blue-whitish veil", "ruler"]),
    ],
)
def test_built_in(name, count, some):
    made = read_vocabulary(name)
    assert len(made) == count
    assert set(some) <= set(made.concepts)
    assert VOCABULARIES.about(name) in made.source


def test_built_in_world():
    pytest.importorskip("contralens.world.captions")
    assert len(read_vocabulary("world")) > 20


def test_colours_are_split_into_known_words_only():
    from PIL import ImageColor

    made = read_vocabulary("colours").concepts
    names = [name for name in ImageColor.colormap if "grey" not in name]
    assert [c.replace(" ", "") for c in made] == names
    assert not [c for c in made if len(c) > 10 and " " not in c]


def test_reading_a_file_imports_no_torch(tmp_path):
    file = tmp_path / "x.txt"
    file.write_text("a\nb\n")
    code = (
        "import sys; from contralens.data.vocabulary import read_vocabulary\n"
        f"read_vocabulary({str(file)!r}); read_vocabulary('textures')\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
