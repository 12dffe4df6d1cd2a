"""The tables of a run, from what was collected, mined and scored."""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from contralens.collecting.collect import Collected
from contralens.collecting.streaming import RecomputedActivations
from contralens.data.groups import ImageGroups
from contralens.data.runs import LABELS, VECTORS
from contralens.data.vocabulary import Vocabulary
from contralens.labeling.crops import Crops
from contralens.math.activation_sources import ActivationSource
from contralens.math.concept_vectors import contrast_parts
from contralens.math.confidence import Weighed
from contralens.math.exemplar_statistics import clarity
from contralens.math.exemplars import Mined
from contralens.math.histograms import histograms
from contralens.math.null_test import Chance
from contralens.math.ranking import Best
from contralens.math.statistics import NeuronStatistics
from contralens.types import Exemplars, Target


def neuron_table(
    model: Target,
    statistics: NeuronStatistics,
    status: list[str],
    chosen: Tensor,
    activations: ActivationSource,
    clear: Tensor,
) -> pa.Table:
    selected = np.zeros(len(status), bool)
    selected[chosen.numpy()] = True
    if isinstance(activations, RecomputedActivations):
        counts = activations.histograms()
    else:
        counts = histograms(activations, statistics.minimum, statistics.maximum)
    return pa.table(
        {
            "neuron": pa.array(range(len(status)), pa.int32()),
            "name": pa.array(list(model.neurons), pa.string()),
            "status": pa.array(status, pa.string()),
            "mean": statistics.mean.numpy(),
            "minimum": statistics.minimum.double().numpy(),
            "maximum": statistics.maximum.double().numpy(),
            "firing_rate": statistics.firing.double().numpy() / activations.shape[0],
            "clarity": _clarities(len(status), chosen, clear),
            "selected": selected,
            "histogram": pa.array(counts.tolist(), pa.list_(pa.int64())),
        }
    )


def label_table(
    model: Target,
    status: list[str],
    chosen: Tensor,
    best: Mapping[str, Best],
    concepts: Sequence[str],
    chances: Mapping[str, Chance],
    fdr: float | None,
    weighed: Weighed | None = None,
) -> pa.Table:
    """One row per neuron asked for and scorer: its best concepts, and how likely the best one is right.

    A label whose false-discovery rate is above `fdr` is rejected: the status is "chance", label and score are null,
    and `concepts` and `scores` still tell what was rejected.
    """
    place = torch.full((len(status),), -1)  # the last row, which is an empty one
    place[chosen] = torch.arange(len(chosen))
    wanted = [n for n, at in enumerate(place.tolist()) if at >= 0 or status[n] != "ok"]
    concept_of = {spec: pad(b.concepts, (0, 0, 0, 1), value=-1) for spec, b in best.items()}
    score_of = {spec: pad(b.scores, (0, 0, 0, 1), value=torch.nan) for spec, b in best.items()}
    trust = {spec: _trust(weighed, b) for spec, b in best.items()}
    rates = {spec: pad(torch.stack([told.p, told.q], 1), (0, 0, 0, 1)) for spec, told in chances.items()}
    parts = []
    for start in range(0, len(wanted), 4096):
        some, rows = wanted[start : start + 4096], []
        at = place[some]
        here = {spec: (concept_of[spec][at].tolist(), score_of[spec][at].tolist()) for spec in best}
        told = {spec: rates[spec][at].tolist() for spec in rates}
        for row, n in enumerate(some):
            for spec, (ranked, values) in here.items():
                kept = [(concepts[c], v) for c, v in zip(ranked[row], values[row], strict=True) if c >= 0]
                p, q = told[spec][row] if kept and spec in told else (None, None)
                word = "ok" if kept else "nan"
                if q is not None and fdr is not None and not q <= fdr:
                    word = "chance"
                label, score = kept[0] if word == "ok" else (None, None)
                sure, why = trust[spec](at[row]) if kept else (None, None)
                rows.append({
                    "neuron": n, "name": model.neurons[n], "scorer": spec,
                    "status": word if status[n] == "ok" else status[n],
                    "label": label, "score": score, "concepts": [c for c, _ in kept], "scores": [v for _, v in kept],
                    "p": p, "fdr": q, "confidence": sure, "reasons": why,
                })  # fmt: skip
        parts.append(pa.Table.from_pylist(rows, schema=LABELS))
    return pa.concat_tables(parts or [LABELS.empty_table()]).combine_chunks()


def _trust(weighed: Weighed | None, best: Best) -> Callable[[Tensor], tuple[float | None, list[str] | None]]:
    """A labeled neuron's row to the confidence of its label and the reasons; nothing where none was asked for."""
    if weighed is None:
        return lambda row: (None, None)
    place, confidence = weighed.of_label(best.labels)
    reasons, sure = weighed.reasons(place), [None if p != p else p for p in confidence.tolist()]
    return lambda row: (sure[int(row)], reasons[int(row)] if sure[int(row)] is not None else None)


