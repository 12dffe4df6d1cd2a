"""Tiled activations answer like the matrix that they stand for."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contralens.collecting.activations import TiledActivations
from contralens.math.exemplars import find_exemplars, neuron_statistics


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 13), st.integers(0, 2**31))
def test_tiles_answer_like_the_matrix(images: int, neurons: int, tile: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    a = torch.rand(images, neurons, generator=random).round(decimals=1)
    e = torch.nn.functional.normalize(torch.randn(images, 4, generator=random), dim=1)
    tiled = TiledActivations((images, neurons), tile, lambda start, stop: a[start:stop])
    rows = torch.randint(images, (30,), generator=random)
    columns = torch.randint(neurons, (30,), generator=random)
    assert torch.equal(tiled.lookup(rows, columns), a[rows, columns])
    assert torch.equal(torch.cat([block for _, block in tiled.blocks(budget=64)]), a)
    found, expected = find_exemplars(tiled, e, k=5), find_exemplars(a, e, k=5)
    for field in ("positives", "activations", "contrasts"):
        assert torch.equal(getattr(found, field), getattr(expected, field))
    assert neuron_statistics(tiled).status() == neuron_statistics(a).status()
