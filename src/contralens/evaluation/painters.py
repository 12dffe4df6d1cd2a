"""Painters: models that make images from a prompt, made by `painter("scheme:model")`.

`PAINTERS` maps a scheme to what loads it. A painter makes one image per seed, from a random generator of its own, so
that an image depends on its prompt and seed and not on how many others were asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch

from contralens.encoders.diffusion import is_blank, parts_of, pipeline
from contralens.encoders.registry import digest
from contralens.errors import InputError
from contralens.plugs import Registry

if TYPE_CHECKING:
    from PIL.Image import Image

BATCH = 4
"""Images made at once."""


@runtime_checkable
class Painter(Protocol):
    """Prompts to images.

    >>> from PIL.Image import new
    >>> class Grey:
    ...     name, fingerprint = "grey", "0" * 32
    ...     def paint(self, prompt, seeds):
    ...         return ["filtered" if seed < 0 else new("RGB", (64, 64), (seed, seed, seed)) for seed in seeds]
    >>> isinstance(Grey(), Painter), Grey().paint("a zebra", [7])[0].size
    (True, (64, 64))
    """

    name: str
    fingerprint: str
    """32 hex digits: hash of all that an image depends on besides prompt and seed."""

    def paint(self, prompt: str, seeds: Sequence[int]) -> list[Image | str]:
        """One RGB image per seed, or the reason why there is none: "filtered" or "blank"."""
        ...


@dataclass(frozen=True, slots=True)
class Preset:
    """A published setting."""

    painter: str
    count: int
    """Images per label, G."""
    prompt: str
    control: int | None
    """Control images, M; None for all held-out ones."""
    about: str


PRESETS: dict[str, Preset] = {
    "cosy": Preset(
        "diffusers:stabilityai/stable-diffusion-xl-base-1.0", 50, "realistic photo of a close up of {label}", None,
        "CoSy (Kopf et al. 2024): SDXL, 50 images a label",
    ),
    "csp": Preset(
        "diffusers:stable-diffusion-v1-5/stable-diffusion-v1-5", 20, "{label}", 500,
        "the tutorial of CSP (Bouanani et al. 2026): SD 1.5, 20 images a label, the bare label, 500 control images",
    ),
}  # fmt: skip


class DiffusersPainter:
    """Any text-to-image pipeline of diffusers: Stable Diffusion 1.5, Turbo, XL, Flux and others.

    Args:
        model: a hub id or a folder.
        device: where it runs.
        steps: denoising steps; None for the pipeline's own default. Turbo models want 1 to 4.
        guidance: guidance scale; None for the default. Turbo models want 0.
        size: height and width in pixels; None for the default.
    """

    def __init__(
        self,
        model: str,
        device: str = "cpu",
        steps: int | None = None,
        guidance: float | None = None,
        size: int | None = None,
    ) -> None:
        self._pipeline = pipeline("AutoPipelineForText2Image", model, device)
        self.name = f"diffusers:{model}"
        given = {"num_inference_steps": steps, "guidance_scale": guidance, "height": size, "width": size}
        self._options = {key: value for key, value in given.items() if value is not None}
        dtype = torch.float16 if self._pipeline.device.type == "cuda" else torch.float32
        self.fingerprint = digest(
            "painter-1", type(self._pipeline).__name__, dict(parts_of(self._pipeline)), self._options, str(dtype),
            version("diffusers"),
        )  # fmt: skip

    @torch.no_grad()
    def paint(self, prompt: str, seeds: Sequence[int]) -> list[Image | str]:
        """One image per seed; "filtered" where the safety checker took it away, "blank" for a single colour."""
        out: list[Image | str] = []
        for start in range(0, len(seeds), BATCH):
            part = seeds[start : start + BATCH]
            generators = [torch.Generator("cpu").manual_seed(seed) for seed in part]
            made = self._pipeline([prompt] * len(part), generator=generators, **self._options)
            flagged = getattr(made, "nsfw_content_detected", None) or [False] * len(part)
            for image, filtered in zip(made.images, flagged, strict=True):
                image = image.convert("RGB")
                out.append("filtered" if filtered else "blank" if is_blank(image) else image)
        return out


def _diffusers(
    rest: str, device: str, *, steps: int | None = None, guidance: float | None = None, size: int | None = None
) -> Painter:
    """Any text-to-image pipeline of diffusers, by its id or folder."""
    if not rest:
        raise InputError("a painter is written as diffusers:ID_OR_FOLDER, e.g. diffusers:stabilityai/sd-turbo@steps=1")
    return DiffusersPainter(rest, device, steps, guidance, size)


PAINTERS: Registry[Callable[..., Painter]] = Registry(
    "painters", {"diffusers": _diffusers}, one="painter", takes=("rest", "device"), mark="@"
)
"""Loaders by scheme: functions `(rest, device, options) -> Painter`."""


def painter(spec: str | Painter, device: str = "cpu") -> Painter:
    """The painter that `spec` names, e.g. "diffusers:stabilityai/sd-turbo@steps=1,guidance=0", or `spec` itself.

    Raises:
        InputError: unknown scheme.
        ModelUnavailable: the model cannot be loaded.
        MissingPackage: a package is not installed.
    """
    made = PAINTERS.make(spec, device) if isinstance(spec, str) else spec
    if isinstance(made, Painter):
        return made
    raise InputError(f"`painter` must be a name such as 'diffusers:FOLDER' or a Painter; got {type(made).__name__}")
