"""What a judge shares with the labeling encoder and with the network under study: then it is no independent witness."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from contralens.collecting.probe_check import proved
from contralens.encoders.registry import embed_texts
from contralens.encoders.registry import encoder as load_encoder
from contralens.errors import InputError, MissingPackage, ModelUnavailable
from contralens.run_data.reopened import Reopened
from contralens.run_data.stored import encoder_named
from contralens.types import Encoder

TEXTS = 48
"""Concepts whose similarities are compared."""
SAME = 0.999
"""Correlation of the texts' similarities from which two text models count as one."""
SMALL = 64
"""Parameters with fewer numbers than this are not compared: constants agree by accident."""


def judge_of(reopened: Reopened, judge: Any, same_judge: bool, device: str) -> Encoder:
    """The judge, once it is sure that it may be one; what it shares with others is noted.

    Raises:
        InputError: it is missing, or is the labeling encoder or the network under study, and nothing says that it may.
    """
    recorded = reopened.run.manifest["encoder"]
    if judge is None and not same_judge:
        raise InputError(
            f"a judge is missing: give an encoder other than {recorded['name']} with --judge, or let the labeling "
            "encoder judge its own labels with --same-judge (the result records it)"
        )
    referee: Encoder = load_encoder(judge if judge is not None else encoder_named(reopened.run), device=device)
    allow = bool(reopened.run.manifest.get("allow_nondeterministic"))
    (referee,), notes = proved([referee], None, reopened.store, allow_nondeterministic=allow)
    reopened.notes += notes
    reopened.notes += shared(reopened, referee)
    if not same_judge and is_target(reopened, referee):
        raise InputError(
            f"the judge {referee.name} contains the weights of the network under study, so it is not independent: "
            "give another one with --judge, or set --same-judge (the result records it)"
        )
    if referee.fingerprint == recorded["fingerprint"] and not same_judge:
        raise InputError(
            f"the judge {referee.name} is the labeling encoder and would judge its own labels: give another one with "
            "--judge, or set --same-judge (the result records it)"
        )
    return referee


def shared(reopened: Reopened, judge: Encoder) -> list[str]:
    """Notes on what the judge shares with the labeling encoder; none of an independent judge, or the encoder itself."""
    run = reopened.run
    if judge.fingerprint == run.manifest["encoder"]["fingerprint"]:
        return []
    notes = []
    if _same_texts(reopened, judge):
        notes.append(
            f"the judge {judge.name} and the labeling encoder {run.manifest['encoder']['name']} read texts the same "
            "way (one text model): a word that both misread counts as right"
        )
    if (classes := _classes(judge)) and classes == _classes(_encoder(reopened)):
        notes.append(
            f"the judge {judge.name} and the labeling encoder know the same {len(classes)} classes and no others"
        )
    return notes


NOT_HAD = (InputError, MissingPackage, ModelUnavailable)
"""What a run's network or encoder raises that cannot be loaded here; figures from the cache do not need it."""


def is_target(reopened: Reopened, judge: Encoder) -> bool:
    """Whether the judge holds the weights of the network under study, and so sees what the neurons see.

    Where the network cannot be opened, a note says that this is not known.
    """
    try:
        target: Any = reopened.target
    except NOT_HAD as e:
        reopened.notes.append(f"whether the judge {judge.name} contains the network's own weights is unknown: {e}")
        return False
    network = getattr(target, "module", None)
    if not isinstance(network, nn.Module):
        return False
    wanted = _weights([network])
    held: list[Any] = [judge] if isinstance(judge, nn.Module) else list(vars(judge).values())
    common = wanted.keys() & _weights([one for one in held if isinstance(one, nn.Module)]).keys()
    return bool(wanted) and 2 * sum(wanted[w] for w in common) > sum(wanted.values())


def _same_texts(reopened: Reopened, judge: Encoder) -> bool:
    own = reopened.run.vectors.get("texts")
    if own is None or len(own) < 4:
        return False
    some = torch.randperm(len(own), generator=torch.Generator().manual_seed(0))[:TEXTS].sort().values.tolist()
    words = [reopened.concepts[c] for c in some]
    judged = embed_texts(judge, words, reopened.run.manifest["templates"])
    first, second = (_similarities(t) for t in (torch.from_numpy(np.array(own[some])).float(), judged.float().cpu()))
    return float(torch.corrcoef(torch.stack([first, second]))[0, 1]) > SAME


def _similarities(texts: Tensor) -> Tensor:
    gram = texts @ texts.T
    return gram[tuple(torch.triu_indices(len(gram), len(gram), 1))]


def _classes(encoder: Encoder | None) -> tuple[str, ...]:
    """Names of the only things that an encoder can separate; empty for one that reads anything."""
    names = getattr(encoder, "classes", ())
    return tuple(names) if isinstance(names, list | tuple) else ()


def _encoder(reopened: Reopened) -> Encoder | None:
    try:
        return reopened.encoder
    except NOT_HAD:
        return None


def _weights(networks: list[nn.Module]) -> dict[tuple[Any, ...], int]:
    """Parameters, known by shape and a few of their numbers, with how many numbers each holds."""
    out: dict[tuple[Any, ...], int] = {}
    for network in networks:
        for p in network.parameters():
            if p.numel() >= SMALL:
                flat = p.detach().flatten()
                some = flat[:: max(1, len(flat) // 16)][:16].float().cpu()
                out[tuple(p.shape), tuple(some.tolist())] = p.numel()
    return out
