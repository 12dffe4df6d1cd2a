"""`contralens.verify`: each label is a hypothesis, and pictures are edited to refute it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from contralens import __version__
from contralens.checks import counted
from contralens.data.final_labels import final
from contralens.data.folder_kinds import VERIFICATION
from contralens.data.runs import Run, load
from contralens.data.table_folders import keeping_part
from contralens.data.verifications import (
    EDITS,
    FORMAT,
    INSIDE,
    LABELS,
    OUTCOMES,
    PICTURES,
    Verification,
    verification_of,
)
from contralens.errors import InputError, RunError
from contralens.math.experiments import LEAST_IMAGES, STRONG, WEAK, false_discovery_rate
from contralens.math.tensors import keeping_memory
from contralens.run_data.reopened import Reopened
from contralens.settings.finished_run import Verify
from contralens.settings.record import job
from contralens.verifying.laboratory import Laboratory
from contralens.verifying.refining import next_ones
from contralens.verifying.tested import Tested, numbers


@job(Verify)
@keeping_memory()
def verify(settings: Verify) -> Verification:
    """Test labels by editing pictures: remove the concept from exemplars, insert it into contrasts, measure the neuron.

    `contralens.math.experiments` defines verified, refuted and untested; `contralens.verifying.editors.EDITORS` lists
    the editors. Each neuron's experiment is cached when it is done, so an interrupted run resumes with the next neuron.

    Returns:
        The verification, saved in the run folder if `save` is set and the run has one; it then includes labels tested
        earlier.

    Raises:
        InputError: no labels, an unknown editor or neuron, or an editor that cannot edit these images.

    >>> found = verify("run", neurons=[0, 1, 2], images=3, save=False)
    >>> [row["outcome"] in ("verified", "refuted", "untested") for row in found.rows()]
    [True, True, True]
    """
    with keeping_part(settings.run, VERIFICATION, settings.save):
        run = settings.run if isinstance(settings.run, Run) else load(settings.run)
        hypotheses = _hypotheses(run, settings)
        reopened = Reopened.of(run, settings, target=settings.target, encoder=settings.encoder)
        laboratory = Laboratory(reopened, settings)
        if len(hypotheses) == 1:
            laboratory.progress = settings.progress
        found: list[Tested] = []
        for neuron, phrase in hypotheses:
            settings.progress("verifying", len(found), len(hypotheses))
            tested = laboratory.kept(neuron, phrase)
            if tested is None:
                left = counted(len(hypotheses) - len(found), "label")
                reopened.notes.append(f"{left} left out: {laboratory.budget.over}")
                break
            found.append(tested)
            if tested.outcome.word == "refuted" and settings.refine:
                found += _refined(laboratory, tested, settings)
        settings.progress("verifying", len(hypotheses), len(hypotheses))
        result = Verification(
            _manifest(settings, laboratory),
            pa.Table.from_pylist([one.row(run) for one in found], schema=LABELS),
            pa.Table.from_pylist([edit for one in found for edit in one.edits], schema=EDITS),
            pa.Table.from_pylist([shot for one in found for shot in laboratory.pictures(one)], schema=PICTURES),
            pa.Table.from_pylist(_inside(laboratory, found, settings), schema=INSIDE),
        )
        if settings.save and (older := _older(run, result)) is not None:
            result = result.added_to(older)
        result = replace(result, manifest={**result.manifest, **_totals(result.labels)})
        return result.save(run.path) if settings.save and run.path is not None else result


def _refined(laboratory: Laboratory, refuted: Tested, settings: Verify) -> list[Tested]:
    """Other concepts tested in place of a refuted label, until one is verified, none is left or the budget is over."""
    out: list[Tested] = []
    run = laboratory.reopened.run
    for concept in next_ones(run, refuted, laboratory.reopened.concepts, settings.scorer)[: settings.refine]:
        tested = laboratory.kept(refuted.neuron, concept)
        if tested is None:
            break
        out.append(replace(tested, instead_of=refuted.label))
        if tested.outcome.word == "verified":
            break
    return out


def _inside(pictured: Laboratory, found: Sequence[Tested], settings: Verify) -> list[dict[str, Any]]:
    """What steering the network says of the same labels, and the class that each neuron moves."""
    if settings.inside is None:
        return []
    run, laboratory = pictured.reopened.run, pictured.inside(settings.inside)
    alive = [n for n, s in zip(*(run.neurons[c].to_pylist() for c in ("neuron", "status")), strict=True) if s == "ok"]
    out = []
    for done, tested in enumerate(found):
        settings.progress("steering", done, len(found))
        steered = laboratory.kept(tested.neuron, tested.label)
        assert steered is not None, "no budget is left"
        path = laboratory.class_path(tested.neuron, [n for n in alive if n != tested.neuron])
        name, layer = str(run.neurons["name"][tested.neuron]), laboratory.editor.name.partition(":")[2]
        out.append({
            "neuron": tested.neuron, "name": name, "label": tested.label, "layer": layer,
            "outcome": steered.outcome.word, "reason": steered.outcome.reason, **numbers(steered.outcome),
            "class": path and path.name, "change": path and path.change, "beyond": path and path.beyond,
        })  # fmt: skip
    settings.progress("steering", len(found), len(found))
    pictured.reopened.notes.extend(laboratory.notes)
    return out


def _totals(labels: pa.Table) -> dict[str, Any]:
    """What the manifest says of a table of labels: outcomes, those of null labels, the false-discovery rate."""
    words = labels["outcome"].to_pylist()
    nulls = [word for some in labels["nulls"].to_pylist() for word in some or ()]
    return {
        "outcomes": {word: words.count(word) for word in OUTCOMES},
        "nulls": {word: nulls.count(word) for word in OUTCOMES},
        "false-discovery rate of verified": false_discovery_rate(words, nulls),
    }


def _older(run: Run, result: Verification) -> Verification | None:
    """What the run's folder holds of experiments on the same network, if it can be read."""
    try:
        return verification_of(run.path, result.manifest["target"])
    except RunError:
        return None


def _manifest(settings: Verify, laboratory: Laboratory) -> dict[str, Any]:
    run, editor = laboratory.reopened.run.manifest, laboratory.editor
    return {
        **settings.written(), "format": FORMAT, "contralens": __version__,
        "scorer": settings.scorer or run["primary"], "label": settings.label,
        "editor": {"name": editor.name, "fingerprint": editor.fingerprint, "exact": editor.exact},
        "target": run["target"]["fingerprint"], "encoder": run["encoder"]["name"],
        "strong": STRONG, "weak": WEAK, "least images": LEAST_IMAGES, "notes": list(laboratory.reopened.notes),
    }  # fmt: skip


def _hypotheses(run: Run, settings: Verify) -> list[tuple[int, str]]:
    """(neuron, phrase) that are tested."""
    rows = {row["neuron"]: row for row in final(run, experiments=False).rows(settings.scorer)}
    wanted = settings.neurons
    chosen = list(rows) if wanted is None else [int(run.neuron(n)["neuron"]) for n in wanted]
    found = [(n, settings.label or rows[n]["label"]) for n in dict.fromkeys(chosen)]
    if wanted is not None and (bare := [n for n, phrase in found if phrase is None]):
        raise InputError(f"neuron {run.neurons['name'][bare[0]]} has no label to test; give one with `label`")
    found = [(n, phrase) for n, phrase in found if phrase is not None]
    if not found:
        raise InputError(f"no neuron of this run has a label by {settings.scorer or run.manifest['primary']}")
    return found
