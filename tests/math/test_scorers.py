"""Every scorer against its slow copy, the laws of the scores, and options on the command line."""

from __future__ import annotations

import math

import numpy as np
import paper
import pytest
import torch
from clusters import clustered
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from contralens.errors import InputError
from contralens.math.concept_vectors import concept_vectors, weights
from contralens.math.exemplars import find_exemplars
from contralens.math.ranking import best
from contralens.math.scorers import SCORERS
from contralens.math.scoring import parse_scorer, run_scorer, score_blocks, wants_activations

CALLS = [
    ("semanticlens", {}),
    ("csp", {}),
    ("csp", {"gamma": 0.0}),
    ("csp", {"gamma": 0.5}),
    ("centred", {}),
    ("centred", {"gamma": 1.0}),
    ("mean_difference", {}),
    ("clip_dissect", {}),
    ("clip_dissect", {"temperature": 3.0, "p_start": 0.9, "p_end": 0.2, "weight": 0.5}),
    ("clip_dissect", {"prior": "images"}),
    ("clip_dissect_csp", {}),
    ("clip_dissect_csp", {"temperature": 0.5, "weight": 2.0}),
]

DIRECTIONS = torch.randn(8, 16, generator=torch.Generator().manual_seed(4))
"""Of latents, for the scorer that looks at a decoder."""


def texts(width, count=6, seed=9):
    """(C,D), of several lengths: scorers must use rows as they are given."""
    g = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, width, generator=g), dim=1) * torch.linspace(0.5, 1.5, count)[:, None]


@pytest.mark.parametrize(
    ("name", "options", "k"),
    [(*call, 7) for call in CALLS] + [(name, options, 1) for name, options in CALLS if not options],
    ids=lambda v: str(v),
)
def test_agrees_with_the_slow_copy(case, name, options, k):
    """Options with several exemplars; a single one with the defaults."""
    a, e = case
    if not e.isfinite().all(1).any():
        pytest.skip("no image to score")
    x = find_exemplars(a, e, k=k)
    t = texts(e.shape[1]).to(e.dtype)
    slow = getattr(paper, name)(x, e.double().numpy(), t.double().numpy(), **options)
    fast = SCORERS[name](x, e, t, **options)
    assert fast.shape == (a.shape[1], len(t))
    np.testing.assert_allclose(fast.double(), slow, atol=3e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SCORERS)
def test_nothing_to_score_is_nan_not_an_error(name):
    a, e = clustered(20, 3)
    a[:, 1] = math.nan
    x = find_exemplars(a, e, k=4)
    scores = run_scorer(name, x, e, texts(16), a, DIRECTIONS)
    assert scores[1].isnan().all()
    assert not scores[[0, 2]].isnan().any()
    a = torch.full_like(a, math.nan)
    assert run_scorer(name, find_exemplars(a, e, k=4), e, texts(16), a, DIRECTIONS).isnan().all()


@pytest.mark.parametrize("name", SCORERS)
def test_one_text_numpy_and_float64(name):
    a, e = clustered(30, 3)
    x = find_exemplars(a, e, k=4)
    one = run_scorer(name, x, e, texts(16, count=1), a, DIRECTIONS)
    assert one.shape == (3, 1)
    assert one.isfinite().all()
    many = texts(16)
    expected = run_scorer(name, x, e, many, a, DIRECTIONS)
    torch.testing.assert_close(run_scorer(name, x, e.numpy(), many.numpy(), a.numpy(), DIRECTIONS.numpy()), expected)
    torch.testing.assert_close(
        run_scorer(name, x, e.double(), many, a, DIRECTIONS).float(), expected, atol=2e-5, rtol=1e-4
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.25, 3.0, 1000.0]), st.sampled_from([0.0, 0.5, 1.0]))
def test_csp_does_not_see_the_scale_of_activations(seed, factor, gamma):
    a, e = clustered(30, 4, seed=seed)
    t = texts(16)
    x, y = find_exemplars(a, e, k=5), find_exemplars(a * factor, e, k=5)
    torch.testing.assert_close(SCORERS["csp"](x, e, t, gamma), SCORERS["csp"](y, e, t, gamma), atol=1e-5, rtol=1e-5)


