"""Two ideas for confidence that were tried on development data and left out.

    python benchmarks/confidence_trials.py far   # leaving out contrasts that are far from their positives
    python benchmarks/confidence_trials.py none  # adapting the share of "none of them" to each layer, without truth

`far`: share of right CSP labels among 1,000 class names, 2,000 output neurons (EfficientNet-Lite1 and Lite2, even
classes, half of the photographs), K=30, when pairs below a cosine lose their contrast; paired intervals. `none`:
expectation maximisation over a layer's own neurons, for a model that was fitted without that network. Needs what
benchmarks/confidence.py needs.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from confidence import DEVELOPMENT, Case, Photographs, fit, told, worlds
from torch.nn.functional import normalize

from contralens.math.confidence import Model
from contralens.math.exemplars import find_exemplars
from contralens.math.intervals import mean_interval
from contralens.math.scoring import run_scorer

BELOW = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
STRENGTHS = (0.0, 0.5, 1.0, 2.0, 4.0)
"""How much the share that was learnt from counts against the layer's own."""


def far(photographs: Photographs) -> None:
    classes, images, words = torch.arange(0, 1000, 2), photographs.halves["A"], torch.arange(1000)
    right: dict[float | None, list[np.ndarray]] = {}
    for target, encoder in DEVELOPMENT:
        e = normalize(photographs.eyes[encoder].mix(photographs.rows[encoder][images]), dim=1)
        a = photographs.rows[target][images][:, classes]
        found = find_exemplars(a, e, k=30)
        cosines = found.similarities
        median = float(cosines[cosines.isfinite()].median())
        print(f"{target}, encoder {encoder}: half of the contrasts have a cosine below {median:.2f}", flush=True)
        for least in (None, *BELOW):
            near = torch.ones_like(cosines, dtype=torch.bool) if least is None else cosines >= least
            some = replace(
                found, contrasts=found.contrasts.masked_fill(~near, -1),
                similarities=cosines.masked_fill(~near, torch.nan),
            )  # fmt: skip
            labels = run_scorer("csp", some, e, photographs.texts[words], a).argmax(1).tolist()
            hits = [label in photographs.right[c] for label, c in zip(labels, classes.tolist(), strict=True)]
            right.setdefault(least, []).append(np.array(hits, float))
    every = np.concatenate(right[None])
    print(
        f"| contrasts below | right | gain (95 % interval) |\n|---|---|---|\n| none left out | {every.mean():.3f} | |"
    )
    for least in BELOW:
        own = np.concatenate(right[least])
        i = mean_interval(own - every)
        print(f"| {least:g} | {own.mean():.3f} | {i.mean:+.3f} ({i.low:+.3f} to {i.high:+.3f}) |")


def shifted(model: Model, c: Case, learnt: float, strength: float) -> Model:
    """The model, its level moved until the mean probability of any candidate is the share that it implies."""
    logits = model.logits(c.signals).masked_fill(c.candidates < 0, -torch.inf)[c.real].double()
    level = 0.0
    for _ in range(200):
        any_right = torch.cat([logits + level, logits.new_zeros(len(logits), 1)], 1).softmax(1)[:, :-1].sum(1)
        share = float(any_right.sum() + strength * len(logits) * learnt) / (len(logits) * (1 + strength))
        before, level = level, math.log(share / (1 - share)) - math.log(learnt / (1 - learnt))
        if abs(level - before) < 1e-6:
            break
    return replace(model, level=model.level + level)


def none_of_them(photographs: Photographs) -> None:
    development = list(photographs.development())
    rendered = [c for _, _, c, _ in worlds()]
    print("| network left out | condition | error | " + " | ".join(f"strength {s:g}" for s in STRENGTHS) + " |")
    for target in ("lite1", "lite2"):
        learnt_from = [*(c for c in development if not c.name.startswith(target)), *rendered]
        model = fit(learnt_from)
        learnt = float(np.mean([c.right.any(1).double().mean() for c in learnt_from]))
        own = [c for c in development if c.name.startswith(target)]
        for condition in dict.fromkeys(c.name.split(", ", 2)[2] for c in own):
            cases = [c for c in own if c.name.split(", ", 2)[2] == condition]
            errors = [told(cases, model, None)["error"]]
            for strength in STRENGTHS:
                models = [shifted(model, c, learnt, strength) for c in cases]
                errors.append(told(cases, None, None, models)["error"])
            print(f"| {target} | {condition} | " + " | ".join(f"{e:.3f}" for e in errors) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=["far", "none"])
    parser.add_argument("--folder", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--cache", type=Path, default=Path("/tmp/contralens-confidence"))
    args = parser.parse_args()
    photographs = Photographs(args.folder, args.cache)
    far(photographs) if args.what == "far" else none_of_them(photographs)


if __name__ == "__main__":
    main()
