"""The vision tower of a vision-language model, and images as it takes them."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

TOWERS = ("vision_tower", "vision_model", "visual", "vision_encoder", "image_encoder", "vision_embed_tokens")
"""What models call the part that sees, the likeliest first."""
WHOLE = {"do_image_splitting": False, "crop_to_patches": False, "do_pan_and_scan": False, "split_image": False}
"""Settings of image processors with which one image stays one."""
SIDE = 448
"""Side of images for towers that take any size."""


def tower_of(network: nn.Module) -> tuple[str, nn.Module] | None:
    """The vision tower inside a network and its name there; None where there is none.

    >>> net = nn.ModuleDict({"vision_tower": nn.Conv2d(3, 8, 3), "language_model": nn.Linear(8, 8)})
    >>> tower_of(net)[0]
    'vision_tower'
    """
    for start in ("", "model."):
        for name in TOWERS:
            try:
                return start + name, network.get_submodule(start + name)
            except AttributeError:
                continue
    return None


def is_language_model(transformers: Any, config: Any) -> bool:
    """Whether a configuration is of a model that looks at images and writes text."""
    names = transformers.models.auto.modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return config.model_type in names and hasattr(config, "vision_config")


def with_small_text(config: Any) -> Any:
    """The configuration with one layer in its language model, which nobody here runs; as it was where that is not so
    simple."""
    small = copy.deepcopy(config)
    text = small.get_text_config()
    if text is small or not getattr(text, "num_hidden_layers", 0):
        return config
    text.num_hidden_layers = 1
    if isinstance(kinds := getattr(text, "layer_types", None), list):
        text.layer_types = kinds[:1]
    return small


class Packed(nn.Module):
    """A tower that takes the patches of all images in one sequence (Qwen-VL), as one that takes a batch of images.

    Its layers are the tower's own, under their own names.
    """

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        tower.eval()
        self.__dict__.update(_tower=tower, config=getattr(tower, "config", None))
        for name, child in tower.named_children():
            self.add_module(name, child)
        for name, parameter in tower.named_parameters(recurse=False):
            self.register_parameter(name, parameter)

    def forward(self, pixel_values: Tensor, image_grid_thw: Tensor) -> Any:
        """Patches (B,L,D) and grids (B,3) of images of one size."""
        tower: nn.Module = self.__dict__["_tower"]
        return tower(pixel_values.flatten(0, 1), image_grid_thw.reshape(-1, 3))

    @staticmethod
    def images_first(output: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """What a layer gives for all patches of a batch, (B*L,...), as (B,L,...)."""
        count = len(batch["pixel_values"])
        if output.dim() < 2 or output.shape[0] % count:
            return output
        return output.reshape(count, -1, *output.shape[1:])


class Joined(Packed):
    """A tower that joins the patches of all images to one sequence inside (Pixtral)."""

    def forward(self, pixel_values: Tensor) -> Any:  # type: ignore[override]
        """Images (B,3,H,W)."""
        return self.__dict__["_tower"](pixel_values)

    @staticmethod
    def images_first(output: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """What a layer gives for all patches of a batch, (1,B*L,N), as (B,L,N)."""
        count = len(batch["pixel_values"])
        if output.dim() != 3 or len(output) != 1 or output.shape[1] % count:
            return output
        return output.reshape(count, -1, output.shape[2])


def as_images(tower: nn.Module) -> nn.Module:
    """The tower, made to take images one by one where it takes or makes one sequence of the patches of all."""
    takes = inspect.signature(tower.forward).parameters
    return Packed(tower) if "grid_thw" in takes else Joined(tower) if "image_sizes" in takes else tower


class TowerPreprocess:
    """A transformers image processor as a function of one image, for a vision tower alone.

    `tower` is what `as_images` gives. An image is never cut into tiles. Where the processor keeps an image's shape, so
    that no two make a batch, images are resized to `side` x `side` first.
    """

    def __init__(self, processor: Any, tower: nn.Module, side: int | None) -> None:
        self.processor, self.side = processor, side
        known = inspect.signature(type(processor).preprocess).parameters
        valid = getattr(getattr(processor, "valid_kwargs", None), "__annotations__", {})
        self.options = {
            key: value for key, value in WHOLE.items() if key in known or key in valid or hasattr(processor, key)
        }
        self.names = tuple(inspect.signature(tower.forward).parameters)

    def __call__(self, image: Any) -> dict[str, Tensor]:
        """One RGB image to the tower's keyword arguments."""
        if self.side is not None:
            image = image.resize((self.side, self.side), 3)  # bicubic
        batch = self.processor(images=image, return_tensors="pt", **self.options)
        made = {name: value for name, value in batch.items() if isinstance(value, Tensor) and name in self.names}
        pixels = made["pixel_values"]
        if "image_grid_thw" in made:
            return {"pixel_values": pixels, "image_grid_thw": made["image_grid_thw"][0]}
        made = {name: value[0] for name, value in made.items()}
        while made["pixel_values"].dim() > 3:  # the whole image comes before its tiles
            made["pixel_values"] = made["pixel_values"][0]
        return made


def images_for(processor: Any, tower: nn.Module, notes: list[str]) -> Callable[[Any], Any]:
    """The preprocessing of a tower, with a note where it is not the processor's alone."""
    from PIL import Image

    plain = TowerPreprocess(processor, tower, None)
    shapes = [
        {name: value.shape for name, value in plain(Image.new("RGB", size)).items()}
        for size in ((300, 200), (200, 330))
    ]
    if shapes[0] == shapes[1]:
        return plain
    side = getattr(getattr(tower, "config", None), "image_size", None)
    side = side[0] if isinstance(side, list | tuple) else side
    side = int(side) if side else SIDE
    notes.append(f"images are resized to {side} x {side} regardless of their shape, to form a batch")
    return TowerPreprocess(processor, tower, side)
