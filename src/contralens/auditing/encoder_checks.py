"""Can the encoder read a concept on these images? Three checks per concept; one that fails takes its verdicts away.

Words (`contralens.auditing.alignment.separation`): two wordings of a concept rank the images more alike than a wording
of another concept does. That is mostly a matter of the texts: images made of random numbers pass for nearly all.

Direction: let d[c] be the concept's mean text minus the mean over concepts, u[c] its unit vector. The images must vary
along u[c] more than along random directions: var_i <e[i], u[c]> above its `LEVEL` upper quantile over `DIRECTIONS`
random unit vectors. An encoder whose images and texts are in unrelated directions (rotated, or random) fails, and so
does a concept in which these images do not differ. In fewer than `LEAST_WIDTH` dimensions random directions are much
like any other, and this check is left out.

Pairing: the layer's neurons must know of the same differences. The mean over neurons of the squared correlation of
a[.,n] with <e[.], u[c]> must exceed its `LEVEL` upper quantile over `PAIRINGS` random pairings of activations and
embeddings. Embeddings that belong to other images fail.

Either test lets a concept pass by chance at the rate `LEVEL`. All three are necessary, none proves that the encoder
means by a word what people mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from contralens.auditing.alignment import Separation, Wordings, separation
from contralens.auditing.concepts import ConceptList
from contralens.checks import few
from contralens.math.activation_sources import ActivationSource, source
from contralens.types import Brief

LEVEL = 0.05
"""Level of both tests of the images."""
DIRECTIONS = 999
"""Random directions that a concept's is compared with."""
LEAST_WIDTH = 16
"""Width of embeddings from which directions are tested."""
PAIRINGS = 99
"""Random pairings of activations and embeddings."""
MOST_PAIRED = 1000
"""Images that the pairing is tested on at most."""


@dataclass(frozen=True, slots=True, repr=False)
class Reading(Brief):
    """Which concepts (C) the encoder can read.

    >>> apart = Separation(torch.tensor([0.9, 0.9]), torch.tensor([0.1, 0.1]), torch.tensor([1, 0]), images=100)
    >>> found = Reading(apart, torch.tensor([0.001, 0.4]), torch.tensor([0.01, 0.01]))
    >>> found.readable, found.why(1)
    (tensor([ True, False]), 'the images vary along its words no more than along random directions')
    """

    words: Separation
    direction: Tensor
    """(C) p-value; NaN where it is not tested."""
    pairing: Tensor
    """(C) p-value."""

    @property
    def readable(self) -> Tensor:
        """(C) bool."""
        return torch.tensor([not self.why(c) for c in range(len(self.direction))])

    @property
    def blind(self) -> list[int]:
        """Concepts that fail a check of the images."""
        return ((self.direction > LEVEL) | ~(self.pairing <= LEVEL)).nonzero()[:, 0].tolist()

    def why(self, concept: int) -> str:
        """What speaks against a concept, "" where nothing does."""
        if float(self.direction[concept]) > LEVEL:
            return "the images vary along its words no more than along random directions"
        if not float(self.pairing[concept]) <= LEVEL:
            return "its scores correlate with the layer's neurons no more than other images' embeddings"
        return "its wordings agree no better than with another concept's" if concept in self.words.confused else ""

    def warnings(self, encoder: str, listed: ConceptList) -> list[str]:
        """What a reader should know, with the concepts by name."""
        names = [c.name for c in listed]
        out = []
        if told := self.words.confused:
            worst = sorted(told, key=lambda c: float(self.words.within[c] - self.words.across[c]))[:5]
            shown = "; ".join(
                f"{names[c]} ({float(self.words.within[c]):.2f}) and {names[int(self.words.other[c])]} "
                f"({float(self.words.across[c]):.2f})"
                for c in worst
            )
            out.append(
                f"the encoder {encoder} cannot separate {len(told)} of {len(names)} concepts from others on "
                "these images: their wordings agree with each other no better than with another concept's: "
                f"{shown}; use an encoder for this domain, or other words"
            )
        if blind := self.blind:
            out.append(
                f"the encoder {encoder} does not detect {len(blind)} of {len(names)} concepts in these images: they "
                f"vary along them no more than along random directions or pairings: {few((names[c] for c in blind), 8)}"
            )
        if lost := (~self.readable).nonzero()[:, 0].tolist():
            out.append(f"verdicts do not use {len(lost)} concepts that fail these checks")
        if untold := self.words.untold:
            out.append(
                f"whether the encoder separates them cannot be measured for {len(untold)} concepts with one wording, "
                f"e.g. {names[untold[0]]}: give synonyms or several templates"
            )
        return out

    def manifest(self, listed: ConceptList) -> dict[str, Any]:
        """What to write down."""
        words = self.words
        readable = self.readable.tolist()
        return {
            "images": words.images,
            "told_apart": len(listed) - len(words.confused) - len(words.untold),
            "confused": len(words.confused),
            "not_measured": len(words.untold),
            "not_seen": len(self.blind),
            "readable": sum(readable),
            "level": LEVEL,
            "concepts": [
                {
                    "concept": c.name, "side": c.side, "within": float(words.within[i]),
                    "across": float(words.across[i]), "other": listed.concepts[int(words.other[i])].name,
                    "direction": float(self.direction[i]), "pairing": float(self.pairing[i]),
                    "readable": readable[i], "why": self.why(i),
                }
                for i, c in enumerate(listed)
            ],
        }  # fmt: skip


