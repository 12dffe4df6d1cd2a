"""The benchmark of meanings: outcomes recounted, and its command."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from contralens.bench.meanings_bench import MEASURES, meanings_bench
from contralens.cli import app
from contralens.errors import InputError


@pytest.fixture(scope="module")
def small():
    return meanings_bench(["csp"], worlds=[5], seeds=[5], neurons=2, images=400)


def test_outcomes_belong_together(small) -> None:
    own = small.outcomes["csp"]
    assert own["meanings"].tolist() == [1, 1, 2, 2, 3, 3, 4, 4]
    assert (own["right_count"] + own["fewer"] + own["more"] == 1).all()
    assert ((own["found"] == own["meanings"]) == (own["right_count"] == 1)).all()
    np.testing.assert_allclose(own["named"] * own["meanings"], own["true_labels"] * own["found"])
    assert (own["one_label"] * own["meanings"] <= 1).all()
    assert own["named"].mean() > own["one_label"].mean() > 0.2


def test_the_command(small) -> None:
    sizes = ["--world", "5", "--seed", "5", "--neurons", "2", "--images", "400"]
    options = ["bench", "meanings", *sizes, "--scorer", "csp"]
    found = json.loads(CliRunner().invoke(app, [*options, "--json"]).stdout)
    assert found == json.loads(json.dumps(small.to_dict()).replace("NaN", "null"))
    shown = CliRunner().invoke(app, options)
    assert shown.exit_code == 0
    assert all(measure in shown.stdout for measure in MEASURES)


def test_wrong_arguments() -> None:
    with pytest.raises(InputError, match="unknown scorer"):
        meanings_bench(["cps"])
    with pytest.raises(InputError, match="`neurons`"):
        meanings_bench(neurons=0)
