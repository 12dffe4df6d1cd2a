"""The hook, the probe and `target` on networks of one's own."""

import pickle

import numpy as np
import pytest
import torch
from by_hook import by_hook
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from contralens import types
from contralens.errors import InputError
from contralens.models.targets import TARGETS, layers, target

PREPROCESS = "resize=32x32,mean=half"


class Net(nn.Module):
    """A conv net with an in-place ReLU right after each layer and one ReLU that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.block = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(inplace=True))
        self.unused = nn.Linear(2, 2)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.norm(self.conv(x)))
        x = self.relu(self.block(x))
        return self.head(self.drop(x.mean((2, 3))))


class Tokens(nn.Module):
    """Gives whatever tokens it is told to."""

    def __init__(self, length: int, width: int = 6) -> None:
        super().__init__()
        self.length, self.width = length, width
        self.inner = nn.Linear(3, length * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x.mean((2, 3))).reshape(len(x), self.length, self.width)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(1)
    made = Net()
    made.norm.running_mean.normal_()
    return made.eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("layer", "pooling"), [("conv", "mean"), ("norm", "mean"), ("block", "max"), ("block.0", "mean")]
)
def test_activations_equal_a_manual_hook(net: Net, x: torch.Tensor, layer: str, pooling: str) -> None:
    t = target(net, layer, pooling=pooling, preprocess=PREPROCESS)
    out = by_hook(net, layer, x)
    expected = out.mean((2, 3)) if pooling == "mean" else out.flatten(2).max(2).values
    assert torch.equal(t(x), expected)
    assert (t(x) < 0).any() or layer == "block", "the in-place ReLU after the layer must not be seen"
    assert isinstance(t, types.Target)
    assert t.neurons[3] == f"{layer}/3"


def test_rows_of_a_linear_and_of_the_whole_network(net: Net, x: torch.Tensor) -> None:
    head, whole = target(net, "head", preprocess=PREPROCESS), target(net, ".", preprocess=PREPROCESS)
    with torch.no_grad():
        assert torch.equal(head(x), net(x))
    assert torch.equal(head(x), whole(x))
    assert (head.pooling, whole.neurons[0], head.neurons[0]) == ("none", "output/0", "head/0")
    assert head.fingerprint != whole.fingerprint


def test_nothing_is_left_behind(net: Net, x: torch.Tensor) -> None:
    net.train()
    net.norm.eval()
    before = {name: m.training for name, m in net.named_modules()}
    state = {k: v.clone() for k, v in net.state_dict().items()}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        expected = net(x)
    t = target(net, "conv", preprocess=PREPROCESS)
    rows = t(x)
    layers(t)
    assert rows.dtype == torch.float32
    assert not rows.requires_grad
    assert {name: m.training for name, m in net.named_modules()} == before
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert not any(m._forward_hooks for m in net.modules())
    with torch.random.fork_rng():
        torch.manual_seed(3)
        assert torch.equal(net(x), expected)
    net.zero_grad()
    net.conv(x).sum().backward()
    assert net.conv.weight.grad is not None


def test_hooks_are_removed_when_the_forward_fails(net: Net) -> None:
    t = target(net, "head", preprocess=PREPROCESS)
    with pytest.raises(RuntimeError):
        t(torch.zeros(1, 5, 8, 8))
    assert not any(m._forward_hooks for m in net.modules())


def test_the_forward_stops_at_the_layer(net: Net, x: torch.Tensor) -> None:
    t = target(net, "conv", preprocess=PREPROCESS)
    ran = []
    net.head.register_forward_hook(lambda *a: ran.append(1))
    t(x)
    assert not ran


def test_a_network_that_catches_exceptions_is_stopped_too(x: torch.Tensor) -> None:
    class Careful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Flatten(), nn.Linear(3 * 32 * 32, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            try:
                x = self.a(x)
            except Exception:
                x = torch.zeros(0)
            return self.b(x)

    assert target(Careful(), "a", preprocess=PREPROCESS)(x).shape == (4, 3072)


def test_a_layer_that_runs_twice_or_never_is_refused(net: Net) -> None:
    with pytest.raises(InputError, match="relu runs 2 times in one forward"):
        target(net, "relu", preprocess=PREPROCESS)
    with pytest.raises(InputError, match="unused is not run"):
        target(net, "unused", preprocess=PREPROCESS)


def test_errors_name_what_to_do(net: Net) -> None:
    with pytest.raises(InputError, match=r"no layer 'blok'; did you mean block"):
        target(net, "blok", preprocess=PREPROCESS)
    with pytest.raises(InputError, match=r"needs a layer, such as .*block, block.1.*head"):
        target(net, preprocess=PREPROCESS)
    with pytest.raises(InputError, match="Net needs a preprocess: give a function"):
        target(net, "conv")
    with pytest.raises(InputError, match="did you mean torchvision"):
        target("torchvison:resnet18", "fc")
    with pytest.raises(InputError, match="must be SCHEME:NAME, such as torchvision:resnet18"):
        target("resnet18", "fc")
    with pytest.raises(InputError, match="load them into your module yourself"):
        target(net, "conv", preprocess=PREPROCESS, weights="random")
    with pytest.raises(TypeError, match="a target is a text"):
        target(3, "conv")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="device 'cuda:77' cannot be used"):
        target(net, "conv", preprocess=PREPROCESS, device="cuda:77")
    with pytest.raises(InputError, match="dtype must be one of float32, onednn, bf16"):
        target(net, "conv", preprocess=PREPROCESS, dtype="int8")
    with pytest.raises(InputError, match="8 names, one per neuron of conv; got 2"):
        target(net, "conv", preprocess=PREPROCESS, neurons=["a", "b"])
    assert list(target(net, "head", preprocess=PREPROCESS, neurons=list("abcde")).neurons) == list("abcde")


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda image: image, "preprocess returned Image"),
        (lambda image: torch.zeros(1, 3, 8, 8), "of shape \\(1, 3, 8, 8\\)"),
        (lambda image: torch.zeros(3, 8, 8, dtype=torch.uint8), "uint8"),
        (lambda image: 1 / 0, "preprocess failed \\(ZeroDivisionError"),
        (lambda image: torch.zeros(4, 8, 8), "the network failed on two preprocessed images of shape \\(4, 8, 8\\)"),
    ],
)
def test_wrong_preprocessing_is_one_clear_error(net: Net, function: object, match: str) -> None:
    with pytest.raises(InputError, match=match):
        target(net, "conv", preprocess=function)  # type: ignore[arg-type]


def test_tuples_dicts_and_nested_outputs_give_their_first_tensor(x: torch.Tensor) -> None:
    class Inner(nn.Module):
        def forward(self, x: torch.Tensor) -> object:
            return {"mask": x > 0, "rest": (None, [x.mean((2, 3)), x])}

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            return self.inner(pixel_values)["rest"][1][0]

    def as_dict(image: object) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.ones(3, 32, 32)}

    t = target(Outer(), "inner", preprocess=as_dict)
    assert torch.equal(t({"pixel_values": x}), x.mean((2, 3)))


def test_an_output_without_the_batch_in_front_is_refused() -> None:
    class Windows(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(-1, 16)

    with pytest.raises(InputError, match="its first size is not the batch"):
        target(nn.Sequential(Windows()), "0", preprocess=PREPROCESS)


def test_nan_in_an_image_stays_nan(net: Net, x: torch.Tensor) -> None:
    x = x.clone()
    x[1, 0, 5, 5] = float("nan")
    for pooling in ("mean", "max"):
        rows = target(net, "conv", pooling=pooling, preprocess=PREPROCESS)(x)
        assert rows[1].isnan().all()
        assert not rows[[0, 2, 3]].isnan().any()


def test_bf16_is_close_and_has_another_fingerprint(net: Net, x: torch.Tensor) -> None:
    full, half = (target(net, "block", preprocess=PREPROCESS, dtype=d) for d in ("float32", "bf16"))
    assert half(x).dtype == torch.float32
    assert torch.allclose(half(x), full(x), atol=0.02)
    assert not torch.equal(half(x), full(x))
    assert half.fingerprint != full.fingerprint


def test_layers_lists_what_target_uses(net: Net) -> None:
    found = {row.name: row for row in layers(net, preprocess=PREPROCESS)}
    assert list(found)[-1] == "."
    assert found["conv"].shape == (8, 15, 15)
    assert (found["conv"].neurons, found["conv"].pooling, found["conv"].type) == (8, "mean", "Conv2d")
    assert (found["relu"].calls, found["relu"].pooling) == (2, None)
    assert "runs 2 times" in found["relu"].note
    assert found["unused"].note == "not run by the forward"
    for name, row in found.items():
        if row.pooling is None:
            continue
        t = target(net, name, preprocess=PREPROCESS)
        assert (t.width, t.pooling) == (row.neurons, row.pooling)


@pytest.mark.parametrize(("length", "pooling", "prefix"), [(16, "mean_patches", 0), (17, "cls", 1)])
def test_tokens_of_an_unknown_network(length: int, pooling: str, prefix: int, x: torch.Tensor) -> None:
    t = target(Tokens(length), ".", preprocess=PREPROCESS)
    assert (t.pooling, t.prefix_tokens, t.width) == (pooling, prefix, 6)
    if prefix:
        with torch.no_grad():
            assert torch.equal(t(x), t.module(x)[:, 0])


def test_tokens_that_cannot_be_told_apart_are_asked_about(x: torch.Tensor) -> None:
    net = Tokens(20)
    with pytest.raises(InputError, match="prefix_tokens=0"):
        target(net, ".", preprocess=PREPROCESS)
    t = target(net, ".", preprocess=PREPROCESS, pooling="mean_patches", prefix_tokens=4)
    with torch.no_grad():
        assert torch.allclose(t(x), net(x)[:, 4:].mean(1))
    assert t.fingerprint != target(net, ".", preprocess=PREPROCESS, pooling="mean_patches", prefix_tokens=3).fingerprint


def test_a_transformer_encoder_on_torchs_fast_path(x: torch.Tensor) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 16, 8, 8)
            block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
            self.encoder = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.encoder(self.patch(x).flatten(2).mT)

    net = Net().eval()
    t = target(net, "encoder.layers.0.linear1", preprocess=PREPROCESS)
    assert torch.allclose(t(x), by_hook(net, "encoder.layers.0.linear1", x).mean(1))


class Noise(Dataset[torch.Tensor]):
    """Four images through a target's preprocessing."""

    def __init__(self, preprocess: object) -> None:
        self.preprocess = preprocess

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> torch.Tensor:
        pixels = np.random.default_rng(i).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        return self.preprocess(Image.fromarray(pixels))


def test_preprocess_works_in_workers_and_a_target_pickles(net: Net) -> None:
    t = target(net, "conv", preprocess=PREPROCESS)
    here = torch.stack([Noise(t.preprocess)[i] for i in range(4)])
    there = next(iter(DataLoader(Noise(t.preprocess), batch_size=4, num_workers=1)))
    assert torch.equal(here, there)
    again = pickle.loads(pickle.dumps(t))
    assert torch.equal(again(here), t(here))
    assert again.fingerprint == t.fingerprint


def test_an_own_module_stays_where_it_is_and_as_it_is(net: Net) -> None:
    target(net.double(), "conv", preprocess=lambda image: torch.zeros(3, 32, 32, dtype=torch.float64))
    assert net.conv.weight.dtype == torch.float64
    assert net.conv.weight.is_contiguous()


def test_a_target_is_passed_through(net: Net) -> None:
    t = target(net, "conv", preprocess=PREPROCESS)
    assert target(t) is t


def test_every_loader_says_what_it_is() -> None:
    assert {"torchvision", "timm", "hf", "module", "world", "offline"} <= set(TARGETS)
    assert all(loader.__doc__ for loader in TARGETS.values())
