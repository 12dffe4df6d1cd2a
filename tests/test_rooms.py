"""Which room may import which: the table of docs/design.md, checked."""

from __future__ import annotations

import ast
from pathlib import Path

import contralens

ROOT = Path(contralens.__file__).parent
BASE = {"errors", "types", "checks", "plugs", "specs", "settings", "pages"}
ALLOWED = {
    "errors": set(),
    "types": {"errors"},
    "checks": {"errors"},
    "plugs": {"errors", "checks"},
    "specs": {"errors", "checks"},
    "settings": {"errors", "types", "checks", "specs"},
    "pages": set(),
    "math": BASE,
    "models": BASE | {"world"},
    "data": BASE | {"world"},
    "world": BASE | {"math", "data"},
    "collecting": BASE | {"math", "models", "data"},
    "split": BASE,
    "evidence": BASE | {"math", "models", "data", "collecting"},
    "reopen": BASE | {"math", "models", "data", "collecting", "evidence", "split"},
    "config": {"errors", "checks", "specs", "data", "settings"},
    "maps": BASE | {"models", "data", "reopen"},
    "demo": BASE | {"math", "data", "world", "labeling", "maps"},
    "evaluation": BASE
    | {
        "config",
        "math",
        "models",
        "data",
        "collecting",
        "evidence",
        "reopen",
        "proposing",
        "labeling",
        "auditing",
        "report",
        "world",
    },
    "auditing": BASE | {"config", "math", "models", "data", "reopen", "split"},
    "verifying": BASE | {"math", "models", "data", "reopen", "world"},
    "proposing": BASE | {"math", "models", "data", "evidence"},
    "labeling": BASE | {"math", "models", "data", "collecting", "proposing", "split"},
}
NO_TORCH = {
    "errors", "types", "checks", "plugs", "specs", "settings", "config", "cli", "commands", "report", "explorer",
    "data",
}  # fmt: skip


def rooms_of(path: Path) -> tuple[str, set[str], set[str]]:
    """The room a file belongs to, the rooms it imports, and the packages it imports at module level."""
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module)
        elif isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
    outside = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name)
        for node in tree.body
        if isinstance(node, (ast.ImportFrom, ast.Import))
    }
    rooms = {name.split(".")[1] for name in imported if name.startswith("contralens.")}
    return room, rooms - {room}, {str(name).split(".")[0] for name in outside}


def test_rooms_import_only_what_they_may() -> None:
    for path in sorted(ROOT.rglob("*.py")):
        room, rooms, packages = rooms_of(path)
        if room in ALLOWED:
            assert rooms <= ALLOWED[room], f"{path} imports {rooms - ALLOWED[room]}"
        if room in NO_TORCH:
            assert not packages & {"torch", "torchvision", "timm", "transformers"}, f"{path} imports torch at once"
