"""Scorers by name or function, with their options: read, and run on all concepts or on some at a time."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from contralens.errors import InputError
from contralens.math.ranking import Columns, Scorer
from contralens.math.scorers import ACTIVATIONS, DECODER, SCORERS
from contralens.types import AUTO, Exemplars


def parse_scorer(spec: str) -> tuple[str, dict[str, Any]]:
    """A name with options as on the command line, e.g. "csp:gamma=0.5,..." -> (name, options).

    Raises:
        InputError: an unknown scorer or option, or a value out of range.

    >>> parse_scorer("csp:gamma=0.5")
    ('csp', {'gamma': 0.5})
    """
    if spec == AUTO:
        raise InputError(f"{AUTO!r} chooses among labels of a run by their confidence; name one scorer here, e.g. csp")
    name, _, given = SCORERS.parse(spec)
    if not 0.0 <= given.get("gamma", 0.0) <= 1.0:
        raise InputError(f"scorer {spec!r}: gamma must lie between 0 and 1")
    return name, given


def wants_activations(scorer: str | Scorer) -> bool:
    """Whether a scorer looks at the activations of all images, not at the exemplars alone.

    >>> wants_activations("lookalike:power=2"), wants_activations("csp")
    (True, False)
    """
    return _takes(scorer, ACTIVATIONS)


def wants_decoder(scorer: str | Scorer) -> bool:
    """Whether a scorer looks at the directions of an autoencoder's latents.

    >>> wants_decoder("discover_then_name"), wants_decoder("csp")
    (True, False)
    """
    return _takes(scorer, DECODER)


def _takes(scorer: str | Scorer, name: str) -> bool:
    function = SCORERS[parse_scorer(scorer)[0]] if isinstance(scorer, str) else scorer
    return name in inspect.signature(function).parameters


def run_scorer(
    scorer: str | Scorer, exemplars: Exemplars, embeddings: Any, texts: Any, activations: Any = None,
    decoder: Any = None,
) -> Tensor:  # fmt: skip
    """Scores (N,C) by a scorer, which is given the activations if it looks at them.

    Args:
        scorer: a name with options, e.g. "csp:gamma=0.5", or a function.
        exemplars: of N neurons.
        embeddings: (I,D), unit rows.
        texts: (C,D).
        activations: (I,M) of the same images, in memory or any `ActivationSource`; `exemplars.neurons` are columns.
        decoder: (M,D) directions of an autoencoder's latents in the encoder's space; `exemplars.neurons` are rows.

    Raises:
        InputError: an unknown scorer or option; the scorer needs activations or a decoder, and got none.

    >>> import torch
    >>> e = torch.eye(3)
    >>> found = Exemplars(*(torch.tensor(v) for v in ([0], [[2]], [[1.0]], [[-1]], [[torch.nan]])))
    >>> run_scorer("csp:gamma=0.5", found, e, e)
    tensor([[0., 0., 1.]])
    """
    function, given = _ready(scorer, activations, decoder)
    return function(exemplars, embeddings, texts, **given)


def score_blocks(
    scorer: str | Scorer, exemplars: Exemplars, embeddings: Any, texts: Any, activations: Any = None,
    decoder: Any = None,
) -> Iterator[tuple[slice, Tensor]]:  # fmt: skip
    """`run_scorer` some concepts after the other: (which, scores (N,c)) in order, so that (N,C) never stands in memory.

    The arguments are those of `run_scorer`. A scorer that cannot be
    asked for some concepts, such as one of the user's own, gives all of them at once.

    >>> for which, scores in score_blocks("csp", exemplars, embeddings, texts):
    ...     print(which, tuple(scores.shape))
    slice(0, 3, None) (2, 3)
    """
    function, given = _ready(scorer, activations, decoder)
    prepare = getattr(function, "columns", None)
    if prepare is None:
        scores = function(exemplars, embeddings, texts, **given)
        return iter([(slice(0, scores.shape[1]), scores)])
    columns: Columns = prepare(exemplars, embeddings, texts, **given)
    return columns.blocks()


def _ready(scorer: str | Scorer, activations: Any, decoder: Any) -> tuple[Scorer, dict[str, Any]]:
    """A scorer's function and the options to call it with."""
    name, given = parse_scorer(scorer) if isinstance(scorer, str) else ("", {})
    function = SCORERS[name] if isinstance(scorer, str) else scorer
    if wants_activations(function):
        if activations is None:
            raise InputError(f"the scorer {name or 'given'} looks at the activations of all images, and got none")
        given[ACTIVATIONS] = activations
    if wants_decoder(function):
        if decoder is None:
            raise InputError(
                f"the scorer {name or 'given'} looks at an autoencoder's decoder, which only `label` gives it"
            )
        given[DECODER] = decoder
    return function, given
