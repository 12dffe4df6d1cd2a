"""The arguments of `label`, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor

from contralens.checks import as_path, as_share, as_text, distinct, nearest, shown, whole
from contralens.errors import InputError
from contralens.math.confidence import AUTO
from contralens.math.exemplars import select_neurons
from contralens.math.fakes import MOST_FAKES
from contralens.math.scorers import SCORERS
from contralens.math.scoring import parse_scorer
from contralens.math.sources import ActivationSource
from contralens.models.targets import target

WHOLE = {"k": 1, "top": 1, "batch_size": 1, "fakes": 1, "seed": -(2**63), "workers": 1, "limit": 1, "per_group": 1}
"""Whole numbers among the arguments, and the least that each may be."""
TEXTS = {"layer", "pooling", "sae_pooling", "neighbours"}
PATHS = {"out", "cache"}
MAY_BE_NONE = {"workers", "limit", "exclude", "fdr", "layer", "pooling", "sae_pooling", "out", "cache"}
TARGET_OPTIONS = frozenset(
    name for name, p in signature(target).parameters.items() if p.kind is Parameter.KEYWORD_ONLY
)  # fmt: skip


def check_arguments(**given: Any) -> None:
    """Refuse what is not of the right kind; None stands for what was not given, where that may be.

    Raises:
        InputError: one line that names the argument.

    >>> check_arguments(k=30, workers=None, exclude=0.95, layer="block3")
    """
    for name, value in given.items():
        if value is None and name in MAY_BE_NONE:
            continue
        if name in TEXTS:
            as_text(name, value)
        elif name in PATHS:
            as_path(name, value)
        elif name == "fakes":
            whole(name, value, WHOLE[name], MOST_FAKES)
        elif name in WHOLE:
            whole(name, value, WHOLE[name], 2**63 - 1 if name == "seed" else 2**31 - 1)
        else:
            as_share(name, value, zero=name == "holdout", one=name == "exclude")


def wanted_neurons(given: Any) -> Any:
    """ "all", "paper", or distinct indices in rising order.

    >>> wanted_neurons([5, 0, 5])
    [0, 5]
    """
    if isinstance(given, str):
        if given not in ("all", "paper"):
            raise InputError(f'`neurons` must be "all", "paper" or indices; got {shown(given)}')
        return given
    return sorted(distinct("neurons", given))


def wanted_scorers(given: Any) -> list[str]:
    """Names of scorers with their options, each checked.

    >>> wanted_scorers("csp:gamma=0.5")
    ['csp:gamma=0.5']
    """
    specs = [given] if isinstance(given, str) else list(given) if isinstance(given, Sequence) else []
    if not specs:
        raise InputError(f"`scorers` must name some of {', '.join([*SCORERS, AUTO])}; got {shown(given)}")
    for spec in specs:
        if as_text("scorers", spec) != AUTO:
            parse_scorer(spec)
    return specs


def known_options(given: Mapping[str, Any]) -> None:
    """Refuse keywords of `label` that neither it nor `contralens.target` takes."""
    from contralens.labeling.label import label

    for name in given:
        if name not in TARGET_OPTIONS:
            known = {*TARGET_OPTIONS, *signature(label).parameters} - {"target_options"}
            raise InputError(f"`label` takes no `{name}`{nearest(name, known)} (known: {', '.join(sorted(known))})")


def chosen_neurons(neurons: Any, activations: ActivationSource, status: list[str]) -> Tensor:
    """Indices of the neurons to label: those asked for that have something to tell."""
    ok = torch.tensor([s == "ok" for s in status])
    if isinstance(neurons, str):
        wanted = torch.arange(len(ok)) if neurons == "all" else select_neurons(activations).sort().values
    else:
        wanted = torch.as_tensor(neurons, dtype=torch.int64)
        if len(wanted) and not (0 <= int(wanted.min()) and int(wanted.max()) < len(ok)):
            raise InputError(f"`neurons` must lie in 0..{len(ok) - 1}; got {int(wanted.min())}..{int(wanted.max())}")
    return wanted[ok[wanted]]
