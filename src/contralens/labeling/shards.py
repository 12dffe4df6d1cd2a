"""One run from images in shards: each shard is collected with a cache of its own, all are mined and scored together.

No process holds the fingerprints or the activations of all images. One shard at a time is read, and two are open while
one follows the other: lists of images, fingerprints, tiles of the cache. What is kept of all images is their
embeddings, in a nameless file that is mapped, and one byte an image. The run lists the images that some exemplar or
contrast names, each by shard and row.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from contralens.checks import shown
from contralens.collecting.collect import Collected as Rows
from contralens.collecting.collect import read_collected
from contralens.collecting.networks import Networks, networks
from contralens.data.atomic_files import TEMPORARY, digest
from contralens.data.images import images as image_set
from contralens.data.runs import Run
from contralens.data.store import TILE, Store
from contralens.errors import InputError
from contralens.labeling import stages
from contralens.labeling.check_settings import chosen_neurons, ready
from contralens.labeling.manifest import plain
from contralens.labeling.near_copies import near_copies
from contralens.labeling.probe_set import Parts, parts_asked
from contralens.labeling.reserving import reserving
from contralens.labeling.results import Collected, Mined
from contralens.labeling.tables import exemplar_table, image_table, neuron_table
from contralens.math import exemplars as mining
from contralens.math.exemplar_statistics import clarity
from contralens.math.sharded_mining import ShardedActivations, find_exemplars_in_shards
from contralens.math.statistics import neuron_statistics
from contralens.settings.label import Label, Mine
from contralens.settings.record import known
from contralens.types import Exemplars

ALONE = {
    "holdout": 0.0, "groups": None, "calibrate": None, "crop": None, "proposer": None, "candidates": None, "fdr": None,
    "store_activations": True, "reuse": True, "neighbours": "exact", "rank_by": "activation", "limit": None,
}  # fmt: skip
"""Settings that look at all images in another way; they stay at their defaults."""


@dataclass(frozen=True)
class Shard:
    """Images that are collected, and where they stand among all."""

    settings: Mine
    extractors: Sequence[Any]
    first: int
    count: int
    """Images that exemplars may come from."""
    given: int
    copies: int
    skipped: Sequence[dict[str, str]]
    identity: str
    """Digest of the images' contents."""

    @classmethod
    def of(cls, collected: Collected, first: int, file: IO[bytes]) -> Shard:
        """A shard whose images begin at `first`; its embeddings are added to `file`."""
        settings, images = collected.settings, collected.images
        parts = parts_asked(settings, images, collected.store)
        probe = parts.probe(collected.rows)
        for start in range(0, len(probe.usable), 8 * TILE):
            rows = probe.tables[1].rows(probe.fingerprints[start : start + 8 * TILE])
            file.write(np.ascontiguousarray(rows, np.float32).data)
        return cls(
            settings, collected.steady.extractors, first, len(probe.usable), len(images), parts.copied(collected.rows),
            collected.rows.skipped, digest(*probe.fingerprints),
        )  # fmt: skip

    @property
    def end(self) -> int:
        """The first image of the next shard."""
        return self.first + self.count

    def probe(self) -> Rows:
        """Its images and where their rows lie, read anew, so that nothing stays in memory."""
        images, store = image_set(self.settings.images), Store(self.settings.cache)
        return parts_asked(self.settings, images, store).probe(read_collected(images, self.extractors, store))

    def about(self) -> dict[str, Any]:
        """Where its images and its cache are, as the manifest says it."""
        source = plain(getattr(self.settings.images, "source", self.settings.images))
        return {"source": source, "cache": str(Store(self.settings.cache).root.resolve())}


NO_PARTS = Parts([], [], [], 0.0, None, 1)


def label_shards(
    shards: Sequence[tuple[Any, str | Path]], target: Any, encoder: Any, vocabulary: Any, **settings: Any
) -> Run:
    """Label the neurons of a layer on images in shards, with confidence, as `contralens.label` does on all at once.

    Args:
        shards: (images, cache folder) of each, in order. Rows that are not in a cache are collected; `contralens
            collect` on each shard, on any machine, does it beforehand. An image must not be in two shards: copies are
            found within a shard only.
        target: as of `contralens.label`; so are the others.
        encoder: of images and texts.
        vocabulary: the concepts.
        settings: others of `contralens.label`, but those of `ALONE`.

    Returns:
        The `Run`. Its table of images holds those that exemplars and contrasts name, with their shard and row;
        `manifest["images"]["shards"]` says how many each shard has, "sources" where they and their caches are.
        Exemplars and contrasts are those of all images at once; scores and confidence are so but for the rounding of
        sums, and bit for bit where all shards but the last have a multiple of 512 images that can be used.

    Memory: two shards' lists (about 1 kB an image), blocks, (N k, D), one byte an image. Disk: 4 D bytes an image.

    Raises:
        InputError: no shards, a setting that shards do not have, or an argument is invalid.

    >>> run = label_shards([("world-1/images", "shard-0")], "world:1", "world", "world", layer="block3", k=5)
    >>> run.manifest["images"]["shards"], run.rows()[0]["confidence"] is not None
    ([80], True)
    """
    if not isinstance(shards, list | tuple) or not all(
        isinstance(one, list | tuple) and len(one) == 2 for one in shards
    ):
        raise InputError(f"`shards` must be a list of (images, cache folder); got {shown(shards)}")
    if not shards:
        raise InputError("`shards` must be a list of (images, cache folder); it is empty")
    known(Label, settings, "label_shards")
    if both := sorted({"images", "cache"} & set(settings)):
        raise InputError(f"each of `shards` gives its images and its cache: omit `{both[0]}`")
    given = {"target": target, "encoder": encoder, "vocabulary": vocabulary, **settings}
    whole = Label(images=shards[0][0], cache=shards[0][1], **given)
    if other := [name for name, usual in ALONE.items() if getattr(whole, name) != usual]:
        raise InputError(f"shards have no `{other[0]}`: omit it, or label all images at once with `contralens.label`")
    with reserving(whole), tempfile.TemporaryFile(prefix=TEMPORARY, dir=Store(whole.cache).root) as file:
        whole = ready(whole)
        some = [whole.to(Label, images=one, cache=cache) for one, cache in shards]
        return stages.write(stages.judge(stages.score(_mined(some, networks(whole), file))))


