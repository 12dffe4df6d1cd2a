"""Relevance of neurons: against LRP by hand, gradients by autograd, captum and zennit-crp; and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

import contralens
from contralens.errors import InputError, MissingPackage
from contralens.models.determinism import noise, why_not_repeatable
from contralens.models.interventions import class_scores, scaled
from contralens.models.pixel_attribution import pixel_heat
from contralens.models.ranking import Ranking
from contralens.models.relevance import RelevanceTarget, ranked
from contralens.models.targets import target
from contralens.types import Target

PREPROCESS = "resize=12x12,mean=half"


class Net(nn.Module):
    """Two convolutions with biases, batch norm, an in-place ReLU, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2)
        self.act = nn.ReLU()
        self.second = nn.Conv2d(4, 5, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(5)
        self.again = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(self.norm(self.second(self.act(self.first(x)))))
        return self.head(self.pool(x).flatten(1))


class Residual(nn.Module):
    """A sum outside modules."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head((x + self.block(x).relu()).mean((2, 3)))


class Tokens(nn.Module):
    """A small transformer with a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.ModuleList([layer, nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)])
        self.head = nn.Linear(8, 5)

    def tokens(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).mT
        return self.blocks[0](torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1))

    def after(self, x: Tensor) -> Tensor:
        return self.head(self.blocks[1](x)[:, 0])

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.tokens(x))


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(3)
    net = kind().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, 0, 0.3)
    return net


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def shares(r: Tensor) -> Tensor:
    return r / r.abs().sum(1, keepdim=True)


def by_hand(net: Net, image: Tensor, layer: str, cls: int | None = None) -> Tensor:
    """LRP in float64 with plain loops: epsilon in the head, shares in the mean, positive parts in convolutions."""
    with torch.no_grad():
        scale = net.norm.weight / (net.norm.running_var + net.norm.eps).sqrt()
        w, b = (net.second.weight * scale[:, None, None, None]).double(), net.norm.bias - net.norm.running_mean * scale
        a1 = functional.relu(net.first.double()(image[None].double()))[0]
        a2 = functional.relu(functional.conv2d(a1[None], w, b.double(), padding=1))[0]
        net.first.float()
        pooled = a2.mean((1, 2))
        scores = net.head.weight.double() @ pooled + net.head.bias.double()
        c = int(scores.argmax()) if cls is None else cls
        r_pooled = [float(pooled[n] * net.head.weight[c, n] / scores[c] * scores[c]) for n in range(5)]
        r2 = torch.stack([a2[n] / (a2[n].sum() + 1e-12) * r_pooled[n] for n in range(5)])
        if layer == "again":
            return r2
        r1 = torch.zeros_like(a1)
        side = a1.shape[1]
        for n in range(5):
            for row in range(side):
                for column in range(side):
                    parts = {}
                    for m in range(4):
                        for dy in range(3):
                            for dx in range(3):
                                y, z = row + dy - 1, column + dx - 1
                                if 0 <= y < side and 0 <= z < side:
                                    parts[m, y, z] = float(a1[m, y, z] * w[n, m, dy, dx].clamp(min=0))
                    total = sum(parts.values()) + max(float(b[n]), 0.0)
                    for place, part in parts.items():
                        r1[place] += part / (total + 1e-12) * r2[n, row, column]
        return r1


@pytest.mark.parametrize("layer", ["again", "act"])
@pytest.mark.parametrize("cls", [None, 1])
def test_lrp_by_hand(x: Tensor, layer: str, cls: int | None) -> None:
    net = made(Net)
    how = "relevance:method=lrp" + ("" if cls is None else f",class={cls}")
    rows = ranked(target(net, layer, preprocess=PREPROCESS), how)(x)
    wanted = torch.stack([by_hand(net, image, layer, cls).sum((1, 2)) for image in x])
    assert torch.allclose(rows.double(), shares(wanted), atol=1e-4)
    assert (rows.abs().sum(1) - 1).abs().max() < 1e-5


def test_relevance_is_conserved_without_biases(x: Tensor) -> None:
    net = made(Net)
    for bias in (net.first.bias, net.norm.bias, net.norm.running_mean, net.head.bias):
        nn.init.zeros_(bias)
    score = net(x).amax(1)
    for layer in ("again", "second", "act"):
        one = ranked(target(net, layer, preprocess=PREPROCESS), "relevance:method=lrp")
        assert isinstance(one, RelevanceTarget)
        total = one.relevance(x).sum(1)
        assert torch.allclose(total, score, rtol=1e-3), layer


