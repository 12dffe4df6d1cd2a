"""Many machines: the unit of work is a tile of a deterministic list of images, and the store is the only meeting point.

Every worker builds the image set, the target and the encoder from the same settings and fills the tiles it is given;
whole batches of a tile appear in the store atomically. So workers need not know of each other: shard i of n takes the
tiles t with t % n == i, whatever has been done before is not done again, and a re-run may use another n. All workers
must see the images under the same paths and share the cache folder. The images' fingerprints, which decide what a tile
is, are shared through the store as well (`data.fingerprint_cache`): shards that start together hash a part each.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from contralens.checks import require
from contralens.collecting.batches import Speed
from contralens.collecting.collect import collect_tiles, lacking_tiles, owned_images
from contralens.collecting.networks import networks, steady
from contralens.data.fingerprint_cache import known_fingerprints
from contralens.data.store import TILE, Store, default_cache
from contralens.errors import InputError
from contralens.settings.label import Collect
from contralens.types import Extractor, Images, Progress, silent


@dataclass(frozen=True)
class Done:
    """What a shard or a Ray job has done."""

    tiles: int
    """Tiles of this shard, whether computed now or before; tiles computed, for Ray."""
    total: int
    """Tiles of the whole set."""
    speed: Speed


def collect_shard(job: Collect, shard: int, shards: int, progress: Progress = silent) -> Done:
    """Collect the tiles t with t % shards == shard, for SLURM, torchrun or any job system."""
    if not 0 <= shard < shards:
        raise InputError(f"a shard i/n needs 0 <= i < n; got {shard}/{shards}")
    probe, extractors = _opened(job, shard * TILE)
    store, speed = Store(job.cache), Speed()
    total = len(owned_images(known_fingerprints(probe, store, shard * TILE)))
    tiles = range(shard, total, shards)
    options: dict[str, Any] = {"batch_size": job.batch_size, "workers": job.workers, "processes": job.processes}
    collect_tiles(probe, extractors, store, tiles, speed=speed, progress=progress, **options)
    return Done(len(tiles), total, speed)


def collect_ray(
    job: Collect, actors: int | None = None, gpus_per_actor: float = 0.0, cpus_per_actor: float = 1.0
) -> Done:
    """Collect missing rows on a Ray cluster, one actor per copy of the networks; needs the extra `ray`.

    A worker that dies is started again (the default of Ray Data) and does only its unfinished tile again; a driver
    that dies leaves the store as it is, and the next run continues from there.
    """
    if job.processes:
        raise InputError("Ray starts its own processes; set `ray_actors`, not `processes`")
    ray = require("ray", "ray")
    ray_data = require("ray.data", "ray")
    if job.cache is None:  # workers may have another home
        job = job.to(Collect, cache=str(default_cache()))
    probe, extractors = _opened(job)
    lacking = lacking_tiles(probe, extractors, Store(job.cache))
    total = len(owned_images(probe.fingerprints()))
    if not lacking:
        return Done(0, total, Speed())
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False, configure_logging=False)
    count = min(len(lacking), actors or max(1, int(ray.cluster_resources().get("CPU", 1) / cpus_per_actor)))
    del extractors  # the driver's copy of the networks is not needed any more
    done = (
        ray_data.from_items([{"tile": tile} for tile in lacking], override_num_blocks=len(lacking))
        .map(
            _Worker,
            fn_constructor_args=(job,),
            compute=ray_data.ActorPoolStrategy(size=count),
            num_cpus=cpus_per_actor,
            num_gpus=gpus_per_actor,
        )
        .take_all()
    )
    seconds, forward = (sum(row[name] for row in done) for name in ("seconds", "forward_seconds"))
    return Done(len(done), total, Speed(sum(row["images"] for row in done), seconds, forward, workers=count))


def _opened(job: Collect, first: int = 0) -> tuple[Images, list[Extractor]]:
    """The image set, hashed from image `first` on, and the target (one for each layer) and the encoders."""
    found = networks(job)
    return found.images, steady(job, found, Store(job.cache), first).extractors


class _Worker:
    """One copy of the networks on a Ray worker; a call collects one tile."""

    def __init__(self, job: Collect) -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the driver has the weights; do not wait for a network
        self.job = job
        self.probe, self.extractors = _opened(job)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        speed, tile, job = Speed(), int(row["tile"]), self.job
        options: dict[str, Any] = {"batch_size": job.batch_size, "workers": job.workers}
        collect_tiles(self.probe, self.extractors, Store(job.cache), [tile], speed=speed, **options)
        took = {"images": speed.images, "seconds": speed.seconds, "forward_seconds": speed.forward_seconds}
        return {**row, **took}
