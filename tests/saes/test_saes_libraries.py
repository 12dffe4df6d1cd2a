"""Files that the trainers' own code writes give the latents that their own code computes.

Needs the trainers (`pip install sae-lens overcomplete dictionary-learning eai-sparsify 'matplotlib<3.9'`; ViT-Prisma,
saev and openai/sparse_autoencoder from their repositories), which the rest of contralens does not: without them these
tests are skipped, and `test_saes.py` and `test_sae_files.py` check the same layouts as committed there. Last run with
sae-lens 6.54.12, overcomplete 0.3.0, dictionary-learning 0.1.0, eai-sparsify 1.3.3, and the main branches of others,
November 2026.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from contralens.errors import InputError
from contralens.saes.reading import read_sae

D, N, K = 24, 96, 8


def tokens() -> Tensor:
    return 3 + 2 * torch.randn(200, D, generator=torch.Generator().manual_seed(0))


def shaken(module: nn.Module) -> nn.Module:
    """The same module with other numbers in all that training changes."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            noise = 0.3 * torch.randn(tensor.shape, generator=random)
            tensor.copy_(noise.abs() if "threshold" in name else tensor + noise)
    return module.eval()


def library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except (ImportError, AttributeError) as e:  # the latter: overcomplete 0.3.0 beside matplotlib 3.9
        pytest.skip(f"{e}: see the top of this file")


