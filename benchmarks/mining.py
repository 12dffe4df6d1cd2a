"""Time, memory and correctness of mining, beside our own slow reference loop in the same process.

    python benchmarks/mining.py --images 5000 50000 --neurons 200 2048

Made-up data: embeddings (I,512) in clusters of about 250, activations ReLU(class signal + noise). The reference does
for one neuron after the other what the formula says: one matrix-vector product a positive, and the column read again
for each. It runs on a sample of the neurons and is scaled up to all of them (column "reference", so an estimate); the
exemplars of the sample must agree index by index. Peak memory is the growth of the process's resident set while mining.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import resource
import sys
import threading
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize

from contralens.math.exemplars import DenseActivations, SparseActivations, find_exemplars
from contralens.math.neighbours import Products, nearest_images
from contralens.math.statistics import survey


def make(images: int, neurons: int, strength: float, sparse: bool, seed: int = 0, width: int = 512):
    """Activations (I,N) and unit embeddings (I,D)."""
    g = torch.Generator().manual_seed(seed)
    clusters = max(1, images // 250)
    kind = torch.randint(clusters, (images,), generator=g)
    centre = normalize(torch.randn(clusters, width, generator=g), dim=1)
    embeddings = torch.empty(images, width)
    activations = torch.empty(images, neurons)
    signal = strength * torch.randn(clusters, neurons, generator=g)
    bias = 3.5 * math.sqrt(1 + strength**2) if sparse else 0.0
    for rows in torch.arange(images).split(2048):
        noise = torch.randn(len(rows), width, generator=g) / math.sqrt(width)
        embeddings[rows] = normalize(centre[kind[rows]] + noise, dim=1)
        activations[rows] = torch.relu(signal[kind[rows]] + torch.randn(len(rows), neurons, generator=g) - bias)
    return activations, embeddings


def reference(a: torch.Tensor, e: torch.Tensor, k: int, neurons: list[int]):
    """Positives and contrasts by the formula, one matrix-vector product a positive."""
    positives, contrasts = [], []
    for n in neurons:
        order = a[:, n].sort(descending=True, stable=True).indices[:k]
        partners = []
        for p in order:
            column = a[:, n].clone()
            cosine = e @ e[p]
            cosine[column >= column.double().mean()] = -torch.inf
            near = (cosine >= cosine.max() - 1e-5).nonzero()[:, 0]
            exact = e[near].double() @ e[p].double()
            partners.append(int(near[exact >= exact.max() - 1e-12].min()) if cosine.max() > -torch.inf else -1)
        positives.append(order.tolist())
        contrasts.append(partners)
    return torch.tensor(positives), torch.tensor(contrasts)


class Peak:
    """The growth of the resident set while inside, sampled every 5 ms."""

    def __enter__(self) -> Peak:
        self.start = self.most = resident()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.most = max(self.most, resident())

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        self._done.set()
        self._thread.join()

    @property
    def megabytes(self) -> float:
        return (self.most - self.start) / 2**20


def resident() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[5000, 16000, 50000])
    parser.add_argument("--neurons", type=int, nargs="+", default=[200, 2048])
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--strength", type=float, default=1.0, help="class signal against noise of 1")
    parser.add_argument("--sample", type=int, default=1, help="neurons that the reference loop does")
    parser.add_argument("--no-reuse", action="store_true")
    parser.add_argument("--sparse", action="store_true", help="few neurons active an image, mined from CSR")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--parts", action="store_true", help="also time the survey and the neighbour lists alone")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/mining.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.ones(512, 512) @ torch.ones(512, 512)
    rows = []
    for images in args.images:
        for neurons in args.neurons:
            a, e = make(images, neurons, args.strength, args.sparse)
            given = SparseActivations.of(a) if args.sparse else DenseActivations(a)
            parts = {}
            if args.parts:
                with Peak() as first:
                    top = survey(given, args.k)[2]
                with Peak() as second:
                    products = Products(e)
                    near = nearest_images(products, top[top >= 0].unique())
                parts = {"survey_cpu": first.cpu, "neighbours_cpu": second.cpu}
                print({**parts, "lists": len(near.floor), "dtype": str(products.dtype), "tol": products.tolerance})
                del near, products
            with Peak() as peak:
                found = find_exemplars(given, e, k=args.k, reuse=not args.no_reuse)
            sample = np.linspace(0, neurons - 1, args.sample, dtype=int).tolist()
            begin, begin_cpu = time.perf_counter(), time.process_time()
            positives, contrasts = reference(a, e, args.k, sample)
            scale = neurons / len(sample)
            slow, slow_cpu = (time.perf_counter() - begin) * scale, (time.process_time() - begin_cpu) * scale
            row = {
                "images": images,
                "neurons": neurons,
                "k": args.k,
                "seconds": peak.wall,
                "cpu_seconds": peak.cpu,
                "peak_mb": peak.megabytes,
                "reference_seconds": slow,
                "reference_cpu_seconds": slow_cpu,
                "speedup": slow / peak.wall,
                "speedup_cpu": slow_cpu / peak.cpu,
                "positives_equal": bool((found.positives[sample] == positives).all()),
                "contrasts_equal": None if args.no_reuse else bool((found.contrasts[sample] == contrasts).all()),
                **parts,
            }
            rows.append(row)
            if len(rows) == 1:
                print(
                    f"{'images':>7} {'neurons':>7} {'mining':>8} {'cpu':>7} {'peak':>8} {'reference':>10} {'times':>6} "
                    f"{'(cpu)':>6}  same as reference"
                )
            print(
                f"{images:7d} {neurons:7d} {peak.wall:7.2f}s {peak.cpu:6.2f}s {peak.megabytes:5.0f} MB {slow:9.1f}s "
                f"{row['speedup']:5.0f}x {row['speedup_cpu']:5.0f}x  {row['positives_equal']} {row['contrasts_equal']}",
                flush=True,
            )
            del a, e, given, found
    growth(rows)
    machine = {
        "date": str(date.today()),
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": args.threads,
        "strength": args.strength,
        "sparse": args.sparse,
        "reuse": not args.no_reuse,
    }
    args.out.write_text(json.dumps({**machine, "rows": rows}, indent=1) + "\n")


def growth(rows: list[dict]) -> None:
    """Exponents: cost ~ size^x, so 1.0 is linear."""
    for what, other in (("images", "neurons"), ("neurons", "images")):
        for fixed in sorted({row[other] for row in rows}):
            line = sorted((row for row in rows if row[other] == fixed), key=lambda row: row[what])
            if len(line) > 1:
                first, last = line[0], line[-1]
                ratio = last["cpu_seconds"] / first["cpu_seconds"]
                power = math.log(ratio) / math.log(last[what] / first[what])
                print(f"{other} {fixed}: {first[what]} -> {last[what]} {what}: cost x{ratio:.1f}, exponent {power:.2f}")


if __name__ == "__main__":
    main()
