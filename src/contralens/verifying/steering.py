"""The editor inside the network: activations of an earlier layer moved along a concept's direction.

No picture is changed. What the concept adds to the layer's activations (`contralens.math.concept_directions`) is taken
from those of exemplars and added to those of contrasts, at every place or token alike; the neuron, in a later layer, is
watched. Controls do so for other concepts. A vector for all places is a small part of what a concept is to a network,
so effects are small, and have levels of their own.
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import torch
from torch.nn.functional import normalize

from contralens.data.atomic_files import digest
from contralens.errors import InputError
from contralens.math.concept_directions import Patterns
from contralens.math.experiments import Kind
from contralens.models.hooked_layer import HookedTarget
from contralens.models.interventions import layer_of, scalable
from contralens.models.layers import layer_before
from contralens.models.targets import target as load_target
from contralens.verifying.editors import Bench, Request, Steered

LEAST_CORRELATION = 0.1
"""Below it a layer does not tell images with a concept from others, and is not steered."""
STRONG: dict[Kind, float] = {"remove": 0.1, "insert": 0.08}
"""As in `contralens.math.experiments`, for what moves activations."""
WEAK: dict[Kind, float] = {"remove": 0.02, "insert": 0.01}


class Inside:
    """Moves activations of a layer along concepts' directions."""

    by_region, exact = False, False
    levels: ClassVar = {"strong": STRONG, "weak": WEAK}

    def __init__(self, bench: Bench, layer: str) -> None:
        self.bench = bench
        base = layer_of(scalable(bench.reopened.target))
        self.layer = layer_before(base) if layer in ("", "auto") else layer
        self.earlier: HookedTarget = load_target(
            base.module, self.layer, preprocess=base.preprocess, dtype=base.dtype,
            allow_nondeterministic=not base.repeatable,
        )  # fmt: skip
        self.name = f"inside:{self.layer}"
        self.fingerprint = digest(
            "inside-1", self.earlier.fingerprint, bench.reopened.run.manifest["encoder"]["fingerprint"],
            *bench.reopened.probe, *bench.reopened.concepts,
        )  # fmt: skip

    @cached_property
    def patterns(self) -> tuple[Patterns, dict[int, int]]:
        """Of the run's concepts, and the row of each image that has one."""
        reopened = self.bench.reopened
        rows = reopened.embeddings(reopened.probe, self.earlier)
        usable = rows.isfinite().all(1) & self.bench.embeddings.isfinite().all(1)
        if not bool(usable.any()):
            raise InputError(f"the layer {self.layer} gave no numbers for the run's images")
        texts = normalize(reopened.texts.float(), dim=1)
        images = torch.nonzero(usable)[:, 0].tolist()
        patterns = Patterns(rows[usable], self.bench.embeddings[usable], texts)
        return patterns, {image: row for row, image in enumerate(images)}

    def edit(self, request: Request) -> Steered | str:
        concepts = self.bench.reopened.concepts
        if request.concept not in concepts:
            return "the phrase is not a concept of the run's vocabulary"
        patterns, at = self.patterns
        if request.image not in at:
            return "the layer gave no numbers for it"
        found = patterns[concepts.index(request.concept)]
        if found.correlation < LEAST_CORRELATION:
            return f"{self.layer} does not separate images with it from others (correlation {found.correlation:.2f})"
        sign = 1 if request.kind == "insert" else -1
        return Steered(self.earlier, sign * found.vector, sign * found.moved)


def inside(rest: str, bench: Bench) -> Inside:
    """The editor "inside" of "LAYER", or of the layer before the run's.

    Raises:
        InputError: no such layer, or a target that is no layer of a network.
    """
    return Inside(bench, rest)