def exemplar_table(mined: Mined, crops: Crops | None = None) -> pa.Table:
    """One row per neuron and rank; with crops also what was seen of both images, as shares of their sides."""
    exemplars = mined.exemplars
    n, k = exemplars.positives.shape
    boxes = {} if crops is None else {
        f"{side}_box": pa.array([None if math.isnan(box[0]) else box for box in own.reshape(-1, 4).tolist()],
                                pa.list_(pa.float32(), 4))
        for side, own in crops.boxes.items()
    }  # fmt: skip
    return pa.table(
        {
            "neuron": pa.array(exemplars.neurons.repeat_interleave(k).numpy(), pa.int32()),
            "rank": pa.array(np.tile(np.arange(k, dtype=np.int32), n)),
            "positive": exemplars.positives.reshape(-1).numpy(),
            "activation": exemplars.activations.reshape(-1).numpy(),
            "contrast": exemplars.contrasts.reshape(-1).numpy(),
            "contrast_activation": mined.cold.reshape(-1).numpy(),
            "similarity": exemplars.similarities.reshape(-1).numpy(),
            **boxes,
        }
    )


def with_crops(tables: Mapping[str, pa.Table], mined: Mined, crops: Crops) -> dict[str, pa.Table]:
    """The tables of what was mined, with the boxes of crops, and how alike the crops are in place of the pictures."""
    neurons = tables["neurons"]
    clear = _clarities(len(neurons), mined.exemplars.neurons, clarity(crops.exemplars, crops.embeddings))
    at = neurons.schema.get_field_index("clarity")
    return {
        **tables, "neurons": neurons.set_column(at, "clarity", clear), "exemplars": exemplar_table(mined, crops),
    }  # fmt: skip


def _clarities(neurons: int, chosen: Tensor, clear: Tensor) -> pa.Array:
    out = np.full(neurons, np.nan)
    out[chosen.numpy()] = clear.cpu().numpy()
    return pa.array(out, from_pandas=True)


def image_table(probe: Any, collected: Collected, groups: ImageGroups | None) -> pa.Table:
    labels = getattr(probe, "labels", None)
    columns = {
        "index": pa.array(range(len(collected.usable)), pa.int64()),
        "id": pa.array([probe.ids[i] for i in collected.usable], pa.string()),
        "fingerprint": pa.array(collected.fingerprints, pa.string()),
        "label": pa.array([labels[i] if labels else None for i in collected.usable], pa.string()),
    }
    if groups is not None:
        columns["group"] = pa.array([groups.names[i] for i in collected.usable], pa.string())
    return pa.table(columns)


def concept_table(words: Vocabulary, concepts: Sequence[str]) -> pa.Table:
    """The vocabulary, and after it what was proposed."""
    proposed = len(concepts) - len(words.concepts)
    return pa.table(
        {"concept": list(concepts), "source": [words.source] * len(words.concepts) + ["proposed"] * proposed}
    )


def vectors(exemplars: Exemplars, embeddings: Tensor, texts: Tensor) -> dict[str, np.ndarray]:
    """What a run keeps so that CSP's score at any gamma is available from it."""
    parts = (*contrast_parts(exemplars, embeddings), texts)
    return dict(zip(VECTORS, (part.float().cpu().numpy() for part in parts), strict=True))


def thumbnail_table(exemplars: Exemplars, collected: Collected) -> pa.Table:
    used = np.unique(np.concatenate([exemplars.positives.numpy(), exemplars.contrasts.numpy()]))
    wanted = list(dict.fromkeys(collected.fingerprints[i] for i in used.tolist() if i >= 0))
    pictures = collected.thumbnails.blobs(wanted)
    return pa.table(
        {"fingerprint": pa.array(wanted, pa.string()), "jpeg": pa.array([pictures[f] for f in wanted], pa.binary())}
    )


def picture_notes(thumbnails: pa.Table) -> list[str]:
    """What was done to the values of pictures that exemplars name (scaled, stretched, a window), counted by kind.

    The note of a picture travels in its thumbnail, as the JPEG's comment.
    """
    told: Counter[str] = Counter()
    for jpeg in thumbnails["jpeg"].to_pylist():
        comment = Image.open(io.BytesIO(jpeg)).info.get("comment")
        if comment:
            told[comment.decode("utf-8", "replace")] += 1
    kinds: dict[str, list[str]] = {}
    for note in told:
        kinds.setdefault(re.sub(r"-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?", "#", note), []).append(note)
    total = thumbnails.num_rows
    return [
        f"{sum(told[note] for note in notes)} of {total} pictures of exemplars and contrasts: {notes[0]}"
        + ("" if len(notes) == 1 else ", or the like")
        for notes in kinds.values()
    ]
