"""Latents of sparse autoencoders: each file form against a slow copy of its formula, and a planted one end to end."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coloured import COLOURS, ColourEncoder, ColourNet, to_pixels
from safetensors.torch import save_file
from torch import Tensor, nn

import contralens
from contralens.collecting.collect import collect
from contralens.data.store import Store, Table, sparse
from contralens.errors import InputError, StoreError
from contralens.math.activation_sources import SparseActivations
from contralens.models import sae_target
from contralens.models.sae_target import sae
from contralens.models.targets import target
from contralens.saes.reading import parse_sae, read_sae
from contralens.types import Target

D, N, K = 6, 11, 3
PREPROCESS = "resize=16x16,mean=half"


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


X = random(7, D, seed=9)
W_ENC, B_ENC, W_DEC, B_DEC = random(D, N), random(N), random(N, D, seed=1), random(D)
THRESHOLDS = random(N, seed=2).abs()
NAMED = {"W_enc": W_ENC, "b_enc": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC}


# Slow copies of the papers' formulas: one token and one latent at a time, in Python numbers.


def pre(x: list[float], shift: Tensor | None = B_DEC) -> list[float]:
    """h[n] = sum_d (x[d] - shift[d]) W[d,n] + b[n]."""
    away = [0.0] * D if shift is None else shift.tolist()
    return [sum((x[d] - away[d]) * float(W_ENC[d, n]) for d in range(D)) + float(B_ENC[n]) for n in range(N)]


def relu(h: list[float]) -> list[float]:
    return [max(0.0, v) for v in h]


def largest(h: list[float], k: int = K) -> list[float]:
    kept = sorted(range(N), key=lambda n: -h[n])[:k]
    return [h[n] if n in kept else 0.0 for n in range(N)]


def above(h: list[float], thresholds: list[float]) -> list[float]:
    return [v if v > t else 0.0 for v, t in zip(h, thresholds, strict=True)]


def layer_normed(x: list[float]) -> list[float]:
    mean = sum(x) / D
    deviation = (sum((v - mean) ** 2 for v in x) / (D - 1)) ** 0.5
    return [(v - mean) / (deviation + 1e-5) for v in x]


def unit(x: list[float]) -> list[float]:
    return [v * D**0.5 / sum(w * w for w in x) ** 0.5 for v in x]


def lengths() -> list[float]:
    return [sum(v * v for v in row) ** 0.5 for row in W_DEC.tolist()]


def agree(spec: Any, formula: Callable[[list[float]], list[float]], **options: Any) -> None:
    made = read_sae(spec, **options)
    assert (made.inputs, made.width) == (D, N)
    expected = torch.tensor([formula(x) for x in X.tolist()])
    assert torch.allclose(made(X), expected, atol=2e-5)
    assert torch.equal(made(X) == 0, expected == 0)


# SAELens: cfg.json and sae_weights.safetensors.


def saelens(folder: Path, tensors: Mapping[str, Tensor] = NAMED, **cfg: Any) -> Path:
    save_file(dict(tensors), folder / "sae_weights.safetensors")
    since_6 = {"d_in": D, "d_sae": N, "dtype": "float32", "device": "cpu", "reshape_activations": "none"}
    (folder / "cfg.json").write_text(json.dumps({**since_6, "metadata": {"sae_lens_version": "6.54.12"}, **cfg}))
    return folder


SINCE_6 = {"apply_b_dec_to_input": True, "normalize_activations": "none", "architecture": "standard"}
TOPK = {**SINCE_6, "architecture": "topk", "k": K}
BEFORE_6 = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}, "normalize_activations": False}


@pytest.mark.parametrize(
    ("cfg", "formula"),
    [
        (SINCE_6, lambda x: relu(pre(x))),
        ({**SINCE_6, "apply_b_dec_to_input": False}, lambda x: relu(pre(x, None))),
        ({**SINCE_6, "normalize_activations": "layer_norm"}, lambda x: relu(pre(layer_normed(x)))),
        ({**TOPK, "normalize_activations": "constant_norm_rescale"}, lambda x: largest(relu(pre(unit(x))))),
        (TOPK, lambda x: largest(relu(pre(x)))),
        (
            {**TOPK, "rescale_acts_by_decoder_norm": True},
            lambda x: largest(relu([v * s for v, s in zip(pre(x), lengths(), strict=True)])),
        ),
        (BEFORE_6, lambda x: largest(relu(pre(x)))),
        ({"hook_point": "blocks.9", "normalize_activations": None}, lambda x: relu(pre(x))),
    ],
)
def test_saelens(tmp_path: Path, cfg: dict[str, Any], formula: Any) -> None:
    agree(saelens(tmp_path, **cfg), formula)


def test_saelens_with_thresholds(tmp_path: Path) -> None:
    folder = saelens(tmp_path, {**NAMED, "threshold": THRESHOLDS}, **{**SINCE_6, "architecture": "jumprelu"})
    agree(folder, lambda x: above(relu(pre(x)), THRESHOLDS.tolist()))
    agree(folder / "sae_weights.safetensors", lambda x: above(relu(pre(x)), THRESHOLDS.tolist()))
    during = {**NAMED, "topk_threshold": torch.tensor(0.75, dtype=torch.float64)}
    saelens(tmp_path, during, **{**TOPK, "architecture": "batchtopk", "k": 3.0, "rescale_acts_by_decoder_norm": True})
    agree(tmp_path, lambda x: above(relu([v * s for v, s in zip(pre(x), lengths(), strict=True)]), [0.75] * N))


def test_saelens_that_scaled_its_activations(tmp_path: Path) -> None:
    folder = saelens(tmp_path, **{**SINCE_6, "normalize_activations": "expected_average_only_in"})
    with pytest.raises(InputError, match="add scale=NUMBER"):
        read_sae(folder)
    agree(f"{folder}:scale=0.5", lambda x: relu(pre([0.5 * v for v in x])))
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 0.25, "has_whitening": false}')
    agree(folder, lambda x: relu(pre([0.25 * v for v in x])))


@pytest.mark.parametrize(
    ("cfg", "says"),
    [
        ({"architecture": "gated"}, "has no tensor b_gate"),
        ({"architecture": "temporal"}, "architecture 'temporal' is not read.* pass the model itself"),
        ({"architecture": "topk"}, "TopK needs k from 1 to 11; got None"),
        ({"architecture": "jumprelu"}, "jumprelu needs a threshold"),
        ({"architecture": "standard", "normalize_activations": "covariance_whitening"}, "covariance_whitening"),
    ],
)
def test_saelens_refused(tmp_path: Path, cfg: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        read_sae(saelens(tmp_path, **cfg))


# saev: a line of JSON, then torch.save.


def saev(path: Path, header: dict[str, Any], tensors: Any = NAMED) -> Path:
    with path.open("wb") as f:
        f.write((json.dumps(header) + "\n").encode())
        torch.save(dict(tensors) if isinstance(tensors, Mapping) else tensors, f)
    return path


def schema(number: int, cls: str, **params: Any) -> dict[str, Any]:
    cfg = {"d_model": D, "d_sae": N, "activation": {"cls": cls, "params": params}, "normalize_w_dec": True}
    return {"schema": number, "cfg": cfg, "commit": "abc", "lib": "0.3.0"}


def test_saev(tmp_path: Path) -> None:
    f = tmp_path / "sae.pt"
    legacy = {"d_vit": D, "exp_factor": 2, "sparsity_coeff": 4e-4, "ghost_grads": False, "seed": 0}
    agree(saev(f, legacy), lambda x: relu(pre(x)))
    agree(tmp_path, lambda x: relu(pre(x, None)), b_dec=False)
    agree(saev(f, {"schema": 1, "cls": "TopK", "cfg": {"d_vit": D, "top_k": K}}), lambda x: largest(pre(x, None)))
    agree(saev(f, schema(2, "Relu")), lambda x: relu(pre(x, None)))
    many = 9  # more than are positive: saev keeps negative values
    assert any(sum(v > 0 for v in pre(x, None)) < many for x in X.tolist())
    agree(saev(f, schema(2, "TopK", top_k=many)), lambda x: largest(pre(x, None), many))
    learnt = {**NAMED, "activation.threshold": torch.tensor(0.5)}
    sparsity = {"cls": "NoSparsity", "params": {"key": "no-sparsity"}}
    batch = schema(5, "BatchTopK", key="batch-top-k", top_k=K, sparsity=sparsity, momentum=0.1)
    agree(saev(f, batch, learnt), lambda x: above(pre(x, None), [0.5] * N))
    agree(saev(f, schema(2, "BatchTopK", top_k=K)), lambda x: largest(pre(x, None)))
    assert "no threshold" in " ".join(read_sae(f).notes)
    agree(
        saev(f, schema(5, "Relu")), lambda x: relu(pre([2 * (v - 1) for v in x], None)), center=torch.ones(D), scale=2.0
    )


# overcomplete: state dictionaries with encoder.final_block.* and dictionary.*.


def test_overcomplete(tmp_path: Path) -> None:
    f = tmp_path / "sae.pt"
    linear = {"encoder.final_block.0.weight": W_ENC.T, "encoder.final_block.0.bias": B_ENC}
    dictionary = {"dictionary._weights": W_DEC, "dictionary.multiplier": torch.tensor(0.0)}
    torch.save({**linear, **dictionary}, f)
    with pytest.raises(InputError, match=r"does not state its kind: add kind= one of topk, relu, batchtopk"):
        read_sae(f)
    with pytest.raises(InputError, match="TopK needs k from 1 to 11"):
        read_sae(f"{f}:kind=topk")
    agree(f"{f}:kind=topk,k={K}", lambda x: largest(relu(pre(x, None))))
    agree(f, lambda x: relu(pre(x, None)), kind="relu")
    agree(f"{f}:kind=batchtopk,threshold=0.5", lambda x: above(relu(pre(x, None)), [0.5] * N))
    torch.save({"thresholds": THRESHOLDS.log(), **linear, **dictionary}, f)
    agree(f, lambda x: above(relu(pre(x, None)), THRESHOLDS.tolist()))

    norm = nn.BatchNorm1d(N).eval()
    with torch.no_grad():
        for tensor in (norm.running_mean, norm.weight, norm.bias):
            tensor.copy_(random(N, seed=len(tensor)))
        norm.running_var.copy_(random(N, seed=5).abs())
    block = {f"encoder.final_block.1.{k}": v for k, v in norm.state_dict().items()}
    torch.save({**linear, **block, **dictionary}, f)

    def normed(x: list[float]) -> list[float]:
        parts = (pre(x, None), norm.running_mean, norm.running_var, norm.weight, norm.bias)
        rows = zip(*(p if isinstance(p, list) else p.tolist() for p in parts), strict=True)
        return relu([(h - m) / (v + 1e-5) ** 0.5 * g + b for h, m, v, g, b in rows])

    agree(f, normed, kind="relu")
    torch.save({"encoder.weight": W_ENC.T, **dictionary}, f)
    made = read_sae(f"{f}:kind=relu")
    assert torch.allclose(made(X), (X @ W_ENC).relu(), atol=1e-6)
    torch.save({**linear, "encoder.mlp_blocks.0.0.weight": W_ENC, **dictionary}, f)
    with pytest.raises(InputError, match="not one linear layer: pass the model itself"):
        read_sae(f)


# dictionary_learning: ae.pt and config.json.


def test_dictionary_learning(tmp_path: Path) -> None:
    f, config = tmp_path / "ae.pt", tmp_path / "config.json"
    linear = {"encoder.weight": W_ENC.T, "encoder.bias": B_ENC, "decoder.weight": W_DEC.T}
    torch.save({"bias": B_DEC, **linear}, f)
    agree(f, lambda x: relu(pre(x)))
    torch.save({**linear, "decoder.bias": B_DEC}, f)
    agree(f, lambda x: relu(pre(x, None)))
    torch.save({**linear, "b_dec": B_DEC, "k": torch.tensor(K), "threshold": torch.tensor(0.5)}, f)
    with pytest.raises(InputError, match="its kind: add kind= one of topk, batchtopk"):
        read_sae(f)
    agree(f"{f}:kind=topk", lambda x: largest(relu(pre(x))))
    config.write_text(json.dumps({"trainer": {"dict_class": "AutoEncoderTopK", "k": K}}))
    agree(tmp_path, lambda x: largest(relu(pre(x))))
    config.write_text(json.dumps({"trainer": {"dict_class": "BatchTopKSAE", "k": K}}))
    agree(tmp_path, lambda x: above(relu(pre(x)), [0.5] * N))
    config.write_text(json.dumps({"trainer": {"dict_class": "JumpReluAutoEncoder"}}))
    torch.save({**NAMED, "threshold": THRESHOLDS}, f)
    agree(tmp_path, lambda x: above(relu(pre(x, None)), THRESHOLDS.tolist()))
    config.write_text(json.dumps({"trainer": {"dict_class": "GatedAutoEncoder"}}))
    with pytest.raises(InputError, match="has no tensor mag_bias"):
        read_sae(tmp_path)


def test_tensors_by_the_usual_names(tmp_path: Path) -> None:
    agree(NAMED, lambda x: relu(pre(x)))
    agree({**NAMED, "W_enc": W_ENC.T}, lambda x: relu(pre(x)))
    agree({k: v.numpy() for k, v in NAMED.items()}, lambda x: relu(pre(x, None)), b_dec=False)
    agree({**NAMED, "threshold": THRESHOLDS}, lambda x: above(relu(pre(x, None)), THRESHOLDS.tolist()))
    agree({**NAMED, "k": K}, lambda x: largest(relu(pre(x))))
    save_file({f"module.{k}": v for k, v in NAMED.items()}, tmp_path / "a.safetensors")
    agree(tmp_path, lambda x: relu(pre(x)))
    torch.save(torch.ones(D), tmp_path / "center")
    agree(f"{tmp_path / 'a.safetensors'}:center={tmp_path / 'center'}", lambda x: relu(pre([v - 1 for v in x])))


def test_nan_is_not_hidden() -> None:
    for options in ({}, {"kind": "topk", "k": K}, {"kind": "jumprelu", "threshold": 0.5}):
        assert read_sae(NAMED, **options)(torch.full((1, D), torch.nan)).isnan().any()


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch evil-was-here",)


def test_files_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    f = tmp_path / "x.pt"
    torch.save({**NAMED, "more": Evil()}, f)
    with pytest.raises(InputError, match=r"holds Python objects .*only tensors are read"):
        read_sae(f)
    saev(f, schema(5, "Relu"), [Evil()])
    with pytest.raises(InputError, match=r"holds Python objects .*only tensors are read"):
        read_sae(f)
    assert not (tmp_path / "evil-was-here").exists()
    f.write_bytes(saev(f, schema(5, "Relu")).read_bytes()[:-200])
    with pytest.raises(InputError, match="truncated"):
        read_sae(f)
    f.write_bytes(b"{not json\n")
    with pytest.raises(InputError, match="no readable JSON"):
        read_sae(f)
    with pytest.raises(InputError, match="there is no sparse autoencoder at"):
        read_sae(tmp_path / "missing.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no weights"):
        read_sae(tmp_path / "empty")
    with pytest.raises(InputError, match="not a sparse autoencoder in a known form"):
        read_sae({"conv.weight": W_ENC})
    with pytest.raises(InputError, match="the encoder bias has shape"):
        read_sae({**NAMED, "b_enc": random(5)})
    with pytest.raises(InputError, match=r"no option 'kinds'; did you mean kind"):
        parse_sae("x.pt:kinds=topk")
    with pytest.raises(InputError, match="k must be a whole number; got 'many'"):
        parse_sae("x.pt:k=many")
    with pytest.raises(InputError, match="did you mean topk"):
        read_sae(NAMED, kind="top_k", k=3)


# What the autoencoder sees.


class Layers(nn.Module):
    """A conv map, tokens with one class token first, and a row."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Conv2d(3, D, 4, stride=4)
        self.cls_token = nn.Parameter(random(1, 1, D))
        self.tokens = nn.LayerNorm(D, elementwise_affine=False)
        self.row = nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        x = self.map(x).flatten(2).mT
        x = self.tokens(torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1))
        return self.row(x[:, 0])


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(3)
    return Layers().eval()


