"""A small finished run for the tests of proposals."""

from __future__ import annotations

import pytest
from propose_run import PixelEncoder, build_run

from contralens.data.runs import Run


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of three neurons with its images and cache beside it."""
    folder = tmp_path_factory.mktemp("small")
    return build_run(folder, cache=folder / "cache")


@pytest.fixture
def encoder() -> PixelEncoder:
    return PixelEncoder()
