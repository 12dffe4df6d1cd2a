"""Every path to exemplars and labels ends at the same ones: those of slow copies of the formulas.

A matrix in memory, a memory map, sparse rows (CSR), tiles on disk with and without their zeros, no stored activations,
shards, Ray; each on the CPU and, where there is one, on a GPU: `python -m pytest tests/test_paths.py -k cuda`. All
weights are small multiples of 1/4 and pixels have 8 bits, so float32 sums are exact in any order and on any device.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import paper
import pytest
import torch
from coloured import draw_hard
from patience import HUNG
from PIL.Image import Image
from torch import Tensor, nn

import contralens
from contralens.collecting import activations as stored
from contralens.collecting import collect as collecting
from contralens.collecting import distributed, probe_check, streaming
from contralens.collecting.distributed import collect_ray, collect_shard
from contralens.encoders.base import BaseEncoder
from contralens.math.activation_sources import DenseActivations, SparseActivations
from contralens.math.gpu_placing import activations_on, rows_on
from contralens.math.ranking import best
from contralens.math.scorers import csp
from contralens.models.hooks import run_layer
from contralens.models.sae_target import SparseTarget, sae
from contralens.run_data.stored import exemplars_of
from contralens.settings.label import Collect
from contralens.types import Exemplars

K = 5
WORDS = [f"word {i}" for i in range(12)]
Found = tuple[Exemplars, list[str | None]]
"""Exemplars of the neurons that are labeled, and the label of each neuron."""


def quarters(*shape: int, seed: int) -> Tensor:
    return torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(seed)) / 4


def pixels(image: Image) -> Tensor:
    """RGB image to (3,16,16), multiples of 1/256."""
    return torch.from_numpy(np.asarray(image.resize((16, 16)), np.float32) / 256).permute(2, 0, 1)


class Features(nn.Module):
    """13 features of edges and colours."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 13, 3, stride=3), nn.ReLU()
        with torch.no_grad():
            self.conv.weight.copy_(quarters(13, 3, 3, 3, seed=1))
            self.conv.bias.copy_(quarters(13, seed=2))

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv(x))


LOOKS = len(probe_check.SIZES) + probe_check.OF_THE_SET
"""Images that every run computes before it uses the cache."""


class Eyes(BaseEncoder):
    """A linear encoder on a device of its own."""

    def __init__(self, device: str) -> None:
        super().__init__("eyes", device)
        self.width, self.fingerprint, self.seen = 24, "e7e5" * 8, 0
        self.weight = quarters(24, 3 * 16 * 16, seed=3).to(device)

    def preprocess(self, image: Image) -> Tensor:
        return pixels(image)

    def _image_rows(self, batch: Tensor) -> Tensor:
        assert batch.device.type == self.device.type
        self.seen += len(batch)
        return batch.flatten(1) @ self.weight.T

    def _text_rows(self, texts: list[str]) -> Tensor:
        return torch.stack([quarters(24, seed=int(t.split()[-1])) for t in texts])

    def _too_long(self, texts: list[str]) -> list[str]:
        return []


def latents(device: str) -> SparseTarget:
    """40 latents of which few are active, the last one never."""
    bias = quarters(40, seed=5) - 3
    bias[39] = -1000
    layer = contralens.target(Features().to(device).eval(), "relu", preprocess=pixels)
    return sae(layer, {"W_enc": quarters(13, 40, seed=4), "b_enc": bias})


def job(images: Path, cache: Path, device: str) -> Collect:
    return Collect(latents(device), str(images), Eyes(device), cache=str(cache), batch_size=7)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_hard(tmp_path_factory.mktemp("paths"))


@pytest.fixture(scope="module")
def rows(images: Path) -> tuple[Tensor, Tensor]:
    """Activations (I,N) and embeddings (I,D) of all images that can be read, one by one."""
    probe, network, eyes = contralens.images(images), latents("cpu"), Eyes("cpu")
    first = {f: i for i, f in reversed(list(enumerate(probe.fingerprints())))}
    kept = [probe.load(i) for i in sorted(first.values()) if "broken" not in probe.ids[i]]  # copies count once
    batches = [pixels(image)[None] for image in kept]
    return torch.cat([network(b) for b in batches]), torch.cat([eyes(b) for b in batches])


@pytest.fixture(scope="module")
def expected(rows: tuple[Tensor, Tensor]) -> Found:
    a, e = rows
    alive = [n for n in range(a.shape[1]) if float(a[:, n].max()) > 0]
    assert 20 < len(alive) < 40, "some latents are dead"
    assert 0.02 < float((a > 0).float().mean()) < 0.5, "few latents are active"
    fields = [torch.from_numpy(field) for field in paper.exemplars(a, e, K, neurons=alive)]
    exemplars = Exemplars(torch.tensor(alive), *fields)
    scores = paper.csp(exemplars, e.double().numpy(), Eyes("cpu").texts(WORDS).double().numpy())
    two = np.sort(scores, 1)[:, -2:]
    assert (two[:, 1] - two[:, 0]).min() > 1e-5, "no label hangs on rounding"
    named: list[str | None] = [None] * a.shape[1]
    for row, n in enumerate(alive):
        named[n] = WORDS[int(scores[row].argmax())]
    return exemplars, named


