"""`find_exemplars` against the slow copy of the paper, and the laws that hold whatever the data."""

from __future__ import annotations

import math

import numpy as np
import paper
import pytest
import torch
from clusters import clustered
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from contralens.errors import InputError
from contralens.math.exemplars import find_exemplars
from contralens.math.statistics import neuron_statistics, select_neurons

FIELDS = ("neurons", "positives", "activations", "contrasts", "similarities")


def same(x, y, cosine=1e-12):
    """All five fields equal; cosines to within `cosine`."""
    for field in FIELDS:
        torch.testing.assert_close(
            getattr(x, field), getattr(y, field), rtol=0, atol=cosine if field == "similarities" else 0, equal_nan=True
        )


def agrees(found, a, e, k, **options):
    positives, values, contrasts, cosines = paper.exemplars(a, e, k, **options)
    assert found.positives.tolist() == positives.tolist()
    np.testing.assert_array_equal(found.activations.double(), values)
    assert found.contrasts.tolist() == contrasts.tolist()
    np.testing.assert_allclose(found.similarities.double(), cosines, atol=1e-6)


@pytest.mark.parametrize(
    ("k", "reuse", "exclude"),
    [(k, reuse, exclude) for k in (1, 30) for reuse in (True, False) for exclude in (None, 0.8)]
    + [(5, True, 0.8), (5, False, None)],
)
def test_agrees_with_the_paper(case, k, reuse, exclude):
    a, e = case
    found = find_exemplars(a, e, k=k, reuse=reuse, exclude=exclude)
    agrees(found, a, e, k, reuse=reuse, exclude=exclude)


@pytest.mark.parametrize("exclude", [1.0, 0.25, 0.0, -0.5, -1.0])
@pytest.mark.parametrize("reuse", [True, False])
def test_exclusion_at_a_cosine_that_occurs(exclude, reuse):
    a, _ = clustered(40, 5, seed=4)
    e = normalize(torch.randint(-1, 2, (40, 4), generator=torch.Generator().manual_seed(2)).float() + 1e-3, dim=1)
    e[:4] = torch.eye(4)
    e[4:8] = torch.tensor([0.25, math.sqrt(1 - 0.0625), 0.0, 0.0])  # cosine exactly 0.25 to image 0
    agrees(find_exemplars(a, e, k=9, exclude=exclude, reuse=reuse), a, e, 9, exclude=exclude, reuse=reuse)


def test_partners_that_differ_by_less_than_float32_can_tell():
    """A thousand look-alikes whose cosines lie within 1e-7: only float64 sees the order."""
    g = torch.Generator().manual_seed(0)
    base = normalize(torch.randn(64, generator=g, dtype=torch.float64), dim=0)
    e = normalize(base + 1e-4 * torch.randn(1000, 64, generator=g, dtype=torch.float64), dim=1).float()
    a = torch.randn(1000, 3, generator=g)
    agrees(find_exemplars(a, e, k=6), a, e, 6)


def test_numpy_half_and_memmap_inputs(tmp_path):
    a, e = clustered(70, 6)
    expected = find_exemplars(a, e, k=8)
    same(find_exemplars(a.numpy(), e.numpy(), k=8), expected)
    for name, array in (("a", a), ("e", e)):
        np.save(tmp_path / f"{name}.npy", array.numpy())
    mapped = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "ae"]
    same(find_exemplars(*mapped, k=8), expected)
    agrees(find_exemplars(a.half(), e, k=8), a.half().float(), e, 8)
    agrees(find_exemplars(a.T.contiguous().T, e.T.contiguous().T, k=8), a, e, 8)  # any memory layout


def test_chosen_neurons_in_the_order_given():
    a, e = clustered(60, 9)
    whole = find_exemplars(a, e, k=5)
    some = find_exemplars(a, e, k=5, neurons=[7, 2, 2, 0])
    assert some.neurons.tolist() == [7, 2, 2, 0]
    for field in FIELDS[1:]:
        torch.testing.assert_close(getattr(some, field), getattr(whole, field)[[7, 2, 2, 0]], equal_nan=True)
    assert len(find_exemplars(a, e, k=5, neurons=[])) == 0


@pytest.mark.parametrize("reuse", [True, False])
def test_the_first_k_are_the_exemplars_of_k(case, reuse):
    a, e = case
    many = find_exemplars(a, e, k=12, reuse=reuse)
    for k in {1, min(5, len(a))}:
        same(many.first(k), find_exemplars(a, e, k=k, reuse=reuse), cosine=1e-6)


def test_threads_change_nothing():
    a, e = clustered(300, 12)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(find_exemplars(a, e, k=20))
    finally:
        torch.set_num_threads(before)
    same(found[0], found[1])
    same(found[0], found[2])


def test_inputs_are_left_alone():
    a, e = clustered(40, 4)
    a[3, 1], e[5, 0] = math.nan, math.nan
    before = a.clone(), e.clone()
    find_exemplars(a, e, k=5, reuse=False, exclude=0.9)
    assert torch.equal(a.nan_to_num(7), before[0].nan_to_num(7))
    assert torch.equal(e.nan_to_num(7), before[1].nan_to_num(7))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"embeddings": torch.zeros(3, 2)}, "must have 4 rows, one per image; got shape (3, 2)"),
        ({"activations": torch.zeros(4)}, "`activations` must be a matrix; got shape (4,)"),
        ({"activations": torch.zeros(0, 2), "embeddings": torch.zeros(0, 2)}, "holds no image"),
        ({"k": 0}, "`k` must be at least 1; got 0"),
        ({"neurons": [0, 2]}, "`neurons` must lie in 0..1; got 0..2"),
    ],
)
def test_errors_say_what_is_wrong(change, says):
    arguments = {"activations": torch.zeros(4, 2), "embeddings": torch.zeros(4, 2), **change}
    with pytest.raises(InputError) as error:
        find_exemplars(**arguments)
    assert says in str(error.value)


