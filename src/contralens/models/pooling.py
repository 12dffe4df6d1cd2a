"""From what a layer gives to one number per neuron (the project's methods, section 1).

Letters: B images of a batch, N neurons, H x W places of a map, L tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from contralens.checks import nearest
from contralens.errors import InputError
from contralens.models.token_layouts import (
    Layout,
    Prefix,
    Tokens,
    averages,
    class_token_of,
    patches_of,
    prefix_of,
    tokens_before,
)
from contralens.models.tokens import Found

__all__ = [
    "POOLINGS", "SHAPES", "Choice", "Layout", "Pooling", "Tokens", "channels_last", "choose", "class_token_of",
    "patches_of", "pool", "prefix_of",
]  # fmt: skip

SHAPES = {"map": "a conv map (B,N,H,W)", "tokens": "tokens (B,L,N)", "row": "one row per image (B,N)"}


@dataclass(frozen=True, slots=True)
class Pooling:
    """One way to pool: what it is for, what it does, and the function (activations, prefix tokens) -> (B,N)."""

    kind: str
    """A key of `SHAPES`: what the layer must give."""
    says: str
    """What it does, in a few words, for menus."""
    function: Callable[[Tensor, Tokens], Tensor]


def _mean(x: Tensor, tokens: Tokens) -> Tensor:
    return x.mean((2, 3))


def _max(x: Tensor, tokens: Tokens) -> Tensor:
    return x.amax((2, 3))


POOLINGS: dict[str, Pooling] = {
    "mean": Pooling("map", "mean over places, in the detected layout", _mean),
    "max": Pooling("map", "maximum over places, in the detected layout", _max),
    "mean_first": Pooling("map", "mean over places of a map (B,N,H,W), regardless of the detected layout", _mean),
    "max_first": Pooling("map", "maximum over places of a map (B,N,H,W), regardless of the detected layout", _max),
    "mean_last": Pooling("map", "mean over places of a channels-last map (B,H,W,N)", lambda x, _: x.mean((1, 2))),
    "max_last": Pooling("map", "maximum over places of a channels-last map (B,H,W,N)", lambda x, _: x.amax((1, 2))),
    "cls": Pooling("tokens", "the class token", class_token_of),
    "mean_patches": Pooling("tokens", "mean over patch tokens", lambda x, t: patches_of(x, t).mean(1)),
    "max_patches": Pooling("tokens", "maximum over patch tokens", lambda x, t: patches_of(x, t).amax(1)),
    "max_abs_patches": Pooling(
        "tokens", "largest magnitude over patch tokens", lambda x, t: patches_of(x, t).abs().amax(1)
    ),
    "none": Pooling("row", "as is", lambda x, _: x),
}


def pool(name: str, activations: Tensor, prefix: Tokens = 0, valid: Tensor | None = None) -> Tensor:
    """Activations of a layer to one float32 number per image and neuron, (B,N).

    `prefix` tokens are before the patches (class and register tokens), or a `Layout` says where they are; only token
    poolings look at it. `valid` (B,L) says which tokens are no padding: the others are left out. NaN stays NaN: a
    maximum never hides one.

    >>> import torch
    >>> pool("max", torch.tensor([[[[1.0, 5.0]], [[2.0, float("nan")]]]]))
    tensor([[5., nan]])
    >>> tokens = torch.tensor([[[1.0], [3.0], [8.0]]])
    >>> pool("mean_patches", tokens, valid=torch.tensor([[True, True, False]]))
    tensor([[2.]])
    """
    function = POOLINGS[name].function
    if valid is None or POOLINGS[name].kind != "tokens" or name == "cls":
        return function(activations.float(), prefix)
    keep = patches_of(valid[..., None], prefix)[..., 0]
    patches = patches_of(activations.float(), prefix)
    return torch.cat([function(own[None, those], 0) for own, those in zip(patches, keep, strict=True)])


@dataclass(frozen=True, slots=True)
class Choice:
    """How one layer is pooled."""

    name: str
    prefix: int
    width: int
    """N, the neurons of the layer."""
    notes: tuple[str, ...] = ()
    layout: Layout | None = None
    """Where class and register tokens are, if not at the beginning."""

    @property
    def tokens(self) -> Tokens:
        """What `pool` wants to know of the tokens."""
        return self.layout or self.prefix


def channels_last(shape: Sequence[int], module: nn.Module, square: bool = True) -> tuple[bool | None, str | None]:
    """Whether a four-dimensional output is (B,H,W,N) rather than (B,N,H,W), with a note where it is a guess.

    The rule, in this order: convolutions and 2-d batch norms give (B,N,H,W), a Linear (B,H,W,N), a LayerNorm the one
    that its width fits; else, as maps of square images are square, the odd one out of the three sizes is N. Where all
    three are equal or the images are not square, (B,N,H,W) is a guess; three different sizes from square images are no
    map (such as the heads of an attention) and give None.
    """
    _, a, b, c = shape
    if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
        return False, None
    if isinstance(module, nn.Linear):
        return True, None
    if isinstance(module, nn.LayerNorm) and a != c:
        return module.normalized_shape[-1] == c, None
    if b == c and a != b:
        return False, None
    if a == b and b != c:
        return True, None
    if square and a != b != c:
        return None, None
    return False, (
        f"the layer gives maps of {a} x {b} x {c}, so neurons and positions are ambiguous: read as (B,N,H,W); "
        "pooling 'mean_last' or 'max_last' takes them as (B,H,W,N)"
    )


def choose(
    shape: Sequence[int],
    module: nn.Module,
    network: nn.Module,
    *,
    pooling: str | None = None,
    prefix_tokens: int | None = None,
    square: bool = True,
    layer: str = "the layer",
    found: Found | None = None,
) -> Choice:
    """The pooling of a layer whose output has `shape` (B,...), inferred or as asked for.

    Inferred: "mean" of maps, "cls" of tokens where the network reads its class token, "mean_patches" of other tokens,
    "none" of rows. `square` says that the images are square; `found` which tokens move with the network's own tokens
    (`tokens.locate`); `prefix_tokens` goes before both.

    Raises:
        InputError: the pooling is unknown or does not fit the shape, or the prefix tokens cannot be determined.
    """
    if pooling is not None and pooling not in POOLINGS:
        raise InputError(
            f"unknown pooling {pooling!r}{nearest(pooling, POOLINGS) or '; known: ' + ', '.join(POOLINGS)}"
        )
    kind = {2: "row", 3: "tokens", 4: "map"}.get(len(shape))
    inner = tuple(int(n) for n in shape[1:])
    if kind is None:
        raise InputError(
            f"{layer} gives {len(shape)}-dimensional output of shape {inner} per image; a layer with (N), (L,N) "
            "or (N,H,W) per image is needed"
        )
    if pooling is not None and POOLINGS[pooling].kind != kind:
        fits = ", ".join(name for name, p in POOLINGS.items() if p.kind == kind)
        raise InputError(
            f"pooling {pooling!r} is for {SHAPES[POOLINGS[pooling].kind]}, but {layer} gives {SHAPES[kind]} "
            f"of shape {inner} per image: use {fits}"
        )
    if kind == "row":
        return Choice("none", 0, inner[0])
    if kind == "map":
        last, note = channels_last(shape, module, square)
        name = pooling or "mean"
        if name in ("mean", "max"):
            if last is None:
                raise InputError(
                    f"{layer} gives {inner} per image, three different sizes, so it is no map of square images: pick "
                    "another layer, or choose the neurons with pooling mean_first or mean_last"
                )
            name = f"{name}_last" if last else name
        else:
            note = None
        name = name.removesuffix("_first")
        return Choice(name, 0, inner[2 if name.endswith("_last") else 0], (note,) if note else ())
    if found is not None and found.special and prefix_tokens is None and len(found.special) < inner[0]:
        return _choose_found(inner, network, pooling, found, layer)
    return _choose_tokens(inner, network, pooling, prefix_tokens, square, layer, found)


def _choose_found(inner: tuple[int, ...], network: nn.Module, pooling: str | None, found: Found, layer: str) -> Choice:
    """Of tokens whose places are known."""
    length, width = inner
    layout = Layout(length, found.class_at or 0, found.special)
    if pooling == "cls" and found.class_at is None:
        raise InputError(
            f"pooling 'cls' needs a class token, but none of the {length} tokens of {layer} moves with a parameter of "
            "that name: use mean_patches, or set --prefix-tokens 1 (prefix_tokens=1) if the first one is"
        )
    name = pooling or ("cls" if found.class_at is not None and not averages(network) else "mean_patches")
    prefix = layout.prefix
    if prefix is not None:
        return Choice(name, prefix, width)
    at = "" if found.class_at is None else f", the class token at place {found.class_at} of {length}"
    return Choice(name, len(layout.special), width, (f"{len(layout.special)} tokens are no patches{at}",), layout)


def _choose_tokens(
    inner: tuple[int, ...],
    network: nn.Module,
    pooling: str | None,
    prefix_tokens: int | None,
    square: bool,
    layer: str,
    found: Found | None,
) -> Choice:
    """Of tokens of which the user says, or the network declares, how many come before the patches."""
    length, width = inner
    prefix: Prefix | None
    notes: tuple[str, ...] = ()
    if prefix_tokens is not None:
        if not 0 <= prefix_tokens < length:
            raise InputError(f"`prefix_tokens` must be from 0 to {length - 1}, as {layer} has {length} tokens")
        prefix = Prefix(prefix_tokens, prefix_tokens > 0, prefix_tokens > 0)
    else:
        prefix = tokens_before(length, network, square)
        if prefix is not None and prefix.has_class and found is not None:
            notes = _check_class_token(network, prefix, pooling, length, layer)
    if pooling == "cls":
        if prefix is not None and not prefix.has_class:
            raise InputError(
                f"pooling 'cls' needs a class token, but the {length} tokens of {layer} seem to have none: use "
                "mean_patches, or set prefix_tokens=1 (--prefix-tokens 1) if the first one is"
            )
        if prefix is None:
            notes = (f"the first of {length} tokens is taken as the class token, as there is no other sign",)
        return Choice("cls", prefix.count if prefix else 0, width, notes)
    if prefix is None:
        raise InputError(
            f"{layer} has {length} tokens and it is unclear which are patches: give the number of class and "
            "register tokens that come first, prefix_tokens=0 (--prefix-tokens 0) or more"
        )
    return Choice(pooling or ("cls" if prefix.reads_class else "mean_patches"), prefix.count, width, notes)


def _check_class_token(
    network: nn.Module, prefix: Prefix, pooling: str | None, length: int, layer: str
) -> tuple[str, ...]:
    """Refuse a class token that the network has somewhere but where was not seen; say where it is only assumed."""
    if isinstance(getattr(network, "num_prefix_tokens", None), int):  # timm's word for tokens that come first
        return ()
    if prefix_of(network) is None:
        return (f"{length} tokens are one more than a square: the first is taken as the class token",)
    if pooling == "cls" or (pooling is None and prefix.reads_class):
        raise InputError(
            f"{layer} has a class token among its {length} tokens, but none depends on it, so its position is "
            f"unknown: set --prefix-tokens {prefix.count} (prefix_tokens={prefix.count}) if it comes first, or pick "
            "another layer"
        )
    return (f"the first {prefix.count} of {length} tokens are not treated as patches, judging by their number",)
