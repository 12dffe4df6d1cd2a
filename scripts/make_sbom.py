"""Writes sbom.json: what an environment with contralens consists of, as CycloneDX. `make sbom` runs it beside the tool.

Usage: python scripts/make_sbom.py PYTHON, the interpreter of that environment.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "sbom.json"


def named(project: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    """The list with contralens' own version; raises `SystemExit` where a package that it requires is not in it."""
    version = re.search(r'__version__ = "(.+)"', (ROOT / "src/contralens/__init__.py").read_text(encoding="utf-8"))
    assert version is not None
    own = content["metadata"]["component"]
    own |= {"version": version[1], "purl": f"pkg:pypi/contralens@{version[1]}"}
    there = {canonical(component["name"]) for component in content["components"]}
    required = {canonical(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in project["dependencies"]}
    if missing := sorted(required - there):
        raise SystemExit(f"{', '.join(missing)}: required, but not in that environment; run `make demo` first")
    return content


def canonical(name: str) -> str:
    """A package's name as PEP 503 writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    tool = Path(sys.executable).with_name("cyclonedx-py")
    command = [tool, "environment", sys.argv[1], "--pyproject", ROOT / "pyproject.toml", "--output-reproducible"]
    made = named(project, json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    OUT.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    print(f"{len(made['components'])} packages in {OUT}")
