"""The front end's types are those of the server: explorer-ui/src/types.ts is what its OpenAPI document gives."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from contralens.explorer import shapes
from contralens.explorer.app import create_app

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_ui_types.py"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def test_the_committed_types_are_fresh(script: dict[str, Any]) -> None:
    fresh = script["made"](create_app([]).openapi())
    stale = "explorer-ui/src/types.ts is stale: python scripts/make_ui_types.py, then npm run build in explorer-ui"
    assert script["FILE"].read_text(encoding="utf-8") == fresh, stale


def test_they_hold_every_shape_and_what_it_says(script: dict[str, Any]) -> None:
    text = script["FILE"].read_text(encoding="utf-8")
    for name in shapes.Detail.__annotations__:
        assert f"  {name}: " in text
    assert "/** As finally judged. */\n  label: string | null;" in text
    assert 'export type NoteKind = "note" | "tag" | "label";' in text
    assert "export type Plain = Record<string, Value>;" in text


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"$ref": "#/components/schemas/Note"}, "Note"),
        ({"type": "array", "items": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}, "(number | null)[]"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "Record<string, string>"),
        ({"anyOf": [{"type": "integer"}, {"type": "number"}, {"type": "null"}]}, "number | null"),
        ({"enum": ["a", 'b"'], "type": "string"}, '"a" | "b\\""'),
        ({"title": "Anything"}, "unknown"),
    ],
)
def test_of_a_schema(script: dict[str, Any], schema: dict[str, Any], expected: str) -> None:
    assert script["of"](schema) == expected


def test_what_it_cannot_say_is_an_error(script: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no TypeScript"):
        script["of"]({"type": "array-ish"})
