"""Fenced code blocks of the documentation, with the remarks before them.

<!-- not run: REASON -->    the next block is checked, but not run: it needs a hub, a server, a GPU
<!-- file: NAME -->         the next block is written to that file
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("docs/**/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
SHELL = ("sh", "bash", "console")

_FENCE = re.compile(
    r"(?:^<!--\s*(?P<key>not run|file):\s*(?P<value>[^>]*?)\s*-->\s*\n+)?"
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```",
    re.M | re.S,
)


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: str
    line: int
    language: str
    code: str
    not_run: str | None
    """Why it is not run."""
    file: str | None
    """The file that it is."""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for m in _FENCE.finditer(text):
        indent = len(m["indent"])
        code = "\n".join(line[indent:] if line[:indent].isspace() else line for line in m["code"].split("\n"))
        value = {m["key"]: m["value"]} if m["key"] else {}
        line = text.count("\n", 0, m.start("language")) + 1
        found.append(Block(name_of(page), line, m["language"], code, value.get("not run"), value.get("file")))
    return found


def commands(block: Block) -> list[list[str]]:
    """The commands of a shell block as words: comments, prompts and line continuations gone."""
    found = []
    for line in re.sub(r"\\\n\s*", " ", block.code).splitlines():
        words = shlex.split(line.removeprefix("$ ").strip(), comments=True)
        if words:
            found.append(words)
    return found
