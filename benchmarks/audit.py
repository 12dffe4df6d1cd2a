"""Does an audit find a planted artefact, and what does pruning do? Truth is measured by intervention.

Networks are fine-tuned in the rendered world with an artefact tied to the class "star" (`contralens.world.artefacts`),
one per artefact, dial and seed, and audited on 2,000 new pictures with the same tie. Truth: the artefact explains at
least a quarter of the neuron's variance when it is shown and not shown on the same untied scenes. Found: the audit's
verdict is "spurious" with the concept that names the artefact. Intervals: 95 % bootstrap over networks.

    python benchmarks/audit.py OUT                 # all of it, about 10 minutes of one core; goes on where it stopped
    python benchmarks/audit.py OUT --seeds 1       # one network of each kind
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from contralens import audit, concept_list, label, labeled_images, target
from contralens.auditing.alignment import align, embed_concepts, margin_noise
from contralens.auditing.concept_verdicts import Verdicts, concept_confidence
from contralens.auditing.concepts import ConceptList
from contralens.auditing.encoder_checks import reading
from contralens.auditing.pruning import make_mask
from contralens.bench.training import rows_of, tune_target
from contralens.math.exemplar_statistics import clarity, polysemanticity, redundancy
from contralens.math.exemplars import find_exemplars
from contralens.math.intervals import clustered_interval, mean_interval
from contralens.math.metrics import auprc
from contralens.math.null_neurons import fake_exemplars
from contralens.world.artefacts import CLASSES, Plant, Shown, artefact_neurons, artefact_share
from contralens.world.encoder import load_encoder, preprocess
from contralens.world.targets import LAYER
from contralens.world.truth import target_activations

PLANTS = (Plant("patch", strength=0.5), Plant("patch", strength=0.9), Plant("brick", strength=0.5))
SCORERS = ("semanticlens", "csp:gamma=0.5", "csp")
TRAIN, PROBE, TEST = 4000, 2000, 2000
FAKES, FDR, K, DRAWS = 1000, 0.05, 30, 50


def features(net: nn.Module, pictures: NDArray[np.uint8]) -> Tensor:
    """(I,N) rows of the layer."""
    return torch.from_numpy(target_activations(net, pictures)[LAYER])


class Case:
    """One network, its pictures and the truth."""

    def __init__(self, plant: Plant, seed: int) -> None:
        self.plant, self.seed = plant, seed
        self.train, self.probe = plant.scenes(TRAIN, 1000 + seed), plant.scenes(PROBE, 2000 + seed)
        self.test = plant.untied(TEST, 3000 + seed)
        seen = self.train.pictures()
        start = time.monotonic()
        self.net = tune_target(seen, self.train.classes, CLASSES, seed=seed, log=lambda line: None)
        self.seconds = time.monotonic() - start
        self.share = artefact_share(self.net, plant)
        self.true = artefact_neurons(self.share)
        self.rows = {"train": features(self.net, seen), "test": features(self.net, self.test.pictures())}
        pictures = self.probe.pictures()
        self.a, self.e = features(self.net, pictures), rows_of(load_encoder().model.image, pictures)
        self.e = F.normalize(self.e, dim=1)

    @property
    def key(self) -> str:
        return f"{self.plant.artefact} at {self.plant.strength:g}, seed {self.seed}"

    def right(self, head: nn.Linear, keep: Tensor) -> NDArray[np.bool_]:
        with torch.no_grad():
            return (head(self.rows["test"] * keep).argmax(1).numpy() == self.test.classes).astype(bool)


def by_group(shown: Shown, right: NDArray[np.bool_]) -> dict[str, float]:
    """Accuracy by group, and the mean of the classes' accuracies without the artefact and with it."""
    groups = np.array(shown.groups)
    out = {str(g): float(right[groups == g].mean()) for g in np.unique(groups)}
    balanced = lambda of: float(np.mean([right[of & (shown.classes == c)].mean() for c in np.unique(shown.classes)]))  # noqa: E731
    return {**out, "balanced, without": balanced(~shown.shown), "balanced, with": balanced(shown.shown)}


def refit(rows: Tensor, classes: NDArray[np.int64], keep: Tensor) -> nn.Linear:
    """A new linear head on what the mask leaves, from the same tied pictures: logistic regression, ridge 1e-3."""
    torch.manual_seed(0)
    scale = rows.std(0).clamp_min(1e-3)
    x, y = rows * keep / scale, torch.from_numpy(classes)
    head = nn.Linear(rows.shape[1], len(CLASSES))
    optimiser = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(head(x), y) + 1e-3 * head.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[arg-type]
    with torch.no_grad():
        head.weight /= scale
    return head


