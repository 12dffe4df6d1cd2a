"""The settings of proposing candidate labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from contralens.errors import InputError
from contralens.settings.kinds import (
    FILE,
    GROUPS_OF_NEURONS,
    MERGE,
    NUMBER,
    PATH,
    PYTHON,
    SWITCH,
    TEXT,
    THING,
    TWO_NUMBERS,
    WHOLE,
    between,
    indices_or,
    named,
    one_of,
    whole_from,
)
from contralens.settings.record import Place, about, setting, settings_of

MERGE_COSINE = 0.97
"""Cosine of two texts from which they count as one concept. CLIP-like text embeddings lie close together: lower values
soon merge what differs in one telling word."""


@dataclass(frozen=True, kw_only=True)
class Asking(Place):
    """How a proposer is asked, whatever run it is about."""

    prompt: str | Path = setting("contrastive", PATH,
        '"contrastive", "positives", or a file with your template (`read_prompt`).')  # fmt: skip
    show: int = setting(9, whole_from(1, 10_000), "Images per group; skips near-duplicates of images already shown.")
    layout: Literal["grids", "separate"] = setting("grids", one_of("grids", "separate"),
        '"grids", one picture for each group, or "separate" images for models that take several.')  # fmt: skip
    cell: int | None = setting(None, whole_from(1, 4096),
        "Image side in px, at least 112 (default 224; 128 from thumbnails).")  # fmt: skip
    columns: int = setting(0, whole_from(0, 1000), "Columns of a grid (default: as square as possible).")
    alike: float = setting(0.95, between(one=True),
        "Cosine from which images count as near-duplicates, if the cache holds embeddings; 1 shows all.")  # fmt: skip
    focus: Literal["crop", "mask"] | None = setting(None, one_of("crop", "mask"),
        'Show where the neuron fires: "crop" to that region, or "mask" the rest in grey. Uses the activation map, '
        'else occlusion. A caption bank takes "crop" only, and a layer with maps.',
        python="Needs `images` and `target`.")  # fmt: skip
    count: int | None = setting(None, whole_from(1, 1000), "Concepts to request (default 3; 8 from captions).")
    words: int = setting(4, whole_from(1, 1000), "Maximum words per concept.", written=True)
    domain: str = setting("", TEXT, 'Hint for the model, e.g. "dermoscopy".', written=True)
    max_tokens: int = setting(256, WHOLE, "Maximum tokens per answer; raise it for reasoning models.")
    merge: float | None = setting(MERGE_COSINE, MERGE,
        "Cosine of text embeddings from which to merge candidates; 0: never.",
        python="None also means never.")  # fmt: skip
    price: tuple[float, float] | None = setting(None, TWO_NUMBERS,
        "Price per million input and output tokens, e.g. 2.5/10; the plan then shows the cost.")  # fmt: skip
    budget: float | None = setting(None, NUMBER, "Stop before spending this much (needs `price`).")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget is not None and self.price is None:
            raise InputError("a budget needs a price per million input and output tokens, e.g. --price 2.5/10")
        if self.price is not None and (min(self.price) < 0 or (self.budget is not None and self.budget < 0)):
            raise InputError(f"`price` and `budget` cannot be negative; got {self.price} and {self.budget}")


@dataclass(frozen=True, kw_only=True)
class Propose(Asking):
    """All settings of `contralens.propose`."""

    run: Any = field(kw_only=False, metadata=about(THING, "A run folder.", python="Or a `Run`."))
    proposer: Any = field(kw_only=False, metadata=about(THING,
        "hf:MODEL or hf:FOLDER, openai:MODEL@URL, captions:FILE, captions:metadata; see `proposers`.",
        python="Or a `Proposer`."))  # fmt: skip
    images: Any = setting(None, FILE,
        "Current location of the probe images (default: the recorded one, else thumbnails).",
        python="Or an image set; without it, thumbnails are used.")  # fmt: skip
    neurons: Sequence[int] | None = setting(None, indices_or(), "Indices such as 0,5,10-20 (default: all labeled).")
    target: Any = setting(None, PYTHON, "The run's network, for `focus`.")
    encoder: Any = setting(None, PYTHON, "The run's encoder (default: loaded by its name).")
    folder: str | Path | None = setting(None, PATH,
        "Folder for replies and candidates (default RUN.candidates).", flag="--out")  # fmt: skip
    dry_run: bool = setting(False, SWITCH, "Print the plan and one question and write its images, without asking.")
    on_plan: Callable[[Any], None] | None = setting(None, PYTHON,
        "Called with the plan (`Plan`, or `CaptionPlan` of a caption bank) before the first question.")  # fmt: skip
    proposer_options: Mapping[str, Any] | None = setting(None, named("workers=2"),
        "Options of the backend, see `contralens.proposing.proposers.proposer`.")  # fmt: skip
    caption_options: Mapping[str, Any] | None = setting(None, named("contrast=falcon"),
        "Options of a caption bank, see `caption_candidates`.")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Backends(Asking):
    """How a proposer is asked, with what the backends take besides: flags, and what `label --propose` takes."""

    COMMON: ClassVar[bool] = True
    workers: int | None = setting(None, WHOLE, "openai: concurrent questions (default 4).")
    timeout: float | None = setting(None, NUMBER, "openai: timeout per attempt in seconds (default 120).")
    retries: int | None = setting(None, whole_from(0), "openai: retries after 429, 5xx (default 4).")
    key_env: str | None = setting(None, TEXT,
        "openai: environment variable with the key (default OPENAI_API_KEY; CONTRALENS_API_KEY).")  # fmt: skip
    batch: int | None = setting(None, WHOLE, "hf: questions per batch (default 4).")
    dtype: str | None = setting(None, TEXT, "hf: auto, float32, bfloat16 or float16.")
    contrast: Literal["partners", "falcon"] | None = setting(None, one_of("partners", "falcon"),
        "captions: \"partners\" (default) or \"falcon\", mined in the target's space.")  # fmt: skip
    groups: Sequence[Sequence[int]] | Literal["auto"] | None = setting(None, GROUPS_OF_NEURONS,
        "captions: neurons explained together, e.g. \"3,8;5,6\", or \"auto\" to find FALCON's groups.")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ProposeCommand(Backends, Propose):
    """What the command takes."""


OF_CAPTIONS = ("contrast", "groups")


def arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the command as keyword arguments of `contralens.propose`.

    >>> arguments({"merge": None, "workers": 2, "groups": [[3, 8]]})
    {'merge': None, 'proposer_options': {'workers': 2}, 'caption_options': {'groups': [[3, 8]]}}
    """
    backends = settings_of(Backends).keys() - settings_of(Asking).keys()
    own = {name: value for name, value in given.items() if name not in backends}
    parts = {
        "proposer_options": {n: v for n, v in given.items() if n in backends and n not in OF_CAPTIONS},
        "caption_options": {n: v for n, v in given.items() if n in OF_CAPTIONS},
    }
    return own | {name: part for name, part in parts.items() if part}
