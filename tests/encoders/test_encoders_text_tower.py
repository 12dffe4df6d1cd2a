"""open_clip models whose text tower is named on the hub, such as BiomedCLIP: a folder is enough."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from contralens.encoders.registry import encoder
from contralens.errors import ModelUnavailable

open_clip = pytest.importorskip("open_clip")
transformers = pytest.importorskip("transformers")
from safetensors.torch import save_file  # noqa: E402

NAME = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog"]


def model_cfg(name: str) -> dict[str, Any]:
    vision = {"image_size": 32, "layers": 1, "width": 16, "patch_size": 16, "head_width": 8}
    text = {"hf_model_name": name, "hf_tokenizer_name": name, "hf_proj_type": "mlp", "context_length": 16}
    pooler = {"hf_pooler_type": "cls_last_hidden_state_pooler"}
    return {"embed_dim": 8, "vision_cfg": vision, "text_cfg": {**text, **pooler}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, Path]:
    """The model itself, BERT's folder (config.json and tokenizer), and BiomedCLIP's: configuration and weights."""
    bert, clip = tmp_path_factory.mktemp("bert"), tmp_path_factory.mktemp("clip")
    transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=32, **TINY).save_pretrained(bert)
    (bert / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    transformers.BertTokenizerFast(str(bert / "vocab.txt"), model_max_length=16).save_pretrained(bert)
    arch = tmp_path_factory.mktemp("arch")
    (arch / "contralens-biomed.json").write_text(json.dumps(model_cfg(str(bert))))
    open_clip.add_model_config(arch)
    torch.manual_seed(0)
    model = open_clip.create_model("contralens-biomed", pretrained_hf=False).eval()
    stated = {"model_cfg": model_cfg(NAME), "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (clip / "open_clip_config.json").write_text(json.dumps(stated))
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, clip / "open_clip_model.safetensors")
    return model, bert, clip


def copied(source: Path, to: Path, *names: str) -> Path:
    to.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if not names or file.name in names:
            shutil.copy(file, to / file.name)
    return to


def rows(model: Any, texts: list[list[str]]) -> torch.Tensor:
    ids = torch.tensor([[2, *(WORDS.index(w) for w in words), 3, *[0] * (14 - len(words))] for words in texts])
    with torch.no_grad():
        return normalize(model.encode_text(ids), dim=1)


@pytest.mark.parametrize("where", [".", "BiomedNLP-BiomedBERT-base-uncased-abstract", NAME, f"../{NAME.split('/')[1]}"])
def test_the_folder_is_enough(where: str, made: tuple[Any, Path, Path], tmp_path: Path) -> None:
    model, bert, clip = made
    folder = copied(clip, tmp_path / "biomed")
    copied(bert, folder / where)
    eyes = encoder(f"open_clip:local-dir:{folder}")
    assert torch.allclose(eyes.texts(["a cat", "dog"]), rows(model, [["a", "cat"], ["dog"]]), atol=1e-6)
    assert eyes.width == 8


def test_a_name_that_is_a_path_from_the_folder(made: tuple[Any, Path, Path], tmp_path: Path) -> None:
    model, bert, clip = made
    folder = copied(clip, tmp_path / "biomed")
    copied(bert, folder / "towers" / "bert")
    stated = {"model_cfg": model_cfg("towers/bert"), "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(stated))
    eyes = encoder(f"open_clip:local-dir:{folder}")
    assert torch.allclose(eyes.texts(["a dog"]), rows(model, [["a", "dog"]]), atol=1e-6)


def test_a_weights_file_of_such_an_architecture(
    made: tuple[Any, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, bert, clip = made
    folder = copied(bert, copied(clip, tmp_path / "biomed"))
    (folder / "open_clip_config.json").unlink()
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "contralens-biomed-hub", model_cfg(NAME))
    eyes = encoder(f"open_clip:contralens-biomed-hub@{folder / 'open_clip_model.safetensors'}")
    assert torch.allclose(eyes.texts(["a dog"]), rows(model, [["a", "dog"]]), atol=1e-6)


def test_what_is_missing_is_named(
    made: tuple[Any, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, bert, clip = made
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    bare = copied(clip, tmp_path / "bare")
    copied(bert, bare, "vocab.txt", "tokenizer.json", "tokenizer_config.json")
    with pytest.raises(
        ModelUnavailable, match=rf"hf_model_name = {NAME}: copy that model's config.json into {bare} "
    ) as caught:
        encoder(f"open_clip:local-dir:{bare}")
    assert "\n" not in str(caught.value)
    (bare / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(ModelUnavailable, match=r"the config.json there is of a clip: use the folder .*BiomedNLP"):
        encoder(f"open_clip:local-dir:{bare}")
    hub = tmp_path / "hub" / "models--contralens--biomed"
    snapshot = copied(clip, hub / "snapshots" / ("0" * 40))
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(
        ModelUnavailable,
        match=rf"hf_model_name = {NAME}: copy that model's config.json into {snapshot} .*:local-dir:{snapshot}",
    ):
        encoder("open_clip:hf-hub:contralens/biomed")
    copied(bert, snapshot)
    assert encoder(f"open_clip:local-dir:{snapshot}").width == 8
    mute = copied(bert, copied(clip, tmp_path / "mute"), "config.json")
    with pytest.raises(
        ModelUnavailable, match=rf"hf_tokenizer_name = {NAME}: copy that model's tokenizer files .* into {mute}"
    ):
        encoder(f"open_clip:local-dir:{mute}")
