"""Latents scaled inside a network: closed forms for every way to encode and every kind of file."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_saes import B_DEC, B_ENC, NAMED, W_DEC, W_ENC, D, K, N, X, random
from torch import Tensor, nn

from contralens.errors import InputError
from contralens.models.interventions import class_scores, scalable, scaled, shares
from contralens.models.sae_target import sae
from contralens.models.targets import target
from contralens.saes.autoencoder import Autoencoder
from contralens.saes.reading import read_sae

PREPROCESS = "resize=8x8,mean=none"
TOPK = {**NAMED, "k": torch.tensor(K)}


class Tokens(nn.Module):
    """A class token and 16 patches of width D; the head reads the class token and the mean of the patches."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(random(1, 1, D))
        self.patch, self.block, self.head = nn.Conv2d(3, D, 2, 2), nn.Identity(), nn.Linear(2 * D, 4)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch(x).flatten(2).mT
        x = self.block(torch.cat([self.cls_token.expand(len(x), 1, D), patches], 1))
        return self.head(torch.cat([x[:, 0], x[:, 1:].mean(1)], 1))


def maps(last: bool = False) -> nn.Module:
    """Places of width D, averaged before a head."""

    class Turn(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.permute(0, 2, 3, 1) if last else x

    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((1, 2) if last else (2, 3))

    return nn.Sequential(nn.Conv2d(3, D, 2, 2), Turn(), Mean(), nn.Linear(D, 4))


def images(count: int = 5) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def slow(x: Tensor, n: int, factor: float) -> Tensor:
    """(factor - 1) z[n] W_dec[n] of tokens (T,D), TopK with the decoder's bias subtracted, a token at a time."""
    out = torch.zeros_like(x)
    for row, token in zip(out, x, strict=True):
        h = ((token - B_DEC) @ W_ENC + B_ENC).relu()
        if n in h.topk(K).indices.tolist():
            row += (factor - 1) * h[n] * W_DEC[n]
    return out


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["max", "mean", "cls", "pooled"])
@pytest.mark.parametrize("layer_pooling", ["cls", "mean_patches"])
@pytest.mark.parametrize("factor", [0.0, 1.0, 5.0])
def test_tokens(pooling: str, layer_pooling: str, factor: float) -> None:
    network = Tokens().eval()
    latents = sae(target(network, "block", pooling=layer_pooling, preprocess=PREPROCESS), TOPK, pooling=pooling)
    x = images()
    patches = network.patch(x).flatten(2).mT
    first, rest = network.cls_token.expand(len(x), 1, D), patches
    for n in range(N):
        one, others = first.clone(), rest.clone()
        if pooling == "cls" or (pooling, layer_pooling) == ("pooled", "cls"):
            one = one + slow(one[:, 0], n, factor)[:, None]
        elif pooling == "pooled":
            others = others + slow(others.mean(1), n, factor)[:, None]
        else:
            others = others + slow(others.flatten(0, 1), n, factor).view_as(others)
        expected = network.head(torch.cat([one[:, 0], others.mean(1)], 1))
        with scaled(latents, n, factor):
            torch.testing.assert_close(class_scores(latents, x), expected, atol=1e-5, rtol=1e-4)
    assert not network.block._forward_hooks


