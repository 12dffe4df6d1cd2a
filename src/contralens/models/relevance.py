"""Relevance in place of activation: how much each neuron adds to the network's class score on an image.

Rows (B,N) are shares of a layer's relevance,

    R[i,n] = sum over places or tokens of r[i,n,.],    row[i,n] = R[i,n] / sum_m |R[i,m]|

as zennit-crp's maximisation by relevance normalises them ("abs_norm"; Achtibat et al. 2023, Nature Machine
Intelligence, "From attribution maps to human-understandable explanations through Concept Relevance Propagation").
Positive: the neuron speaks for the class; negative: against it. Two methods give r:

- "lrp": layer-wise relevance propagation (`models.lrp`), for convolutional networks.
- "gradient": activation times gradient of the class score, r = A ds/dA; for any network, transformers included (the
  class token is one of the tokens). Of a sparse autoencoder's latents, with its error left in (Marks et al. 2024, arXiv
  2403.19647): r = z[n] <what one unit of latent n adds to the layer, ds/dA>.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from contralens.errors import InputError
from contralens.models import hooks, lrp
from contralens.models.hooked_layer import HookedTarget
from contralens.models.interventions import class_scores, differentiable, neurons_last
from contralens.models.pooling import class_token_of
from contralens.models.ranking import ACTIVATION, Ranking
from contralens.models.sae_target import SparseTarget, tokens_of
from contralens.saes.autoencoder import Autoencoder
from contralens.types import Target

VERSION = "contralens relevance 1"
"""Raise the number when the computing code changes its results."""


def ranked(target: Target, by: Any) -> Target:
    """The target itself where images are ranked by activation, else one whose rows are relevance.

    Raises:
        InputError: the ranking is unknown, or relevance cannot be computed for this target.

    >>> import contralens
    >>> made = ranked(contralens.target("world:1", layer="block3"), "relevance:method=gradient")
    >>> made.width, made.pooling, made.ranking.method
    (64, 'mean', 'gradient')
    """
    ranking = Ranking.of(by)
    if ranking.by == ACTIVATION or isinstance(target, RelevanceTarget):
        return target
    layer = target.base if isinstance(target, SparseTarget) else target
    if not isinstance(target, HookedTarget | SparseTarget) or not isinstance(layer, HookedTarget):
        raise InputError(
            f"{target.name} cannot be ranked by relevance: that needs a network that contralens runs "
            "(`contralens.target`); use rank_by=activation"
        )
    batch = hooks.probe_batch(target.preprocess, target.name)
    scores = class_scores(layer, batch)
    if ranking.cls is not None and ranking.cls >= scores.shape[1]:
        raise InputError(f"`rank_by`: {target.name} has no class {ranking.cls}, only 0 to {scores.shape[1] - 1}")
    own = layer(batch)
    if own.shape == scores.shape and torch.allclose(own, scores):
        raise InputError(
            f"{target.name}: {target.layer} gives the class scores themselves, so the explained class has all the "
            "relevance: use rank_by=activation, or a layer before it"
        )
    notes: list[str] = []
    method, network = method_of(target, layer, ranking.method, batch, notes)
    used = Ranking("relevance", method, ranking.cls)
    made = RelevanceTarget(target, layer, used, network, scores.shape[1], notes=notes)
    made(batch)  # refuses what has no gradient
    return made


def method_of(target: Target, layer: HookedTarget, wanted: str, batch: Any, notes: list[str]) -> tuple[str, nn.Module]:
    """The method that is used where `wanted` is asked for, and what it runs on; `notes` say why it is not LRP.

    Raises:
        InputError: LRP is asked for and cannot be used, or zennit is missing.
    """
    if isinstance(target, SparseTarget):
        check_decoder(target)
    if wanted == "gradient":
        return "gradient", layer.module
    why: nn.Module | str = "latents have no rule"
    if not isinstance(target, SparseTarget):
        why = lrp.lrp_copy(layer, batch)
    if isinstance(why, nn.Module):
        return "lrp", why
    if wanted == "lrp":
        raise InputError(f"{target.name} cannot be explained by LRP: {why}; use method=gradient, for any network")
    notes.append(f"relevance is activation times gradient, as LRP cannot be used: {why}")
    return "gradient", layer.module


@dataclass(eq=False)
class RelevanceTarget:
    """Relevance of a layer's neurons, or of latents, as a `contralens.types.Target`; made by `ranked`.

    >>> import contralens
    >>> layer = contralens.target("world:1", layer="block3")
    >>> made = ranked(layer, "relevance:method=gradient")
    >>> batch = torch.rand(2, 3, 96, 96)
    >>> torch.allclose(made(batch).abs().sum(1), torch.ones(2)), tuple(made.relevance(batch).shape)
    (True, (2, 64))
    >>> made.of_network is layer, made.device.type, made.origin["spec"]
    (True, 'cpu', 'world:1')
    """

    of_network: HookedTarget | SparseTarget
    """The neurons or latents themselves."""
    base: HookedTarget
    """The layer."""
    ranking: Ranking
    """With the method that is used, never "auto"."""
    network: nn.Module = field(repr=False)
    """What runs: the network, or a copy in whose backward pass gradients are relevance."""
    classes: int
    fingerprint: str = ""
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        own, ranking = self.of_network, self.ranking
        self.name, self.width, self.layer, self.pooling = own.name, own.width, own.layer, own.pooling
        self.neurons: Sequence[str] = own.neurons
        self.preprocess: Callable[[Any], Any] = own.preprocess
        self.module, self.dtype = self.base.module, "float32"
        rules = f"{lrp.NAME}, zennit {lrp.zennit_version()}" if ranking.method == "lrp" else ""
        parts = [VERSION, own.fingerprint, str(ranking), rules]
        self.fingerprint = self.fingerprint or hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
        goal = f"class {ranking.cls}" if ranking.cls is not None else f"the highest of {self.classes} class scores"
        how = f"LRP ({rules})" if ranking.method == "lrp" else "activation times gradient"
        self.about = {"by": "relevance", "method": ranking.method, "class": ranking.cls, "classes": self.classes,
                      "rules": rules or None}  # fmt: skip
        self.notes = [*own.notes, f"rows are relevance to {goal}: {how}, as a share of the layer's", *self.notes]

    @property
    def device(self) -> torch.device:
        """Where the network stands."""
        return self.base.device

    @property
    def origin(self) -> dict[str, Any]:
        """What the layer is made from again; see `HookedTarget.origin`."""
        return self.base.origin

    def __call__(self, batch: Any) -> Tensor:
        """A collated batch to shares of relevance (B,N), float32 on the CPU.

        Raises:
            InputError: the class scores do not depend on the layer by a gradient.
        """
        rows = self.relevance(batch)
        return rows / (rows.abs().sum(1, keepdim=True) + 1e-10)

    def relevance(self, batch: Any) -> Tensor:
        """The same before shares are taken, in the unit of the class score."""
        found, slope = self._down(batch)
        if isinstance(self.of_network, SparseTarget):
            rows = latent_relevance(self.of_network, self.base, found, slope)
        else:
            r = slope if self.ranking.method == "lrp" else slope * found
            rows = _places_summed(r.float(), neurons_last(self.base))
        if rows.shape[1] != self.width:
            raise InputError(f"{self.name}: {self.layer} gave {rows.shape[1]} neurons, but had {self.width} before")
        return rows.cpu()

    def _down(self, batch: Any) -> tuple[Tensor, Tensor]:
        """What the layer gives, and what comes down to it from the class scores: gradient, or relevance of a copy."""
        with differentiable(self.network, self.layer, self.name, batch) as (output, scores):
            at = scores.detach().argmax(1, keepdim=True)
            if self.ranking.cls is not None:
                at = torch.full_like(at, self.ranking.cls)
            by_lrp = self.ranking.method == "lrp"
            value = scores.detach().gather(1, at) if by_lrp else torch.ones_like(at, dtype=scores.dtype)
            start = torch.zeros_like(scores).scatter_(1, at, value)
            (slope,) = torch.autograd.grad(scores, output, start)
        return output.detach(), slope


def _places_summed(r: Tensor, last: bool) -> Tensor:
    """(B,N,...) or, where neurons come last, (B,...,N) to (B,N)."""
    return r.reshape(len(r), -1, r.shape[-1]).sum(1) if last else r.flatten(2).sum(2) if r.dim() > 2 else r


def check_decoder(target: SparseTarget) -> None:
    """Refuse latents whose share of the layer's output is not known.

    Raises:
        InputError: no decoder that this can read, or what is encoded is pooled over places.
    """
    what = f"the latents of {target.name} cannot be ranked by relevance"
    if not isinstance(target.encode, Autoencoder) or target.encode.decoder is None:
        raise InputError(f"{what}: that needs the decoder's weights (W_dec) from a file; use rank_by=activation")
    kind = getattr(target.base, "pooling", "")
    if target.pooling == "pooled" and kind not in ("none", "cls"):
        raise InputError(
            f"{what}: they encode the layer pooled over places ({kind}); encode each place (sae_pooling=max), or use "
            "rank_by=activation"
        )


def latent_relevance(target: SparseTarget, layer: HookedTarget, output: Tensor, slope: Tensor) -> Tensor:
    """Relevance (B,N) of latents from a layer's output and the score's gradient there, both (B,...).

    r[n] = sum over encoded tokens of z[n] <W_dec[n] in the scale of the layer's output, slope>.
    """
    autoencoder = target.encode
    assert isinstance(autoencoder, Autoencoder)
    if target.pooling == "pooled":
        pick: Callable[[Tensor], Tensor] = lambda x: (x if x.dim() == 2 else class_token_of(x, layer.tokens))[:, None]  # noqa: E731
    else:
        pick = lambda x: tokens_of(x, layer, target.pooling)  # noqa: E731
    tokens, slopes = pick(output).to(target.device), pick(slope).to(target.device)
    rows = []
    with torch.no_grad():
        for own, down in zip(tokens, slopes, strict=True):
            total = torch.zeros(target.width, device=target.device)
            for some, part in zip(own.split(256), down.split(256), strict=True):
                total += autoencoder.attributed(some, part).sum(0)
            rows.append(total)
    return torch.stack(rows)
