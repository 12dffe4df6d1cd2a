"""Separation of two classes against scipy, slow copies of DeLong and Obuchowski, and their nominal rates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu, norm

from contralens.errors import InputError
from contralens.math.activation_sources import SparseActivations
from contralens.math.class_separation import class_separation
from contralens.math.neighbours import TIE
from contralens.math.restricted_exemplars import restricted_exemplars


def slow_delong(x, y):
    """AUC and its variance from all pairs, as the paper defines them."""
    wins = (x[:, None] > y[None]) + 0.5 * (x[:, None] == y[None])
    return wins.mean(), wins.mean(1).var(ddof=1) / len(x) + wins.mean(0).var(ddof=1) / len(y)


def slow_obuchowski(x, y, groups_x, groups_y):
    """Obuchowski 1997, equations 3 to 6, with plain loops."""
    wins = (x[:, None] > y[None]) + 0.5 * (x[:, None] == y[None])
    auc, placed_x, placed_y = wins.mean(), wins.mean(1), wins.mean(0)
    m, n = len(x), len(y)
    every = sorted({*groups_x, *groups_y})
    sum_x = np.array([sum(p - auc for p, g in zip(placed_x, groups_x, strict=True) if g == one) for one in every])
    sum_y = np.array([sum(p - auc for p, g in zip(placed_y, groups_y, strict=True) if g == one) for one in every])
    i_x, i_y, i = len(set(groups_x)), len(set(groups_y)), len(every)
    s_x, s_y = i_x / ((i_x - 1) * m) * (sum_x**2).sum(), i_y / ((i_y - 1) * n) * (sum_y**2).sum()
    s_xy = i / (i - 1) * (sum_x * sum_y).sum()
    return auc, s_x / m + s_y / n + 2 * s_xy / (m * n)


@pytest.fixture(scope="module")
def values():
    """(80,30): many zeros and equal values, some that are not finite, one neuron that never fires."""
    drawn = torch.randn(80, 30, generator=torch.Generator().manual_seed(0)).clamp_min(0).mul(4).round() / 4
    drawn[:30] += torch.linspace(0, 1, 30)
    drawn[3, 4], drawn[60, 5], drawn[61, 5] = torch.nan, torch.inf, -torch.inf
    drawn[:, 7] = 0
    return drawn


A, B = np.arange(30), np.arange(70, 29, -1)


def columns(values):
    for n in range(values.shape[1]):
        x, y = (values[torch.from_numpy(rows.copy()), n].double().numpy() for rows in (A, B))
        yield n, x[np.isfinite(x)], y[np.isfinite(y)]


@pytest.mark.parametrize("kind", ["dense", "few of many", "sparse"])
def test_areas_intervals_and_tests_are_those_of_slow_copies(values, kind) -> None:
    of, a, b = values, A, B
    if kind == "few of many":
        of, a, b = torch.cat([torch.full((300, 30), 9.0), values]), A + 300, B + 300
    elif kind == "sparse":
        of = SparseActivations.of(values)
    found = class_separation(of, a, b.copy())
    for n, x, y in columns(values):
        auc, variance = slow_delong(x, y)
        assert found.auc[n] == pytest.approx(auc, abs=1e-12)
        assert (found.mean_a[n], found.count_b[n]) == (pytest.approx(x.mean()), len(y))
        if n == 7:
            assert (found.auc[n], found.p[n]) == (0.5, 1.0)
            continue
        assert found.p[n] == pytest.approx(mannwhitneyu(x, y, method="asymptotic").pvalue, rel=1e-9)
        half = norm.ppf(0.975) * variance**0.5 / (auc * (1 - auc))
        low, high = (1 / (1 + np.exp(-(np.log(auc / (1 - auc)) + sign * half))) for sign in (-1, 1))
        assert (found.low[n], found.high[n]) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))
    ordered = np.sort(found.p.numpy())
    assert found.q.min() == pytest.approx((ordered * len(ordered) / np.arange(1, 31)).min())


def test_groups_count_once(values) -> None:
    groups = torch.arange(80) // 3  # some hold images of both classes
    found = class_separation(values, A, B.copy(), groups=groups)
    for n, x, y in columns(values):
        if n in (4, 5, 7):
            continue
        auc, variance = slow_obuchowski(x, y, groups[A].tolist(), groups[B.copy()].tolist())
        assert found.p[n] == pytest.approx(2 * norm.sf(abs(auc - 0.5) / variance**0.5), rel=1e-9)
    alone, plain = (class_separation(values, A, B.copy(), groups=g) for g in (torch.arange(80), None))
    assert torch.allclose(alone.low, plain.low, atol=1e-9)
    thrice = torch.cat([values] * 3)
    rows_a, rows_b = (np.concatenate([rows + 80 * i for i in range(3)]) for rows in (A, B))
    copies = class_separation(thrice, rows_a, rows_b, groups=torch.arange(80).repeat(3))
    keep = torch.arange(30) != 7
    assert torch.allclose(copies.low[keep], plain.low[keep], atol=0.02), "copies of images are no more evidence"
    assert (class_separation(thrice, rows_a, rows_b).low > copies.low)[keep].all()


@pytest.mark.parametrize(("m", "n", "shift"), [(12, 15, 0.5), (30, 40, 1.5), (30, 30, 2.5), (100, 20, 0.0)])
def test_intervals_hold_the_truth_as_often_as_they_say(m, n, shift) -> None:
    drawn = torch.randn(m + n, 2000, generator=torch.Generator().manual_seed(1))
    drawn[:m] += shift
    found = class_separation(drawn, np.arange(m), np.arange(m, m + n))
    true = norm.cdf(shift / 2**0.5)
    assert 0.93 <= ((found.low <= true) & (true <= found.high)).double().mean() <= 0.98
    if not shift:
        assert (found.p <= 0.05).double().mean() <= 0.06
        assert (found.q <= 0.05).sum() <= 2


def test_perfect_separation_has_an_interval_of_some_width() -> None:
    found = class_separation(torch.tensor([[3.0], [2.0], [2.5], [0.0], [1.0]]), [0, 1, 2], [3, 4])
    assert found.auc[0] == 1 == pytest.approx(found.high[0])
    assert 0.2 < found.low[0] < 0.7
    lone = class_separation(torch.tensor([[3.0], [2.0], [torch.nan]]), [0], [1, 2])
    assert lone.auc.isnan().all()
    assert lone.q.isnan().all()


def test_an_image_is_of_one_class() -> None:
    for a, b in (([0, 1], [1]), ([], [1])):
        with pytest.raises(InputError, match="class"):
            class_separation(torch.zeros(2, 1), a, b)


def test_restricted_contrasts_are_those_of_a_slow_copy() -> None:
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(60, 8, generator=generator)
    values[5, 0], values[40, 1] = torch.nan, torch.nan
    e = torch.nn.functional.normalize(torch.randn(60, 6, generator=generator), dim=1)
    in_a = torch.arange(60) < 7
    for_a = torch.arange(8) % 2 == 0
    values[:7, for_a] += 2
    found, cold = restricted_exemplars(values, e, in_a, for_a, 10)
    for n in range(8):
        own = in_a if for_a[n] else ~in_a
        ranked = [int(i) for i in (-values[:, n]).argsort(stable=True) if own[i] and values[i, n].isfinite()][:10]
        ranked = sorted(ranked, key=lambda i: (-float(values[i, n]), i))
        assert [i for i in found.positives[n].tolist() if i >= 0] == ranked
        below = (values[own, n].nanmean() + values[~own, n].nanmean()) / 2
        allowed = [i for i in range(60) if not own[i] and values[i, n] < below]
        for rank, image in enumerate(ranked):
            best = max(float(e[image].double() @ e[i].double()) for i in allowed)
            partner = int(found.contrasts[n, rank])
            assert partner in allowed
            assert float(e[image].double() @ e[partner].double()) >= best - TIE
            assert cold[n, rank] == values[partner, n]
