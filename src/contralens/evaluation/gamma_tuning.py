"""gamma chosen by confidence, not by held-out correlation: that prefers the less true labels where it was tested."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn.functional import normalize

from contralens.data.runs import Run
from contralens.math.confidence import Weighed
from contralens.math.intervals import mean_interval
from contralens.math.scorer_panel import PANEL, ballot
from contralens.math.tensors import blocks
from contralens.run_data.reopened import Reopened

GAMMAS = (0.0, 0.25, 0.5, 0.75, 1.0)
DEFAULT = 1.0
"""The gamma that stays unless another one is better beyond doubt."""


def tuned(
    reopened: Reopened, per: Literal["layer", "neuron"] = "layer", gammas: tuple[float, ...] = GAMMAS
) -> tuple[Run, str, dict[str, Any]]:
    """The run with CSP at the gamma whose labels are most likely right, per layer or per neuron.

    How likely the label at each gamma is right is its confidence (`contralens.math.confidence`), from the probe images
    alone. Per layer, another gamma than 1 is taken only where the mean confidence gains by it, with a 95 % interval
    over neurons, paired, that excludes 0; per neuron, each takes the gamma with the highest confidence, 1 on ties. That
    gained nothing in new worlds (docs/evaluation.md), so its labels stay in the evaluation.

    Returns:
        The run with one scorer more (unless it has it already), that scorer, and how the choice was made. Per layer
        the scorer is a plain one, such as "csp:gamma=0.5"; per neuron it is called "csp:gamma=neuron".
    """
    run, exemplars = reopened.run, reopened.exemplars
    first, second, texts = (
        torch.from_numpy(np.array(run.vectors[v])) for v in ("positive_mean", "contrast_mean", "texts")
    )
    best = [_top(first - g * second, texts, 1)[1][:, 0] for g in gammas]
    a, e = reopened.activations(reopened.probe), reopened.embeddings(reopened.probe)
    panel = {spec: ballot(spec, exemplars, e, texts, a) for spec in PANEL}
    weighed = Weighed.of(panel, best, exemplars, a, e, texts)
    sure = torch.stack([weighed.of_label(labels)[1] for labels in best])  # (S,N)
    usual = gammas.index(DEFAULT)
    gains = [mean_interval((row - sure[usual]).numpy()) for row in sure]
    details: dict[str, Any] = {
        "per": per,
        "chosen by": "confidence",
        "mean confidence": {f"{g:g}": float(v.nanmean()) for g, v in zip(gammas, sure, strict=True)},
        "gain over 1": {f"{g:g}": [i.low, i.high] for g, i in zip(gammas, gains, strict=True) if g != DEFAULT},
    }
    if per == "layer":
        better = [s for s, i in enumerate(gains) if i.low > 0]
        chosen = max(better, key=lambda s: gains[s].mean) if better else usual
        choice = torch.full((len(exemplars),), chosen)
        scorer = f"csp:gamma={gammas[chosen]:g}"
        details["gamma"] = gammas[chosen]
    else:
        known = sure.nan_to_num(-1.0)
        choice = torch.where(known.amax(0) > known[usual], known.argmax(0), usual)
        scorer = "csp:gamma=neuron"
        reopened.notes.append(
            "a gamma for each neuron names no more right labels than gamma 1 where that was measured; to let "
            "confidence choose, label with --scorer auto"
        )
        counts = torch.bincount(choice, minlength=len(gammas)).tolist()
        details["neurons at each gamma"] = {f"{g:g}": n for g, n in zip(gammas, counts, strict=True)}
    details["scorer"] = scorer
    if scorer in run.scorers or (scorer == "csp:gamma=1" and "csp" in run.scorers):
        details["scorer"] = scorer = scorer if scorer in run.scorers else "csp"
        return run, scorer, details
    vectors = first - torch.tensor(gammas)[choice][:, None] * second
    return _with(run, scorer, vectors, texts, exemplars.neurons.tolist(), reopened.concepts), scorer, details


def _top(vectors: Tensor, texts: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` best concepts of each vector by cosine, (N,D),(C,D): scores and indices, (N,count) each."""
    parts = [
        (normalize(vectors[block], dim=1) @ texts.T).nan_to_num(-torch.inf).topk(count, dim=1)
        for block in blocks(len(vectors), 8 * len(texts))
    ]
    if not parts:
        return torch.empty(0, count), torch.empty(0, count, dtype=torch.int64)
    return torch.cat([p.values for p in parts]), torch.cat([p.indices for p in parts])


def _with(run: Run, scorer: str, vectors: Tensor, texts: Tensor, neurons: list[int], concepts: list[str]) -> Run:
    """The run with the labels of one more scorer, as many concepts a neuron as the others have."""
    top = max((len(some or []) for some in run.labels["concepts"].to_pylist()), default=1)
    values, order = _top(vectors, texts, min(max(1, top), len(texts)))
    place = {n: row for row, n in enumerate(neurons)}
    rows = []
    for row in run.rows():
        at = place.get(row["neuron"])
        if at is not None and row["label"] is not None:
            names = [concepts[c] for c in order[at].tolist()]
            row = {**row, "label": names[0], "score": float(values[at, 0]), "concepts": names}
            row["scores"] = values[at].tolist()
        rows.append({**row, "scorer": scorer})
    labels = pa.concat_tables([run.labels, pa.Table.from_pylist(rows, schema=run.labels.schema)])
    return replace(run, labels=labels, manifest={**run.manifest, "scorers": [*run.scorers, scorer]})
