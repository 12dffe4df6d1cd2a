"""The audit against slow copies and scikit-learn's KMeans."""

import math

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch.nn.functional import normalize

from contralens.math import exemplar_statistics
from contralens.types import Exemplars


def exemplars(positives):
    p = torch.as_tensor(positives)
    there = p >= 0
    ones = torch.ones(p.shape).masked_fill(~there, torch.nan)
    return Exemplars(torch.arange(len(p)), p, ones, p.clone(), ones)


def cloud(neurons, k, width, parts=1, gap=1.0, noise=0.4, seed=0):
    """Embeddings of `neurons` x k images, each neuron's around `parts` directions that lie `gap` apart."""
    g = torch.Generator().manual_seed(seed)
    centres = normalize(torch.randn(neurons, 1, width, generator=g), dim=2)
    offsets = gap * normalize(torch.randn(neurons, parts, width, generator=g), dim=2)
    which = torch.arange(k) * parts // k
    spread = noise * torch.randn(neurons, k, width, generator=g) * torch.linspace(1.5, 0.2, width) / math.sqrt(width)
    e = normalize((centres + offsets[:, which] + spread).flatten(0, 1), dim=1)
    return exemplars(torch.arange(neurons * k).reshape(neurons, k)), e


def test_clarity_is_the_mean_off_diagonal_cosine():
    found, e = cloud(6, 9, 16)
    found.positives[0, 5:], found.positives[1, 1:], found.positives[2] = -1, -1, -1
    expected = []
    for row in found.positives:
        v = e[row[row >= 0]].double().numpy()
        cosines = v @ v.T
        k = len(v)
        expected.append((cosines.sum() - np.trace(cosines)) / (k * (k - 1)) if k > 1 else math.nan)
    np.testing.assert_allclose(exemplar_statistics.clarity(found, e), expected, rtol=1e-5)


def test_redundancy_is_the_largest_cosine_with_another_neuron():
    found, e = cloud(7, 5, 8)
    found.positives[3] = -1
    means = [normalize(e[row].mean(0), dim=0) if (row >= 0).all() else None for row in found.positives]
    expected = [
        math.nan if v is None else max(float(v @ w) for m, w in enumerate(means) if m != n and w is not None)
        for n, v in enumerate(means)
    ]
    np.testing.assert_allclose(exemplar_statistics.redundancy(found, e), expected, rtol=1e-5)
    assert exemplar_statistics.redundancy(found.of(slice(1)), e).isnan().all()


def test_two_means_is_as_good_as_scikit_learns():
    found, e = cloud(40, 20, 12, noise=1.0)
    there = found.positives >= 0
    found.positives[7, 15:], there[7, 15:] = -1, False
    side = exemplar_statistics.two_means(exemplar_statistics.gram(found, e), there)
    assert torch.equal(side == -1, ~there)
    worse = 0
    for n in range(40):
        v = e[found.positives[n][there[n]]].double().numpy()
        mine = side[n][there[n]].numpy()
        inertia = sum(((v[mine == c] - v[mine == c].mean(0)) ** 2).sum() for c in (0, 1))
        assert (mine == 0).sum() >= (mine == 1).sum() >= 1
        reference = KMeans(2, n_init=10, random_state=0).fit(v)
        assert inertia <= 1.1 * reference.inertia_
        worse += inertia > reference.inertia_ + 1e-6
    assert worse <= 20  # pure noise has many optima; a planted pair is always found (below)


def test_polysemanticity_of_planted_pairs_equals_scikit_learns_centres():
    found, e = cloud(10, 12, 16, parts=2)
    expected = []
    for row in found.positives:
        centres = KMeans(2, n_init=10, random_state=0).fit(e[row].double().numpy()).cluster_centers_
        a, b = centres / np.linalg.norm(centres, axis=1, keepdims=True)
        expected.append(1 - a @ b)
    np.testing.assert_allclose(exemplar_statistics.polysemanticity(found, e), expected, rtol=1e-4)


def test_polysemanticity_falls_back_where_a_cluster_has_one_member():
    e = normalize(torch.tensor([[1.0, 0.02], [1.0, 0.0], [1.0, 0.01], [-0.2, 1.0]]), dim=1)
    mean = normalize(e.mean(0), dim=0)
    assert float(exemplar_statistics.polysemanticity(exemplars([[0, 1, 2, 3]]), e)) == pytest.approx(
        float((1 - e @ mean).mean()), abs=1e-6
    )
    assert exemplar_statistics.polysemanticity(exemplars([[0, -1]]), e).isnan().all()
