"""Exemplars shard by shard are those of all images at once."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.nn.functional import normalize

from contralens.errors import InputError
from contralens.math import contrast_search, neighbours
from contralens.math.activation_sources import SparseActivations, source
from contralens.math.exemplars import find_exemplars
from contralens.math.sharded_mining import ShardedActivations, find_exemplars_in_shards


def made(images: int = 1500, neurons: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations and embeddings in clusters, with copies, NaN and a dead neuron."""
    g = torch.Generator().manual_seed(seed)
    kind = torch.randint(20, (images,), generator=g)
    e = normalize(torch.randn(20, 24, generator=g)[kind] + 0.7 * torch.randn(images, 24, generator=g), dim=1)
    a = torch.relu(torch.randn(20, neurons, generator=g)[kind] + torch.randn(images, neurons, generator=g))
    e[-10:], a[3:6, 1], a[:, 2] = e[5].clone(), torch.nan, 0.0
    e[images // 2] = torch.nan
    return a, e


def same(one, other) -> None:
    for name in ("neurons", "positives", "contrasts"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    for name in ("activations", "similarities"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("borders", [[], [1], [400, 800], [7, 8, 749, 751, 1499]])
@pytest.mark.parametrize("exclude", [None, 0.6])
def test_any_shards_give_what_all_images_give(borders, exclude):
    a, e = made()
    ends = [0, *borders, len(e)]
    parts = [(a[i:j], e[i:j]) for i, j in pairwise(ends)]
    same(find_exemplars_in_shards(lambda: parts, k=9, exclude=exclude), find_exemplars(a, e, k=9, exclude=exclude))


def test_short_lists_sparse_shards_and_few_lists_at_once(monkeypatch):
    a, e = made(2500, 8, seed=1)
    expected = find_exemplars(a, e, k=20)
    monkeypatch.setattr(contrast_search, "LISTS", 17)
    monkeypatch.setattr(neighbours, "SMALL", 8)
    parts = [(SparseActivations.of(a[i : i + 900]), e[i : i + 900]) for i in range(0, 2500, 900)]
    same(find_exemplars_in_shards(lambda: iter(parts), k=20), expected)


def test_bad_shards_are_refused_in_one_line():
    a, e = made(50)
    for parts, line in (
        ([], "hold no image"), ([(a, e[:40])], "activations of 50 images"), ([(a, e), (a[:, :3], e)], "shards differ"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=line) as caught:
            find_exemplars_in_shards(lambda parts=parts: parts)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="`k` must be"):
        find_exemplars_in_shards(lambda: [(a, e)], k=0)


def test_activations_in_shards_read_as_one_matrix() -> None:
    whole = torch.rand(11, 4, generator=torch.Generator().manual_seed(0))
    parts, opened = whole.split([4, 1, 6]), []
    found = ShardedActivations([4, 1, 6], lambda at: opened.append(at) or source(parts[at]))
    assert found.shape == (11, 4)
    blocks = list(found.blocks(torch.tensor([2, 0]), budget=24))
    assert torch.equal(torch.cat([rows for _, rows in blocks]), whole[:, [2, 0]])
    assert [start for start, _ in blocks] == [0, 3, 4, 5, 8]
    images, neurons = torch.tensor([10, 0, 5, 10, 3]), torch.tensor([3, 1, 0, 2, 2])
    opened.clear()
    assert torch.equal(found.lookup(images, neurons), whole[images, neurons])
    assert opened == [0, 2], "only shards that are asked about, each once"
    assert found.lookup(images[:0], neurons[:0]).shape == (0,)
