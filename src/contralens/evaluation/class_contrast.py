"""`contralens.contrast_classes`: which neurons separate two classes of images, and what the difference is in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from contralens import __version__
from contralens.data.class_contrasts import EXEMPLARS, FILM, NEURONS, ClassContrast
from contralens.data.final_labels import final
from contralens.data.pictures import jpeg
from contralens.data.runs import Run, load
from contralens.errors import InputError
from contralens.evaluation.image_classes import ImageClasses, image_classes
from contralens.math.activation_sources import ActivationSource, Resampled, columns
from contralens.math.caption_concepts import separates
from contralens.math.class_separation import Separation, class_separation
from contralens.math.restricted_exemplars import restricted_exemplars
from contralens.math.scorers import average_row
from contralens.math.scoring import parse_scorer, run_scorer, wants_activations
from contralens.run_data.reopened import Reopened
from contralens.settings.finished_run import ContrastClasses
from contralens.settings.record import job
from contralens.types import Exemplars

if TYPE_CHECKING:
    from PIL.Image import Image

FRAMES = 9
"""Images of a filmstrip."""
BINS = 24
SIDE = 160
SHOWN = 12
"""Pairs of a neuron shown."""
TOP = 5
"""Concepts listed."""


@job(ContrastClasses)
def contrast_classes(settings: ContrastClasses) -> ClassContrast:
    """Find the neurons that separate class A from class B, and name what each responds to.

    For each neuron: the area under the ROC curve between the classes with its 95 % interval and a rank-sum test,
    corrected over neurons (`contralens.math.class_separation`). The strongest that separate the classes are described
    by contrasts restricted to the other class: positives are the strongest images of the class that the neuron fires
    for, each paired with the most similar image of the other class on which the neuron is below the mean of the two
    class means. The scorer names the difference. Classes come from the folders of the run's images, from tables,
    captions or search words.

    Returns:
        The neurons by decreasing distance of the area from .5, with words, exemplars, filmstrips and pictures.

    Raises:
        InputError: an unknown class, or one without images; an unknown scorer.

    >>> found = contrast_classes("run", "striped", "dotted", labels="world-1/scenes.parquet", class_column="pattern")
    >>> found.manifest["a"], found.manifest["source"], len(found.rows()) > 0
    ('striped', 'scenes.parquet, pattern', True)
    """
    run = settings.run if isinstance(settings.run, Run) else load(settings.run)
    parse_scorer(settings.scorer)
    networks = {"target": settings.target, "encoder": settings.encoder}
    reopened = Reopened.of(run, settings, groups=settings.groups, **networks)
    classes = image_classes(reopened, settings)
    activations = reopened.activations(reopened.probe)
    fit = run.neurons.filter(pc.field("status") == "ok")["neuron"]
    alive = torch.tensor(fit.to_pylist(), dtype=torch.int64)
    if not len(alive):
        raise InputError("this run has no neuron that can be tested: all are dead, constant or NaN")
    apart = class_separation(activations, classes.a, classes.b, groups=_numbers(reopened.clusters), neurons=alive)
    separating = apart.q <= settings.fdr
    strength = (apart.auc - 0.5).abs().masked_fill(apart.auc.isnan(), -1.0)
    order = (-strength).sort(stable=True).indices
    chosen = _both_sides([i for i in order.tolist() if separating[i]], apart.fires_for_a, settings.describe)
    described = _describe(reopened, settings, classes, activations, alive[chosen], apart.fires_for_a[chosen])
    strong, pictures = 2 * strength[chosen], _pictures(reopened, described)
    manifest = {
        **settings.written(), "a": settings.a, "b": settings.b, "source": classes.source, "contralens": __version__,
        "images_a": len(classes.a), "images_b": len(classes.b), "layer": run.manifest["target"]["layer"],
        "target": run.manifest["target"]["name"], "encoder": run.manifest["encoder"]["name"], "tested": len(alive),
        "separating": {name: int((separating & (apart.fires_for_a == side)).sum())
                       for name, side in ((settings.a, True), (settings.b, False))},
        "words": {name: described.consensus(strong, apart.fires_for_a[chosen] == side, reopened.concepts)
                  for name, side in ((settings.a, True), (settings.b, False))},
        "images_differ": _of_images(reopened, classes, settings), "groups": bool(reopened.clusters),
        "notes": [*reopened.notes, *classes.notes],
    }  # fmt: skip
    rows = _rows(settings, run, apart, alive, order, separating)
    for place, at in enumerate(chosen):
        rows[order.tolist().index(at)] |= described.words(place, reopened.concepts)
    return ClassContrast(
        manifest, pa.Table.from_pylist(rows, schema=NEURONS),
        pa.Table.from_pylist(described.pairs(), schema=EXEMPLARS), pa.Table.from_pylist(described.film, schema=FILM),
        run.images["id"].to_pylist(), pictures,
    )  # fmt: skip


def _both_sides(strongest: Sequence[int], for_a: Tensor, count: int) -> list[int]:
    """The first `count`, half of them of each side as far as a side has them."""
    sides = [[i for i in strongest if bool(for_a[i]) == side] for side in (True, False)]
    half = count // 2
    some = {*sides[0][: max(half, count - len(sides[1]))], *sides[1][: max(half, count - len(sides[0]))]}
    return [i for i in strongest if i in some or (count % 2 and i == strongest[0])]


def _numbers(names: Sequence[str] | None) -> Tensor | None:
    return None if names is None else torch.from_numpy(np.unique(names, return_inverse=True)[1])


def _rows(
    settings: ContrastClasses, run: Run, apart: Separation, alive: Tensor, order: Tensor, separating: Tensor
) -> list[dict[str, Any]]:
    """Rows of the table of neurons, in order, without words."""
    labels = {row["neuron"]: row["label"] for row in final(run).rows()}
    names = dict(zip(run.neurons["neuron"].to_pylist(), run.neurons["name"].to_pylist(), strict=True))
    out = []
    for i in order.tolist():
        n = int(alive[i])
        numbers = {
            name: float(getattr(apart, name)[i]) for name in ("auc", "low", "high", "p", "q", "mean_a", "mean_b")
        }
        fires = None if apart.auc[i] == 0.5 or apart.auc[i].isnan() else [settings.b, settings.a][apart.fires_for_a[i]]
        out.append({
            "neuron": n, "name": names[n], "label": labels.get(n), **numbers, "separates": bool(separating[i]),
            "fires_for": fires,
        })  # fmt: skip
    return out


@dataclass(frozen=True)
class _Described:
    """Words and pictures of some neurons (n)."""

    exemplars: Exemplars
    """Images by row of the run's images."""
    cold: Tensor
    """(n,K) activation on the contrasts."""
    scores: Tensor
    """(n,C)."""
    won: Tensor
    """(n,C): share of the pairs of which the positive is nearer to the concept, NaN where it was not asked for."""
    film: list[dict[str, Any]]
    bars: list[dict[str, Any]]

    def words(self, place: int, concepts: Sequence[str]) -> dict[str, Any]:
        """What the table of neurons says of one of them."""
        scores = self.scores[place]
        best = (
            [] if scores.isnan().all() else scores.nan_to_num(-torch.inf).topk(min(TOP, len(scores))).indices.tolist()
        )
        said: dict[str, Any] = {"concepts": [concepts[c] for c in best], "scores": [float(scores[c]) for c in best]}
        if best:
            said |= {"concept": concepts[best[0]], "score": said["scores"][0], "pairs": float(self.won[place, best[0]])}
        return {**self.bars[place], **said}

    def consensus(self, strong: Tensor, of: Tensor, concepts: Sequence[str]) -> list[str]:
        """The best concepts over the neurons of one side, each with the weight 2 |AUC - .5|."""
        some = of & ~self.scores.isnan().any(1)
        if not bool(some.any()):
            return []
        mean = (strong[some, None] * self.scores[some].double()).sum(0)
        return [concepts[c] for c in mean.topk(min(TOP, len(mean))).indices.tolist()]

    def pairs(self) -> list[dict[str, Any]]:
        e = self.exemplars
        named = {"positive": e.positives, "activation": e.activations, "contrast": e.contrasts,
                 "contrast_activation": self.cold, "similarity": e.similarities}  # fmt: skip
        return [
            {"neuron": n, "rank": rank, **{name: field[place, rank].item() for name, field in named.items()}}
            for place, n in enumerate(e.neurons.tolist()) for rank in range(e.positives.shape[1])
            if e.positives[place, rank] >= 0
        ]  # fmt: skip


