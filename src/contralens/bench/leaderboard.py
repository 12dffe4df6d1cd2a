"""The leaderboard of the world benchmark, version 2: a row per scorer with right, exact, time and memory."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from contralens.bench.cases import Case, cases, spoken
from contralens.bench.versions import version
from contralens.bench.world_bench import BENCHED, CHANCE, WorldBench, from_exemplars, world_bench
from contralens.data.table_folders import plain
from contralens.math.intervals import clustered_interval
from contralens.settings.bench import Leaderboard
from contralens.settings.record import job
from contralens.world.combinations import frozen

CLEAN = "none"


@job(Leaderboard)
def leaderboard(settings: Leaderboard) -> dict[str, Any]:
    """Settings and rows, best first; the settings that are not given are the frozen ones.

    A row has `scorer`; `right` and `exact`, the mean over planted and trained neurons, each kind counting once, on
    pictures without nuisances; the same with nuisances as `right_rough` and `exact_rough`; `planted` and `trained`, the
    share right of each kind; `seconds` of CPU and `bytes` at the peak for the planted neurons of one probe set and the
    38 levels. Every share is mean, low, high (95 %; bootstrap over the levels that neurons stand for). The row "chance"
    is the first scorer on neurons of random activations.

    >>> board = leaderboard(["csp"], worlds=[5], dials=[0.5], seeds=[31], images=120)
    >>> [row["scorer"] for row in board["rows"]]
    ['csp', 'chance']
    """
    of, own = version(2), frozen()["leaderboard"]
    usual = {"worlds": tuple(of.worlds), "dials": own["dials"], "seeds": of.seeds, "images": of.images}
    chosen: dict[str, Any] = {key: getattr(settings, key) or usual[key] for key in usual}
    scorers = settings.scorers or BENCHED
    # First, since a scorer that fails then does so after seconds.
    costs = _costs(scorers, chosen["worlds"][0], chosen["seeds"][0], chosen["images"], of.k)
    found = {
        name: world_bench(
            scorers, **chosen, k=min(of.k, chosen["images"]), fakes=settings.fakes, edition=2, nuisances=name,
            progress=settings.progress,
        )
        for name in own["nuisances"]
    }  # fmt: skip
    rows = [_row(name, found, costs) for name in found[CLEAN].outcomes]
    rows.sort(key=lambda row: (row["scorer"] == CHANCE, -row["right"][0]))
    changed = sorted(key for key in usual if list(np.atleast_1d(chosen[key])) != list(np.atleast_1d(usual[key])))
    told = {**{key: np.asarray(value).tolist() for key, value in chosen.items()}, "k": of.k, "changed": changed}
    found_out: dict[str, Any] = plain({"version": 2, "settings": told, "rows": rows})
    return found_out


def _row(scorer: str, found: dict[str, WorldBench], costs: dict[str, tuple[float, float]]) -> dict[str, Any]:
    row: dict[str, Any] = {"scorer": scorer}
    for name, bench in found.items():
        end = "" if name == CLEAN else "_rough"
        kinds = bench.neurons["kind"]
        for measure in ("right", "exact"):
            values = bench.outcomes[scorer][measure]
            row[measure + end] = _balanced(values, kinds, bench.neurons["cluster"])
        if name == CLEAN:
            for kind in bench.settings["kinds"]:
                here = kinds == kind
                one = clustered_interval(bench.outcomes[scorer]["right"][here], bench.neurons["cluster"][here])
                row[kind] = [one.mean, max(one.low, 0.0), min(one.high, 1.0)]
    row["seconds"], row["bytes"] = costs.get(scorer, (float("nan"), float("nan")))
    return row


def _balanced(values: NDArray[np.float64], kinds: NDArray[Any], clusters: NDArray[Any]) -> list[float]:
    """Mean, low, high of 0 or 1 (R), each kind of neuron counting once: bootstrap over clusters, 2,000 samples."""
    names, at = np.unique(clusters, return_inverse=True)
    sums = np.zeros((2, len(names), len(set(kinds))))  # right and all, by cluster and kind
    for k, kind in enumerate(sorted(set(kinds))):
        here = kinds == kind
        np.add.at(sums[0, :, k], at[here], values[here])
        np.add.at(sums[1, :, k], at[here], 1.0)
    mean = float((sums[0].sum(0) / sums[1].sum(0)).mean())
    drawn = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), size=2000)
    with np.errstate(invalid="ignore", divide="ignore"):
        samples = np.nanmean(np.einsum("bn,snk->sbk", drawn, sums)[0] / np.einsum("bn,nk->bk", drawn, sums[1]), 1)
    low, high = np.quantile(samples, [0.025, 0.975])
    return [mean, float(low), float(high)]


def _costs(scorers: Sequence[str], world: int, seed: int, images: int, k: int) -> dict[str, tuple[float, float]]:
    """CPU seconds and peak bytes of each scorer on the planted neurons of one probe set, after a first run."""
    case = next(cases([world], [0.9], ["planted"], [seed], images=images, k=min(k, images), edition=2))
    texts = spoken(2)[1]["single"]
    return {scorer: _cost(scorer, case, texts) for scorer in scorers}


def _cost(scorer: str, case: Case, texts: torch.Tensor) -> tuple[float, float]:
    method = from_exemplars(scorer)
    method(case, texts)
    before = _resident(reset=True)
    start = time.process_time()
    method(case, texts)
    return time.process_time() - start, max(_resident() - before, 0.0)


def _resident(reset: bool = False) -> float:
    """Peak resident bytes of this process since the last reset; NaN where the system does not say (not Linux)."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    except OSError:
        return float("nan")
    return float(peak[1]) * 1024 if peak else float("nan")
