"""Tiled activations answer like the matrix that they stand for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contralens.collecting.activations import TiledActivations, stored_activations
from contralens.data.store import Store, sparse
from contralens.math.activation_sources import DenseActivations, Resampled, SparseActivations, columns
from contralens.math.exemplars import find_exemplars
from contralens.math.statistics import neuron_statistics


def reader(a: torch.Tensor) -> Callable[[int, int, torch.Tensor | None], torch.Tensor]:
    return lambda start, stop, neurons: a[start:stop] if neurons is None else a[start:stop, neurons]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 13), st.integers(0, 2**31))
def test_tiles_answer_like_the_matrix(images: int, neurons: int, tile: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    a = torch.rand(images, neurons, generator=random).round(decimals=1)
    e = torch.nn.functional.normalize(torch.randn(images, 4, generator=random), dim=1)
    tiled = TiledActivations((images, neurons), tile, reader(a))
    rows = torch.randint(images, (30,), generator=random)
    columns = torch.randint(neurons, (30,), generator=random)
    assert torch.equal(tiled.lookup(rows, columns), a[rows, columns])
    assert torch.equal(torch.cat([block for _, block in tiled.blocks(budget=64)]), a)
    found, expected = find_exemplars(tiled, e, k=5), find_exemplars(a, e, k=5)
    for field in ("positives", "activations", "contrasts"):
        assert torch.equal(getattr(found, field), getattr(expected, field))
    assert neuron_statistics(tiled).status() == neuron_statistics(a).status()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.integers(1, 9), st.integers(0, 2**31))
def test_columns_and_resampled_rows_are_those_of_the_matrix(images: int, neurons: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    a = torch.rand(images, neurons, generator=random) * (torch.rand(images, neurons, generator=random) < 0.4)
    wanted = torch.randint(neurons, (7,), generator=random)  # some of them twice
    drawn = torch.randint(images, (images + 3,), generator=random).sort().values
    pairs = torch.randint(images + 3, (20,), generator=random), torch.randint(neurons, (20,), generator=random)
    tiled = TiledActivations((images, neurons), 4, reader(a))
    for source in (SparseActivations.of(a), tiled, DenseActivations(a)):
        assert torch.equal(columns(source, wanted), a[:, wanted])
        again = Resampled(source, drawn)
        assert again.shape == (images + 3, neurons)
        assert torch.equal(columns(again, wanted), a[drawn][:, wanted])
        assert torch.equal(torch.cat([rows for _, rows in again.blocks(budget=64)]), a[drawn])
        assert [start for start, _ in again.blocks(budget=64)][:1] == [0]
        assert torch.equal(again.lookup(*pairs), a[drawn][pairs])


def test_stored_rows_with_images_that_are_lacking(tmp_path) -> None:
    rows = np.random.default_rng(0).random((5, 6)).astype(np.float32)
    rows[rows < 0.6] = 0
    ids = [str(i) * 32 for i in range(5)]
    asked = [ids[3], "x" * 32, ids[0], ids[4], "y" * 32]
    expected = torch.full((5, 6), torch.nan)
    expected[[0, 2, 3]] = torch.from_numpy(rows[[3, 0, 4]])
    for kind, arrays in (("dense", {"rows": rows}), ("sparse", {**sparse(rows), "width": np.array([6])})):
        table = Store(tmp_path).table("rows", kind)
        table.append(ids, arrays)
        found = stored_activations(table, asked)
        assert isinstance(found, SparseActivations) == (kind == "sparse")
        assert torch.equal(columns(found, torch.arange(6)).nan_to_num(-1), expected.nan_to_num(-1))
        images, neurons = torch.tensor([1, 0, 2, 4]), torch.tensor([2, 1, 5, 0])
        assert torch.equal(found.lookup(images, neurons).nan_to_num(-1), expected[images, neurons].nan_to_num(-1))
        assert torch.equal(columns(stored_activations(table, ids), torch.arange(6)), torch.from_numpy(rows))
