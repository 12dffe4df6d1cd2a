"""Encoders of transformers, on small checkpoints saved and read by transformers itself."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from contralens.encoders.registry import encoder
from contralens.errors import InputError, ModelUnavailable
from contralens.types import Encoder

transformers = pytest.importorskip("transformers")

TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
SENTENCE = "a photo of the red striped zebra polar bear cat dog on sand green cube many small big round things"
WORDS = SENTENCE.split()
TEXTS = ["a striped zebra", "Polar Bear", "a photo of a red cube on the sand"]


def photo(seed: int = 0, size: tuple[int, int] = (70, 45)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def word_pieces():
    """A tokenizer like Gemma's: BPE with byte fallback, an end mark, <pad> 0 and <eos> 1; it keeps upper case."""
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    made.train_from_iterator([" ".join(WORDS), " ".join(w.title() for w in WORDS)], trainer)
    made.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="right"
    )


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    own = pytest.importorskip("open_clip").tokenizer.SimpleTokenizer()
    vocab = {
        token.replace("<start_of_text>", "<|startoftext|>").replace("<end_of_text>", "<|endoftext|>"): i
        for token, i in own.encoder.items()
    }
    tokenizer = transformers.CLIPTokenizer(vocab=vocab, merges=list(own.bpe_ranks), model_max_length=20)
    text = TOWER | {"vocab_size": 49408, "max_position_embeddings": 20, "eos_token_id": 49407, "bos_token_id": 49406}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config=text, vision_config=TOWER | {"image_size": 32, "patch_size": 8}, projection_dim=24
    )
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    folder = tmp_path_factory.mktemp("clip")
    transformers.CLIPModel(config).save_pretrained(folder)
    transformers.CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def siglip_config(kind):
    text = TOWER | {"vocab_size": 200, "max_position_embeddings": 64, "projection_size": 32, "pad_token_id": 0}
    vision = TOWER | {"patch_size": 8} | ({"num_patches": 16} if kind == "Siglip2" else {"image_size": 32})
    return getattr(transformers, f"{kind}Config")(text_config=text, vision_config=vision)


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    """As SigLIP 2 at fixed resolution: the classes of SigLIP with a Gemma-like tokenizer."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("siglip")
    transformers.SiglipModel(siglip_config("Siglip")).save_pretrained(folder)
    images = transformers.SiglipImageProcessor(size={"height": 32, "width": 32})
    transformers.SiglipProcessor(images, word_pieces()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def naflex(tmp_path_factory):
    """As SigLIP 2 NaFlex, with patches of 8 pixels, which `Siglip2Processor` would cut at 16."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("naflex")
    transformers.Siglip2Model(siglip_config("Siglip2")).save_pretrained(folder)
    images = transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=16)
    transformers.Siglip2Processor(images, word_pieces()).save_pretrained(folder)
    return folder


def check_common(folder):
    made = encoder(f"hf:{folder}")
    assert isinstance(made, Encoder)
    assert made.name == f"hf:{folder}"
    rows, images = made.texts(TEXTS), made.images([photo(i) for i in range(3)])
    for got in (rows, images):
        assert got.shape == (3, made.width)
        assert got.dtype == torch.float32
        assert torch.allclose(got.norm(dim=1), torch.ones(3))
        assert not got.requires_grad
    again = encoder(f"hf:{folder}")
    assert torch.equal(again.texts(TEXTS), rows)
    assert torch.equal(again.images([photo(i) for i in range(3)]), images)
    assert again.fingerprint == made.fingerprint
    assert made.notes == []
    made.texts(["zebra " * 70])
    assert f"longer than the {made.context_length} tokens" in made.notes[0]
    return made


