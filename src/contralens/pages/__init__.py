"""HTML pages from the templates in this folder: each one file that asks nobody for anything.

Whatever a template prints is escaped (jinja2, autoescape), and a value that is not there is an error. A page's policy
allows its own style and script, given by their hashes, pictures as data, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: str, /, *, style: Sequence[str] = ("report.css",), script: str = "", **values: Any) -> str:
    """The page that a template makes of `values`; `style` and `script` name files of this folder.

    >>> "the &lt;b&gt; neuron" in render("question.html", style=["question.css"], name="the <b> neuron", parts=[])
    True
    """
    look, does = "".join(map(_style, style)), _text(script) if script else ""
    policy = f"default-src 'none'; img-src data:; style-src {_hash(look)}; "
    policy += f"script-src {_hash(does)}; " if script else ""
    policy += "base-uri 'none'; form-action 'none'"
    return _environment().get_template(template).render(values, policy=policy, style=look, script=does)


def markdown_cell(text: object) -> str:
    """Text in a cell of a Markdown table, in which nothing is read as Markdown or HTML.

    >>> markdown_cell("a|b <i> *c*")
    'a\\\\|b &lt;i&gt; \\\\*c\\\\*'
    """
    plain = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{sign}" if sign in "\\`*_[]|" else sign for sign in plain)


def fragment(parts: Sequence[Mapping[str, Any]]) -> str:
    """What an object shows of itself in a notebook, as pages/show.html has its parts; everything in it is escaped.

    >>> "&lt;b&gt;" in fragment([{"kind": "head", "text": "<b>"}])
    True
    """
    return _environment().get_template("show.html").render(style=_text("show.css"), parts=parts)


def link(title: str, said: str, address: str, picture: str, page: str) -> str:
    """A page that leads on to another one, and describes it to link previews.

    Args:
        title: what is shown.
        said: a sentence about it.
        address: where the page will be on the web, without its ending; its picture is next to it.
        picture: the picture, from the page.
        page: what it leads to, from the page.

    >>> 'property="og:title" content="a &lt;b&gt;"' in link("a <b>", "", "https://a.b/1", "1.jpg", "../index.html")
    True
    """
    made: str = (
        _environment()
        .get_template("link.html")
        .render(title=title, said=said, address=address, picture=picture, page=page)
    )
    return made


def number(value: float | None) -> str:
    """Three digits or so, in a form that lines up in columns; a dash for what is undefined.

    >>> [number(v) for v in (0.123456, 4, 12345.6, -0.5, 0, 0.0002, float("nan"), None)]
    ['0.123', '4.00', '12,346', '-0.500', '0', '2.0e-04', '–', '–']
    """
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    if size < 0.001:
        return f"{value:.1e}" if size else "0"
    return f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.9995 else 3}f}"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader("contralens", "pages"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    found.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":"), "allow_nan": False}
    found.filters["number"] = number
    found.filters["count"] = lambda value: f"{value:,}"
    found.filters["percent"] = lambda value: f"{value:.1%}"
    found.filters["data"] = lambda picture: "data:image/jpeg;base64," + base64.b64encode(picture).decode()
    return found


@cache
def _style(name: str) -> str:
    """A style sheet; the report's has widths in per cent as classes, since its policy allows no style attributes."""
    return _text(name) + "".join(f".w{i}{{width:{i}%}}" for i in range(101)) * (name == "report.css")


@cache
def _text(name: str) -> str:
    return (files("contralens.pages") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
