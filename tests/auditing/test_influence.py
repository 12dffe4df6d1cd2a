"""Head, gradient and ablation: equal where theory says so, and as a slow copy computes them elsewhere; pruning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coloured import ColourNet, to_pixels
from PIL import Image
from torch import Tensor, nn

import contralens
from contralens.auditing.influence import influence
from contralens.auditing.pruning import make_mask, mask_of
from contralens.errors import InputError
from contralens.models.heads import linear_head, named_head
from contralens.models.interventions import Variants, class_scores, gradient_times_activation
from contralens.models.targets import HookedTarget, target
from contralens.types import Exemplars


def noise(count: int, seed: int = 0) -> list[Image.Image]:
    random = np.random.default_rng(seed)
    return [Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(count)]


class Deep(nn.Module):
    """Maps, then a nonlinear head, with an in-place ReLU right after the layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 4, 3)
        self.layer = nn.Conv2d(4, 5, 3)
        self.after = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(5, 6, 3), nn.ReLU())
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(self.layer(self.first(x).relu())).mean((2, 3)))


class Around(nn.Module):
    """A residual connection around the layer, so that its output cannot be repeated alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.layer, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.head((x + self.layer(x)).relu().mean((2, 3)))


class Tokens(nn.Module):
    """A transformer block's tokens with a class token."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.patch = nn.Conv2d(3, 8, 8, 8)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 8))
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.mix = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).mT
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1)
        return self.head(self.mix(self.layer(tokens))[:, 0])


NETS: dict[str, tuple[type[nn.Module], str]] = {
    "linear": (ColourNet, "relu"), "deep": (Deep, "layer"), "around": (Around, "layer"), "tokens": (Tokens, "layer"),
}  # fmt: skip


def made(name: str) -> HookedTarget:
    kind, layer = NETS[name]
    return target(kind().eval(), layer, preprocess=to_pixels)


def slow_scores(t: HookedTarget, image: Image.Image, neuron: int | None) -> Tensor:
    """One image, one neuron set to 0 by hand."""
    module = dict(t.module.named_modules())[t.layer]

    def hook(m: Any, inputs: Any, output: Tensor) -> Tensor:
        output = output.clone()
        if neuron is not None and output.dim() == 4:
            output[:, neuron] = 0
        elif neuron is not None:
            output[..., neuron] = 0
        return output

    handle = module.register_forward_hook(hook)
    try:
        with torch.no_grad():
            return t.module(to_pixels(image)[None])[0]
    finally:
        handle.remove()


def exemplars_of(t: HookedTarget, pictures: list[Image.Image], k: int) -> Exemplars:
    rows = t(torch.stack([to_pixels(p) for p in pictures]))
    values, positives = rows.sort(dim=0, descending=True, stable=True)
    values, positives = values[:k].T.contiguous(), positives[:k].T.contiguous()
    return Exemplars(torch.arange(t.width), positives, values, positives * 0 - 1, values * torch.nan)


@pytest.mark.parametrize("name", NETS)
def test_ablation_is_that_of_one_image_and_neuron_at_a_time(name: str) -> None:
    t, pictures = made(name), noise(9)
    exemplars = exemplars_of(t, pictures, 4)
    found = influence(
        t, exemplars, lambda i: pictures[i], weight=None, chosen=range(t.width), images=3, batch_size=4
    )  # fmt: skip
    for neuron in range(t.width):
        images = exemplars.positives[neuron, :3].tolist()
        slow = torch.stack([slow_scores(t, pictures[i], None) - slow_scores(t, pictures[i], neuron) for i in images])
        assert torch.allclose(found.ablation[neuron], slow.mean(0).double(), atol=1e-5)
    assert found.images.tolist() == [3] * t.width
    assert bool(found.head.isnan().all())


