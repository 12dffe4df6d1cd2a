"""Arguments of networks: in the target's name, or read off a checkpoint's shapes; and networks of one channel."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from contralens.errors import InputError
from contralens.loading.channels import with_channels
from contralens.loading.network_arguments import split_arguments
from contralens.models.targets import HookedTarget, target

timm = pytest.importorskip("timm")


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (190, 210, 3), dtype=np.uint8))


def batch(t: HookedTarget, picture: Image.Image) -> Tensor:
    made = t.preprocess(picture)
    return torch.stack([made, made.flip(-1)])


def seeded(name: str, **arguments: Any) -> nn.Module:
    torch.manual_seed(4)
    return timm.create_model(name, **arguments).eval()  # type: ignore[no-any-return]


def test_arguments_are_split_off() -> None:
    assert split_arguments("resnet50", "x") == ("resnet50", {})
    assert split_arguments("a?b=1&c=.5&d=true&e=none&f=(2, 3)&g=avg&h=7x7", "x")[1] == {
        "b": 1, "c": 0.5, "d": True, "e": None, "f": (2, 3), "g": "avg", "h": "7x7"
    }  # fmt: skip
    for wrong in ("a?b", "a?", "a?=1", "a?b=1&b=2", "a?b-c=1"):
        with pytest.raises(InputError, match=r"timm:a\?") as e:
            split_arguments(wrong, "timm")
        assert "\n" not in str(e.value)


CHANGED = [
    ("test_vit", "blocks.3", {"img_size": 224}),
    ("test_vit", "blocks.3", {"global_pool": "avg"}),
    ("test_vit", "blocks.3", {"in_chans": 1}),
    ("test_resnet", "layer4", {"in_chans": 1, "num_classes": 2}),
    ("test_vit", "blocks.3", {"img_size": 192, "num_classes": 5, "in_chans": 1}),
]


@pytest.mark.parametrize(("name", "layer", "arguments"), CHANGED)
def test_what_a_checkpoint_was_built_with_is_said_or_read_off(
    name: str, layer: str, arguments: dict[str, Any], picture: Image.Image, tmp_path: Path
) -> None:
    net = seeded(name, **arguments)
    torch.save({"model": net.state_dict()}, tmp_path / "a.pth")
    read = target(f"timm:{name}", layer, checkpoint=tmp_path / "a.pth")
    query = "&".join(f"{key}={value}" for key, value in arguments.items())
    said = target(f"timm:{name}?{query}", layer, checkpoint=tmp_path / "a.pth")
    x = batch(said, picture)
    size = arguments.get("img_size", 160)
    assert x.shape[1:] == (arguments.get("in_chans", 3), size, size)
    for t in (read, said):
        assert torch.equal(batch(t, picture), x)
        whole = target(net, layer, preprocess=said.preprocess, pooling=said.pooling)
        assert torch.allclose(t(x), whole(x), atol=1e-5)
    assert any(f"built with {', '.join(f'{k}={v}' for k, v in arguments.items())}" in note for note in said.notes)
    for key, value in arguments.items():
        wanted = f"built with {value} classes" if key == "num_classes" else f"built with {key}={value}"
        assert any(wanted in note for note in read.notes), key
    assert said.pooling == ("mean_patches" if "global_pool" in arguments else read.pooling)


def test_registers_of_a_checkpoint_are_read_off(tmp_path: Path) -> None:
    net = seeded("vit_tiny_patch16_224", img_size=32, depth=1, reg_tokens=4)
    torch.save(net.state_dict(), tmp_path / "a.pth")
    t = target("timm:vit_tiny_patch16_224?reg_tokens=4&depth=1", "blocks.0", checkpoint=tmp_path / "a.pth")
    assert t.prefix_tokens == 5
    assert any("built with img_size=32" in note for note in t.notes)


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("timm:test_vit?nothing=1", r"timm:test_vit cannot be built with nothing=1 \(TypeError"),
        ("timm:test_vit?img_size=big", r"timm:test_vit cannot be built with img_size=big"),
        ("torchvision:resnet18?nothing=1", r"torchvision:resnet18 cannot be built with nothing=1 \(TypeError"),
        ("torchvision:resnet18?in_chans=0", "in_chans must be at least 1"),
        ("torchvision:resnet18?in_chans=4", "takes 4 channels, and images give three"),
        ("torchvision:resnet18?in_chans", "write arguments as NAME[?]KEY=VALUE"),
    ],
)
def test_arguments_that_do_not_fit_are_one_line(spec: str, match: str) -> None:
    with pytest.raises(InputError, match=match) as e:
        target(spec, "x", weights="random")
    assert "\n" not in str(e.value)


def test_arguments_of_ones_own_function(tmp_path: Path) -> None:
    code = "from torch import nn\ndef build(width=4):\n    return nn.Conv2d(3, width, 3)\n"
    (tmp_path / "mine.py").write_text(code)
    spec = f"module:{tmp_path / 'mine.py'}:build"
    t = target(f"{spec}?width=6", ".", preprocess="crop=8,mean=half")
    assert (t.width, t.notes) == (6, ["built with width=6"])
    assert target(spec, ".", preprocess="crop=8,mean=half").width == 4
    with pytest.raises(InputError, match=r"calling build\(\) failed \(TypeError"):
        target(f"{spec}?wide=6", ".")


def test_torchvision_with_one_channel(picture: Image.Image, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = models.squeezenet1_1(num_classes=4)
    net.features[0] = nn.Conv2d(1, 64, 3, 2)
    net.eval()
    torch.save(net.state_dict(), tmp_path / "a.pth")
    for spec in ("torchvision:squeezenet1_1", "torchvision:squeezenet1_1?in_chans=1&num_classes=4"):
        t = target(spec, "features", checkpoint=tmp_path / "a.pth")
        x = batch(t, picture)
        assert x.shape[1:] == (1, 224, 224)
        assert torch.allclose(t(x), net.features(x).mean((2, 3)), atol=1e-5)
        assert any("made gray" in note for note in t.notes)
    gray = models.SqueezeNet1_1_Weights.DEFAULT.transforms()(picture.convert("L").convert("RGB")).mean(0)
    assert torch.allclose(x[0, 0], gray, atol=1e-6)


def test_a_first_convolution_for_other_channels_gives_the_same_for_gray() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    x = torch.randn(2, 1, 8, 8)
    expected = net(x.expand(-1, 3, -1, -1))
    assert torch.allclose(with_channels(net, 1)(x), expected, atol=1e-6)
    assert torch.allclose(with_channels(net, 5)(x.expand(-1, 5, -1, -1)), expected, atol=1e-6)


def test_a_timm_folder_of_one_channel(picture: Image.Image, tmp_path: Path) -> None:
    net = seeded("test_resnet", in_chans=1, num_classes=2)
    config = {
        key: value for key, value in net.pretrained_cfg.items() if isinstance(value, int | float | str | list | tuple)
    }
    config |= {"input_size": [1, 96, 96], "mean": [0.5], "std": [0.25], "num_classes": 2}
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    content = {"architecture": "test_resnet", "num_classes": 2, "pretrained_cfg": config, "model_args": {"in_chans": 1}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    t = target(f"timm:local-dir:{tmp_path}", "layer4")
    x = batch(t, picture)
    assert x.shape[1:] == (1, 96, 96)
    assert torch.allclose(t(x), target(net, "layer4", preprocess=t.preprocess)(x), atol=1e-5)
    flat = t.preprocess(Image.new("RGB", (200, 200), (0, 0, 255)))
    assert torch.allclose(flat, torch.full_like(flat, (29 / 255 - 0.5) / 0.25), atol=1e-5), "blue is 11.4 % of gray"
    text = target(f"timm:local-dir:{tmp_path}", "layer4", preprocess="resize=96x96,mean=half")
    assert any("one channel" in note for note in text.notes)
    asked = target(f"timm:local-dir:{tmp_path}", "layer4", preprocess="resize=96x96,mean=.5,std=.5,channels=gray")
    assert torch.equal(text.preprocess(picture), asked.preprocess(picture))
