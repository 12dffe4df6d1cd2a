"""Poolings, and how the right one is inferred."""

import pytest
import torch
from torch import nn

from contralens.errors import InputError
from contralens.models.pooling import POOLINGS, SHAPES, channels_last, choose, pool, prefix_of

NAN = float("nan")


def test_poolings_by_hand() -> None:
    maps = torch.tensor([[[[1.0, -4.0], [2.0, 3.0]], [[0.0, 0.0], [0.0, -1.0]]]])
    assert pool("mean", maps).tolist() == [[0.5, -0.25]]
    assert pool("max", maps).tolist() == [[3.0, 0.0]]
    last = maps.permute(0, 2, 3, 1)
    assert pool("mean_last", last).tolist() == [[0.5, -0.25]]
    assert pool("max_last", last).tolist() == [[3.0, 0.0]]
    tokens = torch.tensor([[[9.0, -9.0], [1.0, -5.0], [3.0, 2.0]]])
    assert pool("cls", tokens, 1).tolist() == [[9.0, -9.0]]
    assert pool("mean_patches", tokens, 1).tolist() == [[2.0, -1.5]]
    assert pool("max_patches", tokens, 1).tolist() == [[3.0, 2.0]]
    assert pool("max_abs_patches", tokens, 1).tolist() == [[3.0, 5.0]]
    assert pool("none", tokens[:, 0]).tolist() == [[9.0, -9.0]]


@pytest.mark.parametrize("name", POOLINGS)
def test_nan_is_never_hidden_and_half_precision_is_widened(name: str) -> None:
    shape = {"map": (2, 3, 3, 3), "tokens": (2, 4, 3), "row": (2, 3)}[POOLINGS[name].kind]
    x = torch.randn(shape).to(torch.bfloat16)
    assert pool(name, x).dtype == torch.float32
    x[1] = NAN
    rows = pool(name, x)
    assert rows.shape == (2, 3)
    assert rows[1].isnan().all()
    assert not rows[0].isnan().any()
    one = torch.zeros(shape)
    one[0].view(-1)[0] = NAN  # neuron 0 of image 0 in each layout, first place
    assert pool(name, one)[0, 0].isnan()


@pytest.mark.parametrize(
    ("shape", "module", "last", "guess"),
    [
        ((2, 512, 7, 7), nn.Identity(), False, False),
        ((2, 7, 7, 768), nn.Identity(), True, False),
        ((2, 7, 7, 768), nn.Sequential(), True, False),
        ((2, 16, 16, 16), nn.Conv2d(3, 16, 1), False, False),
        ((2, 16, 16, 16), nn.Linear(3, 16), True, False),
        ((2, 16, 16, 16), nn.ReLU(), False, True),
        ((2, 8, 16, 32), nn.LayerNorm(32), True, False),
        ((2, 8, 16, 32), nn.LayerNorm(8), False, False),
        ((2, 64, 1, 1), nn.AdaptiveAvgPool2d(1), False, False),
    ],
)
def test_layout_rule(shape: tuple[int, ...], module: nn.Module, last: bool, guess: bool) -> None:
    found, note = channels_last(shape, module)
    assert found is last
    assert (note is not None) is guess
    choice = choose(shape, module, module, pooling="max")
    assert choice.name == ("max_last" if last else "max")
    assert choice.width == shape[-1 if last else 1]
    assert bool(choice.notes) is guess
    forced = choose(shape, module, module, pooling="mean_last")
    assert (forced.name, forced.width, forced.notes) == ("mean_last", shape[-1], ())
    first = choose(shape, module, module, pooling="mean_first")
    assert (first.name, first.width, first.notes) == ("mean", shape[1], ())


