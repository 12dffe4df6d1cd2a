"""Describe-and-Dissect's choice with images made for the candidates: painted, or from a folder of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from contralens.checks import whole
from contralens.collecting.collect import collect
from contralens.data.runs import Run
from contralens.errors import InputError
from contralens.evaluation.cosy import Made, from_folder, paint
from contralens.evaluation.painters import painter as load_painter
from contralens.math.describe_and_dissect import SHOWN, dissected
from contralens.run_data.reopened import Reopened
from contralens.types import Progress, silent

PROMPT = "One realistic image of {label}"
"""What the paper asks Stable Diffusion for."""


@dataclass(frozen=True, slots=True)
class ImageChoice:
    """What Describe-and-Dissect makes of a neuron's candidates.

    >>> ImageChoice(5, "block3/5", "red", "striped", {"red": 0.6, "striped": 1.5}).label
    'striped'
    """

    neuron: int
    name: str
    before: str
    """The scorer's label."""
    label: str
    """The candidate with the largest score; ties go to the scorer's order."""
    scores: dict[str, float]
    """Of each candidate, in the scorer's order: rank times likeness; see `contralens.math.describe_and_dissect`."""
    images: dict[str, int] = field(default_factory=dict)
    """Images of each candidate."""


def choose_by_images(
    run: Run,
    *,
    painter: Any = None,
    images: str | Path | None = None,
    scorer: str | None = None,
    neurons: Sequence[int] | None = None,
    candidates: int = 5,
    count: int = 10,
    prompt: str = PROMPT,
    seed: int = 0,
    source: Any = None,
    target: Any = None,
    encoder: Any = None,
    cache: str | Path | None = None,
    device: str | None = None,
    progress: Progress = silent,
    **rule: Any,
) -> list[ImageChoice]:
    """Choose among each neuron's best concepts by how images made for them activate it (Bai et al. 2024).

    Args:
        run: a finished run.
        painter: what makes `count` images of each candidate, e.g. "diffusers:FOLDER@steps=50"; or
        images: a folder with one subfolder of images for each candidate.
        scorer: whose best concepts are the candidates; by default the run's primary scorer.
        neurons: indices; by default all that the scorer labels.
        candidates: concepts of each neuron.
        count: images that the painter makes of each candidate.
        prompt: of the painter; {label} stands for the candidate.
        seed: of the first image of each candidate.
        source: where the run's images are, if they moved.
        target: the network, where the run cannot name it.
        encoder: the labeling encoder, likewise.
        cache: folder of the store.
        device: "cpu", "cuda", "auto".
        progress: called with a stage, what is done and the total.
        rule: top, beta, ranking and by of `contralens.math.describe_and_dissect.dissected`.

    Raises:
        InputError: neither a painter nor images, or both; an unknown scorer; no image of any candidate.

    >>> from contralens.data.runs import load
    >>> from PIL.Image import new
    >>> class Grey:
    ...     name, fingerprint = "grey", "0" * 32
    ...     def paint(self, prompt, seeds):
    ...         return [new("RGB", (64, 64), (10 * len(prompt) % 256, seed, seed)) for seed in seeds]
    >>> [one.name for one in choose_by_images(load("run"), painter=Grey(), neurons=[5], count=2)]
    ['block3/5']
    """
    if (painter is None) == (images is None):
        raise InputError("give either `painter`, to make images of the candidates, or `images`, a folder of them")
    whole("candidates", candidates, 2)
    reopened = Reopened(
        run, source=source, target=target, encoder=encoder, cache=cache, device=device, progress=progress
    )
    chosen = scorer or str(run.manifest["primary"])
    rows = [row for row in run.rows(chosen) if row["label"] and (neurons is None or row["neuron"] in set(neurons))]
    if not rows:
        raise InputError(f"the run has no neuron labeled by {chosen}; its scorers: {', '.join(run.scorers)}")
    asked = [list(row["concepts"])[:candidates] for row in rows]
    wanted = list(dict.fromkeys(label for some in asked for label in some))
    brush = load_painter(painter, device or "cpu") if isinstance(painter, str) else painter
    made = from_folder(reopened, wanted, images) if images is not None else paint(
        reopened, wanted, brush, prompt=prompt, count=count, seed=seed, progress=progress
    )  # fmt: skip
    if made.activations is None:
        raise InputError("no image of any candidate could be used")
    collect(made.images, [reopened.encoder], reopened.store, progress=progress)
    like = reopened.embeddings(made.fingerprints)
    out = []
    for row, some, mean in zip(rows, asked, _strongest(reopened, [r["neuron"] for r in rows]), strict=True):
        scores = _scores(made, some, row["neuron"], like @ mean, **rule)
        best = scores.index(max(scores))
        out.append(ImageChoice(
            row["neuron"], row["name"], some[0], some[best], dict(zip(some, scores, strict=True)),
            {label: len(made.rows.get(label, ())) for label in some},
        ))  # fmt: skip
    return out


def _scores(made: Made, labels: Sequence[str], neuron: int, like: torch.Tensor, **options: Any) -> list[float]:
    """`dissected` for one neuron; `like` (images) of the images that were made."""
    values = made.of(labels, [neuron] * len(labels)).T
    alike = torch.full(values.shape, torch.nan)
    for c, label in enumerate(labels):
        rows = made.rows.get(label, [])
        alike[c, : len(rows)] = like[rows]
    values = values.masked_fill(alike.isnan(), torch.nan)
    return [float(x) for x in dissected(values[None], alike[None].nan_to_num(0.0), **options)[0]]


def _strongest(reopened: Reopened, neurons: Sequence[int]) -> torch.Tensor:
    """(n,D) mean embedding of the strongest exemplars of some neurons."""
    place = {n: at for at, n in enumerate(reopened.exemplars.neurons.tolist())}
    found = reopened.exemplars.positives[[place[n] for n in neurons], :SHOWN]
    used = sorted({int(i) for i in found.flatten() if i >= 0})
    rows = reopened.embeddings([reopened.named[i] for i in used])
    at = {image: row for row, image in enumerate(used)}
    return torch.stack([rows[[at[int(i)] for i in some if i >= 0]].mean(0) for some in found])
