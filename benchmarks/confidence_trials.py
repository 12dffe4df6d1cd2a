"""Ideas for confidence that were tried on development data; all but `worlds` and `stay` were left out.

    python benchmarks/confidence_trials.py far      # leaving out contrasts that are far from their positives
    python benchmarks/confidence_trials.py none     # adapting the share of "none of them" to each layer, without truth
    python benchmarks/confidence_trials.py planted  # neurons planted on some classes of the photographs set the level
    python benchmarks/confidence_trials.py worlds   # worlds drawn at random in the fit, and how much all of them weigh
    python benchmarks/confidence_trials.py layer    # means over a layer as further signals
    python benchmarks/confidence_trials.py stay     # how much likelier another label has to be for `auto` to take it
    python benchmarks/confidence_trials.py signal   # one more signal: how far exemplars are from the label's own images
    python benchmarks/confidence_trials.py fade     # how fast known neurons end the preference of `auto`
    python benchmarks/confidence_trials.py refit    # known neurons move every weight, and not three numbers
    python benchmarks/confidence_trials.py heavier  # trained neurons of the worlds count more in the fit

`far`: share of right CSP labels among 1,000 class names, 2,000 output neurons (EfficientNet-Lite1 and Lite2, even
classes, half of the photographs), K=30, when pairs below a cosine lose their contrast; paired intervals. `none`:
expectation maximisation over a layer's own neurons, for a model that was fitted without that network. `planted`: the
shipped model, its level set by neurons planted on those classes of Caltech-101 and the textures whose names are among
the words; error of the labels of `auto` on output neurons, before and after. `signal`: mean cosine of the label with
the strongest exemplars, less that with the five images nearest to it; photographs with a network left out of the fit,
worlds with a world left out, both with and without the signal. `stay` (adopted): share right, and what human annotation
of held-out photographs says (benchmarks/scorers.py, development part), by the log ratio from which `auto` leaves the
label of `lookalike:power=auto`; each world and each network left out of the fit. `worlds` (adopted): the three worlds,
or twelve, weighing so much together, trained neurons counting once or three times; each of the twelve worlds left out
of the fit, outputs of each network left out. `layer`: the same with means over the layer's neurons of signals of each
one's most chosen label. The others were run before, with three worlds and every case weighing the same. `fade`,
`refit`: trained neurons, each world left out of the fit, level set by neurons planted there; the preference is STAYS c
/ (c + known neurons), or every weight moves, with a penalty on its standardised square. `heavier`: cases of trained
neurons count two or four times; what it does to trained neurons of a world left out, and to outputs of a network left
out. Needs what benchmarks/confidence.py needs.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import confidence as bench
import numpy as np
import torch
from confidence import (
    DEVELOPMENT,
    DRAWN,
    WORLDS_WEIGH,
    Case,
    Level,
    Photographs,
    Rendered,
    developed,
    fit,
    set_by,
    told,
    worlds,
)
from torch import Tensor
from torch.nn.functional import normalize

from contralens.math.confidence import SHRINKAGE, STAYS, STEADY, Weighed, log_likelihood
from contralens.math.confidence import planted as planted_level
from contralens.math.confidence_model import Model
from contralens.math.confidence_model import model as shipped
from contralens.math.confidence_signals import signals
from contralens.math.exemplars import find_exemplars
from contralens.math.intervals import mean_interval
from contralens.math.scorer_panel import PANEL, ballot
from contralens.math.scoring import run_scorer
from contralens.types import Exemplars
from contralens.world.targets import WORLDS

MARGINS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 1e3)
BELOW = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
NETS = ("lite1", "lite2")
ON_TRIAL = "cosine below its images'"
FADES = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, math.inf)
PENALTIES = (math.inf, 300.0, 100.0, 30.0, 10.0)
OF_THE_LAYER = {
    "votes": ("votes",),
    "seven signals": (
        "votes", "near (strongest)", "rank in both halves", "correlation", "its images' rank", "strongest alike",
        "contrasts' cosine",
    ),
}  # fmt: skip
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


def planted(photographs: Photographs) -> None:
    images, even = photographs.halves["A"], torch.arange(0, 1000, 2)
    place = {word.casefold(): at for at, word in enumerate(photographs.words)}
    parts = [photographs.rows["ids"][i].split("/") for i in images.tolist()]
    named = [part[1].replace("_", " ").casefold() if part[0] in ("caltech", "textures") else None for part in parts]
    shown = torch.tensor([-1 if name is None else place.get(name, -1) for name in named])
    every = torch.arange(len(photographs.words))
    shared = shown[shown >= 0].unique()
    vocabularies = {"1,000 names": every[:1000], "nouns": every, "nothing but those": shared}
    print("| target | encoder | words | planted on | error | level set by planted neurons |\n|---|---|---|---|---|---|")
    for target, encoder in DEVELOPMENT:
        e = normalize(photographs.eyes[encoder].mix(photographs.rows[encoder][images]), dim=1)
        for name, words in vocabularies.items():
            own = shared[torch.isin(shared, words)]
            classes = even if len(words) >= 1000 else _half_missing(photographs, set(words.tolist()))
            c = photographs.case(name, target, encoder, images, classes, words)
            shows = shown[:, None] == words[None]
            level = planted_level(shows, e, photographs.texts[words], 30, 0)
            errors = [told([c], model, None)["error"] for model in (shipped(), set_by(shipped(), [level]))]
            print(f"| {target} | {encoder} | {name} | {len(own)} | {errors[0]:.3f} | {errors[1]:.3f} |", flush=True)


def _half_missing(photographs: Photographs, words: set[int]) -> torch.Tensor:
    """Even classes that one of the words names, and twice as many that none does."""
    named = [c for c in range(0, 1000, 2) if photographs.right[c] & words]
    others = [c for c in range(0, 1000, 2) if not photographs.right[c] & words]
    return torch.tensor(sorted(named + others[:: max(1, len(others) // (2 * len(named)))][: 2 * len(named)]))


def with_own_images(
    panel: dict[str, Any], labels: Tensor, exemplars: Exemplars, a: Any, e: Tensor, t: Tensor
) -> dict[str, Tensor]:
    """All signals and the one on trial."""
    found = signals(panel, labels, exemplars, a, e, t)
    asked, which = labels.clamp_min(0).unique(return_inverse=True)
    closest = (e @ t[asked].T).topk(5, dim=0).values.mean(0)
    few, there = exemplars.positives[:, :5], exemplars.positives[:, :5] >= 0
    middle = (e[few.clamp_min(0)] * there[..., None]).sum(1) / there.sum(1, keepdim=True)
    cosine = (t[labels.clamp_min(0)] * middle[:, None]).sum(2)
    return found | {ON_TRIAL: (cosine - closest[which]).masked_fill(labels < 0, torch.nan)}


def without(c: Case) -> Case:
    """The case without the signal on trial."""
    return replace(c, signals={name: value for name, value in c.signals.items() if name != ON_TRIAL})


def likelihood(cases: Sequence[Case], model: Model) -> float:
    """Mean log-likelihood of a neuron, every case weighing the same."""
    each = []
    for c in cases:
        there = c.candidates >= 0
        logits = model.logits(c.signals).masked_fill(~there, -torch.inf)
        each.append(float(log_likelihood(logits, c.right & there).mean()))
    return float(np.mean(each))


def one_more_signal(photographs: Photographs) -> None:
    bench.signals = with_own_images
    development = list(photographs.development())
    learnt, tested = [[(w, f"worlds, {kind}", c) for w, kind, c, _ in worlds(seed)] for seed in (50_000, 60_000)]
    groups = {f"photographs, {net} left out": [c for c in development if c.name.startswith(net)] for net in NETS}
    fits = {
        f"photographs, {net} left out": [c for c in development if not c.name.startswith(net)] for net in NETS
    }  # fmt: skip
    for w, name, c in tested:
        groups.setdefault(f"{name}, {w} left out", []).append(c)
        fits[f"{name}, {w} left out"] = [*development, *(one for other, _, one in learnt if other != w)]
    print("| left out | | right | area | error | log-likelihood |\n|---|---|---|---|---|---|")
    for name, own in groups.items():
        for how, of in (("shipped signals", without), ("one more", lambda c: c)):
            model, some = fit([of(c) for c in fits[name]]), [of(c) for c in own]
            found = told(some, model, None)
            figures = [found["right"], found["area"], found["error"], likelihood(some, model)]
            print(f"| {name} | {how} | " + " | ".join(f"{value:.3f}" for value in figures) + " |", flush=True)


def stay(photographs: Photographs) -> None:
    from scorers import CACHE, PAPERS, SPLITS, best_of, photo_cases

    at = PANEL.index(STEADY)
    development = list(photographs.development())
    rendered = [(f"world {w}", f"worlds, {kind}", c) for w, kind, c, _ in developed()]
    outputs = [(c.name[:5], "outputs", c) for c in development]
    every = [*rendered, *outputs]
    left = {
        name: fit(*([c for other, _, c in some if other != name] for some in (outputs, rendered)))
        for name in {name for name, *_ in every}
    }
    found: dict[str, dict[str, list[np.ndarray]]] = {}
    for name, kind, c in every:
        p, _ = c.auto(left[name])
        means = found.setdefault(kind, {})
        for margin in MARGINS:
            pick = stayed(p, at, margin)
            means.setdefault(f"{margin:g}", []).append(c.right.gather(1, pick)[c.real, 0].double().numpy())
        for i, spec in enumerate(PANEL):
            means.setdefault(spec, []).append(c.right[c.real, i].double().numpy())
    for a, e, texts, judge, *_ in photo_cases(SPLITS["development"], photographs.folder, CACHE):
        exemplars = find_exemplars(a, e, k=30)
        panel = {spec: ballot(spec, exemplars, e, texts, a) for spec in PANEL}
        labels = torch.stack([said.labels for said in panel.values()], 1)
        weighed = Weighed.of(panel, list(labels.T), exemplars, a, e, texts)
        p = torch.stack([weighed.of_label(said)[1] for said in labels.T], 1)
        said = {f"{margin:g}": labels.gather(1, stayed(p, at, margin))[:, 0] for margin in MARGINS}
        said |= {spec: best_of(spec, exemplars, a, e, texts) for spec in {*PANEL, *PAPERS}}
        for spec, own in said.items():
            for measure, value in judge(own.clamp_min(0)).items():
                found.setdefault(measure, {}).setdefault(spec, []).append(value)
    for measure, by in found.items():
        means = {spec: float(np.nanmean(np.concatenate(parts))) for spec, parts in by.items()}
        print(f"| {measure} | " + " | ".join(f"{spec} {mean:.3f}" for spec, mean in means.items()) + " |", flush=True)


def stayed(p: Tensor, at: int, margin: float) -> Tensor:
    """(N,1): the likeliest label of p (N,S), or that of scorer `at` where no other's odds are e^margin times better."""
    favour = torch.nn.functional.one_hot(torch.tensor(at), p.shape[1]) * margin
    return (p.nan_to_num(0).clamp_min(1e-12).log() + favour).argmax(1, keepdim=True)


