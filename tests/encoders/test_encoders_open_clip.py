"""Encoders of open_clip, on small checkpoints written in its own format."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from contralens.encoders.registry import encoder
from contralens.errors import InputError, ModelUnavailable
from contralens.types import Encoder

open_clip = pytest.importorskip("open_clip")
from safetensors.torch import save_file  # noqa: E402

ARCH = "contralens-tiny"
CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
GRAY = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "interpolation": "bilinear", "resize_mode": "squash"}


@pytest.fixture(scope="module", autouse=True)
def architecture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arch")
    (folder / f"{ARCH}.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return open_clip.create_model(ARCH).eval()


@pytest.fixture(scope="module")
def weights(model, tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, file)
    return file


@pytest.fixture
def tags(monkeypatch):
    """Two published weights of the tiny architecture: one as OpenAI's, one with other settings."""
    pretrained = open_clip.pretrained
    plain = {"openai": pretrained._pcfg(hf_hub="contralens/none/tiny.bin", quick_gelu=True)}
    monkeypatch.setitem(
        pretrained._PRETRAINED, ARCH, {**plain, "squashed": {"hf_hub": "contralens/none/x.bin", **GRAY}}
    )


def photo(seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((70, 45), Image.Resampling.BICUBIC)


def write_folder(folder, model, preprocess, text_cfg=None, weights="open_clip_model.safetensors"):
    folder.mkdir(exist_ok=True)
    config = {"model_cfg": CONFIG | ({"text_cfg": text_cfg} if text_cfg else {})}
    if preprocess:
        config["preprocess_cfg"] = preprocess
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    if weights:
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / weights)
    return folder


def test_a_local_folder_is_the_model_itself(tmp_path, model):
    folder = write_folder(tmp_path / "m", model, GRAY)
    made = encoder(f"open_clip:local-dir:{folder}")
    assert isinstance(made, Encoder)
    assert made.name == f"open_clip:local-dir:{folder}"
    assert made.width == 24
    assert made.notes == []
    images = [photo(i) for i in range(3)]
    transform = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(size=32, **GRAY), is_train=False
    )
    pixels = torch.stack([transform(i) for i in images])
    assert torch.equal(torch.stack([made.preprocess(i) for i in images]), pixels)
    with torch.no_grad():
        assert torch.allclose(made.images(images), normalize(model.encode_image(pixels), dim=1), atol=1e-6)
        texts = ["a red cube", "zebra"]
        expected = normalize(model.encode_text(open_clip.tokenize(texts, 16)), dim=1)
    rows = made.texts(texts)
    assert torch.allclose(rows, expected, atol=1e-6)
    assert torch.allclose(rows.norm(dim=1), torch.ones(2))
    assert rows.dtype == torch.float32
    again = encoder(f"open_clip:local-dir:{folder}")
    assert torch.equal(again.texts(texts), rows)
    assert again.fingerprint == made.fingerprint


def test_a_folder_without_preprocessing_is_noted(tmp_path, model):
    made = encoder(f"open_clip:local-dir:{write_folder(tmp_path / 'm', model, None)}")
    assert "states no preprocess_cfg" in made.notes[0]


def test_the_fingerprint_follows_weights_and_preprocessing(tmp_path, model):
    one = encoder(f"open_clip:local-dir:{write_folder(tmp_path / 'a', model, GRAY)}")
    other = encoder(f"open_clip:local-dir:{write_folder(tmp_path / 'b', model, GRAY | {'resize_mode': 'shortest'})}")
    torch.manual_seed(1)
    third = encoder(f"open_clip:local-dir:{write_folder(tmp_path / 'c', open_clip.create_model(ARCH), GRAY)}")
    assert len({one.fingerprint, other.fingerprint, third.fingerprint}) == 3


def test_a_file_with_its_tag_takes_the_settings_of_the_tag(weights, tags, model):
    squashed = encoder(f"open_clip:{ARCH}/squashed@{weights}")
    openai = encoder(f"open_clip:{ARCH}/openai@{weights}")
    assert squashed.preprocessing["mean"] == GRAY["mean"]
    assert squashed.preprocessing["resize_mode"] == "squash"
    assert openai.preprocessing["mean"] == open_clip.OPENAI_DATASET_MEAN
    assert openai.preprocessing["size"] in (32, (32, 32))
    assert squashed.preprocess(photo()).shape == (3, 32, 32)
    assert not torch.allclose(squashed.preprocess(photo()), openai.preprocess(photo()))
    # QuickGELU belongs to the tag "openai": the same weights give other rows
    quick = open_clip.create_model(ARCH, pretrained=str(weights), force_quick_gelu=True).eval()
    tokens = open_clip.tokenize(["zebra"], 16)
    with torch.no_grad():
        assert torch.allclose(openai.texts(["zebra"]), normalize(quick.encode_text(tokens), dim=1), atol=1e-6)
        assert torch.allclose(squashed.texts(["zebra"]), normalize(model.encode_text(tokens), dim=1), atol=1e-6)
    assert not torch.allclose(openai.texts(["zebra"]), squashed.texts(["zebra"]), atol=1e-4)
    assert openai.fingerprint != squashed.fingerprint


