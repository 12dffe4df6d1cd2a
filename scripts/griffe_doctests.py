"""For the API pages: examples (`>>> ...`) stand bare in our docstrings; this puts them into code blocks. What stands
between < and > there is a product of two vectors and no HTML."""

from __future__ import annotations

import re
from typing import Any

import griffe

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


class Doctests(griffe.Extension):
    """Prepares every docstring."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = prepared(obj.docstring.value)
