"""Which tensors of a file are a network's own: the prefix that makes their names fit, and what is left over."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from contralens.checks import some

WRAPPING = re.compile(r"(^|\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)")
"""What torch.compile, FSDP and checkpointing put into names, wherever they wrap a module."""
_RENAMED = (
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\."), r"\1\2."),  # DenseNets of torchvision before 0.3
    (re.compile(r"\bLayerNorm\.gamma$"), "LayerNorm.weight"),  # of early transformers
    (re.compile(r"\bLayerNorm\.beta$"), "LayerNorm.bias"),
)
_BOOKKEEPING = ("total_ops", "total_params", "num_batches_tracked", "position_ids", "relative_position_index",
                "attn_mask", "relative_coords_table", "mask_token")  # fmt: skip
"""Last parts of names that profilers and versions of libraries leave in files and that no output depends on."""
_USED_FOR_EVALUATION = ("teacher", "target")
Tables = Mapping[str, Mapping[str, Tensor]]
"""Tensors by name, under the name of what holds them in the file ("" for the file itself)."""


@dataclass(slots=True)
class Fit:
    """How the tensors of one table, without a prefix, fit a network.

    >>> table = {"model.weight": nn.Linear(3, 2).weight.data, "loss.weight": nn.Linear(3, 2).weight.data}
    >>> fit = fit_of("", table, "model.", "", nn.Linear(3, 2, bias=False))
    >>> list(fit.state), fit.foreign, fit.whole
    (['weight'], ['loss.weight'], True)
    """

    table: str
    prefix: str
    """Taken off the file's names."""
    added: str
    """Put before them."""
    wanted: Mapping[str, Tensor]
    """The network's own tensors."""
    state: dict[str, Tensor] = field(default_factory=dict)
    """What fits, by the network's names."""
    missing: list[str] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    """The network's names whose tensor in the file has another shape."""
    other: dict[str, Tensor] = field(default_factory=dict)
    """What the file has instead, by these names."""
    unexpected: list[str] = field(default_factory=list)
    """Names that are within the network and that it does not have: another architecture."""
    foreign: list[str] = field(default_factory=list)
    """Names of what is not the network's."""

    @property
    def whole(self) -> bool:
        """Whether all of the network is in the file, and nothing more of it."""
        return not (self.missing or self.shapes or self.unexpected)

    @property
    def name(self) -> str:
        """What to call the part of the file that was taken, as the user may name it."""
        return ".".join(part for part in (self.table, self.prefix.rstrip(".")) if part)

    def misfits(self) -> int:
        """How many tensors do not fit."""
        return len(self.missing) + len(self.shapes) + len(self.unexpected)

    def __str__(self) -> str:
        of = [f"{k}: file {tuple(self.other[k].shape)}, network {tuple(self.wanted[k].shape)}" for k in self.shapes]
        parts = [some("missing", self.missing), some("unexpected", self.unexpected), some("of another shape", of)]
        return "; ".join(part for part in parts if part)


def best_fit(tables: Tables, network: nn.Module, choice: str = "") -> tuple[Fit | None, list[str]]:
    """The table and prefix that give the network most of its tensors, and the names of others that give as many.

    Every prefix is tried with which some name of the file becomes one of the network's, rather than a list of usual
    ones. Of those that fit equally, "teacher" goes before what it teaches, else the first of the file is taken.
    `choice` names the table or the prefix to take, or the beginning of it. None where no name of the file fits.
    """
    wanted = network.state_dict()
    candidates: list[tuple[tuple[int, int], Fit]] = []
    for table, tensors in tables.items():
        renamed = _renamed(tensors, wanted)
        for prefix, added in _prefixes(renamed, wanted):
            named = Fit(table, prefix, added, wanted)
            if choice and not f"{named.name}.".startswith(f"{choice}."):
                continue
            candidates.append((_score(renamed, prefix, added, wanted), named))
    if not candidates:
        return None, []
    best = max(score for score, _ in candidates)
    equal = [fit for score, fit in candidates if score == best]
    taken = next((f for f in equal if any(word in f.name.lower() for word in _USED_FOR_EVALUATION)), equal[0])
    fit = fit_of(taken.table, tables[taken.table], taken.prefix, taken.added, network)
    others = dict.fromkeys(one.name for one in equal if one.name != taken.name)
    return fit, list(others) if best[0] else []


