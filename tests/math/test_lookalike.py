"""`lookalike` against a slow copy with a loop per pair, and the laws of its scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from clusters import clustered
from torch.nn.functional import normalize

from contralens.errors import InputError
from contralens.math import lookalike as module
from contralens.math.exemplars import find_exemplars
from contralens.math.lookalike import ABOVE, POWERS, RIDGES, SPARSE, lookalike
from contralens.math.scoring import parse_scorer, run_scorer


def slow(a, e, t, power=1.5, m=5):
    """One neuron, concept and pair at a time, from the equation."""
    a, e, t = (v.double().numpy() for v in (a, e, t))
    images = [i for i in range(len(e)) if np.isfinite(e[i]).all()]
    x = e[images] - e[images].mean(0)
    pairs = []
    for i in range(len(x)):
        order = sorted((j for j in range(len(x)) if j != i), key=lambda j: (-(e[images[i]] @ e[images[j]]), j))
        pairs += [(i, j) for j in order[:m]]
    near = sum(np.outer(x[i] - x[j], x[i] - x[j]) for i, j in pairs)
    far = sum(np.outer(r, r) for r in x)
    d = e.shape[1]
    s = d / 2 * (near / np.trace(near) + far / np.trace(far))
    rows = []
    for n in range(a.shape[1]):
        own = a[images, n]
        ok = np.isfinite(own)
        b = np.maximum(0, np.where(ok, own, 0) - own[ok].mean()) ** power
        b = np.where(ok, (b - b[ok].mean()) / b[ok].std(), 0.0)  # left out: as if at the mean
        covariance, cov = far / len(x), b @ x / len(x)
        tries = [1.0]
        for ridge in RIDGES:
            hat_inverse = np.linalg.inv(covariance + ridge * np.trace(covariance) / d * np.eye(d))
            w = hat_inverse @ cov
            residual = 1 - 2 * w @ cov + w @ covariance @ w
            tries.append(residual / (1 - np.trace(covariance @ hat_inverse) / len(x)) ** 2)
        g = min(max(1 - min(tries), 0.0), 0.999)
        look = sum((b[i] - b[j]) * (x[i] - x[j]) for i, j in pairs)
        v = g * look / np.trace(near) + (1 - g) * (b @ x) / np.trace(far)
        rows.append(np.linalg.solve(g * s + (1 - g) * np.eye(d), v) @ t.T)
    return np.array(rows)


def concepts(width, count=6):
    return normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(9)), dim=1)


@pytest.mark.parametrize(("power", "pairs"), [(1.5, 5), (1.0, 1), (2.0, 3)])
def test_agrees_with_the_slow_copy(power, pairs):
    a, e = clustered(60, 4)
    a[3, 1], a[5, 1], e[7] = math.nan, math.inf, math.nan
    t = concepts(e.shape[1])
    fast = lookalike(find_exemplars(a, e, k=5), e, t, activations=a, power=power, pairs=pairs)
    np.testing.assert_allclose(fast.double(), slow(a, e, t, power, pairs), atol=2e-4, rtol=2e-4)


def test_scale_and_shift_of_activations_do_not_matter():
    a, e = clustered(60, 4)
    t, x = concepts(e.shape[1]), find_exemplars(a, e, k=5)
    one, other = (lookalike(x, e, t, activations=v) for v in (a, 40 * a - 3))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_a_subset_of_neurons_scores_the_same():
    a, e = clustered(60, 6)
    t = concepts(e.shape[1])
    whole = lookalike(find_exemplars(a, e, k=5), e, t, activations=a)
    part = lookalike(find_exemplars(a, e, k=5, neurons=[4, 1]), e, t, activations=a)
    torch.testing.assert_close(part, whole[[4, 1]], atol=1e-5, rtol=1e-4)


def test_the_true_concept_wins_over_one_tied_to_it():
    """The neuron follows axis 0; axis 1 goes along with it on nine images of ten."""
    g = torch.Generator().manual_seed(0)
    cause = torch.rand(600, generator=g) < 0.3
    tied = torch.where(torch.rand(600, generator=g) < 0.9, cause, torch.rand(600, generator=g) < 0.3)
    rows = torch.stack([cause.float(), 2.0 * tied, torch.ones(600)], 1)
    e = normalize(torch.cat([rows, 0.3 * torch.randn(600, 5, generator=g)], 1), dim=1)
    a = cause[:, None].float() + 0.05 * torch.randn(600, 1, generator=g)
    score = lookalike(find_exemplars(a, e, k=30), e, torch.eye(8)[:2], activations=a)
    assert score[0, 0] > score[0, 1]


def test_of_many_images_some_are_contrasted_with_their_nearest_among_all(monkeypatch):
    a, e = clustered(120, 4)
    t, x = concepts(e.shape[1]), find_exemplars(a, e, k=5)
    every = lookalike(x, e, t, activations=a)
    nearest = {int(i): int(other) for i, other in zip(*module._look_alikes(e, 1)[0], strict=True)}
    monkeypatch.setattr(module, "CONTRASTED", 100)
    images, others = module._look_alikes(e, 1)[0]
    assert len(images) == 100
    assert bool((images[1:] > images[:-1]).all())
    assert {int(i): int(other) for i, other in zip(images, others, strict=True)} == {
        int(i): nearest[int(i)] for i in images
    }
    some = lookalike(x, e, t, activations=a)
    assert torch.corrcoef(torch.stack([every.flatten(), some.flatten()]))[0, 1] > 0.95
    assert torch.equal(some, lookalike(x, e, t, activations=a))


def test_where_look_alikes_are_copies_the_average_image_stands_in():
    a, e = clustered(20, 3)
    a, e, t = a.repeat(7, 1), e.repeat(7, 1), concepts(e.shape[1])
    score = lookalike(find_exemplars(a, e, k=5), e, t, activations=a)
    x = e.double() - e.double().mean(0)
    far = x.T @ x / x.square().sum()
    b = (a.double() - a.double().mean(0)).clamp_min(0).pow(1.5)
    b = (b - b.mean(0)) / b.std(0, correction=0)
    for n in range(3):
        v = b[:, n] @ x / x.square().sum()
        tries = [1.0]
        for ridge in RIDGES:
            c = x.T @ x / len(x)
            hat = torch.linalg.inv(c + ridge * c.trace() / len(c) * torch.eye(len(c), dtype=c.dtype))
            w = hat @ (b[:, n] @ x / len(x))
            left = (b[:, n] - x @ w).square().mean() / (1 - (c @ hat).trace() / len(x)) ** 2
            tries.append(float(left))
        g = min(max(1 - min(tries), 0.0), 0.999)
        metric = g * len(far) * far + (1 - g) * torch.eye(len(far), dtype=far.dtype)
        expected = torch.linalg.solve(metric, v) @ t.double().T
        torch.testing.assert_close(score[n].double(), expected, atol=2e-4, rtol=2e-4)


def test_nothing_to_tell_is_nan_and_bad_input_one_line():
    a, e = clustered(30, 3)
    a[:, 1], a[:, 2] = math.nan, 4.0
    t, x = concepts(e.shape[1]), find_exemplars(a, e, k=4)
    score = lookalike(x, e, t, activations=a)
    assert score[0].isfinite().all()
    assert score[1:].isnan().all()
    with pytest.raises(InputError, match="belong together"):
        lookalike(x, e, t[:, :-1], activations=a)
    with pytest.raises(InputError, match="`pairs`"):
        lookalike(x, e, t, activations=a, pairs=0)


def slow_power(a, e):
    """The power that the module's words describe, by scikit-learn's ridge regression on every neuron and power."""
    from sklearn.linear_model import Ridge

    a, x = a.double().numpy(), (e - e.mean(0)).double().numpy()
    covariance = x.T @ x / len(x)
    mean = np.trace(covariance) / x.shape[1]
    told = []
    for p in POWERS:
        each = []
        for own in a.T:
            b = np.maximum(0, own - own.mean()) ** p
            b = (b - b.mean()) / b.std()
            tries = [1.0]
            for ridge in RIDGES:
                penalty = ridge * mean
                left = b - Ridge(alpha=penalty * len(x), fit_intercept=False).fit(x, b).predict(x)
                freedom = np.trace(covariance @ np.linalg.inv(covariance + penalty * np.eye(x.shape[1])))
                tries.append((left @ left / len(x)) / (1 - freedom / len(x)) ** 2)
            each.append(min(max(1 - min(tries), 0.0), 0.999))
        told.append(np.mean(each))
    return ABOVE * POWERS[int(np.argmax(told))]


def test_the_power_is_chosen_by_what_the_embeddings_explain():
    """The louder a neuron is about images that it does not mean, the more only its strongest ones should count."""
    random = torch.Generator().manual_seed(0)
    t, own = concepts(16, 5), torch.arange(300) % 30
    e = torch.randn(300, 16, generator=random) / 4
    e[own < 5] = t[own[own < 5]] + 0.1 * e[own < 5]
    e, noise = normalize(e, dim=1), torch.randn(300, 5, generator=random).abs()
    powers = []
    for loudness in (0.5, 1.0):
        a = torch.nn.functional.one_hot(own, 30)[:, :5] * 3 + (e @ t.T).clamp_min(0) + loudness * noise
        x = find_exemplars(a, e, k=5)
        powers.append(slow_power(a, e))
        torch.testing.assert_close(
            run_scorer("lookalike:power=auto", x, e, t, a), lookalike(x, e, t, activations=a, power=powers[-1])
        )
    assert SPARSE < powers[0] < powers[1]


def test_holes_and_dead_neurons_do_not_choose_the_power():
    random = torch.Generator().manual_seed(1)
    e = normalize(torch.randn(300, 16, generator=random), dim=1)
    a = (e @ torch.randn(16, 20, generator=random)).clamp_min(0) ** 2 + torch.rand(300, 20, generator=random) / 10
    t = concepts(16)
    broken = torch.cat([a * 1e30, torch.zeros(300, 1), torch.full((300, 1), math.nan)], 1)
    scores = run_scorer("lookalike:power=auto", find_exemplars(broken, e, k=5), e, t, broken)
    assert scores[20:].isnan().all()
    torch.testing.assert_close(
        scores[:20],
        lookalike(find_exemplars(a, e, k=5), e, t, activations=a, power=slow_power(a, e)),
        atol=1e-3,
        rtol=1e-3,
    )


def test_sparse_latents_have_a_power_of_their_own_and_words_are_read():
    a, e = clustered(60, 4)
    a = torch.where(a >= a.topk(6, dim=0).values[-1], a.abs() + 1, 0.0)
    t, x = concepts(e.shape[1]), find_exemplars(a, e, k=4)
    torch.testing.assert_close(
        lookalike(x, e, t, activations=a, power="auto"), lookalike(x, e, t, activations=a, power=SPARSE)
    )
    assert parse_scorer("lookalike:power=auto") == ("lookalike", {"power": "auto"})
    with pytest.raises(InputError, match="power must be a number"):
        parse_scorer("lookalike:power=most")
    with pytest.raises(InputError, match="gamma must be a number"):
        parse_scorer("csp:gamma=auto")
    with pytest.raises(InputError, match="`power` must be above 0"):
        lookalike(x, e, t, activations=a, power="most")
