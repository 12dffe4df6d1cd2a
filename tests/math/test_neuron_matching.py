"""Matching of neurons against plain correlations and scipy's dense assignment."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

import contralens.math.neuron_matching as module
from contralens.errors import InputError
from contralens.math.activation_sources import SparseActivations
from contralens.math.neuron_matching import assignment, match_neurons


@pytest.fixture(scope="module")
def layer():
    """(400,24): rectified mixtures of eight sources, one neuron that never fires."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(400, 8, generator=generator) @ torch.randn(8, 24, generator=generator)
    x = (hidden + 0.5 * torch.randn(400, 24, generator=generator)).clamp_min(0)
    x[:, 5] = 0
    return x


def test_correlations_are_plain_ones_in_blocks_of_any_size(layer, monkeypatch) -> None:
    noise = torch.randn(layer.shape, generator=torch.Generator().manual_seed(1))
    other = (1000 + layer + noise)[:, :20]
    whole = match_neurons(layer, other, fakes=50)
    with np.errstate(invalid="ignore"):
        plain = np.corrcoef(layer.numpy().T, other.double().numpy().T)[:24, 24:]
    for found in (
        (whole.best_of_one_r, whole.best_of_one, np.nanmax(np.nan_to_num(plain, nan=-1), 1)),
        (whole.best_of_other_r, whole.best_of_other, np.nanmax(plain, 0)),
    ):
        assert found[0].numpy() == pytest.approx(found[2], abs=1e-5)
    monkeypatch.setattr(module, "BLOCK", 3 * 8 * 20)
    for pieces in (match_neurons(layer, other, fakes=50), match_neurons(SparseActivations.of(layer), other, fakes=50)):
        assert pieces.one_to_one.tolist() == whole.one_to_one.tolist()
        assert torch.allclose(pieces.best_of_other_r, whole.best_of_other_r)
        assert pieces.threshold == pytest.approx(whole.threshold)


@pytest.mark.parametrize("null", ["mixture", "permuted"])
def test_a_permuted_copy_is_matched_whole(layer, null) -> None:
    order = torch.randperm(24, generator=torch.Generator().manual_seed(2))
    found = match_neurons(layer, 3 * layer[:, order] + 7, fakes=100, null=null)
    alive = order != 5
    assert order[found.one_to_one[order[alive]]].tolist() == order[alive].tolist()
    assert found.one_to_one[5] == -1
    assert torch.allclose(found.one_to_one_r[order[alive]], torch.ones(23, dtype=torch.float64))


@pytest.mark.parametrize("null", ["mixture", "permuted"])
def test_the_threshold_is_what_null_neurons_rarely_reach(layer, null) -> None:
    generator = torch.Generator().manual_seed(3)
    strange = torch.randn(400, 24, generator=generator).clamp_min(0)
    found = match_neurons(layer, strange, fakes=400, null=null)
    assert (found.one_to_one >= 0).sum() <= 3, "unrelated neurons"
    if null == "permuted":
        assert 0.1 < found.threshold < 0.25
    assert match_neurons(layer, layer, fakes=20, null=null, least=0.97).threshold >= 0.97


def test_what_is_not_finite_counts_as_the_mean(layer) -> None:
    holes = layer.clone()
    holes[3, 2], holes[9, 4] = torch.nan, torch.inf
    filled = layer.clone()
    for image, neuron in ((3, 2), (9, 4)):
        kept = torch.arange(400) != image
        filled[image, neuron] = layer[kept, neuron].mean()
    one, other = (match_neurons(x, layer, fakes=5, null="permuted") for x in (holes, filled))
    assert torch.allclose(one.best_of_one_r[2:5], other.best_of_one_r[2:5], atol=1e-5)
    for wrong in (layer[:9], layer[:0]):
        with pytest.raises(InputError, match="images"):
            match_neurons(wrong, layer if len(wrong) else wrong)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 1000))
def test_the_assignment_is_that_of_the_dense_hungarian_method(rows, columns, seed) -> None:
    drawn = np.random.default_rng(seed).uniform(-1, 1, (rows, columns)).round(1)
    kept = np.where(drawn >= 0.3, drawn, 0)
    i, j = np.nonzero(kept)
    partner = assignment(torch.from_numpy(i), torch.from_numpy(j), torch.from_numpy(kept[i, j]), drawn.shape).numpy()
    chosen = partner >= 0
    assert len(set(partner[chosen])) == chosen.sum()
    assert (drawn[np.flatnonzero(chosen), partner[chosen]] >= 0.3).all()
    a, b = linear_sum_assignment(-kept)
    assert kept[np.flatnonzero(chosen), partner[chosen]].sum() == pytest.approx(kept[a, b].sum())
