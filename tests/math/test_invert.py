"""INVERT against slow copies: AUC by scikit-learn and SciPy, the beam search by plain loops over sets of images."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu
from sklearn.metrics import roc_auc_score
from torch.nn.functional import normalize

from contralens.errors import InputError
from contralens.math.exemplars import find_exemplars
from contralens.math.invert import invert, invert_formulas


def case(images=150, concepts=7, seed=0):
    g = torch.Generator().manual_seed(seed)
    t = normalize(torch.randn(concepts, 6, generator=g), dim=1)
    e = normalize(torch.randn(images, 6, generator=g), dim=1)
    a = (torch.randn(images, 4, generator=g) + 3 * (e @ t.T)[:, :4]).mul(4).round()  # ties
    return a, e, t


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_agrees_with_the_slow_copy(share) -> None:
    a, e, t = case()
    a[3, 0], a[4, 1], e[9] = math.nan, math.inf, math.nan
    fast = invert(find_exemplars(a, e, k=5), e, t, activations=a, share=share)
    images = [i for i in range(len(e)) if i != 9]
    for c in range(len(t)):
        similar = {i: float(e[i] @ t[c]) for i in images}
        top = sorted(images, key=lambda i: -similar[i])[: max(1, round(share * len(images)))]
        for n in range(4):
            own = [i for i in images if math.isfinite(a[i, n])]
            expected = roc_auc_score([i in top for i in own], [float(a[i, n]) for i in own])
            assert float(fast[n, c]) == pytest.approx(expected, abs=1e-6)


def slow(values, shows, length, beam, least):
    """The best formula of each length by plain loops: sets of images, AUC by SciPy."""
    images = [i for i in range(len(values)) if math.isfinite(values[i])]
    holds = [frozenset(i for i in range(len(values)) if shows[i, c]) for c in range(shows.shape[1])]
    everything = frozenset(range(len(values)))

    def auc(phi):
        one, other = [values[i] for i in images if i in phi], [values[i] for i in images if i not in phi]
        if len(one) < least or len(one) > len(images) / 2:
            return -1.0
        return mannwhitneyu(one, other).statistic / (len(one) * len(other))

    kept = sorted(((auc(phi), (c,), (), phi) for c, phi in enumerate(holds)), key=lambda f: -round(f[0], 9))
    kept = [f for f in kept if f[0] >= 0][:beam]
    out = kept[:1]
    for _ in range(1, length):
        grown = []
        for _, used, ways, phi in kept:
            for way in ("and", "or", "and not", "or not"):
                for c, other in enumerate(holds):
                    if c not in used:
                        other = everything - other if way.endswith("not") else other
                        made = phi & other if way.startswith("and") else phi | other
                        grown.append((auc(made), (*used, c), (*ways, way), made))
        kept = [f for f in sorted(grown, key=lambda f: -round(f[0], 9)) if f[0] >= 0][:beam]
        if kept and kept[0][0] > max(f[0] for f in out) + 1e-12:
            out.append(kept[0])
    return out


@pytest.mark.parametrize(("length", "beam", "least"), [(3, 5, 5), (2, 1, 1), (3, 2, 12), (1, 3, 5)])
def test_the_beam_search_agrees_with_the_slow_copy(length, beam, least) -> None:
    g = torch.Generator().manual_seed(1)
    shows = torch.rand(120, 6, generator=g) < torch.tensor([0.1, 0.2, 0.3, 0.4, 0.02, 0.9])
    a = torch.randn(120, 3, generator=g) + 2.0 * (shows[:, 1] & ~shows[:, 2])[:, None]
    a[:, 1] += 3.0 * shows[:, 3]
    a[7, 2] = math.nan
    for column, found in zip(a.T, invert_formulas(a, shows, length=length, beam=beam, least=least), strict=True):
        expected = slow(column.double().tolist(), shows.numpy(), length, beam, least)
        assert [f.auc for f in found] == pytest.approx([f[0] for f in expected])
        assert [(f.concepts, f.ways) for f in found] == [f[1:3] for f in expected]


def test_p_is_scipys_and_the_share_that_of_the_images() -> None:
    a, e, t = case()
    shows = (e @ t.T) > 0.4
    for column, found in zip(a.T, invert_formulas(a, shows, length=1), strict=True):
        (formula,) = found
        phi = shows[:, formula.concepts[0]]
        told = mannwhitneyu(column[phi], column[~phi], alternative="greater", method="asymptotic", use_continuity=False)
        assert formula.p == pytest.approx(told.pvalue, rel=1e-6)
        assert formula.share == pytest.approx(float(phi.double().mean()))


def test_labels_are_read_as_they_are_and_wrong_arguments_named() -> None:
    shows = torch.rand(300, 5, generator=torch.Generator().manual_seed(0)) < 0.3
    a = shows[:, [2]] + 0.1 * torch.rand(300, 1)
    x = find_exemplars(a, normalize(shows + 0.1, dim=1), k=5)
    scores = invert(x, shows.float(), torch.eye(5), activations=a)
    assert float(scores[0, 2]) == 1.0
    assert scores.argmax(1).tolist() == [2]
    with pytest.raises(InputError, match="`share` must be above 0"):
        invert(x, shows.float(), torch.eye(5), activations=a, share=0.9)
    with pytest.raises(InputError, match="a row for each of 300 images"):
        invert_formulas(a, shows[:9])
    assert invert_formulas(a, np.zeros((300, 0), bool)) == [[]]
    assert invert_formulas(a, shows, neurons=[]) == []