def labeled(images: Path, device: str, cache: Path, dense: bool = False, **options: Any) -> Found:
    network, eyes = latents(device), options.pop("eyes", None) or Eyes(device)
    if dense:
        network = replace(network, sparse=False)
    run = contralens.label(network, images, eyes, WORDS, scorers="csp", k=K, batch_size=7, cache=cache, **options)
    return exemplars_of(run), [row["label"] for row in run.rows("csp")]


def mined(given: Any, e: Tensor, device: str) -> Found:
    """Mining and scoring alone, of whatever holds activations."""
    place = torch.device(device)
    a, e = activations_on(given, place), rows_on(e, place)
    alive = (contralens.math.statistics.neuron_statistics(a).maximum > 0).nonzero()[:, 0]
    exemplars = contralens.find_exemplars(a, e, K, neurons=alive)
    scores = csp(exemplars, e, Eyes(device).texts(WORDS))
    assert scores.device.type == e.device.type == place.type
    named: list[str | None] = [None] * a.shape[1]
    for n, c in zip(alive.tolist(), best(iter([(slice(0, len(WORDS)), scores)])).labels.tolist(), strict=True):
        named[n] = WORDS[c]
    return exemplars, named


def by_shards(images: Path, rows: Any, device: str, folder: Path) -> Found:
    work = job(images, folder, device)
    for shard in (2, 0, 1):
        collect_shard(work, shard, 3)
    eyes = Eyes(device)
    found = labeled(images, device, folder, eyes=eyes)
    assert eyes.seen == LOOKS, "the shards have collected all"
    return found


def by_ray(images: Path, rows: Any, device: str, folder: Path) -> Found:
    """Two actors; killed workers and drivers are in test_distributed.py."""
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    here = Path(__file__).parent
    path = os.pathsep.join(map(str, (here, here / "math", here.parent / "src")))
    command = [sys.executable, __file__, str(images), str(folder), device]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environment, check=True, timeout=HUNG)
    eyes = Eyes(device)
    found = labeled(images, device, folder, eyes=eyes)
    assert eyes.seen == LOOKS, "the actors have collected all"
    return found


def by_memory_map(images: Path, rows: Any, device: str, folder: Path) -> Found:
    np.save(folder / "a.npy", rows[0].numpy())
    return mined(DenseActivations(np.load(folder / "a.npy", mmap_mode="r")), rows[1], device)


PATHS: dict[str, Callable[[Path, Any, str, Path], Found]] = {
    "matrix": lambda images, rows, device, folder: mined(DenseActivations(rows[0]), rows[1], device),
    "memory map": by_memory_map,
    "CSR": lambda images, rows, device, folder: mined(SparseActivations.of(rows[0]), rows[1], device),
    "tiles": lambda images, rows, device, folder: labeled(images, device, folder, dense=True),
    "sparse tiles": lambda images, rows, device, folder: labeled(images, device, folder),
    "not stored": lambda images, rows, device, folder: labeled(
        images, device, folder, dense=True, store_activations=False
    ),
    "sparse, not stored": lambda images, rows, device, folder: labeled(images, device, folder, store_activations=False),
    "shards": by_shards,
    "Ray": by_ray,
}
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
    ),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("path", [pytest.param(p, marks=pytest.mark.slow if p == "Ray" else ()) for p in PATHS])
def test_same_exemplars_and_labels(
    path: str,
    device: str,
    images: Path,
    rows: tuple[Tensor, Tensor],
    expected: Found,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if path != "Ray":  # whose actors know of no smaller tiles
        for module in (collecting, streaming, distributed, stored):
            monkeypatch.setattr(module, "TILE", 16)
    exemplars, named = PATHS[path](images, rows, device, tmp_path)
    true, labels = expected
    for field in ("neurons", "positives", "contrasts"):
        assert torch.equal(getattr(exemplars, field), getattr(true, field)), field
    assert torch.equal(exemplars.activations.double(), true.activations), "to the last bit"
    torch.testing.assert_close(exemplars.similarities.double(), true.similarities, atol=1e-6, rtol=0, equal_nan=True)
    assert named == labels


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_cuda_rows_have_the_bits_of_float32() -> None:
    """Convolutions on a GPU round their inputs to 10 bits unless told otherwise: an error of 1e-3, not 1e-6."""
    conv = nn.Conv2d(16, 8, 5)
    batch = torch.randn(4, 16, 20, 20, generator=torch.Generator().manual_seed(0))
    exact = run_layer(conv.double(), ".", batch.double(), lambda x: x)
    found = run_layer(conv.float().to("cuda"), ".", batch, lambda x: x).cpu().double()
    assert float((found - exact).abs().max()) < 2e-5


if __name__ == "__main__":  # the driver of the path "Ray"
    import ray
    import test_paths

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    work = test_paths.job(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
    done = collect_ray(work, actors=2, gpus_per_actor=0.5 if sys.argv[3] == "cuda" else 0.0)
    assert done.tiles == done.total == 1
