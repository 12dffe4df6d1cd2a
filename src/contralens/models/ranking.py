"""By what images are ranked for a neuron: "activation", or "relevance:method=lrp,class=predicted"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from contralens import specs
from contralens.checks import nearest, shown
from contralens.errors import InputError

METHODS = ("auto", "lrp", "gradient")
ACTIVATION = "activation"


@dataclass(frozen=True, slots=True)
class Ranking:
    """By what images are ranked for a neuron.

    >>> Ranking.of("relevance:method=gradient,class=3")
    Ranking(by='relevance', method='gradient', cls=3)
    """

    by: str = ACTIVATION
    """"activation" or "relevance"."""
    method: str = "auto"
    """Of relevance: one of `METHODS`."""
    cls: int | None = None
    """The class whose score is explained; None for the one that the network predicts."""

    @classmethod
    def of(cls, text: Any) -> Ranking:
        """From "activation", "relevance", or "relevance:method=lrp,class=predicted".

        Raises:
            InputError: anything else.
        """
        if isinstance(text, Ranking):
            return text
        name, rest = specs.scheme(text) if isinstance(text, str) else ("", "")
        if name not in (ACTIVATION, "relevance") or (name == ACTIVATION and rest):
            raise InputError(
                '`rank_by` must be "activation", "relevance", or such as "relevance:method=gradient,class=3"; got '
                f"{shown(text)}"
            )
        found: dict[str, Any] = {}
        for key, said in specs.settings(rest):
            value, part = said or "", f"{key}={said}"
            if key == "method" and value in METHODS:
                found["method"] = value
            elif key == "class" and value == "label":
                raise InputError(
                    "`rank_by`: rows are a function of the image alone, so the class that a table gives cannot be "
                    "explained: use class=predicted, the same where the network is right, or one class, class=3"
                )
            elif key == "class" and (value == "predicted" or value.isdigit()):
                found["cls"] = None if value == "predicted" else int(value)
            else:
                raise InputError(
                    f"`rank_by`: {part!r} is none of method={'|'.join(METHODS)}, class=predicted, class=NUMBER"
                    f"{nearest(part, ['method=lrp', 'method=gradient', 'class=predicted'])}"
                )
        return cls(name, **found)

    @classmethod
    def recorded(cls, about: Mapping[str, Any] | None) -> Ranking:
        """From what a run's manifest says of it."""
        return cls() if not about else cls(about["by"], about["method"], about["class"])

    def __str__(self) -> str:
        if self.by == ACTIVATION:
            return ACTIVATION
        return f"relevance:method={self.method},class={'predicted' if self.cls is None else self.cls}"
