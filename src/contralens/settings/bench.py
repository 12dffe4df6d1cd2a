"""The settings of the benchmarks with known truth, and of rendered images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from contralens.checks import FAKES
from contralens.settings.kinds import (
    ANY_WHOLE,
    NULL_NEURONS,
    NUMBER,
    PATH,
    PYTHON,
    SWITCH,
    TEXT,
    WHOLE,
    WORLD,
    between,
    one_of,
    several,
    whole_from,
)
from contralens.settings.record import Settings, about, setting
from contralens.types import Progress, silent

Kind = Literal["planted", "trained", "pairs"]
KINDS: tuple[Kind, ...] = ("planted", "trained")
ALL_KINDS: tuple[Kind, ...] = (*KINDS, "pairs")
IMAGES = 2000
"""Probe scenes of a world in the demo."""
SEED = 5
"""Seed of the probe scenes; the targets were trained on others."""
PICTURES = whole_from(1, 1_000_000)
SCORERS, WORLDS, DIALS, SEEDS = several(TEXT), several(WORLD), several(NUMBER), several(ANY_WHOLE)
OWN_WORLD = "Or worlds of your own."


@dataclass(frozen=True, kw_only=True)
class Rendered(Settings):
    """Images to try things with."""

    images: int = setting(IMAGES, PICTURES, "Number of images.")
    seed: int = setting(SEED, ANY_WHOLE, "Seed of the scenes; the demo has 5.")


@dataclass(frozen=True, kw_only=True)
class Frozen(Settings):
    """Probe sets of version 2, all of them where nothing else is asked for."""

    worlds: Sequence[Any] | None = setting(None, WORLDS, "World 1 to 7, repeatable (default: all).",
        flag="--world", python=OWN_WORLD)  # fmt: skip
    dials: Sequence[float] | None = setting(None, DIALS, "Co-occurrence rate of confounder and true factor, 0 to 1, "
        "repeatable (default: seven values).", flag="--dial")  # fmt: skip
    seeds: Sequence[int] | None = setting(None, SEEDS, "Seed of a probe set, repeatable (default: 31, 32).",
        flag="--seed")  # fmt: skip
    images: int = setting(IMAGES, PICTURES, "Images per probe set.")
    progress: Progress = setting(silent, PYTHON, "Called with stage, done and total.")


@dataclass(frozen=True, kw_only=True)
class WorldBenchmark(Frozen):
    """All settings of `contralens.bench.world_bench.world_bench`."""

    scorers: Sequence[str] | None = field(default=None, kw_only=False, metadata=about(SCORERS,
        "Scorer, repeatable (default: all); differences are relative to csp.", flag="--scorer",
        python="With \"+simple\" a combination labels a neuron only where it explains more than each of its parts "
        "(`label --simple`)."))  # fmt: skip
    methods: Mapping[str, Callable[..., Any]] | None = field(
        default=None,
        kw_only=False,
        metadata=about(
            PYTHON,
            "More methods by name: functions of a `Case` (with activations) and text embeddings (C,D) to scores (N,C).",
        ),
    )
    worlds: Sequence[Any] | None = setting(None, WORLDS, "World 1 to 6 (version 2: to 7), repeatable (default: all).",
        flag="--world", python=OWN_WORLD)  # fmt: skip
    kinds: Sequence[Kind] = setting(KINDS, several(one_of(*ALL_KINDS)),
        "Neurons: planted, trained (default) or pairs (planted, fire for two levels), repeatable.",
        flag="--kind")  # fmt: skip
    seeds: Sequence[int] | None = setting(None, SEEDS, "Seed of a probe set, repeatable (default: 5 and 6).",
        flag="--seed")  # fmt: skip
    edition: int = setting(1, WHOLE, "Version of the benchmark, 1 or 2; decides encoder, worlds and default seeds.")
    nuisances: str = setting("none", TEXT, "Nuisances of version 2: none, texture, occlusion, objects, blur, all.",
        flag="--nuisance")  # fmt: skip
    k: int = setting(30, WHOLE, "Exemplars per neuron.", flag="-k")
    fakes: int = setting(FAKES, NULL_NEURONS, "Number of null neurons in the null test.")
    fdr: float = setting(0.05, between(), "False-discovery rate above which a label counts as abstention.")


@dataclass(frozen=True, kw_only=True)
class MeaningsBenchmark(Frozen):
    """All settings of `contralens.bench.meanings_bench.meanings_bench`."""

    scorers: Sequence[str] = field(default=("csp", "semanticlens"), kw_only=False, metadata=about(SCORERS,
        "Scorer, repeatable (default: csp and semanticlens).", flag="--scorer"))  # fmt: skip
    worlds: Sequence[Any] = setting((1, 2), WORLDS, "World 1 to 6, repeatable (default: 1 and 2).",
        flag="--world", python=OWN_WORLD)  # fmt: skip
    dials: Sequence[float] = setting((0.7,), DIALS, "Co-occurrence rate of confounder and true factor, 0 to 1, "
        "repeatable (default: 0.7).", flag="--dial")  # fmt: skip
    seeds: Sequence[int] = setting((1, 2), SEEDS, "Seed of a probe set, repeatable (default: 1 and 2).",
        flag="--seed")  # fmt: skip
    neurons: int = setting(24, whole_from(1, 10_000),
        "Planted neurons of each number of meanings, per probe set.")  # fmt: skip
    k: int = setting(30, WHOLE, "Exemplars per neuron.", flag="-k")


@dataclass(frozen=True, kw_only=True)
class Leaderboard(Frozen):
    """All settings of `contralens.bench.leaderboard.leaderboard`."""

    scorers: Sequence[str] | None = field(default=None, kw_only=False, metadata=about(SCORERS,
        "Scorer, also FILE.py:NAME, repeatable (default: all).", flag="--scorer"))  # fmt: skip
    dials: Sequence[float] | None = setting(None, DIALS, "Dial, repeatable (default: 0, 0.5, 0.9).",
        flag="--dial")  # fmt: skip
    fakes: int = setting(100, NULL_NEURONS, "Number of null neurons in the null test.")


@dataclass(frozen=True, kw_only=True)
class ExportedBenchmark(Frozen):
    """All settings of `contralens.bench.export.export_benchmark`."""

    out: str | Path = field(kw_only=False, metadata=about(PATH, "New folder to write."))
    nuisances: Sequence[str] = setting(("none",), SCORERS,
        "none, texture, occlusion, objects, blur or all; repeatable (default: none).", flag="--nuisance")  # fmt: skip
    pictures: bool = setting(True, SWITCH, "Write the pictures, about 12 kB each.")
