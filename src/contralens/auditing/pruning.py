"""Neurons switched off or rejected inside the real network, and what that does to its accuracy.

hard: 0 for every neuron whose verdict is spurious. soft: z_e / z_s of it, limited to [0,1], with z_e and z_s the
standing out of its best expected and its best spurious concept (`contralens.auditing.alignment`): a neuron that speaks
of the spurious alone is switched off, one that speaks nearly as much for something expected keeps most of its strength.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import default_collate

from contralens.checks import nearest
from contralens.data.audits import PRUNING, Audit, read_mask
from contralens.data.labeled_images import UNKNOWN, LabeledImages, labeled_images
from contralens.errors import ImageError, InputError
from contralens.math.intervals import paired_interval
from contralens.models.hooked_layer import HookedTarget
from contralens.models.hooks import named
from contralens.models.interventions import Variants, kept, neurons_last
from contralens.types import Progress, silent

RANDOM_PRUNINGS = 5
"""Random prunings that the control is a mean over."""


@contextmanager
def pruned(target: Any, keep: Any, *, layer: str | None = None) -> Iterator[Any]:
    """Within the block the layer's neurons are multiplied by `keep`, at every position or token.

    The factor is part of the forward pass, so gradients flow through it and the pruned network can be trained. After
    the block, also after an error, the network is unchanged; its weights never change.

    Args:
        target: a result of `contralens.target`, or an `nn.Module`.
        keep: (N) numbers in [0,1], 0 for pruned; or an `Audit`, or a mask.safetensors that an audit wrote.
        layer: of an `nn.Module`, a name as in `named_modules()`.

    Raises:
        InputError: no such layer, a mask of another length or with numbers outside [0,1].

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    >>> with pruned(net, [0.0, 1.0], layer="1"):
    ...     inside = net(torch.ones(1, 3))
    >>> bool(inside[0, 0] == 0), bool(net(torch.ones(1, 3))[0, 0] == 0)
    (True, False)
    """
    values = mask_of(keep)
    if isinstance(target, HookedTarget):
        if len(values) != target.width:
            raise InputError(f"the mask is for {len(values)} neurons, but {target.layer} has {target.width}")
        network, name, last = target.module, target.layer, neurons_last(target)
        with kept(network, name, values, last):
            yield target
        return
    if not isinstance(target, nn.Module):
        raise InputError(
            f"pruning happens in a network: give a target of contralens or an nn.Module, not {type(target).__name__}"
        )
    if layer is None or layer not in named(target):
        hint = nearest(layer or "", named(target)) or "; a name as in named_modules()"
        raise InputError(f"`layer` must name a layer of the network; got {layer!r}{hint}")
    with kept(target, layer, values):
        yield target


def mask_of(keep: Any) -> Tensor:
    """A mask (N) float32 from what `pruned` takes.

    Raises:
        InputError: no such file, no row of numbers, a number outside [0,1].

    >>> mask_of([0, 1, 0.5])
    tensor([0.0000, 1.0000, 0.5000])
    """
    if isinstance(keep, Audit):
        keep = keep.mask
    elif isinstance(keep, (str, Path)):
        try:
            keep = read_mask(keep)
        except FileNotFoundError:
            raise InputError(f"no mask {keep}") from None
    values = torch.as_tensor(np.asarray(keep) if not isinstance(keep, Tensor) else keep).detach().float().cpu()
    if values.dim() != 1 or not bool(((values >= 0) & (values <= 1)).all()):
        raise InputError(f"`keep` must be one number in [0,1] per neuron; got shape {tuple(values.shape)}")
    return values


def make_mask(
    width: int, neurons: Tensor, spurious: Tensor, z_expected: Tensor, z_spurious: Tensor, mode: str
) -> Tensor:
    """Masks (width) for neurons (N) of which `spurious` (N, bool) are marked; the others are left alone.

    Args:
        width: neurons of the layer.
        neurons: (N) those that were judged.
        spurious: (N, bool) which of them are spurious.
        z_expected: (N) how far the best expected concept stands out.
        z_spurious: (N) the same of the best spurious one.
        mode: "hard", or "soft" for the ratio of the two, limited to [0,1].

    >>> spurious, z = torch.tensor([True, True]), torch.tensor([1.0, 3.0])
    >>> make_mask(4, torch.tensor([0, 2]), spurious, z, torch.tensor([4.0, 4.0]), "soft")
    tensor([0.2500, 1.0000, 0.7500, 1.0000])
    """
    keep = torch.ones(width)
    factor = torch.zeros(len(neurons))
    if mode == "soft":
        factor = (z_expected / z_spurious).nan_to_num(0.0).clamp(0, 1).float()
    keep[neurons[spurious]] = factor[spurious]
    return keep


def read_labeled(
    labeled: Any,
    classes: Sequence[str] | None,
    count: int,
    subgroups: str | Path | Mapping[str, Any] | None = None,
    **columns: str | None,
) -> LabeledImages:
    """A labeled set with classes numbered as the network's `count` outputs.

    Args:
        labeled: what `contralens.labeled_images` takes: a folder with one subfolder per class, a CSV file, a mapping
            of its arguments, or `LabeledImages`.
        classes: the network's class names, by which labels are matched; None matches by position, sorted subfolders
            being the classes in order, as torchvision's ImageFolder has it.
        count: classes of the network.
        subgroups: a CSV file (an image column, then one column per kind of group), or image -> {column: value}.
        columns: `image_column` and `class_column` of the tables, as `contralens.labeled_images` takes them.

    Raises:
        InputError: no labels, a label that is none of the network's classes, subgroups that name none of the images.

    >>> _ = Path("few.csv").write_text("image,class\\n00000.png,striped\\n00001.png,plain\\n")
    >>> read_labeled({"images": "world-1/images", "table": "few.csv"}, ["plain", "striped"], 2).targets
    array([1, 0])
    """
    asked: dict[str, Any] = {name: column for name, column in columns.items() if column is not None}
    given = {**labeled, **asked} if isinstance(labeled, Mapping) else labeled
    found = labeled_images(given, **({} if isinstance(labeled, Mapping) else asked)).for_outputs(count, classes)
    return found if subgroups is None else found.with_groups(subgroups)


def groups_of(labeled: LabeledImages) -> dict[str, NDArray[np.bool_]]:
    """Group -> (I) which images are in it: "all", "class=NAME", "COLUMN=VALUE".

    >>> _ = Path("few.csv").write_text("image,class\\n00000.png,striped\\n00001.png,plain\\n")
    >>> list(groups_of(labeled_images("world-1/images", "few.csv")))
    ['all', 'class=plain', 'class=striped']
    """
    groups = {"all": np.ones(len(labeled), bool)}
    present = np.unique(labeled.targets)
    if len(present) > 1:
        groups |= {f"class={labeled.classes[c]}": labeled.targets == c for c in present}
    for column, values in labeled.groups.items():
        groups |= {f"{column}={value}": values == value for value in np.unique(values) if value != UNKNOWN}
    return groups


def measure_pruning(
    target: HookedTarget,
    labeled: LabeledImages,
    keep: Tensor,
    neurons: Tensor,
    mode: str,
    *,
    clusters: Sequence[str] | None = None,
    seed: int = 0,
    batch_size: int = 32,
    progress: Progress = silent,
) -> tuple[pa.Table, list[str]]:
    """Accuracy before and after, by group, and of the control: the same factors given to random neurons.

    The control's `after` is the mean over `RANDOM_PRUNINGS` draws. "balanced" is the mean of the classes' accuracies.

    Args:
        target: the layer of the network.
        labeled: the images, with classes numbered as the network's outputs.
        keep: (N) the mask, one number per neuron of the layer.
        neurons: indices of those among which the control deals the factors out.
        mode: what the rows call the mask.
        clusters: (I), the group of each image, whose images the intervals draw together; by default each is alone.
        seed: of the control and of the intervals.
        batch_size: images decoded and run at once.
        progress: called with stage, done and total.

    Returns:
        The table (see `contralens.data.audits`), and notes on images left out.

    Raises:
        InputError: none of the images can be read.

    >>> from contralens.models.targets import target
    >>> _ = Path("few.csv").write_text("image,class\\n00000.png,striped\\n00001.png,plain\\n")
    >>> classes = ["plain", "striped", "dotted", "checkered", "zigzag"]
    >>> few = read_labeled({"images": "world-1/images", "table": "few.csv"}, classes, 5)
    >>> keep = torch.ones(64).index_fill(0, torch.tensor([3, 5]), 0.0)
    >>> table, notes = measure_pruning(target("world:1", layer="block3"), few, keep, torch.arange(64), "hard")
    >>> table["group"].to_pylist()[:2], table["images"][0].as_py(), notes
    (['all', 'balanced'], 2, [])
    """
    generator = torch.Generator().manual_seed(seed)
    masks = [torch.ones_like(keep), keep]
    for _ in range(RANDOM_PRUNINGS):
        other = keep.clone()
        other[neurons] = keep[neurons[torch.randperm(len(neurons), generator=generator)]]
        masks.append(other)
    together = None if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    right, there = right_under(target, labeled, torch.stack(masks), batch_size, progress)
    notes = [f"{int((~there).sum())} labeled images could not be read"] if not there.all() else []
    sides = {mode: right[1], "random": right[2:].mean(0)}
    rows = []
    for name, after in sides.items():
        for group, member in groups_of(labeled).items():
            chosen = member & there
            belong = None if together is None else together[chosen]
            rows.append(_row(group, right[0][chosen], after[chosen], None, name, seed, belong))
            if group == "all" and len(np.unique(labeled.targets[chosen])) > 1:
                classes = labeled.targets[chosen]
                rows.append(_row("balanced", right[0][chosen], after[chosen], classes, name, seed, belong))
    return pa.Table.from_pylist(rows, PRUNING), notes


def _row(
    group: str, before: NDArray[Any], after: NDArray[Any], strata: NDArray[Any] | None, mode: str, seed: int,
    clusters: NDArray[Any] | None,
) -> dict[str, Any]:  # fmt: skip
    found = paired_interval(before, after, strata, seed=seed, clusters=clusters)
    mean: Callable[[NDArray[Any]], float] = lambda x: float(x.mean()) if len(x) else float("nan")  # noqa: E731
    if strata is not None:
        mean = lambda x: float(np.mean([x[strata == s].mean() for s in np.unique(strata)]))  # noqa: E731
    return {
        "group": group, "images": len(before), "before": mean(before), "after": mean(after),
        "difference": found.mean, "low": found.low, "high": found.high, "mode": mode,
    }  # fmt: skip


def readable(
    target: HookedTarget, labeled: LabeledImages, batch_size: int, stage: str, progress: Progress
) -> Iterator[tuple[list[int], list[Any]]]:
    """Rows and preprocessed inputs of the labeled images that can be read, batch by batch."""

    def load(i: int) -> Any:
        try:
            return target.preprocess(labeled.images.load(i))
        except ImageError:
            return None

    total = len(labeled)
    with ThreadPoolExecutor(4) as pool:
        for start in range(0, total, batch_size):
            made = enumerate(pool.map(load, range(start, min(start + batch_size, total))), start)
            if shown := {i: x for i, x in made if x is not None}:
                yield list(shown), list(shown.values())
            progress(stage, min(start + batch_size, total), total)


def right_under(
    target: HookedTarget, labeled: LabeledImages, masks: Tensor, batch_size: int, progress: Progress
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Whether the network is right under each mask (M,I), and which images could be read (I)."""
    right, there = np.zeros((len(masks), len(labeled))), np.zeros(len(labeled), bool)
    variants: Variants | None = None
    for at, shown in readable(target, labeled, batch_size, "pruning", progress):
        batch = default_collate(shown)
        if variants is None:
            variants = Variants(target, default_collate((shown * 2)[:2]))
        there[at] = True
        truth = torch.from_numpy(labeled.targets[at])
        step = max(1, variants.at_once // len(shown)) if variants.shared else 1
        for first in range(0, len(masks), step):
            some = masks[first : first + step]
            rows = torch.arange(len(shown)).repeat(len(some))
            scores = variants(batch, rows, some.repeat_interleave(len(shown), 0))
            found = scores.argmax(1).view(len(some), -1) == truth
            right[first : first + len(some), at] = found.double().numpy()
    if not there.any():
        raise InputError(f"none of the labeled images in {labeled.images.name} can be read")
    return right, there


Mode = Literal["hard", "soft"]
MODES = ("hard", "soft")
