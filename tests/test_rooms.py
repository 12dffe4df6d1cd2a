"""Which room may import which: the table of docs/design.md, checked."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import contralens

ROOT = Path(contralens.__file__).parent
BASE = {"errors", "types", "checks", "specs", "user_code", "plugs", "settings", "pages"}
NETWORKS = {"fingerprint", "loading", "saes", "models", "encoders"}
BELOW_RUNS = BASE | NETWORKS | {"math", "data", "world"}
ON_RUNS = BELOW_RUNS | {"config", "collecting", "holdout", "run_data"}
FACES = {"report", "explorer", "commands", "cli"}
ALLOWED: dict[str, set[str]] = {
    "renamed": set(),
    "errors": set(),
    "types": {"errors"},
    "checks": {"errors"},
    "specs": {"errors", "checks"},
    "user_code": {"errors", "checks"},
    "plugs": {"errors", "checks", "specs", "user_code"},
    "settings": {"errors", "types", "checks", "specs"},
    "pages": set(),
    "math": BASE,
    "world": BASE,
    "fingerprint": set(),
    "loading": BASE | {"world"},
    "saes": BASE | {"fingerprint", "loading"},
    "models": BASE | {"math", "fingerprint", "loading", "saes"},
    "encoders": BASE | {"world", "fingerprint", "loading", "models"},
    "data": BASE | {"world"},
    "config": BASE | {"data"},
    "holdout": BASE,
    "sharing": BASE | {"data"},
    "collecting": BELOW_RUNS,
    "run_data": BELOW_RUNS | {"collecting", "holdout"},
    "proposing": BELOW_RUNS | {"run_data"},
    "maps": BELOW_RUNS | {"run_data"},
    "labeling": BELOW_RUNS | {"collecting", "holdout", "proposing"},
    "bench": BASE | {"math", "data", "world"},
    "demo": BASE | {"models", "encoders", "data", "world", "collecting", "maps", "labeling", "bench"},
    "auditing": ON_RUNS,
    "evaluation": ON_RUNS | {"proposing", "labeling", "bench", "auditing"},
    "verifying": ON_RUNS,
    "report": BASE | {"data", "sharing", "proposing"},
    "explorer": BASE | {"data", "encoders", "sharing", "report"},
    "commands": ON_RUNS
    | {"sharing", "proposing", "maps", "labeling", "bench", "demo", "auditing", "evaluation", "verifying"}
    | {"report", "explorer"},
    "cli": BASE | {"commands"},
    "__main__": {"cli"},
}
"""From the ground up: a room imports only rooms that stand before it."""
NO_TORCH = BASE - {"types"} | FACES | {"config", "data", "sharing"}
HEAVY = {"torch", "torchvision", "timm", "transformers"}
FILES = {".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path for path in sorted(ROOT.rglob("*.py"))}
FILES = {name.removesuffix(".__init__"): path for name, path in FILES.items()}
REFERENCE = re.compile(r"(contralens(?:\.\w+)+)(?::\w+)?")


def imported(tree: ast.AST) -> set[str]:
    """Modules that some code imports, also inside functions, and those that a text names for a later import.

    >>> sorted(imported(ast.parse("def f(): from contralens import specs; Scheme('contralens.world.encoder:load')")))
    ['contralens.specs', 'contralens.world.encoder']
    """
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "imports name the whole path"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            inner = {name for name in whole if name in FILES}
            found |= inner | ({str(node.module)} if len(inner) < len(whole) else set())
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            match = REFERENCE.fullmatch(node.value)
            if match and match[1] in FILES:
                found.add(match[1])
    return found


@functools.cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


@functools.cache
def first_imports(module: str) -> set[str]:
    body = [node for node in tree_of(module).body if isinstance(node, (ast.ImportFrom, ast.Import))]
    return imported(ast.Module(body, []))


def room_of(module: str) -> str:
    return module.split(".")[1]


def at_once(module: str, seen: set[str]) -> set[str]:
    """Packages that are imported as soon as a module is, by it or by what it imports."""
    if module not in FILES or module in seen:
        return set()
    seen.add(module)
    names = first_imports(module)
    packages = {name.partition(".")[0] for name in names}
    return packages.union(*(at_once(name, seen) for name in names))


def test_the_table_is_an_order_of_all_rooms() -> None:
    before: set[str] = set()
    for room, allowed in ALLOWED.items():
        assert allowed <= before, f"{room} may import {allowed - before}, which stand above it"
        before.add(room)
    rooms = {room_of(name) for name in FILES if name != "contralens"}
    assert rooms == set(ALLOWED)


def test_rooms_import_only_what_they_may() -> None:
    for name, path in FILES.items():
        if name == "contralens":
            continue
        tree = tree_of(name)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "contralens":
                names = {alias.name for alias in node.names if f"contralens.{alias.name}" not in FILES}
                assert names <= {"__version__"}, f"{path} imports {names} by way of the package itself"
            assert not (isinstance(node, ast.Import) and any(alias.name == "contralens" for alias in node.names)), path
        rooms = {room_of(other) for other in imported(tree) if other.startswith("contralens.")} - {room_of(name)}
        assert rooms <= ALLOWED[room_of(name)], f"{path} imports {rooms - ALLOWED[room_of(name)]}"


def test_what_reads_finished_runs_imports_no_torch_at_once() -> None:
    for name in FILES:
        if name != "contralens" and room_of(name) in NO_TORCH:
            assert not at_once(name, set()) & HEAVY, f"{name} imports torch at once"


def test_test_files_have_names_of_their_own() -> None:
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert len(names) == len(set(names))


def test_the_design_page_shows_every_room() -> None:
    page = Path(__file__).parents[1] / "docs" / "design.md"
    table = page.read_text(encoding="utf-8").split("## Rooms, and which may import which")[1].split("```")[1]
    shown = set(re.findall(r"\w+", table))
    assert set(ALLOWED) - {"__main__"} <= shown
    drawn = set(re.findall(r"\w+", (page.parent / "pictures" / "rooms.svg").read_text(encoding="utf-8")))
    assert set(ALLOWED) - BASE - {"__main__", "renamed", "config", "holdout", "maps", "demo"} <= drawn


LONGER = {"explorer.shapes": "the types of all that the explorer answers, which one looks up by name"}
"""Files that may have more lines, with the reason."""


def test_functions_and_files_can_be_read_in_a_sitting() -> None:
    """No function has more than 80 lines, docstring included, and no file more than 350."""
    long = {
        f"{module}.{node.name}": lines
        for module in FILES
        for node in ast.walk(tree_of(module))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (lines := int(node.end_lineno or 0) - node.lineno + 1) > 80
    }
    assert not long
    files = {name.partition(".")[2]: len(path.read_text(encoding="utf-8").splitlines()) for name, path in FILES.items()}
    over = {name for name, lines in files.items() if lines > 350}
    assert over == LONGER.keys()
