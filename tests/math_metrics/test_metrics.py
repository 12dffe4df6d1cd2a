"""Every metric against scikit-learn, scipy or a slow copy; what is undefined is NaN."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from contralens.errors import InputError
from contralens.math import metric_rows, metrics, simulation

VALUES = st.sampled_from([0.0, -0.0, 0.5, 1.0, 2.0, -1.5, 3.25, 1e-7, -2e8, math.nan, math.inf])
SETTINGS = settings(max_examples=80, deadline=None)


def matrices():
    return st.integers(1, 12).flatmap(lambda i: st.integers(1, 4).flatmap(lambda n: st.tuples(
        arrays(np.float64, (i, n), elements=VALUES),
        arrays(np.float64, (i, n), elements=VALUES),
        arrays(np.bool_, (i, n)),
        arrays(np.bool_, (i, n)),
    )))  # fmt: skip


def same(found, expected):
    np.testing.assert_allclose(found.numpy(), np.array(expected, float), rtol=1e-9, atol=1e-12)


def slow_auc(a1, a0):
    a1, a0 = a1[np.isfinite(a1)], a0[np.isfinite(a0)]
    if not len(a1) or not len(a0) or len(set(a1.tolist() + a0.tolist())) == 1:
        return math.nan
    return float(np.mean([(x > y) + 0.5 * (x == y) for x in a1 for y in a0]))


@SETTINGS
@given(matrices(), matrices())
def test_cosy_metrics_equal_slow_copies(one, two):
    width = min(one[0].shape[1], two[0].shape[1])
    a1, a0 = one[0][:, :width], two[0][:, :width]
    columns = range(width)
    same(metrics.auc(a1, a0), [slow_auc(a1[:, n], a0[:, n]) for n in columns])
    same(metrics.clarity(a1, a0), [abs(2 * slow_auc(a1[:, n], a0[:, n]) - 1) for n in columns])
    strongest = np.array([2.0, 0.0, -1.0, math.nan])[:width]
    for n in columns:
        g, m = a1[:, n][np.isfinite(a1[:, n])], a0[:, n][np.isfinite(a0[:, n])]
        spread = np.std(m) if len(set(m.tolist())) > 1 else math.nan
        expected = (np.mean(g) - np.mean(m)) / spread if len(g) and len(m) else math.nan
        np.testing.assert_allclose(metrics.mad(a1, a0)[n], expected, rtol=1e-9)
        top = 2.0 if n == 0 else math.nan
        np.testing.assert_allclose(metrics.dma(a1, strongest)[n], np.mean(g) / top if len(g) else math.nan, rtol=1e-9)
        np.testing.assert_allclose(metrics.max_ratio(a1, strongest)[n], np.max(g) / top if len(g) else math.nan)


@SETTINGS
@given(matrices())
def test_correlation_and_cosine_equal_scipy(drawn):
    a, p = drawn[:2]
    for n in range(a.shape[1]):
        there = np.isfinite(a[:, n]) & np.isfinite(p[:, n])
        x, y = a[there, n], p[there, n]
        told = len(set(x.tolist())) > 1 and len(set(y.tolist())) > 1
        correlation = scipy.stats.pearsonr(x, y)[0] if told else math.nan
        cosine = np.dot(x, y) / np.sqrt(np.dot(x, x) * np.dot(y, y)) if told else math.nan
        np.testing.assert_allclose(metrics.pearson(a, p)[n], correlation, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(metrics.cosine(a, p)[n], cosine, rtol=1e-7, atol=1e-9)


@SETTINGS
@given(matrices())
def test_yes_or_no_metrics_equal_scikit_learn(drawn):
    scores, _, truth, predicted = drawn
    for n in range(scores.shape[1]):
        there = np.isfinite(scores[:, n])
        t, s = truth[there, n], scores[there, n]
        told = 0 < t.sum() < len(t) and len(set(s.tolist())) > 1
        precision = sklearn.metrics.average_precision_score(t, s) if told else math.nan
        area = sklearn.metrics.roc_auc_score(t, s) if told else math.nan
        np.testing.assert_allclose(metrics.auprc(truth, scores)[n], precision, rtol=1e-9)
        np.testing.assert_allclose(metrics.purity(scores, truth)[n], precision, rtol=1e-9)
        np.testing.assert_allclose(metrics.auc_of(truth, scores)[n], area, rtol=1e-9)
        np.testing.assert_allclose(metrics.responsiveness(scores, truth)[n], abs(2 * area - 1), rtol=1e-9, atol=1e-12)
        told = all(0 < x[:, n].sum() < len(x) for x in (truth, predicted))
        both = (truth[:, n], predicted[:, n])
        f1 = sklearn.metrics.f1_score(*both) if told else math.nan
        iou = sklearn.metrics.jaccard_score(*both) if told else math.nan
        np.testing.assert_allclose(metrics.f1(truth, predicted)[n], f1)
        np.testing.assert_allclose(metrics.iou(truth, predicted)[n], iou)


@SETTINGS
@given(matrices(), st.sampled_from([0.05, 0.2, 0.5, 0.9]))
def test_active_is_the_top_share_without_the_smallest_value(drawn, share):
    values = drawn[0]
    found = metrics.active(values, share).numpy()
    for n in range(values.shape[1]):
        finite = sorted(v for v in values[:, n] if math.isfinite(v))
        if not finite:
            assert not found[:, n].any()
            continue
        border = finite[::-1][max(1, math.ceil(share * len(finite))) - 1]
        expected = [math.isfinite(v) and v >= border and v > finite[0] for v in values[:, n]]
        assert found[:, n].tolist() == expected


def test_undefined_is_nan_not_zero_not_an_error():
    flat, varied = torch.full((9, 2), 0.1), torch.rand(9, 2)
    nothing = torch.empty(0, 2)
    for value in (
        metrics.pearson(flat, varied), metrics.pearson(varied, flat), metrics.cosine(varied, flat),
        metrics.auc(flat, flat), metrics.auc(nothing, varied), metrics.auc(varied, nothing),
        metrics.mad(varied, flat), metrics.mad(nothing, varied), metrics.mad(varied, nothing),
        metrics.dma(nothing, torch.ones(2)), metrics.max_ratio(nothing, torch.ones(2)),
        metrics.auprc(varied > 2, varied), metrics.auprc(varied > -1, varied), metrics.auprc(varied > 0.5, flat),
        metrics.f1(varied > 2, varied > 0.5), metrics.f1(varied > 0.5, varied > 2), metrics.iou(varied > 2, varied > 2),
        metrics.pearson(nothing, nothing), metrics.auprc(nothing > 0, nothing), metrics.auc_of(nothing > 0, nothing),
        metrics.pearson(varied * torch.nan, varied),
    ):  # fmt: skip
        assert value.shape == (2,)
        assert value.isnan().all()
    assert metrics.pearson(torch.empty(5, 0), torch.empty(5, 0)).shape == (0,)


def test_an_uninformative_label_on_a_sparse_latent_has_auc_one_half():
    latent = torch.zeros(400, 1)
    latent[:12] = 1.0
    made = torch.zeros(20, 1)
    assert abs(float(metrics.auc(made, latent)) - 0.485) < 1e-9
    made[0] = 1.0  # as often as chance
    assert 0.45 < float(metrics.auc(made, latent)) < 0.55


def test_extreme_magnitudes_and_halves():
    big = torch.tensor([[1e200], [2e200], [4e200]], dtype=torch.float64)
    small = torch.tensor([[1e-200], [2e-200], [4e-200]], dtype=torch.float64)
    assert float(metrics.pearson(big, small)) == pytest.approx(1.0)
    assert float(metrics.cosine(big, small)) == pytest.approx(1.0)
    assert float(metrics.auc(torch.tensor([[2.0]]).half(), torch.tensor([[1.0]]).half())) == 1.0


def test_columns_are_worked_in_blocks(monkeypatch):
    a, p = torch.rand(50, 9), torch.rand(50, 9)
    whole = metrics.auprc(a > 0.5, p), metrics.active(a), metrics.pearson(a, p)
    monkeypatch.setattr(
        metric_rows, "blocks", lambda total, each: [slice(i, min(i + 2, total)) for i in range(0, total, 2)]
    )
    for x, y in zip(whole, (metrics.auprc(a > 0.5, p), metrics.active(a), metrics.pearson(a, p)), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


def test_shapes_that_do_not_fit_are_told():
    with pytest.raises(InputError, match="column for column"):
        metrics.pearson(torch.rand(4, 2), torch.rand(5, 2))
    with pytest.raises(InputError, match="one shape"):
        metrics.auprc(torch.rand(4, 2) > 0.5, torch.rand(4, 3))
    with pytest.raises(InputError, match="share"):
        metrics.active(torch.rand(4, 2), 0.0)
    with pytest.raises(InputError, match="predicted"):
        metrics.f1(torch.rand(4, 2) > 0.5, torch.rand(4, 3) > 0.5)


def test_gained_share():
    before = torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)
    after = torch.tensor([[0.6, 0.4, 1.0], [0.1, 0.45, 1.0]], dtype=torch.float64)
    same(metrics.gained_share(before, after), [0.5, 0.0, math.nan])


def test_simulation_is_scipys_sigmoid_and_handles_several_concepts():
    cosines = torch.rand(30, 4, 3, dtype=torch.float64) - 0.4
    one = simulation.simulate(cosines[:, :, 0], *simulation.SIGLIP_SO400M)
    same(one, scipy.special.expit(58 * (cosines[:, :, 0].numpy() - 0.13)))
    assert torch.equal(simulation.simulate(cosines[:, :, 0]), cosines[:, :, 0])
    weights = torch.tensor([[1.0, 2.0, 0.0]] * 4, dtype=torch.float64)
    mean = simulation.simulate(cosines, 10.0, 0.1, weights=weights)
    each = scipy.special.expit(10 * (cosines.numpy() + 0.1))
    same(mean, (each[..., 0] + 2 * each[..., 1]) / 3)
    same(simulation.simulate(cosines, 10.0, 0.1, combine="max"), each.max(2))
    cosines[:, 1, 2], cosines[:, 2] = torch.nan, torch.nan
    for how in ("mean", "max"):
        found = simulation.simulate(cosines, 10.0, 0.1, combine=how)
        assert found[:, 2].isnan().all()
        assert found[:, [0, 1, 3]].isfinite().all()
    with pytest.raises(InputError, match="combine"):
        simulation.simulate(cosines, combine="sum")


def test_fit_sigmoid_finds_a_planted_threshold():
    g = torch.Generator().manual_seed(0)
    cosines = torch.rand(2000, 12, generator=g) * 0.3
    activations = torch.sigmoid(100.0 * (cosines - 0.285)) + 0.01 * torch.randn(2000, 12, generator=g)
    alpha, beta = simulation.fit_sigmoid(activations, cosines)
    fitted = metrics.pearson(activations, simulation.simulate(cosines, alpha, beta)).mean()
    assert fitted > 0.98 > metrics.pearson(activations, cosines).mean()
    assert simulation.fit_sigmoid(activations[:0], cosines[:0]) == simulation.SIGLIP_SO400M


def test_choose_per_layer_and_per_neuron():
    nan = math.nan
    scores = torch.tensor([[0.1, 0.9, nan, nan], [0.3, 0.8, 0.2, nan], [0.2, 0.1, 0.4, nan]])
    assert simulation.choose(scores).tolist() == [1, 1, 1, 1]
    assert simulation.choose(scores, "neuron").tolist() == [1, 0, 2, 1]
    assert simulation.choose(scores * nan).tolist() == [0, 0, 0, 0]
