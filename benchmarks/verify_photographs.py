"""Does `contralens verify` tell true labels from near ones on photographs?

    python benchmarks/verify_photographs.py [--classes odd|even --neurons 50 --editors retrieve swap] [--json FILE]

Target: output neurons of EfficientNet-Lite0. Each is tested twice by `contralens.verify` as shipped: with the name of
its class, which is right, and with that of another class under the same hypernym of WordNet, which is wrong. Images:
2,515 photographs, one of each ImageNet class and those of Caltech-101. Encoder `offline` (EfficientNet-Lite2 and
MiniLM), vocabulary the 1,000 class names. Neurons: the first of a seeded permutation that have such a neighbour. Odd
classes were looked at while this was written; even ones are what is reported, run once. Needs the photographs in
../shared/data beside the checkout and the extras `offline` and `wordnet`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import contralens
from contralens.data.wordnet import find_wordnet
from contralens.encoders.offline_encoder import offline_target_module
from contralens.math.intervals import wilson
from contralens.run_data.reopened import Reopened
from contralens.settings.finished_run import Verify
from contralens.verifying.laboratory import Laboratory

OUTCOMES = ("verified", "refuted", "untested")


def neighbours(folder: Path, names: list[str]) -> dict[int, list[int]]:
    """Class -> other classes directly under one of its hypernyms, with another name that no third class has."""
    wordnet = find_wordnet()
    lines = [line for line in (folder / "imagenet-classes.tsv").read_text().splitlines() if line.startswith("n")]
    above = [set(wordnet._synset(int(line[1:9])).hypernyms) for line in lines]
    single = [names.count(name) == 1 for name in names]
    return {
        i: [j for j, other in enumerate(above) if i != j and own & other and single[j]]
        for i, own in enumerate(above) if single[i]
    }  # fmt: skip


def chosen(near: dict[int, list[int]], parity: int, count: int) -> list[tuple[int, int]]:
    """(class, wrong neighbour), drawn."""
    draw = np.random.default_rng(19)
    usable = [i for i, others in near.items() if others and i % 2 == parity]
    return [(int(i), int(draw.choice(near[int(i)]))) for i in draw.permutation(usable)[:count]]


def share(words: list[str], word: tuple[str, ...]) -> str:
    hits = sum(w in word for w in words)
    low, high = wilson(hits, len(words))
    return f"{hits / len(words):.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--classes", choices=["odd", "even"], default="even")
    parser.add_argument("--neurons", type=int, default=50)
    parser.add_argument("--editors", nargs="+", default=["retrieve", "swap"])
    parser.add_argument("--cache", type=Path, help="where rows of the networks are kept (default: the usual cache)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    net, preprocess, titles = offline_target_module("lite0")
    names = [str(title) for title in titles]
    pairs = chosen(neighbours(args.folder, names), int(args.classes == "odd"), args.neurons)
    files = sorted(file for part in ("imagenet-samples", "caltech") for file in (args.folder / part).rglob("*.jp*g"))
    target = contralens.target(net, layer=".", preprocess=preprocess, neurons=names)
    run = contralens.label(
        target, [str(file) for file in files], "offline", list(dict.fromkeys(names)), scorers=("csp",),
        confidence=False, cache=args.cache,
    )  # fmt: skip
    print(f"{len(run.images['id'])} photographs, {len(pairs)} {args.classes} classes", flush=True)
    rows: list[dict[str, Any]] = []
    for editor in args.editors:
        reopened = Reopened(run, source=[str(file) for file in files], target=target, cache=args.cache)
        laboratory, begun = Laboratory(reopened, Verify(run, editor=editor)), time.process_time()
        for right, wrong in pairs:
            for true, label in ((True, right), (False, wrong)):
                tested = laboratory.kept(right, names[label])
                assert tested is not None
                found = {"remove": tested.outcome.remove.effect, "insert": tested.outcome.insert.effect}
                rows.append({"editor": editor, "neuron": names[right], "label": names[label], "right": true,
                             "outcome": tested.outcome.word, "reason": tested.outcome.reason, **found})  # fmt: skip
        print(f"{editor}: {time.process_time() - begun:.0f} CPU seconds", flush=True)
    head = ("editor", "labels", *(f"{w} of the {r}" for w in OUTCOMES[:2] for r in ("right", "wrong")), "tested",
            "of the verified right")  # fmt: skip
    print("| " + " | ".join(head) + " |", "|---" * len(head) + "|", sep="\n")
    for editor in args.editors:
        of = {
            r: [row["outcome"] for row in rows if row["editor"] == editor and row["right"] == r] for r in (True, False)
        }
        cells = [share(of[right], (word,)) for word in OUTCOMES[:2] for right in (True, False)]
        verified = ["right" if right else "wrong" for right in of for word in of[right] if word == "verified"]
        cells += [share(of[True] + of[False], OUTCOMES[:2]), share(verified, ("right",)) if verified else "-"]
        print(f"| {editor} | {len(of[True]) + len(of[False])} | " + " | ".join(cells) + " |")
    if args.json:
        args.json.write_text(json.dumps(rows) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