@torch.no_grad()
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("pooling", ["max", "pooled"])
def test_places_of_a_map(last: bool, pooling: str) -> None:
    network = maps(last).eval()
    layer = target(network, "1", pooling="mean_last" if last else "mean_first", preprocess=PREPROCESS)
    latents, x = sae(layer, TOPK, pooling=pooling), images()
    places = network[0](x).flatten(2).mT
    for n in range(N):
        if pooling == "pooled":
            moved = places.mean(1) + slow(places.mean(1), n, 3.0)
        else:
            moved = (places + slow(places.flatten(0, 1), n, 3.0).view_as(places)).mean(1)
        got = shares(latents, x, n, (1.0, 3.0))
        torch.testing.assert_close(got[0], network(x).softmax(1))
        torch.testing.assert_close(got[1], network[3](moved).softmax(1), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_row_and_blocks_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    from contralens.models import sae_target

    network = nn.Sequential(nn.Flatten(), nn.Linear(192, D), nn.Linear(D, 4)).eval()
    latents, x = sae(target(network, "1", preprocess=PREPROCESS), TOPK), images()
    monkeypatch.setattr(sae_target, "BLOCK_BYTES", 4 * N * 2)  # two rows at once
    hidden = network[:2](x)
    for n in range(N):
        with scaled(latents, n, 0.0):
            torch.testing.assert_close(class_scores(latents, x), network[2](hidden + slow(hidden, n, 0.0)))


NORMAL = {"b_enc": B_ENC, "W_enc": W_ENC, "W_dec": W_DEC}
CASES: dict[str, Autoencoder] = {
    "vanilla": read_sae(NORMAL),
    "topk": read_sae(TOPK),
    "jumprelu": read_sae({**NORMAL, "threshold": random(N, seed=2).abs()}),
    "centred and scaled": read_sae(NORMAL, center=B_DEC, scale=0.4),
    "transposed": read_sae({"W_enc": W_ENC.T, "b_enc": B_ENC, "W_dec": W_DEC.T}),
}
for norm in ("layer_norm", "constant_norm_rescale"):
    CASES[norm] = Autoencoder("relu", W_ENC, B_ENC, norm=norm, center=B_DEC, scale=3.0, decoder=W_DEC)
CASES["gain"] = Autoencoder("topk", W_ENC, B_ENC, gain=W_DEC.norm(dim=1), k=K, decoder=W_DEC)


@pytest.mark.parametrize("name", CASES)
def test_a_share_is_what_the_reconstruction_changes_by(name: str) -> None:
    """Against the whole reconstruction in the activation's own scale, with the latent multiplied and without."""
    made = CASES[name]

    def reconstruction(z: Tensor, x: Tensor) -> Tensor:
        y = (x - (made.center if made.center is not None else 0)) * made.scale
        z = z if made.gain is None else z / made.gain
        out = z @ W_DEC + B_DEC
        if made.norm == "layer_norm":
            out = out * y.std(1, keepdim=True) + y.mean(1, keepdim=True)
        if made.norm == "constant_norm_rescale":
            out = out * y.norm(dim=1, keepdim=True) / D**0.5
        return out / made.scale + (made.center if made.center is not None else 0)

    z = made(X)
    for n in range(N):
        moved = z.clone()
        moved[:, n] *= 4.0
        expected = reconstruction(moved, X) - reconstruction(z, X)
        torch.testing.assert_close(made.change(X, n, 4.0), expected, atol=1e-5, rtol=1e-4)


def test_forms_of_files_bring_their_decoder() -> None:
    saved: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "overcomplete": (
            {"encoder.weight": W_ENC.T, "encoder.bias": B_ENC, "dictionary._weights": 3 * W_DEC}, {"kind": "relu"}
        ),
        "dictionary_learning": ({"encoder.weight": W_ENC.T, "encoder.bias": B_ENC, "decoder.weight": W_DEC.T}, {}),
    }  # fmt: skip
    for name, (state, options) in saved.items():
        made = read_sae(state, **options)
        assert made.decoder is not None
        unit = W_DEC / W_DEC.norm(dim=1, keepdim=True) if name == "overcomplete" else W_DEC
        torch.testing.assert_close(made.decoder, unit)
    odd = read_sae({**NORMAL, "W_dec": W_DEC[:, :-1]})
    assert odd.decoder is None, "labels do not need it"
    with pytest.raises(InputError, match="holds no decoder"):
        odd.change(X, 0, 2.0)


class Own(nn.Module):
    """A user's own autoencoder, with a decoder that is not linear."""

    def encode(self, x: Tensor) -> Tensor:
        return (x @ W_ENC).relu()

    def decode(self, z: Tensor) -> Tensor:
        return torch.tanh(z @ W_DEC)


@torch.no_grad()
def test_an_own_module_with_and_without_decode() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, D), nn.Linear(D, 4)).eval()
    layer, x = target(network, "1", preprocess=PREPROCESS), images()
    hidden = network[:2](x)
    z = (hidden @ W_ENC).relu()
    more = z.clone()
    more[:, 2] *= 5
    moved = hidden + torch.tanh(more @ W_DEC) - torch.tanh(z @ W_DEC)
    with scaled(sae(layer, Own().eval()), 2, 5.0):
        torch.testing.assert_close(class_scores(layer, x), network[2](moved))
    blind = nn.Sequential(nn.Linear(D, N), nn.ReLU()).eval()
    with pytest.raises(InputError, match="has no `decode`"), scaled(sae(layer, blind), 0, 2.0):
        class_scores(layer, x)


def test_what_cannot_be_changed_inside_a_network_says_so() -> None:
    class Bare:
        name, fingerprint, width, layer, pooling, neurons = "bare", "0" * 32, D, "x", "none", [str(i) for i in range(D)]

        def preprocess(self, image: Any) -> Tensor:
            return torch.zeros(3, 8, 8)

        def __call__(self, batch: Any) -> Tensor:
            return torch.zeros(len(batch), D)

    for given in (Bare(), sae(Bare(), TOPK)):
        with pytest.raises(InputError, match="needs a target made by contralens, or a sparse autoencoder over one"):
            scalable(given)
    network = Tokens().eval()
    layer = target(network, "block", pooling="max_abs_patches", preprocess=PREPROCESS)
    with pytest.raises(InputError, match="pooled by magnitude"):
        sae(layer, TOPK, pooling="pooled").scaled(torch.zeros(2, 17, D), 0, 2.0)