def fit_of(table: str, tensors: Mapping[str, Tensor], prefix: str, added: str, network: nn.Module) -> Fit:
    """How the tensors fit a network once a prefix is removed from their names and another is put before them."""
    wanted = network.state_dict()
    fit = Fit(table, prefix, added, wanted)
    inside: dict[str, tuple[str, Tensor]] = {}
    for key, value in _renamed(tensors, wanted).items():
        name = added + key.removeprefix(prefix)
        if not key.startswith(prefix):
            fit.foreign.append(key)
        elif name not in wanted:
            inside[key] = (name, value)
        elif value.shape == wanted[name].shape:
            fit.state[name] = value
        else:
            fit.shapes.append(name)
            fit.other[name] = value
    fit.missing = [k for k in wanted if k not in fit.state and k not in fit.other and not k.endswith(_TRACKED)]
    filled = _filled(fit.state)
    for key, (name, value) in inside.items():
        (fit.unexpected if _is_within(name, filled, value) else fit.foreign).append(key)
    return fit


_TRACKED = "num_batches_tracked"


def _filled(state: Mapping[str, Tensor]) -> set[str]:
    """Names of the modules, the network itself left out, that have weights from the file."""
    return {".".join(parts[:i]) for parts in (key.split(".") for key in state) for i in range(1, len(parts))}


def _is_within(name: str, filled: set[str], value: Tensor) -> bool:
    """Whether a name that the network does not have is in one of its modules that have weights from the file."""
    parts = name.split(".")
    if parts[-1] in _BOOKKEEPING or not value.is_floating_point():
        return False
    return any(".".join(parts[:i]) in filled for i in range(1, len(parts)))


def _renamed(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the marks of wrappers, and with the names that later versions of the libraries use, where that helps."""
    plain = {WRAPPING.sub("", f".{key}").lstrip("."): value for key, value in tensors.items()}
    if len(plain) < len(tensors) or any(WRAPPING.search(key) for key in wanted):
        plain = dict(tensors)
    ends = {tuple(key.split(".")[-3:]) for key in wanted}

    def later(key: str) -> str:
        if tuple(key.split(".")[-3:]) in ends:
            return key
        for old, new in _RENAMED:
            key = old.sub(new, key)
        return key

    renamed = {later(key): value for key, value in plain.items()}
    return renamed if len(renamed) == len(plain) else plain


def _prefixes(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Pairs (what to remove, what to put before) with which names of the file become the network's, the likely first.

    What is put before is nothing, or a beginning that most of the network's names share ("vit." of a classifier whose
    body alone was saved).
    """
    counts: Counter[str] = Counter()
    for key in wanted:
        parts = key.split(".")
        counts.update(".".join(parts[:i]) + "." for i in range(1, min(len(parts), 4)))
    starts = ["", *(start for start, count in counts.items() if count * 2 > len(wanted))]
    found: dict[tuple[str, str], int] = {}
    for added in starts:
        names = {key.removeprefix(added) for key in wanted if key.startswith(added)}
        for key in tensors:
            at = 0
            while at >= 0:
                if key[at:] in names and not (added and key[:at].endswith(added)):
                    found[key[:at], added] = found.get((key[:at], added), 0) + 1
                at = key.find(".", at) + 1 or -1
    most = max(found.values(), default=0)
    return [pair for pair, count in found.items() if count * 2 >= most]


def _score(tensors: Mapping[str, Tensor], prefix: str, added: str, wanted: Mapping[str, Tensor]) -> tuple[int, int]:
    """Tensors that fit, and names that do."""
    named = [(value, wanted.get(added + key.removeprefix(prefix))) for key, value in tensors.items()
             if key.startswith(prefix)]  # fmt: skip
    pairs = [(value, own) for value, own in named if own is not None]
    return sum(value.shape == own.shape for value, own in pairs), len(pairs)
