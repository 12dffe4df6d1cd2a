"""Writes docs/cli.md: the --help of every command, as it is. `make docs` runs this; a test says when it is stale."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer.main

from contralens.cli import app

WIDTH = 110
OUT = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
HEAD = """\
# Command line

Generated from the commands themselves by `scripts/make_cli_docs.py`: edit the help texts in `src/contralens`, not this
page. `--json` prints JSON to standard output and nothing else there. Invalid input gives one line on standard error
and exit code 2; Ctrl-C is exit code 130, and the same command resumes.

| variable | what |
|---|---|
| `CONTRALENS_CACHE` | cache folder, instead of `contralens` in `$XDG_CACHE_HOME` or `~/.cache` |
| `OPENAI_API_KEY`, `OPENAI_BASE_URL` | key and address for `--proposer openai:MODEL` |
| `CONTRALENS_API_KEY` | key for `--proposer openai:MODEL@URL` |
| `HF_HUB_OFFLINE` | 1: models are taken from the local cache of the hub only |
| `OMP_WAIT_POLICY` | `PASSIVE` unless you set it: torch's threads leave the cores to others while they wait |
| `HF_TOKEN` | for `push` and `pull`, unless `hf auth login` was |
| `WNSEARCHDIR`, `NLTK_DATA` | folders with WordNet's files |

Any setting of `label` and `collect` can be in a YAML file for `--config`, under its long name with `_` for `-` (and
`scorers`, `templates` in the plural, as lists); flags go before the file.
"""


def page() -> str:
    """The page as text."""
    group: Any = typer.main.get_command(app)
    wide: dict[str, Any] = {"resilient_parsing": True, "terminal_width": WIDTH, "max_content_width": WIDTH}
    whole = group.make_context("contralens", [], **wide)
    parts = [HEAD, f"```text\n{group.get_help(whole).strip()}\n```\n"]

    def add(group: Any, above: Any) -> None:
        for name, command in sorted(group.commands.items()):
            context = command.make_context(name, [], parent=above, **wide)
            parts.append(f"## {context.command_path}\n\n```text\n{command.get_help(context).strip()}\n```\n")
            if hasattr(command, "commands"):
                add(command, context)

    add(group, whole)
    return "\n".join(parts)


if __name__ == "__main__":
    text = page()
    if "--check" in sys.argv:
        sys.exit(0 if OUT.read_text(encoding="utf-8") == text else f"{OUT} is stale: python scripts/make_cli_docs.py")
    OUT.write_text(text, encoding="utf-8")
