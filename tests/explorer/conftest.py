"""One real run for all tests of the explorer; copy it before changing it."""

from __future__ import annotations

import pytest
from coloured import draw_discs

pytest.importorskip("fastapi", reason="the explorer's extra is not installed: pip install 'contralens[explore]'")
pytest.importorskip("duckdb", reason="the explorer's extra is not installed: pip install 'contralens[explore]'")

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