def test_a_file_alone_needs_the_tag_where_tags_differ(weights, tags):
    with pytest.raises(InputError, match=f"{ARCH}/TAG@.*openai, squashed"):
        encoder(f"open_clip:{ARCH}@{weights}")


def test_a_file_alone_takes_what_all_tags_share(weights, tags, monkeypatch):
    one = dict(open_clip.pretrained._PRETRAINED[ARCH])
    del one["openai"]
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, ARCH, one)
    made = encoder(f"open_clip:{ARCH}@{weights}")
    assert made.preprocessing["resize_mode"] == "squash"
    assert "all known weights" in made.notes[0]


def test_a_file_of_an_unknown_architecture_is_noted(weights):
    made = encoder(f"open_clip:{ARCH}@{weights}")
    assert "default preprocessing" in made.notes[0]


def test_long_texts_are_reported(weights):
    made = encoder(f"open_clip:{ARCH}@{weights}")
    made.texts(["short", "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"])
    assert not [n for n in made.notes if "longer" in n]  # 14 words and 2 marks: exactly 16
    made.texts([f"word {'number ' * 20}"])
    assert "longer than the 16 tokens" in made.notes[-1]


def test_a_hugging_face_tokenizer_beside_the_weights(tmp_path, model):
    from transformers import CLIPTokenizer

    own = open_clip.tokenizer.SimpleTokenizer()
    merges = list(own.bpe_ranks)
    vocab = {
        token.replace("<start_of_text>", "<|startoftext|>").replace("<end_of_text>", "<|endoftext|>"): i
        for token, i in own.encoder.items()
    }
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges)
    text_cfg = CONFIG["text_cfg"] | {"hf_tokenizer_name": "contralens/none"}
    folder = write_folder(tmp_path / "m", model, GRAY, text_cfg)
    with pytest.raises(ModelUnavailable, match="the tokenizer of open_clip:local-dir"):
        encoder(f"open_clip:local-dir:{folder}")
    tokenizer.save_pretrained(folder)
    made = encoder(f"open_clip:local-dir:{folder}")
    ids = made._tokenizer(["a striped zebra"])
    mine = own(["a striped zebra"], 16)
    assert torch.equal(ids[ids < 49407], mine[(mine > 0) & (mine < 49407)])
    assert made.texts(["a striped zebra"]).shape == (1, 24)
    made.texts(["word " * 30])
    assert "longer than the 16 tokens" in made.notes[-1]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("open_clip:", "needs a model"),
        ("open_clip:VIT-B-32/openai", "did you mean ViT-B-32"),
        ("open_clip:ViT-B-32/openia", "did you mean openai"),
        ("open_clip:ViT-B-32", "which weights of ViT-B-32"),
        ("open_clip:ViT-B-32/openai@/nowhere/x.safetensors", "there is no file /nowhere/x.safetensors"),
        ("open_clip:local-dir:/nowhere", "there is no such folder"),
    ],
)
def test_what_the_user_got_wrong_is_one_line(spec, message):
    with pytest.raises(InputError, match=message) as caught:
        encoder(spec)
    assert "\n" not in str(caught.value)


def test_bad_folders(tmp_path, model):
    with pytest.raises(InputError, match="has no open_clip_config"):
        encoder(f"open_clip:local-dir:{tmp_path}")
    folder = write_folder(tmp_path / "m", model, GRAY, weights=None)
    with pytest.raises(ModelUnavailable, match="could not be loaded"):  # never random weights
        encoder(f"open_clip:local-dir:{folder}")
    (folder / "open_clip_config.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        encoder(f"open_clip:local-dir:{folder}")


def test_a_pickle_with_code_is_refused(tmp_path, model):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    file = tmp_path / "evil.pt"
    torch.save({"state_dict": model.state_dict(), "x": Evil()}, file)
    with pytest.raises(ModelUnavailable, match="could not be loaded"):
        encoder(f"open_clip:{ARCH}@{file}")
    assert not (tmp_path / "owned").exists()


def test_an_unreachable_hub_is_one_line(tags, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ModelUnavailable, match=r"weights contralens-tiny/openai .* could not be downloaded.*local-dir"
    ) as caught:
        encoder(f"open_clip:{ARCH}/openai")
    assert "\n" not in str(caught.value)
