"""A sparse autoencoder: one formula for all common kinds.

Latents z (N) of one activation x (D):

    u = norm((x - center) / std * scale) - b_dec,    h = (u W_enc + b_enc) * gain,    z = activation(h)

where most of it is absent in most autoencoders. The activations: relu(h); the k largest of h (TopK, Gao et al. 2024,
arXiv 2406.04093); h where it exceeds a threshold (JumpReLU, Rajamanoharan et al. 2024, arXiv 2407.14435; BatchTopK,
Bussmann et al. 2024, arXiv 2412.06410, after training). A gated one (Rajamanoharan et al. 2024, arXiv 2404.16014) has
z = relu(u W_enc exp(r_mag) + b_mag) where u W_enc + b_gate > 0.

A latent's share of x is what its part of the reconstruction amounts to in x's own scale: z[n] W_dec[n] / gain[n], with
std, scale and norm undone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from contralens.errors import InputError
from contralens.fingerprint.describing import describe

KINDS = {
    "relu": "the positive part (vanilla, trained with L1)",
    "topk": "the k largest of each token",
    "batchtopk": "what exceeds the threshold that training learnt",
    "jumprelu": "what exceeds a threshold of each latent",
    "gated": "the positive part where a gate of each latent is open",
}
"""Activations of a sparse autoencoder, and what they keep."""
NORMS = ("none", "layer_norm", "constant_norm_rescale")


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """A sparse autoencoder as a function from activations (T,D) to latents (T,N)."""

    kind: str
    """A key of `KINDS`."""
    encoder: Tensor
    """(D,N)."""
    bias: Tensor
    """(N)."""
    b_dec: Tensor | None = None
    """(D), subtracted from the activations before they are encoded; None if they are not shifted."""
    gain: Tensor | None = None
    """(N), what pre-activations are multiplied by: the lengths of the decoder's rows."""
    gate: Tensor | None = None
    """(N), b_gate of a gated one, whose `bias` is b_mag."""
    magnitude: Tensor | None = None
    """(N), r_mag of a gated one."""
    k: int = 0
    """Latents that TopK keeps."""
    threshold: Tensor | None = None
    """(N) or ()."""
    at_threshold: bool = False
    """Whether a pre-activation that equals its threshold counts."""
    signed: bool = False
    """Whether TopK keeps negative values where fewer than k are positive."""
    norm: str = "none"
    """How each activation is normalised first; one of `NORMS`."""
    center: Tensor | None = None
    """(D), subtracted from the activations before anything else: what training centred them with."""
    std: Tensor | None = None
    """(D), what activations are divided by after centring."""
    scale: float = 1.0
    """What activations are multiplied by after that."""
    decoder: Tensor | None = None
    """(N,D), W_dec; None where it is not known."""
    tokens: str = field(default="", compare=False)
    """"cls" or "patches" where it was trained on those tokens only."""
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __contralens_fingerprint__(self) -> str:
        """What the latents depend on; what a file is called and what was noted of it is left out."""
        return describe({k: v for k, v in vars(self).items() if k not in ("notes", "tokens") and v is not None})

    @property
    def inputs(self) -> int:
        """D, the width of the activations that it takes."""
        return int(self.encoder.shape[0])

    @property
    def width(self) -> int:
        """N, the latents."""
        return int(self.encoder.shape[1])

    def to(self, device: torch.device | str) -> Autoencoder:
        """The same on another device."""
        moved: dict[str, Any] = {n: value.to(device) for n, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)

    def __call__(self, x: Tensor) -> Tensor:
        """Latents (T,N) of activations (T,D), float32."""
        x, _ = self._normalised(x)
        if self.b_dec is not None:
            x = x - self.b_dec
        if self.gate is not None and self.magnitude is not None:
            seen = x @ self.encoder
            h = torch.addcmul(self.bias, seen, self.magnitude.exp()).relu_()
            return h.masked_fill_(seen + self.gate <= 0, 0.0)
        h = torch.addmm(self.bias, x, self.encoder)
        if self.gain is not None:
            h *= self.gain
        if not self.signed:
            h = h.relu_()
        if self.kind == "topk":
            top = h.topk(self.k, dim=1, sorted=False)
            return torch.zeros_like(h).scatter_(1, top.indices, top.values)
        if self.threshold is not None and self.kind != "relu":
            h.masked_fill_(h < self.threshold if self.at_threshold else h <= self.threshold, 0.0)  # NaN stays NaN
        return h

    def change(self, x: Tensor, latent: int, factor: float) -> Tensor:
        """What activations (T,D) gain when one latent is multiplied: (factor - 1) times its share of x, (T,D) float32.

        What the autoencoder does not reconstruct is left as it is, as in Templeton et al. 2024 ("Scaling
        Monosemanticity") and Marks et al. 2024 (arXiv 2403.19647).
        """
        if self.decoder is None:
            raise InputError("the sparse autoencoder's file holds no decoder (W_dec), so its latents cannot be scaled")
        direction = self.decoder[latent] if self.gain is None else self.decoder[latent] / self.gain[latent]
        return (factor - 1) * self(x)[:, latent, None] * direction * self._normalised(x)[1]

    def attributed(self, x: Tensor, slope: Tensor) -> Tensor:
        """Each latent's share of activations (T,D), times a gradient there (T,D), summed over D: (T,N).

        z[n] <W_dec[n] in x's scale, slope>: the first-order estimate of what switching the latent off takes from what
        the gradient is of.
        """
        if self.decoder is None:
            raise InputError("the sparse autoencoder's file holds no decoder (W_dec), so its latents have no share")
        along = (slope.float() * self._normalised(x)[1]) @ self.decoder.T
        return self(x) * (along if self.gain is None else along / self.gain)

    def directions(self) -> Tensor:
        """What each latent adds to activations (N,D), in their own scale but for what depends on the image.

        W_dec[n] std / gain[n]; a norm of each activation changes its length only.

        Raises:
            InputError: the decoder is not known.
        """
        if self.decoder is None:
            raise InputError("the sparse autoencoder's file holds no decoder (W_dec), so its latents have no direction")
        rows = self.decoder if self.gain is None else self.decoder / self.gain[:, None]
        return rows if self.std is None else rows * self.std

    def _normalised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """norm((x - center) / std * scale) (T,D), and what brings it back to x's scale, (T,1) or (T,D)."""
        x = x.float()
        back = x.new_full((len(x), 1), 1 / self.scale)
        if self.center is not None:
            x = x - self.center
        if self.std is not None:
            x, back = x / self.std, back * self.std
        if self.scale != 1.0:
            x = x * self.scale
        if self.norm == "layer_norm":  # as SAELens has it: the sample's deviation, with 1e-5 added to it
            x = x - x.mean(1, keepdim=True)
            deviation = x.std(1, keepdim=True)
            x, back = x / (deviation + 1e-5), back * deviation
        elif self.norm == "constant_norm_rescale":
            size = x.norm(dim=1, keepdim=True) / self.inputs**0.5
            x, back = x / size, back * size
        return x, back
