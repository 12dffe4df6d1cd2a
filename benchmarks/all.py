"""All benchmarks that need nothing but this checkout, one after the other, each in a process of its own.

    python benchmarks/all.py --quick          # small sizes, some minutes: whether they run (`make bench`)
    python benchmarks/all.py --write          # the real ones, an hour or two; tables go into RESULTS.md

Run alone, on a quiet machine. Not among them, since they want photographs, another package or an hour of training:
audit.py, offline_real.py, proposals.py, scorers.py and semanticlens_peer.py; each tells its command.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
WRITE = [
    "limits",
    "before",
    "mining",
    "scoring",
    "memory",
    "allocating",
    "feeding",
    "onednn",
    "layers",
    "compiling",
    "shards",
    "match",
    "crops",
]
"""Those that put their table into RESULTS.md."""
ALL = [*WRITE, "collecting", "chance", "explorer", "flips", "gpu"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", action="store_true", help=f"for {', '.join(WRITE)}")
    parser.add_argument("--only", nargs="+", choices=ALL, default=ALL)
    args = parser.parse_args()
    failed = []
    for name in args.only:
        command = [sys.executable, str(HERE / f"{name}.py"), *(["--quick"] if args.quick else [])]
        if name == "gpu" and not _gpu():
            command += ["--device", "cpu"]
        if args.write and name in WRITE:
            command.append("--write")
        print(f"== {name}", flush=True)
        start = time.perf_counter()
        if subprocess.run(command).returncode:
            failed.append(name)
        print(f"== {name}: {time.perf_counter() - start:.0f} s", flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _gpu() -> bool:
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    main()