PIXELS = random(5, 3, 16, 16)


def parts(network: Any) -> dict[str, Tensor]:
    """What the three layers give, places of the map and tokens as (B,L,D)."""
    with torch.no_grad():
        places = network.map(PIXELS).flatten(2).mT
        tokens = network.tokens(torch.cat([network.cls_token.expand(5, -1, -1), places], dim=1))
        return {"map": places, "tokens": tokens[:, 1:], "cls": tokens[:, :1], "row": network.row(tokens[:, 0])[:, None]}


@pytest.mark.parametrize(
    ("layer", "pooling", "seen"),
    [
        ("map", None, lambda p, z: z(p["map"]).amax(1)),
        ("map", "mean", lambda p, z: z(p["map"]).mean(1)),
        ("map", "pooled", lambda p, z: z(p["map"].mean(1))),
        ("tokens", None, lambda p, z: z(p["tokens"]).amax(1)),
        ("tokens", "mean", lambda p, z: z(p["tokens"]).mean(1)),
        ("tokens", "cls", lambda p, z: z(p["cls"])[:, 0]),
        ("row", None, lambda p, z: z(p["row"])[:, 0]),
    ],
)
@pytest.mark.parametrize("block", [64 * 2**20, 4 * N, 40 * N * 4])
def test_what_is_encoded(
    network: nn.Module, layer: str, pooling: str | None, seen: Any, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sae_target, "BLOCK_BYTES", block)
    t = sae(target(network, layer, preprocess=PREPROCESS), NAMED, pooling=pooling, kind="topk", k=K)

    def latents(x: Tensor) -> Tensor:
        flat = ((x - B_DEC).flatten(0, -2) @ W_ENC + B_ENC).relu()
        return torch.where(flat >= flat.topk(K).values[:, -1:], flat, 0.0).unflatten(0, x.shape[:-1])

    assert torch.allclose(t(PIXELS), seen(parts(network), latents), atol=1e-5)
    assert t.sparse
    assert isinstance(t, Target)
    assert t.pooling == (pooling or ("pooled" if layer == "row" else "max"))
    assert (t.width, t.neurons[3], len(t.neurons)) == (N, "latent/3", N)