def test_layers_are_repeated_alone_where_the_network_allows_it() -> None:
    batch = torch.stack([to_pixels(p) for p in noise(3)])
    assert {name: Variants(made(name), batch).shared for name in NETS} == {
        "linear": True, "deep": True, "around": False, "tokens": True
    }  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_gradient_times_activation_is_the_derivative_of_turning_the_neuron_down(name: str) -> None:
    t = made(name)
    t.module.double()
    batch = torch.stack([to_pixels(p) for p in noise(2)]).double()
    grads = gradient_times_activation(t, batch, [0, 1])
    assert all(p.grad is None for p in t.module.parameters())
    assert torch.is_grad_enabled()
    module = dict(t.module.named_modules())[t.layer]
    for neuron in range(t.width):
        sides = []
        for factor in (1 - 1e-4, 1 + 1e-4):
            with _scaled(module, neuron, factor):
                sides.append(t.module(batch).detach())
        slope = (sides[1] - sides[0]) / 2e-4
        assert torch.allclose(grads[:, :, neuron].double(), slope[:, :2].T, atol=1e-5), neuron


class _scaled:
    """A neuron times a factor, in float64 and outside the package."""

    def __init__(self, module: nn.Module, neuron: int, factor: float) -> None:
        self.args = module, neuron, factor

    def __enter__(self) -> None:
        module, neuron, factor = self.args

        def hook(m: Any, inputs: Any, output: Tensor) -> Tensor:
            scale = torch.ones(output.shape[1 if output.dim() == 4 else -1], dtype=output.dtype)
            scale[neuron] = factor
            return output * (scale.view(1, -1, 1, 1) if output.dim() == 4 else scale)

        self.handle = module.register_forward_hook(hook)

    def __exit__(self, *_: Any) -> None:
        self.handle.remove()


def test_head_gradient_and_ablation_are_equal_where_the_scores_are_linear_in_the_neurons() -> None:
    t, pictures = made("linear"), noise(20)
    weight = linear_head(t, torch.stack([to_pixels(p) for p in pictures[:4]]))
    assert weight is not None
    exemplars = exemplars_of(t, pictures, 6)
    found = influence(t, exemplars, lambda i: pictures[i], weight=weight, chosen=range(t.width), images=6)
    slow = t.module.head.weight.detach().T.double() * exemplars.activations.double().mean(1, keepdim=True)
    for name in ("head", "gradient", "ablation"):
        assert torch.allclose(getattr(found, name), slow, atol=1e-6), name
    for told in found.agreement().values():
        assert told["correlation"] == pytest.approx(1)
        assert told["largest difference"] < 1e-6


def test_many_neurons_with_a_linear_head_are_not_all_switched_off() -> None:
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Conv2d(3, 30, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(30, 3))
    t, pictures = target(wide.eval(), "1", preprocess=to_pixels), noise(20)
    weight, exemplars = wide[4].weight.detach(), exemplars_of(t, pictures, 4)
    asked: list[int] = []
    settings = {"weight": weight, "chosen": range(25), "images": 4}
    found = influence(t, exemplars, lambda i: asked.append(i) or pictures[i], exact=True, **settings)
    whole = influence(t, exemplars, lambda i: pictures[i], **settings)
    assert found.measured.sum() == 7
    assert whole.measured.sum() == 25
    for name in ("head", "gradient", "ablation"):
        assert torch.allclose(getattr(found, name), getattr(whole, name), atol=1e-6, equal_nan=True), name
    assert torch.equal(found.images, whole.images)
    assert found.agreement()["head, ablation"]["pairs"] == 7 * 3
    wrong = influence(t, exemplars, lambda i: pictures[i], exact=True, **(settings | {"weight": weight + 0.3}))
    assert wrong.measured.sum() == 25, "the head says something else, so that all are switched off"
    assert torch.allclose(wrong.ablation, whole.ablation, atol=1e-6, equal_nan=True)


def test_only_what_was_chosen_is_measured_and_images_that_are_gone_do_not_count() -> None:
    t, pictures = made("linear"), noise(8)
    exemplars = exemplars_of(t, pictures, 4)
    weight = t.module.head.weight.detach()
    gone = int(exemplars.positives[1, 0])
    found = influence(
        t, exemplars, lambda i: None if i == gone else pictures[i], weight=weight, chosen=[1], follow=[2], images=4
    )
    assert found.head.shape == (t.width, 1)
    assert found.images[1] == sum(i != gone for i in exemplars.positives[1].tolist())
    assert bool(found.ablation[0].isnan().all())
    assert torch.allclose(found.head[1], found.ablation[1], atol=1e-6)


