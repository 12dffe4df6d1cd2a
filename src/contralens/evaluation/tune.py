"""gamma chosen by held-out correlation: on the validation part of the held-out images, never on the test part."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn.functional import normalize

from contralens.data.runs import Run
from contralens.math.metrics import pearson
from contralens.math.simulation import choose
from contralens.math.sources import columns
from contralens.math.tensors import blocks
from contralens.models.encoders import embed_texts
from contralens.reopen import Reopened
from contralens.types import Encoder

GAMMAS = (0.0, 0.25, 0.5, 0.75, 1.0)


def tuned(
    reopened: Reopened,
    judge: Encoder,
    per: Literal["layer", "neuron"] = "layer",
    gammas: tuple[float, ...] = GAMMAS,
) -> tuple[Run, str, dict[str, Any]]:
    """The run with CSP at the gamma that the judge likes best, per layer or per neuron.

    A neuron's labels at every gamma are scored by the correlation of its activations with the judge's cosines over the
    validation images; per layer, the gamma with the largest mean wins.

    Returns:
        The run with one scorer more (unless it has it already), that scorer, and how the choice was made. Per layer
        the scorer is a plain one, such as "csp:gamma=0.5"; per neuron it is called "csp:gamma=neuron".
    """
    run = reopened.run
    neurons = reopened.exemplars.neurons
    first, second, texts = (
        torch.from_numpy(np.array(run.vectors[v])) for v in ("positive_mean", "contrast_mean", "texts")
    )
    best = torch.stack([_top(first - g * second, texts, 1)[1][:, 0] for g in gammas])  # (S,N)
    used, place = torch.unique(best, return_inverse=True)
    rows = embed_texts(judge, [reopened.concepts[c] for c in used.tolist()], run.manifest["templates"])
    e, source = reopened.embeddings(reopened.validation, judge), reopened.activations(reopened.validation)
    held_out = torch.empty(len(gammas), len(neurons), dtype=torch.float64)
    for block in blocks(len(neurons), 64 * len(e)):
        a = columns(source, neurons[block])
        for s in range(len(gammas)):
            held_out[s, block] = pearson(a, e @ rows[place[s, block]].T)
    choice = choose(held_out, per)
    details: dict[str, Any] = {
        "per": per,
        "validation images": len(reopened.validation),
        "judge": judge.name,
        "validation correlation": {f"{g:g}": float(v.nanmean()) for g, v in zip(gammas, held_out, strict=True)},
    }
    if per == "layer":
        scorer = f"csp:gamma={gammas[int(choice[0])]:g}" if len(choice) else "csp"
        details["gamma"] = gammas[int(choice[0])] if len(choice) else None
    else:
        scorer = "csp:gamma=neuron"
        counts = torch.bincount(choice, minlength=len(gammas)).tolist()
        details["neurons at each gamma"] = {f"{g:g}": n for g, n in zip(gammas, counts, strict=True)}
    details["scorer"] = scorer
    if scorer in run.scorers or (scorer == "csp:gamma=1" and "csp" in run.scorers):
        details["scorer"] = scorer = scorer if scorer in run.scorers else "csp"
        return run, scorer, details
    vectors = first - torch.tensor(gammas)[choice][:, None] * second
    return _with(run, scorer, vectors, texts, neurons.tolist(), reopened.concepts), scorer, details


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
