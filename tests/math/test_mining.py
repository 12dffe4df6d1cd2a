"""The fast paths of mining, forced on small data: every one gives the same exemplars as the slow copy of the paper."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from clusters import CASES, clustered
from hypothesis import given, settings
from hypothesis import strategies as st
from test_exemplars import agrees, same
from torch.nn.functional import normalize

from contralens.errors import InputError
from contralens.math import activation_sources, contrast_search, exemplars, neighbours, tensors
from contralens.math.activation_sources import ActivationSource, DenseActivations, SparseActivations
from contralens.math.exemplars import find_exemplars, mine
from contralens.math.histograms import RunningHistogram, histograms
from contralens.math.neighbours import Products
from contralens.math.statistics import RunningSurvey, neuron_statistics, select_neurons, survey


@pytest.fixture(params=["float32", "bfloat16"])
def tiny(monkeypatch, request):
    """Lists of a few neighbours and blocks of a few rows, so that 90 images already take every path."""
    monkeypatch.setattr(neighbours, "SMALL", 8)
    monkeypatch.setattr(exemplars, "LENGTH", 6)
    monkeypatch.setattr(contrast_search, "LISTS", 17)
    for module in (neighbours, contrast_search):
        monkeypatch.setattr(module, "CACHE", 600)
    monkeypatch.setattr(neighbours, "bfloat16_is_fast", lambda device: request.param == "bfloat16")
    if request.param == "bfloat16":  # also where its error hides the differences
        monkeypatch.setattr(Products, "_trustworthy", lambda self, tolerance: True)
    block = DenseActivations.blocks
    monkeypatch.setattr(
        DenseActivations, "blocks", lambda self, neurons=None, budget=0: block(self, neurons, 4 * 37 * 8)
    )
    return request.param


@pytest.mark.parametrize(
    ("k", "reuse", "exclude"), [(1, True, None), (1, False, 0.6), (12, True, 0.6), (12, False, None)]
)
def test_short_lists_and_small_blocks(case, tiny, k, reuse, exclude):
    """Each pair of options once; all of them together stand in test_exemplars."""
    a, e = case
    found = find_exemplars(a, e, k=k, reuse=reuse, exclude=exclude)
    agrees(found, a, e, k, reuse=reuse, exclude=exclude)


def test_precision_in_use(tiny):
    _, e = CASES["plain"]
    assert Products(e).dtype == getattr(torch, tiny)


@pytest.mark.parametrize("images", [1500, 2500])
@pytest.mark.parametrize("reuse", [True, False])
def test_larger_layers(images, reuse, monkeypatch):
    """Real constants, in both precisions; hot clusters larger than a list, so that some pairs must look further."""
    a, e = clustered(images, 12, clusters=3, width=48)
    a += 3 * torch.relu(e @ e[:12].T)
    found = []
    for fast in (True, False):
        monkeypatch.setattr(neighbours, "bfloat16_is_fast", lambda device, fast=fast: fast)
        assert Products(e).dtype == (torch.bfloat16 if fast else torch.float32)
        found.append(find_exemplars(a, e, k=15, reuse=reuse))
    same(*found)
    agrees_fast(found[0], a, e, reuse)


def agrees_fast(found, a, e, reuse):
    """As `agrees`, with a matrix product in float64 in place of the slow sums."""
    cosine = e.double() @ e.double().T
    below = a.double() < a.double().mean(0)
    for n in range(a.shape[1]):
        order = sorted(range(len(a)), key=lambda i: (-float(a[i, n]), i))[: found.positives.shape[1]]
        assert found.positives[n].tolist() == order
        allowed = below[:, n].clone()
        for p, q in zip(order, found.contrasts[n].tolist(), strict=True):
            masked = cosine[p].masked_fill(~allowed, -math.inf)
            assert q == int((masked >= masked.max() - 1e-12).nonzero()[0])
            if not reuse:
                allowed[q] = False


@pytest.mark.parametrize("scale", [1.0, 30.0, 0.01])
def test_products_keep_their_promise(scale):
    """Unit rows or not, in a cone or not: no product is off by more than the tolerance."""
    g = torch.Generator().manual_seed(0)
    for offset in (0.0, 1.0):
        e = scale * normalize(torch.randn(1200, 96, generator=g) + offset, dim=1)
        products = Products(e)
        for dtype in {torch.float32, products.dtype}:
            rows = e.to(dtype)
            error = ((rows @ rows.T).double() - e.double() @ e.double().T).abs().max()
            assert dtype != products.dtype or float(error) <= products.tolerance


def test_bfloat16_is_left_where_it_tells_nothing_apart(monkeypatch):
    monkeypatch.setattr(neighbours, "bfloat16_is_fast", lambda device: True)
    narrow = normalize(torch.randn(1500, 64, generator=torch.Generator().manual_seed(0)) * 1e-3 + 1, dim=1)
    assert Products(narrow).dtype == torch.float32
    assert Products(clustered(1500, 1, width=64)[1]).dtype == torch.bfloat16


@pytest.mark.parametrize("queries", [range(0, 3000, 7), range(2999, -1, -3), range(3000)], ids=len)
@pytest.mark.parametrize("cache", [neighbours.CACHE, 2**13], ids=["whole", "parts"])
def test_neighbour_lists_are_complete_above_their_floor(queries, cache, monkeypatch):
    monkeypatch.setattr(neighbours, "CACHE", cache)  # products of two queries serve both, in tiles of 32 x 32
    monkeypatch.setattr(neighbours, "ALIGN", 32)
    e = clustered(3000, 1, clusters=20, width=32)[1]
    products = Products(e)
    queries = torch.tensor(queries)
    near = neighbours.nearest_images(products, queries, 100)
    cosine = e.double() @ e.double().T
    assert 80 < float((near.images >= 0).sum(1).double().mean()) < 125
    for q, images, cosines, floor in zip(queries.tolist(), near.images, near.cosines, near.floor.tolist(), strict=True):
        known = images[images >= 0].long()
        assert len(known.unique()) == len(known)
        assert (cosine[q, known] - cosines[: len(known)]).abs().max() <= products.tolerance
        assert (cosines.diff() <= 0)[: len(known) - 1].all()
        rest = torch.ones(3000, dtype=torch.bool)
        rest[known] = False
        assert cosine[q, rest].max() <= floor + products.tolerance


@pytest.mark.parametrize("length", [2, 100])
def test_lists_that_fill_along_the_way_are_those_filled_at_the_end(length, monkeypatch):
    monkeypatch.setattr(neighbours, "CACHE", 2**13)
    monkeypatch.setattr(neighbours, "ALIGN", 32)
    products = Products(clustered(3000, 1, clusters=20, width=32)[1])
    queries = torch.randperm(3000, generator=torch.Generator().manual_seed(0))[:500]
    near = []
    for pending in (10**9, 1, 3):
        monkeypatch.setattr(neighbours, "PENDING", pending)
        near.append(neighbours.nearest_images(products, queries, length))
    assert int((near[0].images >= 0).sum(1).max()) == length * 3 // 2, "no list was full, so no floor rose"
    for other in near[1:]:
        assert torch.equal(near[0].cosines, other.cosines)
        assert torch.equal(near[0].floor, other.floor)
        for one, two, above in zip(near[0].images, other.images, near[0].cosines > near[0].floor[:, None], strict=True):
            assert set(one[above].tolist()) == set(two[above].tolist()), "only equals at the floor may differ"


@pytest.mark.parametrize("reuse", [True, False], ids=["reuse", "no_reuse"])
def test_threads_change_nothing(reuse, monkeypatch):
    a, e = clustered(700, 24, clusters=4, width=24)
    before = torch.get_num_threads()
    monkeypatch.setattr(neighbours, "CACHE", 2**17)
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found += [
                find_exemplars(way(a), e, k=4, reuse=reuse) for way in (DenseActivations, SparseActivations.of, Rows)
            ]
    finally:
        torch.set_num_threads(before)
    for one in found[1:]:
        same(one, found[0])


def test_lists_a_part_at_a_time_change_nothing(monkeypatch):
    a, e = clustered(1400, 40, clusters=4, width=24)
    whole = [mine(way(a), e, k=20) for way in (DenseActivations, SparseActivations.of)]
    monkeypatch.setattr(contrast_search, "LISTS", 100)
    for before, way in zip(whole, (DenseActivations, SparseActivations.of), strict=True):
        after = mine(way(a), e, k=20)
        same(after.exemplars, before.exemplars)
        assert torch.equal(after.cold.nan_to_num(-1), before.cold.nan_to_num(-1))


def test_spread_leaves_the_number_of_threads_alone_and_passes_errors_on():
    before = torch.get_num_threads()
    done = torch.zeros(10)
    try:
        torch.set_num_threads(2)
        tensors.spread(lambda part: done[part].add_(1), list(tensors.blocks(10, 1, budget=3)), done.device)
        assert torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError):
            tensors.spread(lambda part: 1 / 0, [slice(0, 1), slice(1, 2)], done.device)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert (done == 1).all()


# Sources


def ways(a):
    yield "dense", DenseActivations(a)
    yield "strided", DenseActivations(a.T.contiguous().T)
    yield "sparse", SparseActivations.of(a)
    yield "torch csr", a.to_sparse_csr()
    yield "streamed", Streamed(a)


class Streamed:
    """A source that knows nothing but the protocol, in blocks of 7 rows."""

    def __init__(self, a):
        self.a, self.shape, self.asked = a, tuple(a.shape), 0

    def blocks(self, neurons=None, budget=0):
        for start in range(0, len(self.a), 7):
            rows = self.a[start : start + 7]
            yield start, rows if neurons is None else rows[:, neurons]

    def lookup(self, images, neurons):
        self.asked += len(images)
        return self.a[images, neurons]


def test_the_protocol():
    a = torch.rand(4, 3)
    assert all(isinstance(w, ActivationSource) for name, w in ways(a) if name != "torch csr")
    assert isinstance(activation_sources.source(a), DenseActivations)


def test_all_sources_give_identical_exemplars(case, tiny):
    a, e = case
    reuse = tiny == "float32"
    expected = find_exemplars(a, e, k=9, reuse=reuse)
    some = [0, a.shape[1] - 1]
    chosen = find_exemplars(a, e, k=3, neurons=some, exclude=0.9)
    for _, way in ways(a):
        same(find_exemplars(way, e, k=9, reuse=reuse), expected)
        same(find_exemplars(way, e, k=3, neurons=some, exclude=0.9), chosen)


def test_all_sources_give_the_same_statistics(case):
    a, _ = case
    expected = neuron_statistics(a)
    for _, way in ways(a):
        found = neuron_statistics(way)
        torch.testing.assert_close(found.mean, expected.mean, rtol=1e-14, atol=1e-14, equal_nan=True)
        for field in ("maximum", "minimum", "firing", "missing"):
            torch.testing.assert_close(getattr(found, field), getattr(expected, field), rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(found.below(), expected.below(), rtol=1e-14, atol=1e-14, equal_nan=True)
        assert (
            select_neurons(way, most=4, least_firing=5).tolist() == select_neurons(a, most=4, least_firing=5).tolist()
        )


def test_activations_are_asked_for_candidates_only():
    a, e = clustered(2000, 10, width=32)
    streamed = Streamed(a)
    find_exemplars(streamed, e, k=10)
    assert streamed.asked < 10 * 10 * 60 < a.numel() / 3


def test_latents_of_a_sparse_autoencoder():
    """Rare latents: fewer firing images than K, so zeros become positives, by lower index."""
    g = torch.Generator().manual_seed(5)
    a = torch.rand(1300, 300, generator=g) * (torch.rand(1300, 300, generator=g) < 0.004)
    a[:, :5] = 0
    e = clustered(1300, 1, width=24)[1]
    dense = find_exemplars(a, e, k=12)
    same(find_exemplars(SparseActivations.of(a), e, k=12), dense)
    assert dense.positives[0].tolist() == list(range(12))
    assert (dense.contrasts[:5] == -1).all()


def test_sparse_rows_from_numpy_and_their_errors():
    parts = np.array([0, 1, 1, 3]), np.array([1, 0, 2]), np.array([2.0, 1.0, 3.0], dtype=np.float32)
    found = SparseActivations(*parts, (3, 3))
    assert next(found.blocks())[1].tolist() == [[0, 2, 0], [0, 0, 0], [1, 0, 3]]
    with pytest.raises(InputError, match="do not fit"):
        SparseActivations(*parts, (4, 3))
    with pytest.raises(InputError, match="rise within each image"):
        SparseActivations(parts[0], np.array([1, 2, 2]), parts[2], (3, 3))
    empty = SparseActivations(np.zeros(4), np.zeros(0), np.zeros(0, dtype=np.float32), (3, 2))
    assert empty.lookup(torch.tensor([0, 2]), torch.tensor([1, 0])).tolist() == [0, 0]
    assert neuron_statistics(empty).status() == ["dead", "dead"]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 300), st.integers(1, 6), st.integers(1, 80), st.booleans())
def test_running_top_is_the_stable_sort(seed, images, neurons, k, rising):
    g = torch.Generator().manual_seed(seed)
    a = torch.randint(-5, 6, (images, neurons), generator=g).float()
    if rising:
        a = a.sort(dim=0).values
    a[torch.rand(a.shape, generator=g) < 0.1] = math.nan
    k = min(k, images)
    _, values, top = survey(Streamed(a), k)
    for n in range(neurons):
        order = sorted((i for i in range(images) if a[i, n] == a[i, n]), key=lambda i: (-a[i, n], i))[:k]
        assert top[n].tolist() == order + [-1] * (k - len(order))
        assert values[n, : len(order)].tolist() == [float(a[i, n]) for i in order]


def test_below_is_the_mean_in_the_activations_precision():
    a = torch.randn(1000, 50, generator=torch.Generator().manual_seed(1))
    found = neuron_statistics(a)
    assert torch.equal(a < found.below(), a.double() < found.mean)
    constant = torch.tensor([0.1, 0.3])[None].expand(3, 2)  # the sum of three 0.1 is not three times 0.1
    assert not (constant < neuron_statistics(constant).below()).any()


class Rows(Streamed):
    """A source that gives whole rows, and counts how often each is read."""

    def __init__(self, a):
        super().__init__(a)
        self.read = torch.zeros(len(a), dtype=torch.int64)

    def visit(self, images):
        for some in torch.split(images, 5):
            self.read[some] += 1
            yield some, self.a[some]

    def lookup(self, images, neurons):
        return activation_sources.pairwise(self, images, neurons)


def test_rows_give_identical_exemplars(case, tiny, monkeypatch):
    """Row by row instead of pair by pair, in one round and, with little room, in several."""
    a, e = case
    for k, exclude, room in ((9, None, 900), (3, 0.6, 2**26)):
        expected = exemplars.mine(a, e, k=k, exclude=exclude)
        monkeypatch.setattr(contrast_search, "AT_ONCE", room if tiny == "float32" else 2**26 + 900 - room)
        found = exemplars.mine(Rows(a), e, k=k, exclude=exclude)
        same(found.exemplars, expected.exemplars)
        torch.testing.assert_close(found.cold, expected.cold, rtol=0, atol=0, equal_nan=True)
    same(find_exemplars(Rows(a), e, k=9, reuse=False), find_exemplars(a, e, k=9, reuse=False))


def test_activations_on_contrasts(case, tiny):
    a, e = case
    found = exemplars.mine(a, e, k=9)
    there = found.exemplars.contrasts >= 0
    values = a.T.gather(1, found.exemplars.contrasts.clamp_min(0))
    assert torch.equal(found.cold[there], values[there])
    assert found.cold[~there].isnan().all()


def test_each_row_is_read_once_a_round():
    a, e = clustered(2000, 30, width=32)
    rows = Rows(a)
    same(find_exemplars(rows, e, k=20), find_exemplars(a, e, k=20))
    assert rows.read.max() <= 2


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 8))
def test_running_survey_goes_on_where_it_was_put_aside(seed, images, k):
    g = torch.Generator().manual_seed(seed)
    a = torch.randint(-3, 4, (images, 5), generator=g).float()
    a[torch.rand(a.shape, generator=g) < 0.1] = math.nan
    k = min(k, images)
    statistics, values, top = survey(Streamed(a), k)
    running = RunningSurvey(k)
    for start in range(0, images, 7):
        running.add(start, a[start : start + 7])
        running = RunningSurvey(k, {name: value.clone() for name, value in running.state().items()})
    for field in ("mean", "maximum", "minimum", "firing", "missing"):
        torch.testing.assert_close(
            getattr(running.statistics(images), field), getattr(statistics, field), rtol=0, atol=0, equal_nan=True
        )
    torch.testing.assert_close(running.top()[0], values, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(running.top()[1], top)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 200), st.integers(-9, 9), st.integers(1, 50))
def test_running_histogram_counts_every_value_whatever_the_order(seed, images, exponent, step):
    g = torch.Generator().manual_seed(seed)
    a = torch.relu(torch.randn(images, 4, generator=g)) * 10.0**exponent
    a[:, 1] -= 1e3
    a[:, 2] = 0.1
    a[torch.rand(a.shape, generator=g) < 0.05] = math.nan
    one, other = RunningHistogram(), RunningHistogram()
    one.add(a)
    for part in a.flip(0).split(step):
        other.add(part)
        other = RunningHistogram(other.state())
    assert torch.equal(one.counts(), other.counts())
    statistics = neuron_statistics(a)
    exact = histograms(a, statistics.minimum, statistics.maximum)
    assert torch.equal(one.counts().sum(1), exact.sum(1))
    shares = one.counts().cumsum(1) - exact.cumsum(1)
    assert shares.abs().max() <= 3 + 0.05 * images


# Approximate neighbours


@pytest.mark.parametrize("spec", ["faiss:hnsw", "faiss:ivf", "faiss:ivf,lists=4,probes=4", "faiss:hnsw,search=16"])
def test_approximate_neighbours(spec):
    pytest.importorskip("faiss")
    a, e = clustered(4000, 12, clusters=6, width=24)
    exact, found = exemplars.mine(a, e, k=20), exemplars.mine(a, e, k=20, neighbours=spec)
    assert exact.recall == {}
    assert found.recall["neighbours"] == spec
    assert found.recall["sample"] == min(256, found.recall["queries"])
    assert 0.5 < found.recall["recall@10"] <= 1.0
    assert torch.equal(found.exemplars.positives, exact.exemplars.positives)
    equal = (found.exemplars.contrasts == exact.exemplars.contrasts).double().mean()
    assert equal > found.recall["recall@10"] - 0.1
    assert (found.exemplars.similarities <= exact.exemplars.similarities + 1e-6).all()
    if "probes=4" in spec:  # all lists are looked at
        assert found.recall["recall@10"] == 1.0
        same(found.exemplars, exact.exemplars)


def test_approximate_neighbours_of_hostile_data(case):
    pytest.importorskip("faiss")
    a, e = case
    e = e.float()
    same(find_exemplars(a, e, k=7, neighbours="faiss:ivf,lists=1,probes=1"), find_exemplars(a, e, k=7))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("fais:hnsw", "did you mean faiss:hnsw"),
        ("faiss:flat", "unknown"),
        ("faiss:ivf,search=3", "it takes lists, probes"),
    ],
)
def test_unknown_neighbours(spec, says):
    with pytest.raises(InputError, match=says):
        find_exemplars(torch.rand(9, 2), torch.rand(9, 3), k=1, neighbours=spec)
