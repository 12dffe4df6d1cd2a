"""What a job runs: its images, its target (one for each layer) and its encoders, from its settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from contralens.collecting.layer_plan import with_layers
from contralens.collecting.precision import in_precision
from contralens.collecting.probe_check import proved
from contralens.data.images import images as image_set
from contralens.data.store import Store
from contralens.encoders.registry import encoder as load_encoder
from contralens.errors import InputError
from contralens.models.relevance import ranked
from contralens.models.targets import load_model, targets
from contralens.settings.label import Collect
from contralens.types import Encoder, Extractor, Images, Target


@dataclass(frozen=True)
class Networks:
    """The images and networks of a job, opened."""

    images: Images
    targets: Sequence[Target]
    """One for each layer."""
    encoders: Sequence[Encoder]


@dataclass(frozen=True)
class Steady:
    """Networks whose rows may be kept: the same rows for the same image, in the precision that was asked for."""

    extractors: list[Any]
    """The targets, then the encoders, then others."""
    notes: list[str]
    precision: dict[str, Any] | None
    """What was found of each network in another precision, for the manifest."""
    targets: int = 1
    """How many of the extractors are targets."""

    def of(self, target: int) -> Steady:
        """The same with one of its targets."""
        return replace(self, extractors=[self.extractors[target], *self.extractors[self.targets :]], targets=1)


def networks(settings: Collect) -> Networks:
    """Open what a job names.

    Raises:
        InputError: something is not available, or does not fit; in one line.
    """
    settings = with_layers(settings)
    images = image_set(settings.images, limit=settings.limit, seed=settings.seed)
    found = _targets(settings)
    named = settings.encoder if isinstance(settings.encoder, (list, tuple)) else [settings.encoder]
    encoders = [load_encoder(one, device=settings.device or "cpu", decode=settings.decode) for one in named]
    return Networks(images, found, encoders)


def _targets(settings: Collect) -> Sequence[Target]:
    options = {**settings.given("device"), **settings.target_options()}
    layers = settings.layer
    if layers is None or isinstance(layers, str) or len(layers) == 1:
        layer = layers[0] if isinstance(layers, (list, tuple)) else layers
        made = load_model(settings.target, {"layer": layer, **options}, settings.sae, settings.sae_pooling)
        return [ranked(made, settings.rank_by)]
    if settings.sae is not None or settings.sae_pooling is not None:
        raise InputError("a sparse autoencoder belongs to one layer: give that layer alone")
    return [ranked(made, settings.rank_by) for made in targets(settings.target, layers, **options)]


def steady(
    settings: Collect, found: Networks, store: Store, first: int = 0, beside: Sequence[Extractor] = ()
) -> Steady:
    """The networks and what runs beside them, proved and in the precision asked for.

    The images are hashed from image `first` on.

    Raises:
        InputError: the rows of a network are not a function of the image.
    """
    every: list[Extractor] = [*found.targets, *found.encoders, *beside]
    allow = settings.allow_nondeterministic
    fitting, notes = proved(every, found.images, store, allow_nondeterministic=allow, first=first)
    extractors, precision, kept = in_precision(settings.precision, fitting, found.images, store)
    return Steady(extractors, [*notes, *kept], precision, len(found.targets))
