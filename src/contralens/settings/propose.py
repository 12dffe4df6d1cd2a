"""The settings of proposing candidate labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

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
    choice,
    count,
    mapping,
    neurons,
    share,
)
from contralens.settings.record import Place, Setting, settings_of

MERGE_COSINE = 0.97
"""Cosine of two texts from which they count as one concept. CLIP-like text embeddings lie close together: lower values
soon merge what differs in one telling word."""


@dataclass(frozen=True, kw_only=True)
class Asking(Place):
    """How a proposer is asked, whatever run it is about."""

    prompt: Annotated[
        str | Path,
        Setting('"contrastive", "positives", or a file with a template of your own (`read_prompt`).', PATH),
    ] = "contrastive"
    show: Annotated[
        int, Setting("Images of each group; near-copies of one shown already are passed over.", count(1, 10_000))
    ] = 9
    layout: Annotated[
        Literal["grids", "separate"],
        Setting('"grids", one picture for each group, or "separate" images for models that take several.',
                choice("grids", "separate")),
    ] = "grids"  # fmt: skip
    cell: Annotated[
        int | None,
        Setting("Side of an image in px, at least 112 (default 224; 128 from thumbnails).", count(1, 4096)),
    ] = None
    columns: Annotated[int, Setting("Columns of a grid (default: as square as it can be).", count(0, 1000))] = 0
    alike: Annotated[
        float,
        Setting("Cosine from which images are near-copies, where the cache still holds embeddings; 1 shows all.",
                share(one=True)),
    ] = 0.95  # fmt: skip
    focus: Annotated[
        Literal["crop", "mask"] | None,
        Setting('Show where the neuron fires: "crop" images to it, or "mask" all else in grey; its own map says where '
                "that is, else occlusion.", choice("crop", "mask"), python="Needs `images` and `target`."),
    ] = None  # fmt: skip
    count: Annotated[int | None, Setting("Concepts asked for (default 3; 8 from captions).", count(1, 1000))] = None
    words: Annotated[int, Setting("Words of a concept, at most.", count(1, 1000), written=True)] = 4
    domain: Annotated[str, Setting('A hint for the model, e.g. "dermoscopy".', TEXT, written=True)] = ""
    max_tokens: Annotated[int, Setting("Tokens of an answer, at most; more for models that think first.", WHOLE)] = 256
    merge: Annotated[
        float | None,
        Setting("Cosine of text embeddings from which candidates count as one; 0: never.", MERGE,
                python="None keeps all apart, too."),
    ] = MERGE_COSINE  # fmt: skip
    price: Annotated[
        tuple[float, float] | None,
        Setting("Per million tokens in and out, e.g. 2.5/10; makes the plan tell the cost.", TWO_NUMBERS),
    ] = None
    budget: Annotated[float | None, Setting("Stop before this much is spent (needs `price`).", NUMBER)] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget is not None and self.price is None:
            raise InputError("a budget needs a price: tokens in and out, per million, e.g. --price 2.5/10")
        if self.price is not None and (min(self.price) < 0 or (self.budget is not None and self.budget < 0)):
            raise InputError(f"`price` and `budget` cannot be negative; got {self.price} and {self.budget}")


@dataclass(frozen=True, kw_only=True)
class Propose(Asking):
    """All settings of `contralens.propose`."""

    run: Annotated[Any, Setting("A run folder.", THING, python="Or a `Run`.")] = field(kw_only=False)
    proposer: Annotated[
        Any,
        Setting("hf:MODEL or hf:FOLDER, openai:MODEL@URL, captions:FILE, captions:metadata; see `proposers`.", THING,
                python="Or a `Proposer`."),
    ] = field(kw_only=False)  # fmt: skip
    images: Annotated[
        Any,
        Setting("Where the probe images are now (default: where they were, else thumbnails).", FILE,
                python="Or the image set; without it thumbnails are shown."),
    ] = None  # fmt: skip
    neurons: Annotated[
        Sequence[int] | None, Setting("Indices such as 0,5,10-20 (default: all labeled).", neurons())
    ] = None
    target: Annotated[Any, Setting("The run's network, for `focus`.", PYTHON)] = None
    encoder: Annotated[Any, Setting("The run's encoder (default: loaded by its name).", PYTHON)] = None
    folder: Annotated[
        str | Path | None, Setting("Folder of replies and candidates (default RUN.candidates).", PATH, flag="--out")
    ] = None
    dry_run: Annotated[bool, Setting("Print the plan and one question, write its pictures, ask nothing.", SWITCH)] = (
        False
    )
    on_plan: Annotated[
        Callable[[Any], None] | None,
        Setting("Hears the plan (`Plan`, or `CaptionPlan` of a caption bank) before anything is asked.", PYTHON),
    ] = None
    proposer_options: Annotated[
        Mapping[str, Any] | None,
        Setting("Options of the backend, see `contralens.models.proposers.proposer`.", mapping("workers=2")),
    ] = None
    caption_options: Annotated[
        Mapping[str, Any] | None,
        Setting("Options of a caption bank, see `caption_candidates`.", mapping("contrast=falcon")),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Backends(Asking):
    """How a proposer is asked, with what the backends take besides: flags, and what `label --propose` takes."""

    COMMON: ClassVar[bool] = True
    workers: Annotated[int | None, Setting("openai: questions under way at once (default 4).", WHOLE)] = None
    timeout: Annotated[float | None, Setting("openai: seconds for one attempt (default 120).", NUMBER)] = None
    retries: Annotated[
        int | None, Setting("openai: further attempts after 429, 5xx (default 4).", count(0))
    ] = None  # fmt: skip
    key_env: Annotated[
        str | None,
        Setting("openai: environment variable with the key (default OPENAI_API_KEY; CONTRALENS_API_KEY).", TEXT),
    ] = None
    batch: Annotated[int | None, Setting("hf: questions in one pass (default 4).", WHOLE)] = None
    dtype: Annotated[str | None, Setting("hf: auto, float32, bfloat16 or float16.", TEXT)] = None
    contrast: Annotated[
        Literal["partners", "falcon"] | None,
        Setting('captions: "partners" (default) or "falcon", mined in the target\'s space.',
                choice("partners", "falcon")),
    ] = None  # fmt: skip
    groups: Annotated[
        Sequence[Sequence[int]] | None,
        Setting('captions: neurons explained together, e.g. "3,8;5,6" (FALCON\'s groups).', GROUPS_OF_NEURONS),
    ] = None


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
