"""Fingerprints: they change when anything changes that the activations depend on, and only then."""

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import transforms as T
from torchvision.models import ResNet18_Weights, ResNet50_Weights

from contralens.fingerprint import describing
from contralens.fingerprint.network import describe, network_digest
from contralens.loading.preprocessing import preprocessing
from contralens.models.targets import target

SCALE = 2.0


def uses_a_constant(image: Any) -> torch.Tensor:
    return torch.full((3, 16, 16), SCALE)


def closure(value: float) -> Callable[[Any], torch.Tensor]:
    return lambda image: torch.full((3, 16, 16), value)


def default(image: Any, value: float = 1.0) -> torch.Tensor:
    return torch.full((3, 16, 16), value)


class Own:
    """A preprocessing object with settings."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, image: Any) -> torch.Tensor:
        return torch.full((3, 16, 16), self.value)


class Says:
    """A preprocessing that says itself what it is."""

    def __init__(self, value: str) -> None:
        self.__contralens_fingerprint__ = value


def net(slope: float = 0.1) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(slope), nn.BatchNorm2d(4), nn.Flatten())


def test_layer_pooling_preprocessing_and_structure_count() -> None:
    def of(
        network: nn.Module, layer: str = "0", pooling: str = "mean", preprocess: object = "crop=16,mean=half"
    ) -> str:
        return target(network, layer, pooling=pooling, preprocess=preprocess).fingerprint

    first = of(net())
    assert of(net()) == first
    others = [
        of(net(), layer="1"),
        of(net(), pooling="max"),
        of(net(), preprocess="crop=16,mean=half,std=.5/.5/.51"),
        of(net(), preprocess="resize=16x16,mean=half"),
        of(net(slope=0.2)),
    ]
    changed = net()
    changed[0].bias.data[2] += 1e-6
    others.append(of(changed))
    buffered = net()
    buffered[2].running_mean[0] = 1e-6
    others.append(of(buffered))
    assert len({first, *others}) == len(others) + 1


def test_the_same_after_moving_and_in_channels_last() -> None:
    plain = net()
    assert network_digest(net().to(memory_format=torch.channels_last)) == network_digest(plain)
    assert network_digest(net().eval()) == network_digest(net().train())
    plain.requires_grad_(False)
    assert network_digest(plain) == network_digest(net())


def test_buffers_outside_the_state_and_plain_attributes_count() -> None:
    class Scaled(nn.Module):
        def __init__(self, scale: float, power: int) -> None:
            super().__init__()
            self.register_buffer("scale", torch.tensor(scale), persistent=False)
            self.power = power

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * self.scale) ** self.power

    digests = {network_digest(Scaled(a, b)) for a, b in [(1.0, 1), (2.0, 1), (1.0, 2), (1.0, 1)]}
    assert len(digests) == 3


def test_the_users_own_forward_counts(tmp_path: Path) -> None:
    code = "import torch\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        return x.mean((2, 3)) {}\n"
    digests = []
    for i, change in enumerate(["", "* 2", "", "* 1  # a comment"]):
        (tmp_path / f"m{i}.py").write_text(code.format(change))
        t = target(f"module:{tmp_path / f'm{i}.py'}:Net", ".", preprocess="crop=16,mean=half")
        digests.append(t.fingerprint)
    assert digests[0] == digests[2]
    assert len(set(digests)) == 3


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda image: image, lambda image: image.size),
        (closure(1.0), closure(2.0)),
        (functools.partial(default, value=1.0), functools.partial(default, value=2.0)),
        (Own(1.0), Own(2.0)),
        (Own(1.0).__call__, Own(2.0).__call__),
        (Says("a"), Says("b")),
        (T.Compose([T.Resize(8), T.ToTensor()]), T.Compose([T.Resize(9), T.ToTensor()])),
        (T.Normalize([0.50001] * 3, [1.0] * 3), T.Normalize([0.50002] * 3, [1.0] * 3)),
        (T.Resize(8), T.Resize(8, interpolation=T.InterpolationMode.BICUBIC)),
        (nn.Sequential(T.Resize(8)), nn.Sequential(T.Resize(9))),
        (ResNet50_Weights.IMAGENET1K_V1.transforms(), ResNet50_Weights.IMAGENET1K_V2.transforms()),
        (preprocessing("crop=8,mean=half"), preprocessing("crop=9,mean=half")),
        (np.array([1.0]), np.array([1.0], dtype=np.float32)),
        ({"a": 1}, {"a": "1"}),
        (T.Lambda(lambda x: x + 1), T.Lambda(lambda x: x + 2)),
    ],
)
def test_what_differs_is_told_apart(one: object, other: object) -> None:
    notes: list[str] = []
    assert describe(one, notes) != describe(other, notes)
    assert describe(one) == describe(one)
    assert not notes


def test_equal_settings_are_equal() -> None:
    assert describe(closure(1.0)) == describe(closure(1.0))
    assert describe(Own(1.0)) == describe(Own(1.0))
    assert describe({"b": {1, 2}, "a": 0}) == describe({"a": 0, "b": {2, 1}})
    a, b = (w.transforms() for w in (ResNet18_Weights.IMAGENET1K_V1, ResNet50_Weights.IMAGENET1K_V1))
    assert describe(a) == describe(b)


def test_a_constant_that_a_function_uses_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    first = describe(uses_a_constant)
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 3.0)
    assert describe(uses_a_constant) != first


def test_an_installed_package_is_known_by_name_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a folder that this environment borrows, as by a path file or `pip install --target`."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "borrowed.py").write_text("calls = 0\ndef f(image):\n    return image, calls\n")
    (tmp_path / "own.py").write_text("calls = 0\ndef f(image):\n    return image, calls\n")
    import own  # type: ignore[import-not-found]

    before = describe(own.f)
    own.calls = 1
    assert describe(own.f) != before
    (tmp_path / "borrowed-1.0.dist-info").mkdir()
    describing._library_folders.cache_clear()
    import borrowed  # type: ignore[import-not-found]

    before = describe(borrowed.f)
    borrowed.calls = 1
    assert describe(borrowed.f) == before == "function borrowed.f"
    describing._library_folders.cache_clear()


def test_cycles_and_unpicklable_things_end() -> None:
    loop = Own(1.0)
    loop.self = loop  # type: ignore[attr-defined]
    assert "..." in describe(loop)
    notes: list[str] = []
    describe(Own(iter(()).__iter__), notes)  # type: ignore[arg-type]
    describe((i for i in range(3)), notes)
    assert notes == ["a builtins.generator is fingerprinted by its class only"]


@pytest.mark.slow
def test_the_same_in_another_process_with_other_hash_seeds(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def f(image):\n"
        "    return torch.ones(3, 8, 8) if image.mode in {'RGB', 'L', 'P'} else None\n"
        "class Net(torch.nn.Module):\n"
        "    kinds = {'a', 'b', 'c'}\n"
        "    def forward(self, x): return torch.relu(x).mean((2, 3))\n"
        "def build():\n"
        "    return Net(), f\n"
    )
    spec = f"module:{tmp_path}/mine.py:build"
    code = f"from contralens.models.targets import target; print(target({spec!r}, '.').fingerprint)"
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1
    assert len(found.pop().strip()) == 32


def test_a_module_that_was_imported_inside_a_function_is_known_by_name() -> None:
    def make(half: bool) -> Callable[[torch.Tensor], torch.Tensor]:
        import torch.nn.functional as functional

        return lambda x: functional.relu(x) / (2 if half else 1)

    assert describe(make(True)) == describe(make(True)) != describe(make(False))
    assert len(describe(make(True))) < 5000, "not the whole package"