@torch.no_grad()
def test_clip(clip):
    made = check_common(clip)
    model = transformers.CLIPModel.from_pretrained(clip).eval()
    processor = transformers.CLIPProcessor.from_pretrained(clip)
    inputs = processor(images=[photo(0), photo(1, (40, 90))], return_tensors="pt")
    assert torch.equal(made.preprocess(photo(1, (40, 90)))["pixel_values"], inputs["pixel_values"][1])
    expected = normalize(model.get_image_features(**inputs).pooler_output, dim=1)
    assert torch.allclose(made.images([photo(0), photo(1, (40, 90))]), expected, atol=1e-6)
    tokens = processor(text=TEXTS, padding=True, return_tensors="pt")
    whole = model(**inputs, **tokens)
    assert torch.allclose(made.texts(TEXTS), whole.text_embeds, atol=1e-6)
    # a text alone, or padded beside longer ones, is the same
    assert torch.allclose(made.texts(TEXTS[:1])[0], made.texts(TEXTS)[0], atol=1e-5)
    assert made.context_length == 20
    assert made.width == 24


@torch.no_grad()
def test_clip_reads_the_ids_of_open_clip(clip):
    open_clip = pytest.importorskip("open_clip")
    made = encoder(f"hf:{clip}")
    ids = made._tokenizer(["a striped zebra, twice"])["input_ids"][0]
    own = open_clip.tokenize(["a striped zebra, twice"])[0]
    assert ids == own[: len(ids)].tolist()


@torch.no_grad()
def test_siglip_texts_are_padded_to_the_full_length_without_a_mask(siglip):
    made = check_common(siglip)
    model = transformers.SiglipModel.from_pretrained(siglip).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(siglip)

    def rows(**padding):
        ids = tokenizer([t.lower() for t in TEXTS], return_tensors="pt", **padding)["input_ids"]
        return normalize(model.get_text_features(input_ids=ids).pooler_output, dim=1)

    assert torch.allclose(made.texts(TEXTS), rows(padding="max_length", max_length=64), atol=1e-6)
    assert (made.texts(TEXTS) - rows(padding=True)).abs().max() > 1e-3
    assert torch.allclose(made.texts(["POLAR bear"]), made.texts(["polar bear"]))
    assert made.context_length == 64


@torch.no_grad()
def test_siglip_images(siglip):
    made = encoder(f"siglip:{siglip}")
    model = transformers.SiglipModel.from_pretrained(siglip).eval()
    inputs = transformers.AutoImageProcessor.from_pretrained(siglip)(images=[photo(3)], return_tensors="pt")
    assert torch.equal(made.preprocess(photo(3))["pixel_values"], inputs["pixel_values"][0])
    expected = normalize(model.get_image_features(**inputs).pooler_output, dim=1)
    assert torch.allclose(made.images([photo(3)]), expected, atol=1e-6)


@torch.no_grad()
def test_naflex_keeps_the_shape_of_images_and_the_patches_of_the_model(naflex):
    made = check_common(naflex)
    wide, high = made.preprocess(photo(0, (80, 40))), made.preprocess(photo(0, (40, 80)))
    assert wide["pixel_values"].shape == (16, 8 * 8 * 3)
    assert wide["spatial_shapes"].tolist() == high["spatial_shapes"].tolist()[::-1]
    model = transformers.Siglip2Model.from_pretrained(naflex).eval()
    both = {k: torch.stack([wide[k], high[k]]) for k in wide}
    expected = normalize(model.get_image_features(**both).pooler_output, dim=1)
    rows = made.images([photo(0, (80, 40)), photo(0, (40, 80))])
    assert torch.allclose(rows, expected, atol=1e-6)


