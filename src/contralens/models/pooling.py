"""From what a layer gives to one number per neuron (the project's methods, section 1).

Letters: B images of a batch, N neurons, H x W places of a map, L tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from contralens.checks import InputError, nearest

SHAPES = {
    "map": "a conv map (B,N,H,W)",
    "tokens": "tokens (B,L,N)",
    "row": "one row per image (B,N)",
}


@dataclass(frozen=True, slots=True)
class Pooling:
    """One way to pool: what it is for, what it does, and the function (activations, prefix tokens) -> (B,N)."""

    kind: str
    """A key of `SHAPES`: what the layer must give."""
    says: str
    """What it does, in a few words, for menus."""
    function: Callable[[Tensor, int], Tensor]


def _mean(x: Tensor, prefix: int) -> Tensor:
    return x.mean((2, 3))


def _max(x: Tensor, prefix: int) -> Tensor:
    return x.amax((2, 3))


def _mean_last(x: Tensor, prefix: int) -> Tensor:
    return x.mean((1, 2))


def _max_last(x: Tensor, prefix: int) -> Tensor:
    return x.amax((1, 2))


def _cls(x: Tensor, prefix: int) -> Tensor:
    return x[:, 0]


def _mean_patches(x: Tensor, prefix: int) -> Tensor:
    return x[:, prefix:].mean(1)


def _max_patches(x: Tensor, prefix: int) -> Tensor:
    return x[:, prefix:].amax(1)


def _max_abs_patches(x: Tensor, prefix: int) -> Tensor:
    return x[:, prefix:].abs().amax(1)


def _none(x: Tensor, prefix: int) -> Tensor:
    return x


POOLINGS: dict[str, Pooling] = {
    "mean": Pooling("map", "mean over places, in the layout that was recognised", _mean),
    "max": Pooling("map", "maximum over places, in the layout that was recognised", _max),
    "mean_first": Pooling("map", "mean over places of a map (B,N,H,W), whatever was recognised", _mean),
    "max_first": Pooling("map", "maximum over places of a map (B,N,H,W), whatever was recognised", _max),
    "mean_last": Pooling("map", "mean over places of a channels-last map (B,H,W,N)", _mean_last),
    "max_last": Pooling("map", "maximum over places of a channels-last map (B,H,W,N)", _max_last),
    "cls": Pooling("tokens", "the class token", _cls),
    "mean_patches": Pooling("tokens", "mean over patch tokens", _mean_patches),
    "max_patches": Pooling("tokens", "maximum over patch tokens", _max_patches),
    "max_abs_patches": Pooling("tokens", "largest magnitude over patch tokens", _max_abs_patches),
    "none": Pooling("row", "as is", _none),
}


def pool(name: str, activations: Tensor, prefix: int = 0) -> Tensor:
    """Activations of a layer to one float32 number per image and neuron, (B,N).

    `prefix` tokens stand before the patches (class and register tokens); only token poolings look at it. NaN stays NaN:
    a maximum never hides one.

    >>> import torch
    >>> pool("max", torch.tensor([[[[1.0, 5.0]], [[2.0, float("nan")]]]]))
    tensor([[5., nan]])
    """
    return POOLINGS[name].function(activations.float(), prefix)


@dataclass(frozen=True, slots=True)
class Choice:
    """How one layer is pooled."""

    name: str
    prefix: int
    width: int
    """N, the neurons of the layer."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prefix:
    """Tokens before the patches: how many, and whether the first one is a class token that the network reads."""

    count: int
    has_class: bool
    reads_class: bool


_CLASS_TOKENS = ("cls_token", "class_token", "class_embedding", "cls")
_OTHER_TOKENS = ("dist_token", "distillation_token", "reg_token", "register_token", "register_tokens", "reg_tokens")