def counted(every: Sequence[Any], times: int, without: int | None = None) -> list[Case]:
    """Cases of worlds, without one world; those of trained neurons as many `times` as they shall count."""
    return [c for w, kind, c, _ in every if w != without for _ in range(times if kind == "trained" else 1)]


def left_out(photographs: Photographs) -> tuple[list[Rendered], dict[int, Model]]:
    """Of three worlds on pictures of the fit: cases of trained neurons, and a model fitted without each world."""
    learnt, every = list(photographs.development()), list(worlds())
    own = [one for one in every if one[1] == "trained"]
    return own, {w: fit([*learnt, *counted(every, 1, w)]) for w in WORLDS}


def shown(name: str, own: Sequence[Any], models: Sequence[Model | Level]) -> None:
    found = told([c for _, _, c, _ in own], None, None, models)
    each = (found[key] for key in ("right", "area", "error", "supported", "right if supported"))
    print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in each) + " |", flush=True)


def fade(photographs: Photographs) -> None:
    own, left = left_out(photographs)
    print("| c | right | area | error | supported | right of these |\n|---|---|---|---|---|---|")
    for c in FADES:
        models = []
        for w, _, _, level in own:
            known = set_by(left[w], [level["planted neurons"]])
            n = len(known.neurons[0].truth)
            ends = 1.0 if c == math.inf else c / (c + n)
            models.append(replace(known, preference=STAYS * ends * (SHRINKAGE + n) / SHRINKAGE))
        shown(f"{c:g}", own, models)


