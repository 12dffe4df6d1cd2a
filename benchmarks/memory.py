"""Peak memory of labeling a whole layer, each run in a fresh process, at several numbers of images.

    python benchmarks/memory.py            # 12,500 to 100,000 images x 2,048 neurons, D=512, 9,700 texts, K=100
    python benchmarks/memory.py --quick

`contralens.label` with all it does (statistics, mining, scorers, confidence, tables, the run folder), twice for each
number:

- from the cache: activations and embeddings lie in tiles on disk, as `contralens collect` leaves them (with
  `--modes plain cached` also without confidence, so that its cost shows; each mines for itself);
- nothing stored: `store_activations=False`, in a process that also runs the networks.

The images, the network and the encoder are made up (clusters of 250 images, activations ReLU(class signal + noise)), so
that their own memory is small; everything else is the real code. Peak memory is `ru_maxrss`, what the system counted
for the whole life of the process, imports included. Fails if a run of up to 50,000 images takes 1.5 GB or more, or if
memory grows faster than what is meant to grow: embeddings (4 D bytes an image), their copies in bfloat16 (twice 2 D),
and `LISTS` for the neighbours of an image that is some neuron's positive.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import arguments, peak_resident, publish, table

LIMIT = 1.5e9
LISTS = 6000
"""Bytes for each image: its list of neighbours, while it is made and walked along, its name and its thumbnail."""
BANK = 1021
MODES = {
    "cached": "from the cache", "plain": "from the cache, without confidence", "streamed": "nothing stored",
}  # fmt: skip


def parts(neurons: int, width: int, images: int):
    """The made-up image set, target and encoder."""
    import torch
    from PIL import Image
    from torch.nn.functional import normalize

    clusters, names = max(1, images // 250), [f"made-up/{i}" for i in range(neurons)]

    def made(*shape: int, seed: int) -> torch.Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))

    class Pictures:
        name = f"{images} made-up images"
        ids = tuple(f"{i:07d}" for i in range(images))

        def __len__(self) -> int:
            return images

        def fingerprints(self) -> list[str]:
            return [f"{i:032x}" for i in range(images)]

        def load(self, index: int) -> Image.Image:
            return Image.new("RGB", (2, 2), (index >> 16, index >> 8 & 255, index & 255))

    class Made:
        """Rows that follow from an image's number: its cluster's row and noise of its own."""

        def __init__(self, name: str, width: int, seed: int) -> None:
            self.name, self.width, self.fingerprint = name, width, f"{seed:016x}{width:08x}{images:08x}"
            self.centre, self.bank = made(clusters, width, seed=seed), made(BANK, width, seed=seed + 1)

        def preprocess(self, image: Image.Image) -> torch.Tensor:
            red, green, blue = image.getpixel((0, 0))
            return torch.tensor(red << 16 | green << 8 | blue)

        def __call__(self, batch: torch.Tensor) -> torch.Tensor:
            noise = (self.bank[batch % BANK] + self.bank[batch // BANK % BANK].roll(1, 1)) / math.sqrt(2)
            return self.finish(self.centre[batch * 7919 % clusters], noise)

    class Net(Made):
        layer, pooling = "made-up", "none"
        neurons = names

        def finish(self, centre: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
            return torch.relu(centre + noise)

    class Eyes(Made):
        def finish(self, centre: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
            return normalize(normalize(centre, dim=1) + noise / math.sqrt(self.width), dim=1)

        def texts(self, texts: list[str]) -> torch.Tensor:
            return normalize(torch.stack([made(self.width, seed=int(t.rsplit(" ", 1)[1])) for t in texts]), dim=1)

    return Pictures(), Net("net", neurons, 1), Eyes("eyes", width, 3)


def child(what: str, folder: Path, args: argparse.Namespace) -> None:
    """One process: `collect` fills the cache, `cached` and `streamed` label; prints its peak memory."""
    import torch

    import contralens
    from contralens.collecting.collect import collect
    from contralens.data.store import Store

    torch.set_num_threads(args.threads)
    imported, start = peak_resident(), time.perf_counter()
    images, net, eyes = parts(args.neurons, args.width, args.images[0])
    if what == "collect":
        collect(images, [net, eyes], Store(folder / "cache"), batch_size=256)
    else:
        cache, stored = folder / ("other" if what == "streamed" else what), what != "streamed"
        if stored:  # the same tiles, and nothing that another mode found
            shutil.copytree(folder / "cache", cache, copy_function=os.link)
        words = [f"concept {i}" for i in range(args.texts)]
        contralens.label(
            net, images, eyes, words, k=args.k, cache=cache, store_activations=stored, batch_size=256,
            out=folder / f"run of {what}", confidence=what != "plain",
        )  # fmt: skip
    seconds, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({
        "imported": imported, "peak": peak_resident(), "seconds": seconds, "cpu": used.ru_utime + used.ru_stime,
        "system": used.ru_stime, "faults": used.ru_minflt,
    }))  # fmt: skip


def measure(what: str, folder: Path, images: int, args: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", what, "--folder", str(folder), "--images", str(images)]
    for name in ("neurons", "width", "texts", "k", "threads"):
        command += [f"--{name}", str(getattr(args, name))]
    out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(out.splitlines()[-1])


def cost_of_confidence(found: list[dict]) -> str:
    """What confidence adds to labeling, in CPU seconds, and how it grows with the images; nothing if not measured."""
    cpu = {(f["images"], f["mode"]): f["cpu"] for f in found}
    sizes = sorted({images for images, mode in cpu if mode == "plain"} & {i for i, mode in cpu if mode == "cached"})
    if not sizes:
        return ""
    added = [cpu[i, "cached"] - cpu[i, "plain"] for i in sizes]
    rows = [
        [f"{i:,}", f"{cpu[i, 'plain']:.0f}", f"{more:.0f}", f"{more / cpu[i, 'plain']:.2f}"]
        for i, more in zip(sizes, added, strict=True)
    ]
    text = "\n\n" + table(["images", "without confidence, CPU s", "confidence adds, CPU s", "times"], rows)
    if len(sizes) > 1 and min(added) > 0:
        for what, line in (("labeling", [cpu[i, "plain"] for i in sizes]), ("confidence", added)):
            power = math.log(line[-1] / line[0]) / math.log(sizes[-1] / sizes[0])
            text += f"\n\nThe cost of {what} grows as the number of images to the power of {power:.2f}."
    return text


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, nargs="+")
    parser.add_argument("--neurons", type=int)
    parser.add_argument("--width", type=int, default=512, help="of the embeddings, D")
    parser.add_argument("--texts", type=int)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=["cached", "streamed"])
    parser.add_argument("--folder", type=Path, help="where the caches lie meanwhile (10 kB an image)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.images = args.images or ([1000, 2000] if args.quick else [12_500, 25_000, 50_000, 100_000])
    args.neurons, args.texts = args.neurons or (64 if args.quick else 2048), args.texts or (300 if args.quick else 9700)
    if args.child:
        child(args.child, args.folder, args)
        return
    found = []
    for images in args.images:
        folder = Path(tempfile.mkdtemp(prefix="contralens-memory-", dir=args.folder))
        try:
            if {"cached", "plain"} & set(args.modes):
                measure("collect", folder, images, args)
            for mode in args.modes:
                found.append({"images": images, "mode": mode, **measure(mode, folder, images, args)})
                print({k: round(v / 1e6) if k in ("peak", "imported") else v for k, v in found[-1].items()}, flush=True)
        finally:
            shutil.rmtree(folder)
    rows = [
        [f"{f['images']:,}", MODES[f["mode"]],
         f"{f['peak'] / 1e6:,.0f}", f"{f['imported'] / 1e6:.0f}", f"{4e-6 * f['images'] * args.width:.0f}",
         f"{4e-6 * f['images'] * args.neurons:,.0f}", f"{f['seconds']:.0f}", f"{f['cpu']:.0f}",
         f"{f['system']:.1f}", f"{f['faults'] / 1e6:.2f}"]
        for f in found
    ]  # fmt: skip
    heads = [
        "images",
        "activations",
        "peak MB",
        "of it imports",
        "embeddings MB",
        "activations would be MB",
        "seconds",
        "CPU seconds",
        "of them system",
        "million faults",
    ]
    text = f"{args.neurons:,} neurons, D={args.width}, {args.texts:,} texts, K={args.k}.\n\n{table(heads, rows)}"
    wrong = [f for f in found if f["images"] <= 50_000 and f["peak"] >= LIMIT]
    for mode in args.modes:
        line = [f for f in found if f["mode"] == mode]
        grown, more = line[-1]["peak"] - line[0]["peak"], line[-1]["images"] - line[0]["images"]
        if more:
            text += f"\n\n{mode}: {grown / more:,.0f} bytes more for each image; its embedding is {4 * args.width:,}."
            if not args.quick and grown > (8 * args.width + LISTS) * more:
                wrong.append(line[-1])
    text += cost_of_confidence(found)
    publish("memory", text, args, found)
    if wrong:
        sys.exit(f"too much memory: {wrong}")


if __name__ == "__main__":
    main()