def test_gamma_0_is_the_weighted_mean():
    a, e = clustered(50, 6)
    x = find_exemplars(a, e, k=6)
    for n in range(6):
        w = x.activations[n] if float(x.activations[n].sum()) > 0 else torch.ones(6)
        expected = normalize((w[:, None] * e[x.positives[n]]).sum(0), dim=0)
        torch.testing.assert_close(concept_vectors(x, e, 0.0)[n], expected, atol=1e-6, rtol=1e-5)


def test_gamma_1_takes_a_pair_that_is_one_image_out():
    """A positive whose contrast is its own copy leaves nothing; the other positives decide."""
    e = normalize(torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [1.0, 0, 0], [0, 0, 1.0]]), dim=1)
    a = torch.tensor([[5.0], [4.0], [0.0], [0.0]])
    x = find_exemplars(a, e, k=2)
    assert x.contrasts.tolist() == [[2, 2]]
    torch.testing.assert_close(concept_vectors(x, e, 1.0), torch.tensor([[0.0, 1.0, 0.0]]))


def test_weights_of_signed_activations():
    a = torch.tensor([[3.0, -1.0], [1.0, -2.0], [-4.0, -3.0], [-9.0, -9.0]])
    x = find_exemplars(a, normalize(torch.randn(4, 3), dim=1), k=3)
    torch.testing.assert_close(weights(x), torch.tensor([[0.75, 0.25, 0.0], [1 / 3, 1 / 3, 1 / 3]]))


def test_clip_dissect_prior_over_neurons_depends_on_the_set_and_over_images_does_not():
    a, e = clustered(60, 6)
    t = texts(16)
    x, part = find_exemplars(a, e, k=5), find_exemplars(a, e, k=5, neurons=[1, 2])
    score = SCORERS["clip_dissect"]
    assert not torch.allclose(score(x, e, t)[1:3], score(part, e, t))
    torch.testing.assert_close(score(x, e, t, prior="images")[1:3], score(part, e, t, prior="images"))


def test_clip_dissect_spells_milans_objective_with_an_encoder():
    """log p(d | E) - .2 log p(d), p(d | E) a product of softmaxes over texts, p(d) the mean image's."""
    a, e = clustered(60, 4)
    t = texts(16)
    x = find_exemplars(a, e, k=5)
    p = [[float(v) + 1e-7 for v in torch.softmax(10 * row.double() @ t.double().T, 0)] for row in e]
    expected = torch.tensor([
        [
            sum(math.log(p[i][c]) for i in positives)
            - 0.2 * len(positives) * math.log(sum(row[c] for row in p) / len(p))
            for c in range(len(t))
        ]
        for positives in x.positives.tolist()
    ])  # fmt: skip
    found = run_scorer("clip_dissect:p_start=1,p_end=1,prior=images,weight=0.2", x, e, t)
    torch.testing.assert_close(found.double(), expected.double(), atol=1e-3, rtol=1e-4)


def test_blocks_change_nothing(monkeypatch):
    from contralens.math import activation_sources, lookalike, scorers, tensors

    a, e = clustered(60, 6)
    x, t = find_exemplars(a, e, k=5), texts(16, count=50)
    whole = {name: run_scorer(name, x, e, t, a, DIRECTIONS) for name in SCORERS}
    for module in (scorers, lookalike, activation_sources):
        monkeypatch.setattr(module, "blocks", lambda total, each, budget=0: tensors.blocks(total, each, each * 7))
    for name, expected in whole.items():
        torch.testing.assert_close(run_scorer(name, x, e, t, a, DIRECTIONS), expected, atol=2e-6, rtol=1e-5)


