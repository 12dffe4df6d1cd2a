"""Linear Explanations against a slow copy (scikit-learn's elastic net, least squares on the images themselves)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import ElasticNet, LinearRegression
from torch.nn.functional import normalize

from contralens.errors import InputError
from contralens.math.activation_sources import source
from contralens.math.exemplars import find_exemplars
from contralens.math.linear_explanations import _elastic_net, _moments, linear
from contralens.math.null_neurons import fake_activations
from contralens.math.null_test import chance_of


def case(images=240, concepts=20, width=12, seed=0):
    g = torch.Generator().manual_seed(seed)
    t = normalize(torch.randn(concepts, width, generator=g), dim=1)
    e = normalize(torch.randn(images, width, generator=g), dim=1)
    p = e @ t.T
    columns = [p[:, 3], 2 * p[:, 1] + p[:, 7], p[:, 0] - p[:, 5] + 0.5 * p[:, 9], torch.randn(images, generator=g)]
    a = torch.stack(columns, 1) + 0.05 * torch.randn(images, 4, generator=g)
    return a, e, t


def slow(a, e, t, strength=0.05, ratio=0.99, tolerance=0.02, longest=10, width=10):
    """Scores (N,C), from the paper: standardise, elastic net, greedy search on the validation images."""
    P, A = (e @ t.T).double().numpy(), a.double().numpy()
    test = np.arange(len(P)) % 4 == 3
    train = ~test
    X = (P[train] - P[train].mean(0)) / P[train].std(0)
    out = np.zeros((A.shape[1], P.shape[1]))
    for n in range(A.shape[1]):
        y = (A[train, n] - A[train, n].mean()) / A[train, n].std()
        net = ElasticNet(alpha=strength, l1_ratio=ratio, fit_intercept=False, tol=1e-10, max_iter=100_000).fit(X, y)
        out[n] = net.coef_
        order = sorted(range(P.shape[1]), key=lambda c: (-round(out[n][c], 5), c))
        chosen, bad, best, weights = [], [], 0.0, []
        while len(chosen) < longest:
            candidates = [c for c in order if c not in chosen and c not in bad][:width]
            top, top_r, top_w = None, best, weights
            for c in candidates:
                own = [*chosen, c]
                fit = LinearRegression().fit(P[train][:, own], A[train, n])
                r = np.corrcoef(fit.predict(P[test][:, own]), A[test, n])[0, 1]
                if chosen and r - best < tolerance:
                    bad.append(c)
                elif r > top_r:
                    top, top_r, top_w = c, r, fit.coef_ * P[train][:, own].std(0) / A[train, n].std()
            if top is None:
                break
            chosen.append(top)
            best, weights = top_r, top_w
        for c in set(range(P.shape[1])) - set(chosen):
            out[n][c] = min([out[n][c], *(0.999 * w for w in weights if w > 0)])
        out[n][chosen] = weights
    return out


@pytest.mark.parametrize("options", [{}, {"tolerance": 0.1}, {"longest": 1}, {"width": 2, "strength": 0.2}])
def test_agrees_with_the_slow_copy(options) -> None:
    a, e, t = case()
    x = find_exemplars(a, e, k=5)
    fast = linear(x, e, t, activations=a, **options)
    np.testing.assert_allclose(fast.double(), slow(a, e, t, **options), atol=2e-4)
    assert fast.argmax(1)[:2].tolist() == [3, 1]


@pytest.mark.parametrize("tried", [1, 50])
def test_the_elastic_net_is_scikit_learns(monkeypatch, tried) -> None:
    monkeypatch.setattr("contralens.math.linear_explanations.TRIED", tried)
    monkeypatch.setattr("contralens.math.linear_explanations.TOGETHER", 3)
    monkeypatch.setattr("contralens.math.linear_explanations.ROUNDS", 20_000)
    monkeypatch.setattr("contralens.math.linear_explanations.ENOUGH", 1e-10)
    a, e, t = case(seed=3)
    every = torch.ones(len(e), dtype=torch.bool)
    found = _elastic_net(_moments(source(a), torch.arange(4), e, every), t, 0.03, 0.5)
    P = (e @ t.T).double().numpy()
    X = (P - P.mean(0)) / P.std(0)
    for n in range(4):
        y = (a[:, n].double().numpy() - float(a[:, n].double().mean())) / float(a[:, n].double().std(correction=0))
        net = ElasticNet(alpha=0.03, l1_ratio=0.5, fit_intercept=False, tol=1e-10, max_iter=100_000).fit(X, y)
        np.testing.assert_allclose(found[n], net.coef_, atol=1e-5)


def test_the_label_version_reads_what_images_show() -> None:
    shows = torch.rand(400, 8, generator=torch.Generator().manual_seed(0)) < 0.2
    a = torch.stack([shows[:, 2] * 1.0, shows[:, 4] * 2.0 + shows[:, 1]], 1)
    x = find_exemplars(a, normalize(shows + 0.01, dim=1), k=5)
    scores = linear(x, shows.float(), torch.eye(8), activations=a)
    assert scores.argmax(1).tolist() == [2, 4]
    assert (scores[1] > 0.1).nonzero()[:, 0].tolist() == [1, 4]


def test_missing_values_count_as_the_mean_and_bad_options_are_named() -> None:
    a, e, t = case()
    x = find_exemplars(a, e, k=5)
    whole = linear(x, e, t, activations=a)
    a[0, 0], e[5] = math.nan, math.nan
    assert (linear(x, e, t, activations=a).argmax(1)[:2] == whole.argmax(1)[:2]).all()
    with pytest.raises(InputError, match="do not belong together"):
        linear(x, e[:9], t, activations=a)
    with pytest.raises(InputError, match="`strength` must be above 0"):
        linear(x, e, t, activations=a, strength=0.0)


def test_the_null_test_keeps_its_level_and_finds_planted_neurons() -> None:
    """Over seeds: permuted neurons among the real ones get p <= .05 in a twentieth of cases; planted ones are kept."""
    low, false, kept, wrong = [], 0, 0, 0
    for seed in range(10):
        g = torch.Generator().manual_seed(seed)
        t = normalize(torch.randn(25, 16, generator=g), dim=1)
        e = normalize(torch.randn(400, 16, generator=g), dim=1)
        of = torch.randint(25, (20,), generator=g)
        a = (e @ t.T)[:, of] + 0.25 * torch.randn(400, 20, generator=g)  # correlation with the concept about .7
        every = torch.cat([a, fake_activations(a, 40, seed + 100), fake_activations(a, 400, seed)], 1)
        scores = linear(find_exemplars(every, e, k=3), e, t, activations=every)
        alone = chance_of(scores[20:], 40)
        low.append(float((alone.p <= 0.05).double().mean()))
        found = chance_of(scores, 60)
        wrong += int((scores[:20].argmax(1) != of).sum())
        kept += int(found.beats(0.05)[:20].sum())
        false += int(found.beats(0.05)[20:].sum())
    assert wrong <= 10
    assert 0.02 <= np.mean(low) <= 0.05 + 2.5 * np.std(low, ddof=1) / 10**0.5
    assert kept >= 190
    assert false / (false + kept) <= 0.1
