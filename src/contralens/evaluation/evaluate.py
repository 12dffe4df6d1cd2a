"""How faithful the labels of a run are: measured on images that no exemplar came from, by a judge of another kind."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from contralens import __version__
from contralens.checks import as_texts, nearest
from contralens.data.evaluations import FORMAT, SUMMARY, VALUES, Evaluation, values_table
from contralens.data.folder_kinds import EVALUATION
from contralens.data.runs import Run, load
from contralens.data.table_folders import keeping_part
from contralens.data.wordnet import find_wordnet
from contralens.errors import InputError
from contralens.evaluation.cosy import from_folder, paint
from contralens.evaluation.faithfulness import class_shares
from contralens.evaluation.gamma_tuning import tuned
from contralens.evaluation.ground_truth import Truth, against_truth, sanity_record, truth_of
from contralens.evaluation.hypernyms import levels
from contralens.evaluation.judge_independence import is_target, judge_of
from contralens.evaluation.measuring import RETRIEVED, Session, made_from, needs_judge, on_heldout, wanted_metrics
from contralens.evaluation.metric_inputs import values_from
from contralens.evaluation.painters import PRESETS, Preset
from contralens.evaluation.painters import painter as load_painter
from contralens.evaluation.verdicts import Probed, about_groups, abstained, verdict_table
from contralens.math.intervals import mean_interval
from contralens.math.metric_registry import METRICS
from contralens.math.tensors import keeping_memory
from contralens.run_data.reopened import Reopened
from contralens.run_data.sharded_images import check_at_once
from contralens.settings.finished_run import Evaluate
from contralens.settings.record import job
from contralens.types import AUTO


@dataclass(frozen=True)
class Opened:
    """A run got back, and all that its evaluation needs."""

    settings: Evaluate
    reopened: Reopened
    session: Session
    wanted: list[str]
    """Metrics."""
    scorers: list[str]
    tested: list[str]
    """Of the scorers, those that can be run again on null neurons and bootstrap samples."""
    style: Preset
    """How images of labels are painted."""
    known: Truth | None
    details: dict[str, Any]
    """What the manifest says beside the measurements."""


@job(Evaluate)
@keeping_memory()
def evaluate(settings: Evaluate) -> Evaluation:
    """Judge the labels of a run on held-out images.

    Raises:
        InputError: nothing was held out, the judge is missing or is the labeling encoder, images cannot be found.

    >>> found = evaluate("run", metrics="simulation", judge="world", same_judge=True, scorers=["csp"])
    >>> sorted({row["metric"] for row in found.summary.to_pylist()})[:2]
    ['auprc', 'cosine']
    """
    with keeping_part(settings.run, EVALUATION, settings.save):
        found = _opened(settings)
        values = _measured(found)
        sane = found.session.sanity() if settings.check_metrics and on_heldout(found.wanted) else {}
        verdicts = _verdicts(found)
        manifest, passes = _manifest(found, sane)
        result = Evaluation(manifest, values, summarise(values, passes), verdicts)
        path = found.reopened.run.path
        return result.save(path) if settings.save and path is not None else result


def _opened(settings: Evaluate) -> Opened:
    run = settings.run if isinstance(settings.run, Run) else load(settings.run)
    asked = ("fdr", "stability", "meanings", "gamma")
    check_at_once(run, **{name: getattr(settings, name) for name in asked})
    known = truth_of(run, settings.truth)
    wanted = wanted_metrics(settings.metrics)
    if made_from("wordnet", wanted):
        find_wordnet()  # that it is lacking is told before the work
    chosen = run.scorers if settings.scorers is None else as_texts("scorers", settings.scorers)
    for scorer in chosen:
        run.rows(scorer)
    device = settings.device or "cpu"
    also = ("target", "heldout", "encoder", "groups")
    reopened = Reopened.of(run, settings, **{name: getattr(settings, name) for name in also})
    style = _preset(settings)
    retrieves = bool(made_from("on_label", wanted)) and settings.images is None and not style.painter
    needed = needs_judge(wanted) or retrieves
    referee = judge_of(reopened, settings.judge, settings.same_judge, device) if needed else None
    details: dict[str, Any] = {}
    testable = [scorer for scorer in chosen if scorer != AUTO]
    if settings.gamma is not None:
        reopened.run, scorer, details["gamma"] = tuned(reopened, settings.gamma)
        chosen += [scorer] if scorer not in chosen else []
        testable += [scorer] if scorer not in testable and settings.gamma == "layer" else []
    session = Session(
        reopened, referee, wanted, settings.share, settings.concepts, settings.combine, settings.sigmoid, style.count
    )
    return Opened(settings, reopened, session, wanted, chosen, testable, style, known, details)


def _measured(found: Opened) -> pa.Table:
    """The values of all metrics."""
    session, wanted, chosen, details = found.session, found.wanted, found.scorers, found.details
    tables: list[pa.Table] = []
    details["label_images"] = {}
    if on_heldout(wanted):
        details["label_images"] = _label_images(found)
        for scorer, measured in session.measure(chosen, found.settings.progress).items():
            tables.append(values_table(session.rows(scorer), scorer, measured))
            if made_from("class_shares", wanted) + made_from("strongest_class_shares", wanted):
                shares = class_shares(session, scorer, found.settings.class_names, found.settings.seed)
                tables.append(values_table(session.rows(scorer), scorer, values_from(shares, wanted)))
    if made_from("wordnet", wanted):
        details["granularity"] = levels(session, chosen)
        for scorer in chosen:
            inputs = {"wordnet": find_wordnet(), "labels": [row["label"] for row in session.rows(scorer)]}
            tables.append(values_table(session.rows(scorer), scorer, values_from(inputs, wanted)))
    if made_from("exemplars", wanted):
        tables.append(_audit(found.reopened, wanted))
    if found.known is not None:
        rights, details["truth"] = against_truth(session, found.known, chosen, tables)
        tables = [*rights, *tables]
    values = pa.concat_tables(tables) if tables else VALUES.empty_table()
    _check_measured(wanted, values, any(session.rows(scorer) for scorer in chosen))
    return values


def _label_images(found: Opened) -> dict[str, Any]:
    """Gives the session images of the labels, and says where they are from."""
    settings, session, style = found.settings, found.session, found.style
    if settings.images is None and not style.painter:
        if not made_from("on_label", found.wanted) or session.judge is None:
            return {}
        return {"from": f"held-out images, retrieved by {session.judge.name}", "count": session.count}
    labels = [row["label"] for scorer in found.scorers for row in session.rows(scorer)]
    if settings.images is not None:
        made: dict[str, Any] = {"from": str(settings.images)}
        session.made = from_folder(found.reopened, labels, settings.images)
    else:
        made = {"from": str(getattr(style.painter, "name", style.painter))}
        brush = load_painter(style.painter, settings.device or "cpu")
        session.made = paint(
            found.reopened, labels, brush, prompt=style.prompt, count=style.count, seed=settings.seed,
            progress=settings.progress,
        )  # fmt: skip
        made |= {"prompt": style.prompt, "count": style.count, "painter": brush.fingerprint, "seed": settings.seed}
    session.control = style.control
    return {**made, "images": session.made.counts}


def _verdicts(found: Opened) -> pa.Table:
    """What null neurons, bootstrap samples and the search for meanings say of each label, where asked."""
    settings, details = found.settings, found.details
    asked: dict[str, Any] = {}
    if settings.fdr is not None or settings.stability or settings.meanings:
        probed = Probed(found.reopened, found.tested, settings.seed, settings.progress)
        if settings.fdr is not None:
            chances = probed.chance(settings.fakes, settings.fake_kind)
            asked |= {"chances": chances, "fdr": settings.fdr}
            details["chance"] = {
                "fakes": settings.fakes, "kind": settings.fake_kind, "fdr": settings.fdr,
                "null_share": {name: c.null_share for name, c in chances.items()},
            }  # fmt: skip
        if settings.stability:
            asked |= {"stabilities": probed.stability(settings.stability), "coverage": settings.coverage}
            details["stability"] = {
                "samples": settings.stability, "coverage": settings.coverage, "groups": bool(found.reopened.group_of),
            }  # fmt: skip
        if settings.meanings:
            verdict, asked["meaning"] = probed.meanings()
            counts = Counter(verdict.count.tolist())
            details["meanings"] = {
                "split": len(verdict.rows), "neurons": len(verdict.count),
                "counts": {str(k): counts[k] for k in sorted(counts)},
            }  # fmt: skip
    verdicts = verdict_table(found.reopened, found.tested, **asked)
    if settings.fdr is not None:
        details["chance"]["no label beats chance"] = abstained(verdicts)
    return verdicts


def _manifest(found: Opened, sane: dict[str, Any]) -> tuple[dict[str, Any], dict[str, bool | None]]:
    """The manifest, and which metrics are sane."""
    settings, session, reopened, referee = found.settings, found.session, found.reopened, found.session.judge
    run, details = reopened.run, dict(found.details)
    tests = sanity_record(sane, details.get("truth", {}).get("ranked below the true name", {}))
    manifest = {
        "format": FORMAT,
        "contralens": __version__,
        "scorers": found.scorers,
        "primary": run.manifest["primary"] if run.manifest["primary"] in found.scorers else found.scorers[-1],
        "target": run.manifest["target"]["fingerprint"],
        "metrics": found.wanted,
        "judge": None if referee is None else {
            "name": referee.name, "fingerprint": referee.fingerprint,
            "same_as_labeling_encoder": referee.fingerprint == run.manifest["encoder"]["fingerprint"],
            "is_target": settings.same_judge and is_target(reopened, referee),
        },
        "images": session.counts(),
        "groups": about_groups(settings.groups, reopened),
        "label_images": details.pop("label_images"),
        "sigmoid": session.sigmoid_used,
        **settings.written(),
        "sanity": tests,
        **details,
        "notes": list(dict.fromkeys([*reopened.notes, *session.notes])),
    }  # fmt: skip
    return manifest, {name: test["passes"] for name, test in tests.items()}


def summarise(values: pa.Table, sane: dict[str, bool | None] | None = None) -> pa.Table:
    """Mean, 95 % bootstrap interval over neurons and count of undefined values, per scorer and metric.

    Metrics through the calibrated sigmoid are undefined on other neurons for each scorer: only neurons on which every
    scorer has a value count.
    """
    groups: dict[tuple[str, str], dict[int, float]] = {}
    calibrated = made_from("calibrated", METRICS.here())
    columns = (values[c].to_pylist() for c in ("scorer", "metric", "neuron", "value"))
    for scorer, metric, neuron, value in zip(*columns, strict=True):
        groups.setdefault((scorer, metric), {})[neuron] = value
    rows = []
    for (scorer, metric), found in groups.items():
        others = [g for (_, m), g in groups.items() if m == metric] if metric in calibrated else []
        told = [v for n, v in found.items() if not any(math.isnan(g.get(n, math.nan)) for g in others)]
        i = mean_interval(told)
        row = {"scorer": scorer, "metric": metric, "mean": i.mean, "low": i.low, "high": i.high}
        rows.append({**row, "neurons": i.count, "undefined": len(found) - i.count, "sane": (sane or {}).get(metric)})
    return pa.Table.from_pylist(rows, schema=SUMMARY)


def _check_measured(wanted: Sequence[str], values: pa.Table, labeled: bool) -> None:
    """No metric that was asked for is left out without a word."""
    if labeled and (left := [name for name in wanted if name not in set(values["metric"].to_pylist())]):
        raise InputError(
            f"no metric gives {', '.join(left)}: no part of an evaluation has all that it needs; a metric of "
            "activations and predictions can always be measured"
        )


def _preset(settings: Evaluate) -> Preset:
    preset = settings.preset
    if preset is not None and preset not in PRESETS:
        raise InputError(f"unknown preset {preset!r}{nearest(preset, PRESETS)}; known: {', '.join(PRESETS)}")
    base = PRESETS[preset] if preset else Preset("", RETRIEVED, "{label}", None, "")
    return Preset(
        settings.painter or base.painter, settings.count or base.count, settings.prompt or base.prompt,
        settings.control or base.control, base.about,
    )  # fmt: skip


def _audit(reopened: Reopened, wanted: Sequence[str]) -> pa.Table:
    """What the exemplars say by themselves, in the labeling encoder's space; no label, scorer "exemplars"."""
    e, found = reopened.embeddings(reopened.named), reopened.exemplars
    names = reopened.run.neurons["name"].to_pylist()
    rows = [{"neuron": n, "name": names[n], "label": None} for n in found.neurons.tolist()]
    return values_table(rows, "exemplars", values_from({"exemplars": found, "embeddings": e}, wanted))
