"""How many output neurons of a real classifier get their true name, on real photographs and without any hub.

Target: the 1,000 output neurons (logits) of EfficientNet-Lite0, whose true names are the ImageNet classes. Encoder:
`offline` (ConSE on EfficientNet-Lite2 and MiniLM). Vocabulary: the names of the 1,000 classes. Both networks learnt the
same classes and the vocabulary is theirs, so this measures the scorers under friendly conditions, not the encoder.

    python benchmarks/offline_real.py [FOLDER] [--k 5 30] [--json FILE]

FOLDER holds photographs in any sub-folders (default: ../shared/data beside the checkout). Rows of both networks are
kept in --cache, so a second run takes seconds.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from contralens.data.images import images as image_set
from contralens.data.vocabulary import read_vocabulary
from contralens.encoders.registry import digest, embed_texts, encoder
from contralens.errors import ContralensError, ImageError
from contralens.fingerprint.network import describe, network_digest
from contralens.loading.offline_networks import offline_target_module
from contralens.math.exemplars import find_exemplars
from contralens.math.scorers import SCORERS
from contralens.math.tensors import keeping_memory

ROWS: list[tuple[str, dict[str, Any]]] = [
    ("semanticlens", {}),
    ("csp", {"gamma": 0.0}),
    ("csp", {"gamma": 0.5}),
    ("csp", {"gamma": 1.0}),
    ("centred", {}),
    ("centred", {"gamma": 1.0}),
    ("mean_difference", {}),
    ("clip_dissect", {}),
    ("clip_dissect", {"prior": "images"}),
    ("clip_dissect_csp", {}),
]


def rows_of(folder: Path, cache: Path, target: Any, preprocess: Any, eyes: Any) -> tuple[Tensor, Tensor]:
    """Logits (I,N) and embeddings (I,D) of all images that decode, one decode for both, kept in `cache`."""
    images = image_set(folder)
    key = digest(network_digest(target), describe(preprocess), eyes.fingerprint, list(images.fingerprints()))
    file = cache / f"offline-real-{key}.pt"
    if file.is_file():
        kept = torch.load(file, weights_only=True)
        return kept["logits"], kept["embeddings"]
    logits, embeddings, started = [], [], time.monotonic()
    batch: list[tuple[Tensor, Tensor]] = []
    for i in range(len(images)):
        try:
            image = images.load(i)
            batch.append((preprocess(image), eyes.preprocess(image)))
        except ImageError as e:
            print(f"skipped {images.ids[i]}: {e}", file=sys.stderr)
        if batch and (len(batch) == 32 or i + 1 == len(images)):
            seen, read = (torch.stack(part) for part in zip(*batch, strict=True))
            with torch.no_grad(), keeping_memory():
                logits.append(target(seen))
                embeddings.append(eyes(read))
            batch = []
            rate = (i + 1) / (time.monotonic() - started)
            print(f"\r{i + 1}/{len(images)} images, {rate:.0f} a second", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    cache.mkdir(parents=True, exist_ok=True)
    out = {"logits": torch.cat(logits), "embeddings": torch.cat(embeddings)}
    torch.save(out, file)
    return out["logits"], out["embeddings"]


def shares(scores: Tensor, truth: Tensor) -> tuple[float, float]:
    """Share of neurons whose best label, and one of whose five best labels, is the true one."""
    hits = scores.topk(5, dim=1).indices == truth[:, None]
    return float(hits[:, 0].float().mean()), float(hits.any(1).float().mean())


def half_width(share: float, n: int) -> float:
    """Half of the 95 % interval of a share (Wilson)."""
    z = 1.96
    return z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)


def main() -> None:
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", nargs="?", type=Path, default=beside)
    parser.add_argument("--k", nargs="+", type=int, default=[5, 30], help="exemplars per neuron")
    parser.add_argument("--cache", type=Path, default=Path("/tmp/contralens-offline-real"))
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    target, preprocess, names = offline_target_module("lite0")
    eyes = encoder("offline")
    activations, embeddings = rows_of(args.folder, args.cache, target, preprocess, eyes)
    words = read_vocabulary("imagenet")
    place = {concept.casefold(): c for c, concept in enumerate(words.concepts)}
    truth = torch.tensor([place[name.casefold()] for name in names])
    texts = embed_texts(eyes, words.concepts)

    chance = 1 / len(words), 5 / len(words)
    print(f"{len(activations)} photographs, {len(names)} neurons, {len(words)} concepts; ", end="")
    print(f"chance: top 1 {chance[0]:.3f}, top 5 {chance[1]:.3f}")
    print(f"{'scorer':34}" + "".join(f"{f'K={k} top 1':>16}{'top 5':>8}" for k in args.k))
    found = {k: find_exemplars(activations, embeddings, k=k) for k in args.k}
    results = []
    for name, options in ROWS:
        label = name + "".join(f":{key}={value:g}" if isinstance(value, float) else f":{key}={value}"
                               for key, value in options.items())  # fmt: skip
        line = f"{label:34}"
        for k in args.k:
            top1, top5 = shares(SCORERS[name](found[k], embeddings, texts, **options), truth)
            width = half_width(top1, len(names))
            line += f"{f'{top1:.3f} ± {width:.3f}':>16}{top5:8.3f}"
            results.append(
                {"scorer": label, "k": k, "top1": top1, "top1_half_width": width, "top5": top5,
                 "chance_top1": chance[0], "chance_top5": chance[1]}
            )  # fmt: skip
        print(line, flush=True)
    if args.json:
        about = {"images": len(activations), "encoder": eyes.fingerprint, "folder": str(args.folder)}
        args.json.write_text(json.dumps({**about, "results": results}, indent=2))


if __name__ == "__main__":
    try:
        main()
    except ContralensError as e:
        print(f"error: {e}", file=sys.stderr)
        raise SystemExit(2) from None
