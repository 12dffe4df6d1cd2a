"""Near-copies among a neuron's exemplars: the same picture saved again, resized or a moment later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from contralens.math.tensors import blocks
from contralens.types import Exemplars

ALIKE = 0.98
"""Cosine of two embeddings from which images count as near-copies."""
TOLD = 0.01
"""Share of the exemplars from which near-copies are noted."""


@dataclass(frozen=True, slots=True)
class NearCopies:
    """How many exemplars are near-copies of a stronger exemplar of the same neuron.

    >>> e = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.99, 0.01], [0.0, 1.0], [0.5, 0.5]]), dim=1)
    >>> nothing = torch.full((1, 3), torch.nan)
    >>> near_copies(Exemplars(torch.tensor([0]), torch.tensor([[0, 1, 2]]), nothing, nothing, nothing), e)
    NearCopies(exemplars=1, of=3, neurons=1, neurons_of=1)
    """

    exemplars: int
    of: int
    neurons: int
    """Neurons that have any."""
    neurons_of: int

    def about(self) -> dict[str, Any]:
        """For a manifest."""
        return {"cosine": ALIKE, "exemplars": self.exemplars, "of": self.of, "neurons": self.neurons}

    def notes(self) -> list[str]:
        """What to tell, if they are more than a few."""
        if self.exemplars < TOLD * self.of or not self.exemplars:
            return []
        return [
            f"{self.exemplars:,} of {self.of:,} exemplars, of {self.neurons:,} of {self.neurons_of:,} neurons, are "
            f"near-copies of a stronger exemplar (cosine of the embeddings {ALIKE} or more) and count as if they were "
            "further evidence: leave such images out, or say with groups (--groups) which belong together"
        ]


def near_copies(exemplars: Exemplars, embeddings: Tensor) -> NearCopies:
    """Count them by the embeddings (I,D), unit rows."""
    count = neurons = 0
    _, k = exemplars.positives.shape
    for part in blocks(len(exemplars), 4 * k * (embeddings.shape[1] + k)):
        positives = exemplars.positives[part]
        there = (positives >= 0).to(embeddings.device)
        rows = embeddings[positives.clamp_min(0).to(embeddings.device)].float()
        alike = rows @ rows.transpose(1, 2) >= ALIKE
        alike &= there[:, :, None] & there[:, None, :] & torch.ones(k, k, device=rows.device).tril(-1).bool()
        later = alike.any(2)
        count, neurons = count + int(later.sum()), neurons + int(later.any(1).sum())
    return NearCopies(count, int((exemplars.positives >= 0).sum()), neurons, len(exemplars))
