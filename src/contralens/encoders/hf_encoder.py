"""Dual encoders of transformers: CLIP, SigLIP, SigLIP 2 (fixed resolution and NaFlex), others with the same two calls.

What is easily got wrong, and is right here:

- SigLIP's text tower was trained on lower-case texts padded to its full length (64) without a mask and reads its answer
  off the LAST position: other padding gives other embeddings (Zhai et al. 2023; Tschannen et al. 2025).
- transformers 5 returns an object from `get_image_features` and `get_text_features`: the embedding is `.pooler_output`.
- `Siglip2Processor` cuts 16-pixel patches whatever its saved settings say: here the patch size of the model is used.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from contralens.checks import first_line, require, unavailable
from contralens.encoders.base import ENCODER_VERSION, BaseEncoder, digest, patient_only_if_reachable, tokenizer_digest
from contralens.errors import InputError, ModelUnavailable
from contralens.fingerprint.network import describe, network_digest

if TYPE_CHECKING:
    from PIL.Image import Image

SIGLIP = ("siglip", "siglip2")
"""Model types whose texts are lower-cased, padded to the full length and given without a mask."""
UNKNOWN_LENGTH = 100_000
"""Tokenizers that know no longest text say 1e30."""


class HfEncoder(BaseEncoder):
    """A dual encoder of transformers with its own image processor and tokenizer; `load` makes one from a name."""

    def __init__(
        self,
        name: str,
        model: Any,
        image_processor: Any,
        tokenizer: Any,
        device: str = "cpu",
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(name, device, notes)
        config = model.config
        self._siglip = config.model_type in SIGLIP
        self._processor, self._tokenizer = image_processor, tokenizer
        self._extra: dict[str, int] = {}
        if config.model_type == "siglip2":  # NaFlex: patches instead of pixels
            self._extra["patch_size"] = int(config.vision_config.patch_size)
        self.context_length = _context_length(config, tokenizer)
        self.fingerprint = digest(
            ENCODER_VERSION, "hf", network_digest(model), describe(image_processor), self._extra,
            tokenizer_digest(tokenizer), self.context_length,
        )  # fmt: skip
        self._holds(model)

    def preprocess(self, image: Image) -> dict[str, Tensor]:
        """The model's own image processor: RGB image to a dict with "pixel_values" (and for NaFlex mask and shape)."""
        made = self._processor(images=[image], return_tensors="pt", **self._extra)
        return {key: value[0] for key, value in made.items() if isinstance(value, Tensor)}

    def _image_rows(self, batch: Any) -> Tensor:
        return _features(self._model.get_image_features(**batch))

    def _text_rows(self, texts: list[str]) -> Tensor:
        tokens = self._tokenizer(
            self._clean(texts),
            padding="max_length" if self._siglip else True,
            max_length=self.context_length,
            truncation=True,
            return_tensors="pt",
        )
        if self._siglip:
            tokens = {"input_ids": tokens["input_ids"]}
        return _features(self._model.get_text_features(**{k: v.to(self.device) for k, v in tokens.items()}))

    def _clean(self, texts: list[str]) -> list[str]:
        return [text.lower() for text in texts] if self._siglip else texts

    def _too_long(self, texts: list[str]) -> list[str]:
        with _quiet():
            ids = self._tokenizer(self._clean(texts), truncation=False, padding=False)["input_ids"]
        return [text for text, row in zip(texts, ids, strict=True) if len(row) > self.context_length]


def load(rest: str, device: str = "cpu") -> HfEncoder:
    """ "ORG/NAME" or a folder with config, weights, tokenizer and image processor, to an encoder."""
    transformers = require("transformers", "hf")
    if not rest:
        raise InputError("hf needs a model: hf:ORG/NAME, e.g. hf:openai/clip-vit-base-patch32, or hf:FOLDER")
    folder = Path(rest).expanduser()
    if folder.is_dir():
        source = str(folder)
    elif rest.startswith(("/", ".", "~")) or rest.count("/") != 1:
        raise InputError(f"hf:{rest}: there is no folder {folder}, and a model on the hub is written ORG/NAME")
    else:
        source = rest
    try:
        with _quiet(), patient_only_if_reachable():
            model, report = transformers.AutoModel.from_pretrained(
                source, dtype=torch.float32, trust_remote_code=False, weights_only=True, output_loading_info=True
            )
            processor = transformers.AutoProcessor.from_pretrained(source, trust_remote_code=False)
    except Exception as e:
        raise unavailable(
            f"hf:{rest} could not be loaded: {first_line(e)}; without a network, give a folder that holds config.json, "
            "model.safetensors, the tokenizer and preprocessor_config.json (hf:FOLDER), or use the encoder 'offline'",
            e,
        ) from e
    if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
        raise InputError(
            f"hf:{rest} is of type {model.config.model_type}, which does not embed images and texts in one space; "
            "use one that does (CLIP, SigLIP, ...)"
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelUnavailable(
            f"hf:{rest} has no weights for {len(missing)} parts of the model, e.g. {missing[0]}; they would be random"
        )
    image_processor, tokenizer = (getattr(processor, part, None) for part in ("image_processor", "tokenizer"))
    if image_processor is None or tokenizer is None:
        absent = "preprocessor_config.json" if image_processor is None else "tokenizer files"
        raise ModelUnavailable(f"hf:{rest} has no {absent}; contralens does not guess preprocessing")
    if len(tokenizer.get_vocab()) <= len(set(tokenizer.all_special_tokens)):
        raise ModelUnavailable(
            f"hf:{rest} is missing its tokenizer's vocabulary: copy tokenizer.json (or vocab.txt, vocab.json with "
            "merges.txt, spiece.model) of the same model into the folder"
        )
    return HfEncoder(f"hf:{rest}", model, image_processor, tokenizer, device)


def _features(out: Any) -> Tensor:
    return out if isinstance(out, Tensor) else out.pooler_output


def _context_length(config: Any, tokenizer: Any) -> int:
    """Tokens that the text tower reads: its positions, or less where the tokenizer says so."""
    positions = int(getattr(config.text_config, "max_position_embeddings", UNKNOWN_LENGTH))
    stated = int(tokenizer.model_max_length)
    if config.model_type in SIGLIP or stated >= UNKNOWN_LENGTH:
        return positions
    return min(positions, stated)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' progress bars and advice away from the user's terminal."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
