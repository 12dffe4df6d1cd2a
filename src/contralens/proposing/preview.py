"""One question on paper: as text, its pictures as files, and a page that shows both in the order they are sent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contralens.data.added_files import write_listed
from contralens.pages import render

LIST = "dry-run.json"


def write_question(folder: Path, name: str, parts: Sequence[str | bytes], groups: Sequence[str]) -> dict[str, Any]:
    """Write prompt.txt, question.html and the pictures, and tell where: text, pictures (paths), page (path).

    `parts` are texts and JPEG files in the order in which they are sent; `groups` says of each picture what it shows.
    dry-run.json lists the files, so that those of an older question go and no others.
    """
    text: list[str] = []
    files: dict[str, bytes] = {}
    shown: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, str):
            text.append(part)
            shown.append({"text": part})
            continue
        file = f"{len(files)}-{groups[len(files)]}.jpg"
        files[file] = part
        text.append(f"[{file}]")
        shown.append({"file": file, "jpeg": part})
    pictures = [str(folder / file) for file in files]
    page = render("question.html", style=["question.css"], name=name, parts=shown)
    files |= {"prompt.txt": ("\n\n".join(text) + "\n").encode(), "question.html": page.encode()}
    write_listed(folder, LIST, {"format": 1}, files, older=_older(folder))
    return {"text": "\n\n".join(text), "pictures": pictures, "page": str(folder / "question.html")}


def _older(folder: Path) -> list[str]:
    """Files of a question that was written by a version without a list."""
    try:
        ours = b"<h1>The question about " in (folder / "question.html").read_bytes()
    except OSError:
        ours = False
    if not ours or (folder / LIST).exists():
        return []
    return ["prompt.txt", "question.html", *(path.name for path in folder.glob("[0-9]*-*.jpg"))]
