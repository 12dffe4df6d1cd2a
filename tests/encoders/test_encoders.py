"""The registry of encoders, what encoders share, and the text side."""

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from contralens.encoders import registry
from contralens.encoders.base import patient_only_if_reachable
from contralens.encoders.registry import (
    ENCODERS,
    TEMPLATES,
    BaseEncoder,
    digest,
    embed_texts,
    encoder,
    templates_of,
)
from contralens.errors import InputError
from contralens.types import Encoder


class Letters(BaseEncoder):
    """Counts letters: a complete encoder, small enough to check by hand."""

    width = 26
    fingerprint = digest("letters")

    def __init__(self) -> None:
        super().__init__("letters")
        self.context_length = 30
        self.sizes: list[int] = []

    def preprocess(self, image: Image.Image) -> Tensor:
        return torch.tensor(list(image.resize((13, 1)).tobytes())).float()[:26]

    def _image_rows(self, batch: Tensor) -> Tensor:
        return batch.double()

    def _text_rows(self, texts: list[str]) -> Tensor:
        self.sizes.append(len(texts))
        return torch.tensor([[t.count(chr(97 + i)) for i in range(26)] for t in texts]).float()

    def _too_long(self, texts: list[str]) -> list[str]:
        return [t for t in texts if len(t) > self.context_length]


def test_rows_are_unit_float32_and_texts_are_batched():
    made = Letters()
    made.text_batch = 4
    rows = made.texts([f"word {chr(97 + i % 26)}" for i in range(10)])
    assert made.sizes == [4, 4, 2]
    assert rows.dtype == torch.float32
    assert rows.shape == (10, 26)
    assert torch.allclose(rows.norm(dim=1), torch.ones(10))
    assert made.texts([]).shape == (0, 26)
    images = made.images([Image.new("RGB", (20, 20), (i + 1, 2, 3)) for i in range(3)])
    assert images.dtype == torch.float32
    assert torch.allclose(images.norm(dim=1), torch.ones(3))
    assert made.images([]).shape == (0, 26)
    assert isinstance(made, Encoder)


def test_texts_cut_short_are_noted_once():
    made = Letters()
    made.texts(["short", "a" * 31, "a" * 31])
    made.texts(["a" * 31])
    assert len(made.notes) == 1
    assert made.notes[0].startswith("1 text(s) longer than the 30 tokens")


def test_one_text_instead_of_a_list_is_refused():
    with pytest.raises(InputError, match="pass a list"):
        Letters().texts("word")


def test_embed_texts_is_the_formula_of_methods():
    made = Letters()
    concepts, templates = ["cat", "zebra"], ["a {}", "many {} and {}", "{}"]
    slow = []
    for concept in concepts:
        rows = [made.texts([t.replace("{}", concept)])[0] for t in templates]
        slow.append(sum(rows) / len(rows))
    plain = torch.stack(slow)
    assert torch.allclose(embed_texts(made, concepts, templates, normalise=False), plain)
    assert torch.allclose(embed_texts(made, concepts, templates), normalize(plain, dim=1))
    assert embed_texts(made, concepts, templates, normalise=False).norm(dim=1).max() < 1
    assert torch.equal(embed_texts(made, concepts), made.texts(concepts))
    assert embed_texts(made, [], templates).shape == (0, 26)


def test_a_concept_with_braces_is_taken_literally():
    made = Letters()
    assert torch.equal(embed_texts(made, ["{x} {0}"], "a {}"), made.texts(["a {x} {0}"]))


def test_templates():
    assert templates_of("photo") == TEMPLATES["photo"]
    assert len(TEMPLATES["photo"]) <= 10
    assert all("{}" in t for ts in TEMPLATES.values() for t in ts)
    with pytest.raises(InputError, match="did you mean photo"):
        templates_of("photos")
    with pytest.raises(InputError, match=r"has no \{\}"):
        templates_of(["a {}", "a photo"])
    with pytest.raises(InputError, match="at least one"):
        templates_of([])


def test_unknown_scheme_names_the_nearest():
    with pytest.raises(InputError, match="did you mean open_clip") as caught:
        encoder("openclip:ViT-B-32/openai")
    assert "\n" not in str(caught.value)


def test_an_instance_is_taken_and_anything_else_is_refused():
    made = Letters()
    assert encoder(made) is made
    with pytest.raises(InputError, match="is missing name, fingerprint, width, preprocess, texts"):
        encoder(nn.Linear(2, 2))


def test_a_device_that_is_not_there():
    with pytest.raises(InputError, match="device 'nonsense'"):
        encoder("offline", device="nonsense")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="device 'cuda'"):
            encoder("offline", device="cuda")


def test_every_scheme_has_a_form_and_a_line():
    assert list(ENCODERS) == ["open_clip", "hf", "siglip", "world", "offline"]
    for name, scheme in ENCODERS.items():
        assert name in scheme.form
        assert "\n" not in scheme.about
    assert "weaker than CLIP" in ENCODERS["offline"].about


def test_a_hub_without_an_address_is_not_waited_for(monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")  # never resolves (RFC 2606)
    for variable in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with patient_only_if_reachable():
        assert constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE
    monkeypatch.setattr(constants, "ENDPOINT", "https://localhost:1")
    with patient_only_if_reachable():
        assert not constants.HF_HUB_OFFLINE


def test_the_world_encoder():
    weights = Path(registry.__file__).parents[1] / "world" / "weights" / "encoder.safetensors"
    if not weights.is_file():
        pytest.skip("the rendered world's encoder is not trained here (make world)")
    made = encoder("world")
    assert made.name == "world"
    assert made.texts(["red circle"]).shape == (1, made.width)
    with pytest.raises(InputError, match="world:v2; got world:"):
        encoder("world:2")


def test_importing_the_registry_imports_no_backend():
    import subprocess

    code = (
        "import sys, contralens.encoders.registry as e\n"
        "list(e.ENCODERS.values())\n"
        "assert not {'open_clip', 'transformers', 'timm', 'torchvision'} & set(sys.modules), 'heavy'\n"
    )
    source = Path(__file__).resolve().parents[2] / "src"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=source)
