"""float32 by oneDNN beside torch's default (`--precision onednn`): what this machine's trial finds, and whole networks.

    python benchmarks/onednn.py [--networks vit_b_32 resnet50] [--images 8] [--turns 4] [--write]
    python benchmarks/onednn.py --quick

Networks of torchvision with random weights, to the layer before the classifier, one batch of noise, CPU seconds of the
quickest of some turns each; one thread. Each setting of `SETTINGS` has a fresh process: as the machine is, with MKL
made slow (MKL_CBWR=COMPATIBLE: the same bits on all processors), and with oneDNN without bfloat16 units or without
AVX-512. "apart" is the greatest relative difference of a row; contralens uses oneDNN up to 2e-6.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import torch
from common import arguments, publish, table

from contralens.collecting.precision import apart
from contralens.math.fast_kernels import tried
from contralens.models.targets import target

LAYERS = {"resnet18": "avgpool", "resnet50": "avgpool", "vit_b_32": "encoder.ln", "vit_b_16": "encoder.ln"}
SETTINGS = ["", "MKL_CBWR=COMPATIBLE", "ONEDNN_MAX_CPU_ISA=AVX512_CORE", "ONEDNN_MAX_CPU_ISA=AVX2"]


def measured(name: str, images: int, turns: int) -> dict[str, float]:
    """CPU milliseconds an image both ways, in turns, and how far rows are apart."""
    torch.manual_seed(0)
    batch = torch.randn(images, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    usual = target(f"torchvision:{name}", layer=LAYERS[name], weights="random")
    kinds = {"float32": usual, "onednn": usual.with_dtype("onednn")}
    ms = dict.fromkeys(kinds, float("inf"))
    for _ in range(turns):
        for kind, made in kinds.items():
            start = time.process_time()
            made(batch)
            ms[kind] = min(ms[kind], (time.process_time() - start) / images * 1e3)
    return {**ms, "gain": ms["float32"] / ms["onednn"], "apart": apart(*(made(batch) for made in kinds.values()))}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--networks", nargs="+", choices=LAYERS)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--here", action="store_true", help="in this process only, as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = args.networks or (["resnet18"] if args.quick else ["vit_b_32", "resnet50"])
    images, turns = (2, 1) if args.quick else (args.images, args.turns)
    if args.here:
        right, fast = tried("onednn")
        networks = {name: measured(name, images, turns) for name in names}
        print(json.dumps({"right": right, "fast": fast, "networks": networks}))
        return
    cells, numbers = [], []
    for setting in SETTINGS[:2] if args.quick else SETTINGS:
        command = [sys.executable, __file__, "--here", "--networks", *names, "--images", images, "--turns", turns]
        env = os.environ | dict([setting.split("=")] if setting else [])
        found = json.loads(subprocess.run(
            list(map(str, command)), env=env, check=True, capture_output=True, text=True,
        ).stdout.splitlines()[-1])  # fmt: skip
        trial = f"{'right' if found['right'] else 'not right'}, {'faster' if found['fast'] else 'not faster'}"
        for name, one in found["networks"].items():
            numbers.append({"setting": setting, "trial": trial, "network": name, **one})
            cells.append([setting or "none", trial, name, f"{one['float32']:.1f}", f"{one['onednn']:.1f}",
                          f"{one['gain']:.2f}", f"{one['apart']:.1e}"])  # fmt: skip
            print(numbers[-1], flush=True)
    heads = ["variable set", "the trial finds oneDNN", "network", "torch's default, CPU ms an image", "oneDNN",
             "times faster", "apart"]  # fmt: skip
    publish("onednn", table(heads, cells), args, numbers)


if __name__ == "__main__":
    main()
