"""A user's own weights from files."""

import os
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from contralens.errors import InputError
from contralens.loading.checkpoints import load_checkpoint, read_state
from contralens.models.targets import layers, target


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(5)
    return models.resnet18(num_classes=7).eval()


@pytest.fixture(scope="module")
def squeezenet() -> nn.Module:
    """A small one, where the network does not matter."""
    torch.manual_seed(0)
    return models.squeezenet1_1().eval()


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def prefixed(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + k: v for k, v in state.items()}


def test_safetensors_with_another_number_of_classes(resnet: nn.Module, x: torch.Tensor, tmp_path: Path) -> None:
    save_file(resnet.state_dict(), tmp_path / "mine.safetensors")
    t = target("torchvision:resnet18", "fc", checkpoint=tmp_path / "mine.safetensors")
    assert t.width == 7
    with torch.no_grad():
        assert torch.allclose(t(x), resnet(x), atol=1e-5)
    assert t.name == "torchvision:resnet18 (checkpoint mine.safetensors)"
    assert t.neurons[0] == "fc/0"
    assert any("built with 7 classes" in note for note in t.notes)
    assert any("preprocessing is that of ResNet18_Weights.IMAGENET1K_V1" in note for note in t.notes)
    assert layers("torchvision:resnet18", checkpoint=tmp_path / "mine.safetensors")[-2].neurons == 7


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [
        (None, ""),
        ("state_dict", "module."),
        ("model", "model."),
        ("model_state_dict", "backbone."),
        (None, "model.module."),
    ],
)
def test_wrappers_and_prefixes(
    squeezenet: nn.Module, x: torch.Tensor, tmp_path: Path, wrap: str | None, prefix: str
) -> None:
    state = prefixed(squeezenet.state_dict(), prefix)
    torch.save({wrap: state, "epoch": 3, "optimizer": {"lr": 0.1}} if wrap else state, tmp_path / "a.pt")
    t = target("torchvision:squeezenet1_1", "features", checkpoint=tmp_path / "a.pt")
    plain = target(squeezenet, "features", preprocess=t.preprocess)
    assert torch.allclose(t(x), plain(x), atol=1e-5)
    assert sum("prefix" in note for note in t.notes) == bool(prefix)
    assert sum("took 'mo" in note or "took 'st" in note for note in t.notes) == bool(wrap)


def test_other_tensors_beside_the_ones_taken_are_named(resnet: nn.Module, tmp_path: Path) -> None:
    state = dict(resnet.state_dict())
    torch.save({"state_dict": state, "state_dict_ema": state}, tmp_path / "a.pth")
    assert read_state(tmp_path / "a.pth")[1] == ["took 'state_dict' (not state_dict_ema) of checkpoint a.pth"]


def test_keys_that_do_not_match_are_listed(resnet: nn.Module, tmp_path: Path) -> None:
    state = dict(resnet.state_dict())
    state["layer9.weight"] = state.pop("layer1.0.conv1.weight")
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(InputError) as e:
        target("torchvision:resnet18", "layer4", checkpoint=tmp_path / "a.pt")
    assert "1 missing (layer1.0.conv1.weight); 1 unexpected (layer9.weight)" in str(e.value)
    assert "\n" not in str(e.value)
    torch.save(prefixed({"w": torch.zeros(1)}, "x."), tmp_path / "b.pt")
    with pytest.raises(InputError, match=r"missing \(conv1.weight, .*more\); 1 unexpected \(x.w\)"):
        target("torchvision:resnet18", "layer4", checkpoint=tmp_path / "b.pt")
    state = dict(resnet.state_dict())
    state["conv1.weight"] = torch.zeros(64, 3, 5, 5)
    torch.save(state, tmp_path / "c.pt")
    with pytest.raises(
        InputError, match=r"of another shape \(conv1.weight: file \(64, 3, 5, 5\), network \(64, 3, 7, 7\)"
    ):
        target("torchvision:resnet18", "layer4", checkpoint=tmp_path / "c.pt")


