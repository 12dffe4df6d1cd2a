"""Many machines: the unit of work is a tile of a deterministic list of images, and the store is the only meeting point.

Every worker builds the image set, the target and the encoder from the same settings and fills the tiles it is given;
a tile appears in the store whole or not at all. So workers need not know of each other: shard i of n takes the tiles
t with t % n == i, whatever has been done before is not done again, and a re-run may use another n. All workers must see
the images under the same paths and share the cache folder. The images' fingerprints, which decide what a tile is, are
shared through the store as well (`data.known`): shards that start together hash a part each.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from contralens.checks import require, whole
from contralens.collecting.collect import Speed, collect_tiles, lacking_tiles, owned_images
from contralens.collecting.precision import in_precision
from contralens.collecting.probing import proved
from contralens.data.images import images as image_set
from contralens.data.known import known_fingerprints
from contralens.data.store import TILE, Store, default_cache
from contralens.errors import InputError
from contralens.models.encoders import encoder as load_encoder
from contralens.models.relevance import ranked
from contralens.models.targets import load_model, targets
from contralens.types import Extractor, Images, Progress, silent


@dataclass(frozen=True)
class Job:
    """What to collect, in words that can travel to another machine (specs, paths, or objects that pickle)."""

    target: Any
    images: Any
    encoder: Any
    """One encoder or a list of them."""
    layer: str | Sequence[str] | None = None
    """One layer, or several: one forward of the target gives the rows of all."""
    target_options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `target`: pooling, checkpoint, weights, preprocess..."""
    sae: Any = None
    sae_pooling: str | None = None
    rank_by: str = "activation"
    limit: int | None = None
    seed: int = 0
    cache: str | None = None
    device: str | None = None
    batch_size: int = 32
    workers: int | None = None
    decode: str = "exact"
    precision: str = "float32"
    allow_nondeterministic: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "workers", "limit"):
            if getattr(self, name) is not None:
                whole(name, getattr(self, name))
        whole("seed", self.seed, -(2**63), 2**63 - 1)

    def images_and_extractors(self, first: int = 0) -> tuple[Images, list[Extractor]]:
        """The image set, hashed from image `first` on, and the target (one for each layer) and the encoders."""
        probe = image_set(self.images, limit=self.limit, seed=self.seed)
        specs = self.encoder if isinstance(self.encoder, (list, tuple)) else [self.encoder]
        encoders = [load_encoder(spec, device=self.device or "cpu", decode=self.decode) for spec in specs]
        allow = self.allow_nondeterministic
        fitting, _ = proved(
            [*self._models(), *encoders], probe, self.store(), allow_nondeterministic=allow, first=first
        )
        extractors, _ = in_precision(self.precision, fitting, probe, self.store())
        return probe, extractors

    def _models(self) -> list[Extractor]:
        options = {"device": self.device, **self.target_options}
        if self.decode != "exact":
            options["decode"] = self.decode
        if self.allow_nondeterministic:
            options["allow_nondeterministic"] = True
        layers = self.layer
        if layers is not None and not isinstance(layers, str) and len(layers) == 1:
            layers = layers[0]
        if layers is None or isinstance(layers, str):
            made = load_model(self.target, {"layer": layers, **options}, self.sae, self.sae_pooling)
            return [ranked(made, self.rank_by)]
        if self.sae is not None:
            raise InputError("a sparse autoencoder belongs to one layer: give that layer alone")
        return [ranked(made, self.rank_by) for made in targets(self.target, layers, **options)]

    def store(self) -> Store:
        return Store(self.cache or default_cache())


@dataclass(frozen=True)
class Done:
    """What a shard or a Ray job has done."""

    tiles: int
    """Tiles of this shard, whether computed now or before; tiles computed, for Ray."""
    total: int
    """Tiles of the whole set."""
    speed: Speed


def collect_shard(job: Job, shard: int, shards: int, progress: Progress = silent) -> Done:
    """Collect the tiles t with t % shards == shard, for SLURM, torchrun or any job system."""
    if not 0 <= shard < shards:
        raise InputError(f"a shard i/n needs 0 <= i < n; got {shard}/{shards}")
    probe, extractors = job.images_and_extractors(shard * TILE)
    store, speed = job.store(), Speed()
    total = len(owned_images(known_fingerprints(probe, store, shard * TILE)))
    tiles = range(shard, total, shards)
    options: dict[str, Any] = {"batch_size": job.batch_size, "workers": job.workers, "progress": progress}
    collect_tiles(probe, extractors, store, tiles, speed=speed, **options)
    return Done(len(tiles), total, speed)


def collect_ray(job: Job, actors: int | None = None, gpus_per_actor: float = 0.0, cpus_per_actor: float = 1.0) -> Done:
    """Collect what the store lacks on a Ray cluster, one actor per copy of the networks; needs the extra `ray`.

    A worker that dies is started again (the default of Ray Data) and does only its unfinished tile again; a driver
    that dies leaves the store as it is, and the next run goes on from there.
    """
    ray = require("ray", "ray")
    ray_data = require("ray.data", "ray")
    if job.cache is None:  # workers may have another home
        job = replace(job, cache=str(default_cache()))
    probe, extractors = job.images_and_extractors()
    lacking = lacking_tiles(probe, extractors, job.store())
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


class _Worker:
    """One copy of the networks on a Ray worker; a call collects one tile."""

    def __init__(self, job: Job) -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the driver has the weights; do not wait for a network
        self.job = job
        self.probe, self.extractors = job.images_and_extractors()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        speed, tile, job = Speed(), int(row["tile"]), self.job
        options: dict[str, Any] = {"batch_size": job.batch_size, "workers": job.workers}
        collect_tiles(self.probe, self.extractors, job.store(), [tile], speed=speed, **options)
        took = {"images": speed.images, "seconds": speed.seconds, "forward_seconds": speed.forward_seconds}
        return {**row, **took}
