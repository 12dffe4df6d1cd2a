"""Which tokens of a sequence are patches: by what a network declares, and as places once they are known."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tokens of a sequence are that are no patches.

    >>> import torch
    >>> middle = Layout(3, class_at=1, special=(1,))
    >>> middle.patches(torch.tensor([[[1.0], [9.0], [3.0]]]))[0, :, 0], middle.prefix
    (tensor([1., 3.]), None)
    """

    length: int
    class_at: int
    """Where the class token is; only asked where there is one."""
    special: tuple[int, ...]
    """Class, register and other tokens, in order."""

    @property
    def prefix(self) -> int | None:
        """How many they are, where they come first; None where they are elsewhere."""
        count = len(self.special)
        return count if self.special == tuple(range(count)) and self.class_at == 0 else None

    def places(self) -> list[int]:
        """Where the patches are."""
        return [place for place in range(self.length) if place not in self.special]

    def patches(self, x: Tensor) -> Tensor:
        """The patches (B,P,N) of tokens (B,L,N)."""
        return x[:, self.places()]

    def __str__(self) -> str:
        return f"class {self.class_at} special {','.join(map(str, self.special))} of {self.length}"


Tokens = int | Layout
"""How many tokens come before the patches, or where those that are no patches are."""


def patches_of(x: Tensor, tokens: Tokens) -> Tensor:
    """The patch tokens (B,P,N) of tokens (B,L,N)."""
    return x[:, tokens:] if isinstance(tokens, int) else tokens.patches(x)


def class_token_of(x: Tensor, tokens: Tokens) -> Tensor:
    """The class token (B,N) of tokens (B,L,N)."""
    return x[:, 0 if isinstance(tokens, int) else tokens.class_at]


@dataclass(frozen=True, slots=True)
class Prefix:
    """Tokens before the patches: how many, and whether the first one is a class token that the network reads."""

    count: int
    has_class: bool
    reads_class: bool


_CLASS_TOKENS = ("cls_token", "class_token", "class_embedding", "cls")
_OTHER_TOKENS = ("dist_token", "distillation_token", "reg_token", "register_token", "register_tokens", "reg_tokens")


def averages(network: nn.Module) -> bool:
    """Whether a network says that it averages its tokens and does not read the class token."""
    mean = str(getattr(network, "global_pool", "")) in ("avg", "avgmax", "max")
    return mean or bool(getattr(getattr(network, "config", None), "use_mean_pooling", False))


def prefix_of(network: nn.Module) -> Prefix | None:
    """The prefix tokens that a network declares, or None where it declares nothing.

    timm says `num_prefix_tokens`; elsewhere the parameters tell by their names (`cls_token`, `class_token`,
    `class_embedding`; distillation and register tokens), as in torchvision, transformers and open_clip.
    """
    mean = averages(network)
    count = getattr(network, "num_prefix_tokens", None)
    if isinstance(count, int):
        has_class = bool(getattr(network, "has_class_token", getattr(network, "cls_token", None) is not None))
        return Prefix(count, has_class and count > 0, has_class and count > 0 and not mean)
    classes, others = 0, 0
    for name, parameter in network.named_parameters():
        leaf = name.rpartition(".")[2]
        if leaf in _CLASS_TOKENS and parameter.dim() <= 3:
            classes = 1
        elif leaf in _OTHER_TOKENS:
            others += int(parameter.shape[-2]) if parameter.dim() > 1 else 1
    if not classes and not others:
        return None
    return Prefix(classes + others, bool(classes), bool(classes) and not mean)


def _is_square(n: int) -> bool:
    return n >= 1 and math.isqrt(n) ** 2 == n


def tokens_before(length: int, network: nn.Module, square: bool) -> Prefix | None:
    """Prefix tokens of a layer with `length` tokens, or None where it cannot be determined.

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
