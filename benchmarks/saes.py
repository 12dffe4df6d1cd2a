"""Peak memory and time of labeling the latents of a wide sparse autoencoder, end to end, in a fresh process.

    python benchmarks/saes.py [--latents 65536 --images 5000 --texts 9700] [--fdr 0.05] [--no-store] [--quick]

Made-up pictures through a small conv layer (2 x 2 places of 64 channels), a TopK autoencoder with k=32 over each place,
an encoder of width 512, the four default scorers. A score matrix alone would be latents x texts x 4 bytes for each of
them. `contralens.label` runs in a process of its own; told are its seconds and the highest resident set at the end of
each stage, and what it was before the work began (the libraries).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from common import peak_resident


def most() -> float:
    """The highest resident set of this process so far, MB."""
    return peak_resident() / 1e6


def draw(folder: Path, count: int) -> None:
    from PIL import Image

    random = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (3, 3, 3), np.uint8))
        coarse.resize((32, 32), Image.Resampling.BILINEAR).save(folder / f"{i:06d}.png")


def work(args: argparse.Namespace) -> None:
    """What the fresh process does; prints one line of JSON."""
    import torch
    from torch import Tensor, nn
    from torch.nn.functional import normalize

    import contralens
    from contralens.encoders.base import BaseEncoder
    from contralens.models.sae_target import sae

    torch.set_num_threads(args.threads)
    random = torch.Generator().manual_seed(0)

    class Eyes(BaseEncoder):
        def __init__(self) -> None:
            super().__init__("eyes")
            self.width, self.fingerprint = 512, "e5" * 16
            self.weight = torch.randn(3 * 32 * 32, 512, generator=random) / 55

        def preprocess(self, image: Any) -> Tensor:
            return layer.preprocess(image)

        def _image_rows(self, batch: Tensor) -> Tensor:
            return batch.flatten(1) @ self.weight

        def _text_rows(self, texts: list[str]) -> Tensor:
            seeds = [int(t.split()[-1]) for t in texts]
            return torch.stack([torch.randn(512, generator=torch.Generator().manual_seed(s)) for s in seeds])

        def _too_long(self, texts: list[str]) -> list[str]:
            return []

    network = nn.Conv2d(3, 64, 16, stride=16).eval()
    layer = contralens.target(network, ".", preprocess="resize=32x32,mean=half")
    eyes = Eyes()
    weight = normalize(torch.randn(args.latents, 64, generator=random), dim=1)
    latents = sae(layer, {"W_enc": weight.T, "b_enc": torch.zeros(args.latents), "k": torch.tensor(32)}, kind="topk")
    del weight
    peaks = {"before": most()}
    begin = time.perf_counter()

    def progress(stage: str, done: int, total: int) -> None:
        peaks[stage] = most()

    run = contralens.label(
        latents, args.folder / "images", eyes, [f"concept {i}" for i in range(args.texts)], k=args.k, fdr=args.fdr,
        fakes=200, cache=args.folder / "cache", out=args.folder / "run", store_activations=not args.no_store,
        progress=progress,
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    labeled = run.manifest["neurons"]["labeled"]
    print(json.dumps({"seconds": seconds, "labeled": labeled, "peak_mb": {**peaks, "end": most()}}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=65536)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--texts", type=int, default=9700)
    parser.add_argument("--k", type=int, default=30)
    parser.add_argument("--fdr", type=float)
    parser.add_argument("--no-store", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="4,096 latents, 500 images, 1,000 texts")
    parser.add_argument("--out", type=Path, default=Path("saes.json"))
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.folder is not None:
        work(args)
        return
    if args.quick:
        args.latents, args.images, args.texts = 4096, 500, 1000
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "images").mkdir()
        draw(Path(folder) / "images", args.images)
        command = [sys.executable, __file__, "--folder", folder]
        for name in ("latents", "images", "texts", "k", "threads", "fdr"):
            if getattr(args, name) is not None:
                command += [f"--{name}", str(getattr(args, name))]
        told = subprocess.run(
            command + ["--no-store"] * args.no_store, stdout=subprocess.PIPE, text=True, check=True
        ).stdout
    row = {name: getattr(args, name) for name in ("latents", "images", "texts", "k", "fdr", "no_store", "threads")}
    row |= {"date": str(date.today()), "machine": platform.machine(), "python": platform.python_version()}
    row |= json.loads(told.splitlines()[-1])
    args.out.write_text(json.dumps(row, indent=1) + "\n")
    print(json.dumps(row, indent=1))
    peaks, matrix = row["peak_mb"], args.latents * args.texts * 4 / 1e6
    print(f"{args.latents:,} latents, {args.images:,} images, {args.texts:,} texts: {row['seconds']:.0f} s, "
          f"{peaks['end']:,.0f} MB at most, {peaks['end'] - peaks['before']:,.0f} MB above the libraries "
          f"(one score matrix: {matrix:,.0f} MB)")  # fmt: skip


if __name__ == "__main__":
    main()
