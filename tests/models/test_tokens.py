"""Class, register and storage tokens anywhere and under any name, padding, order, and outputs of several tensors."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from by_hook import by_hook
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import default_collate

from contralens.cli import main
from contralens.errors import InputError
from contralens.models.activation_maps import maps
from contralens.models.sae_target import sae
from contralens.models.targets import layers, target

PP = "resize=32x32,mean=half"
PLACES = 16


class Vit(nn.Module):
    """Blocks over 16 patches and other tokens, in an order of `arrange`; a class token in `cls`, others in `extra`."""

    def __init__(
        self, arrange: Callable[[Tensor, Tensor, Tensor], list[Tensor]], names: tuple[str, str], extra: int
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.names, self.extra, self.arrange = names, extra, arrange
        self.register_parameter(names[0], nn.Parameter(torch.randn(1, 1, 16) * 0.02))
        if extra:
            self.register_parameter(names[1], nn.Parameter(torch.randn(1, extra, 16) * 0.02))
        self.pos_embed = nn.Parameter(torch.randn(1, PLACES + 1 + extra, 16) * 0.02)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.norm = nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        h = self.patches(x).flatten(2).mT
        cls = getattr(self, self.names[0]).expand(len(h), -1, -1)
        extra = getattr(self, self.names[1]).expand(len(h), -1, -1) if self.extra else h[:, :0]
        out: Tensor = self.norm(self.block(torch.cat(self.arrange(h, cls, extra), 1) + self.pos_embed))
        return out


def first(h: Tensor, cls: Tensor, extra: Tensor) -> list[Tensor]:
    return [cls, extra, h]


def middle(h: Tensor, cls: Tensor, extra: Tensor) -> list[Tensor]:
    return [h[:, :8], cls, h[:, 8:], extra]


def last(h: Tensor, cls: Tensor, extra: Tensor) -> list[Tensor]:
    return [extra, h, cls]


def around(h: Tensor, cls: Tensor, extra: Tensor) -> list[Tensor]:
    return [h, extra, cls]


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("extra", [0, 4])
@pytest.mark.parametrize(
    "names",
    [("cls_token", "register_tokens"), ("class_token", "storage_tokens"), ("cls", "memory"), ("class_emb", "odd")],
)
@pytest.mark.parametrize(
    ("arrange", "at", "patches"),
    [
        (first, lambda e: 0, lambda e: range(1 + e, 17 + e)),
        (middle, lambda e: 8, lambda e: [*range(8), *range(9, 17)]),
        (last, lambda e: 16 + e, lambda e: range(e, 16 + e)),
        (around, lambda e: 16 + e, lambda e: range(16)),
    ],
)
def test_the_class_token_is_found_wherever_it_is(
    arrange: Callable[[Tensor, Tensor, Tensor], list[Tensor]],
    at: Callable[[int], int],
    patches: Callable[[int], object],
    names: tuple[str, str],
    extra: int,
    x: Tensor,
) -> None:
    net = Vit(arrange, names, extra).eval()
    out, those = by_hook(net, "block", x), list(patches(extra))  # type: ignore[call-overload]
    t = target(net, "block", preprocess=PP)
    assert t.pooling == "cls"
    assert torch.allclose(t(x), out[:, at(extra)], atol=1e-6)
    mean = target(net, "block", preprocess=PP, pooling="mean_patches")
    assert torch.allclose(mean(x), out[:, those].mean(1), atol=1e-6)
    most = target(net, "norm", preprocess=PP, pooling="max_patches")
    assert torch.allclose(most(x), by_hook(net, "norm", x)[:, those].amax(1), atol=1e-6)
    assert bool(t.notes) == (arrange is not first)
    if t.notes:
        assert f"the class token at place {at(extra)} of {17 + extra}" in t.notes[0]
    row = next(row for row in layers(net, preprocess=PP) if row.name == "block")
    assert (row.pooling, row.neurons) == ("cls", 16)
    encoder = {"W_enc": torch.randn(16, 8), "b_enc": torch.zeros(8), "W_dec": torch.randn(8, 16)}
    latents = torch.relu(out[:, those] @ encoder["W_enc"]).amax(1)
    assert torch.allclose(sae(mean, encoder)(x), latents, atol=1e-4)
    ours = sae(mean, encoder).scaled(out, 3, 0.0)
    assert torch.equal(ours[:, at(extra)], out[:, at(extra)]), "the class token is no patch"
    z = torch.relu(out @ encoder["W_enc"])[..., 3:4] * encoder["W_dec"][3]
    assert torch.allclose(ours[:, those], (out - z)[:, those], atol=1e-4)
    images = [Image.fromarray(np.random.default_rng(5).integers(0, 256, (32, 32, 3), dtype=np.uint8))]
    found = maps(mean, images, [[2]])
    assert found is not None
    whole = by_hook(net, "block", mean.preprocess(images[0])[None])[0, those, 2].view(4, 4)
    assert np.allclose(found[0][0], whole.numpy(), atol=1e-5)


def test_fingerprints_of_layouts_differ_and_reopen_the_same() -> None:
    prints = {
        target(Vit(arrange, ("cls_token", "r"), 2), "block", preprocess=PP).fingerprint
        for arrange in (first, middle, last, around)
    }
    assert len(prints) == 4
    t = target(Vit(middle, ("cls_token", "r"), 2), "block", preprocess=PP)
    assert t.with_dtype("bf16").with_dtype("float32").fingerprint == t.fingerprint


class Mixed(nn.Module):
    """Nobody sees its tokens before they are mixed."""

    def __init__(self, declared: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        if declared:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, 16))
        self.norm = nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        h = self.patches(x).flatten(2).mT
        cls = self.cls_token.expand(len(h), -1, -1) if hasattr(self, "cls_token") else h[:, :1] * 0
        h = torch.cat([h[:, :8], cls, h[:, 8:]], 1)
        out: Tensor = self.norm(h + h.mean(1, keepdim=True))
        return out


def test_a_class_token_that_cannot_be_found_is_refused_or_said(x: Tensor) -> None:
    with pytest.raises(InputError, match=r"none depends on it, so its position is unknown: set --prefix-tokens 1") as e:
        target(Mixed(True), "norm", preprocess=PP)
    assert "\n" not in str(e.value)
    with pytest.raises(InputError, match="its position is unknown"):
        target(Mixed(True), "norm", preprocess=PP, pooling="cls")
    assert target(Mixed(True), "norm", preprocess=PP, prefix_tokens=1).pooling == "cls"
    guessed = target(Mixed(False), "norm", preprocess=PP)
    assert guessed.notes == ["17 tokens are one more than a square: the first is taken as the class token"]


def undeclared() -> Mixed:
    return Mixed(False)


def test_prefix_tokens_on_the_command_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["layers", f"module:{__file__}:undeclared", "--preprocess", PP, "--json"]
    for extra, pooling in (([], "cls"), (["--prefix-tokens", "0"], "mean_patches")):
        monkeypatch.setattr(sys, "argv", ["contralens", *options, *extra])
        with pytest.raises(SystemExit) as e:
            main()
        assert not e.value.code
        rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
        assert rows["norm"]["pooling"] == pooling


def test_parameters_and_random_state_are_left_as_they_were() -> None:
    net = Vit(middle, ("cls_token", "registers"), 3)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    target(net, "block", preprocess=PP)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.fixture(scope="module")
def naflex(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("naflex")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(2)
    config = transformers.Siglip2VisionConfig(patch_size=16, num_patches=16, **sizes)
    transformers.Siglip2VisionModel(config).save_pretrained(folder)
    transformers.Siglip2ImageProcessor(patch_size=16, max_num_patches=20).save_pretrained(folder)
    return folder


def test_padding_is_left_out(naflex: Path) -> None:
    random = np.random.default_rng(0)
    images = [
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in ((48, 80), (90, 30), (64, 64))
    ]
    layer = "encoder.layers.1"
    t = target(f"hf:{naflex}", layer)
    assert (t.pooling, t.prefix_tokens) == ("mean_patches", 0)
    batch = default_collate([t.preprocess(image) for image in images])
    mask = batch["pixel_attention_mask"].bool()
    assert not mask.all(1).any()
    kept: list[Tensor] = []
    handle = t.module.get_submodule(layer).register_forward_hook(lambda m, i, o: kept.append(o.detach().clone()))
    rows = t(batch)
    most = target(f"hf:{naflex}", layer, pooling="max_patches")(batch)
    handle.remove()
    for i, own in enumerate(mask):
        assert torch.allclose(rows[i], kept[0][i, own].mean(0), atol=1e-5)
        assert torch.allclose(most[i], kept[0][i, own].amax(0), atol=1e-5)
        assert not torch.allclose(rows[i], kept[0][i].mean(0), atol=1e-3)
    found = maps(t, images, [[0, 3]] * 3)
    assert found is not None
    for i, (down, across) in enumerate(batch["spatial_shapes"].tolist()):
        assert found[i].shape == (2, down, across)
        assert np.allclose(found[i][1], kept[0][i, : down * across, 3].view(down, across), atol=1e-5)
    encoder = {"W_enc": torch.randn(32, 8), "b_enc": torch.zeros(8)}
    latents = sae(t, encoder)(batch)
    for i, own in enumerate(mask):
        assert torch.allclose(latents[i], torch.relu(kept[0][i, own] @ encoder["W_enc"]).amax(0), atol=1e-4)
    with pytest.raises(InputError, match="counts padding"):
        sae(t, encoder, pooling="mean")(batch)
    assert next(row for row in layers(f"hf:{naflex}") if row.name == layer).pooling == "mean_patches"


def test_maps_only_where_the_order_of_tokens_is_known() -> None:
    timm = pytest.importorskip("timm")
    images = [Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8))]
    torch.manual_seed(0)
    sizes = {"img_size": (64, 64), "embed_dim": 16, "stages": (1, 1, 1), "mask_unit_size": (4, 4), "q_pool": 2}
    hiera = timm.models.hiera.Hiera(**sizes, num_classes=3, mask_unit_attn=(True, True, False)).eval()
    for layer, raster in (("patch_embed", True), ("blocks.0", False), ("blocks.1", False)):
        t = target(hiera, layer, preprocess="resize=64x64,mean=half", pooling="mean_patches", prefix_tokens=0)
        assert (maps(t, images, [[0]]) is not None) == raster, layer
    small = {"img_size": 64, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 2, "num_classes": 3}
    vit = timm.models.vision_transformer.VisionTransformer(**small).eval()
    for layer in ("blocks.0", "blocks.3", "blocks.3.mlp.act", "norm"):
        t = target(vit, layer, preprocess="resize=64x64,mean=half", pooling="max_patches")
        assert maps(t, images, [[0]]) is not None, layer


class Several(nn.Module):
    def forward(self, x: Tensor) -> dict[str, object]:
        return {"mean": x.mean((2, 3)), "more": (x.amax((2, 3)), x), "count": torch.tensor(3)}


def test_which_of_several_tensors_is_said_and_can_be_asked_for(x: Tensor) -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, 3), Several())
    t = target(net, "1", preprocess=PP)
    assert t.notes == [
        "1 gives 3 tensors, mean (5,), more.0 (5,) and more.1 (5, 30, 30): the first is taken; "
        '--layer "1#more.0" takes the second'
    ]
    out = net[0](x)
    assert torch.allclose(t(x), out.mean((2, 3)), atol=1e-6)
    other = target(net, "1#more.0", preprocess=PP)
    assert torch.allclose(other(x), out.amax((2, 3)), atol=1e-6)
    assert (other.notes, other.neurons[0]) == ([], "1#more.0/0")
    assert target(net, ".#more.1", preprocess=PP).pooling == "mean"
    assert len({t.fingerprint, other.fingerprint}) == 2
    with pytest.raises(InputError, match=r"1 gives no tensor 'less'; it gives mean, more.0, more.1"):
        target(net, "1#less", preprocess=PP)
    row = next(row for row in layers(net, preprocess=PP) if row.name == "1")
    assert "gives 3 tensors" in row.note
    attention = nn.MultiheadAttention(12, 2, batch_first=True)

    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention

        def forward(self, x: Tensor) -> Tensor:
            tokens = x.flatten(2).mT.repeat(1, 1, 4)[:, :9]
            out: Tensor = self.attention(tokens, tokens, tokens)[0]
            return out

    weights = target(Attends(), "attention#1", preprocess=PP, pooling="mean_patches", prefix_tokens=0)
    assert weights.width == 9
