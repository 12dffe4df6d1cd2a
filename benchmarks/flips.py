"""What one flipped bit does: in every kind of file of the cache, a run, its evaluation, its audit, maps and a share.

    python benchmarks/flips.py [--flips 50] [--seed 0] [--json FILE]
    python benchmarks/flips.py --quick               # 8 bits a file

A small rendered world is labeled (with and without stored activations), evaluated, audited and mapped. Then, FLIPS
times for each kind of file, one bit of one file is flipped, drawn evenly over the file, and the file is read as the
commands read it. A flip is *told* if there is one line about it (and, in the cache, the file is set aside to be made
again), *harmless* if what was read is the same, *believed* if it is not, *failed* if there is anything but one line.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import contralens
from contralens.bench.world_images import write_world
from contralens.data.audits import load_audit
from contralens.data.evaluations import load_evaluation
from contralens.data.fingerprint_cache import SETTLED_SECONDS
from contralens.data.store import Snapshot, Table
from contralens.errors import ContralensError, RunError
from contralens.sharing.push_pull import pull

CACHED = {
    "rows": "activations, embeddings", "texts": "text embeddings", "thumbnails": "thumbnails", "exemplars": "exemplars",
    "fakes": "null neurons' exemplars", "fingerprints": "known fingerprints", "surveys": "a first pass",
}  # fmt: skip


def prepare(home: Path, images: int) -> None:
    """A cache, a run with all that may be added to it, and a share of it."""
    write_world(home / "world", 1, images)
    time.sleep(SETTLED_SECONDS)  # fingerprints of files that just changed are not remembered
    words = ["striped", "dotted", "red", "blue", "green", "a star", "a disc", "large objects"]
    given: dict[str, Any] = {"layer": "block3", "k": 4, "holdout": 0.2, "cache": home / "cache", "scorers": ["csp"]}
    run = contralens.label(
        "world:1", home / "world/images", "world", words, fdr=0.2, fakes=20, out=home / "run", **given
    )
    contralens.label("world:1", home / "world/images", "world", words, store_activations=False, **given)
    contralens.evaluate(
        run, metrics="pearson", judge="world", same_judge=True, cache=home / "cache", check_metrics=False
    )
    listed = {"expected": ["striped"], "spurious": ["red"]}
    contralens.audit(run, listed, fakes=20, sample=0, cache=home / "cache")
    contralens.add_maps(run, pairs=1, cache=home / "cache")
    contralens.push(run, home / "share", thumbnails=True)


def table_of(file: Path) -> Any:
    """All that a table of the cache holds, None where something of it is not there."""
    table = Table(file.parent)
    ids = sorted(table._place)
    if not ids or not all(map(table.has_row, ids)):
        return None
    return {i: {name: array.tobytes() for name, array in table.arrays(i).items()} for i in ids}, table.skipped, ids


def snapshot_of(file: Path) -> Any:
    kept = Snapshot(file).get()
    return kept and {name: array.tobytes() for name, array in kept.items()}


def run_of(run: Path) -> Any:
    made = contralens.load(run)
    told = {k: v for k, v in made.manifest.items() if k != "digest"}
    vectors = {name: np.asarray(array).tobytes() for name, array in made.vectors.items()}
    tables = (made.neurons, made.labels, made.exemplars, made.images, made.concepts, made.thumbnails)
    return told, vectors, [t.to_pydict() for t in tables], json.loads((run / "labels.json").read_text())


def part_of(load: Callable[[Path], Any], names: tuple[str, ...]) -> Callable[[Path], Any]:
    def read(run: Path) -> Any:
        made = load(run)
        mask = getattr(made, "mask", np.zeros(0)).tobytes()
        return repr(made.manifest), [repr(getattr(made, name).to_pydict()) for name in names], mask

    return read


def shown(run: Path) -> Any:
    """Maps and fed classes as the explorer has them; what is missing is told on its pages."""
    from contralens.explorer.runs import OpenRun

    opened = OpenRun("run", run)
    try:
        told = [m["why"] for m in opened.missing if "maps" in m["what"] or "classes" in m["what"]]
        if told:
            raise RunError(told[0])
        return opened.query("SELECT * FROM maps ORDER BY ALL"), opened.query("SELECT * FROM classes ORDER BY ALL")
    finally:
        opened.close()


def pulled(share: Path) -> Any:
    with tempfile.TemporaryDirectory() as out:
        made = pull(share, Path(out) / "run")
        return repr(made.labels.to_pydict()), repr(made.exemplars.to_pydict()), repr(made.manifest["target"])


def outcome(file: Path, bit: int, read: Callable[[], Any], right: Any) -> tuple[str, str]:
    """Flip one bit, read, put the file back."""
    whole = file.read_bytes()
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << bit % 8
    file.write_bytes(damaged)
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = read()
        lines = [str(w.message) for w in told if "damaged" in str(w.message)]
        if found is None and len(lines) == 1 and "\n" not in lines[0]:
            return "told", lines[0]
        return ("harmless", "") if found == right else ("believed", f"{file} bit {bit}")
    except ContralensError as e:
        return ("told", str(e)) if "\n" not in str(e) else ("failed", str(e))
    except Exception as e:
        return "failed", f"{file} bit {bit}: {type(e).__name__}: {e}"
    finally:
        file.with_suffix(".damaged").unlink(missing_ok=True)
        file.write_bytes(whole)


def kinds(home: Path) -> dict[str, tuple[list[Path], Callable[[Path], Callable[[], Any]]]]:
    """Kind of file -> its files, and for each what reads it."""
    found: dict[str, tuple[list[Path], Callable[[Path], Callable[[], Any]]]] = {}
    for name, what in CACHED.items():
        read = snapshot_of if name == "surveys" else table_of
        files = sorted((home / "cache" / name).rglob("*.safetensors"))
        found[f"cache: {what}"] = files, lambda file, read=read: lambda: read(file)
    run, share = home / "run", home / "share"
    evaluation = part_of(load_evaluation, ("values", "summary", "verdicts"))
    audit = part_of(load_audit, ("neurons", "influence", "pruning"))
    for file in sorted(p for p in run.iterdir() if p.is_file() and p.suffix != ".html"):
        read = shown if file.name in ("maps.parquet", "classes.parquet", "added.json") else run_of
        found[f"run: {file.name}"] = [file], lambda _, read=read: lambda: read(run)
    for part, load in (("evaluation", evaluation), ("audit", audit)):
        for file in sorted((run / part).iterdir()):
            found[f"{part}: {file.name}"] = [file], lambda _, load=load: lambda: load(run)
    for file in sorted(p for p in share.rglob("*") if p.suffix in (".json", ".parquet", ".safetensors")):
        found[f"share: {file.relative_to(share)}"] = [file], lambda _: lambda: pulled(share)
    return found


def measure(home: Path, flips: int, seed: int) -> tuple[dict[str, Counter[str]], list[str]]:
    """Counts of outcomes by kind of file, and what went wrong."""
    drawn, wrong = random.Random(seed), list[str]()
    counts: dict[str, Counter[str]] = {}
    for kind, (files, reading) in kinds(home).items():
        counts[kind] = Counter()
        for _ in range(flips):
            file = drawn.choice(files)
            read = reading(file)
            what, said = outcome(file, drawn.randrange(8 * file.stat().st_size), read, read())
            counts[kind][what] += 1
            if what in ("believed", "failed"):
                wrong.append(f"{kind}: {what}: {said}")
    return counts, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=50, help="flips for each kind of file")
    parser.add_argument("--quick", action="store_true", help="8 flips for each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="contralens-flips-"))
    try:
        prepare(home, 60)
        counts, wrong = measure(home, 8 if args.quick else args.flips, args.seed)
    finally:
        shutil.rmtree(home)
    names = ("told", "harmless", "believed", "failed")
    print(f"| file | flips | {' | '.join(names)} |\n|---|---|---|---|---|---|")
    total: Counter[str] = Counter()
    for kind, own in counts.items():
        total += own
        print(f"| {kind} | {own.total()} | {' | '.join(str(own[n]) for n in names)} |")
    print(f"| all | {total.total()} | {' | '.join(str(total[n]) for n in names)} |")
    if args.json:
        args.json.write_text(json.dumps({kind: dict(own) for kind, own in counts.items()}, indent=1) + "\n")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
