"""An artefact planted into the rendered world: its dial, its pictures, its truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from contralens import concept_list, labeled_images
from contralens.auditing.alignment import embed_concepts
from contralens.bench.training import tune_target
from contralens.errors import InputError
from contralens.world.artefacts import ARTEFACTS, CLASSES, Plant, artefact_neurons, artefact_share
from contralens.world.encoder import load_encoder, preprocess, to_tensor
from contralens.world.scenes import column, level
from contralens.world.targets import LAYER
from contralens.world.truth import target_activations


@pytest.mark.parametrize("artefact", ARTEFACTS)
def test_the_dial(artefact: str) -> None:
    plant = Plant(artefact, "heart", strength=0.8, leak=0.1)
    drawn = plant.scenes(3000, seed=4)
    assert len(drawn) == 3000
    assert abs(drawn.shown[drawn.tied].mean() - 0.8) < 0.06
    assert abs(drawn.shown[~drawn.tied].mean() - 0.1) < 0.03
    factor, name = ARTEFACTS[artefact].level
    assert not (drawn.scenes.of(factor) == level(factor, name)).any()
    assert (drawn.scenes.levels[:, column("count")] == 0).all()
    again = plant.scenes(3000, seed=4)
    assert np.array_equal(again.shown, drawn.shown)
    assert np.array_equal(again.scenes.levels, drawn.scenes.levels)
    untied = plant.untied(3000, seed=4)
    assert abs(untied.shown[untied.tied].mean() - untied.shown[~untied.tied].mean()) < 0.1
    assert set(untied.groups) == {
        f"{who} {how} {artefact}" for who in ("heart", "others") for how in ("with", "without")
    }


def test_showing_the_patch_changes_a_corner_and_nothing_else() -> None:
    drawn = Plant("patch").scenes(40, seed=1)
    on, off = drawn.all(True).pictures().astype(int), drawn.all(False).pictures().astype(int)
    differs = (on != off).any(3)
    share = differs.mean((1, 2))
    assert (share > 0.01).all()
    assert (share < 0.04).all()
    assert not differs[:, 30:66].any()
    assert not differs[:, :, 30:66].any()
    mixed = drawn.pictures()
    assert np.array_equal(mixed, np.where(drawn.shown[:, None, None, None], on, off))


def test_written_pictures_are_a_labeled_set(tmp_path: Path) -> None:
    drawn = Plant("brick", strength=0.9).untied(30, seed=2)
    found = labeled_images(drawn.write(tmp_path))
    assert [found.classes[t] for t in found.targets] == [CLASSES[c] for c in drawn.classes]
    assert found.groups["group"].tolist() == drawn.groups
    assert found.groups["brick"].tolist() == ["yes" if s else "no" for s in drawn.shown]
    assert torch.equal(preprocess(found.images.load(7)), to_tensor(drawn.pictures()[7:8])[0])


@pytest.mark.parametrize("artefact", ARTEFACTS)
def test_the_encoder_reads_the_concept_list_and_sees_the_artefact(artefact: str) -> None:
    plant = Plant(artefact)
    listed = concept_list(plant.concepts())
    assert plant.concept in [c.name for c in listed.side("spurious")]
    encoder = load_encoder()
    words = embed_concepts(encoder, listed)
    assert not any("refuses" in note and "wordings" in note for note in words.notes)
    drawn = plant.scenes(200, seed=3)
    said = encoder.texts([plant.concept])[0]
    on, off = (encoder(to_tensor(drawn.all(shown).pictures())) @ said for shown in (True, False))
    assert float((on > off).float().mean()) > 0.75


def test_a_tuned_network_leans_on_the_artefact_and_the_truth_says_by_which_neurons() -> None:
    plant = Plant("brick", strength=0.9)
    drawn = plant.scenes(1500, seed=5)
    net = tune_target(drawn.pictures(), drawn.classes, CLASSES, epochs=3, log=lambda line: None)
    share = artefact_share(net, plant, images=150)
    true = artefact_neurons(share)
    assert 3 <= true.sum() <= 40
    assert (share <= 1).all()

    test = plant.untied(500, seed=6)
    rows = torch.from_numpy(target_activations(net, test.pictures())[LAYER])
    others = test.shown & ~test.tied
    with torch.no_grad():
        before, after = (
            (net.head(kept).argmax(1).numpy() == test.classes)[others].mean()
            for kept in (rows, rows * torch.from_numpy(~true).float())
        )
    assert after > before + 0.1


def test_mistakes_are_told() -> None:
    with pytest.raises(InputError, match="did you mean patch"):
        Plant("patsh")
    with pytest.raises(InputError, match="unknown shape 'stars'"):
        Plant("patch", "stars")
    with pytest.raises(InputError, match="between 0 and 1"):
        Plant(strength=2.0)
