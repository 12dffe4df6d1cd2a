"""The part of an audit that runs the network: what neurons do to the classes, and what pruning does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import default_collate

from contralens.auditing.influence import Influence, influence
from contralens.auditing.new_head import check_enough, fit_new_head
from contralens.auditing.pruning import RANDOM_PRUNINGS, measure_pruning, read_labeled
from contralens.checks import nearest
from contralens.data.audits import INFLUENCE, PRUNING
from contralens.data.images import set_fingerprint
from contralens.data.labeled_images import LabeledImages
from contralens.data.new_heads import NewHead
from contralens.errors import InputError
from contralens.models.heads import linear_head, named_head
from contralens.models.hooked_layer import HookedTarget, network_target
from contralens.models.interventions import class_scores
from contralens.run_data.reopened import Reopened
from contralens.settings.finished_run import Audit
from contralens.types import Exemplars

OUTPUT = "."
"""What the layer is called that is the network's own output."""


def in_the_network(
    reopened: Reopened,
    exemplars: Exemplars,
    verdicts: Sequence[str],
    keep: Tensor,
    notes: list[str],
    settings: Audit,
) -> tuple[pa.Table, pa.Table, NewHead | None, dict[str, Any]]:
    """Tables of influence and of pruning by `keep`, a new head, and what to write down; warnings go to `notes`.

    `verdicts` are those of the exemplars' rows.
    """
    target = network_target(reopened.target)
    nothing: dict[str, Any] = {
        "influence": None, "agreement": {}, "labeled": None, "classes": [], "new_head": None,
        "output_layer": str(reopened.run.manifest["target"].get("layer")) == OUTPUT,
    }  # fmt: skip
    if not isinstance(target, HookedTarget):
        if settings.labeled is not None:
            raise InputError(
                f"{target.name} is not a layer of a network that contralens runs, so it cannot be pruned: omit labeled"
            )
        notes.append("no influence and no pruning: the neurons are not a layer of a network that contralens runs")
        return INFLUENCE.empty_table(), PRUNING.empty_table(), None, nothing
    target = target.with_dtype("float32")  # small effects are differences of large scores
    picture = reopened.pictures(range(len(reopened.probe)))
    batch = _some(target, picture, exemplars)
    try:
        scores = class_scores(target, batch)
    except InputError as e:  # it gives no class scores
        if settings.labeled is not None:
            raise
        notes.append(f"no influence and no pruning: {e}")
        return INFLUENCE.empty_table(), PRUNING.empty_table(), None, nothing
    count = scores.shape[1]
    names = _names(reopened, settings.class_names, count)
    given = _labeled(settings, names, count, reopened)
    if given is not None and names is None:
        names = list(given.classes)
        notes.append(f"the labeled set's classes are used as the network's, in order: {', '.join(names[:8])}")
    shown = names or [f"class {c}" for c in range(count)]
    weight, told, exact = _head(target, settings.head, batch, scores, notes)
    chosen = _chosen(verdicts, settings.sample, settings.seed)
    moved = influence(
        target, exemplars, picture, weight=weight, exact=exact, chosen=chosen, follow=_followed(settings.follow, shown),
        images=settings.images, batch_size=settings.batch_size, progress=settings.progress,
    )  # fmt: skip
    about: dict[str, Any] = {
        "influence": {
            "images": settings.images, "neurons": len(chosen), "switched off": int(moved.measured.sum()),
            "head": told,
            "classes": [shown[c] for c in moved.classes],
            "unit": "class score (before softmax), mean over the images that activate the neuron most",
        },
        "agreement": moved.agreement(), "labeled": None, "new_head": None,
        "classes": list(names or ()), "output_layer": is_output(target, batch, scores),
    }  # fmt: skip
    pruning, head_made = PRUNING.empty_table(), None
    if given is not None:
        pruning, head_made, about["new_head"], about["labeled"] = _pruned(
            target, given, exemplars, verdicts, keep, notes, reopened, settings
        )
    return _influence_table(exemplars, moved, shown), pruning, head_made, about


def _labeled(settings: Audit, names: list[str] | None, count: int, reopened: Reopened) -> LabeledImages | None:
    """The labeled images to measure pruning on, once it is sure that they will do."""
    if settings.labeled is None:
        return None
    columns = {"image_column": settings.image_column, "class_column": settings.class_column}
    given = read_labeled(settings.labeled, names, count, settings.subgroups, **columns)
    if settings.unseen:
        given = _unseen(given, reopened)
    if settings.new_head:
        check_enough(given)
    return given