def prefix_of(network: nn.Module) -> Prefix | None:
    """The prefix tokens that a network declares, or None where it declares nothing.

    timm says `num_prefix_tokens`; elsewhere the parameters tell by their names (`cls_token`, `class_token`,
    `class_embedding`; distillation and register tokens), as in torchvision, transformers and open_clip.
    """
    averages = str(getattr(network, "global_pool", "")) in ("avg", "avgmax", "max")
    averages = averages or bool(getattr(getattr(network, "config", None), "use_mean_pooling", False))
    count = getattr(network, "num_prefix_tokens", None)
    if isinstance(count, int):
        has_class = bool(getattr(network, "has_class_token", getattr(network, "cls_token", None) is not None))
        return Prefix(count, has_class and count > 0, has_class and count > 0 and not averages)
    classes, others = 0, 0
    for name, parameter in network.named_parameters():
        leaf = name.rpartition(".")[2]
        if leaf in _CLASS_TOKENS and parameter.dim() <= 3:
            classes = 1
        elif leaf in _OTHER_TOKENS:
            others += int(parameter.shape[-2]) if parameter.dim() > 1 else 1
    if not classes and not others:
        return None
    return Prefix(classes + others, bool(classes), bool(classes) and not averages)


def _is_square(n: int) -> bool:
    return n >= 1 and math.isqrt(n) ** 2 == n


def _tokens(length: int, network: nn.Module, square: bool) -> Prefix | None:
    """Prefix tokens of a layer with `length` tokens, or None where it cannot be told.

    Of a square image the patches number a square. The declared prefix is taken where the rest is one; else no prefix
    where the length is one itself (before the class token joins), else one class token where length - 1 is.
    """
    declared = prefix_of(network)
    if declared is not None and length > declared.count and (not square or _is_square(length - declared.count)):
        return declared
    if square and _is_square(length):
        return Prefix(0, False, False)
    if square and _is_square(length - 1):
        return Prefix(1, True, True)
    return None


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
        f"the layer gives maps of {a} x {b} x {c}, which does not tell neurons from places: taken as (B,N,H,W); "
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
) -> Choice:
    """The pooling of a layer whose output has `shape` (B,...), inferred or as asked for.

    Inferred: "mean" of maps, "cls" of tokens where the network reads its class token, "mean_patches" of other tokens,
    "none" of rows. `square` says that the images are square; `prefix_tokens` overrides what is found out about tokens.

    Raises:
        InputError: the pooling is unknown or does not fit the shape, or the prefix tokens cannot be told.
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
                    f"{layer} gives {inner} per image, three different sizes and so no map of square images: pick "
                    "another layer, or say which is the neuron with pooling mean_first or mean_last"
                )
            name = f"{name}_last" if last else name
        else:
            note = None
        name = name.removesuffix("_first")
        return Choice(name, 0, inner[2 if name.endswith("_last") else 0], (note,) if note else ())
    return _choose_tokens(inner, network, pooling, prefix_tokens, square, layer)


def _choose_tokens(
    inner: tuple[int, ...],
    network: nn.Module,
    pooling: str | None,
    prefix_tokens: int | None,
    square: bool,
    layer: str,
) -> Choice:
    length, width = inner
    prefix: Prefix | None
    if prefix_tokens is not None:
        if not 0 <= prefix_tokens < length:
            raise InputError(f"`prefix_tokens` must be from 0 to {length - 1}, as {layer} has {length} tokens")
        prefix = Prefix(prefix_tokens, prefix_tokens > 0, prefix_tokens > 0)
    else:
        prefix = _tokens(length, network, square)
    if pooling == "cls":
        if prefix is not None and not prefix.has_class:
            raise InputError(
                f"pooling 'cls' needs a class token, but the {length} tokens of {layer} seem to have none: use "
                "mean_patches, or say prefix_tokens=1 if the first one is"
            )
        return Choice("cls", prefix.count if prefix else 0, width)
    if prefix is None:
        raise InputError(
            f"{layer} has {length} tokens and it cannot be told which are patches: say how many class and register "
            "tokens come first, prefix_tokens=0 (or 1, ...)"
        )
    return Choice(pooling or ("cls" if prefix.reads_class else "mean_patches"), prefix.count, width)