def verdicts(
    a: Tensor, e: Tensor, encoder: Any, listed: ConceptList, concept: str, true: NDArray[np.bool_], seed: int
) -> tuple[dict[str, dict[str, Any]], dict[str, Tensor]]:
    """What each scorer finds for activations (I,N) and embeddings (I,D), and its mask (N).

    "SCORER, null test alone": the best concept beats the null and the empty template. "SCORER": an audit's verdict,
    which also asks for confidence, for a margin beyond noise, and for concepts that the encoder reads here.
    """
    words = embed_concepts(encoder, listed)
    artefact = [c.name for c in listed].index(concept)
    real = find_exemplars(a, e, k=K)
    fakes = fake_exemplars(a, e, FAKES, seed, k=K)
    spurious = torch.tensor([c.side == "spurious" for c in listed])
    read = reading(e, a, real.neurons, words, seed)
    layer = {f.__name__: f(real, e) for f in (clarity, redundancy, polysemanticity)}
    out, masks = {}, {}
    for scorer in SCORERS:
        told = align(scorer, real, fakes, e, words)
        noise = margin_noise(scorer, told, real, e, words, ~spurious, spurious, seed)
        sure = concept_confidence(told.best, words, words.texts[:0], real, a, e)
        judged = Verdicts(listed, real, told, noise, sure, read, FDR, layer)
        kept = told.explained(FDR)
        for name, some in (
            (f"{scorer}, null test alone", kept & spurious[told.best.clamp_min(0)]), (scorer, judged.spurious)
        ):  # fmt: skip
            out[name] = {
                "called": (some & (told.best == artefact)).tolist(), "explained": int(kept.sum()),
                "spurious": int(some.sum()), "undecided": judged.words.count("undecided"),
                "ap": float(auprc(torch.from_numpy(true)[:, None], told.z[:, [artefact]].nan_to_num(-torch.inf))),
            }  # fmt: skip
            masks[name] = make_mask(
                a.shape[1], real.neurons, some, told.side(~spurious), told.side(spurious), "hard"
            )  # fmt: skip
    return out, masks


