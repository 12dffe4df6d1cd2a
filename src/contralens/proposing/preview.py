"""One question on paper: as text, its pictures as files, and a page that shows both in the order they are sent."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from contralens.data.files import write_whole

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
    """
    text: list[str] = []
    files: list[str] = []
    shown: list[str] = []
    for part in parts:
        if isinstance(part, str):
            text.append(part)
            shown.append(f"<p>{escape(part)}</p>")
            continue
        path = folder / f"{len(files)}-{groups[len(files)]}.jpg"
        write_whole(path, part)
        text.append(f"[{path.name}]")
        files.append(str(path))
        shown.append(f'<img alt="{escape(path.name)}" src="data:image/jpeg;base64,{base64.b64encode(part).decode()}">')
    write_whole(folder / "prompt.txt", ("\n\n".join(text) + "\n").encode())
    write_whole(folder / "question.html", _PAGE.format(name=escape(name), parts="\n".join(shown)).encode())
    return {"text": "\n\n".join(text), "pictures": files, "page": str(folder / "question.html")}
