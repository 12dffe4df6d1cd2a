"""Labels in the shape of Neuronpedia's exports, which an own Neuronpedia imports. Needs no torch.

OUT/
    config/       explanation_type, explanation_model_type, explanation_score_type, explanation_score_model (.jsonl):
                  what the rows below refer to
    MODEL/SOURCE/
        features/batch-0.jsonl.gz ...       a row per neuron: index, maxActApprox, frac_nonzero, histogram
        explanations/batch-0.jsonl.gz ...   a row per neuron and scorer with a label
        scores/batch-0.jsonl.gz ...         confidence and score of each explanation

Names of fields are those of Neuronpedia's tables Neuron, Explanation and ExplanationScore, as its exports and the
schema in its repository have them (https://docs.neuronpedia.org/api-and-data/exports, looked up 2026-11-28). The index
of a neuron is a text there. Models and sources themselves are not written: an import needs them to exist.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from contralens.checks import as_texts
from contralens.data.added_files import write_listed
from contralens.data.final_labels import CORRECTED, final
from contralens.data.runs import Run
from contralens.data.table_folders import plain
from contralens.sharing.local_paths import anonymous

BATCH = 1024
"""Rows of a file, as Neuronpedia exports them."""
LIST = "contralens-neuronpedia.json"
"""Lists what was written, so that a later export replaces it and nothing else."""
CREATOR = "contralens"
WORDS = "A scorer of contralens: words that fit a neuron's images."
EYES = "Image-text encoder that compared images with words."
TRUST = "How likely the label is right (confidence), or what its scorer gave it (score)."


def write_neuronpedia(
    run: Run, out: str | Path, *, model: str | None = None, source: str | None = None, author: str = CREATOR,
    scorers: Sequence[str] | None = None,
) -> Path:  # fmt: skip
    """Write the labels of a run, as finally judged, as a Neuronpedia export; which folder holds them.

    Args:
        run: a finished run.
        out: the folder; files of ours there are replaced, others stay.
        model: Neuronpedia's name of the model; by default made of the target's.
        source: its name of the source (the layer, or the SAE); by default made of the layer's.
        author: id of the user there who stands as author.
        scorers: whose labels; by default the primary scorer's.

    Raises:
        InputError: the run has no such scorer; the folder holds a file that is in the way.
        StoreError: it cannot be written.

    >>> import contralens
    >>> folder = write_neuronpedia(contralens.load("run"), "neuronpedia", model="world-1")
    >>> folder.as_posix(), sorted(part.name for part in folder.iterdir())
    ('neuronpedia/world-1/block3', ['explanations', 'features', 'scores'])
    """
    judged = final(run)
    chosen = [run.manifest["primary"]] if scorers is None else as_texts("scorers", scorers)
    model, source = model or slug(_name(run, "target")), source or slug(run.manifest["target"]["layer"])
    place = {"modelId": model, "layer": source}
    explanations: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    for scorer in chosen:
        for row in judged.rows(scorer):
            if row["label"] is not None:
                made = _explanation(row, scorer, place, run, author)
                explanations.append(made)
                scores += _scores(row, made, author)
    below = f"{model}/{source}"
    files = {
        **_batches(f"{below}/features", (_feature(row, place, author) for row in run.neurons.to_pylist())),
        **_batches(f"{below}/explanations", iter(explanations)),
        **_batches(f"{below}/scores", iter(scores)),
        **_config(explanations, scores, author),
    }
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    write_listed(folder, LIST, {"format": 1, "model": model, "source": source}, files)
    return folder / model / source


def slug(name: str) -> str:
    """A name as it may be in an address.

    >>> slug("timm:resnet50.a1_in1k (fine-tuned)"), slug("layer4")
    ('timm-resnet50.a1_in1k-fine-tuned', 'layer4')
    """
    return re.sub(r"[^\w.]+", "-", name).strip("-.") or "unnamed"


def _name(run: Run, of: str) -> str:
    """A network's name without the folders of this machine."""
    return str(anonymous(run.manifest[of]["name"]))


def _id(*parts: object) -> str:
    """An id that is the same for the same explanation: a letter and 24 hex digits, as long as theirs."""
    return "c" + hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:24]


def _explanation(row: dict[str, Any], scorer: str, place: dict[str, str], run: Run, author: str) -> dict[str, Any]:
    person = row["status"] == CORRECTED
    notes = ["corrected by a person"] if person else list(row.get("reasons") or [])
    return {
        "id": _id(place, row["neuron"], scorer), **place, "index": str(row["neuron"]), "authorId": author,
        "description": row["label"], "embedding": None, "typeName": "human" if person else f"{CREATOR}_{slug(scorer)}",
        "explanationModelName": None if person else slug(_name(run, "encoder")),
        "notes": "; ".join(filter(None, [row["name"], *notes, row.get("experiment")])),
    }  # fmt: skip


def _scores(row: dict[str, Any], explanation: dict[str, Any], author: str) -> Iterator[dict[str, Any]]:
    """How likely the label is right, and what its scorer gave it; nothing where that is not known."""
    for kind in ("confidence", "score"):
        if row.get(kind) is not None and explanation["explanationModelName"] is not None:
            details = {name: row.get(name) for name in ("p", "fdr", "concepts", "scores")}
            yield {
                "id": _id(explanation["id"], kind), "explanationId": explanation["id"], "value": row[kind],
                "explanationScoreTypeName": f"{CREATOR}_{kind}", "initiatedByUserId": author,
                "explanationScoreModelName": explanation["explanationModelName"],
                "jsonDetails": json.dumps(plain(details)),
            }  # fmt: skip


def _feature(row: dict[str, Any], place: dict[str, str], author: str) -> dict[str, Any]:
    counts, low, high = row.get("histogram") or [], row.get("minimum"), row.get("maximum")
    middles = []
    if counts and low is not None and high is not None and high > low:
        middles = [low + (i + 0.5) * (high - low) / len(counts) for i in range(len(counts))]
    return {
        **place, "index": str(row["neuron"]), "creatorId": author, "maxActApprox": high,
        "frac_nonzero": row.get("firing_rate") or 0.0,
        "freq_hist_data_bar_heights": counts if middles else [], "freq_hist_data_bar_values": middles,
    }  # fmt: skip


def _config(explanations: Sequence[dict[str, Any]], scores: Sequence[dict[str, Any]], author: str) -> dict[str, bytes]:
    """The types and models that explanations and scores name."""
    about = {
        "explanation_type": (explanations, "typeName", WORDS, True),
        "explanation_model_type": (explanations, "explanationModelName", EYES, False),
        "explanation_score_type": (scores, "explanationScoreTypeName", TRUST, True),
        "explanation_score_model": (scores, "explanationScoreModelName", EYES, False),
    }
    out = {}
    for name, (rows, key, text, owned) in about.items():
        names = dict.fromkeys(row[key] for row in rows if row[key] is not None)
        made = [
            {"name": one, "displayName": one, "description": text, "creatorName": CREATOR}
            | ({"creatorId": author} if owned else {})
            for one in names
        ]
        out[f"config/{name}.jsonl"] = _lines(made)
    return out


def _batches(folder: str, rows: Iterator[dict[str, Any]]) -> dict[str, bytes]:
    every = list(rows)
    parts = [every[start : start + BATCH] for start in range(0, len(every), BATCH)]
    return {f"{folder}/batch-{i}.jsonl.gz": gzip.compress(_lines(part), mtime=0) for i, part in enumerate(parts)}


def _lines(rows: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(plain(row), ensure_ascii=False) + "\n" for row in rows).encode()
