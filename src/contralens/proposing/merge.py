"""What all proposals go through at the end: near-synonyms become one concept, and each keeps its provenance."""

from __future__ import annotations

from typing import Any

from contralens.proposing.candidates import Candidates
from contralens.types import Encoder


def gather(
    proposals: list[dict[str, Any]],
    errors: list[dict[str, Any]],
    manifest: dict[str, Any],
    encoder: Encoder | None,
    merge: float | None,
) -> Candidates:
    """Proposals as candidates: equal texts are one concept, and near-synonyms too where an encoder shows them.

    Of texts that count as one, that with the most proposals stays (ties: the first proposed). A text that the encoder
    refuses to read is no candidate: it could not be scored either. The manifest lists these.
    """
    unreadable: dict[str, str] = {}
    times: dict[str, int] = {}
    for p in proposals:
        times[p["text"]] = times.get(p["text"], 0) + 1
    order = sorted(times, key=lambda text: -times[text])
    if encoder is not None and order:
        from contralens.encoders.registry import read_texts

        rows, unreadable = read_texts(encoder, order)
        order = [text for text in order if text not in unreadable]
        proposals, gone = [p for p in proposals if p["text"] not in unreadable], proposals
        left = {p["neuron"] for p in proposals}
        for p in gone:
            if p["neuron"] not in left:
                left.add(p["neuron"])
                why = f"the encoder reads none of its candidates: {unreadable[p['text']]}"
                errors = [*errors, {"neuron": p["neuron"], "name": p["name"], "error": why, "reply": p["reply"]}]
    concept, cosine = {text: text for text in order}, dict.fromkeys(order, 1.0)
    if encoder is not None and merge is not None and len(order) > 1:
        from contralens.math.caption_concepts import merge_near

        counts_as, near = merge_near(rows, merge)
        for i, text in enumerate(order):
            concept[text], cosine[text] = order[int(counts_as[i])], float(near[i])
    provenance = [
        {
            "concept": concept[p["text"]],
            "cosine": None if concept[p["text"]] == p["text"] else round(cosine[p["text"]], 4),
            **p,
        }
        for p in proposals
    ]
    merged = sum(concept[text] != text for text in order)
    manifest = {
        **manifest,
        "merge": {"threshold": merge, "encoder": encoder.name if encoder is not None else None, "merged": merged},
        "unreadable": unreadable,
        "neurons": {"answered": len({p["neuron"] for p in proposals}), "failed": len(errors)},
    }
    return Candidates(list(dict.fromkeys(p["concept"] for p in provenance)), provenance, errors, manifest)
