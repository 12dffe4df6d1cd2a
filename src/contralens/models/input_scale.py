"""Whether what preprocessing gives has the scale that the weights were trained with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from contralens.loading.fast_preprocessing import sample_pictures
from contralens.models import hooks

SPREAD, SHIFT = 1.5, 0.5
"""Factor between two standard deviations, and difference of means in these, from which two preprocessings differ."""
VARIANCE = 100.0
"""Factor between the variance that a batch norm sees and the one it was trained with, from which the scale is wrong.
Pictures differ by less than ten; 0..255 in place of 0..1 makes thousands."""


def scale_notes(
    preprocess: Callable[[Any], Any], own: Callable[[Any], Any] | None, network: nn.Module, given: bool
) -> list[str]:
    """Notes where the scale does not fit the weights.

    Args:
        preprocess: what is used.
        own: that of the weights, if they bring one.
        given: whether the user gave `preprocess`.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    >>> scale_notes(lambda image: torch.zeros(3, 8, 8), None, net, True)  # nothing is known of such weights
    []
    """
    images = sample_pictures()[:2]
    notes = []
    if given and own is not None:
        ours, theirs = _values(preprocess), _values(own)
        if ours is not None and theirs is not None and _differ(ours, theirs):
            notes.append(
                f"the preprocessing gives colours a mean of {ours.mean():.3g} and a deviation of {ours.std():.3g}, "
                f"that of the weights {theirs.mean():.3g} and {theirs.std():.3g}: check mean, std and range"
            )
    if not notes and (factor := _seen_by_batch_norm(preprocess, network, images)) is not None:
        size = f"{factor:,.0f} times" if factor > 1 else f"1/{1 / factor:,.0f} of"
        notes.append(
            f"pictures give the first batch norm {size} the variance that it was trained with: preprocessing of "
            "another scale than in training (range=255 or 1? mean and std?)"
        )
    return notes


def _values(preprocess: Callable[[Any], Any]) -> Tensor | None:
    """What plain colours become, which no resize changes."""
    from PIL import Image

    colours = ("black", "white", "red", "lime", "blue", "gray", "silver", "olive")
    try:
        made = [preprocess(Image.new("RGB", (256, 256), colour)) for colour in colours]
    except Exception:  # said where it is used
        return None
    tensors = [next(iter(one.values())) if isinstance(one, Mapping) else one for one in made]
    if not all(isinstance(t, Tensor) and t.is_floating_point() for t in tensors):
        return None
    return torch.cat([t.flatten() for t in tensors])


def _differ(ours: Tensor, theirs: Tensor) -> bool:
    factor = float(ours.std() / theirs.std().clamp_min(1e-9))
    shift = float((ours.mean() - theirs.mean()).abs() / theirs.std().clamp_min(1e-9))
    return not 1 / SPREAD < factor < SPREAD or shift > SHIFT


def _seen_by_batch_norm(preprocess: Callable[[Any], Any], network: nn.Module, images: list[Any]) -> float | None:
    """How many times the trained variance the network's first batch norm sees, where that is far off."""
    first = next((m for m in network.modules() if isinstance(m, nn.BatchNorm2d)), None)
    if first is None or first.running_mean is None or first.running_var is None or not first.running_mean.any():
        return None
    seen: list[float] = []
    var = first.running_var

    def look(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        there = var > 1e-6 * var.max()
        seen.append(float((arguments[0].float().var((0, 2, 3)) / var)[there].median()))
        raise hooks.Enough

    handle = first.register_forward_pre_hook(look)
    try:
        with hooks.still(network):
            hooks.forward(network, default_collate([preprocess(image.resize((256, 256))) for image in images]))
    except hooks.Enough:
        pass
    except Exception:  # said where it is used
        return None
    finally:
        handle.remove()
    return seen[0] if seen and seen[0] > 0 and not 1 / VARIANCE < seen[0] < VARIANCE else None
