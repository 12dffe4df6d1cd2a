"""Concepts beyond the vocabulary: candidates that are there, or a proposer that is asked for them."""

from __future__ import annotations

from typing import Any

from contralens.data.runs import Run
from contralens.errors import InputError, ModelUnavailable
from contralens.proposing.candidates import Candidates, load_candidates
from contralens.settings.label import Score
from contralens.types import Encoder, Images, Target


def ready_proposer(settings: Score) -> tuple[Candidates | None, Any, dict[str, Any] | None]:
    """Candidates that are there, or a ready proposer and how to ask it: what is wrong with either shows at once."""
    candidates, asking = settings.candidates, dict(settings.proposing or {})
    if settings.proposer is None:
        if asking:
            raise InputError("`proposing` needs a `proposer`")
        found = candidates is None or isinstance(candidates, Candidates)
        return candidates if found else load_candidates(candidates), None, None
    if candidates is not None:
        raise InputError("`proposer` asks for candidates and `candidates` has some; give one of the two")
    from contralens.proposing.proposers import CaptionBank, proposer

    ready = proposer(settings.proposer, **{"device": settings.device or "cpu", **asking.pop("proposer_options", {})})
    if not isinstance(ready, CaptionBank):
        _ = ready.fingerprint  # reads a model's folder, or says that there is none
    return None, ready, asking


def candidates_for(run: Run, settings: Score, images: Images, encoder: Encoder, target: Target) -> Candidates:
    """What a ready proposer says to a run's exemplars."""
    from contralens.proposing.propose import propose

    given: dict[str, Any] = {
        "images": images, "encoder": encoder, "target": target, "device": settings.device or "cpu",
        **(settings.proposing or {}), "proposer": settings.proposer, "cache": settings.cache,
        "progress": settings.progress,
    }  # fmt: skip
    found = propose(run, **given)
    if not found.concepts:
        why = found.errors[0]["error"] if found.errors else "there is no neuron to propose for"
        raise ModelUnavailable(
            f"{found.manifest['proposer']} returned no concepts: {why}; no labels were written, cached results are kept"
        )
    return found
