"""Which tensors of a file are a network's own, under whatever names."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from contralens.errors import InputError
from contralens.loading.checkpoints import Filled, load_checkpoint
from contralens.loading.weight_files import read_tables
from contralens.models.interventions import class_scores
from contralens.models.targets import layers, target

PP = "resize=16x16,mean=half"


class Net(nn.Module):
    """A body, and a head that only `.` uses."""

    def __init__(self, classes: int = 3, blocks: int = 2, auxiliary: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.blocks = nn.ModuleList(nn.Conv2d(4, 4, 3, bias=False) for _ in range(blocks))
        self.auxiliary = nn.Linear(4, 2) if auxiliary else None
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean((2, 3)))


def build(classes: int | None) -> nn.Module:
    return Net(classes or 3)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return Net().state_dict()


Save = Callable[[object], Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(content: object) -> Path:
        torch.save(content, tmp_path / "a.pth")
        return tmp_path / "a.pth"

    return write


def load(content: object, save: Save, part: str = "") -> Filled:
    return load_checkpoint(build, f"{save(content)}{part}", "net")


def same(filled: Filled, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, state[key]) for key, value in filled.network.state_dict().items())


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


PREFIXES = ["", "encoder.", "resnet.", "net.f.", "module.model._orig_mod.", "student.backbone.", "module.encoder_q.",
            "model.0.", "online_network.encoder.", "_orig_mod.module.", "base_model.model.", "x.y.z.w."]  # fmt: skip


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("wrapped", ["", "state_dict", "checkpoint.weights_of_it"])
def test_any_prefix_in_any_wrapper_is_found(prefix: str, wrapped: str, state: dict[str, Tensor], save: Save) -> None:
    content: object = prefixed(state, prefix)
    for key in reversed(wrapped.split(".") if wrapped else []):
        content = {key: content, "epoch": 3}
    filled = load(content, save)
    assert same(filled, state)
    plain = prefix.replace("_orig_mod.", "")
    assert [note for note in filled.notes if "prefix" in note] == (
        [f"took the prefix {plain!r} off the names in checkpoint a.pth"] if plain else []
    )
    assert [note for note in filled.notes if note.startswith("took '")] == (
        [f"took {wrapped!r} of checkpoint a.pth"] if wrapped else []
    )


def test_wrappers_in_the_middle_of_names(state: dict[str, Tensor], save: Save) -> None:
    odd = {key.replace("blocks.", "blocks._orig_mod.").replace("stem.0.", "stem._fsdp_wrapped_module.0."): value
           for key, value in state.items()}  # fmt: skip
    assert same(load(odd, save), state)


FOREIGN = {
    "a loss": {"criterion.pos_weight": torch.ones(3)},
    "a profiler": {"total_ops": torch.zeros(1), "stem.total_ops": torch.zeros(1), "norm.total_params": torch.ones(1)},
    "a metric": {"val_acc.confmat": torch.ones(3, 3), "metrics.auroc.total": torch.tensor(3)},
    "a queue": {"queue": torch.ones(4, 9), "queue_ptr": torch.zeros(1, dtype=torch.int64)},
    "a projection": {"projector.0.weight": torch.ones(4, 4), "predictor.bias": torch.ones(4)},
    "an index": {"blocks.relative_position_index": torch.ones(3, 3, dtype=torch.int64)},
}  # fmt: skip


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_what_is_not_the_networks_is_passed_over_and_said(
    what: str, prefix: str, state: dict[str, Tensor], save: Save
) -> None:
    extra = FOREIGN[what]
    for own in (extra, prefixed(extra, prefix)):
        filled = load({**prefixed(state, prefix), **own}, save)
        assert same(filled, state)
        assert any(f"ignored {len(own)} tensors" in note and next(iter(own)) in note for note in filled.notes)
        assert not filled.misfit


@pytest.mark.parametrize(
    ("content", "taken", "other"),
    [
        (lambda a, b: {**prefixed(a, "model."), **prefixed(b, "model_ema.")}, "model", "model_ema"),
        (lambda a, b: {"state_dict": a, "state_dict_ema": b}, "state_dict", "state_dict_ema"),
        (lambda a, b: {"student": prefixed(b, "net."), "teacher": prefixed(a, "net.")}, "teacher.net", "student.net"),
        (lambda a, b: {**prefixed(a, "m.encoder_q."), **prefixed(b, "m.encoder_k.")}, "m.encoder_q", "m.encoder_k"),
    ],
)  # fmt: skip
def test_of_two_that_fit_one_is_taken_and_the_other_can_be_asked_for(
    content: Callable[..., object], taken: str, other: str, state: dict[str, Tensor], save: Save
) -> None:
    second = {key: value + 1 for key, value in state.items()}
    both = content(state, second)
    filled = load(both, save)
    assert same(filled, state)
    assert any(f"took '{taken}' (not {other})" in n and f"--checkpoint a.pth::{other}" in n for n in filled.notes)
    assert same(load(both, save, f"::{other}"), second)
    assert same(load(both, save, f"::{taken}"), state)
    with pytest.raises(InputError, match="has no part 'nobody' that fits; it has: ") as e:
        load(both, save, "::nobody")
    assert taken.partition(".")[0] in str(e.value)


def test_another_architecture_with_the_same_names_is_refused(save: Save) -> None:
    deeper = Net(blocks=4).state_dict()
    with pytest.raises(InputError, match=r"does not fit net: 2 unexpected \(blocks.2.weight, blocks.3.weight\)"):
        load(deeper, save)
    with pytest.raises(InputError, match=r"1 unexpected \(stem.0.gate\)"):
        load({**Net().state_dict(), "stem.0.gate": torch.ones(4)}, save)
    with pytest.raises(InputError, match=r"does not fit net: 16 missing .* \(the file says arch=resnet50\)"):
        load({"state_dict": {"w": torch.ones(1)}, "arch": "resnet50"}, save)


@pytest.mark.parametrize(
    ("gone", "extra"),
    [
        ("head.", {}),
        ("head.", {"head.0.weight": torch.ones(7, 4), "head.2.bias": torch.ones(7)}),
        ("head.", {"head.mlp.weight": torch.ones(7, 4)}),
        ("head.bias", {}),
    ],
)
def test_a_head_behind_the_layer_may_be_missing(
    gone: str, extra: dict[str, Tensor], state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {key: value for key, value in state.items() if not key.startswith(gone)}
    torch.save({**body, **extra}, tmp_path / "a.pth")
    spec = f"module:{__file__}:Net"
    for layer in ("blocks.1", "norm", "stem"):
        t = target(spec, layer, checkpoint=tmp_path / "a.pth", preprocess=PP)
        whole = Net()
        whole.load_state_dict(state)
        x = torch.randn(3, 3, 16, 16)
        assert torch.equal(t(x), target(whole, layer, preprocess=PP)(x))
        assert any("not in checkpoint a.pth, random" in note and "head.bias" in note for note in t.notes)
    for layer, match in (("head", r"missing .*; head depends on them"), (".", r"missing .*; \. depends on them")):
        with pytest.raises(InputError, match=match) as e:
            target(spec, layer, checkpoint=tmp_path / "a.pth", preprocess=PP)
        assert "\n" not in str(e.value)
        with pytest.raises(InputError, match="has no trained classifier"):
            class_scores(target(spec, "norm", checkpoint=tmp_path / "a.pth", preprocess=PP), torch.randn(2, 3, 16, 16))
    assert len(layers(spec, checkpoint=tmp_path / "a.pth", preprocess=PP)) == 8


@pytest.mark.parametrize("layer", ["stem", "blocks.0", "blocks.1", "norm"])
@pytest.mark.parametrize("gone", ["blocks.1.weight", "stem.1.running_mean", "norm.weight"])
def test_what_is_missing_elsewhere_is_an_error_whatever_the_layer(
    gone: str, layer: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save({key: value for key, value in state.items() if key != gone}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=rf"does not fit module.*1 missing \({gone}\)"):
        target(f"module:{__file__}:Net", layer, checkpoint=tmp_path / "a.pth", preprocess=PP)
    wrong = {**state, gone: torch.ones(9, 9)}
    torch.save(wrong, tmp_path / "a.pth")
    with pytest.raises(InputError, match=rf"1 of another shape \({gone}: file \(9, 9\)"):
        target(f"module:{__file__}:Net", layer, checkpoint=tmp_path / "a.pth", preprocess=PP)


def test_a_body_in_a_network_that_names_it(state: dict[str, Tensor], save: Save) -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit = Net()
            self.classifier = nn.Linear(3, 2)

    for prefix in ("", "module.backbone."):
        filled = load_checkpoint(lambda n: Outer(), save(prefixed(state, prefix)), "net")
        assert torch.equal(filled.network.get_submodule("vit.head").weight, state["head.weight"])  # type: ignore[arg-type]
        assert filled.untrained == ("classifier.weight", "classifier.bias")
        assert any("put 'vit.' before them" in note for note in filled.notes)


def test_shards_folders_and_hub_caches(state: dict[str, Tensor], tmp_path: Path) -> None:
    names = list(state)
    parts = {"a-1.safetensors": names[:5], "a-2.safetensors": names[5:]}
    for file, keys in parts.items():
        save_file({key: state[key] for key in keys}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {key: file for file, keys in parts.items() for key in keys}}))
    for path in (index, tmp_path):
        filled = load_checkpoint(build, path, "net")
        assert same(filled, state)
        assert filled.notes == ["2 shards named by model.safetensors.index.json"]
    (tmp_path / "a-2.safetensors").unlink()
    with pytest.raises(InputError, match=r"names the shard a-2\.safetensors, which is not next to it"):
        load_checkpoint(build, index, "net")
    index.write_text(json.dumps({"weight_map": {names[0]: "../a-1.safetensors"}}))
    with pytest.raises(InputError, match="which is not next to it"):
        load_checkpoint(build, index, "net")
    hub = tmp_path / "models--me--net"
    (hub / "snapshots" / "abc").mkdir(parents=True)
    (hub / "snapshots" / "old").mkdir()
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("abc")
    torch.save(state, hub / "snapshots" / "abc" / "pytorch_model.bin")
    assert same(load_checkpoint(build, hub, "net"), state)
    with pytest.raises(InputError, match="is a folder with no weights in it"):
        load_checkpoint(build, hub / "snapshots" / "old", "net")


def test_files_of_other_kinds_are_told(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "scripted.pt")
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)), tmp_path / "program.pt2")
    (tmp_path / "a.onnx").write_bytes(b"x")
    for name, match in (("scripted.pt", r"is TorchScript.*torch.jit.load\(FILE\).state_dict"),
                        ("program.pt2", "is a program of torch.export"), ("a.onnx", "is a file of ONNX")):  # fmt: skip
        with pytest.raises(InputError, match=match) as e:
            read_tables(tmp_path / name)
        assert "\n" not in str(e.value)


def test_old_names_of_densenets_and_heads_beside_the_main_one(tmp_path: Path) -> None:
    from torchvision import models

    torch.manual_seed(0)
    dense = models.DenseNet(4, (2, 2), 8, num_classes=3)
    old = {}
    for key, value in dense.state_dict().items():
        for kind in ("norm", "conv"):
            for n in "12":
                key = key.replace(f".{kind}{n}.", f".{kind}.{n}.") if "denselayer" in key else key
        old[f"module.{key}"] = value
    assert any(".norm.1." in key for key in old)
    torch.save({"state_dict": old}, tmp_path / "a.pth.tar")
    filled = load_checkpoint(lambda n: models.DenseNet(4, (2, 2), 8, num_classes=3), tmp_path / "a.pth.tar", "net")
    assert all(torch.equal(value, dense.state_dict()[key]) for key, value in filled.network.state_dict().items())
    plain, with_auxiliary = Net(), Net(auxiliary=True)
    torch.save(with_auxiliary.state_dict(), tmp_path / "b.pth")
    assert not load_checkpoint(build, tmp_path / "b.pth", "net").misfit
    torch.save(plain.state_dict(), tmp_path / "c.pth")
    filled = load_checkpoint(lambda n: Net(auxiliary=True), tmp_path / "c.pth", "net")
    assert filled.untrained == ("auxiliary.weight", "auxiliary.bias")
