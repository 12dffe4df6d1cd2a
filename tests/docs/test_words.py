"""The glossary: words that must not appear in what users read, what to write instead, and where they may appear."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fenced import PAGES, ROOT, name_of

import contralens

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
    # the house's old dialect, by how often it was replaced
    r"told apart|tells? \w+ apart": "separate",
    r"stands? (in|on|at|there|twice|once|below|above|beside|behind|between|first)|stood (in|at|beside)": "is, appears",
    r"lies? beside|set beside|stands? beside": "next to",
    r"whole or not at all|appears? whole": "atomically",
    r"(cannot|could not|can|could) be had|to be had": "is (not) available",
    r"pass(es|ed)? over(?! (the|activations|images))": "skip, ignore",
    r"go(es)? on|went on": "continue, resume",
    r"written down": "save",
    r"put to the test": "test",
    r"take[ns]? off|takes? away|took away": "remove",
    r"at hand": "available",
    r"in silence|without a word": "silently, without a message",
    r"surest|surer": "most confident",
    r"anew|once more": "again",
    r"as ever|save for": "as before, except for",
    r"under way": "running, in flight",
    r"hardly": "barely, almost no",
    r"be believed|believe it": "reliable",
    r"(?<!there )is no (readable|file that|list of|run folder|label file|mask|head)": "is not a",
    r"says so|say so": "records it",
}
"""Words as regular expressions, and what to write instead."""
METHOD = "docs/methods/lookalike.md"
MAY = {
    ("look-alike", METHOD),  # the scorer `lookalike` is named after them
    ("look-alikes", METHOD),
    ("partners", "src/contralens/proposing/captions.py"),  # the value of an option
    ("partners", "src/contralens/settings/propose.py"),
    ("fakes", "src/contralens/renamed.py"),  # an old name
    ("nobody", "explorer-ui/src/parts/Changes.tsx"),  # a class of the style sheet
}
"""Words and the page where each may appear, with the reason."""
NAMES = re.compile(r"`[^`]*`|\]\([^)]*\)|<!--.*?-->|https?://\S+", re.S)
FENCES = re.compile(r"^( *)```.*?^\1```", re.M | re.S)


def wrong(text: str, where: str) -> list[str]:
    """The words of the glossary in a text, with where they are and what to write instead."""
    found = []
    for words, instead in GLOSSARY.items():
        for match in re.finditer(rf"(?<![\w-])(?:{words})(?![\w-])", text, re.I):
            if (match[0].lower(), where) not in MAY:
                found.append(
                    f"{where}: {match[0]!r} ({text[max(0, match.start() - 40) : match.end() + 40]!r}): {instead}"
                )
    return found


def prose(text: str) -> str:
    """A page without its code, names and links."""
    return NAMES.sub(" ", FENCES.sub(" ", text))


def read_pages() -> list[Path]:
    return [page for page in PAGES if page.name != "cli.md"]


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
    """Texts of a module with a space in them that are no docstrings: errors, notes, help, tables."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for part in ast.walk(tree):
        if (
            isinstance(part, ast.Constant)
            and isinstance(part.value, str)
            and " " in part.value
            and id(part) not in said
        ):
            yield part.value


def test_messages_keep_the_glossary() -> None:
    found = []
    for path in sorted((ROOT / "src/contralens").rglob("*.py")):
        for text in messages(path):
            found += wrong(NAMES.sub(" ", text), name_of(path))
    assert found == []


def public_texts() -> Iterator[tuple[str, str]]:
    """Name and docstring of what `contralens` exports, of the classes' public methods too; without examples."""
    for name in contralens.__all__:
        found = getattr(contralens, name)
        members = vars(found).items() if inspect.isclass(found) else ()
        for key, each in [(name, found), *((f"{name}.{k}", v) for k, v in members if not k.startswith("_"))]:
            if not isinstance(each, str) and (text := inspect.getdoc(each)):
                yield key, re.sub(r"(?m)^ *\w+: ", " ", text.partition(">>>")[0])  # without names of arguments


def test_public_docstrings_keep_the_glossary() -> None:
    texts = list(public_texts())
    assert len(texts) > 80
    assert [line for name, text in texts for line in wrong(NAMES.sub(" ", " ".join(text.split())), name)] == []


SHOWN = re.compile(r'"([^"\n{}]* [^"\n{}]*)"|>([^<>{}()|;=]*[a-z] [^<>{}()|;=]*)<')
"""Texts of the explorer's sources: quoted, with a space in them, or between tags."""


@pytest.mark.parametrize("source", sorted((ROOT / "explorer-ui/src").rglob("*.ts*")), ids=name_of)
def test_texts_of_the_explorer_keep_the_glossary(source: Path) -> None:
    lines = [
        line for line in source.read_text(encoding="utf-8").split("\n") if not line.lstrip().startswith(("/*", "*"))
    ]
    shown = [a or b for a, b in SHOWN.findall("\n".join(lines))]
    assert [line for text in shown for line in wrong(" ".join(text.split()), name_of(source))] == []


@pytest.mark.parametrize("page", sorted((ROOT / "src/contralens/pages").glob("*.html")), ids=name_of)
def test_templates_keep_the_glossary(page: Path) -> None:
    text = re.sub(r"<[^>]*>|\{[{%#].*?[}%#]\}", " ", page.read_text(encoding="utf-8"), flags=re.S)
    assert wrong(" ".join(text.split()), name_of(page)) == []


def test_the_glossary_finds_what_it_forbids() -> None:
    assert len(wrong("A killed run tells which partner leaves the neuron cold.", "a page")) == 4
    assert wrong("An interrupted run resumes. `partners` is an option.".replace("`partners`", ""), "a page") == []
