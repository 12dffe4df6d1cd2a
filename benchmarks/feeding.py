"""Whether decoding keeps a network busy: threads against processes, with networks of a known speed.

    python benchmarks/feeding.py [--images 600] [--speeds 50 100 200 inf] [--write]
    python benchmarks/feeding.py --network torchvision:resnet50 [--images 64] [--turns 3] [--write]
    python benchmarks/feeding.py --quick

JPEGs of 500 x 375 pixels are decoded, preprocessed for 224 pixels and given to a stand-in that waits as long as a
network of so many images a second would compute, without Python's lock and without a core: as a GPU does. The ways run
one after the other for each speed, on fresh caches, and must give the same rows. "of the limit" is what was reached of
the smaller of the network's speed and of what the cores decode (CPU seconds of decoding alone, one process, divided
among the cores).

With --network, a real one with random weights instead of stand-ins, on a CPU: CPU seconds of its forward alone on
batches that are ready, and of collecting the same number of pictures, in turns, the least of each. Where the network
takes all cores, the ratio of CPU seconds is the share of the pure forward's speed that collecting reaches.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, publish, table
from PIL import Image
from torchvision.transforms import v2

from contralens.collecting.collect import collect
from contralens.collecting.preparing import Preparing, Wanted
from contralens.data.images import images as image_set
from contralens.data.store import Store
from contralens.math.tensors import keeping_memory
from contralens.models.targets import target


class StandIn:
    """Rows of mean colours, as fast as a network of `speed` images a second."""

    width = 3

    def __init__(self, speed: float) -> None:
        self.speed, self.name = speed, f"{speed:g} images/s"
        self.fingerprint = "5" * 32
        self.preprocess = v2.Compose([
            v2.Resize(256), v2.CenterCrop(224), v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ])  # fmt: skip

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        time.sleep(len(batch) / self.speed)
        return batch.mean((2, 3))


def draw(folder: Path, count: int) -> Path:
    """Made-up pictures with some structure, as JPEG."""
    random = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (15, 20, 3), np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{i:05d}.jpg", quality=90)
    return folder


def beside_a_network(name: str, images: Any, turns: int, home: Path) -> tuple[str, list[dict[str, Any]]]:
    """What collecting spends beside the forward of a network: a table, and its numbers."""
    ways = [("exact", 1), ("fast", 1), ("fast", 2)]
    nets = {way: target(name, weights="random", layer="layer4", decode=way) for way in ("exact", "fast")}
    batch, count, spent = torch.randn(32, 3, 224, 224), len(images), dict[Any, float]()

    def least(what: Any, work: Callable[[], Any]) -> None:
        begin = time.process_time()
        work()
        spent[what] = min(spent.get(what, float("inf")), (time.process_time() - begin) / count * 1e3)

    with keeping_memory():
        prepare = Preparing(images, [nets["fast"].preprocess])
        for turn in range(turns):
            least("forward", lambda: [nets["exact"](batch) for _ in range(count // len(batch))])
            least("prepare", lambda: [prepare(Wanted(i, (0,), thumbnail=True)) for i in range(count)])
            for way, workers in ways:
                store = Store(home / f"{turn}-{way}-{workers}")
                least((way, workers), lambda w=way, n=workers, s=store: collect(images, [nets[w]], s, workers=n))
    numbers = [
        {"decode": way, "workers": n, "ms": spent[way, n], "share": spent["forward"] / spent[way, n]} for way, n in ways
    ]
    cells = [[n["decode"], n["workers"], f"{n['ms']:.1f}", f"{n['share']:.1%}"] for n in numbers]
    heads = ["--decode", "--workers", "collecting, CPU ms an image", "forward / collecting"]
    text = f"{name}, {count} pictures: the forward alone takes {spent['forward']:.1f} CPU ms an image; decoding, "
    text += f"preprocessing (fast) and a thumbnail {spent['prepare']:.1f} on the same cores."
    return f"{text}\n\n{table(heads, cells)}", numbers


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--network", help="a real network, e.g. torchvision:resnet50")
    parser.add_argument("--turns", type=int, default=3, help="with --network")
    parser.add_argument("--images", type=int)
    parser.add_argument("--speeds", type=float, nargs="+")
    args = parser.parse_args()
    count = args.images or (48 if args.quick else 600)
    speeds = args.speeds or ([float("inf")] if args.quick else [100.0, 200.0, 400.0, float("inf")])
    torch.set_num_threads(1)  # the cores decode
    if args.network:
        with tempfile.TemporaryDirectory() as home:
            (Path(home) / "pictures").mkdir()
            pictures = image_set(draw(Path(home) / "pictures", args.images or 64))
            text, numbers = beside_a_network(args.network, pictures, args.turns, Path(home))
        publish("feeding a network", text, args, numbers)
        return
    cores, cells, numbers = os.cpu_count() or 1, [], []
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "pictures").mkdir()
        images = image_set(draw(Path(home) / "pictures", count))
        prepare = Preparing(images, [StandIn(1.0).preprocess])
        with keeping_memory():
            prepare(Wanted(0, (0,), thumbnail=True))
            begin = time.process_time()
            for i in range(min(count, 100)):
                prepare(Wanted(i, (0,), thumbnail=True))
        each = (time.process_time() - begin) / min(count, 100)
        rows: list[np.ndarray] = []
        for speed in speeds:
            for way, options in {"threads": {"workers": cores}, "processes": {"processes": cores}}.items():
                how: dict[str, Any] = {**options, "batch_size": 32}
                begin, spent = time.perf_counter(), time.process_time()
                collected = collect(images, [StandIn(speed)], Store(Path(home) / f"{way}-{speed}"), **how)
                rate = count / (time.perf_counter() - begin)
                spent = (time.process_time() - spent) / count * 1e3
                rows.append(collected.rows(0))
                limit = min(speed, cores / each)
                numbers.append({"speed": speed, "way": way, "rate": rate, "share": rate / limit, "own_ms": spent})
                cells.append([f"{speed:g}", f"{cores} {way}", f"{rate:.0f}", f"{rate / limit:.0%}", f"{spent:.1f}"])
                print(numbers[-1], flush=True)
    same = all(np.array_equal(rows[0], other) for other in rows)
    heads = ["network, images/s", "decoded by", "images/s", "of the limit", "CPU ms an image in the process that feeds"]
    text = f"{count} pictures; decoding takes {each * 1e3:.1f} CPU ms an image, so {cores} cores decode "
    text += f"{cores / each:.0f} a second. Same rows: {'yes' if same else 'NO'}.\n\n{table(heads, cells)}"
    publish("feeding", text, args, numbers)
    if not same:
        raise SystemExit("rows differ")


if __name__ == "__main__":
    main()
