"""Discover-then-Name on a small open_clip checkpoint: an autoencoder over its image embeddings, its latents named."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn.functional import normalize

import contralens
from contralens.encoders.registry import encoder
from contralens.errors import InputError
from contralens.math.exemplars import find_exemplars
from contralens.math.scoring import run_scorer
from contralens.models.sae_target import sae
from contralens.saes.reading import read_sae

open_clip = pytest.importorskip("open_clip")
CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
WORDS = ["red", "a dog", "striped", "sand", "round", "a house by the sea", "grass"]
LATENTS = 40


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The checkpoint's folder, its model and tokenizer."""
    root = tmp_path_factory.mktemp("clip")
    arch, folder = root / "arch", root / "m"
    arch.mkdir()
    folder.mkdir()
    (arch / "contralens-dtn.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(arch)
    torch.manual_seed(0)
    model = open_clip.create_model("contralens-dtn").eval()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG}))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return folder, model, open_clip.get_tokenizer("contralens-dtn")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(40):
        pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((32, 32), Image.Resampling.NEAREST).save(folder / f"{i:02}.png")
    return folder


@pytest.fixture(scope="module")
def tensors():
    g = torch.Generator().manual_seed(1)
    return {
        "W_enc": torch.randn(24, LATENTS, generator=g), "b_enc": torch.zeros(LATENTS), "b_dec": torch.zeros(24),
        "W_dec": 3 * torch.randn(LATENTS, 24, generator=g),
    }  # fmt: skip


@pytest.fixture
def opened(checkpoint, pictures, tmp_path):
    eyes = encoder(f"open_clip:local-dir:{checkpoint[0]}")
    work = {"cache": tmp_path / "cache", "k": 4, "scorers": ["semanticlens", "discover_then_name"], "templates": ["{}"]}
    return eyes, contralens.target(checkpoint[1].visual, ".", preprocess=eyes.preprocess), work


def test_labels_are_those_of_a_direct_copy(checkpoint, pictures, tensors, opened) -> None:
    eyes, tower, work = opened
    run = contralens.label(sae(tower, tensors, b_dec=False), pictures, eyes, WORDS, **work)
    with torch.no_grad():
        text = checkpoint[1].encode_text(checkpoint[2](WORDS)).double().numpy()
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    columns = tensors["W_dec"].double().numpy().T.copy()
    columns /= np.linalg.norm(columns, axis=0, keepdims=True)
    similar = text @ columns  # (C,N), as in the published code
    rows = [row for row in run.rows("discover_then_name") if row["status"] == "ok"]
    assert len(rows) > LATENTS / 2
    for row in rows:
        assert row["label"] == WORDS[similar[:, row["neuron"]].argmax()]
        assert row["score"] == pytest.approx(similar[:, row["neuron"]].max(), abs=1e-5)
    assert len({row["label"] for row in rows}) > 2


def test_another_space_or_no_decoder_is_refused_in_one_line(checkpoint, pictures, tensors, opened) -> None:
    eyes, tower, work = opened

    def refused(target, message, **more):
        with pytest.raises(InputError, match=message) as caught:
            contralens.label(target, pictures, eyes, WORDS, **{**work, **more})
        assert "\n" not in str(caught.value)

    refused(tower, "needs a sparse autoencoder from a file or tensors; .* has no decoder")
    blind = {name: tensors[name] for name in ("W_enc", "b_enc")}
    refused(sae(tower, blind), "holds no decoder")
    torch.manual_seed(1)
    other = open_clip.create_model("contralens-dtn").eval().visual
    elsewhere = contralens.target(other, ".", preprocess=eyes.preprocess)
    refused(sae(elsewhere, tensors, b_dec=False), r"gives other rows than open_clip:.* \(cosine ")
    patches = contralens.target(checkpoint[1].visual, "transformer", preprocess=eyes.preprocess, prefix_tokens=1)
    wide = {"W_enc": torch.randn(32, 5), "b_enc": torch.zeros(5), "W_dec": torch.randn(5, 32)}
    refused(sae(patches, wide), "one row per image; here it encodes tokens")
    refused(sae(tower, tensors, b_dec=False), "null neurons have no decoder", fdr=0.1)
    e = normalize(torch.randn(9, 24), dim=1)
    with pytest.raises(InputError, match="the scorer discover_then_name looks at an autoencoder's decoder"):
        run_scorer("discover_then_name", find_exemplars(torch.rand(9, 3), e, k=2), e, e)


def test_directions_are_in_the_scale_of_the_activations(tensors) -> None:
    std = torch.rand(24, generator=torch.Generator().manual_seed(2)) + 0.5
    made = read_sae({**tensors, "activation_mean": torch.zeros(24), "activation_std": std}, b_dec=False)
    x = torch.randn(6, 24, generator=torch.Generator().manual_seed(3))
    for latent in range(5):
        moved = made.change(x, latent, 2.0)
        fires = made(x)[:, latent] > 0
        assert bool(fires.any())
        cosine = normalize(moved[fires], dim=1) @ normalize(made.directions()[latent], dim=0)
        torch.testing.assert_close(cosine, torch.ones(int(fires.sum())))
