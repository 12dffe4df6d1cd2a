"""Fake neurons: p is uniform under chance, the measured false-discovery rate keeps what the setting promises."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from contralens.errors import InputError
from contralens.math.activation_sources import Beside, SparseActivations, columns
from contralens.math.exemplars import find_exemplars
from contralens.math.null_neurons import fake_activations, fake_exemplars, together, with_fakes
from contralens.math.null_test import _chance, chance, chance_of, null_share, p_values, q_values
from contralens.math.scorers import SCORERS


def layer(images=500, real=60, concepts=25, width=24, seed=0):
    """A small layer that detects concepts, with an encoder whose images lean to one common direction."""
    g = torch.Generator().manual_seed(seed)
    texts = normalize(torch.randn(concepts, width, generator=g), dim=1)
    kind = torch.randint(concepts, (images,), generator=g)
    common = normalize(torch.randn(width, generator=g), dim=0)
    noise = torch.randn(images, width, generator=g) / width**0.5
    embeddings = normalize(0.8 * texts[kind] + common + noise, dim=1)
    detects = torch.randint(concepts, (real,), generator=g)
    activations = torch.relu((kind[:, None] == detects) * 2.0 + 0.5 * torch.randn(images, real, generator=g))
    return activations, embeddings, texts, detects


def test_permuted_fakes_keep_each_neurons_distribution():
    a = layer()[0]
    fakes = fake_activations(a, 130, seed=3, neurons=[4, 7])
    assert fakes.shape == (500, 130)
    for column in (0, 1, 128):
        source = a[:, [4, 7][column % 2]]
        assert torch.equal(fakes[:, column].sort().values, source.sort().values)
        assert not torch.equal(fakes[:, column], source)
    assert torch.equal(fakes, fake_activations(a, 130, seed=3, neurons=[4, 7]))
    mixed = fake_activations(a, 50, kind="mixture")
    assert mixed.isfinite().all()
    assert np.linalg.matrix_rank(torch.cat([a - a.mean(0), mixed - mixed.mean(0)], 1).double().numpy(), tol=1e-2) == 60


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.001, 0.01, 0.02, 0.3, 0.5, 1.0]) | st.floats(1e-4, 1.0), min_size=1, max_size=30))
def test_q_values_are_benjamini_hochberg(p):
    expected = scipy.stats.false_discovery_control(p)
    np.testing.assert_allclose(q_values(torch.tensor(p, dtype=torch.float64)), expected)
    holes = torch.tensor([*p, float("nan")], dtype=torch.float64)
    found = q_values(holes)
    np.testing.assert_allclose(found[:-1], expected)
    assert found[-1].isnan()


def test_p_values_count_ties_as_exceeding():
    null = torch.tensor([1.0, 2.0, 2.0, 3.0])
    found = p_values(torch.tensor([0.0, 2.0, 3.5, float("nan")]), null)
    np.testing.assert_allclose(found, [1.0, 0.8, 0.2, float("nan")])
    assert null_share(torch.linspace(0, 1, 1000)) == pytest.approx(1.0, abs=0.01)


def test_fakes_are_mined_like_real_neurons_and_numbered_on():
    a, e, _, _ = layer()
    found = fake_exemplars(a, e, 300, seed=1, k=8)
    assert found.neurons.tolist() == list(range(60, 360))
    assert found.positives.shape == (300, 8)
    both = together(find_exemplars(a, e, k=12), found)
    assert both.positives.shape == (360, 12)
    assert (both.positives[60:, 8:] == -1).all()


@pytest.mark.parametrize("kind", ["permuted", "mixture"])
def test_activations_of_fakes_are_those_that_they_were_mined_from(kind):
    a, e, _, _ = layer()
    some, wanted = [5, 2, 9], torch.tensor([360, 2, 60, 319, 59])
    found = fake_exemplars(a, e, 301, seed=1, k=8, kind=kind, neurons=some)
    for real, budget in ((a, 2**30), (a, 0), (SparseActivations.of(a), 2**30)):  # 0: in a temporary file
        every = with_fakes(real, 301, 1, kind, some, budget=budget)
        assert every.shape == (500, 361)
        whole = torch.cat([rows for _, rows in every.blocks(budget=50_000)])
        assert torch.equal(whole[:, :60], a)
        assert torch.equal(whole.T.gather(1, torch.cat([find_exemplars(a, e, k=8).positives, found.positives]))[60:],
                           found.activations)  # fmt: skip
        assert torch.equal(columns(every, wanted), whole[:, wanted])
        images, neurons = torch.tensor([0, 499, 7, 7]), torch.tensor([60, 3, 360, 59])
        assert torch.equal(every.lookup(images, neurons), whole[images, neurons])
    with pytest.raises(InputError, match="side by side"):
        Beside(every, torch.zeros(3, 1))


@pytest.fixture(scope="module")
def among_fakes():
    """Real neurons, fakes to be judged, fakes that judge, the activations of all, embeddings and texts."""
    a, e, texts, _ = layer()
    judged = fake_exemplars(a, e, 1500, seed=100, k=10)
    fakes = fake_exemplars(a, e, 1500, seed=7_000_000, k=10)
    every = with_fakes(with_fakes(a, 1500, 100), 1500, 7_000_000, neurons=range(60))
    return find_exemplars(a, e, k=10), judged, replace(fakes, neurons=fakes.neurons + 1500), every, e, texts


@pytest.mark.parametrize(
    "name",
    [
        "semanticlens",
        "csp",
        "csp:gamma=0.5",
        "clip_dissect",
        "clip_dissect_csp",
        "centred",
        "mean_difference",
        "lookalike",
    ],
)
def test_measured_false_discovery_rate_at_five_percent(name, among_fakes):
    """1,500 fakes stand among real neurons: of the labels kept at 5 %, the share of fakes is 5 % within reach."""
    real, judged, fakes, every, e, texts = among_fakes
    rates, kept_real, kept_fake = [], 0, 0
    for draw in range(10):  # 150 judged fakes among 60 real neurons, ten times
        part = slice(150 * draw, 150 * draw + 150)
        some = judged.of(part)
        found = chance(name, together(real, some), fakes, e, texts, every)
        keep = found.beats(0.05)
        kept_real, kept_fake = kept_real + int(keep[:60].sum()), kept_fake + int(keep[60:].sum())
        rates.append(int(keep[60:].sum()) / max(1, int(keep.sum())))
    mean, error = np.mean(rates), np.std(rates, ddof=1) / 10**0.5
    assert kept_real >= 0.7 * 600, "real labels must beat chance"
    assert mean - 2.5 * error <= 0.05, (rates, kept_fake)
    assert mean < 0.1


def test_fakes_alone_are_all_turned_away():
    a, e, texts, _ = layer(seed=5)
    judged = fake_exemplars(a, e, 1000, seed=50, k=10)
    fakes = fake_exemplars(a, e, 1000, seed=9_000_000, k=10)
    found = chance(SCORERS["csp"], judged, fakes, e, texts)
    assert scipy.stats.kstest(found.p.numpy(), "uniform").pvalue > 1e-3
    assert float((found.p <= 0.05).double().mean()) == pytest.approx(0.05, abs=0.03)
    assert int(found.beats(0.05).sum()) <= 2


def test_neurons_without_a_label_stay_out():
    a, e, texts, _ = layer()
    real = find_exemplars(a, e, k=10)
    labels = SCORERS["csp"](real, e, texts).argmax(1)
    labels[3] = -1
    found = chance(SCORERS["csp"], real, fake_exemplars(a, e, 200, k=10), e, texts, labels=labels, method="bh")
    assert found.q[3].isnan()
    assert not found.beats()[3]
    assert found.q.isnan().sum() == 1
    assert found.null_share == 1.0
    with pytest.raises(InputError, match="too few"):
        chance(SCORERS["csp"], real, fake_exemplars(a, e, 5, k=10), e, texts)


def slow_z(scores, n, others=True):
    """z of every row's best concept, concept by concept and row by row."""
    s = scores.double().numpy().copy()
    s[~np.isfinite(s)] = np.nan
    beyond = s.copy()
    for row, own in enumerate(s):
        for c in np.flatnonzero(~np.isnan(own)) if others else ():
            rest = np.delete(own, c)
            beyond[row, c] -= 0 if np.isnan(rest).all() else np.nanmean(rest)
    first = beyond[n : n + max(10, round(0.3 * (len(s) - n)))]
    out = np.full(len(s), np.nan)
    for row in range(len(s)):
        if not np.isnan(s[row]).all():
            c = np.nanargmax(s[row])
            out[row] = (beyond[row, c] - np.nanmean(first[:, c])) / np.nanstd(first[:, c])
    return out


