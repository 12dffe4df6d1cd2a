"""One layer of a network as a target: its activations caught by a hook that lives for one call."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from contralens.errors import InputError
from contralens.fingerprint.network import TARGET_VERSION, describe
from contralens.models import hooks
from contralens.models.pooling import Choice, Layout, Tokens, pool

COMPILED = "compiled by torch"
"""How the note of a compiled network begins."""


@dataclass(eq=False)
class HookedTarget:
    """One layer of a network as a `contralens.types.Target`; made by `target`.

    >>> from PIL.Image import new
    >>> from contralens import target
    >>> made = target(nn.Conv2d(3, 8, 3), layer=".", preprocess="resize=16x16,mean=half")
    >>> made.neurons[7], made.device.type, tuple(made(made.preprocess(new("RGB", (20, 20)))[None]).shape)
    ('output/7', 'cpu', (1, 8))
    >>> made.tap.layer, made.with_dtype("bf16").fingerprint == made.fingerprint, made.tokens
    ('.', False, 0)
    """

    name: str
    fingerprint: str
    width: int
    """N, the neurons."""
    layer: str
    pooling: str
    neurons: Sequence[str]
    """(N) names."""
    preprocess: Callable[[Any], Any]
    """One RGB image to a tensor (3,H,W), or to a dict of tensors by name of the network's argument."""
    module: nn.Module
    """The network itself."""
    prefix_tokens: int
    """Tokens before the patches, which token poolings over patches leave out."""
    dtype: str
    notes: list[str] = field(default_factory=list)
    """What a reader of the run should know, e.g. where preprocessing was taken from."""
    network: str = ""
    """Digest of the network, a part of `fingerprint`."""
    repeatable: bool = True
    """Whether its rows are a function of the image; False only where the user allows that."""
    layout: Layout | None = None
    """Where class and register tokens are, if not before the patches."""
    untrained: tuple[str, ...] = ()
    """Weights of the network that were not in the source; the layer does not depend on them, class scores may."""
    raster_order: bool | None = None
    """Whether patch tokens lie row by row, as maps need it; None until somebody asked (`models.activation_maps`)."""
    classes: tuple[str, ...] | None = None
    """Names of the network's outputs, where the weights know them."""
    depth: float | None = None
    """How deep in the network the layer is, 0 to 1 (`LayerInfo.depth`)."""
    origin: dict[str, Any] = field(default_factory=dict)
    """"spec" and "options" that `target` makes the same one from; "spec" is None where no text names the network."""
    compiled: Callable[[Any], Any] | None = None
    """What gives the rows in place of a hook, where the network is compiled (`models.compiled`)."""

    @property
    def device(self) -> torch.device:
        """Where the network stands."""
        return hooks.device_of(self.module)

    def __call__(self, batch: Any) -> Tensor:
        """A collated batch, (B,3,H,W) or a dict of such, to activations (B,N), float32 on the CPU, without gradient.

        The forward stops as soon as the layer has run. The network is in eval mode meanwhile and as it was afterwards.

        Raises:
            InputError: the network did not run the layer, or gave another number of neurons than at the start.
        """

        return hooks.run_taps([self.tap], batch)[0] if self.compiled is None else self.compiled(batch)

    @property
    def tap(self) -> hooks.Tap:
        """Where it listens; targets on one network run in one forward by theirs (`models.shared_forward`)."""
        return hooks.Tap(self.module, self.layer, self.dtype, self._pooled, self._rows)

    def with_dtype(self, dtype: str) -> HookedTarget:
        """The same layer computed in another precision, not compiled, as `target(..., dtype=...)` makes it."""
        choice = Choice(self.pooling, self.prefix_tokens, self.width, layout=self.layout)
        options = {
            key: value for key, value in self.origin.get("options", {}).items() if key not in ("dtype", "compile")
        }
        return replace(
            self,
            dtype=dtype,
            compiled=None,
            notes=[note for note in self.notes if not note.startswith(COMPILED)],
            fingerprint=fingerprint_of(self.network, self.layer, choice, dtype, self.preprocess, []),
            origin={**self.origin, "options": {**options, **({} if dtype == "float32" else {"dtype": dtype})}},
        )

    @property
    def tokens(self) -> Tokens:
        """How many tokens come before the patches, or where those are that are no patches."""
        return self.layout or self.prefix_tokens

    def _pooled(self, output: Tensor, valid: Tensor | None = None) -> Tensor:
        pooled = pool(self.pooling, output, self.tokens, valid)
        return pooled.clone()  # a view would keep the whole output alive

    def _rows(self, pooled: Tensor) -> Tensor:
        if pooled.dim() != 2 or pooled.shape[1] != self.width:
            raise InputError(
                f"{self.name}: {self.layer} gave rows of shape {tuple(pooled.shape)}, but had {self.width} neurons "
                "before"
            )
        return pooled.cpu()


def network_target(target: Any) -> Any:
    """The layer or the latents themselves where a target ranks images by something else, such as relevance."""
    return getattr(target, "of_network", target)


def fingerprint_of(
    network: str, layer: str, choice: Choice, dtype: str, function: Callable[[Any], Any], notes: list[str]
) -> str:
    """Of a target; `network` is the network's own digest."""
    parts = [TARGET_VERSION, network, repr(layer), choice.name, str(choice.tokens), dtype, describe(function, notes)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
