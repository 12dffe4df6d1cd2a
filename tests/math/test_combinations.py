"""Combinations among labels: which are found, the test against a slow copy, and neurons whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from contralens.math.activation_sources import source
from contralens.math.combinations import allowed_combinations, parts_of
from contralens.world.captions import concepts


def test_parts_of_the_worlds_pairs_are_their_levels() -> None:
    words = concepts(2)
    found = parts_of([c.text for c in words])
    pairs = {(c, d) for c, own in enumerate(words) for d, other in enumerate(words)
             if len(own.levels) == 2 and len(other.levels) == 1 and other.levels[0] in own.levels}  # fmt: skip
    assert set(map(tuple, found.tolist())) == pairs


def test_parts_of_other_texts() -> None:
    assert parts_of(["dog or wolf", "dog", "a wolf", "hot dog", "DOG"]).tolist() == [
        [0, 1], [0, 2], [0, 4], [3, 1], [3, 4]
    ]  # fmt: skip
    assert parts_of(["of the", "a thing", "", "cat"]).shape == (0, 2)


@pytest.fixture
def case():
    g = torch.Generator().manual_seed(0)
    shows = torch.rand(600, 6, generator=g) < 0.3
    e = normalize(shows + 0.3 * torch.randn(600, 6, generator=g), dim=1)
    t = torch.cat([torch.eye(6), normalize(torch.eye(6)[[0, 1, 2]] + torch.eye(6)[[3, 4, 5]], dim=1)])
    parts = torch.tensor([[6, 0], [6, 3], [7, 1], [7, 4], [8, 2], [8, 5]])
    both = [shows[:, i] & shows[:, i + 3] for i in range(3)]
    a = torch.stack([*both, *(shows[:, i] for i in range(3))], 1) + 0.1 * torch.rand(600, 6, generator=g)
    return a, e, t, parts


def test_agrees_with_the_slow_copy(case) -> None:
    a, e, t, parts = case
    a[3, 0], a[5:9, 1] = math.nan, math.inf
    e[7] = math.nan
    for least in (0.0, 1.645, 6.0):
        fast = allowed_combinations(source(a), e, t, parts, least=least)
        usable = [i for i in range(len(e)) if bool(e[i].isfinite().all())]
        for n in range(a.shape[1]):
            finite = [i for i in usable if math.isfinite(a[i, n])]
            mean = np.mean([float(a[i, n]) for i in finite])
            values = np.array([float(a[i, n]) if math.isfinite(a[i, n]) else mean for i in usable])
            said = e[usable].double().numpy() @ t.double().numpy().T
            # images without an activation count as the mean, and not in the neuron's deviation
            spread = np.std([float(a[i, n]) for i in finite]) * len(finite)
            x = said - said.mean(0)
            r = [float((values - mean) @ x[:, c]) / spread / x[:, c].std() for c in range(len(t))]
            for c in range(6, 9):
                z = []
                for d in (d for cc, d in parts.tolist() if cc == c):
                    rx = np.corrcoef(said[:, c], said[:, d])[0, 1]
                    q = (r[c] ** 2 + r[d] ** 2) / 2
                    f = min(1, (1 - rx) / (2 * (1 - q)))
                    h = (1 - f * q) / (1 - q)
                    z.append((math.atanh(r[c]) - math.atanh(r[d])) * math.sqrt((len(usable) - 3) / (2 * (1 - rx) * h)))
                assert bool(fast[n, c]) == (min(z) >= least), (n, c, z)
        assert fast[:, :6].all()


def test_combinations_stay_where_they_are_the_truth_and_only_there(case) -> None:
    a, e, t, parts = case
    allowed = allowed_combinations(a, e, t, parts)
    for n in range(3):
        assert bool(allowed[n, 6 + n])
        assert not bool(allowed[3 + n, 6 + n])
    assert torch.equal(allowed_combinations(a, e, t, parts, neurons=[4, 0]), allowed[[4, 0]])
    assert allowed_combinations(a, e, t, parts[:0]).all()
    assert allowed_combinations(a, e, t, parts, neurons=[]).shape == (0, 9)
    assert not allowed_combinations(torch.zeros(600, 1), e, t, parts)[0, 6:].any()