@pytest.mark.parametrize("concepts", [1, 2, 7])
@pytest.mark.parametrize("others", [True, False])
def test_z_equals_a_slow_copy_also_where_scores_are_missing(concepts, others):
    g = torch.Generator().manual_seed(concepts)
    scores = torch.randn(90, concepts, generator=g) + 3 * torch.randn(90, 1, generator=g)
    holes = torch.rand(90, concepts, generator=g) < 0.1
    scores = scores.masked_fill(holes, torch.nan)
    scores[7], scores[50, 0] = torch.nan, -torch.inf
    found = chance_of(scores, 30, others=others)
    expected = slow_z(scores, 30, others)
    np.testing.assert_allclose(found.z, expected[:30], rtol=1e-9)
    null = expected[48:]
    np.testing.assert_allclose(found.fakes, null[np.isfinite(null)], rtol=1e-9)
    assert found.q[7].isnan()
    parts = iter([(slice(c, c + 1), scores[:, c : c + 1]) for c in range(concepts)])
    alike = _chance(parts, 90, 30, None, "storey", others)
    np.testing.assert_allclose(alike.z, found.z, rtol=1e-12)
    labels = scores[:30].nan_to_num(-torch.inf).argmax(1)
    np.testing.assert_allclose(chance_of(scores, 30, labels=labels, others=others).q, found.q)


def test_leaning_to_all_texts_alike_is_nothing():
    g = torch.Generator().manual_seed(0)
    scores = torch.randn(1060, 9, generator=g)
    scores[torch.arange(60), torch.randint(9, (60,), generator=g)] += 5
    lean = 10 * torch.randn(1060, 1, generator=g)
    found, leant = chance_of(scores, 60), chance_of(scores + lean, 60)
    np.testing.assert_allclose(leant.z, found.z, rtol=1e-4)
    assert leant.beats().sum() >= 50
    assert chance_of(scores + lean, 60, others=False).beats().sum() < 10
    alone = chance_of(scores[:, :1], 60), chance_of(scores[:, :1], 60, others=False)
    assert torch.equal(alone[0].q, alone[1].q), "a concept without others is compared with none"
