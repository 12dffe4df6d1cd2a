"""float32 by oneDNN beside torch's default (`--precision onednn`): what this machine's trial finds, and whole networks.

    python benchmarks/onednn.py [--networks vit_b_32 resnet50] [--images 16] [--turns 5] [--write]
    MKL_CBWR=COMPATIBLE python benchmarks/onednn.py     # MKL made slow, for the same bits on all processors
    ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/onednn.py # oneDNN without AVX-512

Networks of torchvision with random weights, to the layer before the classifier, one batch of noise, CPU seconds of the
quickest of some turns each. "apart" is the greatest relative difference of a row; contralens uses oneDNN up to 2e-6.
"""

from __future__ import annotations

import os
import time

import torch
from common import arguments, publish, table

from contralens.collecting.precision import apart
from contralens.math.fast_kernels import tried
from contralens.models.targets import target

LAYERS = {"resnet18": "avgpool", "resnet50": "avgpool", "vit_b_32": "encoder.ln", "vit_b_16": "encoder.ln"}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--networks", nargs="+", choices=LAYERS)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = args.networks or (["resnet18"] if args.quick else ["vit_b_32", "vit_b_16", "resnet50"])
    images, turns = (2, 1) if args.quick else (args.images, args.turns)
    batch = torch.randn(images, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    right, fast = tried("onednn")
    cells, numbers = [], []
    for name in names:
        torch.manual_seed(0)
        usual = target(f"torchvision:{name}", layer=LAYERS[name], weights="random")
        kinds = {"float32": usual, "onednn": usual.with_dtype("onednn")}
        seconds = dict.fromkeys(kinds, float("inf"))
        for _ in range(turns):
            for kind, made in kinds.items():
                start = time.process_time()
                made(batch)
                seconds[kind] = min(seconds[kind], time.process_time() - start)
        moved = apart(*(made(batch) for made in kinds.values()))
        ms = {kind: one / images * 1e3 for kind, one in seconds.items()}
        numbers.append({"network": name, **ms, "gain": ms["float32"] / ms["onednn"], "apart": moved})
        cells.append([name, f"{ms['float32']:.1f}", f"{ms['onednn']:.1f}", f"{ms['float32'] / ms['onednn']:.2f}",
                      f"{moved:.1e}"])  # fmt: skip
        print(numbers[-1], flush=True)
    given = ", ".join(f"{key}={os.environ[key]}" for key in ("MKL_CBWR", "ONEDNN_MAX_CPU_ISA") if key in os.environ)
    heads = ["network", "torch's default, CPU ms an image", "oneDNN, CPU ms an image", "times faster", "apart"]
    text = f"With {given or 'no variable set'}, this machine's trial finds oneDNN {'right' if right else 'not right'} "
    text += f"and {'faster' if fast else 'not faster'}.\n\n{table(heads, cells)}"
    publish("onednn", text, args, numbers)


if __name__ == "__main__":
    main()
