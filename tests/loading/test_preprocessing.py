"""Preprocessing spelled out by the user."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as T

from contralens.errors import InputError
from contralens.loading.preprocessing import STATISTICS, preprocessing


@pytest.mark.parametrize("size", [(90, 70), (70, 91), (300, 301), (33, 500), (64, 64)])
@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
def test_the_same_as_torchvision(size: tuple[int, int], kind: str) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    mean, std = STATISTICS["imagenet"]
    resize = T.Resize(64, T.InterpolationMode(kind))
    expected = T.Compose([resize, T.CenterCrop(56), T.ToTensor(), T.Normalize(mean, std)])(image)
    found = preprocessing(f"resize=64, crop=56, mean=imagenet, interpolation={kind}")
    assert torch.allclose(found(image), expected, atol=1e-6)
    assert pickle.loads(pickle.dumps(found)) == found


def test_a_dictionary_says_the_same_as_a_text() -> None:
    text = preprocessing("resize=48x32,mean=.5/.4/.3,std=.2/.2/.2")
    assert text == preprocessing({"resize": (48, 32), "mean": (0.5, 0.4, 0.3), "std": [0.2, 0.2, 0.2]})
    assert text(Image.new("RGB", (100, 10))).shape == (3, 32, 48)
    assert preprocessing({"crop": 8, "mean": "clip"}).std == STATISTICS["clip"][1]


def test_gray_bgr_and_0_to_255() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    rgb = preprocessing("crop=32,mean=none")(image)
    assert torch.equal(preprocessing("crop=32,mean=none,channels=bgr")(image), rgb.flip(0))
    assert torch.allclose(preprocessing("crop=32,mean=none,range=255")(image), rgb * 255, atol=1e-4)
    caffe = preprocessing("crop=32,mean=103.53/116.28/123.675,std=1/1/1,channels=bgr,range=255")(image)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    assert torch.allclose(caffe, ((rgb - mean) * 255).flip(0), atol=1e-3)
    named = preprocessing("crop=32,mean=imagenet,channels=bgr,range=255")(image)
    assert torch.allclose(named, preprocessing("crop=32,mean=imagenet")(image).flip(0), atol=1e-5)
    gray = preprocessing("crop=32,mean=.5,std=.25,channels=gray")(image)
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    assert gray.shape == (1, 32, 32)
    assert torch.allclose(gray, ((rgb * weights).sum(0, keepdim=True) - 0.5) / 0.25, atol=0.02)
    assert preprocessing({"crop": 8, "mean": "imagenet", "channels": "grey"}).mean == pytest.approx([0.449], abs=1e-6)
    assert pickle.loads(pickle.dumps(preprocessing("crop=8,mean=half,range=255"))) == preprocessing(
        "crop=8,mean=half,range=255"
    )
    assert preprocessing("crop=8,mean=half,channels=rgb,range=1") == preprocessing("crop=8,mean=half")


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("crop=8,mean=half,channels=hsv", "channels must be one of rgb, bgr, gray; got 'hsv'"),
        ("crop=8,mean=half,range=0", "range must be the value of white, such as 1 or 255; got '0'"),
        ("crop=8,mean=.5/.5/.5,std=1/1/1,channels=gray", "mean must be one of .*, or one number such as .5"),
        ("resize=8x8,maen=half", "unknown key 'maen'; did you mean mean"),
        ("224", "'224' is not KEY=VALUE"),
        ("crop=224", "must name a mean"),
        ("resize=224,mean=half", "a crop or a resize to WIDTHxHEIGHT"),
        ("crop=8,mean=.5/.5/.5", "needs a std"),
        ("crop=8,mean=.5/.5", "mean must be one of imagenet, clip, half, none, or three numbers"),
        ("crop=8,mean=half,std=1/0/1", "std must be"),
        ("crop=big,mean=half", "crop must be a number of pixels"),
        ("crop=-3,mean=half", "crop must be a number of pixels"),
        ("crop=8x8x8,mean=half", "crop must be a number of pixels"),
        ("crop=8,mean=half,interpolation=cubic", "interpolation must be one of"),
    ],
)
def test_mistakes_are_one_clear_line(spec: str, match: str) -> None:
    with pytest.raises(InputError, match=match) as e:
        preprocessing(spec)
    assert "\n" not in str(e.value)
