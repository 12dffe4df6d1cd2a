"""Label accuracy of every scorer in the rendered world, wins and losses alike: the tables of world/README.md.

python scripts/world_evidence.py [--seeds 3] [--strengths 0.9] [--k 30] [--out results.json]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from contralens.math.exemplars import find_exemplars
from contralens.math.scorers import SCORERS
from contralens.world.demo import IMAGES, dominated, probe_scenes, score_labels, vocabulary, wilson
from contralens.world.encoder import load_encoder
from contralens.world.planted import planted_activations
from contralens.world.render import render
from contralens.world.targets import WORLDS, load_target
from contralens.world.training import rows_of
from contralens.world.truth import LAYER, Truth, known, load_truth, target_activations

METHODS: dict[str, tuple[str, dict[str, float]]] = {
    "semanticlens": ("semanticlens", {}),
    "csp 0": ("csp", {"gamma": 0.0}),
    "csp .5": ("csp", {"gamma": 0.5}),
    "csp 1": ("csp", {"gamma": 1.0}),
    "clip_dissect": ("clip_dissect", {}),
    "clip_dissect_csp": ("clip_dissect_csp", {}),
    "centred": ("centred", {}),
    "centred csp 1": ("centred", {"gamma": 1.0}),
    "mean_difference": ("mean_difference", {}),
}
Rows = dict[str, np.ndarray]


def one_set(activations: np.ndarray, truth: list[Truth], scenes, rows: torch.Tensor, texts, words, k: int) -> Rows:
    """Right or wrong of every method on the neurons with a known truth, and which of them are dominated."""
    found = find_exemplars(torch.from_numpy(activations), rows, k=k)
    keep = known(truth)
    truths = [t for t, yes in zip(truth, keep, strict=True) if yes]
    out: Rows = {"dominated": dominated(found.positives.numpy()[keep], scenes, truths)}
    out["true factor"] = np.array([t.levels[0][0] for t in truths])
    for name, (scorer, options) in METHODS.items():
        best = SCORERS[scorer](found, rows, texts, **options).argmax(1).numpy()
        labels = [words[i] for i in best[keep]]
        out[name] = score_labels(labels, truths)
        out["label " + name] = np.array(labels)
    return out


def measure(index: int, seed: int, strength: float, k: int, n: int = IMAGES) -> dict[str, Rows]:
    """All kinds of neurons of a world on one probe set."""
    encoder, words = load_encoder(), vocabulary()
    texts = encoder.texts(words)
    scenes = probe_scenes(index, n, seed, strength)
    pictures = render(scenes)
    rows = rows_of(encoder.model.image, pictures)
    layers = target_activations(load_target(index), pictures)
    planted, names, truth = planted_activations(scenes, index, seed)
    sets = {
        "trained, hidden": (layers[LAYER], load_truth(index)),
        "trained, output": (layers["head"], load_truth(index, "head")),
    }
    for leak in ("0", "0.25"):
        of = [i for i, name in enumerate(names) if f"leak{leak}/" in name]
        sets[f"planted, leak {leak}"] = (planted[:, of], [truth[i] for i in of])
    return {kind: one_set(a, t, scenes, rows, texts, words, k) for kind, (a, t) in sets.items()}


def share(right: np.ndarray) -> str:
    if not len(right):
        return "-"
    low, high = wilson(int(right.sum()), len(right))
    return f"{right.mean():.2f} [{low:.2f}, {high:.2f}]"


def paired(a: np.ndarray, b: np.ndarray) -> str:
    """Difference of two shares over the same neurons with a bootstrap interval."""
    if not len(a):
        return "-"
    d = a.astype(float) - b
    draws = np.random.default_rng(0).integers(len(d), size=(4000, len(d)))
    low, high = np.percentile(d[draws].mean(1), [2.5, 97.5])
    return f"{d.mean():+.2f} [{low:+.2f}, {high:+.2f}]"


def table(title: str, groups: dict[str, Rows], only_dominated: bool) -> None:
    cells = {g: {m: r[m][r["dominated"]] if only_dominated else r[m] for m in METHODS} for g, r in groups.items()}
    print(f"\n{title}\n| scorer | " + " | ".join(f"{g} ({len(c['csp 1'])})" for g, c in cells.items()) + " |")
    print("|---|" + "---|" * len(cells))
    for method in METHODS:
        print(f"| {method} | " + " | ".join(share(c[method]) for c in cells.values()) + " |")
    for method in ("csp 1", "csp .5", "centred", "centred csp 1"):
        rows = " | ".join(paired(c[method], c["semanticlens"]) for c in cells.values())
        print(f"| *{method} minus semanticlens* | {rows} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="probe sets per world")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.9])
    parser.add_argument("--k", type=int, default=30)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    kept = {}
    for strength in chosen.strengths:
        everything: dict[str, list[Rows]] = {}
        for index in WORLDS:
            for seed in range(5, 5 + chosen.seeds):
                for kind, rows in measure(index, seed, strength, chosen.k, chosen.images).items():
                    everything.setdefault(kind, []).append(rows)
                    everything.setdefault(f"{kind}|{index}", []).append(rows)
        merged = {g: {m: np.concatenate([r[m] for r in rs]) for m in rs[0]} for g, rs in everything.items()}
        kinds = [g for g in merged if "|" not in g]
        print(f"\n### strength {strength}, K {chosen.k}, {chosen.images} images, {chosen.seeds} probe set(s) a world")
        for only, note in ((False, "all neurons with a known truth"), (True, "dominated by an incidental level")):
            table(f"All worlds, {note}", {k: merged[k] for k in kinds}, only)
            for kind in kinds:
                table(f"{kind}, by world, {note}", {f"world {i}": merged[f"{kind}|{i}"] for i in WORLDS}, only)
        kept[str(strength)] = {g: {m: v.tolist() for m, v in r.items()} for g, r in merged.items()}
    if chosen.out:
        chosen.out.write_text(json.dumps(kept))


if __name__ == "__main__":
    main()
