"""The tables of a run as the explorer reads them: which there are, which columns they must have, and of which kinds."""

from __future__ import annotations

import pyarrow as pa

from contralens.data import audits
from contralens.data.evaluations import SUMMARY, VALUES, VERDICTS
from contralens.errors import RunError

_N, _I, _F, _T = pa.int32(), pa.int64(), pa.float64(), pa.string()

NEEDED = {
    "neurons": {"neuron": _N, "name": _T, "status": _T},
    "labels": {"neuron": _N, "scorer": _T, "status": _T, "label": _T, "score": _F, "concepts": pa.list_(_T),
               "scores": pa.list_(_F)},
    "exemplars": {"neuron": _N, "rank": _N, "positive": _N, "activation": _F, "contrast": _N, "contrast_activation": _F,
                  "similarity": _F},
    "images": {"index": _N, "id": _T},
}  # fmt: skip
"""Tables without which there is nothing to show, and the columns that must be there."""

OPTIONAL = {
    "concepts": ("concepts.parquet", {"concept": _T, "source": _T}, "where each concept came from"),
    "values": ("evaluation/values.parquet", {"neuron": _N, "scorer": _T, "metric": _T, "value": _F},
               "evaluation figures"),
    "summary": ("evaluation/summary.parquet", {"scorer": _T, "metric": _T, "mean": _F, "low": _F, "high": _F},
                "the summary of an evaluation"),
    "verdicts": ("evaluation/verdicts.parquet", {"neuron": _N, "scorer": _T, "fdr": _F}, "the null test of labels"),
    "candidates": ("candidates.parquet", {"neuron": _N, "concept": _T}, "candidate labels and who proposed them"),
    "classes": ("classes.parquet", {"neuron": _N, "class": _T, "weight": _F}, "the classes that a neuron feeds"),
    "maps": ("maps.parquet",
             {"neuron": _N, "image": _N, "height": _N, "width": _N, "map": pa.binary(), "box": pa.list_(_F),
              "aspect": _F}, "activation maps over the images"),
    "layout": ("layout.parquet", {"neuron": _N, "x": _F, "y": _F}, "neurons laid out by UMAP"),
    "audit": ("audit/neurons.parquet",
              {f.name: f.type for f in audits.NEURONS if f.name not in audits.NEW}, "the audit"),
    "influence": ("audit/influence.parquet", dict(zip(audits.INFLUENCE.names, audits.INFLUENCE.types, strict=True)),
                  "what audited neurons do to the classes"),
    "pruning": ("audit/pruning.parquet",
                {f.name: f.type for f in audits.PRUNING}, "the effect of pruning"),
    "experiments": ("verification/labels.parquet",
                    {"neuron": _N, "label": _T, "outcome": _T, "reason": _T, "editor": _T, "instead_of": _T,
                     "remove": _F, "insert": _F, "remove_images": _N, "insert_images": _N}, "experiments on labels"),
    "edited": ("verification/pictures.parquet",
               {"neuron": _N, "label": _T, "kind": _T, "before": pa.binary(), "after": pa.binary(), "was": _F,
                "became": _F}, "pictures of experiments"),
    "steered": ("verification/inside.parquet",
                {"neuron": _N, "label": _T, "layer": _T, "outcome": _T, "reason": _T, "remove": _F, "insert": _F,
                 "class": _T, "change": _F, "beyond": _F}, "results of steering the network"),
}  # fmt: skip
"""Tables that a page shows when they are there, and says so when they are not."""

OF_AUDIT = ("audit", "influence", "pruning")
_FURTHER = {
    "neurons": {"histogram": pa.list_(_F), "histogram_edges": pa.list_(_F), "minimum": _F, "maximum": _F},
    "labels": {"p": _F, "fdr": _F, "confidence": _F, "reasons": pa.list_(_T)},
    "images": {"label": _T, "fingerprint": _T},
    "classes": {"adds": _F},
    "audit": {name: audits.NEURONS.field(name).type for name in audits.NEW},
    "values": {f.name: f.type for f in VALUES},
    "summary": {f.name: f.type for f in SUMMARY},
    "verdicts": {f.name: f.type for f in VERDICTS},
}
"""Columns that have a kind, where they are there."""
QUIET = ("concepts", "summary", "verdicts", "layout", "influence", "pruning", "edited", "steered")
"""Missing tables that are not reported, since another table of the same command is."""

WHY = {
    "audit": "not audited yet; run `contralens audit RUN --concepts dermoscopy`, or use your own list",
    "experiments": "not tested yet; run `contralens verify`",
    "values": "not evaluated yet; run `contralens evaluate`",
    "candidates": "none proposed yet; run `contralens propose`",
    "maps": "run `contralens maps` to add them, if the layer has spatial positions",
    "classes": "run `contralens maps` to add them, if one linear layer connects the neurons to the classes",
}


def schema_of(name: str, given: pa.Schema) -> pa.Schema:
    """The columns of a table that are read, each of its kind; of columns that are not known, only plain ones.

    Raises:
        RunError: a column is missing.
    """
    columns = NEEDED[name] if name in NEEDED else OPTIONAL[name][1]
    if lacking := [column for column in columns if column not in given.names]:
        raise RunError(f"it has no column {', '.join(lacking)}")
    kinds = {**_FURTHER.get(name, {}), **columns}
    if name in OF_AUDIT:
        return pa.schema({n: kind for n, kind in kinds.items() if n in given.names})
    plain = {f.name: f.type for f in given if f.name not in kinds and _plain(f.type)}
    return pa.schema({**{n: kind for n, kind in kinds.items() if n in given.names}, **plain})


def _plain(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind):
        kind = kind.value_type
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return bool(is_number or pa.types.is_boolean(kind) or pa.types.is_string(kind))


def checked(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A batch brought to `schema`.

    Raises:
        pa.ArrowInvalid: a value does not fit, a text is no text, or a row belongs to no neuron.
    """
    made = batch.select(schema.names).cast(schema)
    made.validate(full=True)
    if "neuron" in schema.names and made["neuron"].null_count:
        raise pa.ArrowInvalid("a row belongs to no neuron")
    return made
