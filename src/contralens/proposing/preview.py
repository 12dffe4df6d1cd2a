"""One question on paper: as text, its pictures as files, and a page that shows both in the order they are sent."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from contralens.data.added_files import write_listed

LIST = "dry-run.json"

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>The question about {name}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem }}
h1 {{ font-size: 1.2rem }}
p {{ white-space: pre-wrap }}
img {{ max-width: 100%; border: 1px solid #8888; margin: .2rem }}
</style>
</head>
<body>
<h1>The question about {name}, as it would be sent</h1>
{parts}
</body>
</html>
"""


def write_question(folder: Path, name: str, parts: Sequence[str | bytes], groups: Sequence[str]) -> dict[str, Any]:
    """Write prompt.txt, question.html and the pictures, and tell where: text, pictures (paths), page (path).

    `parts` are texts and JPEG files in the order in which they are sent; `groups` says of each picture what it shows.
    dry-run.json lists the files, so that those of an older question go and no others.
    """
    text: list[str] = []
    files: dict[str, bytes] = {}
    shown: list[str] = []
    for part in parts:
        if isinstance(part, str):
            text.append(part)
            shown.append(f"<p>{escape(part)}</p>")
            continue
        file = f"{len(files)}-{groups[len(files)]}.jpg"
        files[file] = part
        text.append(f"[{file}]")
        shown.append(f'<img alt="{escape(file)}" src="data:image/jpeg;base64,{base64.b64encode(part).decode()}">')
    pictures = [str(folder / file) for file in files]
    page = _PAGE.format(name=escape(name), parts="\n".join(shown))
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
