"""An older commit of this repository beside the code as it is: the same commands on both, one after the other.

    python benchmarks/before.py --images FOLDER      # with the commit before the work on speed; about 15 CPU minutes
    python benchmarks/before.py --quick              # with the commit that is checked out, three short lines

The older code is checked out into a folder of its own (`git worktree`), which is removed at the end; both run in this
Python, with caches of their own. Each line is a fresh process; versions take turns, and the repeat with the fewest CPU
seconds in program and system counts. Peak memory is that of the process and of those that it waited for.

`label` reads JPEG files (`--images`, or drawn ones) through EfficientNet-Lite0 (extra `offline`), whose 1,000 output
neurons `audit` then looks at; mining, scoring and confidence are of rows that `memory.py` makes up; maps and the
explorer's start are of a run with 64 neurons. The forwards are of networks with random weights. The explorer is stopped
at its first answer.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import arguments, publish, table

HERE = Path(__file__).resolve().parent
BEFORE = "8f6fec8"
"""The last commit before freed memory was kept, the first of the changes for speed."""
PORT = 18787
FORWARD = """
import torch, torchvision
torch.set_num_threads({threads})
import contralens
network = torchvision.models.get_model({name!r}, weights=None).eval()
target = contralens.target(network, layer={layer!r}, preprocess=lambda image: torch.zeros(3, 224, 224))
batch = torch.randn(32, 3, 224, 224, generator=torch.Generator().manual_seed(0))
for _ in range({batches}):
    target(batch)
"""


@dataclass(frozen=True)
class Line:
    """One row of the table: what runs, and how often."""

    name: str
    command: list[str]
    """After the Python; `{home}` is a folder of the version's own."""
    repeats: int = 2
    server: bool = False
    shown: bool = True
    """False for what only prepares the others."""


def lines(args: argparse.Namespace, images: Path) -> list[Line]:
    """What is measured, in order."""
    cli = ["-m", "contralens"]
    short = [Line("import contralens", ["-c", "import contralens"], 5), Line("--help", [*cli, "--help"], 5)]
    if args.quick:
        return [*short, forward(args, "mobilenet_v3_small", "features.12", 1)]
    how = ["--vocabulary", "imagenet", "--cache", "{home}/cache"]
    outputs = ["label", "--target", "offline:lite0", "--layer", "classifier", "--encoder", "offline", "-k", "10"]
    world = ["label", "--target", "world:1", "--layer", "block3", "--encoder", "world", "--vocabulary", "world"]
    return [
        *short,
        forward(args, "resnet50", "layer4", 3),
        forward(args, "vit_b_32", "encoder.layers.encoder_layer_11", 3),
        Line(
            f"label, {args.limit} JPEGs, 1,000 output neurons",
            [*cli, *outputs, "--images", str(images), "--limit", str(args.limit), *how, "--out", "{home}/outputs"], 1,
        ),
        Line("audit, 1,000 output neurons", [
            *cli, "audit", "{home}/outputs", "--concepts", "photographs", "--cache", "{home}/cache",
        ], 1),
        made("a cache", args, "collect", shown=False),
        made(f"label, {args.rows:,} images and 2,048 neurons in the cache, with confidence", args, "cached"),
        Line("a world", [*cli, "world", "1", "--out", "{home}/world", "--images", "1000"], 1, shown=False),
        Line("a run", [
            *cli, *world, "--images", "{home}/world/images", "--cache", "{home}/cache", "--out", "{home}/world-run",
        ], 1, shown=False),
        Line("maps, 64 neurons", [*cli, "maps", "{home}/world-run", "--cache", "{home}/cache"], 1),
        Line("explore, to its first answer", [
            *cli, "explore", "{home}/world-run", "--no-browser", "--read-only", "--port", str(PORT),
        ], 3, server=True),
        Line("demo", [*cli, "demo", "--out", "{home}/demo", "--cache", "{home}/demo-cache"], 1),
    ]  # fmt: skip


def forward(args: argparse.Namespace, name: str, layer: str, batches: int) -> Line:
    code = FORWARD.format(threads=args.threads, name=name, layer=layer, batches=batches)
    return Line(f"{batches} batches of 32 through {name}", ["-c", code], 2)


