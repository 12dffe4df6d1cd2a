"""The forward up to a layer, eager against compiled (`--compile`), taking turns in one process.

    python benchmarks/compiling.py            # ResNet-50 and EfficientNet-Lite0, random weights; some minutes
    python benchmarks/compiling.py --quick

CPU milliseconds an image, the wall-clock time of the first call with an empty cache of kernels, which compiles, and how
far compiled rows are from eager ones. Weights are random: they do not matter for the time.
"""

from __future__ import annotations

import os
import tempfile
import time

import torch
from common import arguments, publish, table
from PIL import Image

import contralens

NETWORKS = {"torchvision:resnet50": "layer4", "timm:efficientnet_lite0": "blocks.6"}
QUICK = {"world:1": "block3"}
BATCH = 32


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cells, rows = [], []
    weights = None if args.quick else "random"
    with tempfile.TemporaryDirectory() as kernels:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = kernels
        for spec, layer in (QUICK if args.quick else NETWORKS).items():
            eager = contralens.target(spec, layer, weights=weights)
            start, cpu = time.perf_counter(), time.process_time()
            fast = contralens.target(spec, layer, weights=weights, compile=True)
            wall, cpu = time.perf_counter() - start, time.process_time() - cpu
            if fast.compiled is None:
                raise SystemExit(fast.notes[-1])
            size = fast.preprocess(Image.new("RGB", (320, 320))).shape[-1]
            batch = torch.randn(BATCH, 3, size, size, generator=torch.Generator().manual_seed(0))
            both = {"eager": eager, "compiled": fast}
            spent = dict.fromkeys(both, float("inf"))
            outputs = {name: one(batch) for name, one in both.items()}
            for _ in range(args.rounds):
                for name, one in both.items():
                    begun = time.process_time()
                    one(batch)
                    spent[name] = min(spent[name], time.process_time() - begun)
            apart = (outputs["compiled"] - outputs["eager"]).norm(dim=1) / outputs["eager"].norm(dim=1)
            each = {name: 1e3 * seconds / BATCH for name, seconds in spent.items()}
            pays = cpu / (spent["eager"] - spent["compiled"]) * BATCH if spent["eager"] > spent["compiled"] else None
            rows.append({"network": spec, **each, "compile_wall": wall, "compile_cpu": cpu, "pays": pays})
            cells.append([
                f"{spec}, {layer}", f"{each['eager']:.1f}", f"{each['compiled']:.1f}",
                f"{each['eager'] / each['compiled']:.2f}", f"{wall:.0f} s ({cpu:.0f} s CPU)",
                "never" if pays is None else f"{pays:,.0f}", f"{float(apart.max()):.1e}",
            ])  # fmt: skip
    heads = ["network, layer", "eager, ms an image", "compiled", "ratio", "compiling", "pays from images", "rows apart"]
    publish("compiling", table(heads, cells), args, rows)


if __name__ == "__main__":
    main()
