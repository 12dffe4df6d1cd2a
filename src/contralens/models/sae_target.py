"""The latents of a sparse autoencoder as neurons: `sae(target("timm:...", layer="blocks.10"), "sae.pt")`.

What the autoencoder sees. Sparse autoencoders of vision networks are trained on single tokens, so by default each
patch token of a transformer and each place of a conv map is encoded on its own, and a latent's activation on the image
is its maximum over them; class and register tokens are left out. A layer that gives one row per image has that row
encoded. `POOLINGS` names the other ways.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from contralens.checks import nearest, reason
from contralens.errors import ContralensError, InputError
from contralens.fingerprint.network import describe, network_digest
from contralens.models import hooks
from contralens.models import pooling as layer_pooling
from contralens.models.hooked_layer import HookedTarget
from contralens.saes.reading import read_sae
from contralens.types import Brief, Target

POOLINGS = {
    "max": "each patch token or place is encoded; the maximum of each latent over them",
    "mean": "each patch token or place is encoded; the mean of each latent over them",
    "cls": "the class token is encoded",
    "pooled": "the pooled activation, one row per image, is encoded",
}
"""What the autoencoder sees of an image."""
SAE_OPTIONS = ("kind", "k", "threshold", "b_dec", "center", "scale", "ignore")
"""What a file may leave open; see `read_sae`."""
SAE_VERSION = "contralens sae 1"
"""Raise the number when the computing code changes its results: cached activations are then computed again."""
BLOCK_BYTES = 64 * 2**20
"""Latents computed at once, bytes; a few times as much is held while they are."""


@dataclass(eq=False, repr=False)
class SparseTarget(Brief):
    """The latents of a sparse autoencoder over a layer as a `contralens.types.Target`; made by `sae`.

    >>> from contralens.models.targets import target
    >>> layer = target(nn.Conv2d(3, 4, 3), layer=".", preprocess="resize=16x16,mean=half")
    >>> made = sae(layer, {"W_enc": torch.ones(4, 32), "b_enc": torch.zeros(32), "W_dec": torch.ones(32, 4)})
    >>> made.base is layer, made.tap.layer, made.neurons[31], made.pooling, made.sparse
    (True, '.', 'latent/31', 'max', True)
    >>> output = torch.ones(1, 4, 14, 14)  # what the layer gives; every latent is 4 there
    >>> made.scaled(output, latent=7, factor=0.0)[0, :, 0, 0]
    tensor([-3., -3., -3., -3.])
    """

    name: str
    fingerprint: str
    width: int
    """N, the latents."""
    layer: str
    pooling: str
    """A key of `POOLINGS`."""
    neurons: Sequence[str]
    """(N) names, "latent/0" and so on."""
    preprocess: Callable[[Any], Any]
    base: Target
    """The layer that is encoded."""
    encode: Callable[[Tensor], Tensor]
    """Activations (T,D) on `device` to latents (T,N)."""
    device: torch.device
    change: Callable[[Tensor, int, float], Tensor] | None = None
    """Activations (T,D), a latent and a factor to what the activations gain (T,D) when the latent is multiplied by it;
    None where the decoder is not known."""
    notes: list[str] = field(default_factory=list)
    sparse: bool = True
    """Rows are mostly zeros: the store keeps the others only."""

    def __call__(self, batch: Any) -> Tensor:
        """A collated batch to latents (B,N), float32 on the CPU, without gradient.

        Tokens are encoded in blocks, so that memory does not grow with tokens times latents.
        """
        tap = self.tap
        return self._latents(self.base(batch)[:, None]) if tap is None else hooks.run_taps([tap], batch)[0]

    @property
    def tap(self) -> hooks.Tap | None:
        """Where it listens to the network below; None where that is no `HookedTarget`."""
        base = self.base
        if not isinstance(base, HookedTarget):
            return None
        below = base.tap
        if self.pooling == "pooled":
            return replace(below, rows=lambda pooled: self._latents(below.rows(pooled)[:, None]))
        return replace(
            below, pick=lambda output, valid: tokens_of(output, base, self.pooling, valid).clone(), rows=self._latents
        )

    @torch.no_grad()
    def _latents(self, tokens: Tensor) -> Tensor:
        """What is encoded of each image, (B,L,D), to rows (B,N)."""
        rows = torch.empty(len(tokens), self.width)
        at_once = max(1, BLOCK_BYTES // (4 * self.width))
        images, length = max(1, at_once // tokens.shape[1]), min(at_once, tokens.shape[1])
        for start in range(0, len(tokens), images):
            some = tokens[start : start + images]
            rows[start : start + images] = self._pooled(some, length).cpu()
        return rows

    @torch.no_grad()
    def scaled(self, output: Tensor, latent: int, factor: float) -> Tensor:
        """What the layer would give with one latent multiplied by a factor, the error of the autoencoder left in:

            x' = x + decode(z with z[n] multiplied) - decode(z) = x + (factor - 1) z[n] W_dec[n]

        at every token or place that is encoded. Where the pooled activation is encoded ("pooled"), every place that it
        is pooled over gains the same, and so does the pooled activation.

        Raises:
            InputError: the decoder is not known, the layer is no `HookedTarget`, or it is pooled by magnitude.
        """
        base, change = self.base, self.change
        if change is None or not isinstance(base, HookedTarget):
            raise InputError(f"the latents of {self.name} cannot be scaled: " + (
                "the autoencoder has no `decode`" if change is None else "the layer was not made by contralens"
            ))  # fmt: skip
        if self.pooling == "pooled":
            if base.pooling == "max_abs_patches":
                raise InputError(f"the latents of {self.name} cannot be scaled: the layer is pooled by magnitude")
            seen = layer_pooling.pool(base.pooling, output, base.tokens)[:, None]
        else:
            seen = tokens_of(output, base, self.pooling)
        rows = seen.flatten(0, 1).to(self.device)
        at_once = max(1, BLOCK_BYTES // (4 * self.width))
        gained = torch.cat([change(part, latent, factor) for part in torch.split(rows, at_once)])
        gain = gained.to(output.device, output.dtype).view(len(output), -1, gained.shape[1])
        return _added(output, gain, base, self.pooling)

    def _pooled(self, tokens: Tensor, length: int) -> Tensor:
        """Tokens (B,L,D) to (B,N), `length` tokens of each image at a time."""
        out: Tensor | None = None
        for part in torch.split(tokens, length, dim=1):
            latents = self.encode(part.flatten(0, 1).to(self.device)).view(*part.shape[:2], self.width)
            if self.pooling == "mean":
                latents = latents.sum(1)
                out = latents if out is None else out + latents
            else:
                latents = latents.amax(1)
                out = latents if out is None else torch.maximum(out, latents)
        assert out is not None
        return out / tokens.shape[1] if self.pooling == "mean" else out


def sae(
    target: Target,
    sae: str | Path | Mapping[str, Any] | nn.Module,
    *,
    pooling: str | None = None,
    device: str | torch.device | None = None,
    **options: Any,
) -> SparseTarget:
    """The latents of a sparse autoencoder over a layer, to be labeled like neurons.

    Args:
        target: the layer that the autoencoder was trained on, from `contralens.target`.
        sae: a file or folder of SAELens, ViT-Prisma, saev, overcomplete, dictionary_learning, sparsify or OpenAI's,
            tensors by name, or any module with `encode` (activations (T,D) to latents (T,N), alone or last of a tuple)
            and, to scale latents, `decode` (latents to activations). See `read_sae`.
        pooling: a key of `POOLINGS`; None means "max" over patch tokens or positions of a map, "pooled" for other
            layers, and "cls" if the file states training on class tokens.
        device: device of the latents; by default that of the network.
        options: settings missing in the file: kind, k, threshold, b_dec, center, scale; and ignore; see `read_sae`.

    Raises:
        InputError: the file cannot be read, misses a setting, or has another width.

    >>> from contralens.models.targets import target
    >>> layer = target(nn.Conv2d(3, 4, 3), layer=".", preprocess="resize=16x16,mean=half")
    >>> t = sae(layer, {"W_enc": torch.randn(4, 32), "b_enc": torch.zeros(32)})
    >>> t.width, t.pooling, t.neurons[7], t(torch.zeros(5, 3, 16, 16)).shape
    (32, 'max', 'latent/7', torch.Size([5, 32]))
    """
    for name in options:
        if name not in SAE_OPTIONS:
            raise InputError(f"`sae` takes no `{name}`{nearest(name, SAE_OPTIONS)} (known: {', '.join(SAE_OPTIONS)})")
    place = torch.device(device) if device is not None else getattr(target, "device", torch.device("cpu"))
    if isinstance(sae, nn.Module):
        if options:
            raise InputError(f"{', '.join(options)}: these are for files; a module defines them itself")
        chosen = _choose(target, pooling)
        encode, change, width, mark, title, notes = _own(sae, target)
    else:
        made = read_sae(sae, **options)
        if made.inputs != target.width:
            raise InputError(
                f"the sparse autoencoder takes activations of width {made.inputs}, but {target.name} {target.layer} "
                f"has {target.width}: it belongs to another layer or network"
            )
        chosen = _choose(target, pooling, made.tokens)
        made = made.to(place)
        encode, change = made, None if made.decoder is None else made.change
        width, mark, notes = made.width, describe(made), list(made.notes)
        if made.tokens == "cls" and chosen != "cls":
            notes.append("the file says that it was trained on the class token, which is not what is encoded here")
        title = "tensors" if isinstance(sae, Mapping) else Path(sae).name
    parts = [SAE_VERSION, target.fingerprint, chosen, mark]
    return SparseTarget(
        name=f"{target.name} > {title}",
        fingerprint=hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32],
        width=width,
        layer=target.layer,
        pooling=chosen,
        neurons=[f"latent/{i}" for i in range(width)],
        preprocess=target.preprocess,
        base=target,
        encode=encode,
        device=place,
        change=change,
        notes=[*getattr(target, "notes", []), *notes, f"{chosen}: {POOLINGS[chosen]}"],
    )


def _choose(target: Target, pooling: str | None, tokens: str = "") -> str:
    """The pooling asked for or the usual one for `tokens`, checked against what the layer gives."""
    if pooling is not None and pooling not in POOLINGS:
        raise InputError(
            f"unknown pooling {pooling!r} of a sparse autoencoder{nearest(pooling, POOLINGS)}; "
            f"known: {', '.join(POOLINGS)}"
        )
    kind = layer_pooling.POOLINGS[target.pooling].kind if isinstance(target, HookedTarget) else "row"
    usual = "cls" if tokens == "cls" and kind == "tokens" else "max"
    chosen = pooling or ("pooled" if kind == "row" else usual)
    where = f"{target.name} {target.layer}"
    if chosen != "pooled" and kind == "row":
        raise InputError(f"pooling {chosen!r} needs tokens or a map, but {where} gives one row per image: use 'pooled'")
    if chosen == "cls" and kind != "tokens":
        raise InputError(f"pooling 'cls' needs tokens, but {where} gives a map: use max, mean or pooled")
    if kind == "tokens" and isinstance(target, HookedTarget) and not target.prefix_tokens:
        if chosen == "cls":
            raise InputError(f"{where} seems to have no class token: use max, mean or pooled, or set prefix_tokens=1")
        if chosen != "pooled" and target.pooling == "cls":
            raise InputError(f"it is unclear which tokens of {where} are patches: set prefix_tokens=1 (or more)")
    return chosen


def tokens_of(output: Tensor, target: HookedTarget, pooling: str, valid: Tensor | None = None) -> Tensor:
    """A layer's output as tokens (B,L,D): the patches, the places of a map, or the class token.

    In the place of padding stands the image's first patch, which leaves a maximum as it is.
    """
    if output.dim() == 4:
        return output.flatten(1, 2) if target.pooling.endswith("_last") else output.flatten(2).mT
    if pooling == "cls":
        return layer_pooling.class_token_of(output, target.tokens)[:, None]
    patches = layer_pooling.patches_of(output, target.tokens)
    if valid is None:
        return patches
    if pooling == "mean":
        raise InputError(
            f"{target.name}: the mean of latents counts padding (images are padded to one length): use max"
        )
    return torch.where(layer_pooling.patches_of(valid[..., None], target.tokens), patches, patches[:, :1])


def _added(output: Tensor, gain: Tensor, layer: HookedTarget, sae_pooling: str) -> Tensor:
    """A layer's output with (B,L,D) added to the tokens or places that an autoencoder sees, or (B,1,D) to them all."""
    if output.dim() == 2:
        return output + gain[:, 0]
    if output.dim() == 4:
        last = layer.pooling.endswith("_last")
        flat = output.flatten(1, 2) if last else output.flatten(2).mT
        moved = flat + gain
        return (moved if last else moved.mT).reshape(output.shape)
    seen_by = layer.pooling if sae_pooling == "pooled" else sae_pooling
    out = output.clone()
    if isinstance(tokens := layer.tokens, int):
        part = out[:, :1] if seen_by == "cls" else out[:, tokens:]
        part += gain
    else:
        out[:, [tokens.class_at] if seen_by == "cls" else tokens.places()] += gain
    return out