# Laws


layers = st.integers(0, 10**6).flatmap(
    lambda seed: st.tuples(st.integers(1, 40), st.integers(1, 5), st.booleans()).map(lambda s: _layer(seed, *s))
)


def _layer(seed, images, neurons, coarse):
    a, e = clustered(images, neurons, clusters=3, width=6, seed=seed)
    a = a - a.mean()
    if coarse:  # ties in the activations and in the cosines
        a, e = a.round(), normalize((e * 2).round() + torch.tensor([1.0, 0, 0, 0, 0, 0]) * 0.5, dim=1)
    return a, e


@settings(max_examples=60, deadline=None)
@given(layers, st.integers(1, 9), st.booleans(), st.sampled_from([None, 0.9]))
def test_any_layer_agrees_with_the_paper(layer, k, reuse, exclude):
    a, e = layer
    agrees(find_exemplars(a, e, k=k, reuse=reuse, exclude=exclude), a, e, k, reuse=reuse, exclude=exclude)


@settings(max_examples=40, deadline=None)
@given(layers, st.randoms(use_true_random=False))
def test_renumbering_the_images_renumbers_the_exemplars(layer, random):
    """Up to ties: ranks keep their activation, and each positive keeps the cosine of its contrast."""
    a, e = layer
    order = list(range(len(a)))
    random.shuffle(order)
    x, y = find_exemplars(a, e, k=5), find_exemplars(a[order], e[order], k=5)
    assert torch.equal(x.activations, y.activations)
    back = torch.tensor(order)
    for n in range(a.shape[1]):
        cosine = dict(zip(x.positives[n].tolist(), x.similarities[n].tolist(), strict=True))
        for p, q, s in zip(
            back[y.positives[n]].tolist(), y.contrasts[n].tolist(), y.similarities[n].tolist(), strict=True
        ):
            if p in cosine:
                assert s == pytest.approx(cosine[p], abs=1e-6, nan_ok=True)
            if q >= 0:
                assert float(a[order][q, n]) < float(a[:, n].double().mean())


@settings(max_examples=40, deadline=None)
@given(layers, st.sampled_from([0.5, 2.0, 1024.0, 2.0**-20]))
def test_scaling_the_activations_changes_no_exemplar(layer, factor):
    a, e = layer
    x, y = find_exemplars(a, e, k=6), find_exemplars(a * factor, e, k=6)
    assert torch.equal(x.positives, y.positives)
    assert torch.equal(x.contrasts, y.contrasts)


@settings(max_examples=30, deadline=None)
@given(layers, st.booleans())
def test_a_duplicate_appended_at_the_end_never_wins_a_tie(layer, reuse):
    """Every image twice: with reuse, contrasts stay among the first copies."""
    a, e = layer
    found = find_exemplars(torch.cat([a, a]), torch.cat([e, e]), k=4, reuse=reuse)
    if reuse:
        assert int(found.contrasts.max()) < len(a)
    else:
        for row in found.contrasts.tolist():
            taken = [q for q in row if q >= 0]
            assert len(set(taken)) == len(taken)


def test_statistics_against_plain_loops(case):
    a, _ = case
    found = neuron_statistics(a)
    for n, column in enumerate(a.double().T.tolist()):
        known = [v for v in column if math.isfinite(v)]
        assert int(found.missing[n]) == len(column) - len(known)
        assert int(found.firing[n]) == sum(v > 1e-6 for v in a[:, n].tolist() if math.isfinite(v))
        if not known:
            assert math.isnan(found.mean[n])
            assert math.isnan(found.maximum[n])
            assert math.isnan(found.minimum[n])
            assert found.status()[n] == "nan"
            continue
        assert float(found.mean[n]) == pytest.approx(math.fsum(known) / len(known), rel=1e-12, abs=1e-12)
        assert (float(found.maximum[n]), float(found.minimum[n])) == (max(known), min(known))
        dead, constant = max(map(abs, known)) <= 1e-6, len(set(known)) == 1
        assert found.status()[n] == ("dead" if dead else "constant" if constant else "ok")


@pytest.mark.parametrize("rate", [None, 0.5])
@pytest.mark.parametrize(("most", "least", "top"), [(3, 20, 10), (200, 1, 1000), (5, 40, 1)])
def test_selection_against_plain_loops(case, rate, most, least, top):
    a, _ = case
    strength = {}
    for n in range(a.shape[1]):
        known = [v for v in a[:, n].tolist() if math.isfinite(v)]
        firing = sum(v > 1e-6 for v in known)
        if known and firing >= least and (rate is None or firing < rate * len(known)):
            best = sorted(known, reverse=True)[:top]
            strength[n] = math.fsum(best) / len(best)
    expected = sorted(strength, key=lambda n: (-strength[n], n))[:most]
    got = select_neurons(a, most=most, least_firing=least, most_firing_rate=rate, top=top).tolist()
    assert [round(strength[n], 9) for n in got] == [round(strength[n], 9) for n in expected]
    assert len(set(got)) == len(expected)