def test_three_different_sizes_are_no_map_of_square_images() -> None:
    heads = (2, 3, 197, 64)
    with pytest.raises(InputError, match="three different sizes, so it is no map of square images"):
        choose(heads, nn.Identity(), nn.Identity())
    assert choose(heads, nn.Identity(), nn.Identity(), pooling="max_last").width == 64
    wide = choose(heads, nn.Identity(), nn.Identity(), square=False)
    assert (wide.name, len(wide.notes)) == ("mean", 1)


class Declares(nn.Module):
    """A network with the parameters that declare prefix tokens."""

    def __init__(self, **tokens: tuple[int, ...]) -> None:
        super().__init__()
        self.embeddings = nn.Module()
        for name, shape in tokens.items():
            setattr(self.embeddings, name, nn.Parameter(torch.zeros(shape)))


def test_prefix_tokens_are_read_from_names() -> None:
    assert prefix_of(nn.Linear(2, 2)) is None
    plain = prefix_of(Declares(cls_token=(1, 1, 4)))
    assert plain is not None
    assert (plain.count, plain.has_class, plain.reads_class) == (1, True, True)
    dino = prefix_of(Declares(cls_token=(1, 1, 4), register_tokens=(1, 4, 4), mask_token=(1, 4)))
    assert dino is not None
    assert dino.count == 5
    clip = prefix_of(Declares(class_embedding=(4,)))
    assert clip is not None
    assert clip.count == 1
    registers = prefix_of(Declares(reg_token=(1, 4, 4)))
    assert registers is not None
    assert (registers.count, registers.has_class) == (4, False)


def test_token_poolings_inferred_and_refused() -> None:
    layer, cls = nn.Identity(), Declares(cls_token=(1, 1, 4), register_tokens=(1, 4, 4))
    assert choose((2, 21, 8), layer, cls).name == "cls"
    assert choose((2, 21, 8), layer, cls, pooling="max_patches").prefix == 5
    assert choose((2, 16, 8), layer, cls).name == "mean_patches", "before the class token joins"
    assert choose((2, 5 + 15, 8), layer, cls, square=False).prefix == 5
    registers = Declares(reg_token=(1, 4, 4))
    assert choose((2, 20, 8), layer, registers).name == "mean_patches"
    with pytest.raises(InputError, match="needs a class token"):
        choose((2, 20, 8), layer, registers, pooling="cls")
    with pytest.raises(InputError, match="unclear which are patches"):
        choose((2, 23, 8), layer, nn.Identity())
    assert choose((2, 23, 8), layer, nn.Identity(), pooling="cls").name == "cls"
    with pytest.raises(InputError, match="from 0 to 22"):
        choose((2, 23, 8), layer, nn.Identity(), prefix_tokens=23)
    averaging = Declares(cls_token=(1, 1, 4))
    averaging.global_pool = "avg"  # type: ignore[assignment]
    assert choose((2, 17, 8), layer, averaging).name == "mean_patches"
    assert choose((2, 17, 8), layer, averaging, pooling="cls").name == "cls"


@pytest.mark.parametrize(
    ("shape", "pooling", "match"),
    [
        (
            (2, 8, 7, 7),
            "cls",
            r"is for tokens \(B,L,N\), but the layer gives a conv map .* \(8, 7, 7\) per image: use mean",
        ),
        ((2, 17, 8), "mean", r"use cls, mean_patches, max_patches, max_abs_patches"),
        ((2, 8), "max", r"gives one row per image \(B,N\) of shape \(8,\) per image: use none"),
        ((2, 8, 2, 7, 7), None, "gives 5-dimensional output"),
        ((2, 8), "maxx", "unknown pooling 'maxx'; did you mean max"),
    ],
)
def test_a_pooling_that_does_not_fit_is_one_clear_error(shape: tuple[int, ...], pooling: str, match: str) -> None:
    with pytest.raises(InputError, match=match):
        choose(shape, nn.Identity(), nn.Identity(), pooling=pooling)


def test_every_pooling_says_what_it_does() -> None:
    assert all(p.says and p.kind in SHAPES for p in POOLINGS.values())
