"""What glibc's way of handing memory back costs, and what keeping it costs.

    python benchmarks/allocating.py [--write] [--threads 1]
    python benchmarks/allocating.py --quick

Each row is a fresh process in which a network (random weights) computes some batches: with the allocator as it comes
(what glibc hands back, the system clears page by page for the next block), and as while images are collected (freed
memory stays with the process until the step ends). CPU seconds in the program and in the system, page faults, peak
memory, and what is left when the step has ended.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from contextlib import nullcontext

import torch
from common import arguments, peak_resident, publish, resident, table

from contralens.math.tensors import keeping_memory, return_memory

NETWORKS = ("mobilenet_v3_large", "efficientnet_b0", "resnet50", "vit_b_32")
WAYS = {"handed back": nullcontext, "kept": keeping_memory}


def child(args: argparse.Namespace) -> None:
    """Some batches after one that warms up; prints what they took."""
    import torchvision

    torch.set_num_threads(args.threads)
    network = torchvision.models.get_model(args.child, weights=None).eval()
    batch = torch.randn(args.batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), WAYS[args.way]():
        network(batch)
        before = resource.getrusage(resource.RUSAGE_SELF)
        for _ in range(args.batches):
            network(batch)
        after = resource.getrusage(resource.RUSAGE_SELF)
    return_memory()
    print(json.dumps({
        "user": after.ru_utime - before.ru_utime, "system": after.ru_stime - before.ru_stime,
        "faults": after.ru_minflt - before.ru_minflt, "peak": peak_resident(), "left": resident(),
    }))  # fmt: skip


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--batches", type=int)
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.batches = args.batches or (1 if args.quick else 4)
    if args.child:
        child(args)
        return
    found, rows = [], []
    for network in NETWORKS[:1] if args.quick else NETWORKS:
        for way in WAYS:
            command = [sys.executable, __file__, "--child", network, "--batch", str(4 if args.quick else args.batch)]
            command += ["--batches", str(args.batches), "--threads", str(args.threads), "--way", way]
            out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            told = json.loads(out.stdout.splitlines()[-1])
            found.append({"network": network, "memory": way, **told})
            rows.append([
                network, way, f"{told['user']:.1f}", f"{told['system']:.1f}", f"{told['faults'] / 1e6:.2f}",
                f"{told['peak'] / 1e6:,.0f}", f"{told['left'] / 1e6:,.0f}",
            ])  # fmt: skip
    heads = ["network", "freed memory", "user s", "system s", "million faults", "peak MB", "MB left"]
    text = f"{args.batches} batches of {args.batch} pictures of 224 px.\n\n{table(heads, rows)}"
    publish("allocating", text, args, found)


if __name__ == "__main__":
    main()
