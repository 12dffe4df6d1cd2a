"""Version 2 of the rendered world: combinations that the encoder never saw, nuisances, the frozen settings."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import itertools
import json

import numpy as np
import pytest
import torch
import train_encoder_2

import contralens
from contralens.bench.versions import version
from contralens.errors import InputError
from contralens.world import combinations, disturbances, encoder, foreign
from contralens.world import render as plain
from contralens.world.captions import meaning, one_factor_captions
from contralens.world.disturbances import Disturbances
from contralens.world.scenes import FACTORS, NAMES, Scenes, level, sample_scenes

ONE_EACH = [
    Disturbances(texture=1.0), Disturbances(occlusion=1.0), Disturbances(objects=1.0), Disturbances(blur=1.0),
]  # fmt: skip


@pytest.fixture(scope="module")
def held() -> dict[str, dict[str, float]]:
    """Zero-shot accuracy on fresh scenes of held-out combinations, other than those of the card."""
    model = encoder.load_encoder(2).model
    assert isinstance(model, encoder.DualEncoder)
    return train_encoder_2.held_out_accuracy(model, 60, seed=4321)


def test_the_card_of_version_2_is_true(held) -> None:
    card = json.loads((encoder.WEIGHTS / "encoder-2.json").read_text())
    every = [share for row in card["held-out combinations"].values() for share in row.values()]
    assert card["held-out least"] == min(every)
    assert card["held-out mean"] == pytest.approx(np.mean(every), abs=1e-3)
    for factor, row in held.items():
        assert set(row) == set(NAMES) - {factor}
        for other, right in row.items():
            assert right == pytest.approx(card["held-out combinations"][factor][other], abs=0.17), (factor, other)


HARD = {("pattern", "size"): 0.72, ("pattern", "shape"): 0.75}
"""Large split objects, striped rings: so near to .85 that 60 scenes do not settle it."""


def test_combinations_that_it_never_saw_are_named(held) -> None:
    every = np.array([right for row in held.values() for right in row.values()])
    assert every.mean() > 0.98
    for factor, row in held.items():
        assert np.mean(list(row.values())) >= 0.85, factor
        for other, right in row.items():
            assert right >= HARD.get((factor, other), 0.85), (factor, other)
    # The pairs that version 1 was asked about (.03 and .41 there), with squares of the same size.
    assert held["pattern"]["background"] > 0.88
    assert held["shape"]["colour"] > 0.95


@pytest.mark.parametrize("pair", [("pattern", "size"), ("shape", "pattern")], ids=" ".join)
def test_the_hardest_combinations_are_named_on_a_thousand_scenes(pair: tuple[str, str]) -> None:
    model, scenes = encoder.load_encoder(2).model, combinations.held_out_scenes(pair, 1000, seed=9100)
    assert isinstance(model, encoder.DualEncoder)
    guesses = train_encoder_2.zero_shot_guesses(model, scenes)[:, NAMES.index("pattern")]
    assert (guesses == scenes.of("pattern")).mean() >= 0.85


def test_held_out_combinations_follow_their_rule() -> None:
    read, table = combinations.frozen(), combinations.held_out_table()
    assert set(read["held_out"]) == {" ".join(pair) for pair in combinations.PAIRS}
    squares = {"shape colour": 8, "pattern background": 6}
    for pair, held_out in read["held_out"].items():
        assert len(held_out) == squares.get(pair, 1)
        for side in (0, 1):
            assert len({names[side] for names in held_out}) == len(held_out), "one to one"
    number = {(f, i): combinations.OFFSETS[NAMES.index(f)] + i for f in NAMES for i in range(len(FACTORS[f]))}
    for of in version(2).worlds.values():
        for one, tied in of.partner_levels.items():
            assert not any(table[number[one], number[other]] for other in tied), (of.index, one)
    assert np.array_equal(table, table.T)


def test_training_scenes_are_uniform_over_what_is_left() -> None:
    scenes = combinations.seen_scenes(20_000, seed=3)
    own, table = combinations.numbered(scenes.levels), combinations.held_out_table()
    for a in range(8):
        for b in range(a):
            assert not table[own[:, a], own[:, b]].any()
    can = combinations.possible(scenes.levels)
    assert np.take_along_axis(can, own, 1).all()
    # What `possible` says is what replacing the level does.
    for factor in ("pattern", "size"):
        for i in range(len(FACTORS[factor])):
            swapped = combinations.seen(scenes[:300].set(factor, i))
            assert np.array_equal(swapped, can[:300, combinations.OFFSETS[NAMES.index(factor)] + i])
    # Given the rest, a factor is uniform over its possible levels: large as often as small where both may be.
    size = can[:, combinations.OFFSETS[NAMES.index("size")] :][:, :2].all(1)
    assert size.sum() > 500
    assert scenes.of("size")[size].mean() == pytest.approx(0.5, abs=0.04)
    for pair in combinations.PAIRS:
        assert not combinations.seen(combinations.held_out_scenes(pair, 40, seed=1)).any()
    with pytest.raises(InputError, match="two factors in the order"):
        combinations.held_out_scenes(("colour", "shape"), 4, seed=1)


def _of(factor: str, number: int, n: int = 400) -> Scenes:
    scenes = sample_scenes(n, seed=5)
    scenes.levels[:, NAMES.index(factor)] = number
    return scenes


def test_training_scenes_show_foreign_levels_and_no_held_out_combination() -> None:
    scenes = combinations.training_scenes(6000, seed=2)
    strange = scenes.levels >= np.array(combinations.SIZES)
    own, table = combinations.numbered(scenes.levels), combinations.held_out_table()
    for a in range(8):
        for b in range(a):
            both = ~strange[:, a] & ~strange[:, b]
            assert both.any()
            assert not table[own[both, a], own[both, b]].any()
    shares = dict(zip(NAMES, strange.mean(0), strict=True))
    assert shares["shape"] == pytest.approx(shares["size"] / 2, abs=0.03)
    assert shares["size"] == pytest.approx(0.8 * 0.375, abs=0.03)
    for factor, n, known in zip(NAMES, foreign.SIZES.values(), combinations.SIZES, strict=True):
        found = scenes.of(factor)[strange[:, NAMES.index(factor)]]
        assert set(found) == set(range(known, known + n)), factor
    # Foreign levels exclude nothing: a striped thing on a foreign ground could be in any light but the held-out one.
    lone = Scenes(np.where(np.arange(8) == 3, scenes.levels[:1], combinations.SIZES), scenes.nuisances[:1])
    assert combinations.possible(np.full((1, 8), combinations.SIZES)).all()
    assert combinations.seen(lone).all()


def test_foreign_levels_are_unlike_every_level() -> None:
    radius = [plain.radius_of(_of("size", i)) for i in range(3)]
    assert radius[0].max() * 1.03 < radius[2].min() * 0.97
    assert radius[2].max() * 1.03 < radius[1].min() * 0.97
    white = np.full((400, plain.SIZE + 2 * plain.MARGIN, plain.SIZE + 2 * plain.MARGIN, 3), 0.5, np.float32)
    light = [plain.lit(white.copy(), _of("lighting", i)).mean((1, 2, 3)) for i in range(3)]
    assert light[1].max() < light[2].min()
    assert light[2].max() < light[0].min()
    places = [plain.centres(_of("position", i).set("count", 0), 0)[0] for i in range(5)]
    order = [places[i] for i in (0, 3, 1, 4, 2)]
    assert all(one.max() < two.min() for one, two in itertools.pairwise(order))
    first, second = foreign.tones(plain.COLOURS)
    assert len(first) == len(second) == foreign.COLOURS
    assert np.abs(first[:, None] - plain.COLOURS).sum(2).min() > 0.6, "of 3"
    known, strange = plain.textures().mean((1, 2)), foreign.textures(plain.TILE, plain.SIZE).mean((1, 2))
    assert np.abs(strange[:, None] - known).sum(2).min() > 0.35


@pytest.mark.parametrize("factor", NAMES)
def test_each_foreign_level_is_drawn_as_a_picture_of_its_own(factor: str) -> None:
    base = sample_scenes(6, seed=9)
    drawn = []
    for number in range(combinations.SIZES[NAMES.index(factor)] + foreign.SIZES[factor]):
        scenes = Scenes(base.levels.copy(), base.nuisances)
        scenes.levels[:, NAMES.index(factor)] = number
        drawn.append(plain.render(scenes))
    for one, two in itertools.combinations(drawn, 2):
        assert (one != two).any((1, 2, 3)).all()


def test_corner_objects_in_training_make_no_held_out_combination() -> None:
    scenes = combinations.training_scenes(150, seed=4)
    alone = disturbances.others(scenes, disturbances.numbers(scenes))
    assert (alone.of("shape") != scenes.of("shape")).all()
    assert (alone.of("size") == 0).all()
    table, own = combinations.held_out_table(), combinations.numbered(alone.levels)
    parts = [NAMES.index(f) for f in ("shape", "colour", "pattern", "background", "size", "lighting")]
    known = alone.levels < np.array(combinations.SIZES)
    bad = np.zeros(150, bool)
    for a, b in itertools.combinations(parts, 2):
        both = known[:, a] & known[:, b]
        bad[both] |= table[own[both, a], own[both, b]]
    assert 0.3 < bad.mean() < 0.9
    shown = train_encoder_2._rough(scenes)
    without = disturbances.render(scenes, dataclasses.replace(train_encoder_2.ROUGH, objects=0.0))
    differs = (shown != without).any((1, 2, 3))
    assert not differs[bad].any()
    assert differs[~bad].mean() == pytest.approx(3 * train_encoder_2.ROUGH.objects, abs=0.2)


def test_the_loss_asks_nothing_about_foreign_and_excluded_levels() -> None:
    logits = torch.randn(2, 38, generator=torch.manual_seed(1)).requires_grad_()
    levels, can = torch.tensor([list(combinations.SIZES), [0] * 8]), torch.ones(2, 38, dtype=torch.bool)
    levels[0, 4] = 2  # a size in between; light in between
    can[1, 37] = False  # dim is excluded: nothing is asked about bright
    losses = train_encoder_2._level_losses(logits, levels, can)
    losses.sum().backward()
    assert logits.grad is not None
    size, light = slice(28, 30), slice(36, 38)
    assert [combinations.OFFSETS[4], combinations.OFFSETS[7]] == [28, 36]
    nothing = torch.ones(38, dtype=torch.bool)
    nothing[size] = nothing[light] = False
    assert not logits.grad[0, nothing].any(), "foreign levels"
    assert not logits.grad[1, light].any(), "one possible level"
    halves = logits.detach()[0, size].softmax(0) - 0.5
    assert torch.allclose(logits.grad[0, size], train_encoder_2.BETWEEN * halves, atol=1e-6)
    pattern = slice(16, 22)
    torch.testing.assert_close(
        losses[2].detach(), torch.nn.functional.cross_entropy(logits.detach()[1:, pattern], torch.zeros(1).long())
    )


def _logits(seed: int, n: int) -> torch.Tensor:
    return torch.randn(n, 38, generator=torch.Generator().manual_seed(seed))


def test_what_lies_between_two_levels_is_half_each() -> None:
    scenes = combinations.training_scenes(300, seed=8)
    levels, logits = torch.from_numpy(scenes.levels), _logits(2, 300)
    can = torch.from_numpy(combinations.possible(scenes.levels))
    expected = 0.0
    for name, number, both in (
        ("size", 2, (0, 1)),
        ("position", 3, (0, 1)),
        ("position", 4, (1, 2)),
        ("lighting", 2, (0, 1)),
    ):
        at, n = combinations.OFFSETS[NAMES.index(name)], combinations.SIZES[NAMES.index(name)]
        total = weights = 0.0
        for i in np.flatnonzero(scenes.of(name) == number):
            shares = logits[i, at : at + n].double().softmax(0).log()
            weight = 1.0 if can[i, at + both[0]] and can[i, at + both[1]] else 4.0
            total -= weight * float(shares[both[0]] + shares[both[1]]) / 2
            weights += weight
        expected += total / weights / 8
    assert float(train_encoder_2._between(logits, levels, can)) == pytest.approx(expected, rel=1e-4)


def test_apart_is_nothing_where_factors_speak_for_themselves_alone() -> None:
    scenes = combinations.training_scenes(3000, seed=8)
    levels = torch.from_numpy(scenes.levels)
    own = train_encoder_2._Chunk(scenes[:20], False).own
    assert (own.sum(1).numpy() == (scenes[:20].levels < np.array(combinations.SIZES)).sum(1)).all()
    numbers = torch.from_numpy(combinations.numbered(scenes.levels))
    own = torch.zeros(3000, 39, dtype=torch.bool).scatter_(1, numbers, True)[:, :-1]
    assert float(train_encoder_2._apart(5.0 * own, levels, own)) < 1e-9
    # On rings, whatever their pattern, less is striped.
    ring, striped = (
        combinations.OFFSETS[NAMES.index(f)] + level(f, name) for f, name in (("shape", "ring"), ("pattern", "striped"))
    )
    logits = 5.0 * own
    logits[:, striped] -= 3.0 * own[:, ring]
    assert float(train_encoder_2._apart(logits, levels, own)) > 0.05


def test_settling_the_head_moves_places_and_light_only() -> None:
    model = encoder.load_into(encoder.DualEncoder(2), encoder.WEIGHTS / "encoder-2.safetensors")
    assert isinstance(model, encoder.DualEncoder)
    before, scenes = copy.deepcopy(model), combinations.seen_scenes(150, seed=6)
    train_encoder_2.settle_head(model, 300, log=lambda line: None, epochs=2)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before.state_dict()[name])}
    assert changed == {"image.head.weight", "image.head.bias"}
    one, two = (train_encoder_2.zero_shot_guesses(m, scenes) for m in (before, model))
    assert (one == two)[:, :6].mean() > 0.97


def test_one_factor_captions_name_one_level() -> None:
    for factor in NAMES:
        for text in one_factor_captions(factor, 1, 30, seed=2):
            assert meaning(text) == {(factor, 1)}, text


@pytest.mark.parametrize("shares", ONE_EACH, ids=lambda d: d.about)
def test_each_nuisance_changes_pictures_and_an_intervention_leaves_it(shares: Disturbances) -> None:
    scenes = sample_scenes(40, seed=6)
    clean, rough = plain.render(scenes).astype(int), disturbances.render(scenes, shares).astype(int)
    changed = (np.abs(clean - rough) > 12).any(-1).mean((1, 2))
    assert (changed > 0).all()
    assert np.median(changed) < 0.5, "the scene can still be seen"
    assert np.array_equal(rough, disturbances.render(sample_scenes(40, seed=6), shares))
    assert np.array_equal(disturbances.render(scenes[7:9], shares), rough[7:9]), "a picture depends on its scene alone"
    if not shares.blur:  # far from the objects, what a nuisance adds stays where it was
        other = disturbances.render(scenes.set("pattern", 0), shares).astype(int)
        assert ((other != rough).any(-1).mean((1, 2)) < 0.35).all()


def test_shares_are_shares_of_pictures() -> None:
    scenes = sample_scenes(400, seed=8)
    clean = plain.render(scenes)
    assert np.array_equal(disturbances.render(scenes, Disturbances()), clean)
    for share in (0.25, 0.75):
        rough = disturbances.render(scenes, Disturbances(occlusion=share))
        assert (rough != clean).any((1, 2, 3)).mean() == pytest.approx(share, abs=0.07)
    with pytest.raises(InputError, match="share of the pictures"):
        Disturbances(blur=1.5)
    with pytest.raises(InputError, match="did you mean blur"):
        disturbances.disturbances({"blurr": 1})


def test_version_1_pictures_stay_bit_for_bit() -> None:
    drawn = plain.render(sample_scenes(700, seed=4))
    assert hashlib.sha256(drawn.tobytes()).hexdigest() == (
        "cc0b96c9e805d7c195f0101e1b626868278d25ca5e86faff946ec149c9c66c0e"
    )


def test_encoders_by_name() -> None:
    one, two = contralens.encoder("world"), contralens.encoder("world:v2")
    assert one.fingerprint != two.fingerprint
    assert two.texts(["striped"]).shape == (1, two.width)
    with pytest.raises(InputError, match="world:v2; got world:v3"):
        contralens.encoder("world:v3")
    with pytest.raises(InputError, match="versions 1, 2; got 3"):
        encoder.WorldEncoder(3)


def test_versions_are_frozen() -> None:
    one, two = version(1), version(2)
    assert (tuple(one.worlds), one.seeds, one.images) == ((1, 2, 3, 4, 5, 6), (5, 6), 2000)
    assert list(one.nuisances) == ["none"]
    assert (tuple(two.worlds), two.seeds, two.images, two.k) == ((1, 2, 3, 4, 5, 6, 7), (31, 32), 2000, 30)
    assert set(two.nuisances) == {"none", "texture", "occlusion", "objects", "blur", "all"}
    assert level("shape", "star") in {t for _, t in two.world("7").partner_levels if _ == "shape"}
    with pytest.raises(InputError, match="unknown world 7"):
        one.world(7)
    with pytest.raises(InputError, match="did you mean blur"):
        two.shares("blurr")
    with pytest.raises(InputError, match="versions 1 and 2"):
        version(3)
