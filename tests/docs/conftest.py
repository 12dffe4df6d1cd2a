"""What the tests of the documentation share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all pages, so that pictures that several of them render are computed once."""
    return tmp_path_factory.mktemp("cache")