def test_activations_reach_the_scorers_that_ask_for_them():
    a, e = clustered(40, 4)
    x, t = find_exemplars(a, e, k=5), texts(16)
    seen = []

    def asks(exemplars, embeddings, texts, share=0.5, *, activations):
        seen.append(activations)
        return torch.zeros(len(exemplars), len(texts))

    assert wants_activations(asks)
    assert run_scorer(asks, x, e, t, a).shape == (4, 6)
    assert seen[0] is a
    with pytest.raises(InputError, match="looks at the activations of all images, and got none"):
        run_scorer(asks, x, e, t)
    assert not wants_activations(SCORERS["csp"])
    torch.testing.assert_close(run_scorer("csp:gamma=0.5", x, e, t, a), SCORERS["csp"](x, e, t, gamma=0.5))
    torch.testing.assert_close(
        run_scorer("lookalike:pairs=2,power=1", x, e, t, a),
        SCORERS["lookalike"](x, e, t, activations=a, pairs=2, power=1.0),
    )


def test_parse_scorer():
    assert parse_scorer("csp") == ("csp", {})
    assert parse_scorer("centred:gamma=1") == ("centred", {"gamma": 1.0})
    assert parse_scorer("clip_dissect:prior=images,weight=0.5") == ("clip_dissect", {"prior": "images", "weight": 0.5})
    name, options = parse_scorer("lookalike:pairs=3,power=2")
    assert (name, options, type(options["pairs"])) == ("lookalike", {"pairs": 3, "power": 2.0}, int)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("cps", "did you mean csp"),
        ("csp:gama=1", "did you mean gamma"),
        ("semanticlens:gamma=1", "it takes none"),
        ("csp:gamma=2", "gamma must lie between 0 and 1"),
        ("csp:gamma", "no option 'gamma'"),
        ("csp:gamma=half", "gamma must be a number; got 'half'"),
        ("lookalike:pairs=2.5", "pairs must be a whole number; got '2.5'"),
        ("lookalike:activations=x", "it takes power, pairs"),
    ],
)
def test_parse_scorer_says_what_is_wrong(spec, says):
    with pytest.raises(InputError) as error:
        parse_scorer(spec)
    assert says in str(error.value)


def test_widths_must_agree():
    a, e = clustered(10, 2)
    with pytest.raises(InputError, match="`texts` must have width 16"):
        SCORERS["csp"](find_exemplars(a, e, k=2), e, torch.zeros(3, 8))


@pytest.mark.parametrize("name", SCORERS)
def test_no_neuron_at_all(name):
    a, e = clustered(30, 3)
    x = find_exemplars(a, e, k=4, neurons=[])
    assert run_scorer(name, x, e, texts(16), a, DIRECTIONS).shape == (0, len(texts(16)))
    assert best(score_blocks(name, x, e, texts(16), a, DIRECTIONS), 3).concepts.shape == (0, 3)


@pytest.mark.parametrize("name", SCORERS)
def test_some_concepts_at_a_time_are_all_of_them(name, monkeypatch):
    a, e = clustered(80, 6)
    x, t = find_exemplars(a, e, k=4), texts(16, count=40)
    whole = run_scorer(name, x, e, t, a, DIRECTIONS)
    monkeypatch.setattr("contralens.math.ranking.room", lambda device: 150)
    monkeypatch.setattr("contralens.math.scorers.room", lambda device: 4096)
    parts = list(score_blocks(name, x, e, t, a, DIRECTIONS))
    assert len(parts) > 5
    torch.testing.assert_close(torch.cat([scores for _, scores in parts], 1), whole, atol=1e-5, rtol=1e-5)
    found, order = best(iter(parts), 7), whole.sort(dim=1, descending=True, stable=True)
    assert torch.equal(found.concepts, order.indices[:, :7])
    torch.testing.assert_close(found.scores, order.values[:, :7], atol=1e-5, rtol=1e-5)
    assert torch.equal(found.labels, whole.argmax(1))
