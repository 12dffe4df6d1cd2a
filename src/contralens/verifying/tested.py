"""What came of the experiment on one label, and its row in the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from contralens.data.runs import Run
from contralens.math.experiments import KINDS, Outcome


@dataclass(frozen=True)
class Tested:
    """What came of one label."""

    neuron: int
    label: str
    outcome: Outcome
    nulls: Sequence[str]
    edits: list[dict[str, Any]]
    editor: str
    others: dict[str, Outcome]
    """Control concepts, judged in the label's place."""
    instead_of: str | None = None
    """The refuted label in whose place it was tested."""

    def row(self, run: Run) -> dict[str, Any]:
        out: dict[str, Any] = {
            "neuron": self.neuron, "name": str(run.neurons["name"][self.neuron]), "label": self.label,
            "outcome": self.outcome.word, "reason": self.outcome.reason, "nulls": list(self.nulls),
            "editor": self.editor, "instead_of": self.instead_of,
        }  # fmt: skip
        return out | numbers(self.outcome)


def numbers(found: Outcome) -> dict[str, Any]:
    """The columns of both sides of an experiment."""
    out: dict[str, Any] = {}
    for kind, side in zip(KINDS, (found.remove, found.insert), strict=True):
        told = asdict(side)
        out |= {f"{kind}_images": told["images"], kind: told["effect"]}
        out |= {f"{kind}_{part}": told[part] for part in ("low", "high", "above", "above_low")}
    return out
