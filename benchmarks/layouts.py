"""Our tiles against zarr 3 for activations (I,N) on disk: the reads and writes that labeling makes.

    python benchmarks/layouts.py [--images 50000 --neurons 2048] [--quick]        # needs: pip install zarr

zarr: one array with raw (uncompressed) chunks of 4096 images x 128 neurons, as many in a shard as 4096 images have.
Ours: the tables of `contralens.data.store`, safetensors files of 512 images with checksums. Both hold the same float32
numbers; files are in the page cache. The least of three runs each:

- append: 4096 images after the others, synced to disk
- pass: means and the 100 strongest images of every neuron, in one pass (`contralens.math.statistics.survey`)
- column: one neuron on all images
- block: 64 neurons on all images
- rows: 512 images, all neurons
- pairs: 100,000 single values, at random
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from contralens.collecting.activations import stored_activations
from contralens.data.store import TILE, Table
from contralens.math.activation_sources import columns
from contralens.math.statistics import RunningSurvey, survey

ROWS, WIDTH = 4096, 128


def made(start: int, images: int, neurons: int) -> np.ndarray:
    random = np.random.default_rng(start)
    return np.maximum(random.standard_normal((images, neurons), np.float32) - 0.5, 0)


def name(i: int) -> str:
    return f"{i:032x}"


class Tiles:
    """Our own: a table of the store."""

    def __init__(self, folder: Path, neurons: int) -> None:
        self.table, self.count = Table(folder), 0

    def append(self, rows: np.ndarray) -> None:
        for start in range(0, len(rows), TILE):
            part = rows[start : start + TILE]
            self.table.append([name(self.count + i) for i in range(len(part))], {"rows": part})
            self.count += len(part)

    @cached_property
    def source(self) -> Any:
        """As a run makes it, once."""
        return stored_activations(self.table, [name(i) for i in range(self.count)])

    def whole(self) -> Any:
        return survey(self.source, 100)[0].mean

    def column(self, neurons: np.ndarray) -> Any:
        return columns(self.source, torch.from_numpy(neurons))

    def rows(self, start: int) -> Any:
        return self.table.rows([name(i) for i in range(start, start + 512)])

    def pairs(self, images: np.ndarray, neurons: np.ndarray) -> Any:
        return self.source.lookup(torch.from_numpy(images), torch.from_numpy(neurons))


class Zarr:
    """zarr 3 with raw chunks."""

    def __init__(self, folder: Path, neurons: int) -> None:
        import zarr

        self.folder = folder
        self.array = zarr.create_array(
            str(folder), shape=(0, neurons), chunks=(ROWS, WIDTH), shards=(ROWS, -(-neurons // WIDTH) * WIDTH),
            dtype="float32", compressors=None, filters=None, fill_value=0,
        )  # fmt: skip

    def append(self, rows: np.ndarray) -> None:
        self.array.append(rows)
        for file in self.folder.rglob("*"):  # zarr does not sync; ours does
            if file.is_file():
                descriptor = os.open(file, os.O_RDONLY)
                os.fsync(descriptor)
                os.close(descriptor)

    def _blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        for start in range(0, self.array.shape[0], ROWS):
            yield start, torch.from_numpy(np.ascontiguousarray(self.array[start : start + ROWS]))

    def whole(self) -> Any:
        running = RunningSurvey(100)
        for start, rows in self._blocks():
            for part in range(0, len(rows), 1024):
                running.add(start + part, rows[part : part + 1024])
        return running.statistics(self.array.shape[0]).mean

    def column(self, neurons: np.ndarray) -> Any:
        return torch.from_numpy(self.array[:, int(neurons[0]) : int(neurons[-1]) + 1])

    def rows(self, start: int) -> Any:
        return self.array[start : start + 512]

    def pairs(self, images: np.ndarray, neurons: np.ndarray) -> Any:
        return torch.from_numpy(self.array.vindex[images, neurons])


def least(work: Callable[[], Any], repeats: int = 3) -> tuple[float, Any]:
    best, out = float("inf"), None
    for _ in range(repeats):
        start = time.perf_counter()
        out = work()
        best = min(best, time.perf_counter() - start)
    return best, out


def measured(layout: Any, images: int, neurons: int) -> tuple[dict[str, float], dict[str, Any]]:
    for start in range(0, images, ROWS):
        layout.append(made(start, min(ROWS, images - start), neurons))
    random = np.random.default_rng(1)
    some = random.integers(0, images, 100_000), random.integers(0, neurons, 100_000)
    asked: Mapping[str, Callable[[], Any]] = {
        "pass": layout.whole,
        "column": lambda: layout.column(np.array([neurons // 3])),
        "block": lambda: layout.column(np.arange(neurons // 2, neurons // 2 + 64)),
        "rows": lambda: layout.rows(images // 2),
        "pairs": lambda: layout.pairs(*some),
    }
    times, found = {}, {}
    for what, work in asked.items():
        times[what], found[what] = least(work)
    start = time.perf_counter()
    layout.append(made(images, ROWS, neurons))
    times["append"] = time.perf_counter() - start
    return times, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50000)
    parser.add_argument("--neurons", type=int, default=2048)
    parser.add_argument("--quick", action="store_true", help="8,192 images x 512 neurons")
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    parser.add_argument("--out", type=Path, default=Path("layouts.json"))
    args = parser.parse_args()
    if args.quick:
        args.images, args.neurons = 8192, 512
    layouts: dict[str, Any] = {"tiles": Tiles, "zarr": Zarr}
    try:
        import zarr
    except ImportError:
        print("zarr is not installed here (pip install zarr): our tiles alone")
        del layouts["zarr"]
    result: dict[str, Any] = {
        "date": str(date.today()), "machine": platform.machine(), "python": platform.python_version(),
        "torch": torch.__version__, "threads": torch.get_num_threads(), "images": args.images,
        "neurons": args.neurons, "zarr": zarr.__version__ if "zarr" in layouts else None,
    }  # fmt: skip
    answers = {}
    for kind, layout in layouts.items():
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            result[kind], answers[kind] = measured(layout(Path(folder) / "a", args.neurons), args.images, args.neurons)
    if "zarr" in layouts:
        result["same"] = {
            what: bool(np.allclose(answers["tiles"][what], answers["zarr"][what], rtol=1e-6, atol=0))
            for what in answers["tiles"]
        }
        result["ratio"] = {what: result["zarr"][what] / result["tiles"][what] for what in result["tiles"]}
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    print("\n| | tiles | zarr 3 | zarr / tiles |\n|---|---|---|---|")
    for what, took in result["tiles"].items():
        other = f"{result['zarr'][what] * 1e3:,.1f} ms | {result['ratio'][what]:.1f}x" if "zarr" in layouts else " | "
        print(f"| {what} | {took * 1e3:,.1f} ms | {other} |")


if __name__ == "__main__":
    main()
