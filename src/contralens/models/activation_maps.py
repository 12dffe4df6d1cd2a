"""Where on an image a neuron fires: its own map where the layer has places, else by occlusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import default_collate

from contralens.models import hooks
from contralens.models.determinism import noise
from contralens.models.hooked_layer import HookedTarget, network_target
from contralens.models.pooling import POOLINGS, patches_of
from contralens.models.sae_target import SparseTarget
from contralens.models.tokens import in_raster_order
from contralens.types import Target

if TYPE_CHECKING:
    from PIL.Image import Image

Place = tuple[NDArray[np.float32], tuple[float, float, float, float]]
"""Values (H,W), and the part of the image that they cover: left, top, right, bottom in its pixels."""

_MAPS = ("mean", "max")
_MAPS_LAST = ("mean_last", "max_last")
_PATCHES = ("mean_patches", "max_patches", "max_abs_patches")


def where(target: Target, images: Sequence[Image], neuron: int, method: str = "auto", cells: int = 7) -> list[Place]:
    """How strongly a neuron fires over each image.

    Args:
        target: whose neuron it is. A conv map or patch tokens give their own map; a class token, a linear layer or a
            target of another kind is probed by occlusion.
        images: RGB pictures of any sizes.
        neuron: its index.
        method: "auto", or "occlusion" for any layer: the fall of the activation when one of `cells` x `cells` squares
            is grey. That takes cells^2 + 1 forwards an image.
    """
    target = network_target(target)
    if method == "auto":
        found = maps(target, images, [[neuron]] * len(images))
        if found is not None:
            return [(own[0], seen(target.preprocess, image.size)) for own, image in zip(found, images, strict=True)]
    return [
        (occlusion(target, image, neuron, cells), (0.0, 0.0, float(image.width), float(image.height)))
        for image in images
    ]


def maps(target: Target, images: Sequence[Image], wanted: Sequence[Sequence[int]]) -> list[NDArray[np.float32]] | None:
    """The layer's own maps (len(wanted[i]),H,W) of the neurons `wanted` of each image, from one forward of them all.

    What the pooling would have pooled: places of a conv map, patch tokens, or a sparse autoencoder's latents at these.
    None where the layer has no places (a class token, a row per image), where its tokens do not lie row by row (Hiera),
    and of targets of another kind.
    """
    target = network_target(target)
    if isinstance(target, SparseTarget):
        return _latents(target, images, wanted)
    if not isinstance(target, HookedTarget) or target.pooling not in (*_MAPS, *_MAPS_LAST, *_PATCHES):
        return None
    batch = default_collate([target.preprocess(image) for image in images])
    if target.pooling in _PATCHES and not _ordered(target, batch):
        return None
    rows = torch.tensor([i for i, own in enumerate(wanted) for _ in own], dtype=torch.int64)
    neurons = torch.tensor([n for own in wanted for n in own], dtype=torch.int64)

    def pick(output: Tensor) -> Tensor:
        i, n = rows.to(output.device), neurons.to(output.device)
        if target.pooling in _MAPS:
            return output[i, n]
        if target.pooling in _MAPS_LAST:
            return output[i, :, :, n]
        return patches_of(output, target.tokens)[i, :, n]

    out = hooks.run_layer(target.module, target.layer, batch, pick, target.dtype).float().cpu()
    if target.pooling == "max_abs_patches":
        out = out.abs()
    grids = _grids(batch, len(images))
    found = []
    for own, grid in zip(torch.split(out, [len(own) for own in wanted]), grids, strict=True):
        placed = _placed(own, grid)
        if placed is None:
            return None
        found.append(np.asarray(placed.numpy(), np.float32))
    return found


def _latents(
    target: SparseTarget, images: Sequence[Image], wanted: Sequence[Sequence[int]]
) -> list[NDArray[np.float32]] | None:
    tap = target.tap
    if tap is None or target.pooling not in ("max", "mean"):
        return None
    batch = default_collate([target.preprocess(image) for image in images])
    base = target.base
    if isinstance(base, HookedTarget) and POOLINGS[base.pooling].kind == "tokens" and not _ordered(base, batch):
        return None
    tokens = hooks.run_layer(tap.module, tap.layer, batch, lambda output: tap.pick(output, None), tap.dtype)
    out = []
    with torch.no_grad():
        for own, those, grid in zip(wanted, tokens, _grids(batch, len(images)), strict=True):
            latents = target.encode(those.to(target.device))[:, list(own)].float().cpu()
            placed = _placed(latents.T, grid)
            if placed is None:
                return None
            out.append(np.asarray(placed.numpy(), np.float32))
    return out


def _placed(rows: Tensor, grid: tuple[int, int] | None) -> Tensor | None:
    """Maps (P,H,W) as they are; rows of patches (P,L) as the image's grid, or as a square; None where L is none."""
    if rows.dim() == 3:
        return rows
    if grid is not None:
        return rows[:, : grid[0] * grid[1]].reshape(-1, *grid)
    side = round(rows.shape[1] ** 0.5)
    return rows.reshape(-1, side, side) if side * side == rows.shape[1] else None


