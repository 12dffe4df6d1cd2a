"""What the backends of `contralens.encoders.registry` share: unit rows, batching, notes, fingerprints, errors."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import importlib
import json
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.data import default_collate

from contralens.checks import first_line
from contralens.errors import InputError
from contralens.fingerprint.network import describe
from contralens.loading.fast_preprocessing import DECODES, fast_or_own
from contralens.models.hooks import computing, known_dtype, moved

if TYPE_CHECKING:
    from PIL.Image import Image

ENCODER_VERSION = "encoder-1"
"""Part of every fingerprint: raise it when the code changes what an encoder returns."""


class BaseEncoder:
    """What the built-in encoders share: unit rows on the CPU, batching, and notes for the manifest.

    A subclass sets `fingerprint` and `width` and defines `preprocess`, `_image_rows` and `_text_rows` (on `device`,
    not yet normalised), and `_too_long`.

    Raises:
        InputError: from `adapted`, for another word; from `texts`, for one text in place of a list.

    >>> class Bright(BaseEncoder):  # sees how bright a picture is, and how long a text
    ...     fingerprint, width = digest("bright-1"), 2
    ...     def preprocess(self, image):
    ...         return torch.tensor([image.convert("L").resize((1, 1)).getpixel((0, 0)) / 255, 1.0])
    ...     def _image_rows(self, batch):
    ...         return batch
    ...     def _text_rows(self, texts):
    ...         return torch.tensor([[float(len(text)), 1.0] for text in texts])
    ...     def _too_long(self, texts):
    ...         return [text for text in texts if len(text) > 9]
    >>> from PIL.Image import new
    >>> eyes = Bright("bright")
    >>> eyes.images([new("RGB", (1, 1), "black"), new("RGB", (2, 2), "white")])
    tensor([[0.0000, 1.0000],
            [0.7071, 0.7071]])
    >>> tuple(eyes.texts(["sun", "a long story"]).shape), len(eyes.notes)
    ((2, 2), 1)
    >>> eyes.adapted(dtype="bf16").fingerprint == eyes.fingerprint
    False
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
        self.options: dict[str, str] = {}
        """What `adapted` changed, for the manifest."""

    def _holds(self, model: Any) -> None:
        """Keep the model, ready to be run, and learn its width from a text."""
        self._model = model.eval().requires_grad_(False).to(self.device)
        rows = self._text_rows([""])
        if rows.dim() != 2:
            raise InputError(_not_pooled(self.name, "text", rows))
        self.width = int(rows.shape[1])

    def adapted(self, decode: str | None = None, dtype: str | None = None) -> Self:
        """The same encoder with another preprocessing ("fast") or precision ("onednn", "bf16") for images.

        Its fingerprint is another one then, since its rows are. Texts are always embedded in float32.
        """
        if decode is not None and decode not in DECODES:
            raise InputError(f"decode must be one of {', '.join(DECODES)}; got {decode!r}")
        if dtype is not None:
            known_dtype(dtype)
        made = copy.copy(self)
        made._notes, made.options = list(self._notes), dict(self.options)
        if decode == "fast" and "decode" not in made.options:
            own = made.preprocess
            setattr(made, "preprocess", fast_or_own(own, made._notes))  # noqa: B010
            made.options["decode"] = decode
            if made.preprocess is not own:
                made.fingerprint = digest(made.fingerprint, describe(made.preprocess))
        if dtype not in (None, "float32", made.options.get("dtype")):
            made.options["dtype"] = dtype
            made.fingerprint = digest(made.fingerprint, dtype)
        return made

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
        """One RGB image to what `default_collate` can stack."""
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
        with computing(self.device.type, self.options.get("dtype") or "float32"):
            rows = self._image_rows(moved(batch, self.device))
        if rows.dim() != 2:
            raise InputError(_not_pooled(self.name, "image", rows))
        if rows.shape[1] != self.width:
            raise InputError(
                f"the encoder {self.name} gives images {rows.shape[1]} numbers and texts {self.width}: they do not lie "
                "in one space"
            )
        return _unit_rows(rows)

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
            raise InputError("`texts` must be a list of texts; got one text: pass a list")
        parts = []
        for start in range(0, len(texts), self.text_batch):
            part = list(texts[start : start + self.text_batch])
            self._cut.update(dict.fromkeys(self._too_long(part)))
            with computing(self.device.type, "float32"):
                parts.append(_unit_rows(self._text_rows(part)))
        return torch.cat(parts) if parts else torch.empty(0, self.width)


def _not_pooled(name: str, what: str, rows: Tensor) -> str:
    return (
        f"the encoder {name} gives {tuple(rows.shape)} for {len(rows)} {what}(s), not one row each: it is not pooled; "
        "take a model that is (CLIP, SigLIP, ...), or pool it in an encoder of your own"
    )


def _unit_rows(rows: Tensor) -> Tensor:
    return normalize(rows.detach().float().cpu(), dim=-1)


# --- fingerprints, errors and the hub ---


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


def usable_device(device: str | torch.device) -> torch.device:
    """`device` as torch knows it, after a look whether it is there."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as e:
        raise InputError(f"device {str(device)!r} cannot be used here: {first_line(e)}") from e
    return found
