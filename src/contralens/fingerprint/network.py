"""Fingerprints of networks and preprocessing: equal where they compute the same, different where anything changed."""

from __future__ import annotations

import functools
import hashlib
import re
import types
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module

from contralens.fingerprint.describing import (
    HOOKS,
    MODULE_INTERNALS,
    NOT_COMPUTED_WITH,
    describe,
    is_library,
    is_plain,
    qualified,
)

__all__ = ["TARGET_VERSION", "attributes", "describe", "network_digest"]

TARGET_VERSION = "contralens target 1"
"""Raise the number when the computing code changes its results: cached activations are then computed again."""


def network_digest(network: nn.Module, before: Mapping[str, str] | None = None) -> str:
    """Hash of all weights and buffers (name, dtype, shape, bytes), the structure, and the user's own code in it.

    The structure is `repr(network)` plus the attributes and hooks of each module (`attributes`). Where a module's class
    is not from an installed package, its code counts too. Not included: the versions of libraries.

    Args:
        before: `attributes` of the network before it was first run. What a forward has changed since, such as a counter
            or the last output, is no setting and is left out.
    """
    h = hashlib.sha256()
    h.update(re.sub(r" at 0x[0-9a-fA-F]+", "", repr(network)).encode())
    tensors: dict[str, Any] = {**dict(network.named_buffers()), **network.state_dict()}
    for name in sorted(tensors):
        value = tensors[name]
        h.update(f"\n{name} {describe(value)}".encode())
    for name, told in attributes(network).items():
        if before is None or before.get(name, told) == told:
            h.update(f"\n{name} {told}".encode())
    for cls in sorted({type(module) for module in network.modules()}, key=qualified):
        h.update(f"\n{describe(cls)}".encode())
    return h.hexdigest()


def attributes(network: nn.Module) -> dict[str, str]:
    """What each module of a network holds besides weights, buffers and modules, described, by name.

    These are plain attributes (numbers, texts, functions), of the user's own modules and objects all attributes, and
    the functions that run as hooks.
    """
    told: dict[str, str] = {}
    for name, module in network.named_modules():
        own = not is_library(type(module))
        for key, value in sorted(module.__dict__.items()):
            if key in MODULE_INTERNALS or key in NOT_COMPUTED_WITH:
                continue
            if own or _is_the_users(value) or (not key.startswith("_") and _is_setting(value)):
                told[f"{name}.{key}"] = describe(value)
        for key in HOOKS:
            if found := list(getattr(module, key, {}).values()):
                told[f"{name}.{key}"] = describe(found)
    for key in ("_global_forward_pre_hooks", "_global_forward_hooks"):
        if found := list(getattr(torch_module, key, {}).values()):
            told[key] = describe(found)
    return told


def _is_setting(value: Any) -> bool:
    return is_plain(value) or isinstance(value, types.FunctionType | types.MethodType | functools.partial)


def _is_the_users(value: Any) -> bool:
    """Whether a value is a function or an object of a class that is from no installed package."""
    return not is_library(value if isinstance(value, types.FunctionType) else type(value))