def test_what_is_hooked_before_a_batch_norm_is_the_same_neuron(x: Tensor) -> None:
    net = made(Net)
    rows = [
        ranked(target(net, layer, preprocess=PREPROCESS), "relevance:method=lrp")(x) for layer in ("second", "again")
    ]
    assert torch.allclose(*rows, atol=1e-5)


@pytest.mark.parametrize(("kind", "layer"), [(Net, "second"), (Net, "act"), (Tokens, "blocks.0"), (Residual, "block")])
def test_activation_times_gradient(x: Tensor, kind: type[nn.Module], layer: str) -> None:
    from captum.attr import LayerGradientXActivation

    net = made(kind)
    made_target = target(net, layer, preprocess=PREPROCESS)
    rows = ranked(made_target, "relevance:method=gradient")(x)
    cls = net(x).argmax(1)
    found = LayerGradientXActivation(net, net.get_submodule(layer)).attribute(x.requires_grad_(), target=cls).detach()
    wanted = found.sum(1) if found.dim() == 3 else found.sum((2, 3))
    assert torch.allclose(rows, shares(wanted), atol=1e-5)


def test_tokens_count_with_the_class_token(x: Tensor) -> None:
    net = made(Tokens)
    one = ranked(target(net, "blocks.0", preprocess=PREPROCESS), "relevance")
    tokens = net.tokens(x).detach().requires_grad_()
    (slope,) = torch.autograd.grad(net.after(tokens).amax(1).sum(), tokens)
    assert torch.allclose(one(x), shares((slope * tokens).sum(1)), atol=1e-5)
    assert any("LRP cannot be used" in note for note in one.notes)


def test_one_class_is_explained_on_every_image(x: Tensor) -> None:
    net = made(Net)
    rows = {c: ranked(target(net, "again", preprocess=PREPROCESS), f"relevance:class={c}")(x) for c in range(3)}
    predicted = ranked(target(net, "again", preprocess=PREPROCESS), "relevance")(x)
    for i, c in enumerate(net(x).argmax(1).tolist()):
        assert torch.allclose(predicted[i], rows[c][i], atol=1e-6)


@pytest.mark.parametrize("pooling", ["max", "cls", "pooled"])
@pytest.mark.parametrize("norm", ["none", "layer_norm", "constant_norm_rescale"])
def test_latents_add_what_switching_them_off_takes(x: Tensor, pooling: str, norm: str) -> None:
    """Where the score is linear in the layer, relevance is the fall of the score without the latent."""
    from dataclasses import replace

    from contralens.models.sae_target import sae

    net = made(Tokens)
    weights = torch.randn(8, 5, generator=torch.Generator().manual_seed(2))
    net.after = lambda tokens: tokens.sum(1) @ weights + 0.5 * tokens[:, 0] @ weights  # type: ignore[method-assign]
    layer = target(net, "blocks.0", preprocess=PREPROCESS, pooling="cls")
    random = torch.Generator().manual_seed(4)
    tensors = {"W_enc": torch.randn(8, 12, generator=random), "b_enc": torch.randn(12, generator=random),
               "W_dec": torch.randn(12, 8, generator=random), "b_dec": torch.randn(8, generator=random)}  # fmt: skip
    latents = sae(layer, tensors, pooling=pooling)
    latents.encode = replace(latents.encode, norm=norm, scale=0.7)
    latents.change = latents.encode.change
    before = class_scores(layer, x)
    best = before.argmax(1)
    falls = []
    for latent in range(12):
        with scaled(latents, latent, 0.0):
            falls.append((before - class_scores(layer, x)).gather(1, best[:, None])[:, 0])
    rows = ranked(latents, "relevance")(x)
    assert torch.allclose(rows, shares(torch.stack(falls, 1)), atol=1e-4)


