"""The picture of a neuron's pairs: the images of the run, the right way up and in rank order."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from drawn import drawn_run
from PIL import Image

from contralens.errors import InputError, MissingPackage
from contralens.evaluation.plots import plot_pairs


def test_pairs_show_the_exemplars_above_their_contrasts() -> None:
    pytest.importorskip("matplotlib", reason="needs the extra plots")
    run = drawn_run()
    neuron = next(row["neuron"] for row in run.rows() if row["label"])
    found = run.neuron(neuron)
    figure = plot_pairs(run, neuron, pairs=3)
    assert found["name"] in figure.get_suptitle()
    assert found["labels"][run.manifest["primary"]]["label"] in figure.get_suptitle()
    drawn = [axis for axis in figure.axes if axis.images]
    first = found["exemplars"][0]
    picture = np.asarray(Image.open(io.BytesIO(run.thumbnail(first["positive"]) or b"")).convert("RGB"))
    assert np.array_equal(drawn[0].images[0].get_array(), picture)
    assert drawn[0].get_title() == f"{first['activation']:.3g}"


def test_pairs_of_an_unknown_neuron() -> None:
    with pytest.raises(InputError, match="no neuron"):
        plot_pairs(drawn_run(), "nobody")


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackage, match=r"contralens\[plots\]"):
        plot_pairs(drawn_run(), 0)
