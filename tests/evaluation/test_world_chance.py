"""On the rendered world: fake neurons are kept as labels no more often than the setting says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from contralens.bench.training import rows_of
from contralens.bench.world_bench import BENCHED, SIMPLE
from contralens.bench.world_images import vocabulary
from contralens.math.exemplars import find_exemplars
from contralens.math.null_neurons import fake_exemplars, together, with_fakes
from contralens.math.null_test import chance, chance_of
from contralens.math.scoring import run_scorer
from contralens.world.encoder import load_encoder
from contralens.world.planted import planted_activations
from contralens.world.render import render
from contralens.world.targets import LAYER, load_target, world
from contralens.world.truth import target_activations

OF_THE_SET = "clip_dissect"
"""Its scores depend on the neurons scored together; those of the others are computed once for all draws."""

KEPT = {"lookalike": 0.25}
"""Least share of real neurons that the null test keeps; half by all other scorers."""


@pytest.fixture(scope="module")
def rows():
    """Activations of planted and trained neurons over 1,000 tied scenes, embeddings, texts."""
    scenes = world(1).scenes(1000, seed=5)
    pictures = render(scenes)
    planted = torch.from_numpy(planted_activations(scenes, 1)[0])
    trained = torch.from_numpy(target_activations(load_target(1), pictures)[LAYER]).float()
    encoder = load_encoder()
    embeddings = torch.nn.functional.normalize(rows_of(encoder.model.image, pictures), dim=1)
    return torch.cat([planted, trained], dim=1), embeddings, encoder.texts(vocabulary())


@pytest.fixture(scope="module")
def fakes(rows):
    """4,000 fake neurons, mined like real ones."""
    return fake_exemplars(rows[0], rows[1], 4000, seed=1, k=30)


@pytest.mark.slow
@pytest.mark.parametrize("spec", [spec for spec in BENCHED if not spec.endswith(SIMPLE)])
def test_false_discovery_rate_on_the_world(rows, fakes, spec):
    a, e, texts = rows
    every = with_fakes(a, len(fakes), seed=1)
    real = find_exemplars(a, e, k=30)
    usable = (real.activations.amax(1) > real.activations.amin(1)).nonzero()[:, 0]
    real = real.of(usable)
    scores = None if spec == OF_THE_SET else run_scorer(spec, together(real, fakes), e, texts, every)
    rates, kept = [], []
    for draw in range(20):  # 1,000 fakes tell chance, 200 others stand among the real neurons
        order = torch.randperm(len(fakes), generator=torch.Generator().manual_seed(draw))
        if scores is None:
            calibrating, judged = (fakes.of(some) for some in (order[:1000], order[1000:1200]))
            found = chance(spec, together(real, judged), calibrating, e, texts, every)
        else:
            rows_of_draw = torch.cat([torch.arange(len(real)), len(real) + order[1000:1200], len(real) + order[:1000]])
            found = chance_of(scores[rows_of_draw], len(real) + 200)
        keep = found.beats(0.05)
        false, true = int(keep[len(real) :].sum()), int(keep[: len(real)].sum())
        rates.append(false / max(1, false + true))
        kept.append(true / len(real))
    mean, error = np.mean(rates), np.std(rates, ddof=1) / len(rates) ** 0.5
    print(f"{spec}: false {mean:.3f} +- {error:.3f}, real kept {np.mean(kept):.2f} of {len(real)}")
    assert mean - 2.5 * error <= 0.05
    assert mean <= 0.1
    assert np.mean(kept) >= KEPT.get(spec, 0.5)
