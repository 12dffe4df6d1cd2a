"""Describe-and-Dissect's choice with images made for the candidates, in a network whose neurons are colours."""

from __future__ import annotations

import numpy as np
import pytest
from colour_case import COLOURS, ColourEncoder, colour_target
from PIL import Image, ImageColor

from contralens.errors import InputError
from contralens.evaluation.image_choice import choose_by_images


class Brush:
    """Paints the colour that the prompt ends in, with noise; "blank" for every seed of black."""

    name, fingerprint = "brush", "b" * 32

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def paint(self, prompt, seeds):
        self.prompts.append(prompt)
        colour = prompt.split()[-1]
        if colour == "black":
            return ["blank"] * len(seeds)
        made = []
        for seed in seeds:
            noise = np.random.default_rng(seed).normal(0, 20, (12, 12, 3))
            made.append(Image.fromarray(np.clip(np.array(ImageColor.getrgb(colour)) + noise, 0, 255).astype(np.uint8)))
        return made


@pytest.fixture
def opened(case):
    return {
        "target": colour_target(), "encoder": ColourEncoder(), "source": case / "probe", "cache": case / "cache",
    }  # fmt: skip


def test_painted_images_choose_the_colour_of_each_neuron(run, opened) -> None:
    brush = Brush()
    found = choose_by_images(run, painter=brush, candidates=4, count=6, **opened)
    assert all(prompt.startswith("One realistic image of ") for prompt in brush.prompts)
    labeled = {row["neuron"]: row for row in run.rows(run.manifest["primary"]) if row["label"]}
    assert [one.neuron for one in found] == list(labeled)
    for one in found:
        assert list(one.scores) == list(labeled[one.neuron]["concepts"])[:4]
        assert one.before == labeled[one.neuron]["label"]
        assert one.label == max(one.scores, key=one.scores.get)
        assert all(count == (0 if label == "black" else 6) for label, count in one.images.items())
        if COLOURS[one.neuron] in one.scores and COLOURS[one.neuron] != "black":
            assert one.label == COLOURS[one.neuron]


def test_a_folder_of_images_does_the_same(run, opened, case) -> None:
    from colour_case import paint_folder

    folder = paint_folder(case / "own", 48, seed=9, nested=True)
    found = choose_by_images(run, images=folder, candidates=3, neurons=[0, 1, 2], scorer="semanticlens", **opened)
    assert [one.label for one in found] == list(COLOURS[:3])
    assert found[0].images[found[0].label] == 6


def test_wrong_arguments_are_named(run, opened, case) -> None:
    with pytest.raises(InputError, match="either `painter`"):
        choose_by_images(run, **opened)
    with pytest.raises(InputError, match="`candidates`"):
        choose_by_images(run, painter=Brush(), candidates=1, **opened)
    with pytest.raises(InputError, match="no neuron labeled by csp"):
        choose_by_images(run, painter=Brush(), neurons=[8], scorer="csp", **opened)
