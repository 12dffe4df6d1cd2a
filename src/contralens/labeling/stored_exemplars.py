"""What labeling computes once: exemplars of neurons and of null neurons, and text embeddings, kept in the store."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from contralens.data.atomic_files import digest
from contralens.data.store import Store
from contralens.encoders.registry import embed_texts, templates_of
from contralens.math.exemplars import Mined
from contralens.types import Encoder, Exemplars, Progress

MINING_VERSION = "2"
"""Raise it when mining changes its results: what was mined before is then mined again."""


def mined(store: Store, identity: Sequence[str], make: Callable[[], Mined]) -> Mined:
    """What `make` mines, kept under all that it depends on."""

    def arrays() -> dict[str, Any]:
        found = make()
        recall = np.frombuffer(json.dumps(found.recall).encode(), np.uint8)
        return {**_arrays(found.exemplars), "cold": found.cold.numpy(), "recall": recall}

    kept = store.remember("exemplars", MINING_VERSION, *identity).get_or_make(arrays)
    return Mined(_exemplars(kept), _tensor(kept["cold"]), json.loads(kept["recall"].tobytes()))


def fakes(store: Store, identity: Sequence[str], make: Callable[[], Exemplars]) -> Exemplars:
    """The null neurons' exemplars that `make` mines, likewise."""
    return _exemplars(store.remember("fakes", MINING_VERSION, *identity).get_or_make(lambda: _arrays(make())))


def texts(
    store: Store, encoder: Encoder, concepts: Sequence[str], templates: Any, normalise: bool, progress: Progress
) -> Tensor:
    """Text embeddings (C,D), each kept under the encoder, the templates and the text."""
    chosen = templates_of(templates)
    table = store.table("texts", encoder.fingerprint, *chosen, str(normalise))
    keys = [digest(concept) for concept in concepts]
    missing = [i for i, key in enumerate(keys) if key not in table]
    for start in range(0, len(missing), 1024):
        part = missing[start : start + 1024]
        rows = embed_texts(encoder, [concepts[i] for i in part], chosen, normalise)
        table.append([keys[i] for i in part], {"rows": rows.numpy()})
        progress("embedding texts", min(start + 1024, len(missing)), len(missing))
    return torch.from_numpy(table.rows(keys))


def _arrays(exemplars: Exemplars) -> dict[str, Any]:
    return {field.name: getattr(exemplars, field.name).numpy() for field in fields(Exemplars)}


def _exemplars(arrays: Mapping[str, Any]) -> Exemplars:
    return Exemplars(**{field.name: _tensor(arrays[field.name]) for field in fields(Exemplars)})


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array))