def _pruned(
    target: HookedTarget, given: LabeledImages, exemplars: Exemplars, verdicts: Sequence[str], keep: Tensor,
    notes: list[str], reopened: Reopened, settings: Audit,
) -> tuple[pa.Table, NewHead | None, Any, dict[str, Any]]:  # fmt: skip
    """Table of pruning, a new head and what to write down of it, and of the labeled images."""
    group_of = reopened.groups_with(given.images)
    shared = int(_seen(given, reopened).sum())
    clusters = [group_of.get(f, f"image {f}") for f in given.images.fingerprints()] if group_of else None
    how: dict[str, Any] = {
        "clusters": clusters, "seed": settings.seed, "batch_size": settings.batch_size, "progress": settings.progress,
    }  # fmt: skip
    pruning, head, about_head = PRUNING.empty_table(), None, None
    if "spurious" in verdicts:
        pruning, more = measure_pruning(target, given, keep, exemplars.neurons, settings.mode, **how)
        if settings.new_head:
            off = exemplars.neurons[torch.tensor([verdict == "spurious" for verdict in verdicts])]
            head, about_head = fit_new_head(target, given, keep, off, **how)
    else:
        more = ["no neuron is spurious, so nothing was pruned" + " and no new head fitted" * settings.new_head]
    notes += [*given.notes, *more]
    if shared:
        also = ", or of their groups" if any(f in group_of for f in reopened.probe) else ""
        notes.append(f"{shared} of the labeled images were used for the verdicts{also}")
    return pruning, head, about_head, {
        "name": given.images.name, "fingerprint": set_fingerprint(given.images), "images": len(given),
        "probe_images": shared, "random_draws": RANDOM_PRUNINGS, "groups": len(set(clusters)) if clusters else None,
        "interval": f"95 %, paired bootstrap over {'groups of images' if clusters else 'images'}",
    }  # fmt: skip


def is_output(target: HookedTarget, batch: Any, scores: Tensor) -> bool:
    """Whether the layer's rows are the network's class scores, or their softmax."""
    rows = target(batch)
    return _are(rows, scores) or _are(rows, scores.softmax(1))


def _are(rows: Tensor, scores: Tensor) -> bool:
    rows = rows.float().cpu()
    return rows.shape == scores.shape and torch.allclose(rows, scores, rtol=1e-3, atol=1e-4)


def _seen(labeled: LabeledImages, reopened: Reopened) -> NDArray[np.bool_]:
    """(I) the labeled images that are probe images of the run, or belong to a group of one."""
    known, group_of = set(reopened.probe), reopened.groups_with(labeled.images)
    taken = {group_of[f] for f in known if f in group_of}
    return np.array([f in known or group_of.get(f) in taken for f in labeled.images.fingerprints()], bool)


def _unseen(labeled: LabeledImages, reopened: Reopened) -> LabeledImages:
    """The others."""
    left = labeled.take(~_seen(labeled, reopened))
    if not len(left):
        raise InputError(
            f"all labeled images in {labeled.images.name} are probe images of the run, or of their groups: give others"
        )
    return left


def _some(target: HookedTarget, picture: Any, exemplars: Exemplars) -> Any:
    """Four exemplars, preprocessed, to try things out on."""
    made: list[Any] = []
    for image in dict.fromkeys(exemplars.positives[:, 0].tolist()):
        if image >= 0 and (found := picture(image)) is not None:
            made.append(target.preprocess(found))
        if len(made) == 4:
            break
    if not made:
        raise InputError("no exemplar of the run can be opened; give their folder with --source")
    return default_collate((made * 2)[: max(2, len(made))])


def _names(reopened: Reopened, classes: Sequence[str] | None, count: int) -> list[str] | None:
    if classes is not None:
        if len(classes) != count:
            raise InputError(f"{len(classes)} class names do not fit the network's {count} class scores")
        return list(classes)
    try:
        found = reopened.classes
    except InputError:  # they have no names
        return None
    return found if len(found) == count else None


def _head(
    target: HookedTarget, head: str | None, batch: Any, scores: Tensor, notes: list[str]
) -> tuple[Tensor | None, str | None, bool]:
    """Weights of the linear head, what to say of it, and whether it makes the scores of the neurons alone."""
    if head == "none":
        return None, None, False
    if head is None:
        if _are(target(batch), scores):
            return torch.eye(scores.shape[1]), "the neurons are the class scores", True
        weight = linear_head(target, batch)
        if weight is None:
            notes.append(
                f"no head influence: no linear layer makes the class scores of {target.layer}'s pooled neurons"
            )
        return weight, None if weight is None else "found by running the network", weight is not None
    weight, exact = named_head(target, head, batch)
    if not exact:
        notes.append(
            f"{head} does not make the class scores of the pooled neurons of {target.layer} alone: its influence is an "
            "estimate"
        )
    return weight, head, exact


def _followed(follow: Sequence[str] | None, names: Sequence[str]) -> list[int] | None:
    if follow is None:
        return None
    at = {name.casefold(): i for i, name in reversed(list(enumerate(names)))}
    for name in follow:
        if name.casefold() not in at:
            raise InputError(f"the network has no class {name!r}{nearest(name, names)}")
    return sorted({at[name.casefold()] for name in follow})


def _chosen(verdicts: Sequence[str], sample: int | None, seed: int) -> list[int]:
    """Rows of all explained neurons and of some unexplained ones."""
    told = [i for i, verdict in enumerate(verdicts) if verdict != "unexplained"]
    rest = torch.tensor([i for i, verdict in enumerate(verdicts) if verdict == "unexplained"], dtype=torch.int64)
    if sample is not None and sample < len(rest):
        rest = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))[:sample]]
    return sorted([*told, *rest.tolist()])


def _influence_table(exemplars: Exemplars, moved: Influence, names: Sequence[str]) -> pa.Table:
    n, c = len(exemplars), len(moved.classes)
    columns = {
        "neuron": exemplars.neurons.repeat_interleave(c).tolist(),
        "class": [names[k] for k in moved.classes] * n,
        **{name: getattr(moved, name).flatten().tolist() for name in ("head", "gradient", "ablation")},
    }
    return pa.table(columns, schema=INFLUENCE)