def _grids(batch: Any, count: int) -> list[tuple[int, int] | None]:
    """Patches of each image, (down, across), where the batch says it because it is padded (NaFlex)."""
    shapes = batch.get("spatial_shapes") if isinstance(batch, Mapping) else None
    if not isinstance(shapes, Tensor) or shapes.shape != (count, 2):
        return [None] * count
    return [(int(down), int(across)) for down, across in shapes]


def _ordered(target: HookedTarget, batch: Any) -> bool:
    """Whether the patches of a layer lie row by row; tried out once for each target."""
    if isinstance(batch, Mapping) and "spatial_shapes" in batch:
        return True
    if target.raster_order is None:
        probes = default_collate([target.preprocess(image) for image in noise(2)])
        length = hooks.probe(target.module, [target.layer], probes, target.name)[target.layer].output
        places = torch.arange(0 if length is None else int(length.shape[1]))
        patches = patches_of(places[None, :, None], target.tokens)[0, :, 0]
        side = round(len(patches) ** 0.5)
        target.raster_order = side * side == len(patches) and in_raster_order(
            target.module, target.layer, probes, patches, side
        )
    return target.raster_order


def occlusion(target: Target, image: Image, neuron: int, cells: int = 7, batch: int = 32) -> NDArray[np.float32]:
    """The fall of a neuron's activation (cells,cells) when one square of the image is grey; rises count 0."""
    pictures = [target.preprocess(image)]
    for row in range(cells):
        for column in range(cells):
            covered = image.copy()
            covered.paste(
                (128, 128, 128),
                (
                    column * image.width // cells,
                    row * image.height // cells,
                    (column + 1) * image.width // cells,
                    (row + 1) * image.height // cells,
                ),
            )
            pictures.append(target.preprocess(covered))
    rows = torch.cat(
        [target(default_collate(pictures[at : at + batch]))[:, neuron] for at in range(0, len(pictures), batch)]
    )
    fall = (rows[0] - rows[1:]).clamp_min(0).reshape(cells, cells)
    return np.asarray(fall.numpy(), np.float32)


def seen(preprocess: Any, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The part of an image of this size that preprocessing keeps, measured: what comes out of two ramps of grey
    levels."""
    from PIL import Image

    width, height = size
    ramps = np.zeros((height, width, 3), np.uint8)
    ramps[..., 0] = np.linspace(0, 255, width).round()[None, :]
    ramps[..., 1] = np.linspace(0, 255, height).round()[:, None]
    black, white, made = (
        _pixels(preprocess(image))
        for image in (Image.new("RGB", size), Image.new("RGB", size, (255, 255, 255)), Image.fromarray(ramps))
    )
    if made is None or black is None or white is None:
        return (0.0, 0.0, float(width), float(height))
    level = (made - black) / (white - black).where((white - black).abs() > 1e-6, torch.ones(()))
    middle = (level.shape[1] // 2, level.shape[2] // 2)
    x, y = level[0, middle[0]].clamp(0, 1), level[1, :, middle[1]].clamp(0, 1)
    left, right, top, bottom = (float(v) for v in (x.min(), x.max(), y.min(), y.max()))
    if right <= left or bottom <= top:
        return (0.0, 0.0, float(width), float(height))
    return (left * width, top * height, right * width, bottom * height)


def _pixels(made: Any) -> Tensor | None:
    """The picture (3,H,W) in what preprocessing gives, or None if there is none."""
    found = list(made.values()) if isinstance(made, Mapping) else [made]
    return next((t.float() for t in found if isinstance(t, Tensor) and t.dim() == 3 and t.shape[0] == 3), None)
