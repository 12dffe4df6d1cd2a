"""Concepts beyond the vocabulary: candidates that are there, or a proposer that is asked for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from contralens.data.candidates import Candidates, folder_of, load_candidates
from contralens.data.runs import Run
from contralens.errors import InputError, ModelUnavailable


def candidates_or_proposer(
    proposer: Any, proposing: dict[str, Any] | None, candidates: Any, device: str | None
) -> tuple[Candidates | None, dict[str, Any] | None]:
    """Candidates that are there, or how to ask a ready proposer for them: what is wrong with either shows at once."""
    if proposer is None:
        if proposing:
            raise InputError("`proposing` says how `proposer` asks, and no `proposer` is given")
        if candidates is None or isinstance(candidates, Candidates):
            return candidates, None
        return load_candidates(candidates), None
    if candidates is not None:
        raise InputError("`proposer` asks for candidates and `candidates` has some; give one of the two")
    from contralens.models.proposers import CaptionBank
    from contralens.models.proposers import proposer as load_proposer

    asking = dict(proposing or {})
    ready = load_proposer(proposer, **{"device": device or "cpu", **asking.pop("proposer_options", {})})
    if not isinstance(ready, CaptionBank):
        _ = ready.fingerprint  # reads a model's folder, or says that there is none
    return None, {**asking, "proposer": ready}


def candidates_for(run: Run, out: str | Path | None, asking: dict[str, Any]) -> Candidates:
    """Candidates for the neurons of a first run; replies are kept beside `out`, where labels will be written."""
    from contralens.proposing.propose import propose

    found = propose(run, **{"folder": None if out is None else folder_of(Path(out)), **asking})
    if not found.concepts:
        why = found.errors[0]["error"] if found.errors else "there is no neuron to ask about"
        raise ModelUnavailable(
            f"{found.manifest['proposer']} proposed nothing: {why}; nothing was labeled, what was computed is kept"
        )
    return found
