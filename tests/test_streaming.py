"""Labeling without stored activations gives the run that stored ones give, also after a kill."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
import torch
from coloured import COLOURS, ColourEncoder, draw_hard, to_pixels
from patience import HUNG
from safetensors.numpy import load_file
from torch import nn

import contralens
from contralens.collecting import collect as collecting
from contralens.collecting import probe_check, streaming
from contralens.data.atomic_files import TEMPORARY
from contralens.data.runs import Run
from contralens.data.store import Store
from contralens.errors import ImageError, InputError
from contralens.models.targets import target
from contralens.settings.label import DEFAULT_SCORERS
from contralens.types import Images


class Net(nn.Module):
    """Own network: 12 random features of edges and colours, and a dead one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 13, 5, stride=3), nn.ReLU()
        random = torch.Generator().manual_seed(1)
        with torch.no_grad():
            self.conv.weight.normal_(generator=random)
            self.conv.bias.normal_(generator=random)
            self.conv.bias[12] = -1e3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.conv(x))


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (collecting, streaming):
        monkeypatch.setattr(module, "TILE", 16)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return draw_hard(tmp_path / "images")


def label(images: Path, cache: Path, **options: Any) -> Run:
    given = {
        "scorers": DEFAULT_SCORERS,
        "vocabulary": list(COLOURS),
        "layer": "relu",
        "preprocess": to_pixels,
        "k": 5,
        "batch_size": 7,
        **options,
    }
    return contralens.label(Net().eval(), images, ColourEncoder(), cache=cache, **given)


def alike(one: Run, other: Run) -> None:
    assert one.exemplars.equals(other.exemplars)
    trust = ["confidence", "reasons"]  # only where activations are stored
    assert one.labels.drop_columns(trust).equals(other.labels.drop_columns(trust))
    assert one.images.equals(other.images)
    assert one.thumbnails.equals(other.thumbnails)
    for name in ("positive_mean", "contrast_mean", "texts"):
        np.testing.assert_array_equal(one.vectors[name], other.vectors[name])
    for name in ("neuron", "status", "minimum", "maximum", "firing_rate", "selected"):
        assert one.neurons[name].equals(other.neurons[name]), name
    np.testing.assert_allclose(one.neurons["mean"], other.neurons["mean"], rtol=1e-14)
    counts = [np.array(run.neurons["histogram"].to_pylist()) for run in (one, other)]
    assert (counts[0].sum(1) == counts[1].sum(1)).all()
    assert np.abs(counts[0].cumsum(1) - counts[1].cumsum(1)).max() <= 3, "bins shared out, not counts lost"
    assert one.manifest["images"] == other.manifest["images"]


@pytest.mark.parametrize(
    "options",
    [{}, {"holdout": 0.3}, {"exclude": 0.999, "k": 12}, {"neurons": "paper"}, {"neurons": [2, 5]}, {"pooling": "max"}],
    ids=str,
)
def test_same_run_as_with_stored_activations(
    images: Path, tmp_path: Path, small_tiles: None, options: dict[str, Any]
) -> None:
    stored = label(images, tmp_path / "stored", **options)
    streamed = label(images, tmp_path / "streamed", store_activations=False, **options)
    alike(stored, streamed)
    fingerprint = stored.manifest["target"]["fingerprint"]
    assert Store(tmp_path / "stored").table("rows", fingerprint).folder.is_dir()
    assert not Store(tmp_path / "streamed").table("rows", fingerprint).folder.exists()


def test_a_scorer_that_looks_at_all_activations_has_them_computed_again(
    images: Path, tmp_path: Path, small_tiles: None
) -> None:
    options: dict[str, Any] = {"scorers": ["csp", "lookalike"], "fdr": 0.2, "fakes": 40, "holdout": 0.2}
    stored = label(images, tmp_path / "stored", **options)
    streamed = label(images, tmp_path / "streamed", store_activations=False, **options)
    for one, other in zip(stored.labels.to_pylist(), streamed.labels.to_pylist(), strict=True):
        for name in ("score", "confidence", "reasons"):
            one.pop(name), other.pop(name)
        assert other.pop("scores") == pytest.approx(one.pop("scores"), abs=1e-4), "float32 sums"
        assert one == other
    assert {row["label"] for row in stored.rows("lookalike")} > {None}


def test_finished_passes_are_not_run_again(images: Path, tmp_path: Path, small_tiles: None) -> None:
    ran: list[int] = []
    hook = nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: ran.append(len(output)) if isinstance(module, nn.Conv2d) else None
    )
    try:
        label(images, tmp_path / "cache", store_activations=False)
        looks = (
            8 + len(probe_check.SIZES) + probe_check.OF_THE_SET
        )  # when `target` is made, and before the cache is used
        assert 76 <= sum(ran) - looks <= 3 * 76, "once for all images, then for those that decide a contrast"
        ran.clear()
        label(images, tmp_path / "cache", store_activations=False)
        assert sum(ran) == looks
        ran.clear()
        label(images, tmp_path / "cache", store_activations=False, neurons=[0, 1])
        assert sum(ran) - looks <= 2 * 76 + 14, "the first pass knows all neurons; batches of copies may run again"
    finally:
        hook.remove()


def test_without_reuse_it_says_what_to_do(images: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="set `store_activations=True` or `reuse=True`"):
        label(images, tmp_path / "cache", store_activations=False, reuse=False)


