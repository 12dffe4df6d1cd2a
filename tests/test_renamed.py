"""Old names of modules work for one release, with a warning."""

from __future__ import annotations

import importlib
import sys

import processes
import pytest

from contralens.renamed import MOVED


def test_each_old_name_is_the_module_that_it_has_become() -> None:
    for old, new in MOVED.items():
        sys.modules.pop(f"contralens.{old}", None)
        with pytest.warns(FutureWarning, match=rf"contralens\.{old} is contralens\.{new} now"):
            found = importlib.import_module(f"contralens.{old}")
        assert found is importlib.import_module(f"contralens.{new}")
        assert found.__name__ == f"contralens.{new}"


def test_from_imports_work_and_what_never_was_is_missed() -> None:
    code = (
        "from contralens.models.encoders import ENCODERS; from contralens.data import labeled; import contralens.oops"
    )
    done = processes.run(processes.code, code)
    assert "contralens.models.encoders is contralens.encoders.registry now" in done.stderr
    assert done.stderr.strip().endswith("No module named 'contralens.oops'")
