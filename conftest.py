"""Examples in docstrings run where the tour of docs/start.md has been, with `world-1` (pictures) and `run`, or with the
four images of docs/api.md."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from _pytest.doctest import DoctestItem

_state = tempfile.TemporaryDirectory(prefix="contralens-state-")
os.environ["XDG_STATE_HOME"] = _state.name  # no test makes or reads the user's key
os.environ["CONTRALENS_QUIET"] = "1"  # what is slow would speak on stderr


@pytest.fixture(scope="session")
def toured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder after the first steps of the tour, on fewer pictures."""
    import contralens
    from contralens.bench.world_images import write_world

    home = tmp_path_factory.mktemp("tour")
    write_world(home / "world-1", 1, 80)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("CONTRALENS_CACHE", str(home / "cache"))
        contralens.label(
            "world:1", "world-1/images", "world", "world-1/vocabulary.txt", layer="block3", k=5, holdout=0.2, out="run"
        )
    return home


@pytest.fixture(scope="session")
def four_images() -> dict[str, Any]:
    """What the first block of docs/api.md defines: exemplars, embeddings, texts and activations."""
    page = Path(__file__).parent / "docs" / "api.md"
    code = re.search(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    assert code is not None
    space: dict[str, Any] = {}
    exec(code[1], space)
    return {name: space[name] for name in ("texts", "embeddings", "activations", "exemplars")}


@pytest.fixture(autouse=True)
def _where_examples_run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    item: Any = request.node
    if not isinstance(item, DoctestItem):
        return
    code = "".join(example.source for example in item.dtest.examples)  # type: ignore[union-attr]
    if re.search(r"\b(exemplars|embeddings|activations|texts)\b", code):
        item.dtest.globs.update(request.getfixturevalue("four_images"))  # type: ignore[union-attr]
    if "world-1" in code or '"run' in code:
        home = request.getfixturevalue("toured")
        monkeypatch.chdir(home)
        monkeypatch.setenv("CONTRALENS_CACHE", str(home / "cache"))
    else:  # it may write
        monkeypatch.chdir(request.getfixturevalue("tmp_path"))
