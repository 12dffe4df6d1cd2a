"""The glossary: words that must not appear in what users read, what to write instead, and where they may appear."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fenced import PAGES, ROOT, name_of

GLOSSARY = {
    r"(contrastive )?partners?": "contrast",
    r"look-alikes?": "similar image, or contrast",
    r"incidental": "confounder",
    r"(leaves?|leave it|the neuron) cold|cold images?": "does not activate the neuron",
    r"fakes?|fake neurons?": "null neurons",
    r"two meanings": "polysemantic",
    r"tells|told": "shows, reports",
    r"nobody|somebody": "name who",
    r"killed (run|evaluation)s?|go(es)? on where": "interrupted, resume",
    r"turn(s|ed) down": "reject, attenuate",
    r"lacks?|lacking": "miss, need",
    r"throws? \w+ away": "discard",
    r"beyond this machine|asks nobody": "say what happens",
    r"of yours": "your",
    r"sub-folders?": "subfolder",
}
"""Words as regular expressions, and what to write instead."""
METHOD = "docs/methods/lookalike.md"
MAY = {
    ("look-alike", METHOD),  # the scorer `lookalike` is named after them
    ("look-alikes", METHOD),
    ("partners", "src/contralens/proposing/captions.py"),  # the value of an option
}
"""Words and the page where each may appear, with the reason."""
NAMES = re.compile(r"`[^`]*`|\]\([^)]*\)|<!--.*?-->|https?://\S+", re.S)
FENCES = re.compile(r"^( *)```.*?^\1```", re.M | re.S)


def wrong(text: str, where: str) -> list[str]:
    """The words of the glossary in a text, with where they are and what to write instead."""
    found = []
    for words, instead in GLOSSARY.items():
        for match in re.finditer(rf"(?<![\w-])(?:{words})(?![\w-])", text, re.I):
            if (match[0], where) not in MAY:
                found.append(
                    f"{where}: {match[0]!r} ({text[max(0, match.start() - 40) : match.end() + 40]!r}): {instead}"
                )
    return found


def prose(text: str) -> str:
    """A page without its code, names and links."""
    return NAMES.sub(" ", FENCES.sub(" ", text))


def read_pages() -> list[Path]:
    return [page for page in PAGES if page.name not in ("cli.md", "CONTRIBUTING.md")]


@pytest.mark.parametrize("page", read_pages(), ids=name_of)
def test_pages_keep_the_glossary(page: Path) -> None:
    assert wrong(prose(page.read_text(encoding="utf-8")), name_of(page)) == []


def test_help_keeps_the_glossary() -> None:
    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    assert wrong(re.sub(r"--?[\w-]+|\S+\|\S+|\w+\(s\)|\"\w+\"|`\w+`", " ", text), "docs/cli.md") == []


@pytest.mark.parametrize("notebook", sorted((ROOT / "examples").glob("*.ipynb")), ids=name_of)
def test_notebooks_keep_the_glossary(notebook: Path) -> None:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert wrong(prose(text), name_of(notebook)) == []


def messages(path: Path) -> Iterator[str]:
    """Texts of the errors that a module raises."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            for part in ast.walk(node.exc):
                if isinstance(part, ast.Constant) and isinstance(part.value, str) and " " in part.value:
                    yield part.value


def test_errors_keep_the_glossary() -> None:
    found = []
    for path in sorted((ROOT / "src/contralens").rglob("*.py")):
        for text in messages(path):
            found += wrong(NAMES.sub(" ", text), name_of(path))
    assert found == []


def test_the_glossary_finds_what_it_forbids() -> None:
    assert len(wrong("A killed run tells which partner leaves the neuron cold.", "a page")) == 4
    assert wrong("An interrupted run resumes. `partners` is an option.".replace("`partners`", ""), "a page") == []
