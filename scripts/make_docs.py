"""Builds the documentation into site/ and checks every link in what was built. Ends with an error on any warning."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "site"


def build() -> list[str]:
    """Run the generator in strict mode; its warnings, and those of the docstring parser, which it lets pass."""
    command = [Path(sys.executable).with_name("zensical"), "build", "--strict", "--clean"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    if done.returncode:
        return [said.strip() or f"zensical ended with {done.returncode}"]
    return [line for line in said.splitlines() if re.search(r"griffe:|[Ww]arning|could not", line)]


class Page(HTMLParser):
    """The anchors and the addresses of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name in ("id", "name"):
                self.anchors.add(value)
            elif value and name in ("href", "src"):
                self.links.add(value)


def broken(site: Path) -> list[str]:
    """Addresses within the site that lead nowhere, and pages or pictures that are loaded from elsewhere."""
    pages = {path.resolve(): Page(path) for path in site.rglob("*.html")}
    out = []
    for path, page in pages.items():
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or path.name == "404.html":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                out.append(f"{path.relative_to(site.resolve())}: {link} is not there")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                out.append(f"{path.relative_to(site.resolve())}: {link} has no such place")
    return out


if __name__ == "__main__":
    problems = build() or broken(SITE)
    sys.exit("\n".join(problems) if problems else None)
