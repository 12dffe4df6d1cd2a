"""Names with options: the one parser of them, and that all who take such a name go by it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import contralens
from contralens import specs
from contralens.errors import InputError
from contralens.evaluation.painters import painter
from contralens.loading.preprocessing import preprocessing
from contralens.math.faiss_neighbours import parse_neighbours
from contralens.math.scoring import parse_scorer
from contralens.report.cards import _gamma
from contralens.saes.reading import parse_sae

ROOT = Path(contralens.__file__).parent
KINDS = {"gamma": specs.NUMBER, "k": specs.WHOLE, "on": specs.FLAG, "kind": specs.TEXT}
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters=",=", exclude_categories=("Z", "C")), max_size=9)
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "gamma": st.floats(allow_nan=False, allow_infinity=False),
        "k": st.integers(-(10**15), 10**15),
        "on": st.booleans(),
        "kind": TEXTS,
    },
)


@given(VALUES, st.sampled_from(["csp", "C:/a b/sae.pt", "org/name@v2"]), st.sampled_from(":@"))
def test_what_is_written_is_read_back(values: dict[str, Any], name: str, mark: str) -> None:
    text = specs.written(name, values, mark)
    assert specs.tail(text, mark) == (name, text[len(name) + 1 :])
    assert specs.options(specs.tail(text, mark)[1], KINDS, "it") == values


@given(VALUES, st.text(" ", max_size=2), st.text(",", max_size=2))
def test_spaces_and_empty_parts_count_for_nothing(values: dict[str, Any], space: str, commas: str) -> None:
    rest = specs.written("", values).removeprefix(":")
    wide = commas + rest.replace(",", f"{space},{space}").replace("=", f"{space}={space}") + commas
    assert specs.options(wide, KINDS, "it") == values


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    specs.scheme(text), specs.part_of(text), specs.tail(text, ":"), specs.tail(text, "@")
    gamma = specs.gamma_of(text)
    assert gamma is None or 0 <= gamma <= 1
    message = refusal(text)
    assert len(message.splitlines()) <= 1
    assert len(message) < 400


def refusal(text: str) -> str:
    """What the parser says of a text; nothing where it reads it."""
    try:
        assert set(specs.options(text, KINDS, "it")) <= set(KINDS)
    except InputError as e:
        return str(e)
    return ""


@pytest.mark.parametrize("text", ["k=2.5", "k=1_0", "k=٣", "gamma=nan", "gamma=inf", "gamma=", "k", "k=1,k=2", "on=2"])
def test_what_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^it"):
        specs.options(text, KINDS, "it")


@pytest.mark.parametrize(
    ("text", "gamma"), [("1e-1", 0.1), (".5", 0.5), ("0", 0.0), ("0.0", 0.0), ("1.", 1.0), (" 0.25", 0.25)]
)
def test_gamma_is_one_number_for_all(text: str, gamma: float) -> None:
    spec = f"csp:gamma={text}"
    assert parse_scorer(spec) == ("csp", {"gamma": gamma})
    assert specs.gamma_of(spec) == gamma
    assert _gamma(spec) == f"csp, γ = {gamma:g}"


def test_all_go_by_it() -> None:
    for read, spec in [
        (parse_scorer, "csp:gama=0.5"), (parse_neighbours, "faiss:hnsw,serch=2"), (painter, "diffusers:x@stpes=1"),
        (parse_sae, "x.pt:knd=topk"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=r"has no option '\w+'; did you mean \w+"):
            read(spec)  # type: ignore[operator]
    for read, spec in [(parse_scorer, "csp:gamma=a"), (painter, "diffusers:x@steps=a"), (parse_sae, "x.pt:k=a")]:
        with pytest.raises(InputError, match=r": \w+ must be a (whole )?number; got 'a'"):
            read(spec)  # type: ignore[operator]
    assert preprocessing(" crop = 8 , mean = half ").crop == preprocessing("crop=8,mean=half").crop


def test_nobody_else_takes_specs_apart() -> None:
    """No other file splits a text at "=", nor at ":" what is called a spec."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            at, of = node.args[0], ast.unparse(node.func.value)
            is_split = node.func.attr in ("partition", "rpartition", "split", "rsplit") and isinstance(at, ast.Constant)
            if is_split and (at.value == "=" or (at.value == ":" and ("spec" in of or "scorer" in of))):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert [f for f in found if not f.startswith("specs.py:")] == []