def _own(
    module: nn.Module, target: Target
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor, int, float], Tensor] | None, int, str, str, list[str]]:
    """A user's own module: its encoder, what scaling a latent adds, width N, fingerprint, name and notes."""
    title = type(module).__name__
    if module.training:
        raise InputError(f"the sparse autoencoder {title} is in training mode: call its .eval() first")
    function: Callable[[Tensor], Any] = getattr(module, "encode", module)
    decode: Any = getattr(module, "decode", None)
    home = hooks.device_of(module)

    def encode(x: Tensor) -> Tensor:
        made = function(x.float().to(home))
        latents = made[-1] if isinstance(made, tuple) else made
        if not isinstance(latents, Tensor) or latents.dim() != 2 or len(latents) != len(x):
            raise InputError(f"{title} must encode activations (T,D) to latents (T,N); got {type(latents).__name__}")
        return latents.float()

    def change(x: Tensor, latent: int, factor: float) -> Tensor:
        before = encode(x)
        after = before.clone()
        after[:, latent] *= factor
        plain: Tensor = decode(before)
        gained: Tensor = decode(after) - plain
        return gained.float().to(x.device)

    try:
        with torch.no_grad():
            width = int(encode(torch.zeros(2, target.width)).shape[1])
    except ContralensError:
        raise
    except Exception as e:
        raise InputError(
            f"the sparse autoencoder {title} failed on activations of width {target.width}, as {target.name} "
            f"{target.layer} gives ({reason(e)})"
        ) from e
    notes: list[str] = []
    loose = {name: {k: v for k, v in vars(m).items() if isinstance(v, Tensor)} for name, m in module.named_modules()}
    mark = f"{network_digest(module)} {describe(loose, notes)}"
    return (
        encode,
        change if callable(decode) else None,
        width,
        mark,
        title,
        [f"sparse autoencoder {title}, {target.width} -> {width}", *notes],
    )
