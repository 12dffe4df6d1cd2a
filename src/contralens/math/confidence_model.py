"""The weights of the signals of confidence, and those that are shipped (`confidence.json`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

from contralens.types import Brief


@dataclass(frozen=True, repr=False)
class Model(Brief):
    """Piecewise linear weights of the signals."""

    names: list[str]
    """(S) signals."""
    knots: Tensor
    """(S,5): lowest and highest value that counts, and the quartiles between, in rising order."""
    weights: Tensor
    """(S,4): of the signal and of what exceeds each quartile."""
    centre: Tensor
    """(S) value used for an undefined one."""
    level: float
    learnt_from: str = ""
    """In one sentence."""

    def logits(self, found: Mapping[str, Tensor]) -> Tensor:
        """f of the signals' values, all of one shape; `self.basis` times the weights."""
        x = torch.stack([found[name] for name in self.names], -1)
        return torch.einsum("...sj,sj->...", self.basis(x), self.weights) + self.level

    def basis(self, x: Tensor) -> Tensor:
        """Signals (...,S) to (...,S,4)."""
        x = torch.where(x.isnan(), self.centre, x).clamp(self.knots[:, 0], self.knots[:, 4])
        above = [(x - self.knots[:, j]).clamp_min(0.0) for j in (1, 2, 3)]
        return torch.stack([x - self.centre, *above], -1)

    def to_json(self) -> dict[str, Any]:
        """Numbers with six digits, by signal."""
        rows = zip(self.names, self.knots.tolist(), self.weights.tolist(), self.centre.tolist(), strict=True)

        def short(values: list[float]) -> list[float]:
            return [float(f"{v:.6g}") for v in values]

        each = {n: {"knots": short(k), "weights": short(w), "centre": short([c])[0]} for n, k, w, c in rows}
        return {"learnt from": self.learnt_from, "level": float(f"{self.level:.6g}"), "signals": each}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Model:
        """What `to_json` wrote."""
        each = told["signals"]
        knots, weights, centre = (
            torch.tensor([s[key] for s in each.values()]) for key in ("knots", "weights", "centre")
        )
        return cls(list(each), knots, weights, centre, float(told["level"]), str(told["learnt from"]))


@cache
def model() -> Model:
    """The model that is shipped."""
    return Model.from_json(json.loads((files("contralens.math") / "confidence.json").read_text(encoding="utf-8")))
