"""What only the rooms below can say of the settings of labeling: whether scorers and neurons are there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from contralens.checks import require
from contralens.data.vocabulary import read_vocabulary
from contralens.encoders.registry import templates_of
from contralens.errors import InputError
from contralens.labeling.proposed_concepts import ready_proposer
from contralens.labeling.ranking import check_ranking
from contralens.math.activation_sources import ActivationSource
from contralens.math.faiss_neighbours import parse_neighbours
from contralens.math.scoring import parse_scorer, wants_decoder
from contralens.math.statistics import select_neurons
from contralens.proposing.candidates import folder_of
from contralens.settings.label import Mine, Score
from contralens.settings.record import Settings, known, settings_of
from contralens.types import AUTO

T = TypeVar("T", bound=Settings)


def ready(settings: T) -> T:
    """Settings after a look at what only the networks' rooms know; vocabulary, candidates and proposer opened.

    Raises:
        InputError: one of them cannot be used, which shows here, before any work.
    """
    if not isinstance(settings, Score):
        return settings
    specs = [spec for spec in settings.specs if spec != AUTO]
    for spec in specs:
        parse_scorer(spec)
    check_ranking(settings.rank_by, settings.crop, settings.specs, getattr(settings, "fdr", None), settings.calibrate)
    blind = [spec for spec in specs if wants_decoder(spec)]
    if blind and getattr(settings, "fdr", None) is not None:
        raise InputError(f"null neurons have no decoder: omit `fdr` or the scorer {blind[0]}")
    templates_of(settings.templates)
    if parse_neighbours(settings.neighbours)[0] != "exact":
        require("faiss", "faiss")
    candidates, proposer, proposing = ready_proposer(settings)
    if proposer is not None and (out := getattr(settings, "out", None)) is not None:
        proposing = {"folder": folder_of(Path(out)), **(proposing or {})}
    words = read_vocabulary(settings.vocabulary)
    return settings.to(type(settings), vocabulary=words, candidates=candidates, proposer=proposer, proposing=proposing)


def changed(settings: Mine, record: type[T], before: type[Settings], changes: Mapping[str, Any]) -> T:
    """The settings of a stage, those of the stage before it with some changed.

    Raises:
        InputError: a change of what an earlier stage has settled, or no setting at all.
    """
    settled = [name for name in changes if name in settings_of(before) and settings_of(before)[name].result]
    if settled:
        raise InputError(f"`{settled[0]}` was fixed by an earlier stage: repeat that stage with the new value")
    known(record, changes, record.__name__.lower())
    return settings.to(record, **changes)


def chosen_neurons(neurons: Any, activations: ActivationSource, status: list[str]) -> Tensor:
    """Indices of the neurons to label: those asked for that have something to tell."""
    ok = torch.tensor([s == "ok" for s in status])
    if isinstance(neurons, str):
        wanted = torch.arange(len(ok)) if neurons == "all" else select_neurons(activations).sort().values
    else:
        wanted = torch.as_tensor(sorted(neurons), dtype=torch.int64)
        if len(wanted) and not (0 <= int(wanted.min()) and int(wanted.max()) < len(ok)):
            raise InputError(f"`neurons` must lie in 0..{len(ok) - 1}; got {int(wanted.min())}..{int(wanted.max())}")
    return wanted[ok[wanted]]
