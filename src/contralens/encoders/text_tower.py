"""Text towers that an open_clip model takes from transformers by a name on the hub, found in a folder without the hub.

open_clip's weights hold the tower's weights, too, but not its shape: `text_cfg` names another model on the hub
("hf_model_name") whose config.json says it, and whose tokenizer is used ("hf_tokenizer_name"). BiomedCLIP is one
(open_clip issues 724 and 772).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VOCABULARIES = (
    "tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model", "tokenizer.model",
)  # fmt: skip
"""Files with a tokenizer's words; without one of them transformers makes a tokenizer that knows none."""


def place(text: dict[str, Any], folder: Path) -> Path | None:
    """The folder with the tower's config.json; None if there is none, or none is needed.

    Looked at are the name as a path, the model's own folder, and folders in it or beside it with the tower's name.
    """
    name = text.get("hf_model_name")
    return next((p for p in _places(name, folder) if _is_tower(p / "config.json")), None) if name else None


def tokenizer_place(text: dict[str, Any], folder: Path) -> Path | None:
    """The folder with the tokenizer's files; None if there is none, or it is open_clip's own."""
    name = text.get("hf_tokenizer_name")
    found = (p for p in _places(name, folder) if any((p / file).is_file() for file in VOCABULARIES))
    return next(found, None) if name else None


def cached(repository: str) -> Path | None:
    """The folder of the hub's cache with a repository's open_clip_config.json, if there is one."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, "open_clip_config.json") if repository else None
    return Path(found).parent if isinstance(found, str) else None


def advice(text: dict[str, Any], folder: Path) -> str:
    """What to copy where, if the tower's shape is what is missing; else "".

    >>> advice({"hf_model_name": "ORG/BERT"}, Path("clip"))[:70]
    "; its text tower is hf_model_name = ORG/BERT: copy that model's config"
    """
    name = text.get("hf_model_name")
    if not name or place(text, folder):
        return ""
    other = _kind(folder / "config.json")
    why = f"; the config.json there is of a {other}: use the folder {folder / Path(str(name)).name}" if other else ""
    return (
        f"; its text tower is hf_model_name = {name}: copy that model's config.json into {folder} (its weights are not "
        f"needed{why})"
    )


def tokenizer_advice(text: dict[str, Any], folder: Path) -> str:
    """What to copy where, if the tokenizer's files are missing; else ""."""
    name = text.get("hf_tokenizer_name")
    if not name or tokenizer_place(text, folder):
        return ""
    return (
        f"; its tokenizer is hf_tokenizer_name = {name}: copy that model's tokenizer files (tokenizer.json and "
        f"tokenizer_config.json, of a BERT also vocab.txt) into {folder}"
    )


def _places(name: Any, folder: Path) -> Iterator[Path]:
    named = Path(str(name)).expanduser()
    yield from (named, folder / named, folder, folder / named.name, folder.parent / named, folder.parent / named.name)


def _is_tower(config: Path) -> bool:
    """Whether a config.json is of a text model that open_clip can build."""
    from open_clip.hf_configs import arch_dict

    return _kind(config) in arch_dict


def _kind(config: Path) -> str | None:
    try:
        stated = json.loads(config.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return stated.get("model_type") if isinstance(stated, dict) else None