def _mined(some: Sequence[Label], opened: Networks, file: IO[bytes]) -> Mined:
    """Exemplars of the images of all shards, and the tables of a run.

    Args:
        some: the settings of each shard.
        opened: the networks.
        file: takes the embeddings.
    """
    parts, first = list[Shard](), None
    for one in some:
        collected = stages.collect(one, replace(opened, images=image_set(one.images)))
        if first and (apart := set(_prints(collected)) - set(_prints(first))):
            name = next(x.name for x in collected.steady.extractors if x.fingerprint in apart)
            raise InputError(
                f"{name} runs in another precision on shard {len(parts)} than on shard 0, where the first images allow "
                "another: omit `precision`"
            )
        parts.append(Shard.of(collected, parts[-1].end if parts else 0, file))
        first = first or replace(collected, rows=replace(collected.rows, usable=[], fingerprints=[]))
        del collected  # its lists of images
    assert first is not None
    file.flush()
    model, settings, total = first.target, first.settings, parts[-1].end
    embeddings = torch.from_numpy(np.memmap(file, np.float32, "c", shape=(total, first.encoder.width)))
    opener = lru_cache(1)(lambda at: parts[at].probe())  # one shard at a time
    activations = ShardedActivations([part.count for part in parts], lambda at: opener(at).activations(0))
    statistics = neuron_statistics(activations)
    chosen = chosen_neurons(settings.neurons, activations, statistics.status())
    exemplars = find_exemplars_in_shards(
        lambda: ((opener(at).activations(0), embeddings[part.first : part.end]) for at, part in enumerate(parts)),
        settings.k, settings.exclude,
    ).of(chosen)  # fmt: skip
    pairs = exemplars.contrasts >= 0
    cold = torch.full(pairs.shape, torch.nan, dtype=exemplars.activations.dtype)
    cold[pairs] = activations.lookup(exemplars.contrasts[pairs], chosen[:, None].expand(pairs.shape)[pairs])
    found = mining.Mined(exemplars, cold, {})
    named = _named(exemplars)
    images, thumbnails = _tables(named, parts, opener)
    own = replace(exemplars, positives=_place(exemplars.positives, named), contrasts=_place(exemplars.contrasts, named))
    clear, fingerprints = clarity(exemplars, embeddings), images["fingerprint"].to_pylist()
    tables = {
        "neurons": neuron_table(model, statistics, statistics.status(), chosen, activations, clear),
        "exemplars": exemplar_table(replace(found, exemplars=own)), "images": images, "thumbnails": thumbnails,
    }  # fmt: skip
    identity = [digest(*(part.identity for part in parts)), model.fingerprint, first.encoder.fingerprint]
    about = {
        "source": None, "given": sum(part.given for part in parts), "fingerprint": identity[0],
        "copies": sum(part.copies for part in parts), "skipped": [row for part in parts for row in part.skipped],
        "shards": [part.count for part in parts], "sources": [part.about() for part in parts],
    }  # fmt: skip
    return Mined(
        settings, first, NO_PARTS, replace(first.rows, usable=range(total)), activations, embeddings, statistics,
        chosen, found, tables, near_copies(own, embeddings[named], fingerprints, thumbnails), None, identity,
        (chosen.tolist(), *settings.mining().values()), about,
    )  # fmt: skip


def _prints(collected: Collected) -> list[str]:
    return [extractor.fingerprint for extractor in collected.steady.extractors]


def _named(exemplars: Exemplars) -> Tensor:
    """The images that exemplars and contrasts name, rising."""
    both = torch.cat([exemplars.positives.reshape(-1), exemplars.contrasts.reshape(-1)])
    named: Tensor = torch.unique(both[both >= 0])
    return named


def _place(images: Tensor, named: Tensor) -> Tensor:
    """The place of images among those that are named; -1 stays -1."""
    return torch.searchsorted(named, images).masked_fill(images < 0, -1)


def _tables(named: Tensor, parts: Sequence[Shard], opener: Callable[[int], Rows]) -> tuple[pa.Table, pa.Table]:
    """The tables of images and thumbnails of a run, of the images that are named."""
    images, pictures = [], dict[str, bytes]()
    for at, part in enumerate(parts):
        rows = (named[(named >= part.first) & (named < part.end)] - part.first).tolist()
        if not rows:
            continue
        probe, names = opener(at), image_set(part.settings.images)
        of = replace(probe, usable=[probe.usable[i] for i in rows], fingerprints=[probe.fingerprints[i] for i in rows])
        table = image_table(names, of, None)
        images.append(table.append_column("shard", pa.array([at] * len(rows), pa.int32())).append_column(
            "row", pa.array(of.usable, pa.int64())
        ))  # fmt: skip
        pictures |= of.thumbnails.blobs(of.fingerprints)
    every = pa.concat_tables(images).set_column(0, "index", pa.array(range(len(named)), pa.int64()))
    names, jpegs = pa.array(list(pictures), pa.string()), pa.array(list(pictures.values()), pa.binary())
    return every, pa.table({"fingerprint": names, "jpeg": jpegs})
