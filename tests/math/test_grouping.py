"""Images that belong together: exemplars and contrasts against the slow copy, bootstrap samples and intervals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clusters import clustered
from test_exemplars import agrees, same
from test_mining import tiny  # noqa: F401

from contralens.errors import InputError
from contralens.math import stability
from contralens.math.activation_sources import SparseActivations
from contralens.math.exemplars import find_exemplars
from contralens.math.grouping import Groups, draw_groups
from contralens.math.intervals import paired_interval
from contralens.math.stability import bootstrap_labels


def random_groups(images: int, size: int = 4) -> torch.Tensor:
    return torch.randint(max(1, images // size), (images,), generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize(
    ("most", "reuse", "exclude"), [(1, True, None), (1, False, 0.8), (3, True, 0.8), (3, False, None)]
)
def test_agrees_with_the_slow_copy(case, most, reuse, exclude):
    """Each pair of options once."""
    a, e = case
    groups = random_groups(len(e))
    found = find_exemplars(a, e, k=12, reuse=reuse, exclude=exclude, groups=Groups(groups, most))
    agrees(found, a, e, 12, reuse=reuse, exclude=exclude, groups=groups.tolist(), most=most)


@pytest.mark.parametrize("reuse", [True, False], ids=["reuse", "no_reuse"])
def test_short_lists_and_small_blocks(case, tiny, reuse):  # noqa: F811
    """Each pair of precision, reuse and exclusion once."""
    a, e = case
    exclude = 0.6 if reuse == (tiny == "bfloat16") else None
    groups = random_groups(len(e), size=9)
    found = find_exemplars(a, e, k=7, reuse=reuse, exclude=exclude, groups=groups)
    agrees(found, a, e, 7, reuse=reuse, exclude=exclude, groups=groups.tolist())


def test_a_few_large_groups_of_a_larger_layer():
    """More images of one group than a list of neighbours holds: partners are then looked for among all images."""
    a, e = clustered(1500, 12, clusters=3, width=48)
    groups = random_groups(1500, size=300)
    found = find_exemplars(a, e, k=15, groups=groups)
    for row, neuron in zip(found.positives.tolist(), range(12), strict=True):
        best = {}
        for image in sorted(range(1500), key=lambda i: (-float(a[i, neuron]), i)):
            best.setdefault(int(groups[image]), image)
        assert row == [*best.values(), *[-1] * 15][:15]
    there = found.contrasts >= 0
    assert there.any()
    assert (groups[found.contrasts[there]] != groups[found.positives[there]]).all()
    same(found, find_exemplars(SparseActivations.of(a), e, k=15, groups=[f"lesion {g}" for g in groups.tolist()]))


def test_each_image_alone_changes_nothing(case):
    a, e = case
    alone, without = find_exemplars(a, e, k=12, groups=range(len(e))), find_exemplars(a, e, k=12)
    assert torch.equal(alone.positives, without.positives)
    own = without.contrasts == without.positives  # a cold positive may be its own contrast, a group's never
    assert torch.equal(alone.contrasts[~own], without.contrasts[~own])


def test_groups_that_do_not_fit():
    a, e = clustered(20, 2)
    with pytest.raises(InputError, match="group of each of 20 images; got 19"):
        find_exemplars(a, e, groups=[0] * 19)
    with pytest.raises(InputError, match="`per_group` must be at least 1"):
        find_exemplars(a, e, groups=Groups(torch.zeros(20, dtype=torch.int64), 0))


def test_bootstrap_draws_whole_groups(monkeypatch):
    groups = random_groups(60)
    generator = torch.Generator().manual_seed(0)
    sizes = torch.bincount(groups)
    for _ in range(20):
        rows, draw = draw_groups(groups, generator)
        assert bool((rows.diff() >= 0).all())
        for one in draw.unique():
            (group,) = groups[rows[draw == one]].unique().tolist()
            assert int((draw == one).sum()) == int(sizes[group])
    a, e = clustered(60, 3)
    seen = []
    mined = stability.find_exemplars

    def watched(sample, rows, **mining):
        seen.append((rows, mining, mined(sample, rows, **mining)))
        return seen[-1][2]

    monkeypatch.setattr(stability, "find_exemplars", watched)
    for options in ({"groups": Groups(groups, 1)}, {"clusters": groups.tolist()}):
        bootstrap_labels({"csp": "csp"}, a, e, torch.eye(16), samples=4, k=5, **options)
    of_row = {tuple(row): int(g) for row, g in zip(e.tolist(), groups, strict=True)}
    for rows, mining, found in seen:
        group = torch.tensor([of_row[tuple(row)] for row in rows.tolist()])
        assert bool((torch.bincount(group, minlength=len(sizes)) % sizes == 0).all()), "whole groups"
        if mining.get("groups") is not None:
            times = torch.bincount(group, minlength=len(sizes)) // sizes
            for positives, contrasts in zip(found.positives, found.contrasts, strict=True):
                there = contrasts >= 0
                assert bool((group[positives[there]] != group[contrasts[there]]).all())
                counts = torch.bincount(group[positives[positives >= 0]], minlength=len(sizes))
                assert bool((counts <= times).all()), "a group drawn twice may give two"
    assert len(seen) == 8


def test_intervals_over_groups():
    random = np.random.default_rng(0)
    patient = np.repeat(np.arange(30), 20)
    before = np.zeros(600)
    after = np.repeat(random.integers(0, 2, 30), 20).astype(float)  # the images of a patient change together
    alone, together = paired_interval(before, after), paired_interval(before, after, clusters=patient)
    assert alone.mean == together.mean == after.mean()
    assert together.high - together.low > 4 * (alone.high - alone.low), "sqrt(20) times as wide"
    one_each = paired_interval(before, after, clusters=np.arange(600))
    assert one_each.low == pytest.approx(alone.low, abs=0.01)
    assert one_each.high == pytest.approx(alone.high, abs=0.01)
    classes = np.tile([0, 0, 0, 1], 150)
    strata = paired_interval(before, after, classes, clusters=patient)
    assert strata.mean == pytest.approx(np.mean([after[classes == c].mean() for c in (0, 1)]))
    assert strata.low < strata.mean < strata.high
    assert np.isnan(paired_interval(before, after, clusters=np.zeros(600)).low), "one patient tells nothing of others"
    never = paired_interval(before, before, clusters=patient)
    assert never.high > paired_interval(before, before).high > 0