@torch.no_grad()
def test_siglip_with_its_own_sentencepiece_tokenizer(siglip, tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = tmp_path / "m"
    shutil.copytree(siglip, folder)
    for old in folder.glob("token*"):
        old.unlink()
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))))
    marks = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    size = {"vocab_size": 60, "hard_vocab_limit": False, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(input=str(corpus), model_prefix=str(tmp_path / "spiece"), **size, **marks)
    tokenizer = transformers.SiglipTokenizer(str(tmp_path / "spiece.model"))
    tokenizer.save_pretrained(folder)
    made = check_common(folder)
    ids = tokenizer(["a striped zebra"], padding="max_length", max_length=64, return_tensors="pt")["input_ids"]
    model = transformers.SiglipModel.from_pretrained(folder).eval()
    expected = normalize(model.get_text_features(input_ids=ids).pooler_output, dim=1)
    assert torch.allclose(made.texts(["A striped, zebra!"]), expected, atol=1e-6)  # lower case, no punctuation


def test_the_fingerprint_follows_weights_and_settings(siglip, tmp_path):
    prints = {encoder(f"hf:{siglip}").fingerprint}
    folder = tmp_path / "m"
    shutil.copytree(siglip, folder)
    assert encoder(f"hf:{folder}").fingerprint in prints  # the place does not count
    file = next(f for f in folder.glob("*processor*config.json"))
    file.write_text(file.read_text().replace("0.5", "0.4"))
    prints.add(encoder(f"hf:{folder}").fingerprint)
    torch.manual_seed(5)
    transformers.SiglipModel(siglip_config("Siglip")).save_pretrained(folder)
    prints.add(encoder(f"hf:{folder}").fingerprint)
    assert len(prints) == 3


def test_what_the_user_got_wrong_is_one_line(siglip, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    bert = transformers.BertConfig(vocab_size=200, **TOWER)
    transformers.BertModel(bert).save_pretrained(tmp_path / "bert")
    word_pieces().save_pretrained(tmp_path / "bert")
    shutil.copytree(siglip, tmp_path / "bare", ignore=shutil.ignore_patterns("*processor*"))
    shutil.copytree(siglip, tmp_path / "part")
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "part" / "model.safetensors")
    del weights["text_model.head.weight"]
    save_file(weights, tmp_path / "part" / "model.safetensors", {"format": "pt"})
    for spec, message in [
        ("hf:", "needs a model"),
        ("hf:/nowhere/at/all", "there is no folder"),
        ("hf:nobody", "there is no folder"),
        (f"hf:{tmp_path / 'bert'}", "type bert, which does not embed images and texts"),
    ]:
        with pytest.raises(InputError, match=message) as caught:
            encoder(spec)
        assert "\n" not in str(caught.value)
    for spec, message in [
        ("hf:contralens/none", "could not be loaded.*hf:FOLDER"),
        (f"hf:{tmp_path / 'bare'}", "could not be loaded|lacks"),
        (f"hf:{tmp_path / 'part'}", "has no weights for 1 parts of the model, e.g. text_model.head.weight"),
    ]:
        with pytest.raises(ModelUnavailable, match=message) as caught:
            encoder(spec)
        assert "\n" not in str(caught.value)


def test_remote_code_is_never_run(siglip, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(siglip, folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')")
    encoder(f"hf:{folder}")
    assert not (tmp_path / "owned").exists()


def test_a_folder_without_the_words_of_its_tokenizer(clip, tmp_path):
    """transformers makes a tokenizer then that knows no word."""
    words = shutil.ignore_patterns("tokenizer.json", "vocab.json", "merges.txt")
    shutil.copytree(clip, tmp_path / "mute", ignore=words)
    with pytest.raises(ModelUnavailable, match=r"is missing its tokenizer's vocabulary: copy tokenizer\.json"):
        encoder(f"hf:{tmp_path / 'mute'}")


def test_encoders_that_are_not_pooled_are_refused_before_images(tmp_path):
    tower = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.FlavaConfig(
        image_config={"image_size": 32, "patch_size": 16, **tower}, text_config={"vocab_size": 8, **tower},
        multimodal_config=tower, projection_dim=8, hidden_size=16,
    )  # fmt: skip
    transformers.FlavaModel(config).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog"]) + "\n"
    )
    transformers.BertTokenizerFast(str(tmp_path / "vocab.txt"), model_max_length=16).save_pretrained(tmp_path)
    square = {"height": 32, "width": 32}
    transformers.FlavaImageProcessor(size=square, crop_size=square).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"gives \(1, \d+, 8\) for 1 text\(s\), not one row each: it is not pooled"):
        encoder(f"hf:{tmp_path}")
