"""One small run, shared by the tests of evaluation."""

from __future__ import annotations

import pytest
from colour_case import COLOURS, ColourEncoder, colour_target, paint_folder

from contralens import label


@pytest.fixture(scope="session")
def case(tmp_path_factory):
    """Folders of images, the network and the settings of one run."""
    root = tmp_path_factory.mktemp("evaluate")
    paint_folder(root / "probe", 160, 0)
    paint_folder(root / "other", 120, 1)
    return root


@pytest.fixture(scope="session")
def run(case):
    """A run of all of the layer's neurons, saved."""
    return label(
        colour_target(), case / "probe", ColourEncoder(), list(COLOURS), k=10,
        out=case / "run", cache=case / "cache", scorers=["semanticlens", "csp:gamma=0.5", "csp"],
    )  # fmt: skip


@pytest.fixture
def settings(case):
    """What every evaluation of the run needs here."""
    return {
        "judge": ColourEncoder(1.5), "heldout": case / "other", "target": colour_target(), "encoder": ColourEncoder(),
        "source": case / "probe", "cache": case / "cache", "save": False,
    }  # fmt: skip


@pytest.fixture(scope="session")
def world_run(tmp_path_factory):
    """A run of the rendered world in its folder, beside `w` (images, scenes.parquet) and `cache`."""
    from contralens.bench.world_images import write_world

    root = tmp_path_factory.mktemp("world")
    write_world(root / "w", 1, 200)
    return label(
        "world:1", root / "w" / "images", "world", root / "w" / "vocabulary.txt", layer="block3", k=8,
        scorers=["csp"], out=root / "run", cache=root / "cache", confidence=False,
    )  # fmt: skip
