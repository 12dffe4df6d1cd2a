"""Time and memory of the scorers from given exemplars.

    python benchmarks/scoring.py                 # 200 and 2,048 neurons, 9,700 texts, 50,000 images, K=100
    python benchmarks/scoring.py --quick

Random unit embeddings (I,512) and texts (C,512), exemplars and activations drawn at random: the cost does not depend on
the values, save for the look-alikes that `lookalike` searches for, so there embeddings lie in 200 clusters. As when
labeling, scores come some concepts at a time (`score_blocks`), the ten best of each neuron are kept, and the matrix of
all never stands in memory; "peak MB" is the growth of the process's resident set meanwhile.
"""

from __future__ import annotations

import torch
from common import Peak, arguments, growth, publish, table
from torch.nn.functional import normalize

from contralens.math.ranking import best
from contralens.math.scoring import score_blocks, wants_activations
from contralens.types import Exemplars

CALLS = ["semanticlens", "csp", "centred", "mean_difference", "clip_dissect", "clip_dissect:prior=images",
         "clip_dissect_csp", "lookalike"]  # fmt: skip


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--neurons", type=int, nargs="+")
    parser.add_argument("--texts", type=int, nargs="+")
    parser.add_argument("--images", type=int, nargs="+")
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--scorers", nargs="+", choices=CALLS, default=CALLS)
    args = parser.parse_args()
    args.neurons = args.neurons or ([20, 60] if args.quick else [200, 2048])
    args.texts = args.texts or ([300] if args.quick else [9700])
    args.images = args.images or ([2000] if args.quick else [50_000])
    torch.set_num_threads(args.threads)
    g = torch.Generator().manual_seed(0)
    rows = []
    for images in args.images:
        e = normalize(torch.randn(images, 512, generator=g), dim=1)
        centres = normalize(torch.randn(200, 512, generator=g), dim=1)
        clustered = normalize(centres[torch.randint(200, (images,), generator=g)] + 0.7 * e, dim=1)
        for texts in args.texts:
            t = normalize(torch.randn(texts, 512, generator=g), dim=1)
            for neurons in args.neurons:
                shape = (neurons, args.k)
                positives, contrasts = (torch.randint(images, shape, generator=g) for _ in range(2))
                strength, similarity = (torch.rand(shape, generator=g).sort(descending=True).values for _ in range(2))
                found = Exemplars(torch.arange(neurons), positives, strength, contrasts, similarity)
                for name in args.scorers:
                    a, seen = None, e
                    if wants_activations(name):
                        a, seen = torch.rand(images, neurons, generator=g).sub_(0.5).relu_(), clustered
                    wall = cpu = float("inf")
                    most = 0.0
                    for _ in range(args.repeats):
                        with Peak() as peak:
                            best(score_blocks(name, found, seen, t, a), 10)
                        wall, cpu, most = min(wall, peak.wall), min(cpu, peak.cpu), max(most, peak.megabytes)
                    row = {"images": images, "neurons": neurons, "texts": texts, "scorer": name}
                    rows.append(row | {"seconds": wall, "cpu_seconds": cpu, "peak_mb": most})
                    print({k: round(v, 2) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
    heads = ["scorer", "images", "neurons", "texts", "seconds", "CPU seconds", "peak MB"]
    cells = [
        [r["scorer"], f"{r['images']:,}", f"{r['neurons']:,}", f"{r['texts']:,}", f"{r['seconds']:.2f}",
         f"{r['cpu_seconds']:.2f}", f"{r['peak_mb']:.0f}"]
        for r in rows
    ]  # fmt: skip
    grown = growth(rows, "cpu_seconds", ["images", "neurons", "texts"], ["scorer"])
    publish("scoring", "\n".join([table(heads, cells), "", *(f"- {line}" for line in grown)]), args, rows)


if __name__ == "__main__":
    main()