def made(name: str, args: argparse.Namespace, what: str, shown: bool = True) -> Line:
    """What `memory.py` does in one process."""
    command = [str(HERE / "memory.py"), "--child", what, "--folder", "{home}/rows", "--images", str(args.rows)]
    for option, value in {"neurons": 2048, "texts": 9700, "k": 100, "threads": args.threads}.items():
        command += [f"--{option}", str(value)]
    return Line(name, command, 1, shown=shown)


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """A folder with the older code."""
    git = ["git", "-C", str(HERE.parent), "worktree"]
    with tempfile.TemporaryDirectory() as home:
        subprocess.run([*git, "add", "--quiet", "--detach", f"{home}/code", commit], check=True)
        try:
            yield Path(home) / "code"
        finally:
            subprocess.run([*git, "remove", "--force", f"{home}/code"], check=True)


def run(line: Line, code: Path, home: Path, threads: int) -> dict[str, float]:
    """One process: CPU seconds in program and system, page faults in millions, peak memory."""
    own = {"PYTHONPATH": str(code / "src"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, *(part.replace("{home}", str(home)) for part in line.command)]
    with open(home / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=home, env={**os.environ, **own})
        if line.server:
            answered(process)
            process.send_signal(signal.SIGINT)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode and not line.server:
        raise SystemExit(f"{line.name} failed with the code in {code}:\n{(home / 'log').read_text()[-2000:]}")
    return {
        "user": used.ru_utime, "system": used.ru_stime, "faults": used.ru_minflt / 1e6, "peak": used.ru_maxrss / 1e3,
    }  # fmt: skip


def answered(process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    """Waits for the server's first page."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/", timeout=30).read()
            return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.02)
    process.kill()
    raise SystemExit("the explorer did not answer")


def measured(args: argparse.Namespace, older: Path, images: Path, home: Path) -> list[dict[str, Any]]:
    """Every line on both versions, which take turns."""
    versions = {"before": older, "after": HERE.parent}
    for version in versions:
        (home / version).mkdir()
    found = []
    for line in (line for line in lines(args, images) if re.search(args.only, line.name)):
        tries: dict[str, list[dict[str, float]]] = {version: [] for version in versions}
        for _ in range(line.repeats):
            for version, code in versions.items():
                tries[version].append(run(line, code, home / version, args.threads))
        for version, some in tries.items() if line.shown else ():
            least = min(some, key=lambda one: one["user"] + one["system"])
            found.append({"line": line.name, "version": version, **least})
            print(found[-1], flush=True)
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--commit", help=f"the older code (default: {BEFORE}; with --quick the one checked out)")
    parser.add_argument("--images", type=Path, help="a folder of JPEG files; drawn ones by default")
    parser.add_argument("--limit", type=int, default=320, help="of these are labeled with")
    parser.add_argument(
        "--only", default="", help="lines whose names match, preparations too: 'cache', 'a world|a run|maps'"
    )
    parser.add_argument("--rows", type=int, default=12_500, help="images of the line of mining and scoring")
    args = parser.parse_args()
    commit = args.commit or ("HEAD" if args.quick else BEFORE)
    with checked_out(commit) as older, tempfile.TemporaryDirectory() as home:
        images = args.images and args.images.resolve()
        if images is None:
            images = Path(home) / "images"
            images.mkdir()
            draw = f"from limits import drawn; from pathlib import Path; drawn(Path({str(images)!r}), {args.limit})"
            if not args.quick:  # in a process of its own: a child's peak counts what its parent held
                subprocess.run([sys.executable, "-c", draw], check=True, cwd=HERE)
        found = measured(args, older, images, Path(home))
    rows = []
    for before, after in zip(found[::2], found[1::2], strict=True):
        cells = [f"{before[key]:.{n}f} → {after[key]:.{n}f}" for key, n in (("user", 2), ("system", 2), ("faults", 2))]
        ratio = (before["user"] + before["system"]) / (after["user"] + after["system"])
        rows.append([before["line"], *cells, f"{before['peak']:,.0f} → {after['peak']:,.0f}", f"{ratio:.2f}"])
    heads = ["", "user s", "system s", "million faults", "peak MB", "CPU before / after"]
    publish("before", f"Commit {commit} → the code as it is.\n\n{table(heads, rows)}", args, found)


if __name__ == "__main__":
    main()
