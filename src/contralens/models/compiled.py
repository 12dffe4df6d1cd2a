"""A layer's rows from compiled code: torch.compile traces the network with its hook, cut off behind the layer.

What only later layers read is dead code there, which the compiler leaves out; so no network is taken apart. Compiled
rows differ from eager ones in the last bits, and have a fingerprint of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from contralens.checks import first_line
from contralens.models import determinism, hooks
from contralens.models.hooked_layer import COMPILED, HookedTarget
from contralens.models.layer_outputs import module_of, tensor_of

CLOSE = 2e-6
"""The largest |compiled - eager| / |eager| of a row that is accepted."""
CHECKED = 8
"""Pictures of noise that are compared."""


def compiled(target: HookedTarget) -> HookedTarget:
    """The same layer from compiled code where its rows are those of the eager network, to within `CLOSE`; otherwise the
    target as it is. Its notes say which.

    Compiling takes from seconds to a minute or two, and needs a C++ compiler.

    >>> from contralens import target
    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    >>> made = compiled(target(network, layer="1", preprocess="resize=16x16,mean=half"))
    >>> made.notes[-1].startswith(("compiled", "not compiled"))
    True
    """
    cut = _Cut(target)
    try:
        batch = default_collate([target.preprocess(picture) for picture in determinism.noise(CHECKED)])
        if isinstance(batch, Mapping):
            raise NotImplementedError("it takes several tensors")
        apart = _apart(target(batch), cut(batch))
    except Exception as e:  # whatever the compiler says of a network, that runs without it
        return replace(target, notes=[*target.notes, f"not compiled: {_why(e)}"])
    if not apart <= CLOSE:
        why = f"not compiled: rows would differ by {apart:.1e} of their length, more than {CLOSE:.0e}"
        return replace(target, notes=[*target.notes, why])
    return replace(
        target,
        compiled=cut,
        fingerprint=hashlib.sha256(f"{target.fingerprint} compiled".encode()).hexdigest()[:32],
        notes=[*target.notes, f"{COMPILED} {torch.__version__}: rows differ by {apart:.1e} of their length"],
        origin={**target.origin, "options": {**target.origin.get("options", {}), "compile": True}},
    )


def _apart(eager: Tensor, other: Tensor) -> float:
    """The greatest |other - eager| / |eager| of rows (B,N); infinite where a value is not finite."""
    rows = (other - eager).norm(dim=1) / eager.norm(dim=1).clamp_min(1e-30)
    return float(rows.nan_to_num(torch.inf).max()) if bool((other - eager).any()) else 0.0


def _why(error: Exception) -> str:
    text = str(error)
    if "No working C++ compiler" in text or "InvalidCxxCompiler" in text:
        return "no C++ compiler was found (install g++ or clang++)"
    return first_line(error)


class _Cut:
    """Batches to rows by one compiled function; a batch of one, which would be compiled by itself, runs eagerly."""

    def __init__(self, target: HookedTarget) -> None:
        self.target = target
        network, layer, found = target.module, target.layer, list[Tensor]()

        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            tensor = tensor_of(output, layer)
            assert tensor is not None
            found.append(target._pooled(tensor))

        def forward(batch: Tensor) -> Tensor:
            found.clear()
            network(batch)
            return found[0]

        self.hook, self.forward = hook, torch.compile(forward, fullgraph=True, dynamic=True)

    def __call__(self, batch: Any) -> Tensor:
        target = self.target
        if isinstance(batch, Mapping) or len(batch) < 2:
            return hooks.run_taps([target.tap], batch)[0]
        listening = module_of(target.module, target.layer).register_forward_hook(self.hook)
        try:
            with hooks.still(target.module, target.dtype):
                batch = hooks.moved(batch, target.device)
                torch._dynamo.mark_dynamic(batch, 0)
                return target._rows(self.forward(batch))
        finally:
            listening.remove()
