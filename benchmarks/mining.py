"""Time, memory and correctness of mining, beside our own slow reference loop in the same process.

    python benchmarks/mining.py                              # 5,000 to 50,000 images, 200 and 2,048 neurons
    python benchmarks/mining.py --quick
    python benchmarks/mining.py --neurolens PATH             # also the paper's published code, from a checkout of it

Made-up data: embeddings (I,512) in clusters of about 250, activations ReLU(class signal + noise). The reference does
for one neuron after the other what the formula says: one matrix-vector product a positive, and the column read again
for each. It runs on a sample of the neurons and is scaled up to all of them (column "reference", so an estimate), on
one thread and on as many as mining, whichever is faster; the exemplars of the sample must agree index by index. Times
are the least of `--repeats`. Peak memory is the growth of the process's resident set while mining.

`--neurolens` imports the package of that name from the folder given (its requirements must be installed: `pip install
PATH`), gives it the same activations and embeddings, and compares its positives and partners with ours; a difference
is put down to equal activations, to cosines that are equal in float32, or to its means in float32, and anything else
is an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Peak, arguments, growth, publish, table
from made import make
from published import compare

from contralens.math.activation_sources import DenseActivations, SparseActivations
from contralens.math.exemplars import find_exemplars
from contralens.math.neighbours import Products, nearest_images
from contralens.math.statistics import survey


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


def least(work: Callable[[], Any], repeats: int) -> tuple[float, float, float, Any]:
    """Wall and CPU seconds and MB, the least of some repeats (memory: the most), and the result."""
    wall = cpu = float("inf")
    most, out = 0.0, None
    for _ in range(repeats):
        with Peak() as peak:
            out = work()
        wall, cpu, most = min(wall, peak.wall), min(cpu, peak.cpu), max(most, peak.megabytes)
    return wall, cpu, most, out


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, nargs="+")
    parser.add_argument("--neurons", type=int, nargs="+")
    parser.add_argument("--k", type=int)
    parser.add_argument("--strength", type=float, default=1.0, help="class signal against noise of 1")
    parser.add_argument("--sample", type=int, default=2, help="neurons that the reference loop does")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--no-reuse", action="store_true")
    parser.add_argument("--sparse", action="store_true", help="few neurons active an image, mined from CSR")
    parser.add_argument("--parts", action="store_true", help="also time the survey and the neighbour lists alone")
    parser.add_argument("--neurolens", type=Path, metavar="PATH", help="a checkout of the paper's published code")
    parser.add_argument("--neurolens-neurons", type=int, default=4, help="whose partners it looks for")
    args = parser.parse_args()
    args.images = args.images or ([1500, 3000] if args.quick else [5000, 16_000, 50_000])
    args.neurons = args.neurons or ([20, 80] if args.quick else [200, 2048])
    args.k = args.k or (20 if args.quick else 100)
    if args.neurolens and (args.sparse or args.no_reuse):
        parser.error("--neurolens compares dense activations, with reuse")
    torch.set_num_threads(args.threads)
    torch.ones(512, 512) @ torch.ones(512, 512)
    rows, notes, wrong = [], [], False
    for images in args.images:
        for neurons in args.neurons:
            a, e = make(images, neurons, args.strength, args.sparse)
            row = measure(a, e, args)
            rows.append(row)
            print({k: round(v, 2) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
            wrong |= row["same"] is False
            if args.neurolens:
                told, agree = compare(args.neurolens, a, e, args.k, args.neurolens_neurons)
                notes.append(f"{images:,} images, {neurons:,} neurons, the published code: {told}")
                print(notes[-1], flush=True)
                wrong |= not agree
    heads = ["images", "neurons", "seconds", "CPU seconds", "reference, seconds", "on threads", "ratio",
             "extra peak MB", "same indices"]  # fmt: skip
    cells = [
        [f"{r['images']:,}", f"{r['neurons']:,}", f"{r['seconds']:.2f}", f"{r['cpu_seconds']:.2f}",
         f"{r['reference_seconds']:,.1f}", r["reference_threads"], f"{r['ratio']:.0f}x", f"{r['peak_mb']:.0f}",
         {True: "yes", False: "NO", None: "not compared"}[r["same"]]]
        for r in rows
    ]  # fmt: skip
    text = f"K={args.k}, D=512, class signal {args.strength:g}.\n\n{table(heads, cells)}"
    grown = growth(rows, "cpu_seconds", ["images", "neurons"])
    publish("mining", "\n".join([text, "", *(f"- {line}" for line in grown + notes)]), args, rows)
    if wrong:
        raise SystemExit("results differ; see above")


def measure(a: torch.Tensor, e: torch.Tensor, args: Any) -> dict[str, Any]:
    images, neurons = a.shape
    given = SparseActivations.of(a) if args.sparse else DenseActivations(a)
    row: dict[str, Any] = {"images": images, "neurons": neurons}
    if args.parts:
        _, row["survey_cpu"], _, top = least(lambda: survey(given, args.k)[2], args.repeats)
        queries = top[top >= 0].unique()
        _, row["neighbours_cpu"], _, near = least(lambda: nearest_images(Products(e), queries), args.repeats)
        row["lists"] = len(near.floor)
        del near
    wall, cpu, most, found = least(lambda: find_exemplars(given, e, k=args.k, reuse=not args.no_reuse), args.repeats)
    sample = np.linspace(0, neurons - 1, min(args.sample, neurons), dtype=int).tolist()
    slow = {}
    for threads in sorted({1, args.threads}):
        torch.set_num_threads(threads)
        slow[threads] = float("inf")
        for n in sample:
            begin = time.perf_counter()
            reference(a, e, args.k, [n])
            slow[threads] = min(slow[threads], (time.perf_counter() - begin) * neurons)
    torch.set_num_threads(args.threads)
    positives, contrasts = reference(a, e, args.k, sample)
    same = torch.equal(found.positives[sample], positives)
    if not args.no_reuse:
        same &= torch.equal(found.contrasts[sample], contrasts)
    fastest = min(slow, key=lambda threads: slow[threads])
    return row | {
        "seconds": wall, "cpu_seconds": cpu, "peak_mb": most, "reference_seconds": slow[fastest],
        "reference_threads": fastest, "ratio": slow[fastest] / wall, "same": same,
    }  # fmt: skip


if __name__ == "__main__":
    main()