def through_audit(case: Case, listed: ConceptList, expected: Sequence[bool], keep: Tensor) -> dict[str, Any]:
    """The same by `contralens.audit` over files, to the bit; agreement of the influences; pruning in the network."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        case.probe.write(folder / "probe")
        table = case.test.write(folder / "test")
        network = target(case.net, layer=LAYER, preprocess=preprocess)
        run = label(
            network, folder / "probe" / "images", "world", [c.name for c in listed], scorers=["csp"], k=K,
            out=folder / "run", cache=folder / "cache",
        )  # fmt: skip
        found = audit(
            run, listed, scorer="csp", labeled=labeled_images(table, groups=["group"]), classes=CLASSES,
            target=network, fdr=FDR, fakes=FAKES, seed=case.seed, cache=folder / "cache", sample=None,
        )  # fmt: skip
    rows = {row["neuron"]: row for row in found.rows()}
    called = [rows[n]["verdict"] == "spurious" and rows[n]["concept"] == case.plant.concept for n in range(64)]
    return {
        "same_verdicts": called == list(expected), "same_mask": bool((torch.from_numpy(found.mask) == keep).all()),
        "agreement": found.manifest["agreement"], "pruning": found.pruning.to_pylist(), "warnings": found.warnings,
        "counts": found.counts,
    }  # fmt: skip


def measure(plant: Plant, seed: int, whole: bool) -> dict[str, Any]:
    case = Case(plant, seed)
    listed = concept_list(plant.concepts())
    found, masks = verdicts(case.a, case.e, load_encoder(), listed, plant.concept, case.true, seed)
    truth = torch.from_numpy(~case.true).float()
    masks |= {"truth": truth}
    everything = torch.ones(64)
    accuracy = {"nothing": by_group(case.test, case.right(case.net.head, everything))}
    for name, keep in masks.items():
        accuracy[name] = by_group(case.test, case.right(case.net.head, keep))
    generator = torch.Generator().manual_seed(seed)
    draws = [by_group(case.test, case.right(case.net.head, masks["csp"][torch.randperm(64, generator=generator)]))
             for _ in range(DRAWS)]  # fmt: skip
    accuracy["random"] = {group: float(np.mean([d[group] for d in draws])) for group in draws[0]}
    for name, keep in (("nothing, new head", everything), ("csp, new head", masks["csp"]), ("truth, new head", truth)):
        head = refit(case.rows["train"], case.train.classes, keep)
        accuracy[name] = by_group(case.test, case.right(head, keep))
    result = {
        "plant": plant.artefact, "strength": plant.strength, "leak": plant.leak, "seed": seed,
        "training_seconds": round(case.seconds, 1), "share": case.share.round(4).tolist(), "true": case.true.tolist(),
        "verdicts": found, "pruned": {name: int((keep == 0).sum()) for name, keep in masks.items()},
        "accuracy": accuracy,
    }  # fmt: skip
    if whole:
        result["audit"] = through_audit(case, listed, found["csp"]["called"], masks["csp"])
    return result


def pooled(results: Sequence[dict[str, Any]], scorer: str, over: str) -> tuple[float, float, float]:
    """Precision ("called") or recall ("true") over the neurons of all networks; bootstrap over networks."""
    hits, networks = [], []
    for number, r in enumerate(results):
        both = {"true": np.array(r["true"]), "called": np.array(r["verdicts"][scorer]["called"])}
        hits.append((both["true"] & both["called"])[both[over]])
        networks += [number] * int(both[over].sum())
    found = clustered_interval(np.concatenate(hits).astype(float), networks)
    return found.mean, max(0.0, found.low), found.high


def said(value: float, low: float, high: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2f} ({low:.2f}–{high:.2f})"


def measured(results: Sequence[dict[str, Any]], scorer: str) -> str:
    """Precision, recall and average precision of one scorer as cells of a table."""
    ap = mean_interval([r["verdicts"][scorer]["ap"] for r in results])
    cells = (pooled(results, scorer, "called"), pooled(results, scorer, "true"), (ap.mean, ap.low, ap.high))
    return " | ".join(said(*cell) for cell in cells)


def accuracies(results: Sequence[dict[str, Any]], counts: bool = False) -> list[str]:
    """A table: what was pruned, perhaps how many neurons that are, and the accuracy in each group."""
    groups = list(results[0]["accuracy"]["nothing"])
    head = ["pruned", *(["neurons"] if counts else []), *groups]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name in results[0]["accuracy"]:
        intervals = [mean_interval([r["accuracy"][name][group] for r in results]) for group in groups]
        count = [f"{pruned(results, name):.1f}"] if counts else []
        lines.append("| " + " | ".join([name, *count, *(said(i.mean, i.low, i.high) for i in intervals)]) + " |")
    return lines


def pruned(results: Sequence[dict[str, Any]], name: str) -> float:
    """Mean number of neurons switched off in a row of the table of accuracies."""
    name = "csp" if name == "random" else name.removesuffix(", new head")
    return float(np.mean([r["pruned"].get(name, 0) for r in results]))


def tables(results: Sequence[dict[str, Any]]) -> str:
    lines = []
    for plant in PLANTS:
        own = [r for r in results if (r["plant"], r["strength"]) == (plant.artefact, plant.strength)]
        if not own:
            continue
        base = np.mean([np.mean(r["true"]) for r in own])
        lines += [
            f"\n### {plant.artefact}, on {plant.strength:.0%} of the stars and {plant.leak:.0%} of the others", "",
            f"{len(own)} networks, {sum(sum(r['true']) for r in own)} artefact neurons of {64 * len(own)} "
            f"({base:.2f}, which is the precision and the average precision of chance).", "",
            "| scorer | called | precision | recall | average precision |", "|---|---|---|---|---|",
        ]  # fmt: skip
        for scorer in own[0]["verdicts"]:
            called = sum(sum(r["verdicts"][scorer]["called"]) for r in own)
            lines.append(f"| `{scorer}` | {called} | {measured(own, scorer)} |")
        lines += ["", *accuracies(own, counts=True)]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=6, help="networks of each kind")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / "audit.json"
    results = json.loads(kept.read_text()) if kept.exists() else []
    done = {(r["plant"], r["strength"], r["seed"]) for r in results}
    for seed in range(options.seeds):
        for plant in PLANTS:
            if (plant.artefact, plant.strength, seed) in done:
                continue
            result = measure(plant, seed, whole=seed == 0)
            results.append(result)
            print(plant.artefact, plant.strength, seed, sum(result["true"]), "true;",
                  {s: sum(v["called"]) for s, v in result["verdicts"].items()}, flush=True)  # fmt: skip
            kept.write_text(json.dumps(results) + "\n")
    told = tables(results)
    (options.out / "audit.md").write_text(told + "\n")
    print(told)
    for result in results:
        if "audit" in result:
            print(json.dumps({k: v for k, v in result["audit"].items() if k != "pruning"}, indent=1))


if __name__ == "__main__":
    main()
