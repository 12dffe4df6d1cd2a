"""Execute the notebooks of examples/ and save them with their outputs: python scripts/make_notebooks.py [NAME ...].

Each notebook runs in a fresh kernel with an empty cache. Progress bars are dropped and large pictures become JPEG, so
a notebook stays small and readable on a code host.
"""

from __future__ import annotations

import base64
import io
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PNG_LIMIT = 12_000
"""Characters of a PNG in base64 from which it is saved as JPEG."""
WIDEST = 1100
"""Pixels; wider pictures are scaled down."""


def smaller(data: dict[str, Any]) -> None:
    """Keep one picture of an output, as JPEG where a PNG would be large."""
    png = data.get("image/png")
    if png is None:
        return
    data.pop("image/jpeg", None)
    if len(png) <= PNG_LIMIT:
        return
    from PIL import Image

    picture = Image.open(io.BytesIO(base64.b64decode(png)))
    flat = Image.new("RGB", picture.size, "white")
    flat.paste(picture, mask=picture.convert("RGBA").getchannel("A"))
    flat.thumbnail((WIDEST, 10 * WIDEST))
    buffer = io.BytesIO()
    flat.save(buffer, "JPEG", quality=80, optimize=True)
    del data["image/png"]
    data["image/jpeg"] = base64.b64encode(buffer.getvalue()).decode()


def tidy(notebook: Any) -> None:
    """Drop what differs from run to run, and progress."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type != "code":
            continue
        cell.outputs = [o for o in cell.outputs if not (o.output_type == "stream" and o.name == "stderr")]
        for output in cell.outputs:
            output.pop("metadata", None)
            if output.output_type in ("display_data", "execute_result"):
                output.metadata = {}
                smaller(output.data)


def execute(path: Path) -> None:
    """Run one notebook and save it in place."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CONTRALENS_CACHE"] = f"{folder}/cache"
        os.environ["IPYTHONDIR"] = f"{folder}/ipython"
        start = time.monotonic()
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    tidy(notebook)
    nbformat.write(notebook, path)
    print(f"{path.name}: {time.monotonic() - start:.0f} s, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    names = sys.argv[1:] or sorted(path.stem for path in EXAMPLES.glob("*.ipynb"))
    for name in names:
        execute(EXAMPLES / f"{name}.ipynb")
