"""The code of the documentation: whatever can run here is run, the rest is checked."""

from __future__ import annotations

import ast
import importlib
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import typer.main
from fenced import PAGES, ROOT, SHELL, Block, blocks, commands, name_of
from plugged import keep, registries

from contralens.cli import app, main

pytestmark = pytest.mark.slow
CODE = [(page, found) for page in PAGES if (found := blocks(page))]
NAMES = [name_of(page) for page, _ in CODE]


@pytest.mark.parametrize("found", [found for _, found in CODE], ids=NAMES)
def test_python_parses_and_names_what_exists(found: list[Block]) -> None:
    for block in found:
        if block.language == "python":
            tree = ast.parse(block.code, filename=str(block))
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "contralens":
                    module = importlib.import_module(str(node.module))
                    missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
                    assert not missing, f"{block}: {node.module} has no {missing}"
                elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    whole = importlib.import_module("contralens") if node.value.id == "contralens" else None
                    assert whole is None or hasattr(whole, node.attr), f"{block}: {node.attr}"


@pytest.mark.parametrize("found", [found for _, found in CODE], ids=NAMES)
def test_commands_have_options_that_exist(found: list[Block]) -> None:
    for block in found:
        for words in commands(block) if block.language in SHELL else []:
            if words[0] == "contralens":
                parsed([w for w in words[1:] if w != "..."], block)
            elif words[0] == "make":
                assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M), f"{block}: make {words[1]}"


def parsed(args: list[str], block: Block) -> None:
    """Parse a command line without running it."""
    group: Any = typer.main.get_command(app)
    try:
        context, command = group.make_context("contralens", args), group
        while hasattr(command, "commands"):  # bench has commands of its own
            name, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
            context = command.make_context(name, words, parent=context)
    except typer.Exit:
        pass  # --help, --version
    except Exception as e:
        if type(e).__name__ == "NoArgsIsHelpError":
            return
        pytest.fail(f"{block}: contralens {' '.join(args)}: {getattr(e, 'message', e)}")


def test_extras_in_pip_commands_exist() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    sources = [*PAGES, *ROOT.glob("src/**/*.py")]
    for path in sources:
        for names in re.findall(r"contralens\[([\w,-]+)\]", path.read_text(encoding="utf-8")):
            assert set(names.split(",")) <= set(extras), f"{path}: {names}"


@pytest.mark.parametrize(("page", "found"), CODE, ids=NAMES)
def test_code_runs(
    page: Path, found: list[Block], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All blocks of a page in order, in one folder, one Python session and one shell; a plain block is output.

    What a session adds to the dictionaries of plugs or to its environment, a command does not know.
    """
    keep(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONTRALENS_CACHE", str(cache))
    known = {kind: dict(plugs._known) for kind, plugs in registries().items()}
    shell = dict(os.environ)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    space: dict[str, Any] = {"__name__": "__main__"}
    before = set(sys.modules)
    try:
        for block in found:
            if block.file:
                (tmp_path / block.file).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / block.file).write_text(block.code, encoding="utf-8")
                importlib.invalidate_caches()
            elif block.not_run:
                continue
            elif block.language == "python":
                padded = "\n" * block.line + block.code
                exec(compile(padded, str(ROOT / block.page), "exec"), space)
            elif block.language in SHELL:
                for words in commands(block):
                    if words[0] == "export":
                        shell.update([words[1].split("=", 1)])
                        continue
                    assert words[0] == "contralens", f"{block}: mark with <!-- not run: REASON -->: {' '.join(words)}"
                    with monkeypatch.context() as apart:
                        for kind, plugs in registries().items():
                            apart.setattr(plugs, "_known", dict(known[kind]))
                        apart.setattr(os, "environ", dict(shell))
                        run(words, block, apart)
    finally:
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(file).is_relative_to(tmp_path):
                del sys.modules[name]


def run(words: list[str], block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", words)
    with warnings.catch_warnings(), pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code in (0, None), f"{block}: {' '.join(words)} ended with {stopped.value.code}"
