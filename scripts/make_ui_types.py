"""Write explorer-ui/src/types.ts: what the explorer's JSON holds, from the OpenAPI document of its server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parents[1] / "explorer-ui" / "src" / "types.ts"
HEAD = """// The JSON of each page. Written by scripts/make_ui_types.py from /openapi.json: change
// src/contralens/explorer/shapes.py and run it again.
"""
PLAIN = {"integer": "number", "number": "number", "string": "string", "boolean": "boolean", "null": "null"}


def of(schema: Mapping[str, Any]) -> str:
    """The TypeScript type of a JSON schema as pydantic writes them.

    >>> of({"type": "array", "items": {"anyOf": [{"type": "number"}, {"type": "null"}]}})
    '(number | null)[]'
    """
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "enum" in schema or "const" in schema:
        return " | ".join(json.dumps(value) for value in schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(map(of, schema["anyOf"])))
    kind = schema.get("type")
    if kind == "array":
        item = of(schema.get("items", {}))
        return f"({item})[]" if " | " in item else f"{item}[]"
    if kind == "object":
        values = schema.get("additionalProperties", True)
        return f"Record<string, {of(values) if isinstance(values, Mapping) else 'unknown'}>"
    if kind in PLAIN:
        return PLAIN[kind]
    if schema.keys() <= {"title", "description"}:
        return "unknown"
    raise ValueError(f"no TypeScript for {schema}")


def comment(schema: Mapping[str, Any], indent: str = "") -> str:
    """The schema's description as a comment, or nothing."""
    text = " ".join(str(schema.get("description", "")).split()).replace("*/", "* /")
    return f"{indent}/** {text} */\n" if text else ""


def declared(name: str, schema: Mapping[str, Any]) -> str:
    """One type with its comment."""
    if "properties" not in schema:
        return f"{comment(schema)}export type {name} = {of(schema)};\n"
    needed = schema.get("required", [])
    fields = "".join(
        f"{comment(field, '  ')}  {key}{'' if key in needed else '?'}: {of(field)};\n"
        for key, field in schema["properties"].items()
    )
    return f"{comment(schema)}export interface {name} {{\n{fields}}}\n"


def made(document: Mapping[str, Any]) -> str:
    """The file, from an OpenAPI document."""
    schemas = document["components"]["schemas"]
    return HEAD + "".join(f"\n{declared(name, schemas[name])}" for name in sorted(schemas))


if __name__ == "__main__":
    from contralens.explorer.app import create_app

    FILE.write_text(made(create_app([]).openapi()), encoding="utf-8")
    print(f"wrote {FILE}")
