"""A finished run with its numbers available again: from the store where they are there, else computed again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from contralens import types
from contralens.checks import counted
from contralens.collecting.activations import stored_activations
from contralens.collecting.collect import collect
from contralens.collecting.probe_check import proved
from contralens.data.groups import groups_of_sets
from contralens.data.images import images as image_set
from contralens.data.runs import Run
from contralens.data.store import Store
from contralens.data.trust import check_named
from contralens.errors import ImageError, InputError, MissingPackage, ModelUnavailable
from contralens.holdout import VALIDATION, drawn, split_keys
from contralens.math.activation_sources import ActivationSource
from contralens.run_data.missing_rows import with_rows
from contralens.run_data.sharded_images import ALL_AT_ONCE, ShardedImages, in_shards
from contralens.run_data.stored import encoder_of, exemplars_of, mining_of
from contralens.types import Encoder, Exemplars, Extractor, Progress, Target, silent

if TYPE_CHECKING:
    from PIL.Image import Image


class Reopened:
    """A run, its images by part, and rows of any extractor over them.

    Parts: "probe", the images that exemplars came from; "validation" and "test", the held-out ones, that no exemplar
    came from. Held-out images are those that `contralens label --holdout` set aside, or those of another image set,
    from which copies of probe images are left out.

    Args:
        run: the finished run.
        heldout: another image set to evaluate on.
        source: where the run's images are, if they moved.
        target: the network, where the run's manifest cannot name it (an `nn.Module` of yours).
        encoder: the labeling encoder, likewise.
        groups: images that belong together, as `contralens.label` takes them, of the run's images and the held-out
            ones; by default what the run was labeled with. Held-out images of a group that probe images come from are
            left out.
    """

    def __init__(
        self,
        run: Run,
        *,
        heldout: Any = None,
        source: Any = None,
        target: Any = None,
        encoder: Any = None,
        cache: str | Path | None = None,
        device: str | None = None,
        batch_size: int = 32,
        workers: int | None = None,
        processes: int = 0,
        groups: Any = None,
        progress: Progress = silent,
    ) -> None:
        self.run, self.store, self.device = run, Store(cache), device or "cpu"
        self._groups = groups
        self._given = {"target": target, "encoder": encoder}
        self._source, self._heldout = source, heldout
        work: Any = {"batch_size": batch_size, "workers": workers, "processes": processes, "progress": progress}
        self.options: dict[str, Any] = work
        self.notes: list[str] = []
        if run.manifest.get("crop"):
            self.notes.append("the run was labeled from crops of its exemplars; this command uses whole pictures")

    @classmethod
    def of(cls, run: Run, settings: Any, **more: Any) -> Reopened:
        """With the images, and the way of working, that the settings of a job on runs say."""
        names = ("source", "cache", "device", "batch_size", "workers", "processes", "progress")
        return cls(run, **{**{name: getattr(settings, name) for name in names}, **more})

    @property
    def on_other_images(self) -> bool:
        """Whether the held-out images are another set than the run's own."""
        return self._heldout is not None

    @cached_property
    def named(self) -> list[str]:
        """Content fingerprints by row of `run.images`: of the probe images, or those of them that a run in shards
        names."""
        return list(self.run.images["fingerprint"].to_pylist())

    @property
    def probe(self) -> list[str]:
        """`named`, for whatever looks at all probe images.

        Raises:
            InputError: the run was labeled on images in shards.
        """
        if in_shards(self.run):
            raise InputError(ALL_AT_ONCE)
        return self.named

    @cached_property
    def held_out(self) -> list[str]:
        """Content fingerprints of the held-out images."""
        if self._heldout is not None:
            seen = self._probe_among(self.heldout_images)
            own = [f for f in dict.fromkeys(self.heldout_images.fingerprints()) if f not in seen]
            if shared := len(self.heldout_images) - len(own):
                self.notes.append(f"{shared} held-out images excluded: copies of probe images or of each other")
            if not own:
                raise InputError(
                    f"every image of {self.heldout_images.name} is among the run's probe images; give other ones"
                )
            if self._groups is None and self.run.manifest.get("groups"):
                self.notes.append("groups of the held-out images are unknown: give them with groups (--groups)")
            return self._of_other_groups(own)
        kept = self.run.manifest["images"].get("holdout")
        if not kept:
            raise InputError(
                "this run has no held-out images: label with --holdout 0.2, or give other images with --heldout FOLDER"
            )
        return self._of_other_groups(list(kept["fingerprints"]))

    def _probe_among(self, images: types.Images) -> set[str]:
        """Content fingerprints of those images that are probe images, at least."""
        if self.shards is not None:
            return self.shards.among(set(images.fingerprints()))
        return set(self.images.fingerprints() if in_shards(self.run) else self.named)

    def _of_other_groups(self, held: list[str]) -> list[str]:
        """Held-out images without those of a group that probe images come from."""
        seen = {self.group_of[f] for f in self.named if f in self.group_of}
        own = [f for f in held if self.group_of.get(f) not in seen]
        if left := len(held) - len(own):
            self.notes.append(f"{counted(left, 'held-out image')} excluded: their groups contain probe images")
        if not own:
            raise InputError(
                "every held-out image is in a group with probe images: label again with groups (--groups), "
                "or give images of other groups with heldout (--heldout)"
            )
        return own

    @cached_property
    def group_of(self) -> dict[str, str]:
        """Content fingerprint -> group; of an image in none, nothing."""
        return self.groups_with()

    def groups_with(self, *more: types.Images) -> dict[str, str]:
        """`group_of`, and the groups of more images where groups were given.

        Raises:
            InputError: they name none of the images.
        """
        if self._groups is None:
            recorded = self.run.manifest["images"].get("holdout") or {}
            held = zip(recorded.get("fingerprints", ()), recorded.get("groups", ()), strict=False)
            names = self.run.images["group"].to_pylist() if "group" in self.run.images.column_names else []
            return {f: name for f, name in [*zip(self.named, names, strict=False), *held] if name is not None}
        sets = [self.images, *([self.heldout_images] if self.on_other_images else []), *more]
        return groups_of_sets(self._groups, sets)

    @property
    def clusters(self) -> list[str] | None:
        """The group of each probe image, of its own where it is in none; None without groups."""
        return [self.group_of.get(f, f"image {f}") for f in self.probe] if self.group_of else None

    @cached_property
    def validation(self) -> list[str]:
        return [f for f, chosen in zip(self.held_out, self._drawn, strict=True) if chosen]

    @cached_property
    def test(self) -> list[str]:
        return [f for f, chosen in zip(self.held_out, self._drawn, strict=True) if not chosen]

    @cached_property
    def _drawn(self) -> list[bool]:
        keys = split_keys(self.held_out, [self.group_of.get(f) for f in self.held_out])
        return drawn(keys, VALIDATION, int(self.run.manifest.get("seed", 0)), "validation")

    @cached_property
    def heldout_images(self) -> types.Images:
        """The other image set to evaluate on, where one was given."""
        return image_set(self._heldout)

    @cached_property
    def images(self) -> types.Images:
        """The run's own images; opened only for rows that are not in the store."""
        recorded = self.run.manifest["images"]
        source, sample = self._source, dict[str, Any]()
        if self.shards is not None:
            return self.shards
        if source is None:
            named = recorded.get("source") or recorded["name"]
            check_named(self.run, "images", named, "say with --source where they are")
            name = re.sub(r" \(\d+ of \d+, seed -?\d+\)$", "", recorded["name"])
            source, sample = recorded.get("source") or name, {"limit": self.run.manifest.get("limit")}
        try:
            return image_set(source, seed=int(self.run.manifest.get("seed", 0)), **sample)
        except (InputError, TypeError) as e:
            raise InputError(f"the run's images cannot be opened ({e}); give their folder with --source") from e

    @cached_property
    def shards(self) -> ShardedImages | None:
        """The images of a run in shards, unless the user says where they are."""
        return ShardedImages(self.run, self.store) if in_shards(self.run) and self._source is None else None

    def pictures(self, wanted: Iterable[int]) -> Callable[[int], Image | None]:
        """A function from a row of the run's images to its picture; None where the set no longer holds it or it cannot
        be decoded.

        Raises:
            InputError: the set holds none of the images `wanted`.
        """
        at = {f: i for i, f in reversed(list(enumerate(self.images.fingerprints())))}
        if not any(self.named[image] in at for image in wanted):
            raise InputError(f"{self.images.name} holds none of the run's exemplars; give their folder with --source")

        def picture(image: int) -> Image | None:
            place = at.get(self.named[image])
            try:
                return None if place is None else self.images.load(place)
            except ImageError:
                return None

        return picture

    @cached_property
    def target(self) -> Target:
        """The network of the run, rebuilt from its manifest and checked to be the same."""
        from contralens.models.ranking import Ranking
        from contralens.models.relevance import ranked
        from contralens.models.targets import load_model

        recorded = self.run.manifest["target"]
        given = self._given["target"] if self._given["target"] is not None else recorded.get("spec")
        if given is None:
            raise InputError(
                f"the cache is missing activations of {recorded['name']}, and the run cannot name that network: "
                "give it as target="
            )
        options: dict[str, Any] = {}
        sae: dict[str, Any] = {}
        self._check_target(given=self._given["target"] is not None)
        if isinstance(given, (str, torch.nn.Module)):
            options = {**(recorded.get("options") or {}), "layer": recorded["layer"], "device": self.device}
            sae = {"sae": recorded.get("sae"), "sae_pooling": recorded.get("sae_pooling")}
        allow = bool(self.run.manifest.get("allow_nondeterministic"))
        if allow and options:
            options["allow_nondeterministic"] = True
        made: Target = ranked(load_model(given, options, **sae), Ranking.recorded(self.run.manifest.get("ranking")))
        (made,), _ = proved([made], None, self.store, allow_nondeterministic=allow, expected=recorded["fingerprint"])
        if made.fingerprint != recorded["fingerprint"]:
            raise InputError(
                f"the target {made.name} is not the one of the run ({recorded['name']}): weights, layer, pooling or "
                "preprocessing differ; give the same one as target="
            )
        return made

    def _check_target(self, given: bool) -> None:
        recorded = self.run.manifest["target"]
        check_named(
            self.run, "target", None if given else recorded.get("spec") or recorded["name"],
            "give the network as target=", sae=recorded.get("sae"), **(recorded.get("options") or {}),
        )  # fmt: skip

    @cached_property
    def classes(self) -> list[str]:
        """Names of the classes that the network separates, as they come with its weights."""
        from contralens.models.targets import target as load_target

        recorded = self.run.manifest["target"]
        options = recorded.get("options") or {}
        kept = {k: v for k, v in options.items() if k not in ("layer", "pooling", "prefix_tokens")}
        try:
            self._check_target(given=False)
            found = list(load_target(recorded.get("spec") or recorded["name"], ".", device=self.device, **kept).neurons)
        except (InputError, MissingPackage, ModelUnavailable):  # whoever needs the network says why it cannot be had
            found = ["output/0"]
        if found[0] == "output/0":
            raise InputError(
                f"the classes of {recorded['name']} have no names here; give them as classes= (--classes FILE)"
            )
        return found

    @cached_property
    def encoder(self) -> Encoder:
        """The labeling encoder."""
        return encoder_of(self.run, self._given["encoder"], self.device, self.store)

    def activations(self, fingerprints: Sequence[str]) -> ActivationSource:
        """Rows (len(fingerprints),N) of the network, never as one matrix; NaN for an image that it could not take."""
        known = self.run.manifest["target"]["fingerprint"]
        return stored_activations(with_rows(self, known, lambda: self.target, fingerprints), fingerprints)

    def embeddings(self, fingerprints: Sequence[str], other: Extractor | None = None) -> Tensor:
        """Rows (len(fingerprints),D) of the labeling encoder, or of another encoder or layer; NaN where none is."""
        known = other.fingerprint if other else self.run.manifest["encoder"]["fingerprint"]
        return self._rows(known, lambda: other or self.encoder, fingerprints)

    def _rows(self, fingerprint: str, extractor: Any, wanted: Sequence[str]) -> Tensor:
        table = with_rows(self, fingerprint, extractor, wanted)
        there = [i for i, f in enumerate(wanted) if table.has_row(f)]
        rows = table.rows([wanted[i] for i in there])
        out = np.full((len(wanted), rows.shape[1]), np.nan, np.float32)
        out[there] = rows
        return torch.from_numpy(out)

    def activations_of(self, images: types.Images) -> tuple[ActivationSource, list[str]]:
        """Activations of other images, such as painted ones, and the content fingerprint of each of their rows."""
        collected = collect(images, [self.target], self.store, **self.options)
        return collected.activations(0), collected.fingerprints

    @cached_property
    def exemplars(self) -> Exemplars:
        """The exemplars of the run, as they were found."""
        return exemplars_of(self.run)

    @property
    def mining(self) -> dict[str, Any]:
        """Arguments of `find_exemplars` as in the run."""
        return mining_of(self.run)

    @cached_property
    def concepts(self) -> list[str]:
        return list(self.run.concepts["concept"].to_pylist())

    @cached_property
    def texts(self) -> Tensor:
        """Text embeddings (C,D) of the run's concepts by the labeling encoder."""
        return torch.from_numpy(np.array(self.run.vectors["texts"]))
