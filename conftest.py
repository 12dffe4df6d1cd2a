"""Examples in docstrings run where the tour of docs/start.md has been, with `world-1` (pictures) and `run`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from _pytest.doctest import DoctestItem


@pytest.fixture(scope="session")
def toured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder after the first steps of the tour, on fewer pictures."""
    import contralens
    from contralens.world.demo import write_world

    home = tmp_path_factory.mktemp("tour")
    write_world(home / "world-1", 1, 80)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("CONTRALENS_CACHE", str(home / "cache"))
        contralens.label(
            "world:1", "world-1/images", "world", "world-1/vocabulary.txt", layer="block3", k=5, holdout=0.2, out="run"
        )
    return home


@pytest.fixture(autouse=True)
def _where_examples_run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    item: Any = request.node
    if isinstance(item, DoctestItem) and any(word in item.dtest.docstring for word in ("world-1", '"run')):  # type: ignore[union-attr]
        home = request.getfixturevalue("toured")
        monkeypatch.chdir(home)
        monkeypatch.setenv("CONTRALENS_CACHE", str(home / "cache"))
