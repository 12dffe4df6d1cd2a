"""Which tokens of a sequence are the class token, registers and patches, and in which order patches lie: tried out.

A parameter of a network that stands for a token (class, register, storage, distillation token, under any name) moves
the tokens that it is, and no other, in the first sequence that the network makes of a length. A patch of the image
moves its own token most.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from contralens.models import hooks

CLASS_TOKENS = re.compile(r"(^|_)(cls|class)(_|$|token|embedding)|class_?token|cls_?token")
"""Last part of the name of a parameter that is a class token."""
_TOKEN_WORDS = re.compile(r"cls|class|token|reg|storage|memory|prompt|latent|query|dist|extra|prefix")
MOST = 64
"""Tokens at most that one parameter stands for."""
_CANDIDATES = 24
_CELLS = 9
_RANK = 0.85


@dataclass(frozen=True, slots=True)
class Found:
    """What was found out about the tokens of one length.

    >>> Found(8, (), True).special
    (8,)
    """

    class_at: int | None
    """Where the class token is; None where none was seen."""
    others: tuple[int, ...]
    """Where register, storage and other tokens are that no image feeds."""
    seen: bool
    """Whether a sequence of that length was seen before its tokens were mixed."""

    @property
    def special(self) -> tuple[int, ...]:
        """All that are no patches."""
        return tuple(sorted({*self.others, *(() if self.class_at is None else (self.class_at,))}))


def locate(network: nn.Module, batch: Any, length: int) -> Found:
    """Where the tokens are that parameters stand for, in sequences of `length` tokens.

    Costs one forward per parameter that may stand for tokens, each ended at the first sequence of that length.
    """
    base = _first_sequence(network, batch, length)
    if base is None:
        return Found(None, (), False)
    class_at: int | None = None
    others: set[int] = set()
    seen = False
    for name, parameter in _candidates(network, length):
        kept = parameter.detach().clone()
        noise = torch.randn(kept.shape, generator=torch.Generator().manual_seed(0)).to(kept.device, kept.dtype)
        try:
            with torch.no_grad():
                parameter.add_(noise)
            moved = _first_sequence(network, batch, length)
        finally:
            with torch.no_grad():
                parameter.copy_(kept)
        if moved is None or moved.shape != base.shape:
            continue
        change = (moved - base).abs().amax((0, 2))
        places = (change > 1e-4 * change.max()).nonzero().flatten().tolist() if change.max() > 0 else []
        if not places or len(places) > max(1, length // 2):
            continue
        seen = True
        is_class = CLASS_TOKENS.search(name.rpartition(".")[2] if not name.endswith(".weight") else name[:-7])
        if len(places) == 1 and is_class and class_at is None:
            class_at = places[0]
        else:
            others.update(places)
    others.discard(-1 if class_at is None else class_at)
    return Found(class_at, tuple(sorted(others)), seen)


def _candidates(network: nn.Module, length: int) -> list[tuple[str, Tensor]]:
    """Parameters that may stand for some tokens, those called so first."""
    found: list[tuple[int, str, Tensor]] = []
    tensors = [*network.named_parameters(), *network.named_buffers()]
    owners = dict(network.named_modules())
    for name, tensor in tensors:
        leaf = name.rpartition(".")[2]
        owner = owners[name.rpartition(".")[0]]
        if isinstance(owner, nn.Embedding):
            leaf = name.split(".")[-2] if "." in name else leaf
        likely = bool(_TOKEN_WORDS.search(leaf))
        if not tensor.is_floating_point() or tensor.dim() == 0 or tensor.is_meta or "pos" in leaf:
            continue
        count = tensor.numel() // tensor.shape[-1]
        plain = type(owner).__module__.startswith("torch.nn") and not isinstance(owner, nn.Embedding)
        own_kind = not plain and tensor.dim() in (2, 3, 4) and count <= MOST and all(n == 1 for n in tensor.shape[:-2])
        if count < max(length, 2) and count <= MOST and (own_kind or (likely and not plain)):
            found.append((0 if CLASS_TOKENS.search(leaf) else 1 if likely else 2, name, tensor))
    found.sort(key=lambda one: one[0])
    return [(name, tensor) for _, name, tensor in found[:_CANDIDATES]]


def _first_sequence(network: nn.Module, batch: Any, length: int) -> Tensor | None:
    """The first tensor (B,length,N) that goes into or comes out of a module, None if there is none."""
    kept: list[Tensor] = []

    def look(value: Any) -> None:
        for tensor in _tensors(value):
            if tensor.dim() == 3 and tensor.shape[:2] == (hooks.PROBES, length):
                kept.append(tensor.detach().float().clone())
                raise hooks.Enough

    with hooks.still(network), seeded(), ExitStack() as stack:
        for module in network.modules():
            with suppress(RuntimeError):  # compiled modules take no hooks
                before = module.register_forward_pre_hook(lambda m, args, kw: look((args, kw)), with_kwargs=True)
                stack.callback(before.remove)
                stack.callback(module.register_forward_hook(lambda m, args, out: look(out)).remove)
        with suppress(hooks.Enough):
            try:
                hooks.forward(network, batch)
            except Exception:  # what was changed may not suit the network
                return None
    return kept[0] if kept else None


@contextmanager
def seeded() -> Iterator[None]:
    """The same draws each time, for networks that draw (masks, noise)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _tensors(inner)


def in_raster_order(network: nn.Module, layer: str, batch: Any, patches: Tensor, side: int) -> bool:
    """Whether the patch tokens of a layer lie row by row, as the places of a square map do.

    Tried out on the first image of a batch: where a cell of it is exchanged for that of the second image, the token of
    that cell must change more than most others, on average over some cells. Networks that sort their tokens (Hiera,
    windows, merged groups) fail it.

    Args:
        patches: which tokens of the layer are patches, (side * side).
    """
    images = batch if isinstance(batch, Tensor) else next((v for v in batch.values() if v.dim() == 4), None)
    if images is None or images.dim() != 4 or images.shape[-1] != images.shape[-2] or side < 2:
        return False
    cell = images.shape[-1] / side
    random = torch.Generator().manual_seed(0)
    chosen = torch.randperm(side * side, generator=random)[:_CELLS].tolist()
    ranks = []
    for at in chosen:
        row, column = divmod(at, side)
        changed = images[:2].clone()
        changed[0] = images[1]
        changed[1] = images[1]
        y, x = (
            slice(round(row * cell), round((row + 1) * cell)),
            slice(round(column * cell), round((column + 1) * cell)),
        )
        changed[0, :, y, x] = images[0, :, y, x]
        given = changed if isinstance(batch, Tensor) else {
            key: changed if value is images else value[:2] for key, value in batch.items()
        }  # fmt: skip
        out = hooks.run_layer(network, layer, given, lambda output: output.float().cpu())
        moved = (out[0] - out[1])[patches].norm(dim=1)
        ranks.append(float((moved < moved[at]).float().sum() / (len(moved) - 1)))
    return sum(ranks) / len(ranks) >= _RANK
