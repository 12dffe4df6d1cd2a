"""Mining shard by shard: the same exemplars, and memory that does not grow with the images.

    python benchmarks/shards.py            # 10 million images in 20 shards, D=64, 64 neurons; about ten minutes
    python benchmarks/shards.py --quick

Made-up embeddings in clusters and activations that follow them, drawn anew from a seed each time that a shard is asked
for, so that no file stands behind them. At the smallest size the result is compared with `find_exemplars` of all images
at once. The peak is that of a fresh process, imports included.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from common import Peak, arguments, growth, peak_resident, publish, table
from torch.nn.functional import normalize

from contralens.math.exemplars import find_exemplars
from contralens.math.sharded_mining import find_exemplars_in_shards


def shards(images: int, each: int, neurons: int, width: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Activations and unit embeddings of consecutive images."""
    shared = torch.Generator().manual_seed(0)
    centres = normalize(torch.randn(500, width, generator=shared), dim=1)
    signal = torch.randn(500, neurons, generator=shared)
    for start in range(0, images, each):
        g = torch.Generator().manual_seed(1 + start)
        kind = torch.randint(500, (min(each, images - start),), generator=g)
        e = normalize(centres[kind] + 0.8 * torch.randn(len(kind), width, generator=g) / width**0.5, dim=1)
        yield signal[kind].add_(torch.randn(len(kind), neurons, generator=g)).relu_(), e


def child(images: int, each: int, neurons: int, width: int, k: int) -> None:
    """One size in this process: seconds, CPU seconds, bytes at most."""
    with Peak() as peak:
        find_exemplars_in_shards(lambda: shards(images, each, neurons, width), k=k)
    print(peak.wall, peak.cpu, peak_resident())


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, nargs="+")
    parser.add_argument("--shard", type=int, help="images of a shard")
    parser.add_argument("--neurons", type=int, default=64)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--k", type=int, default=30)
    parser.add_argument("--child", type=int, nargs=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.child:
        child(*args.child)
        return
    sizes = args.images or ([4000, 8000] if args.quick else [100_000, 1_000_000, 10_000_000])
    each = args.shard or (1500 if args.quick else 500_000)
    first = min(sizes)
    parts = list(shards(first, -(-first // 3), args.neurons, args.width))
    sharded = find_exemplars_in_shards(lambda: parts, k=args.k)
    whole = find_exemplars(torch.cat([a for a, _ in parts]), torch.cat([e for _, e in parts]), k=args.k)
    same = all(torch.equal(getattr(sharded, name), getattr(whole, name)) for name in ("positives", "contrasts"))
    rows = []
    for images in sizes:
        numbers = [str(n) for n in (images, each, args.neurons, args.width, args.k)]
        run = subprocess.run(
            [sys.executable, str(Path(__file__)), "--threads", str(args.threads), "--child", *numbers],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        wall, cpu, most = map(float, run.stdout.split())
        rows.append({"images": images, "seconds": wall, "cpu_seconds": cpu, "peak_mb": most / 2**20})
        print(rows[-1], flush=True)
    cells = [
        [f"{r['images']:,}", f"{r['seconds']:.0f}", f"{r['cpu_seconds']:.0f}", f"{r['peak_mb']:,.0f}"] for r in rows
    ]
    told = "those of all at once" if same else "NOT those of all at once"
    text = (
        f"Shards of {each:,} images, {args.neurons} neurons, D={args.width}, K={args.k}. In three shards of {first:,} "
    )
    text += f"images the exemplars are {told}."
    lines = [f"- {line.removeprefix(': ')}" for line in growth(rows, "cpu_seconds", ["images"])]
    publish(
        "shards",
        "\n".join([text, "", table(["images", "seconds", "CPU seconds", "peak MB"], cells), "", *lines]),
        args,
        rows,
    )
    if not same:
        raise SystemExit("results differ; see above")


if __name__ == "__main__":
    main()
