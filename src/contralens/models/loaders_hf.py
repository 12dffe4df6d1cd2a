"""transformers' image models as targets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from contralens.checks import InputError, reason, require
from contralens.models.loaded import Loaded, fill, seeded


def load_hf(rest: str, *, weights: str | None = None, checkpoint: str | Path | None = None) -> Loaded:
    """transformers' image models: an id on the hub or a folder written by `save_pretrained`. Runs no remote code."""
    transformers = require("transformers", "hf")
    if weights not in (None, "random"):
        raise InputError(
            f"hf:{rest}: weights must be left out or 'random'; other weights have another id; got {weights!r}"
        )
    folder = Path(rest).expanduser()
    source = str(folder) if folder.is_dir() else rest
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(f"hf:{rest}: the folder has no config.json; give one written by save_pretrained")
    elif rest.startswith((".", "~", os.sep)) or rest.count("/") > 1:
        raise InputError(f"hf:{rest}: there is no such folder, and it is no id of the hub (ORG/NAME)")
    what = f"hf:{rest}"
    loaded = Loaded(nn.Identity())
    try:
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
        heads = [a for a in config.architectures or () if "ForImageClassification" in a]
        auto = transformers.AutoModelForImageClassification if heads else transformers.AutoModel

        def build(number: int | None) -> nn.Module:
            if number is not None:
                config.num_labels = number
            with seeded():
                network: nn.Module = auto.from_config(config, trust_remote_code=False)
            return network

        if checkpoint is not None or weights == "random":
            fill(loaded, build, checkpoint, what, other_heads=bool(heads))
        else:
            with seeded():  # weights missing from the source are drawn: the same ones every time
                loaded.network, info = auto.from_pretrained(source, trust_remote_code=False, output_loading_info=True)
            loaded.untrained = tuple(sorted(info["missing_keys"]))
    except InputError:
        raise
    except Exception as e:  # OSError, ValueError, RuntimeError, the hub client's own, ...
        how = (
            "look into the folder"
            if folder.is_dir()
            else "offline, give a folder written by save_pretrained, hf:FOLDER"
        )
        raise InputError(f"{what}: the network could not be loaded ({reason(e)}): {how}") from e
    names = getattr(config, "id2label", None) or {}
    if heads and not all(str(v).startswith("LABEL_") for v in names.values()):
        loaded.classes = [str(names[i]) for i in sorted(names)]
    if hasattr(loaded.network, "vision_model"):
        kind = type(loaded.network).__name__
        tower: Any = loaded.network.vision_model
        loaded.network = tower
        loaded.untrained = tuple(
            k.removeprefix("vision_model.") for k in loaded.untrained if k.startswith("vision_model.")
        )
        loaded.notes.append(f"the image tower (vision_model) of a {kind}; layer names are those inside it")
    if loaded.untrained:
        loaded.notes.append(f"weights not in the source, random: {', '.join(loaded.untrained)}")
    try:
        loaded.preprocess = HFPreprocess(
            transformers.AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
        )
    except Exception as e:
        loaded.preprocess_note = f"no image processor comes with it ({reason(e)})"
    return loaded


class HFPreprocess:
    """A transformers image processor as a function of one image."""

    __module__ = "contralens.models.loaders"  # fingerprints name it so

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, image: Any) -> dict[str, Tensor]:
        """One RGB image to the network's keyword arguments, {"pixel_values": (3,H,W)} for most."""
        batch = self.processor(images=image, return_tensors="pt")
        return {name: value[0] for name, value in batch.items() if isinstance(value, Tensor)}
