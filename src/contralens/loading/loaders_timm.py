"""timm's image models as targets."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from contralens.checks import nearest, reason, require, unavailable
from contralens.errors import ContralensError, InputError
from contralens.loading.channels import Gray
from contralens.loading.checkpoints import Inferred
from contralens.loading.loaded import Loaded, fill, seeded
from contralens.loading.network_arguments import split_arguments, told

_INFER = Inferred(channels="in_chans", size="img_size", pool="global_pool", registers="reg_tokens")


def load_timm(rest: str, *, weights: str | None = None, checkpoint: str | Path | None = None) -> Loaded:
    """timm's image models: "vit_base_patch16_224.augreg_in21k"; also "hf-hub:ORG/NAME" and "local-dir:FOLDER".

    Arguments of `timm.create_model` follow a "?", "vit_small_patch16_224?img_size=384&in_chans=1".
    """
    timm = require("timm", "timm")
    rest, given = split_arguments(rest, "timm")
    architecture, _, tag = rest.partition(".")
    if weights and weights != "random":
        if tag and tag != weights:
            raise InputError(f"timm:{rest} names the weights {tag}, but weights={weights!r} names others")
        rest = f"{architecture}.{weights}"
    if ":" not in rest and not timm.is_model(architecture):
        raise InputError(f"timm has no model {architecture!r}{nearest(architecture, timm.list_models())}")
    if ":" not in rest and "." in rest and rest not in timm.list_pretrained(f"{architecture}.*"):
        known = ", ".join(timm.list_pretrained(f"{architecture}.*")) or "none"
        raise InputError(f"timm has no weights {rest!r}; known: {known}")

    def build(number: int | None, **more: Any) -> nn.Module:
        extra = {**({} if number is None else {"num_classes": number}), **more, **given}
        try:
            with seeded():
                network: nn.Module = timm.create_model(rest, **extra)
        except (TypeError, ValueError, AssertionError, RuntimeError) as e:
            if not extra:
                raise
            raise InputError(f"timm:{rest} cannot be built with {told(extra)} ({reason(e)})") from e
        return network

    loaded = Loaded(nn.Identity(), notes=[f"built with {told(given)}"] if given else [])
    try:
        if checkpoint is None and weights != "random":
            with seeded():
                loaded.network = timm.create_model(rest, pretrained=True, **given)
        else:
            fill(loaded, build, checkpoint, f"timm:{rest}", infer=_INFER, adapt=_adapt)
    except ContralensError:
        raise
    except TypeError as e:
        raise InputError(f"timm:{rest} cannot be built with {told(given) or 'its settings'} ({reason(e)})") from e
    except Exception as e:  # the hub's client, urllib and timm each raise their own
        raise unavailable(
            f"timm:{rest}: the weights are not cached and could not be downloaded ({reason(e)}): give a file with "
            "checkpoint=FILE (--checkpoint FILE), or a folder with timm:local-dir:FOLDER",
            e,
        ) from e
    network: Any = loaded.network
    origin = f"{network.pretrained_cfg.get('architecture', architecture)}.{network.pretrained_cfg.get('tag') or '-'}"
    _preprocessing(loaded, {**given, **loaded.arguments})
    _classes(loaded)
    if checkpoint is None and weights != "random":
        loaded.notes.append(f"weights {origin}")
    else:
        loaded.preprocess_note = f"the preprocessing is that of {origin}, as that of the weights is unknown"
    return loaded


def _preprocessing(loaded: Loaded, arguments: Mapping[str, Any]) -> None:
    """timm's own transform; at another size of images and for one channel, too, which timm leaves to its user."""
    from timm.data import create_transform, resolve_model_data_config

    network: Any = loaded.network
    config = resolve_model_data_config(network)
    channels = arguments.get("in_chans") or (network.pretrained_cfg.get("input_size") or (3,))[0]
    first = next((m.in_channels for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    channels = first if first == 1 else channels
    size = arguments.get("img_size")
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else tuple(size)
        config["input_size"] = (channels, height, width)
        loaded.notes.append(f"images are brought to {width} x {height}, as img_size says")
    if channels != 1:
        loaded.preprocess = create_transform(**config, is_training=False)
        return
    for key in ("mean", "std"):
        if len(config[key]) > 1:
            config[key] = (sum(config[key]) / len(config[key]),)
    config["input_size"] = (1, *config["input_size"][1:])
    loaded.preprocess = Gray(create_transform(**config, is_training=False), one=True)
    mean, std = config["mean"][0], config["std"][0]
    loaded.notes.append(f"the network takes one channel: images are made gray, mean {mean:.4g}, deviation {std:.4g}")


def _classes(loaded: Loaded) -> None:
    from timm.data import ImageNetInfo, infer_imagenet_subset

    network: Any = loaded.network
    subset = infer_imagenet_subset(network)
    if names := network.pretrained_cfg.get("label_names"):
        loaded.classes = list(names)
    elif subset:
        info = ImageNetInfo(subset)
        loaded.classes = [info.index_to_description(i) for i in range(info.num_classes())]


def _adapt(tensors: dict[str, Tensor], network: nn.Module) -> Mapping[str, Tensor]:
    """timm's own translation of the names in original releases, where it resizes nothing."""
    function: Any = getattr(sys.modules.get(type(network).__module__), "checkpoint_filter_fn", None)
    if function is None:
        return tensors
    try:
        made: dict[str, Tensor] = function(dict(tensors), network)
    except Exception:  # written for other files than this one
        return tensors
    sizes = {value.numel() for value in tensors.values()}
    return made if all(isinstance(v, Tensor) and v.numel() in sizes for v in made.values()) else tensors
