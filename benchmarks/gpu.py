"""What a GPU gives: the same exemplars and labels as the CPU, and how much faster each step is.

    python benchmarks/gpu.py [--out gpu.json]        # about two minutes; prints JSON and a table in markdown

1. Mining and scoring of made-up data (clustered embeddings (I,512), K=100), CPU against GPU: whether positives,
   contrasts and labels are the same, and the seconds, without and with the copy to the GPU.
2. Rows of ResNet-50 with random weights over pictures, CPU against GPU, and what mining makes of them: float32 sums in
   another order, so this says how often an exemplar hangs on rounding.
3. Collecting from JPEG files (500 x 375): images a second of ResNet-50 and ViT-B/16 in float32 and bfloat16, and the
   share of that of the forward alone, with batches that lie on the GPU already. Decoding runs on the CPU's cores.
4. The same files by several processes on one GPU (`contralens collect --shard i/n`, ResNet-50 and the world's encoder):
   Python lets the threads of one process decode on a few cores only. All images by the time of the slowest process.

`--device cpu --quick` goes through the same steps anywhere.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from made import make
from PIL import Image
from torch.nn.functional import normalize
from torch.utils.data import default_collate

from contralens.collecting.collect import collect
from contralens.collecting.precision import if_safe
from contralens.data.images import images as image_set
from contralens.data.store import Store
from contralens.encoders.base import BaseEncoder
from contralens.math.activation_sources import DenseActivations
from contralens.math.exemplars import find_exemplars
from contralens.math.ranking import best
from contralens.math.scorers import SCORERS
from contralens.math.scoring import score_blocks
from contralens.models.hooks import moved, run_layer
from contralens.models.targets import HookedTarget, target
from contralens.types import Exemplars

Way = tuple[int, int | None, int | None]
WAYS: tuple[Way, ...] = (
    *((count, None, None) for count in (1, 2, 4, 8, 16)), (8, 1, 2), (12, 1, 1), (6, 2, 3)
)  # fmt: skip
"""Processes that share the GPU, threads of torch and of decoding in each; None leaves the default."""
SCORED = ("semanticlens", "csp", "clip_dissect")


def seconds(work: Callable[[], Any], device: torch.device, repeats: int = 3) -> tuple[float, Any]:
    """The least wall time of some repeats after one that warms up, and the result."""
    out, least = work(), float("inf")
    for _ in range(repeats):
        ready(device)
        start = time.perf_counter()
        out = work()
        ready(device)
        least = min(least, time.perf_counter() - start)
    return least, out


def ready(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def same(one: Exemplars, other: Exemplars) -> dict[str, float]:
    """The share of equal places."""
    return {f: float((getattr(one, f) == getattr(other, f)).double().mean()) for f in ("positives", "contrasts")}


def mining(images: int, neurons: int, texts: int, k: int, device: torch.device) -> dict[str, Any]:
    a, e = make(images, neurons, 1.0, False)
    t = normalize(torch.randn(texts, e.shape[1], generator=torch.Generator().manual_seed(1)), dim=1)
    row: dict[str, Any] = {"images": images, "neurons": neurons, "texts": texts, "k": k}
    found, labels = {}, {}
    for name, place in (("cpu", torch.device("cpu")), ("device", device)):
        copied, (a_there, e_there) = seconds(lambda p=place: (a.to(p), e.to(p)), place, repeats=1)
        given = DenseActivations(a_there)
        mined, x = seconds(
            lambda g=given, r=e_there: find_exemplars(g, r, k=k), place, repeats=1 if name == "cpu" else 3
        )
        row |= {f"{name}_copy_s": round(copied, 4), f"{name}_mining_s": round(mined, 4)}
        found[name], labels[name] = x, {}
        for scorer in SCORED:
            took, top = seconds(lambda s=scorer, x=x, r=e_there: best(score_blocks(s, x, r, t)), place, repeats=1)
            row[f"{name}_{scorer}_s"] = round(took, 4)
            labels[name][scorer] = top.labels
    row["same"] = same(found["cpu"], found["device"])
    row["same"] |= {s: float((labels["cpu"][s] == labels["device"][s]).double().mean()) for s in SCORED}
    return row


def draw(folder: Path, count: int) -> Path:
    """JPEG files of 500 x 375: smooth random colours with some noise, about 60 kB each."""
    folder.mkdir()

    def one(i: int) -> None:
        random = np.random.default_rng(i)
        coarse = Image.fromarray(random.integers(0, 255, (6, 8, 3), np.uint8)).resize((500, 375), Image.BICUBIC)
        noisy = np.asarray(coarse, np.int16) + random.integers(-12, 13, (375, 500, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{i:05d}.jpg", quality=85)

    with ThreadPoolExecutor() as pool:
        list(pool.map(one, range(count)))
    return folder


def prepared(name: str) -> str:
    """ResNet-18, which only --quick runs, sees small pictures."""
    return "resize=72,crop=64,mean=imagenet" if name == "resnet18" else "resize=256,crop=224,mean=imagenet"


def network(name: str, device: torch.device, dtype: str = "float32", decode: str = "exact") -> HookedTarget:
    layer = {"vit_b_16": "encoder.layers.encoder_layer_11"}.get(name, "layer4")
    how: dict[str, Any] = {"preprocess": prepared(name), "device": str(device), "dtype": dtype, "decode": decode}
    return target(f"torchvision:{name}", layer, weights="random", **how)


class Eyes(BaseEncoder):
    """A network with random weights as an encoder; its texts are random as well."""

    context_length = 77

    def __init__(self, device: torch.device, quick: bool) -> None:
        super().__init__("eyes", str(device))
        self._below = network("resnet18" if quick else "vit_b_16", device)
        self.width, self.fingerprint = (512, "e1" * 16) if quick else (768, "e0" * 16)

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        return self._below.preprocess(image)

    def _image_rows(self, batch: torch.Tensor) -> torch.Tensor:
        dtype = self.options.get("dtype") or "float32"
        return run_layer(self._below.module, self._below.layer, batch, self._row, dtype)

    def _row(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0].clone() if x.ndim == 3 else x.mean((2, 3))

    def _text_rows(self, texts: list[str]) -> torch.Tensor:
        seeds = [torch.Generator().manual_seed(sum(map(ord, t))) for t in texts]
        return torch.stack([torch.randn(self.width, generator=g) for g in seeds])

    def _too_long(self, texts: list[str]) -> list[str]:
        return []


def rows(folder: Path, count: int, device: torch.device, cache: Path, quick: bool) -> dict[str, Any]:
    """ResNet-50 and an encoder on the CPU and the device: how far rows are apart, and what becomes of it."""
    probe, convolutional = image_set(folder, limit=count), "resnet18" if quick else "resnet50"

    def both(place: torch.device) -> list[Any]:
        return [network(convolutional, place), Eyes(place, quick)]

    made = {}
    for name, place in (("cpu", torch.device("cpu")), ("device", device)):
        made[name] = collect(probe, both(place), Store(cache / name), batch_size=64)
    a, e = ({n: torch.from_numpy(made[n].rows(at)) for n in made} for at in (0, 1))
    found = {n: find_exemplars(a[n], e[n], k=10) for n in made}
    texts = normalize(torch.randn(999, e["cpu"].shape[1], generator=torch.Generator().manual_seed(1)), dim=1)
    label = {n: SCORERS["csp"](found[n], e[n], texts).argmax(1) for n in made}
    checked = if_safe("bf16", both(device), probe, Store(cache / "half")).report
    return {
        "images": len(probe),
        "rows_apart": float(((a["cpu"] - a["device"]).norm(dim=1) / a["cpu"].norm(dim=1)).max()),
        "embeddings_turned": float((1 - (e["cpu"].double() * e["device"].double()).sum(1)).max()),
        **same(found["cpu"], found["device"]),
        "csp_labels": float((label["cpu"] == label["device"]).double().mean()),
        "bf16_self_check": checked["networks"],
    }


def collecting(folder: Path, device: torch.device, cache: Path, batch: int, quick: bool) -> list[dict[str, Any]]:
    probe, out = image_set(folder), []
    probe.fingerprints()
    for name in ("resnet18",) if quick else ("resnet50", "vit_b_16"):
        for dtype in ("float32", "bf16"):
            alone = 0.0
            for decode in ("exact", "fast"):
                one = network(name, device, dtype, decode)
                pixels = default_collate([one.preprocess(probe.load(i % len(probe))) for i in range(batch)])
                there = moved(pixels, device)
                took, _ = seconds(lambda x=one, b=there: x(b), device, repeats=1 if quick else 5)
                alone = max(alone, batch / took)
                speed = collect(probe, [one], Store(cache / f"{name}-{dtype}-{decode}"), batch_size=batch).speed
                assert speed is not None
                out.append({
                    "network": name, "dtype": dtype, "decode": decode, "images": speed.images, "batch": batch,
                    "forward_alone": round(alone, 1), "collected": round(speed.images_per_second, 1),
                    "share_of_forward": round(speed.images_per_second / alone, 3),
                    "time_in_networks": round(speed.forward_share, 3),
                })  # fmt: skip
    return out


def shards(
    name: str, folder: Path, device: torch.device, cache: Path, batch: int, ways: tuple[Way, ...]
) -> list[dict[str, Any]]:
    out = []
    for count, threads, workers in ways:
        command = [
            sys.executable, "-m", "contralens", "collect", "--target", f"torchvision:{name}", "--weights", "random",
            "--preprocess", prepared(name), "--layer", "layer4", "--encoder", "world",
            "--images", str(folder), "--cache", str(cache / f"shards-{count}-{threads}"), "--batch-size", str(batch),
            "--device", str(device), "--json", *(["--workers", str(workers)] if workers else []),
        ]  # fmt: skip
        surroundings = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
        running = [
            subprocess.Popen(
                [*command, "--shard", f"{i}/{count}"],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=surroundings,
            )
            for i in range(count)
        ]  # fmt: skip
        told = [json.loads(process.communicate()[0]) for process in running]
        images, slowest = sum(one["images"] for one in told), max(one["seconds"] for one in told)
        rate = round(images / slowest, 1)
        out.append({
            "processes": count, "threads": threads, "workers": workers, "images": images, "images_per_second": rate
        })  # fmt: skip
    return out


def tables(result: dict[str, Any]) -> str:
    lines = [f"{result['device']}, {result['cores']} cores, torch {result['torch']}, {result['date']}", ""]
    lines += ["| images | neurons | step | CPU s | device s | ratio | same |", "|---|---|---|---|---|---|---|"]
    for row in result["mining"]:
        for step in ("mining", *SCORED):
            cpu, there = row[f"cpu_{step}_s"], row[f"device_{step}_s"]
            equal = row["same"][step] if step in SCORED else min(row["same"][f] for f in ("positives", "contrasts"))
            lines.append(
                f"| {row['images']:,} | {row['neurons']:,} | {step} | {cpu:.3f} | {there:.3f} | "
                f"{cpu / max(there, 1e-9):.0f}x | {equal:.4%} |"
            )
    lines += ["", "| network | dtype | decode | forward alone, images/s | collected, images/s | share | in networks |",
              "|---|---|---|---|---|---|---|"]  # fmt: skip
    lines += [
        f"| {r['network']} | {r['dtype']} | {r['decode']} | {r['forward_alone']:,.0f} | {r['collected']:,.0f} | "
        f"{r['share_of_forward']:.0%} | {r['time_in_networks']:.0%} |"
        for r in result["collecting"]
    ]
    lines += ["", "| processes (a ResNet and an encoder, float32) | OMP_NUM_THREADS | --workers | images/s |"]
    lines += ["|---|---|---|---|"]
    lines += [
        f"| {r['processes']} | {r['threads'] or ''} | {r['workers'] or ''} | {r['images_per_second']:,.0f} |"
        for r in result["shards"]
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    args = parser.parse_args()
    device, quick = torch.device(args.device), args.quick
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device here; --device cpu --quick goes through the same steps")
    begin = time.perf_counter()
    result: dict[str, Any] = {
        "date": str(date.today()), "python": platform.python_version(), "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "cores": os.cpu_count(), "threads": torch.get_num_threads(),
    }  # fmt: skip

    def done(part: str, found: Any) -> None:
        result[part] = found
        result["seconds"] = round(time.perf_counter() - begin, 1)
        args.out.write_text(json.dumps(result, indent=1) + "\n")  # what is there survives a time limit
        print(part, json.dumps(found), flush=True)

    sizes = [(1500, 100, 500, 10)] if quick else [(5000, 2048, 9700, 100), (50000, 2048, 9700, 100)]
    done("mining", [mining(*size, device) for size in sizes])
    with tempfile.TemporaryDirectory() as folder:
        pictures = draw(Path(folder) / "pictures", 8 if quick else 2048)
        done("rows", rows(pictures, 8 if quick else 256, device, Path(folder), quick))
        done("collecting", collecting(pictures, device, Path(folder), 4 if quick else args.batch, quick))
        many = pictures if quick else draw(Path(folder) / "many", 8192)
        convolutional = "resnet18" if quick else "resnet50"
        done(
            "shards",
            shards(convolutional, many, device, Path(folder), 4 if quick else args.batch, WAYS[:1] if quick else WAYS),
        )
    print(tables(result), flush=True)


if __name__ == "__main__":
    main()
