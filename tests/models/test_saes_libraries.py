"""Files that the trainers' own code writes give the latents that their own code computes.

Needs the trainers (`pip install sae-lens overcomplete 'matplotlib<3.9'`), which the rest of contralens does not:
without them these tests are skipped, and `test_saes.py` checks the same layouts as committed there. Last run with
sae-lens 6.54.12 and overcomplete 0.3.0.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from contralens.checks import InputError
from contralens.models.sae_files import read_sae

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
        pytest.skip(f"{e}: pip install sae-lens overcomplete 'matplotlib<3.9'")


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
    for kind in ("Gated", "AbsTopK"):
        if not hasattr(lens, f"{kind}SAE"):
            continue
        more = {"k": K} if "TopK" in kind else {}
        other = getattr(lens, f"{kind}SAE")(getattr(lens, f"{kind}SAEConfig")(d_in=D, d_sae=N, **more))
        other.save_model(tmp_path / kind)
        with pytest.raises(InputError, match=r"is not read .* pass the model itself"):
            read_sae(tmp_path / kind)


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
