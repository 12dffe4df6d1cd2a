"""In which order the layers of a network end in a forward, and which of them reads what another gives."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from torch import Tensor, nn

from contralens.models.layer_outputs import first_tensor


class Trace:
    """What one forward showed; filled inside `traced`.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    >>> with traced(net) as trace:
    ...     _ = net(torch.zeros(1, 3, 8, 8))
    >>> trace.order, trace.follows, trace.depth("0"), trace.depth(".")
    (['0', '1', '.'], {'1': '0'}, 0.5, 1.0)
    """

    def __init__(self) -> None:
        self.order: list[str] = []
        """Names of the layers in the order in which their first call ended; "." is the network itself."""
        self.begun: dict[str, int] = {}
        """Layer -> how many entries `order` had when its first call began."""
        self.follows: dict[str, str] = {}
        """Layer -> the layer whose output, unchanged, is its input; the outermost of those that gave that tensor."""
        self._leaves = 0
        self._ended: dict[str, int] = {}
        self._given: dict[int, tuple[weakref.ref[Tensor], int, str]] = {}

    def depth(self, layer: str) -> float | None:
        """Share of the network's innermost modules that had run when the layer ended; None where it did not run.

        Another tensor of a layer ("NAME#1") is as deep as the layer.
        """
        at = self._ended.get(layer.partition("#")[0])
        return None if at is None else round(at / max(1, self._leaves), 4)

    def begin(self, name: str, inputs: Any) -> None:
        """A layer is about to run."""
        self.begun.setdefault(name, len(self.order))
        tensor = first_tensor(inputs)
        ref, version, by = self._given.get(id(tensor), (None, 0, ""))
        if tensor is not None and ref is not None and ref() is tensor and version == tensor._version:
            self.follows.setdefault(name, by)

    def end(self, name: str, leaf: bool, output: Any) -> None:
        """A layer has run."""
        self._leaves += leaf
        if name not in self._ended:
            self._ended[name] = self._leaves
            self.order.append(name)
        tensor = first_tensor(output)
        if tensor is not None:
            self._given[id(tensor)] = (weakref.ref(tensor), tensor._version, name)


@contextmanager
def traced(network: nn.Module) -> Iterator[Trace]:
    """Watches the forward that runs inside. Modules that take no hooks (compiled by torch.jit) are not seen."""
    trace = Trace()
    with ExitStack() as stack:
        for name, module in network.named_modules():
            with suppress(RuntimeError):
                _watch(module, name or ".", trace, stack)
        yield trace


def _watch(module: nn.Module, name: str, trace: Trace, stack: ExitStack) -> None:
    leaf = next(module.children(), None) is None
    before = module.register_forward_pre_hook(lambda _, inputs: trace.begin(name, inputs))
    stack.callback(before.remove)
    after = module.register_forward_hook(lambda _, inputs, output: trace.end(name, leaf, output))
    stack.callback(after.remove)
