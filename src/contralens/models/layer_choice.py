"""Layers chosen by name, by pattern or by kind."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace

from contralens.checks import nearest
from contralens.errors import InputError
from contralens.models.layer_kinds import ALL, KINDS, PLAIN
from contralens.models.layer_outputs import PART
from contralens.models.layers import LayerInfo
from contralens.models.pooling import POOLINGS, SHAPES

EVERY = "all"
"""What stands for the layers of the trunk."""


def is_pattern(layer: str) -> bool:
    """Whether a text may stand for several layers.

    >>> is_pattern("all"), is_pattern("block*"), is_pattern("block3")
    (True, True, False)
    """
    return layer == EVERY or any(sign in layer for sign in "*?[")


def matches(pattern: str, name: str) -> bool:
    """Whether a name fits: "*" and "?" stay between dots, "**" crosses them, "[0-3]" is one of some signs.

    >>> [matches(pattern, "blocks.3.mlp.act") for pattern in ("blocks.*", "blocks.*.mlp.act", "**.act")]
    [False, True, True]
    """
    parts = re.split(r"(\*\*|\*|\?|\[[^]]+\])", pattern)
    signs = {"**": ".*", "*": "[^.]*", "?": "[^.]"}
    return (
        re.fullmatch("".join(signs.get(p, p if i % 2 else re.escape(p)) for i, p in enumerate(parts)), name) is not None
    )


def chosen_layers(
    rows: Sequence[LayerInfo], asked: Sequence[str], kinds: Collection[str] = (), pooling: str | None = None
) -> tuple[list[LayerInfo], dict[str, str]]:
    """Layers in the order in which they run, and why others that a pattern meant are left out, by name.

    Args:
        rows: what `layers` found of the network.
        asked: names, patterns (see `matches`), or "all": the trunk, which is stem, blocks, head and output, or in a
            network without blocks its convolutions and linear layers.
        kinds: only layers of these kinds (`KINDS`); "all" then means every layer of these kinds.
        pooling: that layers are to be pooled by; those that it does not fit are left out.

    Raises:
        InputError: nothing is meant, or a name or kind is unknown.

    >>> from torch import nn
    >>> from contralens.models.layers import layers
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten())
    >>> rows = layers(net, preprocess="resize=16x16,mean=half")
    >>> [[row.name for row in chosen_layers(rows, [asked])[0]] for asked in ("all", "[0-2]")]
    [['1', '2', '.'], ['0', '1', '2']]
    """
    _check_kinds(rows, kinds)
    known = {row.name for row in rows}
    wanted, out = [], {}
    for row in sorted(rows, key=lambda row: (2.0 if row.depth is None else row.depth, row.name == ".")):
        names = [f"{row.name}{mark}{part}" for one in asked for base, mark, part in [one.partition(PART)]
                 if _means(base, row, known, rows, kinds)]  # fmt: skip
        if not names or (kinds and not set(row.kinds) & set(kinds)):
            continue
        if row.neurons is None:
            out[row.name] = row.note
        elif pooling is not None and not _fits(pooling, row):
            out[row.name] = f"pooling {pooling} is not for {_shape(row)}"
        else:
            wanted += [replace(row, name=name) for name in dict.fromkeys(names)]
    _check_names(asked, known, wanted, out, kinds)
    return wanted, out


def _means(
    base: str, row: LayerInfo, known: Collection[str], rows: Sequence[LayerInfo], kinds: Collection[str]
) -> bool:
    """Whether a name, pattern or "all" means a layer."""
    if base in known or not is_pattern(base):
        return base == row.name
    if base != EVERY:
        return matches(base, row.name)
    return bool(set(row.kinds) & set(kinds or trunk_kinds(rows)))


def trunk_kinds(rows: Sequence[LayerInfo]) -> tuple[str, ...]:
    """The kinds that "all" stands for in a network.

    >>> trunk_kinds([])
    ('conv', 'linear', 'output')
    """
    return ALL if any("block" in row.kinds for row in rows) else PLAIN


def _check_kinds(rows: Sequence[LayerInfo], kinds: Collection[str]) -> None:
    there = [kind for kind in KINDS if any(kind in row.kinds for row in rows)]
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(f"`layer_kinds`: no kind {kind!r}{nearest(kind, KINDS)}; known: {', '.join(KINDS)}")
        if kind not in there:
            raise InputError(f"`layer_kinds`: the network has no layer of the kind {kind}; it has {', '.join(there)}")


def _check_names(
    asked: Sequence[str],
    known: Collection[str],
    wanted: Sequence[LayerInfo],
    out: dict[str, str],
    kinds: Collection[str],
) -> None:
    for one in asked:
        base = one.partition(PART)[0]
        if base not in known and not is_pattern(base):
            raise InputError(f"the network has no layer {base!r}{nearest(base, known)}; all: contralens layers TARGET")
        if base != EVERY and base not in known and not any(matches(base, name) for name in known):
            raise InputError(f"no layer fits the pattern {base!r}; all layers: contralens layers TARGET")
    if not wanted:
        what = " ".join(asked) + (f" of the kinds {', '.join(kinds)}" if kinds else "")
        first = next((f": {name}: {why}" for name, why in out.items()), "")
        raise InputError(f"`layer`: no layer can be used of those that {what} means{first}")


def _fits(pooling: str, row: LayerInfo) -> bool:
    return pooling not in POOLINGS or POOLINGS[pooling].kind == POOLINGS[row.pooling or "none"].kind


def _shape(row: LayerInfo) -> str:
    return SHAPES[POOLINGS[row.pooling or "none"].kind]