def agree(path: str | Path, expected: Tensor, **options: Any) -> None:
    found = read_sae(path, **options)(tokens())
    assert 0 < float((expected != 0).float().mean()) < 1, "some latents are active"
    assert torch.equal(found != 0, expected != 0)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("norm", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("kind", ["Standard", "TopK", "JumpReLU"])
@torch.no_grad()
def test_saelens(kind: str, subtract: bool, norm: str, tmp_path: Path) -> None:
    lens = library("sae_lens")
    more = {"k": K} if kind == "TopK" else {}
    cfg = getattr(lens, f"{kind}SAEConfig")(
        d_in=D, d_sae=N, apply_b_dec_to_input=subtract, normalize_activations=norm, **more
    )
    model = shaken(getattr(lens, f"{kind}SAE")(cfg))
    model.save_model(tmp_path)
    agree(tmp_path, model.encode(tokens()))
    if kind != "TopK":  # which refuses it
        model.fold_W_dec_norm()
        model.save_model(tmp_path / "folded")
        agree(tmp_path / "folded", model.encode(tokens()))


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("kind", ["TopK", "BatchTopK", "Standard", "JumpReLU", "MatryoshkaBatchTopK"])
@torch.no_grad()
def test_what_saelens_training_leaves(kind: str, rescale: bool, tmp_path: Path) -> None:
    """`save_inference_model`, and the checkpoint of a training run."""
    lens = library("sae_lens")
    more: dict[str, Any] = {"k": K, "rescale_acts_by_decoder_norm": rescale} if "TopK" in kind else {}
    if kind == "MatryoshkaBatchTopK":
        more["matryoshka_widths"] = [N // 2, N]
    cfg = getattr(lens, f"{kind}TrainingSAEConfig")(d_in=D, d_sae=N, **more)
    model = shaken(getattr(lens, f"{kind}TrainingSAE")(cfg))
    if "BatchTopK" in kind:
        model.topk_threshold.fill_(0.7)
    model.save_inference_model(tmp_path)
    inference = lens.SAE.load_from_disk(tmp_path)
    agree(tmp_path, inference.encode(tokens()))


@torch.no_grad()
def test_saelens_folds_and_refusals(tmp_path: Path) -> None:
    lens = library("sae_lens")
    model = shaken(lens.TopKSAE(lens.TopKSAEConfig(d_in=D, d_sae=N, k=K, normalize_activations="none")))
    model.fold_activation_norm_scaling_factor(0.4)
    model.save_model(tmp_path / "scaled")
    agree(tmp_path / "scaled", model.encode(tokens()))
    if not hasattr(lens, "AbsTopKSAE"):
        return
    other = lens.AbsTopKSAE(lens.AbsTopKSAEConfig(d_in=D, d_sae=N, k=K))
    other.save_model(tmp_path / "abs")
    with pytest.raises(InputError, match=r"is not read.* pass the model itself"):
        read_sae(tmp_path / "abs")


@pytest.mark.parametrize("norm", ["none", "layer_norm"])
@pytest.mark.parametrize("subtract", [True, False])
@torch.no_grad()
def test_saelens_gated(subtract: bool, norm: str, tmp_path: Path) -> None:
    lens = library("sae_lens")
    cfg = lens.GatedSAEConfig(d_in=D, d_sae=N, apply_b_dec_to_input=subtract, normalize_activations=norm)
    model = shaken(lens.GatedSAE(cfg))
    model.save_model(tmp_path)
    agree(tmp_path, model.encode(tokens()))
    training = shaken(lens.GatedTrainingSAE(lens.GatedTrainingSAEConfig(d_in=D, d_sae=N)))
    training.save_inference_model(tmp_path / "trained")
    agree(tmp_path / "trained", lens.SAE.load_from_disk(tmp_path / "trained").encode(tokens()))


@pytest.mark.parametrize("kind", ["Transcoder", "SkipTranscoder", "JumpReLUTranscoder", "JumpReLUSkipTranscoder"])
@torch.no_grad()
def test_saelens_transcoders(kind: str, tmp_path: Path) -> None:
    lens = library("sae_lens")
    cfg = getattr(lens, f"{kind}Config")(d_in=D, d_sae=N, d_out=D, apply_b_dec_to_input=False)
    cfg.metadata.hook_name, cfg.metadata.hook_name_out = "blocks.3.ln2", "blocks.3.mlp"
    model = shaken(getattr(lens, kind)(cfg))
    model.save_model(tmp_path)
    agree(tmp_path, model.encode(tokens()))
    made = read_sae(tmp_path)
    assert made.decoder is None, "what it writes is another layer"
    assert "a transcoder: its latents read blocks.3.ln2 and write blocks.3.mlp" in " ".join(made.notes)


@pytest.mark.parametrize("encoder", [None, "mlp_ln_1", "mlp_bn_1", "mlp_bn_3"])
@pytest.mark.parametrize("kind", ["SAE", "TopKSAE", "BatchTopKSAE", "JumpSAE"])
@torch.no_grad()
def test_overcomplete(kind: str, encoder: str | None, tmp_path: Path) -> None:
    library("overcomplete")
    made = importlib.import_module("overcomplete.sae")
    more = {"TopKSAE": {"top_k": K}, "BatchTopKSAE": {"top_k": K * len(tokens())}}.get(kind, {})
    model = getattr(made, kind)(D, nb_concepts=N, encoder_module=encoder, **more)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    model = shaken(model)
    options: dict[str, Any] = {"TopKSAE": {"kind": "topk", "k": K}, "SAE": {"kind": "relu"}}.get(kind, {})
    if kind == "BatchTopKSAE":
        model.running_threshold = torch.tensor(1.5)
        options = {"kind": "batchtopk", "threshold": float(model.running_threshold)}
    file = tmp_path / "sae.pt"
    torch.save(model.state_dict(), file)
    expected = model.encode(tokens())[1]
    if encoder in ("mlp_ln_1", "mlp_bn_3"):
        with pytest.raises(InputError, match="pass the model itself"):
            read_sae(file, **options)
        return
    agree(file, expected, **options)
    if kind != "BatchTopKSAE" or encoder is None:
        torch.save(model, file)  # pickled whole, it says its kind
        agree(file, expected)


@torch.no_grad()
def test_overcomplete_tied_and_archetypal(tmp_path: Path) -> None:
    library("overcomplete")
    made = importlib.import_module("overcomplete.sae")
    model = shaken(made.TopKSAE(D, nb_concepts=N, top_k=K)).train().tied(bias=True).eval()
    torch.save(model.state_dict(), tmp_path / "tied.pt")
    agree(tmp_path / "tied.pt", model.encode(tokens())[1], kind="topk", k=K)
    model = shaken(made.RATopKSAE(D, nb_concepts=N, points=torch.randn(200, D), top_k=K)).train().eval()
    torch.save(model.state_dict(), tmp_path / "archetypal.pt")
    agree(tmp_path / "archetypal.pt", model.encode(tokens())[1], kind="topk", k=K)
    torch.save(made.QSAE(D, nb_concepts=N).state_dict(), tmp_path / "q.pt")
    with pytest.raises(InputError, match=r"holds Q .* not used"):
        read_sae(tmp_path / "q.pt", kind="relu")


LEARNED = {
    "AutoEncoder": ("dictionary", {}),
    "AutoEncoderNew": ("dictionary", {}),
    "GatedAutoEncoder": ("dictionary", {}),
    "JumpReluAutoEncoder": ("dictionary", {}),
    "AutoEncoderTopK": ("trainers.top_k", {"k": K}),
    "BatchTopKSAE": ("trainers.batch_top_k", {"k": K}),
    "MatryoshkaBatchTopKSAE": ("trainers.matryoshka_batch_top_k", {"k": K, "group_sizes": [N // 2, N // 2]}),
}


@pytest.mark.parametrize("kind", LEARNED)
@torch.no_grad()
def test_dictionary_learning(kind: str, tmp_path: Path) -> None:
    library("dictionary_learning")
    where, more = LEARNED[kind]
    model = shaken(getattr(importlib.import_module(f"dictionary_learning.{where}"), kind)(D, N, **more))
    if "Batch" in kind:
        model.threshold.fill_(0.7)
    config = {"trainer": {"dict_class": kind, "activation_dim": D, "dict_size": N, "lr": 1e-3, "steps": 5, "seed": 0}}
    config["trainer"] |= {"k": K, "wandb_name": "x", "threshold_beta": 0.999} if more else {}
    torch.save(model.state_dict(), tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text(json.dumps(config))
    expected = model.encode(tokens())
    agree(tmp_path, expected)
    assert not [note for note in read_sae(tmp_path).notes if "not used" in note]
    (tmp_path / "config.json").unlink()
    if kind in ("GatedAutoEncoder", "MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder", "AutoEncoder", "AutoEncoderNew"):
        agree(tmp_path, expected)
    factor = 2.5  # the backup of a training run: neither folded nor final
    backup = {"step": 7, "ae": model.state_dict(), "optimizer": {}, "config": config["trainer"], "norm_factor": factor}
    torch.save(backup, tmp_path / "ae.pt")
    agree(tmp_path, model.encode(tokens() / factor))
    torch.save(model, tmp_path / "whole.pt")
    agree(tmp_path / "whole.pt", expected)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("norm", [None, "none", "constant_norm_rescale"])
@torch.no_grad()
def test_prisma(norm: str | None, gated: bool, tmp_path: Path) -> None:
    """config.json and weights.pt, as on its hub; without a word on normalisation its default is the layer norm."""
    library("vit_prisma")
    made, cfg = library("vit_prisma.sae.sae"), library("vit_prisma.sae.config")
    config = cfg.VisionModelSAERunnerConfig(
        d_in=D, expansion_factor=N // D, _device="cpu", activation_fn_str="relu" if gated else "topk",
        activation_fn_kwargs={} if gated else {"k": K}, architecture="gated" if gated else "standard",
        cls_token_only=True,
        **({} if norm is None else {"normalize_activations": norm}),
    )  # fmt: skip
    model = shaken(getattr(made, f"{'Gated' if gated else 'Standard'}SparseAutoencoder")(config))
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    config.save_config(str(tmp_path / "config.json"))
    if norm is None:
        said = json.loads((tmp_path / "config.json").read_text())
        del said["normalize_activations"]
        (tmp_path / "config.json").write_text(json.dumps(said))
    agree(tmp_path, model.encode(tokens())[1])
    read = read_sae(tmp_path)
    assert read.tokens == "cls"
    if norm is not None:
        model.save_model(f"{tmp_path}/one/sae.pt")  # settings as an object in the file
        agree(tmp_path / "one" / "sae.pt", model.encode(tokens())[1])
    assert not [note for note in read.notes if "not used" in note]


@pytest.mark.parametrize("transcode", [False, True])
@torch.no_grad()
def test_sparsify(transcode: bool, tmp_path: Path) -> None:
    coder = library("sparsify.sparse_coder")
    cfg = library("sparsify.config").SparseCoderConfig(expansion_factor=N // D, k=K, transcode=transcode)
    model = shaken(coder.SparseCoder(D, cfg))
    model.save_to_disk(tmp_path)
    top, indices, _ = model.encode(tokens())
    agree(tmp_path, torch.zeros(len(top), N).scatter_(1, indices, top))
    assert (read_sae(tmp_path).decoder is None) == transcode


@pytest.mark.parametrize("post", ["ReLU", "Identity"])
@pytest.mark.parametrize("kind", ["ReLU", "TopK"])
@torch.no_grad()
def test_openai(kind: str, post: str, tmp_path: Path) -> None:
    made = library("sparse_autoencoder.model")
    activation = made.TopK(K, getattr(nn, post)()) if kind == "TopK" else nn.ReLU()
    model = shaken(made.Autoencoder(N, D, activation=activation, normalize=kind == "TopK"))
    torch.save(model.state_dict(), tmp_path / "sae.pt")
    agree(tmp_path, model.encode(tokens())[0])


@pytest.mark.parametrize("kind", ["Relu", "TopK", "BatchTopK"])
@torch.no_grad()
def test_saev(kind: str, tmp_path: Path) -> None:
    made = library("saev.nn.modeling")
    activation = getattr(made, kind)(**({} if kind == "Relu" else {"top_k": K}))
    model = shaken(made.SparseAutoencoder(made.SparseAutoencoderConfig(d_model=D, d_sae=N, activation=activation)))
    if kind == "BatchTopK":
        model.activation.threshold.fill_(0.7)
    made.dump(tmp_path / "sae.pt", model)
    agree(tmp_path, model.encode(tokens()).f_x)
    assert not [note for note in read_sae(tmp_path).notes if "not used" in note]
