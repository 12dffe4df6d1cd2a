"""Would another sample of probe images have given the same label? Bootstrap over the images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from contralens.errors import InputError
from contralens.math.activation_sources import Resampled, source
from contralens.math.exemplars import find_exemplars
from contralens.math.grouping import Groups, draw_groups
from contralens.math.ranking import Scorer, best
from contralens.math.scoring import score_blocks
from contralens.math.tensors import matrix
from contralens.types import Brief


@dataclass(frozen=True, slots=True, repr=False)
class Stability(Brief):
    """Labels of bootstrap samples under one scorer.

    >>> found = Stability(torch.tensor([[1], [1], [2], [1]]))  # four samples of one neuron
    >>> found.agreement([1]), found.sets(0.9)
    (tensor([0.7500], dtype=torch.float64), [[(1, 0.75), (2, 0.25)]])
    """

    labels: Tensor
    """(B,N) concept index of each sample's label, -1 where there was none."""

    def agreement(self, label: Any) -> Tensor:
        """Share of the samples that give `label` (N) again; NaN where that is -1."""
        given = torch.as_tensor(label)
        return (self.labels == given).double().mean(0).masked_fill(given < 0, torch.nan)

    def sets(self, coverage: float = 0.9) -> list[list[tuple[int, float]]]:
        """Per neuron the fewest labels that together hold at least `coverage` of the samples, with their shares.

        Coverage is over the bootstrap samples: it says how much the label hangs on which images were looked at, not how
        probable a label is to be true. Ties go to the lower concept index; no label is (-1, share).

        Raises:
            InputError: coverage outside ]0,1].
        """
        if not 0.0 < coverage <= 1.0:
            raise InputError(f"`coverage` must lie between 0 and 1; got {coverage}")
        out = []
        for column in self.labels.T:
            values, counts = column.unique(return_counts=True)
            shares = sorted(
                zip((counts / len(column)).tolist(), values.tolist(), strict=True), key=lambda x: (-x[0], x[1])
            )
            kept: list[tuple[int, float]] = []
            for share, value in shares:
                kept.append((value, share))
                if sum(s for _, s in kept) >= coverage - 1e-9:
                    break
            out.append(kept)
        return out


def bootstrap_labels(
    scorers: Mapping[str, str | Scorer],
    activations: Any,
    embeddings: Any,
    texts: Any,
    neurons: Any = None,
    *,
    samples: int = 50,
    seed: int = 0,
    clusters: Any = None,
    **mining: Any,
) -> dict[str, Stability]:
    """Label everything again on draws of I images with replacement.

    An image drawn twice counts twice, as an exemplar, in the mean that contrasts stay below, and in the scorers that
    average over the probe set. Where images belong together, whole groups are drawn, and one drawn twice counts twice.
    One sample costs as much as mining and scoring the run once.

    Args:
        scorers: by name, each as in `run_scorer`.
        activations: (I,N).
        embeddings: (I,D), unit rows of the same images.
        texts: (C,D), unit rows of the concepts.
        neurons: indices of the neurons wanted; all by default.
        samples: draws.
        seed: of the draws.
        clusters: (I), a name or a number per image, equal for images that belong together; by default `groups`.
        mining: k, reuse, exclude and groups of `find_exemplars`.

    Returns:
        Scorer's name -> labels (samples,N).

    >>> found = bootstrap_labels({"csp": "csp"}, activations, embeddings, texts, samples=20, k=2)
    >>> found["csp"].labels.shape
    torch.Size([20, 2])
    """
    a, e = source(activations), matrix(embeddings, "embeddings")
    generator = torch.Generator().manual_seed(seed)
    labels: dict[str, list[Tensor]] = {name: [] for name in scorers}
    groups = Groups.of(mining.pop("groups", None), len(e))
    together = groups if clusters is None else Groups.of(clusters, len(e))
    for _ in range(samples):
        if together is None:
            drawn = torch.randint(len(e), (len(e),), generator=generator).sort().values
        else:
            drawn, draw = draw_groups(together.numbers, generator)
        if groups is not None:
            mining["groups"] = groups.resampled(drawn, draw)
        sample, rows = Resampled(a, drawn), e[drawn]
        found = find_exemplars(sample, rows, neurons=neurons, **mining)
        for name, score in scorers.items():
            labels[name].append(best(score_blocks(score, found, rows, texts, sample)).labels)
    return {name: Stability(torch.stack(found)) for name, found in labels.items()}
