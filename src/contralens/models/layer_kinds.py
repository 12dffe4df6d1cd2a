"""What kind of layer each layer of a network is: found by the network's shape and one forward, not by its name.

The *trunk* of a network is what its forward goes through in turn: containers (`nn.Sequential`, `nn.ModuleList`) and the
stages that hold repeated blocks are opened, blocks are not.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from torch import nn

from contralens.models.layer_trace import Trace

KINDS = {
    "stem": "before the first block: patch embedding, first convolution",
    "block": "outputs of blocks; in transformers the residual stream",
    "head": "between the last block and the output: last convolution, final norm",
    "conv": "convolutions, behind their own norm and activation",
    "linear": "fully connected layers of networks without blocks, behind their activation",
    "attention": "outputs of attention modules",
    "mlp": "hidden neurons of the MLPs of blocks, behind the nonlinearity",
    "output": "the network's output",
}
"""Kinds of layers."""
ALL = ("stem", "block", "head", "output")
"""What `--layer all` stands for; `PLAIN` where a network has no blocks."""
PLAIN = ("conv", "linear", "output")
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_PASSES = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
_SHAPES_UP = re.compile(r"norm|relu|elu|silu|swish|mish|sigmoid|tanh|activation|act$|_act|softplus", re.I)
_ATTENTION = re.compile(r"attention|attn", re.I)
_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
Shapes = Mapping[str, Sequence[int]]
"""Layer -> output per image, of those that can be a target."""


def kinds_of(network: nn.Module, shapes: Shapes, trace: Trace) -> dict[str, tuple[str, ...]]:
    """Kinds of the layers that have one, as keys of `KINDS`.

    >>> import torch
    >>> from contralens.models.layer_trace import traced
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.Flatten())
    >>> with traced(net) as trace:
    ...     _ = net(torch.zeros(1, 3, 8, 8))
    >>> kinds_of(net, {"0": (8, 6, 6), "1": (8, 6, 6), "3": (8, 1, 1), ".": (8,)}, trace)
    {'1': ('conv',), '3': ('conv',), '.': ('output',)}
    """
    net = _Network(network, shapes, trace)
    found: dict[str, set[str]] = {}
    for name, kind in [*net.trunk(), *net.convolutions(), *net.attentions(), *net.hidden(), (".", "output")]:
        if name in shapes and name in net.modules:
            found.setdefault(name, set()).add(kind)
    return {name: tuple(k for k in KINDS if k in found[name]) for name in trace.order if name in found}


class _Network:
    """A network with what its forward showed."""

    def __init__(self, network: nn.Module, shapes: Shapes, trace: Trace) -> None:
        self.network, self.shapes, self.trace = network, shapes, trace
        self.modules = {name or ".": module for name, module in network.named_modules()}
        self.place = {name: at for at, name in enumerate(trace.order)}
        self.readers: dict[str, list[str]] = {}
        for reader, given in trace.follows.items():
            self.readers.setdefault(given, []).append(reader)
        self.units = sorted((u for u in self._units(".", network) if u in self.place), key=self.place.__getitem__)
        self.blocks = self._blocks()

    def _units(self, name: str, module: nn.Module, sole: bool = True) -> Iterator[str]:
        """The parts of the trunk, by name."""
        inner = list(module.named_children())
        single = [key for key, child in inner if not _is_step(child)]
        for key, child in inner:
            full = key if name == "." else f"{name}.{key}"
            if next(child.children(), None) is None:
                yield full
            elif isinstance(child, _CONTAINERS):
                yield from [full] if _is_step(child) and full in self.shapes else self._units(full, child, False)
            elif _is_stage(child) or (sole and single == [key]):
                yield from self._units(full, child, sole and single == [key])
            else:
                yield full

    def _blocks(self) -> list[str]:
        """Units that are blocks: modules of their own kind in containers, or of which several are of one class."""
        own = [u for u in self.units if not isinstance(self.modules[u], _CONTAINERS) and _weights(self.modules[u])]
        own = [u for u in own if next(self.modules[u].children(), None) is not None]
        large = [u for u in self.units if not _is_step(self.modules[u])]
        classes = [type(self.modules[u]) for u in large]
        inside = {u for u in own if isinstance(self.modules[u.rpartition(".")[0] or "."], _CONTAINERS)}
        return [u for u in self.units if u in inside or (u in large and classes.count(type(self.modules[u])) > 1)]

    def trunk(self) -> Iterator[tuple[str, str]]:
        """Layers of the trunk with their kinds; one that only gives the network's output is left to "."."""
        if not self.units:
            return
        last = max((self.place[u] for u in self.units), default=-1)
        first_block, last_block = (
            (self.place[self.blocks[0]], self.place[self.blocks[-1]]) if self.blocks else (None, None)
        )
        for name in self.units:
            module = self.modules[name]
            if _is_step(module) and not _weights(module) and not (_shapes_up(module) and _has_weights(module)):
                continue
            end = self.finished(name) if _is_step(module) and name not in self.blocks else name
            if _is_step(module) and not _weights(module) and self.trace.follows.get(name) in self._ends():
                continue  # a norm that ends what is a layer already
            if self.place[name] == last and self.shapes.get(end) == self.shapes.get("."):
                continue
            if first_block is None:
                for weight in _weights(module)[:1]:
                    yield end, "conv" if isinstance(weight, _CONVOLUTIONS) else "linear"
            else:
                at = self.place[name]
                yield end, "stem" if at < first_block else "head" if at > (last_block or 0) else "block"

    def _ends(self) -> Collection[str]:
        return {self.finished(u) for u in self.units if _weights(self.modules[u])}

    def finished(self, name: str) -> str:
        """The layer behind its own norm and activation: the last of those that read it, one after the other."""
        end = at = name
        shape = self.shapes.get(name)
        seen = {name}
        while len(readers := self._next(at, seen)) == 1:
            at = readers[0]
            seen.add(at)
            module = self.modules[at]
            if isinstance(module, _PASSES):
                continue
            if not _shapes_up(module) or self.shapes.get(at) != shape:
                break
            end = at
        return self._around(end, shape)

    def _next(self, name: str, seen: Collection[str]) -> list[str]:
        """Innermost modules that read what a layer gives, or what the module around it gives as it is."""
        read = [r for given in self._same(name) for r in self.readers.get(given, ())]
        whole = [r for r in dict.fromkeys(read) if r not in seen and not self._holds(r, name)]
        return [r for r in whole if not any(o != r and self._holds(o, r) for o in whole)]

    def _same(self, name: str) -> list[str]:
        """The layer and those around it that end with it."""
        out, at = [name], self.place[name] + 1
        while at < len(self.trace.order) and self._holds(self.trace.order[at], name):
            out.append(self.trace.order[at])
            at += 1
        return out

    def _around(self, name: str, shape: Sequence[int] | None) -> str:
        """The container around a convolution and what belongs to it, which has the better name."""
        for outer in self._same(name)[1:]:
            module = self.modules[outer]
            if isinstance(module, nn.Sequential) and _is_step(module) and self.shapes.get(outer) == shape:
                return outer
            if not _shapes_up(module):
                break
        return name

    @staticmethod
    def _holds(outer: str, inner: str) -> bool:
        return outer == "." or inner.startswith(f"{outer}.")

    def convolutions(self) -> Iterator[tuple[str, str]]:
        """Every convolution, where it ends."""
        for name, module in self.modules.items():
            if isinstance(module, _CONVOLUTIONS) and name in self.shapes and name in self.place:
                yield self.finished(name), "conv"

    def attentions(self) -> Iterator[tuple[str, str]]:
        """Outermost modules of attention."""
        named = [n for n, m in self.modules.items() if _ATTENTION.search(type(m).__name__) and not _is_step(m)]
        for name in named:
            inside = any(self._holds(other, name) for other in named if other != name)
            if not inside and name != "." and not _is_stage(self.modules[name]):
                yield name, "attention"

    def hidden(self) -> Iterator[tuple[str, str]]:
        """What the second linear layer of an MLP reads: its hidden neurons."""
        for block in self.blocks:
            for name, module in self.modules[block].named_modules(prefix=block):
                if isinstance(module, nn.Linear) and module.in_features > module.out_features:
                    found = self._before(name)
                    if found is not None and self.shapes.get(found, (0,))[-1] == module.in_features:
                        yield found, "mlp"

    def _before(self, linear: str) -> str | None:
        """What gives a linear layer its input, before dropout; None where nothing that could be a target does."""
        passed, at = None, self.trace.follows.get(linear)
        while at is not None and isinstance(self.modules[at], _PASSES):
            passed, at = at, self.trace.follows.get(at)
        return passed if at is None or isinstance(self.modules[at], nn.Linear) else at


def _weights(module: nn.Module) -> list[nn.Module]:
    """Modules with matrices or kernels among a module and what is in it."""
    return [m for m in module.modules() if any(p.dim() > 1 for p in m.parameters(recurse=False))]


def _is_step(module: nn.Module) -> bool:
    """Whether it is one layer at most: a convolution with its norm and activation, a patch embedding, a pooling."""
    return len(_weights(module)) <= 1


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _shapes_up(module: nn.Module) -> bool:
    """Whether it is a norm or an activation function."""
    return not _weights(module) and bool(_SHAPES_UP.search(type(module).__name__))


def _is_stage(module: nn.Module) -> bool:
    """Whether it holds a container with several blocks of one class."""
    for inner in module.modules():
        if isinstance(inner, _CONTAINERS):
            kinds = [type(child) for child in inner.children() if not _is_step(child)]
            if len(kinds) > len(set(kinds)):
                return True
    return False
