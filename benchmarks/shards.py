"""Mining, scoring and confidence shard by shard: the same numbers, in memory that hardly grows with the images.

    python benchmarks/shards.py            # 10 million images in 20 shards, D=64, 64 neurons; half an hour
    python benchmarks/shards.py --float32  # products as on a machine without fast bfloat16
    python benchmarks/shards.py --quick

Made-up embeddings in clusters and activations that follow them, drawn anew from a seed each time that a shard is asked
for, so that no file stands behind them. At the smallest size the result is compared with `find_exemplars` of all images
at once. The peak is that of a fresh process, imports included. Scoring runs the panel of five scorers behind confidence
(`label_shards`), with the embeddings mapped from a nameless file.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from common import Peak, arguments, growth, peak_resident, publish, table
from torch.nn.functional import normalize

from contralens.math import neighbours
from contralens.math.activation_sources import ActivationSource, source
from contralens.math.confidence import Weighed
from contralens.math.exemplars import find_exemplars
from contralens.math.sharded_mining import ShardedActivations, find_exemplars_in_shards
from contralens.types import Exemplars


def shard(start: int, images: int, each: int, neurons: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations and unit embeddings of consecutive images."""
    shared = torch.Generator().manual_seed(0)
    centres = normalize(torch.randn(500, width, generator=shared), dim=1)
    signal = torch.randn(500, neurons, generator=shared)
    g = torch.Generator().manual_seed(1 + start)
    kind = torch.randint(500, (min(each, images - start),), generator=g)
    e = normalize(centres[kind] + 0.8 * torch.randn(len(kind), width, generator=g) / width**0.5, dim=1)
    return signal[kind].add_(torch.randn(len(kind), neurons, generator=g)).relu_(), e


def shards(images: int, each: int, neurons: int, width: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """All shards, one after the other."""
    for start in range(0, images, each):
        yield shard(start, images, each, neurons, width)


def child(images: int, each: int, neurons: int, width: int, k: int) -> None:
    """One size in this process: CPU seconds of mining and of scoring, bytes at most after each."""
    with Peak() as mining:
        exemplars = find_exemplars_in_shards(lambda: shards(images, each, neurons, width), k=k)
    most = peak_resident()
    with tempfile.TemporaryFile() as file:
        counts = []
        for a, e in shards(images, each, neurons, width):
            file.write(e.numpy().data)
            counts.append(len(a))
        file.flush()
        e = torch.from_numpy(np.memmap(file, np.float32, "c", shape=(images, width)))
        opened = lru_cache(1)(lambda at: source(shard(at * each, images, each, neurons, width)[0]))
        with Peak() as scoring:
            weighed(exemplars, ShardedActivations(counts, opened), e)
    print(mining.cpu, scoring.cpu, most, peak_resident())


def weighed(exemplars: Exemplars, activations: ActivationSource, e: torch.Tensor) -> Weighed:
    """The panel's labels and their confidence, out of 1,000 made-up texts."""
    texts = normalize(torch.randn(1000, e.shape[1], generator=torch.Generator().manual_seed(2)), dim=1)
    return Weighed.by_panel(exemplars, activations, e, texts)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, nargs="+")
    parser.add_argument("--shard", type=int, help="images of a shard")
    parser.add_argument("--neurons", type=int, default=64)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--k", type=int, default=30)
    parser.add_argument("--float32", action="store_true", help="no bfloat16, whatever the self-test finds")
    parser.add_argument("--child", type=int, nargs=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.float32:
        neighbours.bfloat16_is_fast = lambda device: False
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
    e = torch.cat([e for _, e in parts])
    one = weighed(whole, source(torch.cat([a for a, _ in parts])), e)
    other = weighed(sharded, ShardedActivations([len(a) for a, _ in parts], lambda at: source(parts[at][0])), e)
    apart = float((one.probabilities - other.probabilities).abs().max())
    same = same and torch.equal(one.candidates, other.candidates) and apart < 1e-4
    rows = []
    for images in sizes:
        numbers = [str(n) for n in (images, each, args.neurons, args.width, args.k)]
        run = subprocess.run(
            [sys.executable, str(Path(__file__)), "--threads", str(args.threads), *(["--float32"] * args.float32),
             "--child", *numbers],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        mining, scoring, most, most_scoring = map(float, run.stdout.split())
        rows.append({
            "images": images, "mining_cpu": mining, "scoring_cpu": scoring, "mining_mb": most / 2**20,
            "peak_mb": most_scoring / 2**20,
        })  # fmt: skip
        print(rows[-1], flush=True)
    cells = [
        [f"{r['images']:,}", f"{r['mining_cpu']:.0f}", f"{r['mining_mb']:,.0f}", f"{r['scoring_cpu']:.0f}",
         f"{r['peak_mb']:,.0f}"] for r in rows
    ]  # fmt: skip
    told = "those of all at once" if same else "NOT those of all at once"
    text = (
        f"Shards of {each:,} images, {args.neurons} neurons, D={args.width}, K={args.k}, 1,000 texts. Of {first:,} "
        f"images in three shards the exemplars are {told}, the labels too, and confidence differs by at most "
        f"{apart:.0e}. The second peak holds pages of the mapped file, which the system can take back."
    )
    lines = [f"- {line.removeprefix(': ')}" for cost in ("mining_cpu", "scoring_cpu") for line in growth(
        rows, cost, ["images"]
    )]  # fmt: skip
    heads = ["images", "mining, CPU seconds", "peak MB", "scoring with confidence, CPU seconds", "peak MB"]
    publish("shards", "\n".join([text, "", table(heads, cells), "", *lines]), args, rows)
    if not same:
        raise SystemExit("results differ; see above")


if __name__ == "__main__":
    main()
