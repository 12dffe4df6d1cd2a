"""How faithful the labels of a run are: measured on images that no exemplar came from, by a judge of another kind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from contralens import __version__
from contralens.checks import as_share, as_text, as_texts, nearest, real, shown, whole
from contralens.collecting.probing import proved
from contralens.data.evaluations import FORMAT, SUMMARY, VALUES, Evaluation, values_table
from contralens.data.folders import keeping_part
from contralens.data.owned import EVALUATION
from contralens.data.runs import Run, load
from contralens.data.wordnet import find_wordnet
from contralens.errors import InputError
from contralens.evaluation.cosy import from_folder, paint
from contralens.evaluation.faithful import faithfulness
from contralens.evaluation.judging import is_target, shared
from contralens.evaluation.levels import levels
from contralens.evaluation.measuring import (
    GROUPS,
    RETRIEVED,
    SIGMOID,
    Session,
    needs_judge,
    on_heldout,
    wanted_metrics,
)  # fmt: skip
from contralens.evaluation.truth import Names, against_truth, sanity_record, truth_of
from contralens.evaluation.tune import tuned
from contralens.evaluation.verdicts import Probed, about_groups, abstained, verdict_table
from contralens.evidence import encoder_named
from contralens.math import audit
from contralens.math.confidence import AUTO
from contralens.math.fakes import MOST_FAKES
from contralens.math.intervals import mean_interval
from contralens.models.encoders import encoder as load_encoder
from contralens.models.painters import PRESETS, Preset
from contralens.models.painters import painter as load_painter
from contralens.reopen import Reopened
from contralens.types import Encoder, Progress, silent

DEFAULT = ("simulation", "cosy", "fade", "audit")


@keeping_part(EVALUATION)
def evaluate(
    run: Run | str | Path,
    *,
    metrics: str | Sequence[str] = DEFAULT,
    judge: Any = None,
    same_judge: bool = False,
    images: str | Path | None = None,
    painter: Any = None,
    preset: str | None = None,
    count: int | None = None,
    prompt: str | None = None,
    control: int | None = None,
    heldout: Any = None,
    groups: Any = None,
    source: Any = None,
    target: Any = None,
    encoder: Any = None,
    classes: Sequence[str] | None = None,
    scorers: Sequence[str] | None = None,
    concepts: int = 1,
    combine: Literal["mean", "max"] = "max",
    sigmoid: tuple[float, float] | None = None,
    share: float = 0.05,
    check_metrics: bool = True,
    fdr: float | None = None,
    fakes: int = 1000,
    fake_kind: Literal["permuted", "mixture"] = "permuted",
    stability: int = 0,
    coverage: float = 0.9,
    meanings: bool = False,
    gamma: Literal["layer", "neuron"] | None = None,
    truth: Names | str | Path | None = None,
    save: bool = True,
    cache: str | Path | None = None,
    device: str = "cpu",
    batch_size: int = 32,
    workers: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Evaluation:
    """Judge the labels of a run on held-out images.

    Args:
        run: a `Run` or its folder.
        metrics: names of metrics or groups, see `GROUPS`, or of `METRICS`.
        judge: the encoder that tells how much an image shows a label. It must not be the labeling encoder, which would
            judge its own work.
        same_judge: unless this says so; the result then says it, too.
        images: a folder with a sub-folder of images per label, for the CoSy metrics.
        painter: makes those images instead, e.g. "diffusers:stabilityai/sd-turbo@steps=1,guidance=0". Without images
            and painter, images are retrieved by the judge from the held-out ones.
        preset: "cosy" or "csp" for the published settings of painting.
        count: images per label.
        prompt: what a painter is asked, with {label} in it.
        control: control images at most.
        heldout: another image set to evaluate on; by default what `label(holdout=...)` set aside.
        groups: images that belong together, as `contralens.label` takes them; by default those of the run. They fall on
            one side of each split, and bootstrap samples draw them whole.
        source: the run's images, where they moved.
        target: the run's network, where the manifest cannot say.
        encoder: the run's labeling encoder, where the manifest cannot say.
        classes: names of the network's classes, for faithfulness; by default those that come with its weights.
        scorers: those to judge; by default all of the run.
        concepts: how many of a neuron's best concepts make up its label.
        combine: "max" or "mean" joins them.
        sigmoid: (alpha, beta) of the judge, fitted on the validation part by default.
        share: part of the images on which a neuron counts as active, and a concept as present.
        check_metrics: run the sanity tests on the metrics, too.
        fdr: the null test: which labels beat random images at this false-discovery rate.
        fakes: null neurons of the null test.
        fake_kind: "permuted" real neurons, or a "mixture" of them.
        stability: bootstrap samples of the probe images for label sets; 0 for none.
        coverage: share of the samples that a label set holds.
        meanings: look for neurons with two meanings.
        gamma: also judge CSP at the gamma whose labels are most likely right, per "layer" or per "neuron" (`tuned`).
        truth: true names of neurons (`contralens.evaluation.truth.truth_of`); by default class names of an output layer
            and what is known of the rendered world. Then the share of right labels comes first.
        save: keep the evaluation in the run's folder, if it has one.
        cache: the cache that `label` used; what it lacks is computed again.
        device: where networks run.
        batch_size: images per forward pass.
        workers: threads that decode images.
        seed: of the fakes, the bootstrap and the painter.
        progress: called with stage, done and total.

    Raises:
        InputError: nothing was held out, the judge is missing or is the labeling encoder, images cannot be found.

    >>> found = evaluate("run", metrics="simulation", judge="world", same_judge=True, scorers=["csp"])
    >>> sorted({row["metric"] for row in found.summary.to_pylist()})[:2]
    ['auprc', 'cosine']
    """
    _check(
        {"concepts": concepts, "fakes": fakes, "batch_size": batch_size, "count": count, "control": control,
         "workers": workers}, stability, seed, fdr, coverage, share, combine, gamma, fake_kind, sigmoid,
    )  # fmt: skip
    run = run if isinstance(run, Run) else load(run)
    known = truth_of(run, truth)
    wanted = wanted_metrics(metrics)
    if "depth" in wanted:
        find_wordnet()  # that it is lacking is told before the work
    chosen = as_texts("scorers", scorers) if scorers is not None else run.scorers
    if not chosen:
        raise InputError(f"`scorers` is empty; the run has {', '.join(run.scorers)}")
    for scorer in chosen:
        run.rows(scorer)
    reopened = Reopened(
        run, heldout=heldout, source=source, target=target, encoder=encoder, cache=cache, device=device,
        batch_size=batch_size, workers=workers, groups=groups, progress=progress,
    )  # fmt: skip
    style = _preset(preset, painter, count, prompt, control)
    retrieves = bool(set(wanted) & {*GROUPS["cosy"], "clarity"}) and images is None and not style.painter
    needed = needs_judge(wanted) or retrieves
    referee = _judge(reopened, judge, same_judge, device) if needed else None
    details: dict[str, Any] = {}
    testable = [scorer for scorer in chosen if scorer != AUTO]
    if gamma is not None:
        run, scorer, details["gamma"] = tuned(reopened, gamma)
        reopened.run = run
        chosen += [scorer] if scorer not in chosen else []
        testable += [scorer] if scorer not in testable and gamma == "layer" else []
    session = Session(reopened, referee, wanted, share, concepts, combine, sigmoid, style.count)

    tables: list[pa.Table] = []
    made: dict[str, Any] = {}
    if on_heldout(wanted):
        if images is not None or style.painter:
            labels = [row["label"] for scorer in chosen for row in session.rows(scorer)]
            made = {"from": str(images) if images is not None else str(getattr(style.painter, "name", style.painter))}
            if images is not None:
                session.made = from_folder(reopened, labels, images)
            else:
                brush = load_painter(style.painter, device)
                session.made = paint(
                    reopened, labels, brush, prompt=style.prompt, count=style.count, seed=seed, progress=progress
                )
                made |= {"prompt": style.prompt, "count": style.count, "painter": brush.fingerprint, "seed": seed}
            session.control = style.control
            made["images"] = session.made.counts
        elif retrieves and referee is not None:
            made = {"from": f"held-out images, retrieved by {referee.name}", "count": session.count}
        for scorer, measured in session.measure(chosen, progress).items():
            tables.append(values_table(session.rows(scorer), scorer, measured))
            if set(wanted) & set(GROUPS["faithfulness"]):
                found = faithfulness(session, scorer, classes, seed)
                tables.append(
                    values_table(session.rows(scorer), scorer, {m: v for m, v in found.items() if m in wanted})
                )
    if "depth" in wanted:
        depths, details["granularity"] = levels(session, chosen)
        tables += [values_table(session.rows(s), s, {"depth": depths[s]}) for s in chosen]
    if set(wanted) & set(GROUPS["audit"]):
        tables.append(_audit(reopened, wanted))
    if known is not None:
        rights, details["truth"] = against_truth(session, known, chosen, tables)
        tables = [*rights, *tables]
    values = pa.concat_tables(tables) if tables else VALUES.empty_table()
    _check_measured(wanted, values, any(session.rows(scorer) for scorer in chosen))
    sane = session.sanity() if check_metrics and on_heldout(wanted) else {}

    asked: dict[str, Any] = {}
    if fdr is not None or stability or meanings:
        probed = Probed(reopened, testable, seed, progress)
        if fdr is not None:
            asked |= {"chances": (chances := probed.chance(fakes, fake_kind)), "fdr": fdr}
            details["chance"] = {
                "fakes": fakes, "kind": fake_kind, "fdr": fdr,
                "null_share": {name: c.null_share for name, c in chances.items()},
            }  # fmt: skip
        if stability:
            asked |= {"stabilities": probed.stability(stability), "coverage": coverage}
            details["stability"] = {"samples": stability, "coverage": coverage, "groups": bool(reopened.group_of)}
        if meanings:
            verdict, asked["meaning"] = probed.meanings()
            details["meanings"] = {"split": int(verdict.split.sum()), "neurons": len(verdict.split)}
    verdicts = verdict_table(reopened, testable, **asked)
    if fdr is not None:
        details["chance"]["no label beats chance"] = abstained(verdicts)

    manifest = {
        "format": FORMAT,
        "contralens": __version__,
        "scorers": chosen,
        "primary": run.manifest["primary"] if run.manifest["primary"] in chosen else chosen[-1],
        "target": run.manifest["target"]["fingerprint"],
        "metrics": wanted,
        "judge": None if referee is None else {
            "name": referee.name, "fingerprint": referee.fingerprint,
            "same_as_labeling_encoder": referee.fingerprint == run.manifest["encoder"]["fingerprint"],
            "is_target": same_judge and is_target(reopened, referee),
        },
        "images": session.counts(),
        "groups": about_groups(groups, reopened),
        "label_images": made,
        "sigmoid": session.sigmoid_used,
        "concepts": concepts, "combine": combine, "share": share, "seed": seed,
        "sanity": (tests := sanity_record(sane, details.get("truth", {}).get("ranked below the true name", {}))),
        **details,
        "notes": list(dict.fromkeys([*reopened.notes, *session.notes])),
    }  # fmt: skip
    passes = {name: test["passes"] for name, test in tests.items()}
    result = Evaluation(manifest, values, summarise(values, passes), verdicts)
    return result.save(run.path) if save and run.path is not None else result


def summarise(values: pa.Table, sane: dict[str, bool | None] | None = None) -> pa.Table:
    """Mean, 95 % bootstrap interval over neurons and count of undefined values, per scorer and metric.

    Metrics through the calibrated sigmoid are undefined on other neurons for each scorer: only neurons on which every
    scorer has a value count.
    """
    groups: dict[tuple[str, str], dict[int, float]] = {}
    columns = (values[c].to_pylist() for c in ("scorer", "metric", "neuron", "value"))
    for scorer, metric, neuron, value in zip(*columns, strict=True):
        groups.setdefault((scorer, metric), {})[neuron] = value
    rows = []
    for (scorer, metric), found in groups.items():
        others = [g for (_, m), g in groups.items() if m == metric] if metric in SIGMOID else []
        told = [v for n, v in found.items() if not any(math.isnan(g.get(n, math.nan)) for g in others)]
        i = mean_interval(told)
        row = {"scorer": scorer, "metric": metric, "mean": i.mean, "low": i.low, "high": i.high}
        rows.append({**row, "neurons": i.count, "undefined": len(found) - i.count, "sane": (sane or {}).get(metric)})
    return pa.Table.from_pylist(rows, schema=SUMMARY)


def _check(
    counts: dict[str, Any], stability: Any, seed: Any, fdr: Any, coverage: Any, share: Any, combine: Any, gamma: Any,
    fake_kind: Any, sigmoid: Any,
) -> None:  # fmt: skip
    """Refuse arguments of the wrong kind before anything is opened; None stands for what was not given."""
    for name, value in counts.items():
        if value is not None or name in ("concepts", "fakes", "batch_size"):
            whole(name, value, 1, MOST_FAKES if name == "fakes" else 2**31 - 1)
    whole("stability", stability, 0, 1_000_000)
    whole("seed", seed, -(2**63), 2**63 - 1)
    if fdr is not None:
        as_share("fdr", fdr)
    as_share("coverage", coverage, one=True)
    as_share("share", share)
    for name, given, known in (("combine", combine, ("mean", "max")), ("gamma", gamma, (None, "layer", "neuron")),
                               ("fake_kind", fake_kind, ("permuted", "mixture"))):  # fmt: skip
        if given not in known:
            raise InputError(f"`{name}` must be one of {', '.join(map(str, known))}; got {shown(given)}")
    if sigmoid is not None:
        if not isinstance(sigmoid, Sequence) or len(sigmoid) != 2:
            raise InputError(f"`sigmoid` must be two numbers, alpha and beta; got {shown(sigmoid)}")
        for one in sigmoid:
            real("sigmoid", one)


def _check_measured(wanted: Sequence[str], values: pa.Table, labeled: bool) -> None:
    """No metric that was asked for is left out without a word."""
    if labeled and (left := [name for name in wanted if name not in set(values["metric"].to_pylist())]):
        raise InputError(
            f"nothing measures {', '.join(left)}, though a group lists it; add a function of activations and "
            "predictions to contralens.evaluation.measuring.METRICS"
        )


def _preset(preset: str | None, painter: Any, count: int | None, prompt: str | None, control: int | None) -> Preset:
    if preset is not None and as_text("preset", preset) not in PRESETS:
        raise InputError(f"unknown preset {preset!r}{nearest(preset, PRESETS)}; known: {', '.join(PRESETS)}")
    base = PRESETS[preset] if preset else Preset("", RETRIEVED, "{label}", None, "")
    return Preset(
        painter or base.painter, count or base.count, prompt or base.prompt, control or base.control, base.about
    )


def _judge(reopened: Reopened, judge: Any, same_judge: bool, device: str) -> Encoder:
    recorded = reopened.run.manifest["encoder"]
    if judge is None and not same_judge:
        raise InputError(
            f"a judge is missing: give an encoder other than {recorded['name']} with --judge, or let the labeling "
            "encoder judge its own labels with --same-judge (the result then says so)"
        )
    referee: Encoder = load_encoder(judge if judge is not None else encoder_named(reopened.run), device=device)
    allow = bool(reopened.run.manifest.get("allow_nondeterministic"))
    (referee,), notes = proved([referee], None, reopened.store, allow_nondeterministic=allow)
    reopened.notes += notes
    reopened.notes += shared(reopened, referee)
    if not same_judge and is_target(reopened, referee):
        raise InputError(
            f"the judge {referee.name} holds the weights of the network under study and sees what its neurons see: "
            "give another one with --judge, or say --same-judge (the result then says so)"
        )
    if referee.fingerprint == recorded["fingerprint"] and not same_judge:
        raise InputError(
            f"the judge {referee.name} is the labeling encoder and would judge its own labels: give another one with "
            "--judge, or say --same-judge (the result then says so)"
        )
    return referee


def _audit(reopened: Reopened, wanted: Sequence[str]) -> pa.Table:
    """What the exemplars say by themselves, in the labeling encoder's space; no label, scorer "exemplars"."""
    e, found = reopened.embeddings(reopened.probe), reopened.exemplars
    functions = {
        "exemplar_clarity": audit.clarity, "redundancy": audit.redundancy, "polysemanticity": audit.polysemanticity,
    }  # fmt: skip
    names = reopened.run.neurons["name"].to_pylist()
    rows = [{"neuron": n, "name": names[n], "label": None} for n in found.neurons.tolist()]
    values = {name: f(found, e).double().numpy() for name, f in functions.items() if name in wanted}
    return values_table(rows, "exemplars", values)
