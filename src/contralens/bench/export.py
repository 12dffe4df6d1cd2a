"""The world benchmark as plain files, to use without contralens: pictures, activations, embeddings, truth."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from contralens.bench.cases import Case, cases, spoken
from contralens.bench.versions import Version, version
from contralens.bench.world_images import png, probe_scenes, scene_table
from contralens.data.atomic_files import explained, write_whole
from contralens.errors import InputError
from contralens.settings.bench import ExportedBenchmark
from contralens.settings.record import job
from contralens.world.captions import concepts
from contralens.world.disturbances import render
from contralens.world.scenes import FACTORS
from contralens.world.targets import World
from contralens.world.truth import LEVELS

INDEX = "benchmark.json"
FORMAT = 1


@job(ExportedBenchmark)
def export_benchmark(settings: ExportedBenchmark) -> list[Path]:
    """Write probe sets into `out`, each a folder; returns those folders. The defaults are the version's own.

    `out`/benchmark.json lists them, names the 38 levels, the factors and the settings; concepts.safetensors holds both
    vocabularies, `single` and `pairs`: text rows (C,96) and which levels each names (C,38). tensors.safetensors of a
    probe set holds `embeddings` (I,96), scene `levels` (I,8), and for `planted` and, where there are, `trained` neurons
    the `activations` (I,N), `true` levels (N,38), those `tied` to them (N,38) and whether the truth is `known` (N).
    names.json names neurons and concepts; scenes.parquet has a row per picture; images/ the pictures, about 12 kB each.

    >>> folders = export_benchmark(Path("exported"), worlds=[5], dials=[0.5], seeds=[31], images=20)
    >>> sorted(path.name for path in folders[0].iterdir())
    ['images', 'names.json', 'scenes.parquet', 'tensors.safetensors']
    """
    out, frozen, images = Path(settings.out), version(2), settings.images
    chosen = [frozen.world(w) for w in settings.worlds or frozen.worlds]
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not (out / INDEX).is_file():
        raise InputError(f"{out} holds something else; choose a new folder")
    folders = []
    with explained(out):
        for name in settings.nuisances:
            for of in chosen:
                for seed in settings.seeds or frozen.seeds:
                    drawn = cases(
                        [of], settings.dials or frozen.dials, seeds=[seed], images=images, k=min(frozen.k, images),
                        edition=frozen.number, nuisances=name, progress=settings.progress,
                    )  # fmt: skip
                    for dial, own in _by_dial(drawn):
                        folder = out / f"world-{of.index}" / f"dial-{dial:g}" / f"seed-{seed}" / name
                        _write(folder, frozen, of, own, images, name, settings.pictures)
                        folders.append(folder)
        _write_index(out, frozen.number, folders)
    return folders


def _by_dial(drawn: Iterator[Case]) -> Iterator[tuple[float, list[Case]]]:
    """The kinds of neurons of one probe set together."""
    held: list[Case] = []
    for case in drawn:
        if held and held[0].dial != case.dial:
            yield held[0].dial, held
            held = []
        held.append(case)
    if held:
        yield held[0].dial, held


def _write(
    folder: Path, frozen: Version, of: World, own: list[Case], images: int, nuisances: str, pictures: bool
) -> None:
    scenes = probe_scenes(of, images, own[0].seed, own[0].dial)
    arrays: dict[str, NDArray[Any]] = {"embeddings": own[0].embeddings.numpy(), "levels": scenes.levels}
    for case in own:
        arrays |= {
            f"{case.kind}.activations": case.activations.numpy(),
            f"{case.kind}.true": case.true_levels.astype(np.uint8),
            f"{case.kind}.tied": case.tied_levels.astype(np.uint8),
            f"{case.kind}.known": case.known.astype(np.uint8),
        }
    names = [f"images/{i:05d}.png" for i in range(images)]
    (folder / "images").mkdir(parents=True, exist_ok=True)
    if pictures:
        for start in range(0, images, 256):
            some = slice(start, start + 256)
            for name, picture in zip(names[some], render(scenes[some], frozen.shares(nuisances)), strict=True):
                write_whole(folder / name, png(picture))
    write_whole(folder / "tensors.safetensors", save({k: np.ascontiguousarray(v) for k, v in arrays.items()}))
    write_whole(folder / "names.json", (json.dumps({case.kind: list(case.names) for case in own}) + "\n").encode())
    write_whole(folder / "scenes.parquet", scene_table(scenes, names))


def _write_index(out: Path, edition: int, folders: Sequence[Path]) -> None:
    named, texts = spoken(edition)
    arrays = {f"{which}.texts": rows.numpy() for which, rows in texts.items()}
    arrays |= {f"{which}.names": rows.astype(np.uint8) for which, rows in named.items()}
    write_whole(out / "concepts.safetensors", save(arrays))
    content = {
        "format": FORMAT, "version": edition, "probe_sets": [path.relative_to(out).as_posix() for path in folders],
        "factors": FACTORS, "levels": [[factor, FACTORS[factor][i]] for factor, i in LEVELS],
        "concepts": {"single": [c.text for c in concepts()], "pairs": [c.text for c in concepts(2)]},
    }  # fmt: skip
    write_whole(out / INDEX, (json.dumps(content, indent=1) + "\n").encode())
