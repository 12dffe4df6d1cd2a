"""The paper's published code (package `neurolens`, MIT, https://github.com/oussamabouanani/neurolens) beside ours.

Its two functions for exemplars are called as it calls them, with `load_activations` reading from memory instead of from
its files. What it does otherwise than we: means in float32, added up a batch at a time; ties among activations as
`torch.topk` breaks them; cosines in float32, one product a positive.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from contralens.math.exemplars import find_exemplars
from contralens.math.statistics import neuron_statistics, select_neurons

BATCH = 4069
"""Images that it reads at a time (sic)."""


def compare(path: Path, a: torch.Tensor, e: torch.Tensor, k: int, most: int) -> tuple[str, bool]:
    """In words how its exemplars compare with ours, and whether every difference has a harmless reason.

    Args:
        path: a checkout, or the folder that holds the package.
        a: activations (I,N).
        e: unit embeddings (I,D).
        k: exemplars a neuron.
        most: neurons whose partners it looks for, since that takes long; positives are compared for all it selects.
    """
    utils, config = _import(path)
    top = min(100, len(a) % BATCH or BATCH)
    chosen = select_neurons(a, most=a.shape[1], least_firing=k, top=top)
    settings = config.NeuroLensConfig(
        neuron_data=config.NeuronDataConfig(
            topk_neurons=len(chosen), required_sample_count=k, mean_top_count=top, ignore_overly_active_neurons=False,
            neg_fetch_batch_size=4096, allow_neg_reuse=True,
        )
    )  # fmt: skip
    given = {
        "config": settings,
        "path_configs": None,
        "target_model": SimpleNamespace(
            identifier="made-up", device=torch.device("cpu"), get_total_neuron_count=lambda: a.shape[1]
        ),
        "img_dataset": _Set(len(a)),
        "device": "cpu",
    }
    before = utils.load_activations
    utils.load_activations = lambda **wanted: _part(a, wanted.get("sample_indices"), wanted.get("neuron_indices"))
    try:
        begin = time.perf_counter()
        positive = utils._get_topk_positive_neuron_data(**given)
        surveyed = time.perf_counter() - begin
        some = list(positive)[:: max(1, len(positive) // most)][:most]
        begin = time.perf_counter()
        negative = {
            n: utils._get_negative_neuron_data(**given, pos_neuron_data=positive[n], all_img_embds=e) for n in some
        }
        searched = (time.perf_counter() - begin) / max(1, len(some)) * len(positive)
    finally:
        utils.load_activations = before
    ours = find_exemplars(a, e, k=k, neurons=list(positive))
    below = neuron_statistics(a).below()
    seen: Counter[str] = Counter()
    if sorted(positive) != sorted(chosen.tolist()):
        seen["neurons: OTHER"] += 1
    for place, n in enumerate(positive):
        _positives(seen, a[:, n], positive[n], ours.positives[place])
        if n in negative:
            _partners(seen, a[:, n], e, float(below[n]), positive[n], negative[n], ours, place)
    told = ", ".join(f"{what} {count:,}" for what, count in sorted(seen.items()))
    seconds = f"{surveyed:.1f} s for positives and about {searched:,.0f} s for partners of {len(positive):,} neurons"
    return f"{told}; it takes {seconds}", not any("OTHER" in what for what in seen)


def _import(path: Path) -> tuple[Any, Any]:
    root = next((p for p in (path / "src", path) if (p / "neurolens" / "__init__.py").exists()), None)
    if root is None:
        raise SystemExit(f"--neurolens {path}: no package `neurolens` there, nor in its src folder")
    sys.path.insert(0, str(root))
    try:
        utils = importlib.import_module("neurolens.target_model.neuron_data.utils")
        return utils, importlib.import_module("neurolens.config")
    except ImportError as e:
        raise SystemExit(f"--neurolens {path}: {e}; install what it needs: pip install {path}") from e
    finally:
        sys.path.remove(str(root))


class _Set:
    """An image set of that many images."""

    identifier = "made-up"

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count


def _part(a: torch.Tensor, images: Any, neurons: Any) -> torch.Tensor:
    """A copy of some rows and columns; a pair of numbers is a range, one number a list of one."""
    for axis, wanted in ((0, images), (1, neurons)):
        if isinstance(wanted, tuple):
            a = a.narrow(axis, wanted[0], wanted[1] - wanted[0])
        elif wanted is not None:
            a = a.index_select(axis, torch.as_tensor([wanted] if isinstance(wanted, int) else wanted))
    return a.clone()


def _positives(seen: Counter[str], column: torch.Tensor, theirs: Any, ours: torch.Tensor) -> None:
    equal = theirs.indices == ours
    tied = column[theirs.indices] == column[ours]
    seen["positives: same"] += int(equal.sum())
    for what, which in (("positives: tie in activation", ~equal & tied), ("positives: OTHER", ~tied)):
        if bool(which.any()):
            seen[what] += int(which.sum())


def _partners(
    seen: Counter[str], column: torch.Tensor, e: torch.Tensor, below: float, positive: Any, negative: Any, ours: Any,
    place: int,
) -> None:  # fmt: skip
    """Partners of the positives that both have, whatever their ranks."""
    own = dict(zip(ours.positives[place].tolist(), ours.contrasts[place].tolist(), strict=True))
    low, high = sorted((below, float(positive.probe_dataset_overall_mean)))
    for p, q in zip(positive.indices.tolist(), negative.indices.tolist(), strict=True):
        if p not in own:
            continue
        r = own[p]
        if q == r:
            seen["partners: same"] += 1
        elif abs(float(e[p].double() @ e[q].double() - e[p].double() @ e[r].double())) < 1e-6:
            seen["partners: cosines equal in float32"] += 1
        elif any(low <= float(column[i]) <= high for i in (q, r)):
            seen["partners: between its mean and the exact one"] += 1
        else:
            seen["partners: OTHER"] += 1
