"""What the benchmarks share: options, the machine in words, memory, and tables that go into RESULTS.md."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import resource
import sys
import threading
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("RESULTS.md")


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """--quick, --threads, --write and --json, which every benchmark that fills a table takes."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the same at small sizes, in well under a minute")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of torch")
    parser.add_argument("--write", action="store_true", help="put the table into its place in benchmarks/RESULTS.md")
    parser.add_argument("--json", type=Path, help="also write all numbers to this file")
    return parser


def machine(threads: int | None = None) -> str:
    """Date, processor and versions, for above a table."""
    import torch

    name, cpus = platform.processor() or platform.machine(), os.cpu_count()
    info = Path("/proc/cpuinfo")
    if info.exists() and (found := re.search(r"model name\s*: (.+)", info.read_text())):
        name = found[1].strip()
    used = "" if threads is None else f", {threads} thread{'s' * (threads != 1)}"
    simd = torch.backends.cpu.get_cpu_capability()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{date.today()}, {name} ({simd}), {cpus} cores{used}, {versions}; load {os.getloadavg()[0]:.1f} at the end."


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def publish(name: str, text: str, args: argparse.Namespace, numbers: Any = None) -> None:
    """Print what RESULTS.md says between `<!-- NAME -->` and `<!-- end NAME -->`, with --write put it there.

    The line above it is the command as it was given.
    """
    shown = " ".join([f"python benchmarks/{Path(sys.argv[0]).name}", *(a for a in sys.argv[1:] if a != "--write")])
    text = f"`{shown}`: {machine(args.threads)}\n\n{text}"
    print(f"\n{text}\n")
    if args.json:
        args.json.write_text(json.dumps({"about": machine(args.threads), "numbers": numbers}, indent=1) + "\n")
    if args.write:
        old = RESULTS.read_text()
        begin, end = f"<!-- {name} -->\n", f"<!-- end {name} -->"
        if begin not in old or end not in old:
            raise SystemExit(f"{RESULTS} has no place for {name}: {begin.strip()} and {end}")
        RESULTS.write_text(old[: old.index(begin)] + begin + text + "\n" + old[old.index(end) :])


class Peak:
    """The growth of the resident set while inside, sampled every 5 ms, and wall and CPU seconds."""

    def __enter__(self) -> Peak:
        self.start = self.most = resident()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.most = max(self.most, resident())

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        self._done.set()
        self._thread.join()

    @property
    def megabytes(self) -> float:
        return (self.most - self.start) / 2**20


def resident() -> int:
    """Bytes of memory that this process holds."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return peak_resident()


def peak_resident() -> int:
    """The most bytes of memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def growth(rows: Sequence[dict[str, Any]], cost: str, sizes: Sequence[str], same: Sequence[str] = ()) -> list[str]:
    """How cost grows with each size while all else stays: cost ~ size^x from the smallest to the largest, so 1 is
    linear. Rows that differ in `same` are not compared."""
    lines = []
    for size in sizes:
        others = [s for s in sizes if s != size] + list(same)
        for fixed in sorted({tuple(row[o] for o in others) for row in rows}, key=str):
            line = sorted((r for r in rows if tuple(r[o] for o in others) == fixed), key=lambda r: r[size])
            first, last = line[0], line[-1]
            if last[size] == first[size] or not first[cost] > 0:
                continue
            power = math.log(last[cost] / first[cost]) / math.log(last[size] / first[size])
            kept = ", ".join(f"{o} {value}" for o, value in zip(others, fixed, strict=True))
            grown = f"{first[size]:,} to {last[size]:,} {size}, cost x{last[cost] / first[cost]:.2f}"
            lines.append(f"{kept}: {grown}, exponent {power:.2f}")
    return lines
