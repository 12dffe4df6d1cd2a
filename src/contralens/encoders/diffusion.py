"""Pipelines of diffusers: loaded by hub id or folder, and separated by their weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from contralens.checks import first_line, require, unavailable
from contralens.encoders.registry import digest, usable_device
from contralens.fingerprint.network import network_digest

if TYPE_CHECKING:
    from PIL.Image import Image


def pipeline(loader: str, model: str, device: str = "cpu", *, safetensors: bool = False) -> Any:
    """A pipeline on a device, in float16 on CUDA and in float32 elsewhere; shows no progress bar.

    Args:
        loader: a class of diffusers with `from_pretrained`, e.g. "AutoPipelineForText2Image".
        model: a hub id or a folder.
        device: where it runs.
        safetensors: read no weights but safetensors.

    Raises:
        ModelUnavailable: the model cannot be loaded.
        MissingPackage: diffusers is not installed, or a package that the pipeline needs.
    """
    diffusers = require("diffusers", "generate")
    place = usable_device(device)
    options: dict[str, Any] = {"dtype": torch.float16 if place.type == "cuda" else torch.float32}
    if safetensors:
        options["use_safetensors"] = True
    try:
        found = getattr(diffusers, loader).from_pretrained(model, **options, **only_local(model))
    except (OSError, ValueError, ImportError) as e:
        raise cannot_load(model, e) from e
    found.to(place)
    found.set_progress_bar_config(disable=True)
    return found


def class_of(model: str) -> str:
    """The class that a pipeline's model_index.json names, without loading any weights.

    Raises:
        ModelUnavailable: there is no such file, or it names code of its own.
    """
    diffusers = require("diffusers", "generate")
    try:
        name = diffusers.DiffusionPipeline.load_config(model, **only_local(model)).get("_class_name")
    except (OSError, ValueError, ImportError) as e:
        raise cannot_load(model, e) from e
    if not isinstance(name, str):
        raise cannot_load(model, ValueError("it contains its own code"))
    return name


def only_local(model: str) -> dict[str, Any]:
    """The option that keeps a library from asking the hub where it must not or need not."""
    return {"local_files_only": True} if os.environ.get("HF_HUB_OFFLINE") or os.path.isdir(model) else {}


def cannot_load(model: str, error: BaseException) -> Exception:
    return unavailable(
        f"diffusers cannot load {model!r} ({first_line(error)}); give a folder with model_index.json or a hub id "
        "that this machine can reach",
        error,
    )


def parts_of(found: Any) -> Mapping[str, str]:
    """Digests of a pipeline's parts by name: of networks the weights, of others their settings."""
    parts: dict[str, str] = {}
    for name, part in sorted(found.components.items()):
        if isinstance(part, nn.Module):
            parts[name] = network_digest(part)
        elif part is not None:
            parts[name] = digest(type(part).__name__, str(getattr(part, "config", "")))
    return parts


def is_blank(image: Image) -> bool:
    """Whether every pixel is the same: what a failed or censored generation looks like."""
    return all(low == high for low, high in image.convert("RGB").getextrema())  # type: ignore[misc]
