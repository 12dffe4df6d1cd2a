"""The rendered world: pictures, captions, shipped networks and their truth."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from contralens.bench import training, world_images
from contralens.errors import InputError
from contralens.types import Encoder, Target
from contralens.world import captions, encoder, planted, truth
from contralens.world.render import SIZE, render
from contralens.world.scenes import FACTORS, Scenes, Tie, level, sample_scenes
from contralens.world.targets import WORLDS, build, class_names, load_target, world


def test_same_seed_same_pictures_in_any_block() -> None:
    scenes = sample_scenes(150, seed=3)
    pictures = render(scenes)
    assert pictures.shape == (150, SIZE, SIZE, 3)
    assert pictures.dtype == np.uint8
    assert np.array_equal(pictures, render(sample_scenes(150, seed=3)))
    assert np.array_equal(pictures[70:73], render(scenes[70:73]))
    assert len({p.tobytes() for p in pictures}) == 150
    assert not np.array_equal(pictures, render(sample_scenes(150, seed=4)))


def test_every_level_of_every_factor_shows() -> None:
    scenes = sample_scenes(20, seed=8)
    for factor, names in FACTORS.items():
        drawn = np.stack([render(scenes.set(factor, i)) for i in range(len(names))]).astype(int)
        for a in range(len(names)):
            for b in range(a):
                assert np.abs(drawn[a] - drawn[b]).max((1, 2, 3)).min() > 20, (factor, names[a], names[b])


def test_an_intervention_changes_only_what_it_should() -> None:
    scenes = sample_scenes(40, seed=1).set("count", 0)
    changed = scenes.set("colour", level("colour", "blue"))
    assert np.array_equal(changed.nuisances, scenes.nuisances)
    moved = [i for i, factor in enumerate(FACTORS) if not np.array_equal(changed.levels[:, i], scenes.levels[:, i])]
    assert moved == [list(FACTORS).index("colour")]
    before, after = render(scenes).astype(int), render(changed).astype(int)
    touched = (before != after).any(-1)
    # A surface repaints no more than the object itself: the same pixels whatever two colours are exchanged.
    assert touched.mean((1, 2)).max() < 0.2
    ground = render(scenes.set("background", 0)) != render(scenes.set("background", 5))
    inside = ~ground.any(-1)
    assert (touched & inside).sum() > 0.5 * inside.sum()
    # A scene set to its own level is the same picture.
    for i in range(3):
        own = scenes[[i]]
        assert np.array_equal(render(own.set("shape", int(own.of("shape")[0]))), render(own))


def test_ties_come_as_often_as_asked() -> None:
    tie = Tie("pattern", "colour", (0, 1, 2, 3, 4, 5), 0.9)
    scenes, free = sample_scenes(6000, 2, [tie]), sample_scenes(6000, 2)
    together = float(np.mean(scenes.of("colour") == scenes.of("pattern")))
    assert together == pytest.approx(0.9 + 0.1 / 8, abs=0.01)
    assert np.array_equal(scenes.nuisances, free.nuisances)
    assert np.array_equal(scenes.of("shape"), free.of("shape"))
    with pytest.raises(InputError, match="needs one counterpart for each"):
        sample_scenes(5, 0, [Tie("pattern", "colour", (0, 1), 0.9)])


def test_unknown_factors_and_levels_are_named_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean colour"):
        level("color", "red")
    with pytest.raises(InputError, match="did you mean striped"):
        level("pattern", "stripes")
    with pytest.raises(InputError, match="unknown world '4'"):
        world("4")


def test_captions_are_closed_and_true() -> None:
    scenes = sample_scenes(3000, seed=5)
    texts = captions.captions(scenes, seed=5)
    assert texts == captions.captions(scenes, seed=5)
    assert {w for text in texts for w in captions.words(text)} <= set(captions.VOCABULARY)
    assert max(len(captions.words(text)) for text in texts) <= encoder.LENGTH
    for row, text in zip(scenes.levels, texts, strict=True):
        for factor, number in captions.meaning(text):
            assert row[list(FACTORS).index(factor)] == number, text
    spoken = np.array([len(captions.meaning(text)) for text in texts])
    assert spoken.min() == 1
    assert spoken.max() == 8


def test_every_concept_means_its_own_levels_in_known_words() -> None:
    found = captions.concepts(2)
    assert len({c.text for c in found}) == len(found)
    for concept in found:
        assert captions.meaning(concept.text) == set(concept.levels)
        assert set(captions.words(concept.text)) <= set(captions.VOCABULARY)
    spellings = [w for levels in captions.SYNONYMS.values() for words in levels for w in words]
    assert len(spellings) == len(set(spellings))
    assert not set(spellings) & set(captions.FILLERS)


def test_shipped_weights_are_small_and_half_precision() -> None:
    from safetensors.torch import load_file

    files = sorted(encoder.WEIGHTS.glob("*.safetensors"))
    assert [f.stem for f in files] == ["encoder-2", "encoder", "target-1", "target-2", "target-3"]
    assert sum(f.stat().st_size for f in files) <= 6_000_000
    assert {t.dtype for f in files for t in load_file(f).values()} == {torch.float16}


def zero_shot_of(which: str) -> dict[str, float]:
    """Zero-shot accuracy of the shipped encoder on fresh scenes: of "seen" combinations, or of those never seen."""
    scenes = sample_scenes(1600, seed=91)
    s, c, p, b = (scenes.of(f) for f in ("shape", "colour", "pattern", "background"))
    model = encoder.load_encoder().model
    assert isinstance(model, encoder.DualEncoder)
    if which == "seen":
        return training.zero_shot(model, scenes[~encoder.held_out(scenes)])
    first = training.zero_shot(model, scenes[(3 * s + c) % 8 == 0])
    second = training.zero_shot(model, scenes[(p + b) % 6 == 0])
    return {**{f: first[f] for f in ("shape", "colour")}, **{f: second[f] for f in ("pattern", "background")}}


@pytest.mark.parametrize("which", ["seen", "held-out"])
def test_the_card_of_the_encoder_is_true(which: str) -> None:
    card = json.loads((encoder.WEIGHTS / "encoder.json").read_text())[f"{which} combinations"]
    for factor, right in zero_shot_of(which).items():
        assert right == pytest.approx(card[factor], abs=0.08), factor


def test_encoder_names_combinations_like_those_it_saw() -> None:
    right = zero_shot_of("seen")
    assert right.pop("shape") > 0.7
    assert right.pop("pattern") > 0.8
    assert min(right.values()) > 0.95


def test_version_1_does_not_name_combinations_that_it_never_saw() -> None:
    """It has learnt that some pairs of pattern and background never occur; version 2 has not (test_world_v2.py)."""
    right = zero_shot_of("held-out")
    assert right["pattern"] < 0.2
    assert right["shape"] < 0.6


def test_encoder_is_an_encoder() -> None:
    model = encoder.load_encoder()
    assert isinstance(model, Encoder)
    assert model is encoder.load_encoder()
    assert len(model.fingerprint) == 32
    picture = Image.fromarray(render(sample_scenes(1, 0))[0])
    batch = torch.stack([model.preprocess(picture), model.preprocess(picture.resize((300, 200)))])
    rows, texts = model(batch), model.texts(["striped", "a photo of red things"])
    assert rows.shape == texts.shape == (2, model.width)
    assert torch.allclose(rows.norm(dim=1), torch.ones(2), atol=1e-5)
    assert torch.allclose(texts.norm(dim=1), torch.ones(2), atol=1e-5)
    assert not rows.requires_grad
    # Texts do not depend on the batch that they are in.
    assert torch.allclose(model.texts(["striped"])[0], texts[0], atol=1e-5)


def test_unknown_words_are_reported() -> None:
    model = encoder.load_encoder()
    with pytest.warns(UserWarning, match="does not know 1 words .elephant"):
        model.texts(["striped elephant"])
    with pytest.raises(InputError, match="did you mean striped"):
        model.texts(["red", "stripes"])
    with pytest.raises(InputError, match="no word"):
        model.texts([""])
    assert model.texts([]).shape == (0, model.width)


@pytest.mark.parametrize("index", WORLDS)
def test_targets_classify_their_tied_world(index: int) -> None:
    module, _preprocess, layer, classes = build(str(index))
    assert classes == class_names(index)
    assert layer in dict(module.named_modules())
    scenes = world_images.probe_scenes(index, 300)
    guess = training.rows_of(module, render(scenes)).argmax(1).numpy()
    assert np.mean(guess == scenes.of(world(index).true)) > 0.85
    shipped = truth.load_truth(index)
    assert len(shipped) == 64
    assert len(truth.load_truth(index, "head")) == len(classes)
    assert truth.known(shipped).sum() >= 20


def test_shipped_truth_is_what_a_new_measurement_finds() -> None:
    effects = truth.measure_target(load_target(2), truth.base_scenes(80, seed=11))[truth.LAYER]
    stored = json.loads((encoder.WEIGHTS / "target-2.json").read_text())["effects"][truth.LAYER]
    stored = np.array([[np.nan if x is None else x for x in row] for row in stored])
    both = np.isfinite(effects).all(1) & np.isfinite(stored).all(1)
    assert both.sum() >= 40
    assert np.corrcoef(effects[both].ravel(), stored[both].ravel())[0, 1] > 0.97


def test_truth_rule_on_made_up_neurons() -> None:
    base = truth.base_scenes(120)

    def activate(scenes: Scenes) -> np.ndarray:
        striped, red = scenes.of("pattern") == 1, scenes.of("colour") == 0
        large, noise = scenes.of("size") == 1, scenes.nuisances[:, 27]
        columns = [striped + 0.2 * red, striped * 1.0 + red, 0 * noise, noise, large - 0.3 * red]
        return np.stack(columns, 1).astype(np.float32)

    found = [truth.truth_of(row) for row in truth.measure_effects(activate, base)]
    assert found[0].levels == (("pattern", 1),)
    assert set(found[1].levels) == {("pattern", 1), ("colour", 0)}
    assert [t.kind for t in found] == ["known", "known", "dead", "mixed", "known"]
    assert found[4].levels == (("size", 1),)


@pytest.mark.parametrize("index", WORLDS)
def test_planted_neurons_follow_their_rule(index: int) -> None:
    def activate(scenes: Scenes) -> np.ndarray:
        return planted.planted_activations(scenes, index)[0]

    _, names, stated = planted.planted_activations(sample_scenes(2, 0), index)
    effects = truth.measure_effects(activate, truth.base_scenes(400))
    for name, row, known in zip(names, effects, stated, strict=True):
        assert truth.truth_of(row).levels == known.levels, name
    scenes = world_images.probe_scenes(index)
    a, names, stated = planted.planted_activations(scenes, index)
    top = np.argsort(-a, axis=0, kind="stable")[:30].T
    of_true = np.array([t.levels[0][0] == world(index).true for t in stated])
    assert world_images.dominated(top, scenes, stated)[of_true].mean() > 0.9


def test_planted_target_looks_pictures_up() -> None:
    scenes = world_images.probe_scenes(1, 12)
    pictures = render(scenes)
    target = planted.PlantedTarget(1, scenes, pictures)
    assert isinstance(target, Target)
    order = [7, 0, 11]
    batch = torch.stack([target.preprocess(Image.fromarray(pictures[i])) for i in order])
    expected = planted.planted_activations(scenes, 1)[0][order]
    assert np.array_equal(target(batch).numpy(), expected)
    assert len(target.neurons) == target.width == expected.shape[1]
    with pytest.raises(InputError, match="another picture"):
        target.preprocess(Image.new("RGB", (96, 96)))


def test_world_on_disk_is_what_was_rendered(tmp_path) -> None:  # type: ignore[no-untyped-def]
    scenes, pictures = world_images.write_world(tmp_path, 3, n=20)
    table = pq.read_table(tmp_path / "scenes.parquet").to_pydict()
    levels = np.stack([[names.index(x) for x in table[factor]] for factor, names in FACTORS.items()], axis=1)
    back = Scenes(levels, np.array(table["nuisances"], np.float32))
    assert np.array_equal(back.levels, scenes.levels)
    assert np.array_equal(render(back), pictures)
    files = sorted((tmp_path / "images").iterdir())
    assert len(files) == 20
    assert np.array_equal(np.asarray(Image.open(files[13])), pictures[13])
    assert json.loads((tmp_path / "world.json").read_text())["true"] == "colour"
    assert (tmp_path / "vocabulary.txt").read_text().split("\n")[:2] == ["circle", "square"]


def test_wilson_covers_the_edges() -> None:
    assert world_images.wilson(0, 0) == (0.0, 1.0)
    low, high = world_images.wilson(0, 20)
    assert low == 0.0
    assert 0.1 < high < 0.2
    assert world_images.wilson(20, 20)[1] == pytest.approx(1.0)
