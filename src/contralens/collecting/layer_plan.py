"""Which layers a job means by its patterns and kinds, and what they cost, before any image is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from contralens.data.images import images as image_set
from contralens.errors import InputError
from contralens.models.hooked_layer import HookedTarget
from contralens.models.layer_choice import chosen_layers, is_pattern
from contralens.models.layers import LayerInfo, layers
from contralens.models.opened_network import OpenedNetwork, open_network
from contralens.settings.label import Collect
from contralens.types import Brief

BYTES = 4
"""Of one activation in the cache, at most."""


@dataclass(frozen=True, repr=False)
class LayerPlan(Brief):
    """Layers that were chosen, in the order in which they run.

    >>> LayerPlan([LayerInfo("a", "Conv2d", (8, 4, 4), 8, "mean", 1)], {}, None, images=1000).bytes
    32000
    """

    layers: Sequence[LayerInfo]
    left_out: dict[str, str]
    """Layers that a pattern means, too, and why they cannot be used."""
    network: OpenedNetwork | HookedTarget
    """Opened for the plan, to be used for the work."""
    images: int

    @property
    def names(self) -> list[str]:
        """The layers, as `layer` takes them."""
        return [layer.name for layer in self.layers]

    @property
    def neurons(self) -> int:
        """Of all layers."""
        return sum(layer.neurons or 0 for layer in self.layers)

    @property
    def bytes(self) -> int:
        """That all activations take in the cache, at most."""
        return self.images * self.neurons * BYTES


def means_several(layer: object, kinds: object = None) -> bool:
    """Whether a `layer`, with `layer_kinds`, may stand for several.

    >>> means_several("block3"), means_several(["block2", "block3"]), means_several("all"), means_several(None, ["mlp"])
    (False, True, True, True)
    """
    asked = [layer] if isinstance(layer, str) else list(layer) if isinstance(layer, (list, tuple)) else []
    return bool(kinds) or len(asked) > 1 or any(map(is_pattern, asked))


def layer_plan(settings: Collect) -> LayerPlan:
    """The layers that `layer` and `layer_kinds` mean.

    Raises:
        InputError: they mean none, or one that is not there.

    >>> plan = layer_plan(Collect("world:1", "world-1/images", "world", layer="block*"))
    >>> plan.names, plan.neurons, plan.images
    (['block1', 'block2', 'block3'], 176, 80)
    """
    asked = [settings.layer] if isinstance(settings.layer, str) else list(settings.layer or ["all"])
    kinds = list(settings.layer_kinds or ())
    target = settings.target
    network: OpenedNetwork | HookedTarget
    if isinstance(target, HookedTarget):
        found, network = layers(target), target
    elif isinstance(target, str) or hasattr(target, "named_modules"):
        network = open_network(target, **settings.given("weights", "checkpoint", "device"))
        found = layers(network, **settings.given("preprocess", "prefix_tokens"))
    else:
        raise InputError("the target is already one layer: patterns and kinds need a network")
    chosen, out = chosen_layers(found, asked, kinds, settings.pooling)
    if len({one.name for one in chosen}) < len(chosen):
        raise InputError("a layer is named twice")
    return LayerPlan(chosen, out, network, len(image_set(settings.images, limit=settings.limit, seed=settings.seed)))


def needs_plan(settings: Collect) -> bool:
    """Whether patterns or kinds stand for the layers.

    >>> needs_plan(Collect("world:1", "images", "world", layer="block3"))
    False
    """
    asked = [settings.layer] if isinstance(settings.layer, str) else settings.layer
    return bool(settings.layer_kinds) or any(map(is_pattern, asked or ()))


def with_layers(settings: Collect, on_plan: Callable[[LayerPlan], None] | None = None) -> Collect:
    """The settings with layers by name, where patterns or kinds stand for them, and with the network that was opened
    to see which these are; `on_plan` is called with the plan.

    >>> with_layers(Collect("world:1", "world-1/images", "world", layer="block[12]")).layer
    ['block1', 'block2']
    """
    if not needs_plan(settings):
        return settings
    plan = layer_plan(settings)
    if on_plan is not None:
        on_plan(plan)
    return settings.to(type(settings), target=plan.network, layer=plan.names, layer_kinds=None)