def test_an_image_that_vanishes_is_named(images: Path, tmp_path: Path, small_tiles: None) -> None:
    probe: Images = contralens.images(images)
    layer = target(Net().eval(), layer="relu", preprocess=to_pixels)
    _, activations = streaming.collect_streamed(
        probe, layer, [ColourEncoder()], Store(tmp_path / "cache"), k=4, batch_size=7
    )
    (images / probe.ids[30]).unlink()
    with pytest.raises(ImageError, match="was read before and now cannot be read"):
        list(activations.blocks())


def test_rows_are_those_of_the_first_pass(images: Path, tmp_path: Path, small_tiles: None) -> None:
    """Any part of the rows, in batches of the first pass: the same bits as all of them stored."""
    probe, layer = contralens.images(images), target(Net().eval(), layer="relu", preprocess=to_pixels)
    stored = collecting.collect(probe, [layer], Store(tmp_path / "stored"), batch_size=7)
    rows = torch.from_numpy(stored.rows(0))
    _, activations = streaming.collect_streamed(probe, layer, [], Store(tmp_path / "streamed"), k=4, batch_size=7)
    assert torch.equal(torch.cat([part for _, part in activations.blocks()]), rows)
    some = torch.tensor([0, 5, 17, 33, 50, 77])
    found = list(activations.visit(some))
    assert torch.equal(torch.cat([which for which, _ in found]), some)
    assert torch.equal(torch.cat([part for _, part in found]), rows[some])
    columns = torch.tensor([1, 3, 12, 0, 7, 7])
    assert torch.equal(activations.lookup(some.flip(0), columns), rows[some.flip(0), columns])


DRIVER = """
import sys, time
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
import test_streaming
from contralens.collecting import collect, streaming
collect.TILE = streaming.TILE = 16
streaming.SNAPSHOT_SECONDS = 0.0
streaming.WAITING_BYTES = 64
forward = test_streaming.Net.forward
def slow(self, x):
    time.sleep(0.15)
    print(len(x), flush=True)
    return forward(self, x)
test_streaming.Net.forward = slow
run = test_streaming.label(Path(sys.argv[2]), Path(sys.argv[3]), store_activations=False, out=Path(sys.argv[4]))
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(images: Path, tmp_path: Path) -> None:
    def start(cache: str) -> processes.Started:
        arguments = [str(Path(__file__).parent), str(images), str(tmp_path / cache), str(tmp_path / f"{cache}-run")]
        return processes.Started(processes.code, DRIVER, *arguments)

    def seen(process: processes.Started) -> int:
        out, _ = process.communicate(timeout=HUNG)
        assert process.returncode == 0
        return sum(map(int, out.split()))

    alone = seen(start("alone"))
    killed = start("killed")
    snapshots = tmp_path / "killed" / "surveys"
    until = time.monotonic() + HUNG
    while not list(snapshots.glob("*.safetensors")) and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed-run").exists()
    assert seen(start("killed")) <= alone - 15, "the tile that was gone through is not gone through again"
    one, other = contralens.load(tmp_path / "alone-run"), contralens.load(tmp_path / "killed-run")
    alike(one, other)
    assert one.neurons.equals(other.neurons), "means and histograms, too"


@pytest.mark.slow
def test_a_run_killed_while_it_computes_again_goes_on_to_the_same_bits(images: Path, tmp_path: Path) -> None:
    def start(cache: str) -> processes.Started:
        arguments = [str(Path(__file__).parent), str(images), str(tmp_path / cache), str(tmp_path / f"{cache}-run")]
        return processes.Started(processes.code, DRIVER, *arguments)

    alone, killed = start("alone"), start("killed")
    until = time.monotonic() + HUNG

    def written() -> int:
        logs = [p for p in (tmp_path / "killed" / "walks").rglob("*.safetensors") if not p.name.startswith(TEMPORARY)]
        return sum(int(load_file(p)["images"][0]) for p in logs)

    while written() < 16 and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert 16 <= written() < 76, "it died in the second pass, some of which is written down"
    again = start("killed")
    rest = sum(map(int, again.communicate(timeout=HUNG)[0].split()))
    whole = sum(map(int, alone.communicate(timeout=HUNG)[0].split()))
    assert again.returncode == alone.returncode == 0
    assert rest <= whole - 76 - 14, "neither the first pass nor what was written down of the second"
    one, other = contralens.load(tmp_path / "alone-run"), contralens.load(tmp_path / "killed-run")
    alike(one, other)
    assert one.neurons.equals(other.neurons)
    assert not list((tmp_path / "killed" / "walks").rglob("*.safetensors")), "nothing is kept that is not needed"


def test_a_damaged_snapshot_is_set_aside(images: Path, tmp_path: Path, small_tiles: None) -> None:
    first = label(images, tmp_path / "cache", store_activations=False)
    (snapshot,) = (tmp_path / "cache" / "surveys").glob("*.safetensors")
    data = bytearray(snapshot.read_bytes())
    data[-1] ^= 1
    snapshot.write_bytes(bytes(data))
    with pytest.warns(UserWarning, match="is damaged"):
        again = label(images, tmp_path / "cache", store_activations=False)
    assert again.neurons.equals(first.neurons)