def test_a_prefix_never_drops_a_tensor_in_silence(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(2, 2))
    both = {"0.weight": torch.zeros(2, 2), "0.bias": torch.zeros(2), "model.0.weight": torch.ones(2, 2)}
    torch.save(both, tmp_path / "both.pt")
    filled = load_checkpoint(lambda n: net, tmp_path / "both.pt", "net")
    assert not filled.network.get_submodule("0").weight.any()
    assert filled.notes == ["ignored 1 tensors that are not of the network (model.0.weight) in checkpoint both.pt"]


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_pickle_with_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrapped: bool) -> None:
    monkeypatch.chdir(tmp_path)
    if wrapped:
        torch.save({"state_dict": {"a": torch.zeros(1)}, "extra": Evil()}, "evil.pt")
    else:
        Path("evil.pt").write_bytes(pickle.dumps(Evil(), protocol=2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on the pickle protocol
        _refuse_evil()


def _refuse_evil() -> None:
    with pytest.raises(InputError, match=r"holds Python objects \((posix|nt|os).system\): objects may run code") as e:
        target("torchvision:resnet18", "fc", checkpoint="evil.pt")
    assert not Path("pwned").exists()
    assert "\n" not in str(e.value)
    torch.save(nn.Linear, "class.pt")
    with pytest.raises(InputError, match=r"holds something other than tensors \(torch.nn.*Linear\).*save them alone"):
        target("torchvision:resnet18", "fc", checkpoint="class.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_files_that_are_no_checkpoints(tmp_path: Path, suffix: str) -> None:
    def refused(match: str) -> None:
        with pytest.raises(InputError, match=match) as e:
            target("torchvision:resnet18", "fc", checkpoint=file)
        assert "\n" not in str(e.value)

    file = tmp_path / f"a{suffix}"
    refused("does not exist")
    for content in (b"", b"not weights at all", os.urandom(300)):
        file.write_bytes(content)
        refused("is no|or is damaged")
    whole = tmp_path / "whole"
    state = {"w": torch.zeros(100)}
    save_file(state, whole) if suffix == ".safetensors" else torch.save(state, whole)
    file.write_bytes(whole.read_bytes()[:-200])
    refused("is no")
    file.unlink()
    file.mkdir()
    refused("is a folder")


def test_a_checkpoint_without_tensors(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="holds no tensors by name"):
        read_state(tmp_path / "a.pt")
    torch.save(torch.zeros(3), tmp_path / "a.pt")
    with pytest.raises(InputError, match="holds no tensors by name"):
        read_state(tmp_path / "a.pt")


@pytest.mark.slow
def test_a_changed_weight_changes_the_fingerprint(resnet: nn.Module, tmp_path: Path) -> None:
    def fingerprint(state: dict[str, torch.Tensor], name: str, layer: str = "layer1") -> str:
        save_file(state, tmp_path / name)
        return target("torchvision:resnet18", layer, checkpoint=tmp_path / name).fingerprint

    state = {k: v.clone() for k, v in resnet.state_dict().items()}
    first = fingerprint(state, "a.safetensors")
    assert len(first) == 32
    assert fingerprint(state, "renamed.safetensors") == first
    torch.save(state, tmp_path / "a.pt")
    assert target("torchvision:resnet18", "layer1", checkpoint=tmp_path / "a.pt").fingerprint == first
    assert fingerprint(state, "a.safetensors", "layer2") != first
    state["layer4.0.bn1.running_var"][3] += 1e-3
    assert fingerprint(state, "a.safetensors") != first


def test_timm_checkpoint_with_another_head(x: torch.Tensor, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(2)
    net = timm.create_model("test_vit", num_classes=5).eval()
    torch.save({"state_dict": prefixed(net.state_dict(), "module.")}, tmp_path / "a.pth")
    t = target("timm:test_vit", "head", checkpoint=tmp_path / "a.pth")
    assert (t.width, t.neurons[4]) == (5, "head/4")
    batch = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        assert torch.allclose(t(batch), net(batch), atol=1e-5)


def test_a_pickle_of_another_protocol_gives_no_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": print}, protocol=4))
    with pytest.raises(InputError, match="holds something other than tensors"):
        read_state(tmp_path / "a.pkl")
    assert not list(recwarn)
