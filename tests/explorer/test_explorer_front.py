"""The front end: its own tests (vitest), and whether the built files that are shipped are those of the source."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from patience import HUNG

import contralens

UI = Path(__file__).resolve().parents[2] / "explorer-ui"
BUILT = Path(contralens.__file__).parent / "explorer" / "static"
pytestmark = [
    pytest.mark.skipif(shutil.which("npm") is None, reason="no npm here: apt-get install npm"),
    pytest.mark.skipif(
        not (UI / "node_modules" / ".bin" / "vitest").exists(), reason="no front-end packages: npm ci in explorer-ui"
    ),
    pytest.mark.slow,
]


def npm(*words: str) -> None:
    done = subprocess.run(["npm", *words], cwd=UI, capture_output=True, text=True, timeout=HUNG)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-2000:]}"


def test_vitest() -> None:
    npm("test")


def test_the_shipped_files_are_those_of_the_source(tmp_path: Path) -> None:
    npm("run", "build", "--", "--outDir", str(tmp_path / "static"))
    fresh = {p.name: p.read_bytes() for p in (tmp_path / "static").iterdir()}
    shipped = {p.name: p.read_bytes() for p in BUILT.iterdir()}
    assert fresh.keys() == shipped.keys()
    stale = [name for name in fresh if fresh[name] != shipped[name]]
    assert stale == [], f"{stale} in {BUILT} are not those of explorer-ui: npm run build there"
