"""Probe sets of the rendered worlds with the tie as a dial, and neurons on them whose truth is known.

A world at dial d is the world whose incidental levels come with their true ones with probability d: 0 unties them, and
at 1 nothing in the probe set separates the two. One seed draws the same scenes at every dial, save for the incidental
levels that the tie overwrites, so neighbouring dials differ in what was asked and in nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contralens.bench.training import rows_of
from contralens.bench.versions import BENCH_WORLDS, DIALS, SEEDS, version
from contralens.bench.world_images import IMAGES, probe_scenes
from contralens.checks import nearest
from contralens.errors import InputError
from contralens.math.exemplars import find_exemplars
from contralens.math.statistics import neuron_statistics
from contralens.settings.bench import ALL_KINDS, KINDS, Kind
from contralens.types import Exemplars, Progress, silent
from contralens.world.captions import concepts
from contralens.world.disturbances import Disturbances, render
from contralens.world.encoder import load_encoder
from contralens.world.planted import planted_activations
from contralens.world.scenes import Scenes
from contralens.world.targets import LAYER, WORLDS, World, load_target
from contralens.world.truth import LEVELS, Truth, known, load_truth, target_activations

CONJUNCTIONS = 72
"""Planted neurons of kind "pairs" on a probe set."""
BLOCK = 256
"""Pictures that are in memory at once."""


@dataclass(frozen=True)
class Case:
    """The neurons of one kind in one world, on one probe set."""

    world: World
    kind: Kind
    dial: float
    seed: int
    activations: Tensor
    """(I,N) of the neurons that have something to tell: none is dead or constant."""
    embeddings: Tensor
    """(I,D) unit rows of the world's encoder."""
    exemplars: Exemplars
    truth: tuple[Truth, ...]
    """(N); label accuracy is about those of kind "known"."""
    names: tuple[str, ...]
    """(N)"""

    @cached_property
    def known(self) -> NDArray[np.bool_]:
        """(N): neurons with a single-valued truth."""
        return known(self.truth)

    @cached_property
    def true_levels(self) -> NDArray[np.bool_]:
        """(N,38): the levels that each neuron responds to, columns as in `LEVELS`."""
        return _marked([t.levels for t in self.truth])

    @cached_property
    def tied_levels(self) -> NDArray[np.bool_]:
        """(N,38): levels that the world ties to a neuron's true ones and that are not true themselves."""
        tied = self.world.partner_levels
        marked = _marked([[p for level in t.levels for p in tied.get(level, ())] for t in self.truth])
        return marked & ~self.true_levels

    @cached_property
    def clusters(self) -> NDArray[np.str_]:
        """(N): neurons of one world that stand for the same level are right or wrong together."""
        first = [t.levels[0] if t.levels else (t.kind, 0) for t in self.truth]
        return np.array([f"{self.world.index}/{factor}/{number}" for factor, number in first])


def cases(
    worlds: Sequence[int | World] = tuple(BENCH_WORLDS),
    dials: Sequence[float] = DIALS,
    kinds: Sequence[Kind] = KINDS,
    seeds: Sequence[int] = SEEDS,
    *,
    images: int = IMAGES,
    k: int = 30,
    edition: int = 1,
    nuisances: str = "none",
    progress: Progress = silent,
) -> Iterator[Case]:
    """Every case asked for, world by world; what the dials of one world share is rendered and embedded once.

    About 4 ms of one core for a new picture and 0.1 s for a case. A world without a trained network yields its planted
    neurons only.

    >>> [(c.world.index, c.kind, c.dial) for c in cases([4], [0.5, 1.0], seeds=[5], images=60)]
    [(4, 'planted', 0.5), (4, 'planted', 1.0)]
    """
    for kind in kinds:
        if kind not in ALL_KINDS:
            raise InputError(f"unknown kind {kind!r}{nearest(str(kind), ALL_KINDS)}; known: {', '.join(ALL_KINDS)}")
    if any(not 0.0 <= dial <= 1.0 for dial in dials):
        raise InputError(f"a dial must be between 0 (untied) and 1 (always together); got {', '.join(map(str, dials))}")
    frozen = version(edition)
    shares, chosen = frozen.shares(nuisances), [frozen.world(w) for w in worlds]
    for done, (of, seed) in enumerate((w, s) for w in chosen for s in seeds):
        progress("worlds", done, len(chosen) * len(seeds))
        own = [kind for kind in kinds if kind != "trained" or of.index in WORLDS]
        if not own:
            continue
        scenes = [probe_scenes(of, images, seed, dial) for dial in dials]
        embeddings, trained, place = _seen(of, scenes, "trained" in own, edition, shares)
        for dial, drawn, rows in zip(dials, scenes, place, strict=True):
            for kind in own:
                if kind == "planted":
                    values, names, truth = planted_activations(drawn, of, seed)
                    a = torch.from_numpy(values)
                elif kind == "pairs":
                    a, truth, names = conjunctions(drawn, of, seed)
                else:
                    a, truth = trained[rows], load_truth(of.index)
                    names = [f"{LAYER}/{n}" for n in range(a.shape[1])]
                yield _case(of, kind, dial, seed, a, embeddings[rows], truth, names, k)
    progress("worlds", len(chosen) * len(seeds), len(chosen) * len(seeds))


