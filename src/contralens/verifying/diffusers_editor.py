"""Editors that generate: pipelines of diffusers that follow an instruction, fill in a region, or redraw a picture."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from contralens.checks import first_line, require, unavailable
from contralens.data.atomic_files import digest
from contralens.encoders import diffusion
from contralens.encoders.diffusion import is_blank
from contralens.encoders.registry import usable_device
from contralens.errors import InputError, ModelUnavailable
from contralens.fingerprint.network import network_digest
from contralens.models.activation_maps import Place
from contralens.specs import NUMBER, TEXT, WHOLE, options, scheme, tail, word
from contralens.verifying.editors import Bench, Request
from contralens.verifying.image_editors import FIRES, NO_REGION

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class Mode:
    """One way in which pipelines edit."""

    loader: str
    """The class of diffusers that loads it."""
    remove: str
    """Prompt for taking a concept out."""
    insert: str
    avoid: str = ""
    """Negative prompt for taking it out."""


MODES = {
    "instruct": Mode("DiffusionPipeline", "remove the {concept}", "add {concept}"),
    "inpaint": Mode("AutoPipelineForInpainting", "background", "{concept}", "{concept}"),
    "image": Mode("AutoPipelineForImage2Image", "photo", "photo of {concept}", "{concept}"),
}
INSTRUCTED = ("InstructPix2Pix", "Kontext", "Edit", "Flux2")
"""What the names of pipelines that follow an instruction contain."""
KINDS = {
    "mode": word(*MODES), "steps": WHOLE, "guidance": NUMBER, "image_guidance": NUMBER, "strength": NUMBER,
    "size": WHOLE, "mask": TEXT, "remove": TEXT, "insert": TEXT,
}  # fmt: skip
ARGUMENTS = {
    "steps": "num_inference_steps", "guidance": "guidance_scale", "image_guidance": "image_guidance_scale",
    "strength": "strength",
}  # fmt: skip
SEEN = 0.3
"""Probability from which a segmenter counts as seeing a concept; where it sees none, the activation map says where."""
SIDE = 512
"""Short side of the pictures that a pipeline gets if neither it nor the user says."""


class Diffusers:
    """A pipeline of diffusers edits the picture, with one seeded generator for each edit.

    - "instruct" (InstructPix2Pix, FLUX Kontext, Qwen-Image-Edit): follows "remove the zebra", "add zebra".
    - "inpaint": paints the region again where the neuron fires: without the concept, or in the contrast with it. What
      is outside stays as it was, pixel by pixel. The control of a removal is another concept in the region where the
      neuron fires least; that of an insertion another concept in the same region.
    - "image": draws the whole picture again (image to image).

    Args:
        model: a hub id or a folder with model_index.json; only safetensors are read.
        mode: one of `MODES`; by default what the pipeline's class is for, inpainting first.
        size: short side in pixels of what the pipeline gets; by default what it was trained on.
        mask: "map", the neuron's activation map, or "clipseg:ID_OR_FOLDER", a segmenter asked for the concept.
        prompts: "remove" and "insert", with {concept} where the concept goes.
        steps, guidance, image_guidance, strength: as the pipeline takes them.

    Raises:
        InputError: an option that the pipeline does not take.
        ModelUnavailable: a model that cannot be loaded.
        MissingPackage: diffusers or what the model needs is not installed.
    """

    by_region, exact, generative = False, False, True

    def __init__(
        self, model: str, bench: Bench, mode: str | None = None, size: int | None = None, mask: str = "map",
        prompts: Mapping[str, str] | None = None, **given: float,
    ) -> None:  # fmt: skip
        self.bench = bench
        self.mode, self._pipeline = _loaded(model, bench.reopened.device, mode)
        self._takes = set(inspect.signature(self._pipeline.__call__).parameters)
        self._options = {ARGUMENTS[key]: value for key, value in given.items()}
        if bad := [key for key in given if ARGUMENTS[key] not in self._takes]:
            known = ", ".join(key for key, argument in ARGUMENTS.items() if argument in self._takes)
            raise InputError(f"the pipeline of diffusers:{model} has no option {bad[0]}; it takes {known or 'none'}")
        way = MODES[self.mode]
        self.prompts = {"remove": way.remove, "insert": way.insert, **(prompts or {})}
        if bare := [kind for kind, text in self.prompts.items() if kind in (prompts or {}) and "{concept}" not in text]:
            raise InputError(f"diffusers:{model}: {bare[0]} must say where the concept goes: {{concept}}")
        self.name = f"diffusers:{Path(model).name if os.path.isdir(model) else model}, {self.mode}"
        self.size, self._multiple = size or _side(self._pipeline), _multiple(self._pipeline)
        self._segmenter = _segmenter(mask, bench.reopened.device)
        self.fingerprint = digest(
            "diffusers-1", self.mode, type(self._pipeline).__name__, repr(dict(diffusion.parts_of(self._pipeline))),
            repr(sorted(self._options.items())), repr(self.prompts), str(self.size), version("diffusers"),
            str(self._pipeline.dtype), bench.reopened.run.manifest["target"]["fingerprint"],
            "map" if self._segmenter is None else self._segmenter.fingerprint,
        )  # fmt: skip

    @torch.no_grad()
    def edit(self, request: Request) -> Image | str:
        base = self.bench.picture(request.image)
        if base is None:
            return "the picture is missing"
        mask = self._mask(request) if self.mode == "inpaint" else None
        if isinstance(mask, str):
            return mask
        small = base.resize(self._fit(base.size))
        seed = digest(str(request.seed), self.bench.reopened.probe[request.image], request.kind)
        asked: dict[str, Any] = {
            "image": small, "prompt": self.prompts[request.kind].format(concept=request.concept),
            "generator": torch.Generator("cpu").manual_seed(int(seed[:12], 16)),
            "width": small.width, "height": small.height,
        }  # fmt: skip
        if request.kind == "remove":
            asked["negative_prompt"] = MODES[self.mode].avoid.format(concept=request.concept)
        if mask is not None:
            asked["mask_image"] = mask.resize(small.size)
        made = self._pipeline(**{key: v for key, v in asked.items() if key in self._takes}, **self._options)
        if any(getattr(made, "nsfw_content_detected", None) or ()):
            return "the pipeline's safety filter removed it"
        image: Image = made.images[0].convert("RGB")
        if is_blank(image):
            return "the pipeline gave a picture of one colour"
        image = image.resize(base.size)
        if mask is None:
            return image
        from PIL import Image as pictures

        return pictures.composite(image, base, mask.resize(base.size))

    def _mask(self, request: Request) -> Image | str:
        """Where to paint: where the neuron fires, or the concept is, on the pair's positive; also in its contrast."""
        positive = request.image if request.kind == "remove" else request.partner
        shown, place = self.bench.picture(positive), self.bench.where(positive, request.neuron)
        if shown is None or place is None:
            return "a picture of the pair is missing"
        if self._segmenter is not None:
            seen = self._segmenter.where(shown, request.concept)
            if seen[0].max() >= SEEN:
                return mask(seen, shown.size) or NO_REGION
        return mask(place, shown.size, low=request.control and request.kind == "remove") or NO_REGION

    def _fit(self, size: tuple[int, int]) -> tuple[int, int]:
        scale = self.size / min(size)
        width, height = (max(1, round(side * scale / self._multiple)) * self._multiple for side in size)
        return width, height


