"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line has it: threads that wait burn no core

import pytest
from coloured import ColourEncoder, ColourNet, draw_discs


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("CONTRALENS_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 42 pictures in class sub-folders; copy it before changing it."""
    return draw_discs(tmp_path_factory.mktemp("discs"))


@pytest.fixture
def colour_net() -> ColourNet:
    return ColourNet()


@pytest.fixture
def colour_encoder() -> ColourEncoder:
    return ColourEncoder()
