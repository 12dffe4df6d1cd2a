"""For the API pages: examples (`>>> ...`) stand bare in our docstrings; this puts them into code blocks. What stands
between < and > there is a product of two vectors and no HTML. Functions of a record (`@job(Label)`) get its fields as
their parameters and arguments; records need no torch."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import griffe

sys.path.append(str(Path(__file__).resolve().parents[1] / "src"))  # where contralens is not installed
from contralens.settings.record import Settings, documented

_EXAMPLE = re.compile(r"^( *)>>> .*(?:\n(?!\s*$).*)*(?:\n\s*\n\1>>> .*(?:\n(?!\s*$).*)*)*", re.M)
_CODE = re.compile(r"```.*?```|`[^`\n]+`|^ {4,}\S.*$", re.S | re.M)


def prepared(text: str) -> str:
    """Each run of examples in a fence, and < as text wherever no code is."""
    text = _EXAMPLE.sub(r"```pycon\n\g<0>\n```", text)
    parts, last = [], 0
    for code in _CODE.finditer(text):
        parts += [text[last : code.start()].replace("<", "&lt;"), code[0]]
        last = code.end()
    return "".join([*parts, text[last:].replace("<", "&lt;")])


def record_of(function: griffe.Function) -> type[Settings] | None:
    """The record that a function is made of, by its decorator."""
    for decorator in function.decorators:
        if found := re.fullmatch(r"job\((\w+)\)", str(decorator.value)):
            path = function.module.resolve(found[1])
            module, _, name = path.rpartition(".")
            record: type[Settings] = getattr(importlib.import_module(module), name)
            return record
    return None


def parameters_of(record: type[Settings]) -> griffe.Parameters:
    """The fields of a record as parameters."""
    kinds = {kind: griffe.ParameterKind(kind.description) for kind in inspect._ParameterKind}
    shape = inspect.signature(record).parameters
    return griffe.Parameters(*(
        griffe.Parameter(
            name, annotation=str(p.annotation), kind=kinds[p.kind],
            default=None if p.default is p.empty else _shown(p.default),
        )
        for name, p in shape.items()
    ))  # fmt: skip


def _shown(default: Any) -> str:
    return getattr(default, "__name__", None) or repr(default)


class Doctests(griffe.Extension):
    """Prepares every docstring."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if isinstance(obj, griffe.Function) and obj.docstring is not None and (record := record_of(obj)) is not None:
            obj.parameters = parameters_of(record)
            obj.docstring.value = inspect.cleandoc(documented(obj.docstring.value.replace("\n", "\n    "), record))
        if obj.docstring is not None:
            obj.docstring.value = prepared(obj.docstring.value)