class ClipSeg:
    """Where a concept is on an image, by CLIPSeg (Lüddecke & Ecker 2022) from transformers."""

    def __init__(self, model: str, device: str) -> None:
        transformers = require("transformers", "generate")
        only = diffusion.only_local(model)
        try:
            self._read = transformers.CLIPSegProcessor.from_pretrained(model, **only)
            net = transformers.CLIPSegForImageSegmentation.from_pretrained(model, use_safetensors=True, **only)
        except (OSError, ValueError, ImportError) as e:
            raise unavailable(f"transformers cannot load the segmenter {model!r} ({first_line(e)})", e) from e
        self._device = usable_device(device)
        self._net = net.eval().to(self._device)
        self.fingerprint = network_digest(self._net)

    @torch.no_grad()
    def where(self, image: Image, concept: str) -> Place:
        """Probability (H,W) that the concept is there, and the part of the image that it covers."""
        batch = self._read(text=[concept], images=[image], padding=True, return_tensors="pt").to(self._device)
        logits = self._net(**batch).logits.float().cpu()
        values = logits.reshape(logits.shape[-2:]).sigmoid().numpy()
        return np.asarray(values, np.float32), (0.0, 0.0, float(image.width), float(image.height))


def mask(place: Place, size: tuple[int, int], low: bool = False) -> Image | None:
    """Where a map is high, as a mask of an image of this size (width, height) with a soft edge; None for a flat map.

    Args:
        place: a map (H,W), and the part of the image that it covers.
        size: of the image.
        low: as many places where the map is lowest.

    >>> values = np.zeros((4, 4), np.float32)
    >>> values[1, 2] = 1.0
    >>> found = mask((values, (0.0, 0.0, 80.0, 80.0)), (80, 80))
    >>> found.getpixel((50, 30)), found.getpixel((10, 70))
    (255, 0)
    """
    from PIL import Image, ImageFilter

    values, part = place
    middle, most = float(np.median(values)), float(values.max())
    if not most > middle:
        return None
    high = values >= middle + FIRES * (most - middle)
    if low:
        order = values.argsort(axis=None, kind="stable")
        high = np.isin(np.arange(values.size), order[: high.sum()]).reshape(values.shape)
    left, top, right, bottom = (round(v) for v in part)
    cells = Image.fromarray((255 * high).astype(np.uint8)).resize((max(1, right - left), max(1, bottom - top)), 0)
    whole = Image.new("L", size, 0)
    whole.paste(cells, (left, top))
    return whole.filter(ImageFilter.GaussianBlur(max(1.0, min(size) / 40)))