def embedded(of: World, scenes: Scenes) -> Tensor:
    """Embeddings (I,D), unit rows, of the pictures of scenes by the world's encoder."""
    e, _, place = _seen(of, [scenes], trained=False, edition=1, shares=Disturbances())
    return e[place[0]]


def spoken(edition: int = 1) -> tuple[dict[str, NDArray[np.bool_]], dict[str, Tensor]]:
    """The two vocabularies: which levels each concept names, (C,38), and its text embedding, (C,D).

    "single" holds the 38 levels, "pairs" those and their 292 combinations; the encoder is that of a version.
    """
    encoder = load_encoder(edition)
    words = {"single": concepts(), "pairs": concepts(2)}
    return (
        {which: _marked([c.levels for c in own]) for which, own in words.items()},
        {which: encoder.texts([c.text for c in own]) for which, own in words.items()},
    )


def conjunctions(scenes: Scenes, of: World, seed: int) -> tuple[Tensor, list[Truth], list[str]]:
    """Planted neurons (I,N) that fire where a scene has both of two levels, with their truth and names.

    a = m u + .05 |z|: m says whether the scene has both, u is uniform on [.6, 1], z is normal. The pairs are drawn from
    the 292 that the vocabulary names, without those that fewer than five scenes have.
    """
    pairs = [c for c in concepts(2) if len(c.levels) == 2]
    rng = np.random.default_rng([seed, of.index, 2])
    columns: list[NDArray[np.float64]] = []
    truth, names = list[Truth](), list[str]()
    for place in rng.permutation(len(pairs)):
        shown = np.all([scenes.of(factor) == number for factor, number in pairs[place].levels], axis=0)
        if shown.sum() < 5 or len(columns) == CONJUNCTIONS:
            continue
        u, z = rng.uniform(0.6, 1.0, len(scenes)), rng.standard_normal(len(scenes))
        columns.append(shown * u + 0.05 * np.abs(z))
        truth.append(Truth(pairs[place].levels, "known", float("nan")))
        names.append(f"pair/{pairs[place].text}")
    made = np.stack(columns, 1) if columns else np.zeros((len(scenes), 0))
    return torch.from_numpy(made.astype(np.float32)), truth, names


def _case(
    of: World, kind: Kind, dial: float, seed: int, a: Tensor, e: Tensor, truth: Sequence[Truth], names: Sequence[str],
    k: int,
) -> Case:  # fmt: skip
    status = neuron_statistics(a).status()
    kept = [n for n, s in enumerate(status) if s == "ok"]
    a = a[:, kept].contiguous()
    return Case(
        of, kind, dial, seed, a, e, find_exemplars(a, e, k=k), tuple(truth[n] for n in kept),
        tuple(names[n] for n in kept),
    )  # fmt: skip


def _seen(
    of: World, scenes: Sequence[Scenes], trained: bool, edition: int, shares: Disturbances
) -> tuple[Tensor, Tensor, list[NDArray[np.int64]]]:
    """Embeddings (U,D) and activations (U,N) of all different pictures, and which of them each set of scenes shows."""
    size = len(scenes[0])
    levels = np.concatenate([s.levels for s in scenes])
    at = np.tile(np.arange(size), len(scenes))
    _, first, place = np.unique(np.column_stack([at, levels]), axis=0, return_index=True, return_inverse=True)
    different = Scenes(levels[first], scenes[0].nuisances[at[first]])
    tower, net = load_encoder(edition).model.image, load_target(of.index) if trained else None
    assert isinstance(tower, torch.nn.Module)
    embeddings, activations = [], []
    for start in range(0, len(different), BLOCK):
        pictures = render(different[start : start + BLOCK], shares)
        embeddings.append(rows_of(tower, pictures))
        if net is not None:
            activations.append(torch.from_numpy(target_activations(net, pictures)[LAYER]))
    e = torch.nn.functional.normalize(torch.cat(embeddings), dim=1)
    return (
        e,
        torch.cat(activations) if activations else torch.empty(len(e), 0),
        np.split(place.reshape(-1), len(scenes)),
    )


def _marked(levels: Sequence[Sequence[tuple[str, int]]]) -> NDArray[np.bool_]:
    at = {level: i for i, level in enumerate(LEVELS)}
    out = np.zeros((len(levels), len(LEVELS)), bool)
    for row, own in zip(out, levels, strict=True):
        row[[at[level] for level in own]] = True
    return out
