"""Concept lists: the shipped ones, what a file may say, and what is told of a bad one."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import yaml

import contralens
from contralens.auditing.concepts import LISTS, ConceptList, concept_list, shipped
from contralens.errors import InputError


@pytest.mark.parametrize("name", shipped())
def test_shipped_lists_are_sound(name: str) -> None:
    found = contralens.concept_list(name)
    assert isinstance(found, ConceptList)
    assert len(found.side("expected")) >= 10
    assert len(found.side("spurious")) >= 10
    assert all(len(c.wordings) >= 2 for c in found), "without synonyms the encoder check has nothing to compare"
    assert len(found.templates) >= 2
    assert found.title
    assert found.about


def test_dermoscopy_holds_what_melanoma_is_told_by_and_what_it_is_not() -> None:
    found = concept_list("dermoscopy")
    expected = " ".join(w for c in found.side("expected") for w in c.wordings)
    for word in ("asymmetr", "border", "colour", "diameter", "network", "veil", "streaks", "globules", "regression"):
        assert word in expected
    spurious = {w for c in found.side("spurious") for w in c.wordings}
    assert {"ruler", "band-aid", "ink", "hair", "gel bubbles", "dark corners", "red skin"} <= spurious


def test_a_file_is_read_and_its_fingerprint_is_of_what_is_asked(tmp_path: Path) -> None:
    given = {
        "title": "Mine", "templates": ["a photo of {}"],
        "expected": ["stripes", {"name": "a  disc", "synonyms": ["ring"]}],
        "spurious": [{"name": "ruler", "prompts": ["a ruler lies beside it"]}],
    }  # fmt: skip
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(given))
    found = concept_list(file)
    assert [(c.name, c.side, c.wordings, c.prompts) for c in found] == [
        ("stripes", "expected", ("stripes",), ()), ("a disc", "expected", ("a disc", "ring"), ()),
        ("ruler", "spurious", ("ruler",), ("a ruler lies beside it",)),
    ]  # fmt: skip
    assert concept_list({**given, "title": "Other"}).fingerprint == found.fingerprint
    assert concept_list({**given, "templates": ["{}"]}).fingerprint != found.fingerprint
    assert concept_list(found) is found


GOOD = {"expected": ["a"], "spurious": ["b"]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"spuriuos": ["x"]}, "did you mean spurious"),
        ({"spurious": []}, "needs a list of concepts under `spurious`"),
        ({"expected": "a"}, "needs a list of concepts under `expected`"),
        ({"templates": ["a photo"]}, "has no {}"),
        ({"templates": []}, "templates is empty"),
        ({"templates": "photo {}"}, "must be a list of texts"),
        ({"expected": [{"synonyms": ["c"]}]}, "has no name"),
        ({"expected": [{"name": "c", "synonym": ["d"]}]}, "did you mean synonyms"),
        ({"expected": [{"name": "c", "synonyms": [7]}]}, "quote it"),
        ({"expected": [{"name": "c", "synonyms": "d"}]}, "must be a list of texts"),
        ({"expected": [7]}, "must hold `name: value` lines"),
        ({"expected": ["B"]}, "appears twice, under 'B' and 'b'"),
        ({"expected": [{"name": "c", "synonyms": ["C"]}]}, "appears twice"),
    ],
)
def test_a_bad_list_is_told_in_one_line(change: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words) as found:
        concept_list({**GOOD, **change})
    assert "\n" not in str(found.value)


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean dermoscopy"):
        concept_list("dermoscpy")
    with pytest.raises(InputError, match="shipped lists are dermoscopy, photographs"):
        concept_list(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("expected: [")
    with pytest.raises(InputError, match="cannot read"):
        concept_list(tmp_path / "bad.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot read"):
        concept_list(tmp_path / "bytes.yaml")
    with pytest.raises(TypeError, match="must be a name"):
        concept_list(7)  # type: ignore[arg-type]


def test_the_wheel_holds_the_lists() -> None:
    root = Path(contralens.__file__).parents[2]
    wheel = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["src/contralens"]
    assert "exclude" not in wheel
    assert {f.name for f in Path(str(LISTS)).iterdir()} == {f"{name}.yaml" for name in shipped()}
