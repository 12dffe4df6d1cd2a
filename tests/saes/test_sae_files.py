"""Everything in a sparse autoencoder's file counts: forms of trainers, settings beside and inside, and what is left."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_saes import (
    B_DEC,
    B_ENC,
    NAMED,
    PREPROCESS,
    THRESHOLDS,
    W_DEC,
    W_ENC,
    D,
    K,
    Layers,
    N,
    above,
    agree,
    largest,
    layer_normed,
    pre,
    random,
    relu,
    unit,
)  # fmt: skip
from torch import Tensor, nn

from contralens.errors import InputError
from contralens.models.sae_target import sae
from contralens.models.targets import target
from contralens.saes.reading import read_sae

GATE, R_MAG, B_MAG = random(N, seed=3), random(N, seed=4), random(N, seed=5)
GATED = {"W_enc": W_ENC, "W_dec": W_DEC, "b_dec": B_DEC, "b_gate": GATE, "r_mag": R_MAG, "b_mag": B_MAG}
LINEAR = {"encoder.weight": W_ENC.T, "decoder.weight": W_DEC.T}
OPENAI = {**LINEAR, "pre_bias": B_DEC, "latent_bias": B_ENC}
PRISMA = {
    "model_class_name": "HookedViT", "hook_point_layer": 9, "layer_subtype": "hook_resid_post", "d_in": D, "d_sae": N,
    "architecture": "standard", "activation_fn_str": "relu", "activation_fn_kwargs": {}, "cls_token_only": False,
    "use_patches_only": False, "lr": 1e-3, "wandb_project": "x", "max_grad_norm": 1.0, "dead_feature_threshold": 1e-8,
    "normalize_activations": "layer_norm", "dataset_path": "/data", "l1_coefficient": 2e-4, "context_size": 50,
}  # fmt: skip


def gated(x: list[float], shift: Tensor | None = B_DEC) -> list[float]:
    """relu(exp(r) (x - b_dec) W + b_mag) where (x - b_dec) W + b_gate > 0."""
    seen = [h - float(b) for h, b in zip(pre(x, shift), B_ENC, strict=True)]
    numbers = zip(seen, GATE.tolist(), R_MAG.tolist(), B_MAG.tolist(), strict=True)
    return [max(0.0, s * math.exp(r) + m) if s + g > 0 else 0.0 for s, g, r, m in numbers]


def folder(path: Path, tensors: dict[str, Any], name: str = "weights.pt", **files: Any) -> Path:
    path.mkdir(exist_ok=True)
    torch.save(tensors, path / name)
    for file, content in files.items():
        (path / f"{file}.json").write_text(json.dumps(content))
    return path


def unused(source: Any, **options: Any) -> str:
    return " ".join(note for note in read_sae(source, **options).notes if "not used" in note)


# Gated autoencoders.


def test_gated(tmp_path: Path) -> None:
    agree(GATED, gated)
    agree({**GATED, "b_dec": torch.zeros(D)}, lambda x: gated(x, None))
    save_file(GATED, tmp_path / "sae_weights.safetensors")
    cfg = {"d_in": D, "d_sae": N, "architecture": "gated", "apply_b_dec_to_input": True}
    (tmp_path / "cfg.json").write_text(json.dumps(cfg))
    agree(tmp_path, gated)
    learned = {**LINEAR, "decoder_bias": B_DEC, "gate_bias": GATE, "r_mag": R_MAG, "mag_bias": B_MAG}
    agree(folder(tmp_path / "learned", learned, "ae.pt"), gated)
    beside = {**PRISMA, "architecture": "gated", "normalize_activations": "none"}
    agree(folder(tmp_path / "prisma", {**GATED, "b_enc": B_ENC}, config=beside), gated)
    for missing in ("b_gate", "r_mag", "b_mag"):
        with pytest.raises(InputError, match=f"{'may change the latents' if missing == 'b_gate' else missing}"):
            read_sae({name: value for name, value in GATED.items() if name != missing})
    with pytest.raises(InputError, match="a gated autoencoder needs the tensors b_gate, r_mag and b_mag"):
        read_sae({"dictionary._weights": W_DEC, "encoder.weight": W_ENC.T}, kind="gated")


def test_a_gated_latent_that_is_scaled() -> None:
    made, x = read_sae(GATED), random(7, D, seed=9)
    assert torch.allclose(made.change(x, 3, 0.0), -made(x)[:, 3, None] * W_DEC[3])


# OpenAI's, and those that descend from it.


def test_openai(tmp_path: Path) -> None:
    topk = {"activation": "TopK", "activation_state_dict": {"k": K, "postact_fn": "ReLU"}}
    counters = {"stats_last_nonzero": torch.zeros(N), "latents_activation_frequency": torch.ones(N)}
    file = folder(tmp_path, {**OPENAI, **counters, **topk}) / "weights.pt"
    agree(file, lambda x: largest(relu(pre(layer_normed(x)))))  # TopK goes with a layer norm in its code
    assert not unused(file)
    torch.save({**OPENAI, **topk, "activation_state_dict": {"k": 9, "postact_fn": "Identity"}}, file)
    agree(file, lambda x: largest(pre(layer_normed(x)), 9))
    torch.save({**OPENAI, "activation": "ReLU", "activation_state_dict": {}}, file)
    agree(file, lambda x: relu(pre(x)))
    torch.save({**OPENAI, "activation": "Tanh"}, file)
    with pytest.raises(InputError, match="OpenAI's activation 'Tanh' is not read"):
        read_sae(file)
    with pytest.raises(InputError, match="does not state its kind: add kind= one of topk, relu"):
        read_sae(OPENAI)
    agree(OPENAI, lambda x: relu(pre(x)), kind="relu")
    tied = {"encoder.weight": W_ENC.T, "decoder.linear.weight": W_ENC.T, "pre_bias": B_DEC, "latent_bias": B_ENC}
    assert torch.equal(read_sae(tied, kind="relu").decoder, W_ENC.T)
    beside = {"n_dirs_local": N, "d_model": D, "k": K, "auxk": 256, "dead_steps_threshold": 150}
    agree(folder(tmp_path / "k", {"state_dict": OPENAI}, config=beside), lambda x: largest(relu(pre(x))))


def test_msae(tmp_path: Path) -> None:
    mean = random(D, seed=6)
    state = {"encoder": W_ENC, "decoder": W_DEC, "pre_bias": B_DEC, "latent_bias": B_ENC}
    outer = {"model": state, "mean_center": mean, "scaling_factor": 0.5, "target_norm": 1.0}
    name = f"{N}_{D}_TopKReLU_{K}_UW_False_False_0.0_clip.pth"
    agree(
        folder(tmp_path / "a", outer, name),
        lambda x: largest(relu(pre([0.5 * (v - m) for v, m in zip(x, mean.tolist(), strict=True)]))),
    )
    agree(
        folder(tmp_path / "b", {**outer, "mean_center": 0.0}, f"{N}_{D}_ReLU_03_False_False_30.0_x.pth"),
        lambda x: relu(pre([0.5 * v for v in x])),
    )
    with pytest.raises(InputError, match="MSAE with normalised activations is not read"):
        read_sae(folder(tmp_path / "c", outer, f"{N}_{D}_TopKReLU_{K}_False_True_0.0_clip.pth"))
    with pytest.raises(InputError, match="add kind="):
        read_sae(folder(tmp_path / "d", outer, "clip.pth"))


# ViT-Prisma and sparsify: settings in a file beside.


def test_prisma(tmp_path: Path) -> None:
    path = folder(tmp_path, NAMED, config=PRISMA)
    agree(path, lambda x: relu(pre(layer_normed(x))))
    assert not unused(path)
    assert "it was trained on blocks.9.hook_resid_post" in read_sae(path).notes
    agree(path / "weights.pt", lambda x: relu(pre(layer_normed(x))))
    silent = {name: value for name, value in PRISMA.items() if name not in ("normalize_activations", "d_sae")}
    folder(tmp_path, NAMED, config=silent)
    agree(path, lambda x: relu(pre(layer_normed(x))))
    assert "Prisma's default: activations are normalised by layer_norm" in read_sae(path).notes
    topk = {**PRISMA, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}, "normalize_activations": "none"}
    agree(folder(tmp_path, NAMED, config=topk), lambda x: largest(relu(pre(x))))
    agree(
        folder(tmp_path, NAMED, config={**topk, "normalize_activations": "constant_norm_rescale"}),
        lambda x: largest(relu(pre(unit(x)))),
    )
    for wrong, says in (
        ({"activation_fn_str": "tanh-relu"}, "activation_fn_str 'tanh-relu' is not read"),
        ({"architecture": "jumprelu"}, "architecture 'jumprelu' is not read"),
        ({"d_in": D + 1}, f"its settings say d_in = {D + 1}, but the encoder has {D} activations"),
        ({"normalize_activations": "tanh_norm"}, "tanh_norm"),
        ({"activation_fn_str": "topk"}, "TopK needs k"),
    ):
        with pytest.raises(InputError, match=says):
            read_sae(folder(tmp_path, NAMED, config={**PRISMA, **wrong}))
    out = {"is_transcoder": True, "out_hook_point_layer": 9, "layer_out_subtype": "hook_mlp_out", "d_out": 4}
    wide = {**NAMED, "W_dec": random(N, 4), "b_dec_out": random(4), "W_skip": random(D, D)}
    made = read_sae(folder(tmp_path, wide, config={**PRISMA, **out}))
    assert made.decoder is None
    assert "its latents read blocks.9.hook_resid_post and write blocks.9.hook_mlp_out" in " ".join(made.notes)


def test_an_autoencoder_of_class_tokens_encodes_them(tmp_path: Path) -> None:
    path = folder(tmp_path, NAMED, config={**PRISMA, "cls_token_only": True})
    tokens = target(Layers().eval(), "tokens", preprocess=PREPROCESS)
    assert sae(tokens, path).pooling == "cls"
    notes = sae(tokens, path, pooling="max").notes
    assert any("trained on the class token, which is not what is encoded here" in note for note in notes)
    assert sae(tokens, NAMED).pooling == "max"


def test_sparsify(tmp_path: Path) -> None:
    tensors = {"encoder.weight": W_ENC.T.contiguous(), "encoder.bias": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC}
    cfg = {"activation": "topk", "expansion_factor": 2, "normalize_decoder": True, "num_latents": 0, "k": K, "d_in": D}
    save_file(tensors, tmp_path / "sae.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps({**cfg, "multi_topk": True, "transcode": False}))
    agree(tmp_path, lambda x: largest(relu(pre(x))))
    assert not unused(tmp_path)
    (tmp_path / "cfg.json").write_text(json.dumps({**cfg, "transcode": True, "skip_connection": True}))
    save_file({**tensors, "W_skip": random(D, D)}, tmp_path / "sae.safetensors")
    agree(tmp_path, lambda x: largest(relu(pre(x, None))))
    assert "a transcoder" in " ".join(read_sae(tmp_path).notes)
    for wrong in ({"activation": "groupmax"}, {"signed": True}):
        (tmp_path / "cfg.json").write_text(json.dumps({**cfg, **wrong}))
        with pytest.raises(InputError, match=r"(groupmax|signed).* is not read.*pass the model itself"):
            read_sae(tmp_path)


def test_saelens_transcoders_and_decoder_scales(tmp_path: Path) -> None:
    save_file({**NAMED, "b_dec": random(4), "W_dec": random(N, 4)}, tmp_path / "sae_weights.safetensors")
    where = {"hook_name": "blocks.3.ln2", "hook_name_out": "blocks.3.mlp"}
    cfg = {"d_in": D, "d_sae": N, "d_out": 4, "architecture": "skip_transcoder", "apply_b_dec_to_input": False}
    (tmp_path / "cfg.json").write_text(json.dumps({**cfg, "metadata": where}))
    agree(tmp_path, lambda x: relu(pre(x, None)))
    assert "its latents read blocks.3.ln2 and write blocks.3.mlp" in " ".join(read_sae(tmp_path).notes)
    save_file({**NAMED, "scaling_factor": THRESHOLDS}, tmp_path / "sae_weights.safetensors")
    old = {"d_in": D, "d_sae": N, "hook_point": "blocks.9", "finetuning_scaling_factor": True}
    (tmp_path / "cfg.json").write_text(json.dumps(old))
    agree(tmp_path, lambda x: relu(pre(x)))
    assert torch.allclose(read_sae(tmp_path).decoder, W_DEC * THRESHOLDS[:, None])  # after encoding, in its code
    save_file({**NAMED, "threshold": THRESHOLDS}, tmp_path / "sae_weights.safetensors")
    with pytest.raises(InputError, match=r"holds threshold \(11,\), which is not used"):
        read_sae(tmp_path)
    agree(f"{tmp_path}:kind=jumprelu", lambda x: above(relu(pre(x)), THRESHOLDS.tolist()))


# Settings and tensors of no trainer in particular.


def test_activations_that_were_standardised() -> None:
    mean, std = random(D, seed=6), random(D, seed=7).abs() + 0.5

    def moved(x: list[float]) -> list[float]:
        return [(v - m) / s for v, m, s in zip(x, mean.tolist(), std.tolist(), strict=True)]

    named = {name: value for name, value in NAMED.items() if name != "b_dec"}
    agree({**named, "activation_mean": mean, "activation_std": std}, lambda x: relu(pre(moved(x), None)))
    made, x = read_sae({**NAMED, "mean": mean, "std": std}), random(7, D, seed=9)
    assert torch.allclose(made.change(x, 2, 0.0), -made(x)[:, 2, None] * W_DEC[2] * std)
    with pytest.raises(InputError, match="the standard deviation has shape"):
        read_sae({**NAMED, "std": std[1:]})


def test_the_decoders_own_bias_beside_a_pre_bias() -> None:
    decoded = {**NAMED, "b_dec": random(D, seed=8), "pre_bias": B_DEC}
    agree(decoded, lambda x: relu(pre(x)))
    with pytest.raises(InputError, match=r"holds b_dec_2 \(6,\), which is not used .*ignore=b_dec_2"):
        read_sae({**NAMED, "b_dec_2": B_DEC})


def test_settings_are_read_wherever_they_are(tmp_path: Path) -> None:
    said = {"activation_fn": "topk", "k": K, "normalize_activations": "layer_norm", "lr": 1e-4, "seed": 3}
    for place in ("cfg", "config", "hparams"):
        torch.save({"state_dict": NAMED, place: said, "optimizer": {"a": torch.ones(3)}, "epoch": 4}, tmp_path / "x.pt")
        agree(tmp_path / "x.pt", lambda x: largest(relu(pre(layer_normed(x)))))
        assert not unused(tmp_path / "x.pt")
    agree({**NAMED, **said}, lambda x: largest(relu(pre(layer_normed(x)))))
    for name in ("x.json", "x_cfg.json", "cfg.json", "config.json"):
        (tmp_path / name).write_text(
            json.dumps({**said, "d_sae": N} if name != "cfg.json" else {**said, "n_latents": N})
        )
        save_file(NAMED, tmp_path / "x.safetensors")
        agree(tmp_path / "x.safetensors", lambda x: largest(relu(pre(layer_normed(x)))))
        (tmp_path / name).unlink()
    save_file(NAMED, tmp_path / "x.safetensors", {"activation_fn": "topk", "k": str(K), "format": "pt"})
    agree(tmp_path / "x.safetensors", lambda x: largest(relu(pre(x))))
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["ViTModel"], "hidden_size": 768}))
    assert "config.json next to it does not describe a sparse autoencoder: ignored" in read_sae(tmp_path / "x.pt").notes


def test_an_archive_of_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "params.npz", **{name: value.numpy() for name, value in NAMED.items()}, threshold=THRESHOLDS)
    agree(tmp_path, lambda x: above(relu(pre(x, None)), THRESHOLDS.tolist()))
    (tmp_path / "params.npz").write_bytes((tmp_path / "params.npz").read_bytes()[:-400])
    with pytest.raises(InputError, match="is not a readable archive of numpy arrays"):
        read_sae(tmp_path)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"whiten_inputs": True}, r"say whiten_inputs = True, which is not read .*ignore=whiten_inputs"),
        ({"input_scale": 0.1}, "input_scale"),
        ({"architecture": "matching_pursuit"}, "the kind 'matching_pursuit' is not read"),
        ({"activation_fn": "gelu"}, "the kind 'gelu' is not read"),
        ({"scale_latents_by_decoder_norm": True}, "scale_latents_by_decoder_norm = True, which is not read"),
        ({"k": 3, "top_k": 4}, "its settings disagree: k is 3, top_k is 4"),
        ({"d_sae": N, "rescale_acts_by_decoder_norm": True, "sae_norm": "unit"}, "sae_norm"),
        ({"dict_size": 99}, "dict_size = 99, but the encoder has 11 latents: .* add ignore=dict_size"),
    ],
)
def test_settings_that_change_latents_are_refused_by_name(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        read_sae({"state_dict": NAMED, "cfg": settings})
    assert "\n" not in str(caught.value)


def test_other_settings_are_noted_and_those_of_the_training_passed_over() -> None:
    assert "class_token = True" in unused({"state_dict": NAMED, "cfg": {"class_token": True, "block_layer": -2}})
    cfg = {"colour": "blue", "lr": 0.1, "wandb_name": "x", "buffer": {"d_submodule": 3}, "whiten": False}
    note = "settings of the sparse autoencoder that are not used: colour = 'blue'"
    assert unused({"state_dict": NAMED, "cfg": cfg}) == note
    assert not unused({"state_dict": NAMED, "cfg": {"norm_of_what": 3, "d_in": 99}}, ignore="norm_of_what+d_in")
    assert not unused({"state_dict": NAMED, "cfg": {"input_scale": 1.0, "data_mean": 0, "soft_cap": 0.0}})
    learnt = {**NAMED, "threshold": torch.tensor(-1.0)}
    assert "its threshold is not positive" in " ".join(read_sae(learnt, kind="batchtopk").notes)
    skip = read_sae({**NAMED, "W_skip": random(D, D)})
    assert skip.decoder is None
    assert "a transcoder" in " ".join(skip.notes)
    with pytest.raises(InputError, match="has no tensor or setting 'b_more' to ignore"):
        read_sae(NAMED, ignore="b_more")
    agree({**NAMED, "b_more": random(N)}, lambda x: relu(pre(x)), ignore=["b_more"])


def test_the_mark_of_an_autoencoder_is_what_its_latents_depend_on(tmp_path: Path) -> None:
    layer = target(Layers().eval(), "map", preprocess=PREPROCESS)
    torch.save(NAMED, tmp_path / "a.pt")
    torch.save({"state_dict": NAMED}, tmp_path / "b.pt")
    marks = [
        sae(layer, source).fingerprint
        for source in (tmp_path / "a.pt", tmp_path / "b.pt", {**NAMED, "std": torch.full((D,), 2.0)}, GATED)
    ]
    assert marks[0] == marks[1]
    assert len(set(marks)) == 3


# Files with objects besides tensors: read as data, their classes neither needed nor run.


@dataclass
class Config:
    """As ViT-Prisma keeps its settings in a file."""

    layer_subtype: str = "hook_resid_post"
    hook_point_layer: int = 9
    d_in: int = D
    activation_fn_str: str = "topk"
    activation_fn_kwargs: dict[str, int] = field(default_factory=lambda: {"k": K})
    cls_token_only: bool = True
    lr: float = 0.1
    _device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _dtype: torch.dtype = torch.float32


class TopK(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.k, self.postact_fn = K, nn.ReLU()


class WholeAutoencoder(nn.Module):
    """OpenAI's form, pickled as an object."""

    def __init__(self, **more: Any) -> None:
        super().__init__()
        self.pre_bias, self.latent_bias = nn.Parameter(B_DEC), nn.Parameter(B_ENC)
        self.encoder, self.decoder = nn.Linear(D, N, bias=False), nn.Linear(N, D, bias=False)
        self.encoder.weight.data = W_ENC.T.clone()
        self.activation = TopK()
        self.__dict__.update(more)


