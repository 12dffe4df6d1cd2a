"""A real installed package with entry points, on disk, for tests of plugs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import invalidate_caches
from pathlib import Path
from typing import Any

import pytest


def install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, module: str, code: str, points: Mapping[str, Mapping[str, str]]
) -> None:
    """What pip leaves behind of a package: MODULE.py and MODULE-1.0.dist-info with its entry points, on `sys.path`.

    `points`: group -> name -> "module:object".
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{module}.py").write_text(code, encoding="utf-8")
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n", encoding="utf-8")
    lines = [line for group, own in points.items() for line in (f"[{group}]", *(f"{n} = {o}" for n, o in own.items()))]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, module, raising=False)
    invalidate_caches()
    keep(monkeypatch)


def keep(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test adds to the registries goes with it."""
    for plugs in registries().values():
        monkeypatch.setattr(plugs, "_known", dict(plugs._known))
        monkeypatch.setattr(plugs, "_listed", False)


def registries() -> dict[str, Any]:
    """Every `Registry` of contralens, by kind."""
    from contralens.data.vocabulary import VOCABULARIES
    from contralens.encoders.registry import ENCODERS
    from contralens.evaluation.measuring import METRICS
    from contralens.evaluation.painters import PAINTERS
    from contralens.loading.loaders import TARGETS
    from contralens.math.scorers import SCORERS
    from contralens.proposing.proposers import PROPOSERS
    from contralens.verifying.editors import EDITORS

    return {
        "scorers": SCORERS, "encoders": ENCODERS, "targets": TARGETS, "proposers": PROPOSERS, "painters": PAINTERS,
        "metrics": METRICS, "vocabularies": VOCABULARIES, "editors": EDITORS,
    }  # fmt: skip