def _describe(
    reopened: Reopened, settings: ContrastClasses, classes: ImageClasses, activations: ActivationSource,
    neurons: Tensor, for_a: Tensor,
) -> _Described:  # fmt: skip
    """Mine, score and lay out the strongest neurons (n); `for_a` (n) says which class each fires for."""
    rows, places = torch.from_numpy(np.concatenate([classes.a, classes.b])).sort()
    in_a = places < len(classes.a)
    values = columns(activations, neurons)[rows]
    e = reopened.embeddings(reopened.probe)
    exemplars, cold = restricted_exemplars(values, e[rows], in_a, for_a, settings.k)
    texts = reopened.texts
    needed = Resampled(activations, rows) if wants_activations(settings.scorer) else None
    scored = Exemplars(neurons, exemplars.positives, exemplars.activations, exemplars.contrasts, exemplars.similarities)
    scores = run_scorer(settings.scorer, scored, e[rows], texts, needed).cpu()
    won = torch.full(scores.shape, torch.nan, dtype=torch.float64)
    best = scores.nan_to_num(-torch.inf).argmax(1) if scores.shape[1] else torch.zeros(0, dtype=torch.int64)
    asked = torch.unique(best)
    if len(asked):
        won[:, asked] = separates(scored, e[rows], texts[asked])[0]

    def of_run(images: Tensor) -> Tensor:
        return torch.where(images >= 0, rows[images.clamp_min(0)], -1)

    moved = Exemplars(
        neurons, of_run(exemplars.positives), exemplars.activations, of_run(exemplars.contrasts), exemplars.similarities
    )
    sides = (settings.a, settings.b)
    film = [frame for at, n in enumerate(neurons.tolist()) for frame in _film(n, values[:, at], rows, in_a, sides)]
    return _Described(moved, cold, scores, won, film, [_bars(values[:, at], in_a) for at in range(len(neurons))])


