"""FALCON's feature groups and filter against a slow copy: plain loops over images and features."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from torch.nn.functional import normalize

from contralens.errors import InputError
from contralens.math.activation_sources import SparseActivations
from contralens.math.feature_groups import coherence, feature_groups


def case(images=120, features=30):
    g = torch.Generator().manual_seed(0)
    a = 0.2 * torch.rand(images, features, generator=g)
    kind = torch.randint(5, (images,), generator=g)
    for k, some in enumerate([(2, 7), (7,), (11, 12, 13), (20,)]):
        for n in some:
            a[kind == k, n] += 4.0
    return a, kind


def slow(a, limit, least):
    rows = []
    for row in a.double().tolist():
        row = [x if math.isfinite(x) else 0.0 for x in row]
        length = math.sqrt(sum(x * x for x in row))
        rows.append([x / length if length else 0.0 for x in row])
    flat = [x for row in rows for x in row]
    threshold = statistics.mean(flat) + limit * statistics.stdev(flat)
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        name = ",".join(str(n) for n, x in enumerate(row) if x >= threshold)
        if name:
            groups.setdefault(name, []).append(i)
    return {name: images for name, images in groups.items() if len(images) > least}


@pytest.mark.parametrize(("limit", "least"), [(2.0, 10), (1.0, 3), (3.0, 0)])
def test_agrees_with_the_slow_copy(limit, least) -> None:
    a, _ = case()
    a[3, 2], a[5] = math.nan, 0.0
    found = feature_groups(a, limit=limit, least=least)
    expected = slow(a, limit, least)
    assert expected
    assert {",".join(map(str, g.features)): g.images.tolist() for g in found} == expected
    sizes = [len(g.images) for g in found]
    assert sizes == sorted(sizes, reverse=True)
    again = feature_groups(SparseActivations.of(a.nan_to_num(0.0)), limit=limit, least=least)
    assert [g.features for g in again] == [g.features for g in found]


def test_planted_groups_are_found() -> None:
    a, kind = case()
    found = {g.features: g.images for g in feature_groups(a, limit=2.0)}
    assert set(found) == {(2, 7), (7,), (11, 12, 13), (20,)}
    assert torch.equal(found[2, 7], (kind == 0).nonzero()[:, 0])


def test_coherence_is_the_mean_of_all_pairs() -> None:
    e = normalize(torch.rand(20, 5, generator=torch.Generator().manual_seed(1)), dim=1)
    images = torch.tensor([3, 4, 9, 15])
    pairs = [float(e[i] @ e[j]) for i in images for j in images]
    assert coherence(e, images) == pytest.approx(sum(pairs) / 16, abs=1e-6)
    assert coherence(e, images[:0]) == 0.0
    assert feature_groups(torch.zeros(5, 3)) == feature_groups(torch.zeros(0, 3)) == []
    with pytest.raises(InputError, match="must not be negative"):
        feature_groups(e, limit=-1)
