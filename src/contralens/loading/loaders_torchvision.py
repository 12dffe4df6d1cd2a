"""torchvision's networks as targets: classifiers, and detection and segmentation networks."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn

from contralens.checks import nearest, reason
from contralens.errors import ContralensError, InputError, ModelUnavailable
from contralens.loading.channels import with_channels
from contralens.loading.checkpoints import Inferred
from contralens.loading.loaded import Loaded, fill, seeded
from contralens.loading.network_arguments import split_arguments, told
from contralens.loading.preprocessing import STATISTICS, Preprocessing


def load_torchvision(rest: str, *, weights: str | None = None, checkpoint: str | Path | None = None) -> Loaded:
    """torchvision's networks: "resnet50", or "resnet50/IMAGENET1K_V1" for weights that are not the default.

    Arguments follow a "?", "resnet50?num_classes=7&in_chans=1".
    """
    from torchvision import models

    rest, given = split_arguments(rest, "torchvision")
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
    loaded = Loaded(nn.Identity(), chosen.transforms(), classes=chosen.meta.get("categories"))
    arguments: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        arguments["weights_backbone"] = None  # else a backbone is fetched, whatever `weights` says

    def build(number: int | None, weights: Any = None, **more: Any) -> nn.Module:
        extra = {**({} if weights is not None else arguments), **given, **more}
        channels = extra.pop("in_chans", None)
        if number is not None:
            extra.setdefault("num_classes", number)
        with seeded():
            network: nn.Module = models.get_model(name, weights=weights, **extra)
            return network if channels in (None, 3) else with_channels(network, channels)

    what = f"torchvision:{name}"
    if given:
        loaded.notes.append(f"built with {told(given)}")
        _check_arguments(what, build, given)
    if checkpoint is not None or weights == "random":
        loaded.preprocess_note = f"the preprocessing is that of {chosen}, as that of the weights is unknown"
        if name in ("googlenet", "inception_v3"):  # they scale their input inside when they have torchvision's weights
            arguments["transform_input"] = True
            loaded.notes.append(f"transform_input=True, as with {chosen}")
        size = "image_size" if name.startswith("vit_") else ""
        infer = Inferred(channels="in_chans", size=size)
        fill(loaded, build, checkpoint, what, infer=infer)
    else:
        _fetch(loaded, build, chosen, name)
    _fixed_size(loaded, {**given, **loaded.arguments}.get("image_size"))
    return loaded


def _check_arguments(what: str, build: Any, given: dict[str, Any]) -> None:
    try:
        with torch.device("meta"):
            build(None)
    except ContralensError:
        raise
    except Exception as e:  # each constructor raises its own
        raise InputError(f"{what} cannot be built with {told(given)} ({reason(e)})") from e


def _fetch(loaded: Loaded, build: Any, chosen: Any, name: str) -> None:
    try:
        loaded.network = build(None, weights=chosen)
    except ContralensError:
        raise
    except ValueError as e:
        raise InputError(
            f"torchvision:{name}: {reason(e)}: the weights {chosen} do not have this form; omit the argument, or give "
            "weights of that form with checkpoint=FILE (--checkpoint FILE)"
        ) from e
    except (OSError, RuntimeError) as e:
        cached = Path(torch.hub.get_dir()) / "checkpoints" / chosen.url.rpartition("/")[2]
        raise ModelUnavailable(
            f"torchvision:{name}: the weights {chosen} are not in {cached} and {chosen.url} could not be downloaded "
            f"({reason(e)}): put the file there, or give your own with checkpoint=FILE (--checkpoint FILE)"
        ) from e
    loaded.notes.append(f"weights {chosen}")


def _fixed_size(loaded: Loaded, size: Any) -> None:
    """Images of one size, where torchvision's preprocessing leaves each its own, and no two make a batch."""
    own: Any = loaded.preprocess
    kind = type(own).__name__
    if isinstance(size, int) and kind == "ImageClassification":
        loaded.preprocess = Preprocessing(tuple(own.mean), tuple(own.std), (size, size))
        loaded.preprocess_note = f"images are resized to {size} x {size}, as the network requires"
        return
    if kind == "SemanticSegmentation":
        side = own.resize_size[0]
        loaded.preprocess = Preprocessing(tuple(own.mean), tuple(own.std), (side, side))
    elif kind == "ObjectDetection":
        transform: Any = getattr(loaded.network, "transform", None)
        fixed = getattr(transform, "fixed_size", None)
        side = int((fixed or getattr(transform, "min_size", None) or (800,))[-1])
        loaded.preprocess = Preprocessing(*STATISTICS["none"], (side, side))  # the network normalises by itself
    else:
        return
    note = f"images are resized to {side} x {side} regardless of their shape, to form a batch"
    loaded.preprocess_note = f"{loaded.preprocess_note}; {note}" if loaded.preprocess_note else note