def test_a_named_head_is_checked() -> None:
    t, batch = made("linear"), torch.stack([to_pixels(p) for p in noise(3)])
    weight, exact = named_head(t, "head", batch)
    assert exact
    assert torch.equal(weight, t.module.head.weight)
    for name, words in (("haed", "did you mean head"), ("conv", "no linear layer")):
        with pytest.raises(InputError, match=words):
            named_head(t, name, batch)
    deep = target(Deep().eval(), "first", preprocess=to_pixels)
    with pytest.raises(InputError, match="takes 6 numbers to 3, but first has 4 neurons"):
        named_head(deep, "head", batch)


# --- pruning ---


@pytest.mark.parametrize("name", NETS)
def test_pruning_is_a_factor_in_the_forward_and_gone_afterwards(name: str) -> None:
    t = made(name)
    batch = torch.stack([to_pixels(p) for p in noise(3)])
    before = class_scores(t, batch)
    keep = torch.linspace(0, 1, t.width)
    with contralens.pruned(t, keep) as inside:
        assert inside is t
        within = class_scores(t, batch)
        rows = t(batch)
    assert torch.equal(class_scores(t, batch), before)
    assert not torch.allclose(within, before)
    assert bool((rows[:, 0] == 0).all())
    plain = t.module
    with contralens.pruned(plain, keep.numpy(), layer=t.layer):
        assert torch.allclose(plain(batch).detach(), within, atol=1e-6)
    assert torch.equal(class_scores(t, batch), before)


def test_the_network_is_restored_after_an_error() -> None:
    t, batch = made("deep"), torch.stack([to_pixels(p) for p in noise(2)])
    before, hooks = class_scores(t, batch), sum(len(m._forward_hooks) for m in t.module.modules())
    with pytest.raises(KeyboardInterrupt), contralens.pruned(t, torch.zeros(t.width)):
        raise KeyboardInterrupt
    with pytest.raises(RuntimeError), contralens.pruned(t, torch.zeros(t.width)):
        t.module(torch.zeros(1, 1, 2, 2))
    assert torch.equal(class_scores(t, batch), before)
    assert sum(len(m._forward_hooks) for m in t.module.modules()) == hooks


def test_a_pruned_network_can_be_trained() -> None:
    net = Deep()
    batch = torch.stack([to_pixels(p) for p in noise(2)])
    keep = [1.0, 0.0, 1.0, 1.0, 1.0]
    with contralens.pruned(net, keep, layer="layer"):
        net(batch).sum().backward()
    assert net.layer.weight.grad is not None
    assert bool((net.layer.weight.grad[1] == 0).all())
    assert bool((net.layer.weight.grad[0] != 0).any())


def test_bad_masks_are_told(tmp_path: Path) -> None:
    t = made("linear")
    for keep, words in (
        ([1.0] * 5, "for 5 neurons, but relu has 6"), ([1.0] * 5 + [1.5], "in \\[0,1\\]"),
        ([1.0] * 5 + [float("nan")], "in \\[0,1\\]"), (torch.ones(6, 1), "one number"),
        (tmp_path / "none.safetensors", "no mask"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words), contralens.pruned(t, keep):
            pass
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="is not a mask"):
        mask_of(tmp_path / "bad.safetensors")
    with pytest.raises(InputError, match="did you mean relu"), contralens.pruned(ColourNet(), [1.0] * 6, layer="rel"):
        pass
    with pytest.raises(InputError, match="give a target"), contralens.pruned("resnet", [1.0]):
        pass
    net = ColourNet()
    with pytest.raises(InputError, match="belongs to another"), contralens.pruned(net, [1.0] * 5, layer="relu"):
        net(torch.zeros(1, 3, 8, 8))


def test_masks_hard_and_soft() -> None:
    neurons, spurious = torch.tensor([1, 3, 4, 6]), torch.tensor([True, True, False, True])
    z_expected, z_spurious = torch.tensor([-1.0, 2.0, 5.0, 1.0]), torch.tensor([3.0, 4.0, 1.0, float("nan")])
    hard = make_mask(7, neurons, spurious, z_expected, z_spurious, "hard")
    assert hard.tolist() == [1, 0, 1, 0, 1, 1, 0]
    soft = make_mask(7, neurons, spurious, z_expected, z_spurious, "soft")
    assert soft.tolist() == [1, 0, 1, 0.5, 1, 1, 0]
