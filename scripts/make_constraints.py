"""Writes constraints.txt: the versions in this environment of all that contralens with every extra depends on.

Except FiftyOne, whose own bounds exclude some of these versions: it goes into an environment of its own.
"""

from __future__ import annotations

import platform
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "constraints.txt"
APART = "fiftyone"
"""The extra that constraints.txt leaves out."""


def required() -> list[str]:
    """What contralens asks for, extras included but one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [lines for name, lines in project["optional-dependencies"].items() if name != APART]
    return [*project["dependencies"], *(line for lines in extras for line in lines)]


def needed(first: Iterable[str]) -> Iterator[Distribution]:
    """Each distribution of this environment that the requirements `first` lead to, in no order."""
    todo: list[tuple[str, frozenset[str]]] = []
    seen: set[tuple[str, frozenset[str]]] = set()

    def add(lines: Iterable[str], extras: frozenset[str]) -> None:
        for line in lines:
            want = Requirement(line)
            asked = [{"extra": extra} for extra in extras or {""}]
            if want.marker is None or any(want.marker.evaluate(one) for one in asked):
                todo.append((canonicalize_name(want.name), frozenset(want.extras)))

    add(first, frozenset())
    while todo:
        name, extras = todo.pop()
        if name == "contralens" or (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue  # of another platform, or not installed here
        yield found
        add(found.requires or [], extras)


if __name__ == "__main__":
    lines = sorted({f"{canonicalize_name(d.name)}=={d.version.split('+')[0]}" for d in needed(required())})
    head = (
        f"# Versions that were tested together, Python {platform.python_version()} on {sys.platform}; made by\n"
        "# scripts/make_constraints.py. Use: pip install -c constraints.txt 'contralens[open-clip]'\n"
    )
    OUT.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} packages in {OUT}")
