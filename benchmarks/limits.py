"""Each stage beside its peer and beside what this machine can do, in one run, at three sizes.

    python benchmarks/limits.py           # about ten minutes
    python benchmarks/limits.py --quick

The limits of the machine come first, from the same process: float32 matrix products, copying memory, decoding JPEGs.
Then for each stage: what it costs, what its peer costs, the share of the machine's limit that it reaches, and how the
cost grows from the smallest to the largest size (1 is linear).

| stage | work | peer | limit |
|---|---|---|---|
| collecting | JPEGs through ResNet-18 (random weights), one worker | the network alone | network + decoding |
| mining | exemplars and contrasts | one neuron after the other, from two | products of queries with all images |
| scoring | CSP, the ten best of all texts | one neuron after the other | product of neurons and texts |
| confidence | `label_confidence` | the four default scorers | - |
| evaluation | AUROC, AUPRC and Pearson of each neuron | scikit-learn and scipy, one neuron after the other | - |

Seconds are CPU seconds, the least of some repeats. A peer's results must agree with ours where both exist.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, growth, publish, table
from made import make
from mining import least, reference
from PIL import Image
from scipy.stats import pearsonr
from sklearn.metrics import average_precision_score, roc_auc_score
from torch.nn.functional import normalize

from contralens.collecting.collect import collect
from contralens.data.decode import decode
from contralens.data.images import images as image_set
from contralens.data.store import Store
from contralens.math.confidence import label_confidence
from contralens.math.exemplars import find_exemplars
from contralens.math.metrics import active, auc_of, auprc, pearson
from contralens.math.ranking import best
from contralens.math.scoring import score_blocks
from contralens.math.tensors import keeping_memory
from contralens.models.targets import target

DEFAULT = ("semanticlens", "csp", "centred:gamma=1", "clip_dissect")
"""Scorers whose cost is set against that of confidence."""
Row = dict[str, Any]


def cpu(work: Callable[[], Any], repeats: int = 2) -> tuple[float, Any]:
    """CPU seconds, the least of some repeats, and the result."""
    _, seconds, _, out = least(work, repeats)
    return seconds, out


def drawn(folder: Path, count: int) -> list[bytes]:
    """JPEGs of 500 x 375 in a folder: noise over waves, about as costly to decode as photographs."""
    random, out = np.random.default_rng(0), []
    y, x = np.mgrid[:375, :500] / 40
    for i in range(count):
        waves = 90 * np.sin(x[..., None] * random.random(3) * 3 + y[..., None] * random.random(3) * 3 + i) + 128
        picture = Image.fromarray(np.clip(waves + random.normal(0, 12, waves.shape), 0, 255).astype(np.uint8))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=90)
        out.append(buffer.getvalue())
        (folder / f"{i:05d}.jpg").write_bytes(out[-1])
    return out


def limits(blobs: list[bytes], size: int) -> dict[str, float]:
    """GFLOP a CPU second, GB a CPU second and decoded images a CPU second."""
    a = torch.randn(size, size, generator=torch.Generator().manual_seed(0))
    b = a.numpy()
    torch_s, numpy_s = cpu(lambda: a @ a, 3)[0], cpu(lambda: b @ b, 3)[0]
    torch.set_float32_matmul_precision("medium")
    medium_s = cpu(lambda: a @ a, 3)[0]
    torch.set_float32_matmul_precision("highest")
    big = torch.ones(size * size * 8)
    return {
        "float32 products, GFLOP a CPU second": 2 * size**3 / 1e9 / min(torch_s, numpy_s),
        "the same by torch": 2 * size**3 / 1e9 / torch_s,
        'the same by torch, precision "medium"': 2 * size**3 / 1e9 / medium_s,
        "memory copied, GB a CPU second": 2 * 4 * len(big) / 1e9 / cpu(big.clone, 3)[0],
        "JPEGs of 500 x 375 decoded a CPU second": len(blobs) / cpu(lambda: [decode(blob) for blob in blobs])[0],
    }


def collecting(folder: Path, sizes: list[int], found: dict[str, float]) -> Iterator[Row]:
    net = target("torchvision:resnet18", "layer4", weights="random")
    batch = torch.randn(32, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with keeping_memory(), torch.no_grad():
        forward = cpu(lambda: net(batch), 3)[0] / len(batch)
    for size in sizes:
        with tempfile.TemporaryDirectory() as cache:
            probe = image_set(folder, limit=size)
            ours, got = cpu(lambda probe=probe, cache=cache: collect(probe, [net], Store(cache), workers=1), 1)
        assert len(got.usable) == size
        limit = size * (forward + 1 / found["JPEGs of 500 x 375 decoded a CPU second"])
        yield {
            "stage": "collecting",
            "size": size,
            "of": "images",
            "ours": ours,
            "peer": size * forward,
            "limit": limit,
        }


def mining(sizes: list[int], neurons: int, k: int, found: dict[str, float]) -> Iterator[Row]:
    some = [0, neurons - 1]
    for size in sizes:
        a, e = make(size, neurons, 1.0, sparse=False)
        ours, got = cpu(lambda a=a, e=e: find_exemplars(a, e, k=k))
        peer, (positives, contrasts) = cpu(lambda a=a, e=e: reference(a, e, k, some), 1)
        assert torch.equal(got.positives[some], positives)
        assert torch.equal(got.contrasts[some], contrasts)
        queries = len(got.positives[got.positives >= 0].unique())
        limit = 2 * queries * (size - queries / 2) * e.shape[1] / 1e9 / found["float32 products, GFLOP a CPU second"]
        row = {"stage": "mining", "size": size, "of": f"images, {neurons:,} neurons", "ours": ours}
        yield row | {"peer": peer * neurons / len(some), "limit": limit}


def scoring(sizes: list[int], texts: int, k: int, found: dict[str, float]) -> Iterator[Row]:
    a, e = make(4000, max(sizes), 1.0, sparse=False)
    t = normalize(torch.randn(texts, e.shape[1], generator=torch.Generator().manual_seed(1)), dim=1)
    exemplars = find_exemplars(a, e, k=k)

    def alone(n: int) -> Any:
        v = (e[exemplars.positives[n]].double() - e[exemplars.contrasts[n]].double()).mean(0)
        return (t.double() @ v).topk(10).indices

    for size in sizes:
        some = exemplars.of(slice(size))
        ours, got = cpu(lambda some=some: best(score_blocks("csp", some, e, t), 10))
        assert got.concepts.shape == (size, 10)
        peer = cpu(lambda size=size: [alone(n) for n in range(min(size, 8))], 1)[0] * size / min(size, 8)
        limit = 2 * size * texts * e.shape[1] / 1e9 / found["float32 products, GFLOP a CPU second"]
        yield {"stage": "scoring", "size": size, "of": f"neurons, {texts:,} texts", "ours": ours, "peer": peer,
               "limit": limit}  # fmt: skip


def confidence(sizes: list[int], neurons: int, texts: int) -> Iterator[Row]:
    for size in sizes:
        a, e = make(size, neurons, 1.0, sparse=False)
        t = normalize(torch.randn(texts, e.shape[1], generator=torch.Generator().manual_seed(1)), dim=1)

        def without(a: Any = a, e: Any = e, t: Any = t) -> None:
            exemplars = find_exemplars(a, e, k=30)
            for name in DEFAULT:
                best(score_blocks(name, exemplars, e, t, a), 10)

        ours = cpu(lambda a=a, e=e, t=t: label_confidence(a, e, t), 1)[0]
        row = {"stage": "confidence", "size": size, "of": f"images, {neurons:,} neurons, {texts:,} texts"}
        yield row | {"ours": ours, "peer": cpu(without, 1)[0], "limit": None}


def evaluation(sizes: list[int], images: int) -> Iterator[Row]:
    g = torch.Generator().manual_seed(0)
    for size in sizes:
        a = torch.randn(images, size, generator=g)
        seen = 0.5 * a + torch.randn(images, size, generator=g)
        ours, got = cpu(lambda a=a, seen=seen: [auc_of(active(a), seen), auprc(active(a), seen), pearson(a, seen)])
        truth, columns = active(a).numpy(), range(min(size, 16))

        def alone(a: Any = a, seen: Any = seen, truth: Any = truth, columns: Any = columns) -> Any:
            return [
                [roc_auc_score(truth[:, n], seen[:, n]), average_precision_score(truth[:, n], seen[:, n]),
                 pearsonr(a[:, n].double(), seen[:, n].double())[0]] for n in columns
            ]  # fmt: skip

        peer, expected = cpu(alone, 1)
        assert np.allclose(torch.stack(got, 1)[: len(columns)], expected, atol=1e-6)
        row = {"stage": "evaluation", "size": size, "of": f"neurons, {images:,} images", "ours": ours}
        yield row | {"peer": peer * size / len(columns), "limit": None}


def main() -> None:
    args = arguments(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    quick = args.quick
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as home:
        pictures = [8, 16, 32] if quick else [64, 128, 256]
        images = [500, 1000, 2000] if quick else [4000, 12_000, 36_000]
        neurons = [16, 32, 64] if quick else [256, 1024, 4096]
        blobs = drawn(Path(home), max(pictures))
        found = limits(blobs, 512 if quick else 2048)
        print({name: round(value, 1) for name, value in found.items()}, flush=True)
        stages = (
            collecting(Path(home), pictures, found),
            mining(images, 64 if quick else 1024, 30, found),
            scoring(neurons, 300 if quick else 9700, 30, found),
            confidence(images, 32 if quick else 512, 300 if quick else 2000),
            evaluation(neurons, 500 if quick else 5000),
        )  # fmt: skip
        for stage in stages:
            for row in stage:
                rows.append(row)
                print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
    exponent = {line.split(", ")[0]: line.rsplit(" ", 1)[1] for line in growth(rows, "ours", ["size"], ["stage"])}
    heads = ["stage", "size", "ours, CPU s", "peer, CPU s", "peer / ours", "limit, CPU s", "reached", "exponent"]
    cells = []
    for r in rows:
        own = [v for k, v in exponent.items() if r["stage"] in k]
        limit = ["-", "-"] if r["limit"] is None else [f"{r['limit']:.3g}", f"{r['limit'] / r['ours']:.0%}"]
        figures = [f"{r['ours']:.3g}", f"{r['peer']:.3g}", f"{r['peer'] / r['ours']:.2g}"]
        cells.append([r["stage"], f"{r['size']:,} {r['of']}", *figures, *limit, *own])
    machine = table(["this machine", "measured"], [[name, f"{value:,.1f}"] for name, value in found.items()])
    publish("limits", f"{machine}\n\n{table(heads, cells)}", args, {"limits": found, "rows": rows})


if __name__ == "__main__":
    main()