def reading(embeddings: Tensor, activations: Any, neurons: Any, words: Wordings, seed: int = 0) -> Reading:
    """The three checks.

    Args:
        embeddings: (I,D) unit rows of the probe images.
        activations: (I,N) of the same images, or any `ActivationSource`.
        neurons: those that are judged, columns of the activations.
        words: the concept list in the same space.
        seed: of directions, pairings and samples.

    >>> words = Wordings(texts[1:], torch.tensor([0, 1]), ["striped", "round"], None, texts[1:], torch.tensor([0, 1]))
    >>> reading(embeddings, activations, [0, 1], words).readable  # four images show nothing
    tensor([False, False])
    """
    apart = separation(embeddings, words, seed)
    generator = torch.Generator().manual_seed(seed)
    usable = embeddings.isfinite().all(1).nonzero()[:, 0]
    e = embeddings[usable].double().cpu()
    e = e - e.mean(0)
    count = int(words.single_concept.max()) + 1
    texts = torch.stack([words.single[words.single_concept == c].double().cpu().mean(0) for c in range(count)])
    away = torch.nn.functional.normalize(texts - texts.mean(0), dim=1)
    s = e @ away.T
    usual = e @ torch.nn.functional.normalize(
        torch.randn(DIRECTIONS, e.shape[1], generator=generator, dtype=torch.float64), dim=1
    ).T  # fmt: skip
    direction = _upper(usual.square().mean(0)[:, None].expand(-1, count), s.square().mean(0))
    if e.shape[1] < LEAST_WIDTH:
        direction = torch.full((count,), torch.nan, dtype=torch.float64)
    drawn = torch.randperm(len(e), generator=generator)[:MOST_PAIRED].sort().values
    a = _rows(source(activations), usable[drawn], torch.as_tensor(neurons, dtype=torch.int64))
    s = _unit(s[drawn])
    alike = torch.stack(
        [(a.T @ s[torch.randperm(len(s), generator=generator)]).square().sum(0) for _ in range(PAIRINGS)]
    )
    return Reading(apart, direction, _upper(alike, (a.T @ s).square().sum(0)))


def _rows(a: ActivationSource, images: Tensor, neurons: Tensor) -> Tensor:
    """Standardised activations (images, neurons), 0 where one is not finite."""
    parts: Sequence[Tensor] = [
        rows.cpu().double()[images[(images >= start) & (images < start + len(rows))] - start]
        for start, rows in a.blocks(neurons)
    ]
    return _unit(torch.cat(list(parts)))


def _unit(columns: Tensor) -> Tensor:
    """Columns of mean 0 and length 1; 0 for a constant one and for what is not finite."""
    there = columns.isfinite()
    mean = columns.masked_fill(~there, 0.0).sum(0) / there.sum(0).clamp_min(1)
    away = (columns - mean).masked_fill(~there, 0.0)
    length = away.norm(dim=0)
    return torch.where(length > 1e-9, away / length.clamp_min(1e-300), 0.0)


def _upper(null: Tensor, value: Tensor) -> Tensor:
    """(C) share of the null values (M,C) that reach a value (C), which counts as one of them."""
    return (1 + (null >= value).sum(0)) / (len(null) + 1)
