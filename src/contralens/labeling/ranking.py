"""By what exemplars are ranked and whether they are crops: checked before the work, and reported in the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from contralens.errors import InputError
from contralens.labeling.crops import wanted_crop
from contralens.models.ranking import ACTIVATION, Ranking
from contralens.models.relevance import RelevanceTarget
from contralens.types import AUTO, Target


def check_ranking(rank_by: Any, crop: Any, scorers: Sequence[str], fdr: float | None, calibrate: Any = None) -> None:
    """Refuse what cannot go together.

    Raises:
        InputError: an unknown ranking or crop, crops with a null test, or confidence where it was not fitted.

    >>> check_ranking("relevance", "map", ["csp"], None)
    """
    ranking, kind = Ranking.of(rank_by), wanted_crop(crop)
    if kind is not None and fdr is not None:
        raise InputError("null neurons fire in no particular region and cannot be cropped: omit `fdr` or `crop`")
    if kind is not None or ranking.by != ACTIVATION:
        _needs_no_confidence(scorers, calibrate)


def _needs_no_confidence(scorers: Sequence[str], calibrate: Any) -> None:
    if AUTO in scorers or calibrate is not None:
        what = "`calibrate` sets the level of" if calibrate is not None else 'the scorer "auto" goes by'
        raise InputError(
            f"{what} confidence, which was fitted on whole pictures ranked by activation: leave it out, or `rank_by` "
            "and `crop`"
        )


def about_ranking(model: Target) -> dict[str, Any] | None:
    """How relevance was computed; None where activations rank."""
    return model.about if isinstance(model, RelevanceTarget) else None


def no_confidence(model: Target, crop: str | None, asked: bool, scorers: Sequence[str], calibrate: Any) -> list[str]:
    """Why labels have no confidence although it was asked for; nothing where they have.

    Raises:
        InputError: a target that was ready made ranks by relevance, and what was asked for needs confidence.
    """
    if crop is None and about_ranking(model) is None:
        return []
    _needs_no_confidence(scorers, calibrate)
    what = "crops" if crop is not None else "exemplars ranked by relevance"
    note = f"no confidence: it was fitted on whole pictures ranked by activation, and not for {what}"
    return [note] if asked else []
