"""Encoders of open_clip, with the preprocessing and activation that belong to the weights.

open_clip takes both from the pretrained TAG. A weights file alone loads silently with CLIP's own preprocessing, and a
tag whose weights were trained with QuickGELU loads into the architecture's GELU with a mere warning (open_clip issue
1068 and others). Here the tag's values are looked up and passed on in every case, or the user is asked for the tag.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from contralens.checks import few, first_line, nearest, require, unavailable
from contralens.encoders import text_tower
from contralens.encoders.base import ENCODER_VERSION, BaseEncoder, digest, patient_only_if_reachable, tokenizer_digest
from contralens.errors import InputError
from contralens.fingerprint.network import network_digest

if TYPE_CHECKING:
    from PIL.Image import Image

PREPROCESS = ("mean", "std", "interpolation", "resize_mode", "size", "mode", "fill_color")
LOCAL = "local-dir:"
HUB = "hf-hub:"


class OpenClipEncoder(BaseEncoder):
    """A model of open_clip with its own transform and tokenizer; `load` makes one from a name."""

    def __init__(self, name: str, model: Any, tokenizer: Any, device: str = "cpu", notes: Sequence[str] = ()) -> None:
        super().__init__(name, device, notes)
        open_clip = require("open_clip", "open-clip")
        settings = dict(model.visual.preprocess_cfg)
        self.preprocessing = settings
        self._transform = open_clip.transform.image_transform_v2(
            open_clip.transform.PreprocessCfg(**settings), is_train=False
        )
        self._tokenizer = tokenizer
        self.context_length = int(tokenizer.context_length)
        self.fingerprint = digest(
            ENCODER_VERSION, "open_clip", network_digest(model), settings, tokenizer_digest(tokenizer),
            self.context_length, getattr(getattr(tokenizer, "clean_fn", None), "__name__", ""),
        )  # fmt: skip
        self._holds(model)

    def preprocess(self, image: Image) -> Tensor:
        """The evaluation transform of the weights: RGB image to (3,H,W)."""
        tensor: Tensor = self._transform(image)
        return tensor

    def _image_rows(self, batch: Any) -> Tensor:
        rows: Tensor = self._model.encode_image(batch)
        return rows

    def _text_rows(self, texts: list[str]) -> Tensor:
        rows: Tensor = self._model.encode_text(self._tokenizer(texts).to(self.device))
        return rows

    def _too_long(self, texts: list[str]) -> list[str]:
        if hasattr(self._tokenizer, "encode"):  # open_clip's own tokenizer; 2 for the start and the end
            return [t for t in texts if len(self._tokenizer.encode(t)) + 2 > self.context_length]
        clean = getattr(self._tokenizer, "clean_fn", str)
        ids = self._tokenizer.tokenizer([clean(t) for t in texts], truncation=False, padding=False)["input_ids"]
        return [t for t, row in zip(texts, ids, strict=True) if len(row) > self.context_length]


def load(rest: str, device: str = "cpu") -> OpenClipEncoder:
    """ "ARCH/TAG", "ARCH/TAG@FILE", "ARCH@FILE", "local-dir:FOLDER" or "hf-hub:ORG/NAME" to an encoder."""
    open_clip = require("open_clip", "open-clip")
    if not rest:
        raise InputError("open_clip needs a model: open_clip:ARCH/TAG, e.g. open_clip:ViT-B-32/datacomp_xl_s13b_b90k")
    if rest.startswith((LOCAL, HUB)):
        name, kwargs, folder, notes = _folder_or_hub(rest)
    else:
        name, kwargs, folder, notes = _tag_or_file(open_clip, rest)
    text = _text_cfg(open_clip, name, folder) if folder else {}
    if folder and (tower := text_tower.place(text, folder)):
        kwargs["text_cfg"] = {**text, "hf_model_name": str(tower), "hf_model_pretrained": False}
    try:
        with patient_only_if_reachable():
            model = open_clip.create_model(name, precision="fp32", require_pretrained=True, **kwargs)
    except Exception as e:
        at = folder or text_tower.cached(rest.removeprefix(HUB) if rest.startswith(HUB) else "")
        advice = (at and text_tower.advice(text or _text_cfg(open_clip, LOCAL, at), at)) or _advice(rest)
        if at and not folder and "hf_model_name" in advice:
            advice += f" and name that folder, open_clip:{LOCAL}{at}"
        raise unavailable(f"open_clip:{rest} could not be loaded: {first_line(e)}{advice}", e) from e
    try:
        with patient_only_if_reachable():
            tokenizer = _tokenizer(open_clip, name, text, folder)
    except Exception as e:
        advice = (folder and text_tower.tokenizer_advice(text, folder)) or _advice(rest)
        raise unavailable(f"the tokenizer of open_clip:{rest} is not available: {first_line(e)}{advice}", e) from e
    return OpenClipEncoder(f"open_clip:{rest}", model, tokenizer, device, notes)


def _advice(rest: str) -> str:
    if rest.startswith(LOCAL):
        return "; the folder needs open_clip_config.json, the weights and, unless CLIP's own, the tokenizer files"
    return (
        "; without a network, give a folder (open_clip:local-dir:FOLDER with open_clip_config.json, weights and "
        "tokenizer files) or the weights file (open_clip:ARCH/TAG@FILE), or use the encoder 'offline'"
    )


def _folder_or_hub(rest: str) -> tuple[str, dict[str, Any], Path | None, list[str]]:
    if rest.startswith(HUB):
        return rest, {}, None, []
    folder = Path(rest.removeprefix(LOCAL)).expanduser()
    config = folder / "open_clip_config.json"
    if not config.is_file():
        missing = "there is no such folder" if not folder.is_dir() else "it has no open_clip_config.json"
        raise InputError(f"open_clip:{rest} could not be loaded: {missing}")
    notes = []
    try:
        stated = json.loads(config.read_text("utf-8"))
    except ValueError as e:
        raise InputError(f"{config} is not valid JSON: {first_line(e)}") from e
    if not isinstance(stated, dict) or not stated.get("preprocess_cfg"):
        notes.append(f"{config.name} states no preprocess_cfg: open_clip's default (that of CLIP) was used")
    return f"{LOCAL}{folder}", {}, folder, notes


def _tag_or_file(open_clip: Any, rest: str) -> tuple[str, dict[str, Any], Path | None, list[str]]:
    named, _, file = rest.partition("@")
    arch, tag = _split(open_clip, named)
    tags = open_clip.list_pretrained_tags_by_model(arch)
    known, notes = few(tags, 12) or "none", list[str]()
    if tag:
        config = open_clip.get_pretrained_cfg(arch, tag)
        if not config:
            raise InputError(f"{arch} has no weights tagged {tag!r}{nearest(tag, tags)}; its tags: {known}")
    elif not file:
        raise InputError(f"which weights of {arch}? write open_clip:{arch}/TAG; its tags: {known}")
    else:
        config, note = _only_config(open_clip, arch, tags, file)
        notes.append(note)
    if file:
        path = Path(file).expanduser()
        if not path.is_file():
            raise InputError(f"open_clip:{rest}: there is no file {path}")
    else:
        try:
            with patient_only_if_reachable():
                path = Path(open_clip.download_pretrained(config))
        except Exception as e:
            source = config.get("hf_hub") or config.get("url")
            raise unavailable(
                f"the weights {arch}/{tag} ({source}) could not be downloaded: {first_line(e)}{_advice(rest)}", e
            ) from e
    preprocess = {key: config[key] for key in PREPROCESS if config.get(key) is not None}
    kwargs = {
        "pretrained": str(path),
        "force_preprocess_cfg": preprocess,
        "force_quick_gelu": bool(config.get("quick_gelu", False)),
    }
    return arch, kwargs, path.parent if file else None, notes


def _split(open_clip: Any, named: str) -> tuple[str, str]:
    """ "ViT-B-32/openai" or "ViT-B/32/openai" to architecture and tag; the tag may be empty."""
    known = open_clip.list_models()
    whole = named.replace("/", "-")
    if whole in known:
        return whole, ""
    arch, _, tag = named.rpartition("/")
    arch = arch.replace("/", "-")
    if arch in known:
        return arch, tag
    raise InputError(
        f"open_clip knows no architecture {arch or named!r}{nearest(arch or named, known)}; "
        f"it is written open_clip:ARCH/TAG, and `open_clip.list_pretrained()` lists all"
    )


def _only_config(open_clip: Any, arch: str, tags: list[str], file: str) -> tuple[dict[str, Any], str]:
    """The settings for a file without a tag: those on which all tags of the architecture agree."""
    keys = (*PREPROCESS, "quick_gelu")
    configs = [open_clip.get_pretrained_cfg(arch, tag) for tag in tags]
    kept = [{key: config[key] for key in keys if config.get(key) is not None} for config in configs]
    if not kept:
        return {}, f"open_clip knows no weights of {arch}: its default preprocessing (that of CLIP) was used"
    if any(digest(config) != digest(kept[0]) for config in kept):
        raise InputError(
            f"weights of {arch} differ in preprocessing or activation; name those of the file: "
            f"open_clip:{arch}/TAG@{file} with TAG one of {few(tags, 12)}"
        )
    return kept[0], f"preprocessing and activation as in all known weights of {arch}"


def _text_cfg(open_clip: Any, name: str, folder: Path) -> dict[str, Any]:
    """What a folder's configuration, or open_clip's of an architecture, says of the text tower."""
    if name.startswith(LOCAL):
        try:
            stated = json.loads((folder / "open_clip_config.json").read_text("utf-8"))["model_cfg"]["text_cfg"]
        except (KeyError, TypeError):
            return {}
    else:
        stated = (open_clip.get_model_config(name) or {}).get("text_cfg", {})
    return dict(stated) if isinstance(stated, dict) else {}


def _tokenizer(open_clip: Any, name: str, text: dict[str, Any], folder: Path | None) -> Any:
    """The model's tokenizer; files in a folder, or beside a weights file, are taken before the hub is asked."""
    source = text_tower.tokenizer_place(text, folder) if folder else None
    if source is None and name.startswith(LOCAL):
        source = text.get("hf_tokenizer_name")  # which open_clip would take from the folder, empty as it is
    if source:
        return open_clip.tokenizer.HFTokenizer(
            str(source),
            context_length=text.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH),
            tokenizer_mode=text.get("tokenizer_mode"),
            **text.get("tokenizer_kwargs", {}),
        )
    return open_clip.get_tokenizer(name)
