"""Describe-and-Dissect's choice against a slow copy of its published steps: plain loops over sorted images."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from torch.nn.functional import normalize

from contralens.errors import InputError
from contralens.math.activation_sources import SparseActivations
from contralens.math.describe_and_dissect import describe_and_dissect, dissected
from contralens.math.exemplars import find_exemplars


def case(images=150, concepts=9, seed=0):
    g = torch.Generator().manual_seed(seed)
    t = normalize(torch.randn(concepts, 6, generator=g), dim=1)
    e = normalize(torch.randn(images, 6, generator=g), dim=1)
    a = torch.randn(images, 5, generator=g) + 3 * (e @ t.T)[:, :5]
    return a, e, t


def slow_choice(shown, targets, top=10, beta=5, ranking="squares", by="both"):
    """For one neuron. `shown`: for each candidate (activation, embedding) of its images; -> score of each candidate."""
    everything = [(value, c, row) for c, images in enumerate(shown) for value, row in images]

    def place(value):  # the mean among equal ones: an image may stand for two candidates
        equal = sum(other == value for other, _, _ in everything)
        return sum(other > value for other, _, _ in everything) + (equal - 1) / 2

    ranks = {c: sorted(place(value) for value, _ in images) for c, images in enumerate(shown)}
    highest = {c: [row for value, row in images if place(value) < top] for c, images in enumerate(shown)}
    numbers = []
    for c, places in ranks.items():
        if ranking == "squares":
            first = places[:beta]
            number = sum(p**2 for p in first) / len(first)
        else:
            number = statistics.mean(places) if ranking == "mean" else statistics.median(places)
        numbers.append((number, c))
    order = [c for _, c in sorted(numbers)]
    out = []
    for c in range(len(shown)):
        cosines = [float(x @ y) for x in targets for y in highest[c]]
        like = sum(cosines) / len(cosines) if cosines else -1
        rank = len(order) - order.index(c)
        out.append({"both": rank * like, "ranks": rank, "images": like}[by])
    return out


def slow(a, e, t, x, candidates=5, images=10, **options):
    out = torch.empty(a.shape[1], len(t), dtype=torch.float64)
    for n in range(a.shape[1]):
        positives = [int(p) for p in x.positives[n] if p >= 0]
        v = torch.stack([e[p] for p in positives]).mean(0)
        out[n] = (v / v.norm()) @ t.T
        chosen = sorted(sorted(range(len(t)), key=lambda c: -float(v @ t[c]))[: candidates or len(t)])
        shown = []
        for c in chosen:
            nearest = sorted(range(len(e)), key=lambda i: -float(e[i] @ t[c]))[:images]
            shown.append([(float(a[i, n]), e[i]) for i in nearest if math.isfinite(a[i, n])])
        for c, score in zip(chosen, slow_choice(shown, [e[p] for p in positives[:10]], **options), strict=True):
            out[n, c] = 2 + score / len(chosen)
    return out


@pytest.mark.parametrize("options", [
    {}, {"candidates": 3, "images": 4, "beta": 2}, {"images": 7, "ranking": "mean"}, {"images": 6, "ranking": "median"},
    {"by": "ranks", "beta": 10}, {"by": "images", "top": 25}, {"candidates": 0, "images": 3, "top": 4},
])  # fmt: skip
def test_agrees_with_the_slow_copy(options) -> None:
    a, e, t = case()
    e, t, a = e.double(), t.double(), a.double()
    a[4, 1], a[7, 2] = math.nan, math.inf
    x = find_exemplars(a, e, k=15)
    fast = describe_and_dissect(x, e, t, activations=a, **options)
    torch.testing.assert_close(fast, slow(a, e, t, x, **options), atol=1e-9, rtol=0)
    torch.testing.assert_close(
        describe_and_dissect(x, e, t, activations=SparseActivations.of(a), **options), fast, equal_nan=True
    )


def test_painted_images_are_ranked_and_a_candidate_without_any_comes_last() -> None:
    g = torch.Generator().manual_seed(3)
    values, e, targets = torch.randn(1, 4, 6, generator=g), normalize(torch.randn(4, 6, 5, generator=g), dim=2), []
    values[0, 2], values[0, 1, 4:] = math.nan, math.nan
    targets = list(normalize(torch.randn(3, 5, generator=g), dim=1))
    alike = (e @ torch.stack(targets).mean(0))[None]
    found = dissected(values, alike, top=5, beta=3)[0]
    there = [c for c in range(4) if c != 2]
    shown = [[(float(v), row) for v, row in zip(values[0, c], e[c], strict=True) if not math.isnan(v)] for c in there]
    scores = slow_choice(shown, targets, top=5, beta=3, by="ranks")
    likes = slow_choice(shown, targets, top=5, beta=3, by="images")
    for c, rank, like in zip(there, scores, likes, strict=True):
        assert float(found[c]) == pytest.approx((rank + 1) * like, abs=1e-6)  # one more is ranked: the last
    assert float(found[2]) == -1.0  # rank 1, and no image is like


def test_the_factor_that_drives_a_neuron_wins_over_what_goes_along() -> None:
    g = torch.Generator().manual_seed(0)
    cause, along = torch.rand(400, generator=g) < 0.2, torch.rand(400, generator=g) < 0.2
    along |= cause & (torch.rand(400, generator=g) < 0.8)
    e = normalize(torch.stack([cause * 1.0, along * 1.5, torch.rand(400, generator=g)], 1) + 0.05, dim=1)
    a = cause[:, None] + 0.1 * torch.rand(400, 1, generator=g)
    x = find_exemplars(a, e, k=20)
    t = torch.eye(3)
    assert int((e[x.positives[0]].mean(0) @ t.T).argmax()) == 1  # by the mean of the exemplars, what goes along
    assert describe_and_dissect(x, e, t, activations=a).argmax(1).tolist() == [0]


def test_wrong_arguments_are_named() -> None:
    a, e, t = case()
    x = find_exemplars(a, e, k=5)
    with pytest.raises(InputError, match="do not belong together"):
        describe_and_dissect(x, e[:9], t, activations=a)
    with pytest.raises(InputError, match="`candidates` must be at least 0"):
        describe_and_dissect(x, e, t, activations=a, images=0)
    with pytest.raises(InputError, match="`ranking` must be one of"):
        dissected(torch.ones(1, 2, 3), torch.ones(1, 2, 3), ranking="best")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="must be \\(N,M,G\\)"):
        dissected(torch.ones(2, 3), torch.ones(2, 3))
