"""A real Chromium for the explorer's tests, and what is asked of every page."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest
from patience import HUNG

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
BROWSER = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium"),
    pytest.mark.slow,
]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def axe_source() -> str | None:
    """axe-core, from the Python package that carries it or from the front end's node_modules."""
    found = importlib.util.find_spec("axe_playwright_python")
    places = [Path(p) / "axe.min.js" for p in (found.submodule_search_locations or [] if found else [])]
    places.append(Path(__file__).resolve().parents[2] / "explorer-ui/node_modules/axe-core/axe.min.js")
    return next((p.read_text(encoding="utf-8") for p in places if p.is_file()), None)


class Watched:
    """A page whose console errors and outside requests are kept."""

    def __init__(self, browser: Any, **options: Any) -> None:
        options.setdefault("viewport", {"width": 1280, "height": 860})
        self.context = browser.new_context(accept_downloads=True, **options)
        self.context.set_default_timeout(1000 * HUNG)
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda m: m.type in ("error", "warning") and self.problems.append(m.text))
        self.page.on("pageerror", lambda e: self.problems.append(str(e)))
        self.page.on("request", lambda r: self.requests.append(r.url))

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def outside(self, base: str) -> list[str]:
        return [u for u in self.requests if not u.startswith((base, "blob:", "data:"))]


def until(page: Any, expression: str) -> None:
    """Wait until it is true; not by Playwright's own polling, which the pages' content policy forbids."""
    for _ in range(30_000):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never true: {expression}")


def accessible_everywhere(page: Any, axe: str) -> None:
    """`accessible` on a desk by light and on a phone in the dark."""
    for width, theme in ((1280, "light"), (390, "dark")):
        page.set_viewport_size({"width": width, "height": 844})
        page.emulate_media(color_scheme=theme, reduced_motion="reduce")
        page.wait_for_timeout(100)
        accessible(page, axe)


def accessible(page: Any, axe: str) -> None:
    """No page is wider than its window, and axe finds nothing serious."""
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"{page.url} is {wide} px too wide"
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    bad = [
        (v["id"], [n["html"][:120] for n in v["nodes"][:3]])
        for v in found["violations"]
        if v["impact"] in ("serious", "critical")
    ]
    assert bad == [], page.url
