"""The demo: networks whose truth is known, labeled by every scorer, and how many labels are right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from contralens.bench.world_images import IMAGES, dominated, score_labels, wilson, write_world
from contralens.collecting.collect import collect
from contralens.collecting.probe_check import proved
from contralens.data.added_files import check_listed, write_listed
from contralens.data.folder_kinds import RUN
from contralens.data.images import images as image_set
from contralens.data.replace_folder import reserved
from contralens.data.runs import Run
from contralens.data.seals import read_object
from contralens.data.store import Store
from contralens.encoders.registry import encoder
from contralens.labeling.label import label
from contralens.maps import add_maps
from contralens.models.targets import target
from contralens.types import Extractor, Images, Progress, silent
from contralens.world.planted import PlantedTarget
from contralens.world.targets import STRENGTH, WORLDS
from contralens.world.truth import Truth, known, load_truth

SCORERS = (
    "semanticlens",
    "clip_dissect",
    "clip_dissect_csp",
    "mean_difference",
    "centred",
    "centred:gamma=1",
    "csp:gamma=0",
    "csp:gamma=0.5",
    "csp",
)
KINDS = ("planted", "trained")


@dataclass(frozen=True, slots=True)
class Judged:
    """Whether the labels of one scorer name the true concept, over the neurons of one kind in one world."""

    world: int
    kind: str
    scorer: str
    right: np.ndarray
    """(N) bool, for the neurons with a known truth."""
    dominated: np.ndarray
    """(N) bool: an incidental level shows on most activating images (see `contralens.bench.world_images.dominated`)."""


def demo(
    out: str | Path,
    *,
    worlds: Sequence[int] = tuple(WORLDS),
    images: int = IMAGES,
    replace: bool = False,
    cache: str | Path | None = None,
    progress: Progress = silent,
) -> tuple[list[Run], list[Judged]]:
    """Render the worlds, label their planted and trained neurons, and judge every label against the measured truth.

    Writes out/world-W/{images,planted,trained}/ and out/demo.json; returns the runs and the judgements. `replace` is
    that of `contralens.label`.
    """
    out = Path(out)
    figures = read_object(out / "demo.json") or {}
    older = ["demo.json"] if figures.keys() == {"how", "results"} else []  # of a version without digests
    check_listed(out, "demo.json", (), older=older)
    runs: list[Run] = []
    judged: list[Judged] = []
    for w in worlds:
        folder = out / f"world-{w}"
        with ExitStack() as places:
            for kind in KINDS:
                places.enter_context(reserved(folder / kind, RUN, replace=replace, remade=("maps",)))
            for kind, run, own in _labeled(w, folder, images, cache, progress):
                runs.append(run)
                judged += _judge(run, own[0], w, kind, own[1])
    results = {
        "how": f"{images} probe images a world, ties of strength {STRENGTH}, K=30, 38 concepts; "
        "right = the label names a level that the neuron truly responds to; intervals: Wilson, 95 %",
        "results": summary(judged),
    }
    write_listed(out, "demo.json", results, {}, older=older)
    return runs, judged


def _labeled(
    w: int, folder: Path, images: int, cache: str | Path | None, progress: Progress
) -> Iterator[tuple[str, Run, tuple[Sequence[Truth], Any]]]:
    """Kind, run, truth and scenes of a world's planted and trained neurons."""
    scenes, pictures = write_world(folder, w, images)
    planted, probe = PlantedTarget(w, scenes, pictures), image_set(folder / "images")
    _collect([planted, target(f"world:{w}"), encoder("world")], probe, Store(cache), f"world {w}", progress)
    for kind, network, truth in zip(KINDS, (planted, f"world:{w}"), (planted.truth, load_truth(w)), strict=True):
        where = f"world {w} {kind}"
        run = label(
            network,
            probe,
            "world",
            folder / "vocabulary.txt",
            scorers=SCORERS,
            out=folder / kind,
            cache=cache,
            progress=lambda stage, done, total, where=where: progress(f"{where}: {stage}", done, total),
        )
        if kind == "trained":
            add_maps(run, source=probe, cache=cache)
        yield kind, run, (truth, scenes)


def _collect(extractors: Sequence[Extractor], probe: Images, store: Store, where: str, progress: Progress) -> None:
    """Rows of every picture into the cache, from one look at each; both runs read them there."""
    some, _ = proved(extractors, probe, store)
    collect(probe, some, store, progress=lambda stage, done, total: progress(f"{where}: {stage}", done, total))


def _judge(run: Run, truth: Sequence[Truth], world: int, kind: str, scenes: Any) -> list[Judged]:
    """Judgements of the neurons that were labeled and whose truth is known."""
    labeled = np.array(run.neurons["selected"].to_pylist(), bool)
    counted = known(truth) & labeled
    own = [t for t, c in zip(truth, counted, strict=True) if c]
    k = run.manifest["k"]
    order = np.array(run.exemplars["neuron"].to_pylist()).reshape(-1, k)[:, 0]
    positives = np.array(run.exemplars["positive"].to_pylist()).reshape(-1, k)[np.isin(order, np.flatnonzero(counted))]
    misled = dominated(positives, scenes, own)
    out = []
    for scorer in run.scorers:
        labels = {row["neuron"]: row["label"] for row in run.rows(scorer)}
        right = score_labels([labels[n] for n in np.flatnonzero(counted).tolist()], own)
        out.append(Judged(world, kind, scorer, right, misled))
    return out


def summary(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """Right labels, number and Wilson interval by scorer: for each world and kind, for all, and where dominated."""
    rows = []
    for scorer in dict.fromkeys(j.scorer for j in judged):
        own = [j for j in judged if j.scorer == scorer]
        groups = {f"world {j.world} {j.kind}": j.right for j in own}
        for kind in KINDS:
            mine = [j for j in own if j.kind == kind]
            groups[f"all {kind}"] = np.concatenate([j.right for j in mine])
            groups[f"dominated {kind}"] = np.concatenate([j.right[j.dominated] for j in mine])
        for group, right in groups.items():
            low, high = wilson(int(right.sum()), len(right))
            rows.append(
                {
                    "scorer": scorer,
                    "neurons": group,
                    "right": int(right.sum()),
                    "of": len(right),
                    "share": float(right.mean()) if len(right) else None,
                    "interval": [low, high],
                }
            )
    return rows
