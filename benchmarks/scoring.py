"""Time and memory of the scorers from given exemplars.

    python benchmarks/scoring.py --neurons 2048 --texts 9700

Random unit embeddings (I,512) and texts (C,512), exemplars and activations drawn at random: the cost does not depend on
the values, save for the look-alikes that `lookalike` searches for, so there embeddings lie in 200 clusters.
"""

from __future__ import annotations

import argparse
import json
import platform
from datetime import date
from pathlib import Path

import torch
from mining import Peak
from torch.nn.functional import normalize

from contralens.math.scorers import SCORERS, wants_activations
from contralens.types import Exemplars

CALLS = [
    ("semanticlens", {}),
    ("csp", {}),
    ("centred", {}),
    ("mean_difference", {}),
    ("clip_dissect", {}),
    ("clip_dissect", {"prior": "images"}),
    ("clip_dissect_csp", {}),
    ("lookalike", {}),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neurons", type=int, nargs="+", default=[200, 2048])
    parser.add_argument("--texts", type=int, nargs="+", default=[9700])
    parser.add_argument("--images", type=int, default=50000)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--scorers", nargs="+", choices=sorted({name for name, _ in CALLS}))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("benchmarks/scoring.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    g = torch.Generator().manual_seed(0)
    e = normalize(torch.randn(args.images, 512, generator=g), dim=1)
    rows = []
    for texts in args.texts:
        t = normalize(torch.randn(texts, 512, generator=g), dim=1)
        for neurons in args.neurons:
            shape = (neurons, args.k)
            positives, contrasts = (torch.randint(args.images, shape, generator=g) for _ in range(2))
            activations = torch.rand(shape, generator=g).sort(dim=1, descending=True).values
            found = Exemplars(torch.arange(neurons), positives, activations, contrasts, torch.rand(shape, generator=g))
            for name, options in [c for c in CALLS if args.scorers is None or c[0] in args.scorers]:
                given, rows_of = dict(options), e
                if wants_activations(name):
                    given["activations"] = torch.rand(args.images, neurons, generator=g).sub_(0.5).relu_()
                    centres = normalize(torch.randn(200, 512, generator=g), dim=1)
                    rows_of = normalize(centres[torch.randint(200, (args.images,), generator=g)] + 0.7 * e, dim=1)
                with Peak() as peak:
                    SCORERS[name](found, rows_of, t, **given)
                rows.append(
                    {"scorer": name, **options, "neurons": neurons, "texts": texts, "k": args.k, "seconds": peak.wall}
                    | {"cpu_seconds": peak.cpu, "peak_mb": peak.megabytes}
                )
                label = " ".join([name, *(f"{k}={v}" for k, v in options.items())])
                print(
                    f"{neurons:6d} neurons {texts:6d} texts  {label:28s} {peak.wall:7.2f}s {peak.cpu:7.2f}s cpu "
                    f"{peak.megabytes:6.0f} MB",
                    flush=True,
                )
    machine = {"date": str(date.today()), "machine": platform.machine(), "python": platform.python_version()}
    machine |= {"torch": torch.__version__, "threads": args.threads, "images": args.images}
    args.out.write_text(json.dumps({**machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