def _film(neuron: int, values: Tensor, rows: Tensor, in_a: Tensor, sides: tuple[str, str]) -> list[dict[str, Any]]:
    """Images at evenly spaced quantiles of activation, from the lowest to the highest; ties by lower image."""
    told = values.isfinite().nonzero()[:, 0]
    order = told[values[told].sort(stable=True).indices]
    places = torch.linspace(0, len(order) - 1, min(FRAMES, len(order))).round().long().tolist()
    return [
        {"neuron": neuron, "quantile": place / max(1, len(order) - 1), "image": int(rows[order[place]]),
         "activation": float(values[order[place]]), "side": sides[0] if in_a[order[place]] else sides[1]}
        for place in places
    ]  # fmt: skip


def _bars(values: Tensor, in_a: Tensor) -> dict[str, Any]:
    """How activations are spread in each class, over the same bins."""
    told = values[values.isfinite()]
    low, high = float(told.min()), float(told.max())
    counts = [
        torch.histc(values[of & values.isfinite()].float(), BINS, low, high).int().tolist() for of in (in_a, ~in_a)
    ]
    return {"histogram_a": counts[0], "histogram_b": counts[1], "minimum": low, "maximum": high}


def _of_images(reopened: Reopened, classes: ImageClasses, settings: ContrastClasses) -> dict[str, list[str]]:
    """What the encoder says that the images of the classes differ in, whatever the network does."""
    e = reopened.embeddings(reopened.probe)
    gap = average_row(e[torch.from_numpy(classes.a)]) - average_row(e[torch.from_numpy(classes.b)])
    scores = gap @ reopened.texts.to(gap).T
    most = min(TOP, len(scores))
    return {
        name: [reopened.concepts[c] for c in (sign * scores).topk(most).indices.tolist()]
        for name, sign in ((settings.a, 1), (settings.b, -1))
    }


def _pictures(reopened: Reopened, described: _Described) -> dict[int, bytes]:
    """JPEGs of the images that exemplars and film name: the run's thumbnails, else from the images, if these are
    there."""
    e = described.exemplars
    wanted = {frame["image"] for frame in described.film}
    wanted |= {int(i) for some in (e.positives[:, :SHOWN], e.contrasts[:, :SHOWN]) for i in some.flatten() if i >= 0}
    found = {i: small for i in sorted(wanted) if (small := reopened.run.thumbnail(i)) is not None}
    if lacking := sorted(wanted - found.keys()):
        try:
            picture: Callable[[int], Image | None] = reopened.pictures(lacking)
        except InputError as error:
            reopened.notes.append(f"{len(lacking)} pictures are not shown: {error}")
            return found
        for i in lacking:
            if (image := picture(i)) is not None:
                image.thumbnail((SIDE, SIDE))
                found[i] = jpeg(image.convert("RGB"))
    return found