def test_settings_in_objects(tmp_path: Path) -> None:
    torch.save({"cfg": Config(), "state_dict": NAMED}, tmp_path / "x.pt")
    agree(tmp_path / "x.pt", lambda x: largest(relu(pre(layer_normed(x)))))  # its default, since the object has none
    made = read_sae(tmp_path / "x.pt")
    assert made.tokens == "cls"
    assert not unused(tmp_path / "x.pt")
    torch.save({"cfg": argparse.Namespace(k=K, lr=np.float64(0.1), seed=0), "model": NAMED}, tmp_path / "y.pt")
    agree(tmp_path / "y.pt", lambda x: largest(relu(pre(x))))
    torch.save({"cfg": argparse.Namespace(whiten=1), "model": NAMED}, tmp_path / "y.pt")
    with pytest.raises(InputError, match="say whiten = 1, which is not read"):
        read_sae(tmp_path / "y.pt")


def test_an_autoencoder_that_was_pickled_whole(tmp_path: Path) -> None:
    file = tmp_path / "x.pt"
    torch.save(WholeAutoencoder(normalize=False), file)
    agree(file, lambda x: largest(relu(pre(x))))
    torch.save(WholeAutoencoder(normalize=True), file)
    agree(file, lambda x: largest(relu(pre(layer_normed(x)))))
    torch.save(WholeAutoencoder(normalize=True, temperature=2.0), file)
    with pytest.raises(InputError, match=r"say temperature = 2.0, which is not read"):
        read_sae(file)
