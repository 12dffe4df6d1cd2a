"""The demo looks at each picture once, for planted and trained neurons together."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from contralens.collecting.preparing import Preparing, Wanted
from contralens.demo import SCORERS, demo


def test_each_picture_is_prepared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[int] = Counter()
    own = Preparing.__call__

    def counting(self: Preparing, wanted: Wanted) -> object:
        seen[wanted.image] += 1
        return own(self, wanted)

    monkeypatch.setattr(Preparing, "__call__", counting)
    runs, judged = demo(tmp_path / "demo", worlds=[1], images=150, cache=tmp_path / "cache")
    assert [seen[i] for i in range(150)] == [1] * 150
    assert [run.manifest["target"]["name"] for run in runs] == ["world:1:planted", "world:1"]
    assert {j.scorer for j in judged} == set(SCORERS)
    assert {run.manifest["images"]["source"] for run in runs} == {str(tmp_path / "demo" / "world-1" / "images")}