def test_the_networks_that_lrp_takes() -> None:
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

    torch.manual_seed(0)
    for block in (BasicBlock, Bottleneck):
        net = ResNet(block, [1, 1, 1, 1], num_classes=4).eval()
        for layer in ("layer3", "layer4.0.conv1"):
            one = ranked(target(net, layer, preprocess="resize=32x32,mean=half"), "relevance")
            assert isinstance(one, RelevanceTarget)
            assert one.ranking.method == "lrp"
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    one = ranked(target(made(Residual), "block", preprocess=PREPROCESS), "relevance")
    assert isinstance(one, RelevanceTarget)
    assert one.ranking.method == "gradient"
    assert any("not conserved" in note for note in one.notes)
    with pytest.raises(
        InputError, match=r"cannot be explained by LRP: relevance is not conserved.*use method=gradient"
    ):
        ranked(target(made(Residual), "block", preprocess=PREPROCESS), "relevance:method=lrp")


def test_rows_are_a_function_of_the_image_and_the_fingerprint_says_how(x: Tensor) -> None:
    net = made(Net)
    plain = target(net, "act", preprocess=PREPROCESS)
    hows = ["relevance", "relevance:method=lrp", "relevance:method=gradient", "relevance:class=1"]
    found = [ranked(plain, how) for how in hows]
    assert len({plain.fingerprint, *(one.fingerprint for one in found)}) == 4  # the first two are the same
    for one in found:
        assert isinstance(one, Target)
        assert why_not_repeatable(noise(3), one.preprocess, lambda batch, one=one: [one(batch)]) is None
        assert torch.equal(one(x), one(x))
        assert ranked(one, "relevance") is one
    assert ranked(plain, "activation") is plain


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("gradient", '"relevance:method=gradient,class=3"; got'),
        (5, "got 5"),
        ("activation:class=1", "got 'activation:class=1'"),
        ("relevance:method=lpr", "did you mean method=lrp"),
        ("relevance:class=label", "use class=predicted"),
        ("relevance:class=dog", "class=NUMBER"),
        ("relevance:class=3", "has no class 3, only 0 to 2"),
    ],
)
def test_what_ranks_is_refused_in_one_line(how: object, says: str) -> None:
    with pytest.raises(InputError, match="rank_by") as e:
        ranked(target(made(Net), "act", preprocess=PREPROCESS), how)
    assert says in str(e.value)
    assert "\n" not in str(e.value)


def test_what_has_no_relevance_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from contralens.models.sae_target import sae

    net = made(Net)
    with pytest.raises(InputError, match=r"head gives the class scores themselves.*a layer before it"):
        ranked(target(net, "head", preprocess=PREPROCESS), "relevance")
    with pytest.raises(InputError, match="not one row of class scores"):
        ranked(target(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), "0", preprocess=PREPROCESS), "relevance")
    with pytest.raises(InputError, match="needs a network that contralens runs"):
        ranked(ColourTarget(), "relevance")
    layer = target(net, "act", preprocess=PREPROCESS)
    with pytest.raises(InputError, match=r"decoder's weights \(W_dec\)"):
        ranked(sae(layer, {"W_enc": torch.ones(4, 8), "b_enc": torch.zeros(8)}), "relevance")
    tensors = {"W_enc": torch.ones(4, 8), "b_enc": torch.zeros(8), "W_dec": torch.ones(8, 4)}
    with pytest.raises(InputError, match=r"pooled over places \(mean\)"):
        ranked(sae(layer, tensors, pooling="pooled"), "relevance")
    with pytest.raises(InputError, match="latents have no rule"):
        ranked(sae(layer, tensors), "relevance:method=lrp")
    monkeypatch.setitem(sys.modules, "zennit", None)
    with pytest.raises(MissingPackage, match=r"pip install 'contralens\[relevance\]'"):
        ranked(layer, "relevance")
    assert ranked(layer, "relevance:method=gradient").width == 4


class ColourTarget:
    """A target of one's own."""

    name, fingerprint, width, layer, pooling, neurons = "mine", "1" * 32, 2, "x", "none", ("a", "b")

    def preprocess(self, image: object) -> Tensor:
        return torch.zeros(3, 4, 4)

    def __call__(self, batch: Tensor) -> Tensor:
        return batch.mean((2, 3))[:, :2]


def test_ranking_reads_what_it_writes() -> None:
    for text in ("activation", "relevance:method=lrp,class=2", "relevance:method=auto,class=predicted"):
        assert str(Ranking.of(text)) == text


