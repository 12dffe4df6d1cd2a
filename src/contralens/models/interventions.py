"""Interventions: the network's class scores with neurons of the layer scaled or switched off, and their gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from contralens.checks import some
from contralens.errors import InputError
from contralens.models import hooks
from contralens.models.hooked_layer import HookedTarget, network_target
from contralens.models.layer_outputs import first_tensor, module_of, tensor_of
from contralens.models.pooling import POOLINGS, channels_last
from contralens.models.sae_target import SparseTarget
from contralens.models.untrained_weights import unknown
from contralens.types import Target

TOLERANCE = 1e-3
"""Largest difference between two ways to the same scores, as a share of their spread."""
ROWS_BYTES = 64 * 2**20
"""Layer outputs repeated at once."""
MOST_ROWS = 512

Scalable = HookedTarget | SparseTarget
"""What can be scaled inside a network: neurons of a layer, and latents of a sparse autoencoder over one."""


def scalable(target: Target) -> Scalable:
    """The target, if its neurons or latents can be changed inside a network.

    Raises:
        InputError: contralens did not make it of a network.
    """
    target = network_target(target)
    if isinstance(target, HookedTarget) or (isinstance(target, SparseTarget) and isinstance(target.base, HookedTarget)):
        return target
    raise InputError(
        f"{target.name} cannot be changed inside its network: that needs a target made by contralens, or a sparse "
        "autoencoder over one"
    )


def layer_of(target: Scalable) -> HookedTarget:
    """Where in the network a target is changed."""
    layer = target.base if isinstance(target, SparseTarget) else target
    assert isinstance(layer, HookedTarget)
    return layer


@contextmanager
def changed(network: nn.Module, layer: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the block, `change` of what the layer gives continues in its place."""

    def hook(module: Any, inputs: Any, output: Any) -> Any:
        tensor = tensor_of(output, layer)
        if tensor is None:
            raise InputError(f"{layer} gave no tensor, so its neurons cannot be changed")
        return _replaced(output, tensor, change(tensor))

    handle = module_of(network, layer).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def differentiable(network: nn.Module, layer: str, name: str, batch: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """What the layer gives, cut off from what comes before it, and the class scores (B,C) that depend on it.

    Raises:
        InputError: there are none; `name` is what the error calls the network.
    """
    leaf: list[Tensor] = []

    def change(x: Tensor) -> Tensor:
        torch.set_grad_enabled(True)  # from here on; `still` puts it back
        leaf.append(x.detach().requires_grad_(True))
        return leaf[0] * 1.0  # what follows may change it in place

    with hooks.still(network), changed(network, layer, change):
        scores = first_tensor(hooks.forward(network, batch))
        if scores is None or scores.dim() != 2 or not scores.requires_grad or not leaf:
            raise InputError(f"{name} gives no class scores that depend on {layer} by a gradient")
        yield leaf[0], scores


@contextmanager
def scaled(target: Scalable, neuron: int, factor: float) -> Iterator[None]:
    """Within the block `neuron` is multiplied by `factor` inside the network, at every place or token.

    Of a layer: what it gives for that neuron. Of a sparse autoencoder: the latent's share of what the layer gives
    (`SparseTarget.scaled`).
    """
    layer = layer_of(target)
    last = neurons_last(layer)

    def change(tensor: Tensor) -> Tensor:
        if isinstance(target, SparseTarget):
            return target.scaled(tensor, neuron, factor)
        out = tensor.clone()
        channel = out[..., neuron] if last else out[:, neuron]
        channel *= factor
        return out

    with changed(layer.module, layer.layer, change):
        yield


@contextmanager
def shifted(target: HookedTarget, by: Tensor) -> Iterator[None]:
    """Within the block, `by` (B,N) is added to what the layer gives for B images, at every place or token."""
    last = neurons_last(target)

    def change(tensor: Tensor) -> Tensor:
        if len(tensor) != len(by):
            raise InputError(f"{target.layer} gives {tuple(tensor.shape)}, not one part for each of {len(by)} images")
        return tensor + along(by.to(tensor.device, tensor.dtype), tensor, last)

    with changed(target.module, target.layer, change):
        yield


@contextmanager
def kept(network: nn.Module, layer: str, keep: Tensor, last: bool | None = None) -> Iterator[None]:
    """Within the block, the layer's neurons are multiplied by `keep` (N), at every place or token.

    `last` says whether neurons are the last size of what the layer gives, or the second; None finds out.
    """

    def change(tensor: Tensor) -> Tensor:
        end = last
        if end is None:
            end = tensor.dim() != 4 or bool(channels_last(tensor.shape, module_of(network, layer))[0])
        if tensor.shape[-1 if end else 1] != len(keep):
            raise InputError(
                f"the mask is for {len(keep)} neurons, but {layer} gives {tuple(tensor.shape)}: it belongs to another "
                "layer or network"
            )
        return tensor * along(keep.to(tensor.device, tensor.dtype)[None], tensor, end)

    with changed(network, layer, change):
        yield


def neurons_last(target: HookedTarget) -> bool:
    """Whether neurons are the last size of what the layer gives, rather than the second."""
    return POOLINGS[target.pooling].kind != "map" or target.pooling.endswith("_last")


def along(keep: Tensor, tensor: Tensor, last: bool) -> Tensor:
    """(R,N) shaped so that it goes with (R,...,N) or (R,N,...)."""
    inner = [1] * (tensor.dim() - 2)
    return keep.view(len(keep), *inner, -1) if last else keep.view(len(keep), -1, *inner)


def _replaced(output: Any, old: Tensor, new: Tensor) -> Any:
    """`output` with one of its tensors exchanged."""
    if output is old:
        return new
    if isinstance(output, tuple):
        parts = [_replaced(part, old, new) for part in output]
        return type(output)(*parts) if hasattr(output, "_fields") else tuple(parts)
    if isinstance(output, list):
        return [_replaced(part, old, new) for part in output]
    if isinstance(output, dict):
        for key, part in list(output.items()):
            output[key] = _replaced(part, old, new)
    return output


def _is_used(layer: HookedTarget, batch: Any) -> bool:
    """Whether the network's output depends on weights that it was not given."""
    with unknown(layer.module, layer.untrained):
        return bool(hooks.run_layer(layer.module, ".", batch, lambda output: output.isnan().any()))


def class_scores(target: Scalable, batch: Any) -> Tensor:
    """The network's own output for a batch, (B,classes) float32 on the CPU, before any softmax.

    Raises:
        InputError: the output is no row of scores per image, or made with weights that were not in the source.
    """
    layer = layer_of(target)
    if layer.untrained and _is_used(layer, batch):
        raise InputError(
            f"{target.name} has no trained classifier ({some('weights', list(layer.untrained))} not in the source), so "
            "its class scores are meaningless"
        )
    keep: Callable[[Tensor], Tensor] = lambda output: output.float().cpu()  # noqa: E731
    scores = hooks.run_layer(layer.module, ".", batch, keep)
    if scores.dim() != 2:
        raise InputError(f"{target.name} gives {tuple(scores.shape)}, not one row of class scores per image")
    return scores


class Variants:
    """Class scores of images with the layer's neurons multiplied, many ways at once.

    What comes before the layer runs once per image and the layer's output is repeated, if the network allows that. This
    is tried out on `batch` (at least two images): both ways must give the same scores. Else whole images are repeated.
    """

    def __init__(self, target: HookedTarget, batch: Any) -> None:
        self.target = target
        scores = class_scores(target, batch)
        output = hooks.run_layer(target.module, target.layer, batch, lambda x: x)
        self.classes = scores.shape[1]
        count, bytes_each = len(scores), output[0].numel() * 4
        rows = torch.cat([torch.arange(count), torch.arange(count).flip(0), torch.zeros(1, dtype=torch.int64)])
        keep = torch.rand(len(rows), target.width, generator=torch.Generator().manual_seed(0)).round()
        self.shared = False
        whole = self(batch, rows, keep)
        self.shared = True
        try:
            self.shared = bool(
                (self(batch, rows, keep) - whole).abs().max() <= TOLERANCE * max(float(whole.std()), 1e-12)
            )
        except Exception:  # whatever a network raises that counts its images before the layer
            self.shared = False
        self.at_once = max(1, min(MOST_ROWS, ROWS_BYTES // bytes_each)) if self.shared else count
        """Variants of one call that fit into memory."""

    def __call__(self, batch: Any, rows: Tensor, keep: Tensor) -> Tensor:
        """Scores (R,classes): variant r is image `rows[r]` of the batch with the neurons multiplied by `keep[r]`,
        (R),(R,N)."""
        target, last = self.target, neurons_last(self.target)

        def change(x: Tensor) -> Tensor:
            x = x[rows.to(x.device)] if self.shared else x
            return x * along(keep.to(x.device, x.dtype), x, last)

        if not self.shared:
            batch = {k: v[rows] for k, v in batch.items()} if isinstance(batch, dict) else batch[rows]
        with changed(target.module, target.layer, change):
            return class_scores(target, batch)


def gradient_times_activation(target: HookedTarget, batch: Any, classes: Sequence[int]) -> Tensor:
    """sum over places of A ds[c]/dA for the layer's output A and class scores s, (len(classes),B,N) float32.

    The first-order estimate of what switching a neuron off takes from the score.
    """
    found, last = [], neurons_last(target)
    with differentiable(target.module, target.layer, target.name, batch) as (output, scores):
        for c in classes:
            (slope,) = torch.autograd.grad(scores[:, c].sum(), output, retain_graph=True)
            product = (slope * output.detach()).float()
            rows = product.reshape(len(product), -1, target.width).sum(1) if last else product.flatten(2).sum(2)
            found.append(rows)
    return torch.stack(found).cpu()


def shares(target: Scalable, batch: Any, neuron: int, factors: Sequence[float]) -> Tensor:
    """Class probabilities (len(factors),B,classes) with the neuron scaled by each factor (1 leaves it alone)."""
    out = []
    for factor in factors:
        with scaled(target, neuron, factor):
            out.append(class_scores(target, batch).softmax(dim=1))
    return torch.stack(out)
