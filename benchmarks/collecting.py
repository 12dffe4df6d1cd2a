"""What collecting costs an image, and whether its faster ways change labels.

    python benchmarks/collecting.py [FOLDER] [--limit 600] [--agreement] [--json FILE]
    python benchmarks/collecting.py --quick          # a few made-up pictures, ResNet-18

FOLDER holds photographs (default: ../shared/data/imagenet-samples beside the checkout). Three questions, one thread:

1. CPU milliseconds an image to decode, preprocess for two networks (ResNet-50 and CLIP ViT-B/32) and make a thumbnail,
   exact against fast, at several sizes of JPEG (the photographs, resized and saved again at quality 90).
2. CPU time of one forward that gives three layers against three forwards of one.
3. --agreement: the share of neurons whose label stays the same with --decode fast and in bfloat16 (offline:lite0 as
   target, `offline` as encoder, K=10, the 999 ImageNet names). Needs the extra `offline` and half an hour.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import models

from contralens.collecting.collect import collect
from contralens.collecting.preparing import _thumbnail
from contralens.data.decode import decode
from contralens.data.images import images as image_set
from contralens.data.store import Store
from contralens.data.vocabulary import read_vocabulary
from contralens.encoders.registry import embed_texts, encoder
from contralens.loading.fast_preprocessing import fast, pixels
from contralens.loading.preprocessing import preprocessing
from contralens.math.exemplars import find_exemplars
from contralens.math.scorers import SCORERS
from contralens.models.shared_forward import rows_together
from contralens.models.targets import targets


def cpu(work: Callable[[Any], Any], items: Sequence[Any], repeats: int = 3) -> float:
    """CPU milliseconds an item, the least of some repeats, since other work disturbs the others."""
    work(items[0])
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        for item in items:
            work(item)
        best = min(best, (time.process_time() - start) / len(items) * 1e3)
    return best


def jpegs(folder: Path, size: tuple[int, int], count: int) -> list[bytes]:
    found, out = image_set(folder, limit=count), []
    for i in range(len(found)):
        buffer = io.BytesIO()
        found.load(i).resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        out.append(buffer.getvalue())
    return out


def noise(folder: Path) -> Path:
    """A folder of a few made-up pictures."""
    random = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(random.integers(0, 256, (300, 400, 3), np.uint8)).save(folder / f"{i}.png")
    return folder


def decoding(folder: Path, share: float = 1.0) -> list[dict[str, Any]]:
    resnet = models.ResNet50_Weights.IMAGENET1K_V1.transforms()
    clip = transform_of_clip()
    quick = [fast(resnet), fast(clip)]
    assert None not in quick
    rows = []
    for size, count in (((224, 224), 60), ((500, 375), 60), ((1600, 1200), 12)):
        blobs = jpegs(folder, size, max(1, int(count * share)))

        def exact(blob: bytes) -> None:
            image = decode(blob)
            resnet(image), clip(image), _thumbnail(image)

        def shared(blob: bytes) -> None:
            image = decode(blob)
            x = pixels(image)
            for steps in quick:
                steps(x)  # type: ignore[misc]
            _thumbnail(image)

        row = {"size": f"{size[0]}x{size[1]}", "decode": cpu(decode, blobs), "exact": cpu(exact, blobs)}
        rows.append(row | {"fast": cpu(shared, blobs)})
        print(row["size"], {k: round(v, 2) for k, v in rows[-1].items() if k != "size"}, flush=True)
    return rows


def transform_of_clip() -> Any:
    """As open_clip makes it; spelled out where that is not installed."""
    try:
        from open_clip.transform import PreprocessCfg, image_transform_v2
    except ImportError:
        return preprocessing("resize=224,crop=224,mean=clip,interpolation=bicubic")
    return image_transform_v2(PreprocessCfg(size=(224, 224)), is_train=False)


def forwards(network: str = "torchvision:resnet50", images: int = 16) -> dict[str, Any]:
    some = targets(network, ["layer2", "layer3", "layer4"], weights="random")
    batch = torch.randn(images, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    together = cpu(lambda b: rows_together(some, b), [batch]) / len(batch)
    apart = cpu(lambda b: [t(b) for t in some], [batch]) / len(batch)
    deepest = cpu(some[-1], [batch]) / len(batch)
    same = all(torch.equal(a, t(batch)) for a, t in zip(rows_together(some, batch), some, strict=True))
    row = {"together": together, "apart": apart, "deepest_alone": deepest, "same_bits": same}
    print(f"three layers of {network}, CPU ms an image:", row, flush=True)
    return row


def agreement(folder: Path, limit: int, cache: Path) -> list[dict[str, Any]]:
    probe, store, words = image_set(folder, limit=limit), Store(cache), read_vocabulary("imagenet").concepts
    layers = ["blocks.6", "conv_head", "classifier"]
    found: dict[str, list[dict[str, torch.Tensor]]] = {}
    rows = []
    for way, options in {"exact": {}, "fast": {"decode": "fast"}, "bf16": {"dtype": "bf16"}}.items():
        eyes = encoder("offline", **options)
        collected = collect(probe, [*targets("offline:lite0", layers, **options), eyes], store)
        seen, texts = torch.from_numpy(collected.rows(3)), embed_texts(eyes, words)
        found[way] = []
        for at in range(3):
            exemplars = find_exemplars(torch.from_numpy(collected.rows(at)), seen, k=10)
            found[way].append({s: SCORERS[s](exemplars, seen, texts).argmax(1) for s in ("semanticlens", "csp")})
        for layer, ours, exact in zip(layers, found[way], found["exact"], strict=True):
            same = {s: float((ours[s] == exact[s]).double().mean()) for s in ours}
            rows.append({"way": way, "layer": layer, "neurons": len(ours["csp"]), "images": len(probe), **same})
            if way != "exact":
                print(rows[-1], flush=True)
    return rows


def main() -> None:
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "imagenet-samples"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", nargs="?", type=Path, default=beside)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--limit", type=int, default=600, help="photographs for --agreement")
    parser.add_argument("--agreement", action="store_true")
    parser.add_argument("--cache", type=Path, default=Path("/tmp/contralens-bench-collecting"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    about = {"machine": platform.machine(), "python": platform.python_version(), "torch": torch.__version__,
             "simd": torch.backends.cpu.get_cpu_capability(), "folder": args.folder.name}  # fmt: skip
    if args.quick:
        with tempfile.TemporaryDirectory() as folder:
            decoded, ran = decoding(noise(Path(folder)), 0.06), forwards("torchvision:resnet18", 2)
    else:
        decoded, ran = decoding(args.folder), forwards()
    results: dict[str, Any] = {**about, "decoding": decoded, "forwards": ran}
    if args.agreement:
        results["agreement"] = agreement(args.folder, args.limit, args.cache)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