def test_one_row_targets_of_other_kinds(network: nn.Module) -> None:
    class Own:
        name, fingerprint, width, layer, pooling, neurons = "own", "0" * 32, D, "x", "none", [str(i) for i in range(D)]

        def preprocess(self, image: Any) -> Tensor:
            return to_pixels(image)

        def __call__(self, batch: Tensor) -> Tensor:
            return batch.flatten(1)[:, :D]

    t = sae(Own(), NAMED)
    assert torch.allclose(t(PIXELS), ((PIXELS.flatten(1)[:, :D] - B_DEC) @ W_ENC + B_ENC).relu(), atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "source", "options", "says"),
    [
        ("map", {"W_enc": random(8, N)}, {}, "takes activations of width 8, but Layers map has 6"),
        ("row", NAMED, {"pooling": "max"}, "gives one row per image: use 'pooled'"),
        ("map", NAMED, {"pooling": "cls"}, "needs tokens, but Layers map gives a map"),
        ("map", NAMED, {"pooling": "maximum"}, "unknown pooling 'maximum'"),
        ("map", nn.Linear(8, N).eval(), {}, "failed on activations of width 6"),
        ("map", nn.Linear(D, N), {}, "in training mode"),
        ("map", nn.Linear(D, N).eval(), {"k": 3}, "a module defines them itself"),
    ],
)
def test_what_does_not_fit(network: nn.Module, layer: str, source: Any, options: Any, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        sae(target(network, layer, preprocess=PREPROCESS), source, **options)
    assert "\n" not in str(caught.value)


class OwnAutoencoder(nn.Module):
    """As overcomplete has it: `encode` gives pre-codes and codes; a threshold that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(D, N)
        self.running_threshold = torch.tensor(0.2)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder(x)
        return h, h * (h >= self.running_threshold)


def test_a_module_and_fingerprints(network: nn.Module) -> None:
    layer = target(network, "tokens", preprocess=PREPROCESS)
    own = OwnAutoencoder().eval()
    t = sae(layer, own)
    with torch.no_grad():
        assert torch.allclose(t(PIXELS), own.encode(parts(network)["tokens"])[1].amax(1), atol=1e-6)
    marks = [t.fingerprint]
    own.running_threshold = torch.tensor(0.3)
    marks.append(sae(layer, own).fingerprint)
    marks += [
        sae(layer, NAMED, **o).fingerprint for o in ({}, {"pooling": "mean"}, {"kind": "topk", "k": 2}, {"scale": 2})
    ]
    marks.append(sae(target(network, "map", preprocess=PREPROCESS), NAMED).fingerprint)
    assert len(set(marks)) == len(marks)
    assert sae(layer, {k: v.clone() for k, v in NAMED.items()}).fingerprint == marks[2]


# Stored without zeros.


def test_sparse_tiles_give_rows_back(tmp_path: Path) -> None:
    rows = (random(40, 9) * (random(40, 9, seed=1) > 1)).numpy()
    rows[5] = 0
    rows[7, 2] = np.nan
    table = Store(tmp_path).table("rows", "x")
    ids = [f"{i:032x}" for i in range(40)]
    for part in (slice(0, 25), slice(25, 26), slice(26, 40)):
        table.append(ids[part], {**sparse(rows[part]), "width": np.array([9])}, {"f" * 32: "bad"})
    table = Table(table.folder)
    assert table.sparse
    order = [39, 5, 7, 0, 25, 24, 39, 12]
    wanted = [ids[i] for i in order]
    assert np.array_equal(table.rows(wanted), rows[order], equal_nan=True)
    starts, neurons, values, width = table.sparse_rows(wanted)
    back = SparseActivations(starts, neurons, values, (len(order), width))
    dense = torch.cat([block for _, block in back.blocks()])
    assert torch.equal(dense.nan_to_num(9.0), torch.from_numpy(rows[order]).nan_to_num(9.0))
    largest = max(table.folder.glob("*.safetensors"), key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[-1] ^= 1
    largest.write_bytes(data)
    with pytest.raises(StoreError, match="damaged on disk"):
        Table(table.folder).rows(ids)


def planted() -> dict[str, Tensor]:
    """Latents over `ColourNet.relu`: 0 red, 1 green, 2 blue, 3 nothing ever, 4 brightness, 5 nothing ever."""
    directions = torch.eye(6)[[0, 1, 2, 0, 3, 1]]
    directions[[3, 5]] *= -1
    return {"W_enc": directions.T, "b_enc": torch.tensor([-0.1, -0.1, -0.1, 0, -0.2, -0.01]), "W_dec": directions}


def test_planted_latents_through_sparse_and_dense(
    discs: Path, colour_net: ColourNet, colour_encoder: ColourEncoder, tmp_path: Path
) -> None:
    layer = target(colour_net, "relu", preprocess=to_pixels)
    latents = sae(layer, planted(), pooling="mean")
    run = contralens.label(latents, discs, colour_encoder, list(COLOURS), k=5, cache=tmp_path)
    assert [run.neuron(n)["labels"]["csp"]["label"] for n in range(3)] == ["red", "green", "blue"]
    assert run.neurons["status"].to_pylist() == ["ok", "ok", "ok", "dead", "ok", "dead"]
    assert run.neurons["name"].to_pylist()[:2] == ["latent/0", "latent/1"]

    dense = sae(layer, planted(), pooling="mean")
    dense.sparse, dense.fingerprint = False, "d" * 32
    images = contralens.images(discs)
    collected = collect(images, [latents, dense, colour_encoder], Store(tmp_path), batch_size=16)
    here, there = collected.activations(0), collected.activations(1)
    assert isinstance(here, SparseActivations)
    assert np.array_equal(collected.rows(0), collected.rows(1))
    assert np.count_nonzero(collected.rows(0)) == len(here.lookup(*torch.from_numpy(collected.rows(0)).nonzero().T))
    embeddings = torch.from_numpy(collected.rows(2))
    for reuse in (True, False):
        found = contralens.find_exemplars(here, embeddings, 5, reuse=reuse)
        other = contralens.find_exemplars(there, embeddings, 5, reuse=reuse)
        for name in ("neurons", "positives", "activations", "contrasts", "similarities"):
            assert torch.equal(getattr(found, name).nan_to_num(9), getattr(other, name).nan_to_num(9)), name