@pytest.mark.slow
def test_same_exemplars_as_zennit_crp(tmp_path: Path) -> None:
    """zennit-crp's FeatureVisualization, of which SemanticLens' RelevanceComponentVisualizer is a subclass."""
    from crp.attribution import CondAttribution
    from crp.concepts import ChannelConcept
    from crp.helper import load_maximization
    from crp.visualization import FeatureVisualization
    from zennit.composites import EpsilonPlusFlat
    from zennit.torchvision import ResNetCanonizer

    net = made(Net)
    images = torch.randn(30, 3, 12, 12, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        predicted = net(images).argmax(1)
    one = ranked(target(net, "second", preprocess=PREPROCESS), "relevance")
    relevance = torch.cat([one(images[i : i + 7]) for i in range(0, 30, 7)])
    with torch.no_grad():  # their activations are those of the network with its batch norms merged
        activation = shares(net.norm(net.second(net.act(net.first(images)))).sum((2, 3)))

    visual = FeatureVisualization(
        CondAttribution(made(Net)), TensorDataset(images, predicted), {"second": ChannelConcept()}, max_target="sum",
        abs_norm=True, path=str(tmp_path),
    )  # fmt: skip
    visual.run(EpsilonPlusFlat(canonizers=[ResNetCanonizer()]), 0, 30, batch_size=10)
    for kind, rows in (("RelMax", relevance), ("ActMax", activation)):
        order, values, _ = load_maximization(str(next(tmp_path.glob(f"{kind}*"))), "second")
        wanted = rows.sort(dim=0, descending=True, stable=True)
        np.testing.assert_allclose(values, wanted.values.numpy(), atol=1e-5)
        alone = np.abs(np.diff(values, axis=0, prepend=np.inf, append=-np.inf)) > 1e-5  # no ties, which go by chance
        alone = alone[:-1] & alone[1:]
        assert alone.mean() > 0.5
        assert (order == wanted.indices.numpy())[alone].all()


def test_where_on_the_pixels(x: Tensor) -> None:
    """Of a neuron that looks at one corner, the heat is in that corner; LRP hands down what CRP's masking does."""
    net = made(Net)
    for how in ("lrp", "gradient"):
        heat = pixel_heat(target(net, "act", preprocess=PREPROCESS, pooling="max"), how)
        found = heat(x, [[0, 3], [1], [2], [], [0]])
        assert [tuple(one.shape) for one in found] == [(2, 12, 12), (1, 12, 12), (1, 12, 12), (0, 12, 12), (1, 12, 12)]
        act = net.act(net.first(x)).detach()
        at = divmod(int(act[0, 3].argmax()), act.shape[-1])
        seen = torch.zeros(12, 12, dtype=torch.bool)
        seen[2 * at[0] : 2 * at[0] + 3, 2 * at[1] : 2 * at[1] + 3] = True  # a kernel of 3 with stride 2
        assert found[0][1][seen].sum() > 0
        assert found[0][1][~seen].abs().max() == 0
    flat = pixel_heat(target(net, "act", preprocess=PREPROCESS), "lrp")(x, [[0]] * 5)
    assert torch.allclose(
        torch.stack([one.sum() for one in flat]), functional.relu(net.first(x)).mean((2, 3))[:, 0], rtol=1e-3
    )
    tokens = made(Tokens)
    ours = pixel_heat(target(tokens, "blocks.0", preprocess=PREPROCESS, pooling="cls"))(x, [[6]] * 5)
    pixels = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(tokens.tokens(pixels)[:, 0, 6].sum(), pixels)
    assert torch.allclose(torch.cat(ours), (slope * x).abs().sum(1), atol=1e-6)
    ready = ranked(target(net, "act", preprocess=PREPROCESS), "relevance")
    assert pixel_heat(ready).method == "lrp"
    with pytest.raises(InputError, match="use crop=map"):
        pixel_heat(ready)({"pixel_values": x}, [[0]])


def test_maps_of_a_relevance_target_are_those_of_the_neurons() -> None:
    from contralens.models.activation_maps import maps

    plain = contralens.target("world:1", layer="block3")
    pictures = noise(2)
    ours = maps(ranked(plain, "relevance:method=gradient"), pictures, [[1], [2, 3]])
    wanted = maps(plain, pictures, [[1], [2, 3]])
    assert ours is not None
    assert wanted is not None
    assert all(np.array_equal(a, b) for a, b in zip(ours, wanted, strict=True))