def diffusers(rest: str, bench: Bench) -> Diffusers:
    """From "ID_OR_FOLDER@steps=20,guidance=7.5,...".

    Raises:
        InputError: no model, or an option that there is not.
    """
    model, text = tail(rest, "@")
    given = options(text, KINDS, f"the editor diffusers:{model}")
    if not model:
        raise InputError(
            "the editor is written as diffusers:ID_OR_FOLDER, e.g. diffusers:timbrooks/instruct-pix2pix@steps=20"
        )
    prompts: dict[str, str] = {kind: given.pop(kind) for kind in ("remove", "insert") if kind in given}
    return Diffusers(model, bench, prompts=prompts, **given)


def _loaded(model: str, device: str, mode: str | None) -> tuple[str, Any]:
    """The way a pipeline edits, and the pipeline."""
    if mode is None:
        name = diffusion.class_of(model)
        if "Inpaint" not in name and any(part in name for part in INSTRUCTED):
            mode = "instruct"
    wanted = [mode] if mode else ["inpaint", "image"]
    for way in wanted:
        try:
            return way, diffusion.pipeline(MODES[way].loader, model, device, safetensors=True)
        except ModelUnavailable:
            if way == wanted[-1]:
                raise
    raise AssertionError


def _multiple(pipeline: Any) -> int:
    """What the sides of pictures have to be multiples of."""
    return 2 * int(getattr(pipeline, "vae_scale_factor", 8))


def _side(pipeline: Any) -> int:
    """The side of the pictures that a pipeline was trained on, or 512."""
    net = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    latent = getattr(getattr(net, "config", None), "sample_size", None)
    return int(latent) * int(getattr(pipeline, "vae_scale_factor", 8)) if isinstance(latent, int) else SIDE


def _segmenter(mask: str, device: str) -> ClipSeg | None:
    if mask == "map":
        return None
    kind, model = scheme(mask)
    if kind != "clipseg" or not model:
        raise InputError(f"`mask` of the editor diffusers is map or clipseg:ID_OR_FOLDER; got {mask!r}")
    return ClipSeg(model, device)
