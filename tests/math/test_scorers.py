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

from contralens.checks import InputError
from contralens.math.exemplars import find_exemplars
from contralens.math.scorers import SCORERS, concept_vectors, parse_scorer, weights

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


def texts(width, count=6, seed=9):
    """(C,D), of several lengths: scorers must use rows as they are given."""
    g = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, width, generator=g), dim=1) * torch.linspace(0.5, 1.5, count)[:, None]


@pytest.mark.parametrize(("name", "options"), CALLS, ids=lambda v: str(v))
@pytest.mark.parametrize("k", [1, 7])
def test_agrees_with_the_slow_copy(case, name, options, k):
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
    scores = SCORERS[name](x, e, texts(16))
    assert scores[1].isnan().all()
    assert not scores[[0, 2]].isnan().any()
    nothing = find_exemplars(torch.full_like(a, math.nan), e, k=4)
    assert SCORERS[name](nothing, e, texts(16)).isnan().all()


@pytest.mark.parametrize("name", SCORERS)
def test_one_text_numpy_and_float64(name):
    a, e = clustered(30, 3)
    x = find_exemplars(a, e, k=4)
    one = SCORERS[name](x, e, texts(16, count=1))
    assert one.shape == (3, 1)
    assert one.isfinite().all()
    many = texts(16)
    expected = SCORERS[name](x, e, many)
    torch.testing.assert_close(SCORERS[name](x, e.numpy(), many.numpy()), expected)
    torch.testing.assert_close(SCORERS[name](x, e.double(), many).float(), expected, atol=2e-5, rtol=1e-4)


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


def test_blocks_change_nothing(monkeypatch):
    from contralens.math import scorers, tensors

    a, e = clustered(60, 6)
    x, t = find_exemplars(a, e, k=5), texts(16, count=50)
    whole = {name: SCORERS[name](x, e, t) for name in SCORERS}
    monkeypatch.setattr(scorers, "blocks", lambda total, each, budget=0: tensors.blocks(total, each, budget=each * 7))
    for name, expected in whole.items():
        torch.testing.assert_close(SCORERS[name](x, e, t), expected, atol=2e-6, rtol=1e-5)


def test_parse_scorer():
    assert parse_scorer("csp") == ("csp", {})
    assert parse_scorer("centred:gamma=1") == ("centred", {"gamma": 1.0})
    assert parse_scorer("clip_dissect:prior=images,weight=0.5") == ("clip_dissect", {"prior": "images", "weight": 0.5})


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("cps", "did you mean csp"),
        ("csp:gama=1", "did you mean gamma"),
        ("semanticlens:gamma=1", "it takes none"),
        ("csp:gamma=2", "gamma must lie between 0 and 1"),
        ("csp:gamma", "no option 'gamma'"),
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
