"""One real run for all tests of the explorer; copy it before changing it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from coloured import draw_discs

pytest.importorskip("fastapi", reason="the explorer's extra is not installed: pip install 'contralens[explore]'")
pytest.importorskip("duckdb", reason="the explorer's extra is not installed: pip install 'contralens[explore]'")

from explorer_browsing import CHROMIUM, FLAGS
from explorer_serving import hostile_copy, make_run

from contralens.data.runs import Run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    home = tmp_path_factory.mktemp("explorer")
    patch = pytest.MonkeyPatch()
    patch.setenv("CONTRALENS_CACHE", str(home / "cache"))
    try:
        return make_run(draw_discs(home / "images", 70, 64), home / "run")
    finally:
        patch.undo()


@pytest.fixture(scope="session")
def hostile(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return hostile_copy(finished, tmp_path_factory.mktemp("hostile") / "evil")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    why = "playwright is not installed: pip install playwright"
    playwright = pytest.importorskip("playwright.sync_api", reason=why)
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()
