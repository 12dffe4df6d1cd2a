"""What a loader of targets hands over, and what loaders share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from contralens.loading.checkpoints import Adapt, Inferred, load_checkpoint, split_choice


@dataclass(slots=True)
class Loaded:
    """A network as a loader hands it over.

    >>> Loaded(nn.Linear(3, 2), classes=["cat", "dog"], default_layer=".", notes=["trained on ten pictures"]).classes
    ['cat', 'dog']
    """

    network: nn.Module
    preprocess: Callable[..., Any] | None = None
    """One RGB image to a tensor or a dict of tensors, or None where the loader knows none."""
    preprocess_note: str = ""
    """Said of `preprocess` where it is used, e.g. that it is that of other weights; or why there is none."""
    classes: Sequence[str] | None = None
    """Names of the classes, where the weights know them."""
    default_layer: str | None = None
    notes: list[str] = field(default_factory=list)
    """What a reader of the run should know, e.g. which weights were taken."""
    suffix: str = ""
    """Added to the target's name, e.g. " (random weights)"."""
    untrained: tuple[str, ...] = ()
    """Names of weights that were not in the source and are random."""
    misfit: str = ""
    """How a checkpoint does not fit: the error to raise where a layer uses weights that are not in it."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """What the network was built with, where that was read off a checkpoint."""


class Loader(Protocol):
    """Loads what is behind "scheme:" in a target's name.

    `weights` is None for the default, "random" for an untrained network (seed 0, nothing is downloaded), or a name of
    weights; `checkpoint` a file with the user's own, whereupon nothing is downloaded either.

    >>> def load(rest, *, weights=None, checkpoint=None):  # "mine:8" calls it with "8"
    ...     return Loaded(nn.Conv2d(3, int(rest), 3), default_layer=".")
    >>> load("8").network.out_channels
    8
    """

    def __call__(self, rest: str, *, weights: str | None = None, checkpoint: str | Path | None = None) -> Loaded: ...


@contextmanager
def seeded() -> Iterator[None]:
    """Seed 0 for whatever a constructor draws, and the user's random state as it was afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def fill(
    loaded: Loaded,
    build: Callable[..., nn.Module],
    checkpoint: str | Path | None,
    what: str,
    *,
    other_heads: bool = True,
    infer: Inferred | None = None,
    adapt: Adapt | None = None,
) -> None:
    """Random weights or those of a checkpoint into `loaded`, and what to say about them; see `load_checkpoint`."""
    if checkpoint is None:
        loaded.network = build(None)
        loaded.suffix = " (random weights)"
        loaded.notes.append("the weights are random (seed 0), for tests only: labels are meaningless")
        return
    filled = load_checkpoint(build, checkpoint, what, other_heads=other_heads, infer=infer, adapt=adapt)
    file, part = split_choice(checkpoint)
    loaded.network, loaded.untrained, loaded.misfit = filled.network, filled.untrained, filled.misfit
    loaded.arguments = filled.arguments
    loaded.suffix = f" (checkpoint {file.name}{f'::{part}' if part else ''})"
    loaded.notes += filled.notes
