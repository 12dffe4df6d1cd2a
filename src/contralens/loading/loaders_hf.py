"""transformers' image models as targets."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from contralens.checks import nearest, reason, require, unavailable
from contralens.errors import ContralensError, InputError
from contralens.loading.loaded import Loaded, fill, seeded
from contralens.loading.network_arguments import split_arguments, told
from contralens.loading.vision_towers import as_images, images_for, is_language_model, tower_of, with_small_text
from contralens.loading.weight_files import snapshot


def load_hf(rest: str, *, weights: str | None = None, checkpoint: str | Path | None = None) -> Loaded:
    """transformers' image models: an id on the hub or a folder written by `save_pretrained`. Runs no remote code.

    Of a vision-language model the vision tower is taken. Settings of the configuration follow a "?".
    """
    transformers = require("transformers", "hf")
    rest, given = split_arguments(rest, "hf")
    if weights not in (None, "random"):
        raise InputError(
            f"hf:{rest}: weights must be omitted or 'random'; other weights have another id; got {weights!r}"
        )
    source = _source(rest)
    what = f"hf:{rest}"
    loaded = Loaded(nn.Identity(), notes=[f"built with {told(given)}"] if given else [])
    try:
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
        for key, value in given.items():
            if not hasattr(config, key):
                raise InputError(f"{what}: the configuration has no {key!r}{nearest(key, config.to_dict())}")
            setattr(config, key, value)
        sees = is_language_model(transformers, config)
        _fill(loaded, transformers, config, source, what, weights, checkpoint, sees)
    except ContralensError:
        raise
    except Exception as e:  # OSError, ValueError, RuntimeError, the hub client's own, ...
        how = (
            "look into the folder"
            if Path(source).is_dir()
            else "offline, give a folder written by save_pretrained, hf:FOLDER"
        )
        raise unavailable(f"{what}: the network could not be loaded ({reason(e)}): {how}", e) from e
    names = getattr(config, "id2label", None) or {}
    if _heads(config) and not all(str(v).startswith("LABEL_") for v in names.values()):
        loaded.classes = [str(names[i]) for i in sorted(names)]
    if loaded.untrained and not loaded.misfit:
        loaded.notes.append(f"weights not in the source, random: {', '.join(loaded.untrained)}")
    if sees:
        loaded.network = as_images(loaded.network.float())
        if getattr(config, "vision_feature_select_strategy", None) == "default":
            read = f"the language model reads patches of layer {config.vision_feature_layer} and no class token"
            loaded.notes.append(f"{read}; --pooling mean_patches looks at these")
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
        loaded.preprocess = images_for(processor, loaded.network, loaded.notes) if sees else HFPreprocess(processor)
    except Exception as e:
        loaded.preprocess_note = f"no image processor comes with it ({reason(e)})"
    return loaded


def _source(rest: str) -> str:
    """The folder or the hub's id.

    Raises:
        InputError: it is neither, or the folder of another library.
    """
    folder = snapshot(Path(rest).expanduser())
    if not folder.is_dir():
        if rest.startswith((".", "~", os.sep)) or rest.count("/") > 1:
            raise InputError(f"hf:{rest}: there is no such folder, and it is not a hub id (ORG/NAME)")
        return rest
    if not (folder / "config.json").is_file():
        raise InputError(f"hf:{rest}: the folder has no config.json; give one written by save_pretrained")
    try:
        written = json.loads((folder / "config.json").read_bytes())
    except ValueError as e:
        raise InputError(f"hf:{rest}: config.json is no JSON ({reason(e)})") from e
    if isinstance(written, dict) and "architecture" in written and "model_type" not in written:
        raise InputError(f"hf:{rest}: the folder was written by timm: give it as timm:local-dir:{rest}")
    return str(folder)


def _heads(config: Any) -> bool:
    return any("ForImageClassification" in name for name in config.architectures or ())


def _fill(
    loaded: Loaded, transformers: Any, config: Any, source: str, what: str, weights: str | None,
    checkpoint: str | Path | None, sees: bool,
) -> None:  # fmt: skip
    """The network with its weights into `loaded`; of what has a vision tower, that alone."""
    heads = _heads(config)
    auto = transformers.AutoModelForImageClassification if heads else transformers.AutoModel
    if sees:
        config = with_small_text(config)

    def build(number: int | None) -> nn.Module:
        if number is not None:
            config.num_labels = number
        with seeded():
            network: nn.Module = auto.from_config(config, trust_remote_code=False)
        return _tower(network, loaded) if sees else network

    if checkpoint is not None or weights == "random":
        fill(loaded, build, checkpoint, what, other_heads=heads, adapt=None if sees else _adapt)
        if sees:
            loaded.notes = list(dict.fromkeys(loaded.notes))
    else:
        with seeded():  # weights missing from the source are drawn: the same ones every time
            loaded.network, info = auto.from_pretrained(
                source, config=config, trust_remote_code=False, output_loading_info=True
            )
        loaded.untrained = tuple(sorted(info["missing_keys"]))
        if sees:
            loaded.network = _tower(loaded.network, loaded)
    if not sees and hasattr(loaded.network, "vision_model"):
        loaded.network = _tower(loaded.network, loaded)


def _tower(network: nn.Module, loaded: Loaded) -> nn.Module:
    """The vision tower of a network, and the names of weights and notes that go with it."""
    found = tower_of(network)
    kind = type(network).__name__
    if found is None:
        parts = ", ".join(name for name, _ in network.named_children())
        raise InputError(
            f"no vision tower was found in {kind} (its parts: {parts}): give the tower as module:FILE.py:FUNCTION"
        )
    name, tower = found
    loaded.untrained = tuple(k.removeprefix(f"{name}.") for k in loaded.untrained if k.startswith(f"{name}."))
    loaded.notes.append(f"the image tower ({name}) of a {kind}; layer names are those inside it")
    return tower


def _adapt(tensors: dict[str, Tensor], network: nn.Module) -> Mapping[str, Tensor]:
    """transformers' own translation of names that earlier versions wrote."""
    kind: Any = type(network)
    try:
        made, info = kind.from_pretrained(
            None, config=network.config, state_dict=dict(tensors), output_loading_info=True
        )
    except Exception:  # written for other files than this one
        return tensors
    lost = {*info["missing_keys"], *(str(key[0]) for key in info.get("mismatched_keys", ()))}
    left = {key: tensors[key] for key in info["unexpected_keys"] if key in tensors}
    return {**{key: value for key, value in made.state_dict().items() if key not in lost}, **left}


class HFPreprocess:
    """A transformers image processor as a function of one image."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, image: Any) -> dict[str, Tensor]:
        """One RGB image to the network's keyword arguments, {"pixel_values": (3,H,W)} for most."""
        batch = self.processor(images=image, return_tensors="pt")
        return {name: value[0] for name, value in batch.items() if isinstance(value, Tensor)}
