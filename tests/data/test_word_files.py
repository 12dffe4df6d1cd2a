"""Vocabularies as people keep them: each form read as it is meant, or refused in one line that tells the way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from contralens.data.vocabulary import Vocabulary, read_vocabulary
from contralens.data.wordnet import WordNet, singulars, synonyms
from contralens.errors import InputError

WORDS = ["tench", "goldfish", "great white shark"]


def words(folder: Path, content: Any, name: str = "words.txt", **options: Any) -> Vocabulary:
    file = folder / name
    file.write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
    return read_vocabulary(file, **options)


LINES = {
    "numbered with points": ("1. tench\n2. goldfish\n\n3. great white shark\n", "numbers of a numbered list"),
    "numbered with brackets": ("1) tench\n2) goldfish\n5) great white shark", "numbers of a numbered list"),
    "numbered with colons": ("0: tench\n1: goldfish\n2: great white shark", "numbers of a numbered list"),
    "counted": ("0 tench\n1 goldfish\n2 great white shark", "numbers that count the lines"),
    "counted behind": ("tench 0\ngoldfish 1\ngreat_white_shark 2", "at their ends"),
    "bullets": ("- tench\n- goldfish\n- great white shark", "bullets were removed"),
    "stars": ("* tench\n* goldfish\n* great white shark", "bullets were removed"),
    "round bullets": ("\u2022 tench\n\u2022 goldfish\n\u2022 great white shark", "bullets were removed"),
    "quoted with commas": ("'tench',\n'goldfish',\n'great white shark'", "quotes and commas"),
    "WordNet ids": (
        "n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\nn01484850 great white shark, white shark",
        "WordNet ids were removed; of 3 with several names the first was kept",
    ),
    "map_clsloc": ("n01440764 1 tench\nn01443537 2 goldfish\nn01484850 3 great_white_shark", "WordNet ids"),
    "CUB": ("1 001.tench\n2 002.goldfish\n3 003.great_white_shark", "numbers that count the lines"),
    "a printed dictionary": ("{0: 'tench',\n 1: 'goldfish',\n 2: 'great white shark'}", "next to each concept"),
    "a printed list": ("['tench', 'goldfish',\n 'great white shark']", ""),
    "columns apart by tabs": ("n1440764\ttench\nn2\tgoldfish\nn3\tgreat white shark", "of 2 columns"),
}


@pytest.mark.parametrize("form", [name for name in LINES if name != "columns apart by tabs"])
def test_lines(form: str, tmp_path: Path) -> None:
    content, note = LINES[form]
    made = words(tmp_path, content)
    assert made.concepts == WORDS
    assert note in " ".join(made.lint.lines())
    assert made.lint.notes if note else not made.lint.notes


@pytest.mark.parametrize(
    "content",
    [
        "2 wheels\n4 wheels\n",
        "1 person\n2 people\n3 people\n",
        "3D glasses\n4K television\n5G mast\n",
        "tench\n- goldfish\n1. shark\n",
        "5 o'clock shadow\nzebra\n",
    ],
)
def test_lines_whose_numbers_may_belong_to_them_are_kept(content: str, tmp_path: Path) -> None:
    made = words(tmp_path, content)
    assert made.concepts == content.splitlines()
    assert not made.lint.notes


TABLES = {
    "a header": ("name\ntench\ngoldfish\ngreat white shark\n", "as a header: name"),
    "an index of pandas": (",name\n0,tench\n1,goldfish\n2,great white shark\n", "'name' was read"),
    "ids and names": ("wnid,class_name\nn01440764,tench\nn2,goldfish\nn3,great white shark\n", "'class_name' was read"),
    "index and text without a header": ("0,tench\n1,goldfish\n2,great white shark\n", "of 2 columns, '1' was read"),
    "other columns": ("id,label,supercategory\n1,tench,fish\n2,goldfish,fish\n3,great white shark,fish\n", "'label'"),
}


@pytest.mark.parametrize("form", TABLES)
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt"])
def test_tables(form: str, suffix: str, tmp_path: Path) -> None:
    content, note = TABLES[form]
    content = content.replace(",", "\t") if suffix == ".tsv" else content
    if suffix == ".txt" and (form == "a header" or "without" in form):
        return
    made = words(tmp_path, content, f"words{suffix}")
    assert made.concepts == WORDS
    assert note in " ".join(made.lint.lines())


def test_columns_that_are_named(tmp_path: Path) -> None:
    table = "animal,colour\ntench,green\ngoldfish,gold\n"
    assert words(tmp_path, table, "a.csv", column="animal").concepts == ["tench", "goldfish"]
    assert read_vocabulary(f"{tmp_path / 'a.csv'}:colour").concepts == ["green", "gold"]
    assert read_vocabulary(f"{tmp_path / 'a.csv'}:1").concepts == ["colour", "green", "gold"]
    made = read_vocabulary(tmp_path / "a.csv")
    assert made.concepts == ["animal", "tench", "goldfish"]
    assert "the first was read, including its first row; to choose another, write a.csv:1" in " ".join(
        made.lint.lines()
    )
    with pytest.raises(InputError, match="no column 'size'"):
        read_vocabulary(f"{tmp_path / 'a.csv'}:size")


OBJECTS: dict[str, tuple[Any, str]] = {
    "list": (WORDS, ""),
    "classes with concepts": ({"fish": WORDS[:2], "shark": WORDS[2:]}, "2 classes with their concepts"),
    "imagenet_class_index": ({str(n): [f"n0144076{n}", w] for n, w in enumerate(WORDS)}, "an index and an id"),
    "index to name": ({str(n): w for n, w in enumerate(WORDS)}, "index or id next to each concept"),
    "id to name": ({f"n0144076{n}": w for n, w in enumerate(WORDS)}, "index or id next to each concept"),
    "name to index": ({w: n for n, w in enumerate(WORDS)}, "after each concept"),
    "pairs": ([[n, w] for n, w in enumerate(WORDS)], "index or id next to each concept"),
    "objects": ([{"id": n, "name": w, "supercategory": "fish"} for n, w in enumerate(WORDS)], "'name' was read"),
    "COCO": ({"images": [], "categories": [{"id": n, "name": w} for n, w in enumerate(WORDS)]}, "'name' was read"),
}


@pytest.mark.parametrize("form", OBJECTS)
@pytest.mark.parametrize("name", ["words.json", "words.txt"])
def test_json(form: str, name: str, tmp_path: Path) -> None:
    content, note = OBJECTS[form]
    made = words(tmp_path, content, name)
    assert made.concepts == WORDS
    assert note in " ".join(made.lint.lines())


def test_dictionaries_in_python() -> None:
    assert read_vocabulary({"fish": WORDS[:2], "shark": WORDS[2:]}).concepts == WORDS
    with pytest.raises(InputError, match=r"vocabulary \(a dictionary\) gives a text for each text"):
        read_vocabulary({"tench": "a fish", "zebra": "a horse"})


def test_yaml_and_json_lines(tmp_path: Path) -> None:
    assert words(tmp_path, "- tench\n- goldfish\n- great white shark\n", "a.yaml").concepts == WORDS
    assert words(tmp_path, "fish:\n- tench\n- goldfish\nshark: [great white shark]\n", "a.yml").concepts == WORDS
    assert words(tmp_path, "\n".join(json.dumps({"name": w}) for w in WORDS), "a.jsonl").concepts == WORDS


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", "[1, 2]", "a list of concepts must hold texts; got 1"),
        ("a.json", "3", "must hold a list of concepts; got 3"),
        ("a.json", '{"cat": "an animal", "dog": "another"}', "gives a text for each text .* write a list"),
        ("a.json", '{"cat": {"parts": ["tail"]}}', "JSON must be a list of concepts, or a list of them for each class"),
        ("a.json", '[{"id": 1, "x": "cat", "y": "dog"}]', "a list of objects with id, x, y: it is unclear"),
        ("a.json", '["cat", "dog"', "begins like JSON but is not valid"),
        ("a.txt", '["cat", dog]', "begins like JSON but is not valid .*write one concept a line"),
        ("a.jsonl", '"cat"\n"dog', "line 2 is not valid JSON"),
        ("a.yaml", "a: [b", "is not valid YAML"),
        ("a.txt", "n01440764\nn01443537\n", "WordNet ids only .*built-in vocabulary imagenet"),
        ("a.txt", "5 tench\n9 shark\n12 cock\n", "every line begins with a number .*write the file as a JSON list"),
        ("a.csv", "zebra\ncrane, bird\n", "line 2 has 2 columns, the first 1: put texts with a comma in quotes"),
        ("a.csv", "name,description\ncat,an animal\ndog,another\n", "name the one with the concepts, as in a.csv:name"),
    ],
)
def test_what_could_mean_two_things_is_refused(name: str, content: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says) as caught:
        words(tmp_path, content, name)
    assert "\n" not in str(caught.value)


def test_what_looks_odd_is_counted(tmp_path: Path) -> None:
    listed = [
        "label",
        "1. cat",
        "n01440764 tench",
        "- dog",
        "# fish",
        "bird",
        "birds",
        "boxes",
        "box",
        "women",
        "woman",
    ]
    made = read_vocabulary(listed)
    assert made.concepts == listed
    kinds = {"header": 1, "numbers": 1, "ids": 1, "bullets": 2, "plurals": 3}
    assert made.lint.counts == kinds
    assert made.lint.examples["plurals"] == ["birds", "boxes", "women"]
    assert not read_vocabulary(["glass", "bus", "class", "3.5 inch disk", "-ing form", "no. 7"]).lint.counts


def test_synonyms_by_the_first_meaning() -> None:
    index = {"car": [1, 2], "automobile": [1], "cat": [3], "vehicle": [1]}
    lines = "\n".join(f"{word} n {len(o)} 0 {len(o)} 0 {' '.join(map(str, o))}" for word, o in index.items())
    wordnet = WordNet("here", {"index.noun": lines.encode()}.get)  # type: ignore[arg-type]
    wordnet.__dict__["_exceptions"] = {}
    assert synonyms(["Car", "cars", "automobile", "cat", "unknown word"], wordnet) == [("Car", "automobile")]
    assert "woman" in list(singulars("women"))