def refit(photographs: Photographs) -> None:
    own, left = left_out(photographs)
    print("| penalty | right | area | error | supported | right of these |\n|---|---|---|---|---|---|")
    for penalty in PENALTIES:
        models = [
            set_by(refitted(left[w], level["planted neurons"], penalty), [level["planted neurons"]])
            for w, _, _, level in own
        ]
        shown("three numbers alone" if penalty == math.inf else f"{penalty:g}", own, models)


def refitted(model: Model, known: Weighed, penalty: float) -> Model:
    """The model, its weights moved to fit neurons whose truth is known."""
    if penalty == math.inf:
        return model
    there = known.candidates >= 0
    right = torch.tensor([
        [c in known.truth.get(n, set()) for c in row] for n, row in enumerate(known.candidates.tolist())
    ])  # fmt: skip
    basis = model.basis(torch.stack([known.signals[name] for name in model.names], -1)).double()
    spread = basis[there].std(0)
    scale = torch.where(spread > 1e-6, 1 / spread.clamp_min(1e-6), 0.0)
    start = torch.einsum("...sj,sj->...", basis, model.weights.double()) + model.level
    moved = torch.zeros(spread.numel(), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([moved], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        found = (start + (basis * scale).flatten(2) @ moved).masked_fill(~there, -torch.inf)
        value = -log_likelihood(found, right & there)[there.any(1)].sum() + penalty / 2 * moved.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    weights = model.weights.double() + moved.detach().view_as(model.weights) * scale
    return replace(model, weights=weights.float())


COLUMNS = ("right", "area", "error", "supported", "right if supported", "supported, word missing", "supported, null")


def rows_of_trial(
    name: str, learnt: Sequence[Case], every: Sequence[Rendered], use: Sequence[int], weigh: float | None, times: int
) -> None:
    """Figures of each world left out of a fit that sees worlds `use`, and of outputs of each network left out."""

    def fitted(cases: Sequence[Case], without: int | None = None) -> Model:
        rendered = counted([one for one in every if one[0] in use], times, without)
        return fit([*cases, *rendered]) if weigh is None else fit(cases, rendered, weigh)

    left = {w: fitted(learnt, w) for w in dict.fromkeys(w for w, *_ in every)}
    tests: dict[str, dict[str, Any]] = {}
    for kind in ("trained", "planted and trained"):
        own = [one for one in every if one[1] in kind.split(" and ")]
        by_planted = [set_by(left[w], [level["planted neurons"]]) for w, _, _, level in own]
        cases = [c for _, _, c, _ in own]
        tests[kind] = told(cases, None, None, [left[w] for w, *_ in own])
        tests[f"{kind}, level set by planted neurons"] = told(cases, None, None, by_planted)
    for net in NETS:
        model = fitted([c for c in learnt if not c.name.startswith(net)])
        tests[f"outputs of {net}"] = told([c for c in learnt if c.name.startswith(net)], model, None)
    for tested, found in tests.items():
        figures = ("-" if found[key] is None else f"{found[key]:.3f}" for key in COLUMNS)
        print(f"| {name} | {tested} | " + " | ".join(figures) + " |", flush=True)


def heads() -> None:
    print("| fit | tested on | " + " | ".join(COLUMNS) + " |\n" + "|---" * (2 + len(COLUMNS)) + "|")


def heavier(photographs: Photographs) -> None:
    learnt, every = list(photographs.development()), list(worlds())
    heads()
    for times in (1, 2, 4):
        rows_of_trial(f"trained x{times}", learnt, every, list(WORLDS), None, times)


def more_worlds(photographs: Photographs) -> None:
    learnt, every = list(photographs.development()), developed()
    three, twelve = list(WORLDS), [*WORLDS, *DRAWN]
    heads()
    for use, weigh, times in ((three, 30, 1), (twelve, 30, 1), (twelve, 60, 1), (twelve, 30, 3)):
        rows_of_trial(f"{len(use)} worlds, weight {weigh}, trained x{times}", learnt, every, use, weigh, times)


def layer_means(photographs: Photographs) -> None:
    learnt, every = list(photographs.development()), developed()
    heads()
    for name, keys in OF_THE_LAYER.items():

        def more(c: Case, keys: Sequence[str] = keys) -> Case:
            return replace(c, signals=with_means(c.signals, c.real if bool(c.real.any()) else ~c.real, keys))

        def known(one: Weighed, keys: Sequence[str] = keys) -> Weighed:
            return replace(one, signals=with_means(one.signals, torch.ones(len(one.candidates)).bool(), keys))

        wider = [(w, kind, more(c), {by: known(one) for by, one in level.items()}) for w, kind, c, level in every]
        rows_of_trial(name, [more(c) for c in learnt], wider, [*WORLDS, *DRAWN], WORLDS_WEIGH, 1)


def with_means(found: dict[str, Tensor], rows: Tensor, keys: Sequence[str]) -> dict[str, Tensor]:
    """Signals (N,Q), and means over neurons `rows` of what `keys` say of the candidate that most scorers chose."""
    top = found["votes"].nan_to_num(-1).argmax(1, keepdim=True)
    gone = found["votes"].isnan()
    means = {key: float(found[key].gather(1, top)[rows, 0].nanmean()) for key in keys}
    return found | {
        f"layer's {key}": torch.full_like(found[key], mean).masked_fill(gone, torch.nan) for key, mean in means.items()
    }


TRIALS = {
    "worlds": more_worlds,
    "layer": layer_means,
    "fade": fade,
    "refit": refit,
    "heavier": heavier,
    "signal": one_more_signal,
    "far": far,
    "none": none_of_them,
    "planted": planted,
    "stay": stay,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=TRIALS)
    parser.add_argument("--folder", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--cache", type=Path, default=Path("/tmp/contralens-confidence"))
    args = parser.parse_args()
    photographs = Photographs(args.folder, args.cache)
    TRIALS[args.what](photographs)


if __name__ == "__main__":
    main()
