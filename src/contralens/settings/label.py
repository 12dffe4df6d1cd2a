"""The settings of labeling, stage by stage: those of each stage include those of the stages before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from contralens.checks import FAKES
from contralens.errors import InputError
from contralens.settings.kinds import (
    CALIBRATE,
    CHECKPOINT,
    ENCODER,
    FILE,
    LAYER,
    NULL_NEURONS,
    OBJECT,
    PATH,
    SWITCH,
    TABLE,
    TEMPLATES,
    TEXT,
    TEXTS,
    THING,
    WHOLE,
    choice,
    count,
    mapping,
    neurons,
    share,
)
from contralens.settings.record import Setting, Work
from contralens.types import AUTO

DEFAULT_SCORERS = ("semanticlens", "clip_dissect", "csp:gamma=0", "csp")
GROUPS = Setting(
    "Images that belong together (of one patient, lesion, scene, video): TABLE:COLUMN. A group is held "
    "out as a whole, gives a neuron at most `per_group` exemplars, and no contrast of its own.",
    TABLE,
    python="Or image -> group.",
    reads=True,
)


@dataclass(frozen=True, kw_only=True)
class Collect(Work):
    """What is computed of every image: by which networks, and how."""

    target: Annotated[
        Any,
        Setting(
            "The network: torchvision:NAME, timm:NAME, hf:ID, module:FILE.py:FUNCTION, world:1.", THING,
            python="Or a `Target`, or an `nn.Module` (with `layer` and `preprocess`).", reads=True,
        ),
    ] = field(kw_only=False)  # fmt: skip
    images: Annotated[
        Any,
        Setting(
            "The probe images: a folder, @LIST.txt, hf-dataset:NAME:SPLIT[:COLUMN] or npz:FILE:ARRAY.", FILE,
            python="Or a list of files, a torch or Hugging Face dataset.", reads=True,
        ),
    ] = field(kw_only=False)  # fmt: skip
    encoder: Annotated[
        Any,
        Setting("The image-text encoder: open_clip:ARCH/TAG, hf:ID, offline, world; `contralens collect` takes "
                "several.", ENCODER, python="Or an `Encoder`.", reads=True),
    ] = field(kw_only=False)  # fmt: skip
    layer: Annotated[
        str | Sequence[str] | None,
        Setting("Its layer, as in `named_modules()`; `contralens layers TARGET` lists them. The flag is repeatable: "
                "one forward gives all.", LAYER, python="Several are for `contralens.label_layers`."),
    ] = None  # fmt: skip
    pooling: Annotated[
        str | None,
        Setting("How a map or tokens become one number: mean, max, cls, mean_patches, ... (default: inferred).", TEXT),
    ] = None
    sae: Annotated[
        Any,
        Setting("A sparse autoencoder over that layer, whose latents are labeled instead: FILE or "
                "FOLDER[:kind=topk,k=32,...].", OBJECT, reads=True),
    ] = None  # fmt: skip
    sae_pooling: Annotated[
        str | None, Setting("How latents of patches become one: max (default), mean, cls.", TEXT)
    ] = None
    checkpoint: Annotated[
        str | Path | None,
        Setting("Own weights for the architecture: .safetensors, .pt, .pth, .ckpt, a folder; FILE::PART for a part.",
                CHECKPOINT, reads=True),
    ] = None  # fmt: skip
    weights: Annotated[str | None, Setting('Name of pretrained weights, or "random" for none.', TEXT)] = None
    preprocess: Annotated[
        Callable[[Any], Any] | str | Mapping[str, Any] | None,
        Setting('Preprocessing of own networks, e.g. "resize=256,crop=224,mean=imagenet".', OBJECT,
                python="Or a function of an image."),
    ] = None  # fmt: skip
    prefix_tokens: Annotated[
        int | None,
        Setting("Class and register tokens before the patches, where that is not found out.", count(0)),
    ] = None
    dtype: Annotated[
        str, Setting('What the target computes in, whatever that does to labels: "float32" or "bf16".', TEXT)
    ] = "float32"
    decode: Annotated[
        str,
        Setting('"exact": each network\'s own transform; "fast": on tensors, where that agrees with it '
                "(docs/scale.md).", choice("exact", "fast")),
    ] = "exact"  # fmt: skip
    precision: Annotated[
        str,
        Setting('"float32", or "bf16" where it is faster and the first images allow it.', choice("float32", "bf16")),
    ] = "float32"
    allow_nondeterministic: Annotated[
        bool,
        Setting("Take networks whose rows are not a function of the image (random masking, dropout that is always on, "
                "statistics of the batch); the run says so. They are refused otherwise.", SWITCH, written=True),
    ] = False  # fmt: skip
    limit: Annotated[
        int | None, Setting("Use a sample of that many images, drawn with `seed`.", WHOLE, written=True)
    ] = None

    def target_options(self) -> dict[str, Any]:
        """What `contralens.target` is told besides layer and device, where it is not the default."""
        return self.given(
            "pooling", "checkpoint", "weights", "preprocess", "prefix_tokens", "dtype", "decode",
            "allow_nondeterministic",
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Mine(Collect):
    """How exemplars are found."""

    k: Annotated[int, Setting("Exemplars per neuron.", WHOLE, flag="-k", written=True)] = 30
    reuse: Annotated[
        bool, Setting("Let an image be the contrast of several positives (default).", SWITCH, written=True)
    ] = True
    exclude: Annotated[
        float | None,
        Setting(
            "Skip contrasts with a cosine above this: near-duplicates (default: off).", share(one=True), written=True
        ),
    ] = None
    neighbours: Annotated[
        str,
        Setting('How look-alikes are found: "exact"; beyond a million images faiss:hnsw, faiss:ivf (see '
                "`find_exemplars`).", TEXT),
    ] = "exact"  # fmt: skip
    neurons: Annotated[
        Literal["all", "paper"] | Sequence[int],
        Setting('"all", "paper" (its choice of 200, `select_neurons`), or indices such as 0,5,10-20.',
                neurons("all", "paper")),
    ] = "all"  # fmt: skip
    holdout: Annotated[
        float,
        Setting("Share of the images that no exemplar comes from, drawn with `seed`, kept for `contralens evaluate` "
                "(default: none).", share(zero=True)),
    ] = 0.0  # fmt: skip
    groups: Annotated[Any, GROUPS] = None
    per_group: Annotated[int, Setting("Exemplars of a neuron from one group at most; goes with `groups`.", WHOLE)] = 1
    store_activations: Annotated[
        bool,
        Setting("Keep activations in the cache (default). Without, what is needed of all images is gathered while the "
                "network runs, and it runs again on those whose activations decide a contrast: same labels, memory "
                "O(N K), up to three times the network's time; a scorer that looks at all activations takes one time "
                "more.", SWITCH),
    ] = True  # fmt: skip
    calibrate: Annotated[
        Any,
        Setting("Neurons whose truth is known set the level of confidence, repeatable: outputs (the network's own), or "
                'planted on what the images show: classes, TABLE:COLUMN ("|" between several concepts of an image). '
                "docs/confidence.md says where this helps and where it harms.", CALIBRATE,
                python="Or image -> concepts, or a list of these."),
    ] = None  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.store_activations or (self.reuse and not self.allow_nondeterministic):
            return
        raise InputError(
            "a network whose rows differ from run to run cannot be run again for a contrast: store the activations"
            if self.reuse
            else "without reuse, contrasts are given out one rank after the other, and the network would run again for "
            "each rank: store the activations, or allow reuse"
        )

    def mining(self) -> dict[str, Any]:
        """Arguments of mining; those that may be left out only where they are not the default."""
        return {"k": self.k, "reuse": self.reuse, "exclude": self.exclude, **self.given("neighbours")}


@dataclass(frozen=True, kw_only=True)
class Score(Mine):
    """Which concepts are scored, and by what."""

    vocabulary: Annotated[
        Any,
        Setting("Concepts to choose from: a file (one a line, JSON, YAML, TABLE.csv:COLUMN), or a built-in "
                "name.", FILE, python="Or a list of texts.", reads=True),
    ] = field(kw_only=False)  # fmt: skip
    scorers: Annotated[
        str | Sequence[str],
        Setting('Scorer with its options, e.g. "csp:gamma=0.5", repeatable; the last is the primary (default: '
                "semanticlens, clip_dissect, csp:gamma=0, csp). auto: for each neuron, the label with the highest "
                "confidence.", TEXTS, flag="--scorer"),
    ] = DEFAULT_SCORERS  # fmt: skip
    templates: Annotated[
        str | Sequence[str],
        Setting('Text template, repeatable, e.g. "a photo of a {}", or a set: plain, photo.', TEMPLATES,
                flag="--template"),
    ] = "plain"  # fmt: skip
    normalise_texts: Annotated[
        bool,
        Setting(
            "Normalise text embeddings (default); without, they are those of the published code.", SWITCH, written=True
        ),
    ] = True
    proposer: Annotated[
        Any,
        Setting("Ask for concepts beyond the vocabulary, showing the exemplars: hf:MODEL, openai:MODEL@URL, "
                "captions:FILE; replies are kept in OUT.candidates (see `contralens.propose`).", THING, reads=True),
    ] = None  # fmt: skip
    proposing: Annotated[
        Mapping[str, Any] | None,
        Setting("A setting of `contralens propose` for the proposer, repeatable, e.g. focus=crop.",
                mapping("focus=crop"), flag="--propose"),
    ] = None  # fmt: skip
    candidates: Annotated[
        Any,
        Setting("What `contralens propose` wrote: RUN.candidates; joins the vocabulary.", FILE, reads=True),
    ] = None
    own_only: Annotated[
        bool,
        Setting("Score proposed concepts only for the neurons that they were proposed for.", SWITCH,
                flag="--own-only/--for-all"),
    ] = False  # fmt: skip
    confidence: Annotated[
        bool,
        Setting("Say how likely each label is right, and why (default; see `contralens.label_confidence`). The scorers "
                "of the panel are run besides those asked for; not where activations are not stored.", SWITCH),
    ] = True  # fmt: skip
    top: Annotated[int, Setting("Concepts kept per neuron and scorer.", WHOLE)] = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if AUTO in self.specs and not (self.confidence and self.store_activations):
            raise InputError('the scorer "auto" needs confidence, and that needs stored activations: leave both on')
        if self.calibrate is not None and not (self.confidence and self.store_activations):
            raise InputError("`calibrate` sets the level of confidence, which needs stored activations: leave both on")

    @property
    def specs(self) -> list[str]:
        """The scorers as a list."""
        return [self.scorers] if isinstance(self.scorers, str) else list(self.scorers)


@dataclass(frozen=True, kw_only=True)
class Judge(Score):
    """Which labels are turned down."""

    fdr: Annotated[
        float | None,
        Setting("Null test at this false-discovery rate, e.g. 0.05: no label where none beats `fakes` null neurons "
                "(real activations in a random order) that go the same way (default: off).", share()),
    ] = None  # fmt: skip
    fakes: Annotated[int, Setting("Null neurons of the null test.", NULL_NEURONS)] = FAKES


@dataclass(frozen=True, kw_only=True)
class Label(Judge):
    """All settings of `contralens.label`."""

    out: Annotated[
        str | Path | None,
        Setting("Run folder to write. What is there already is looked at before the work: only an older run, with "
                "nothing else in it, is replaced.", PATH, python="Without it the run is only returned.", result=False),
    ] = None  # fmt: skip
    replace: Annotated[
        bool,
        Setting("Replace an older run even if it was edited or holds an evaluation, audit or maps.", SWITCH,
                result=False),
    ] = False  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LabelLayers(Label):
    """All settings of `contralens.label_layers`."""

    layers: Annotated[
        Sequence[str],
        Setting('Names of the layers. The run of each goes to OUT/LAYER ("output" for the layer ".").', LAYER),
    ]


@dataclass(frozen=True, kw_only=True)
class LabelCommand(Label):
    """What the command and its YAML file take besides."""

    report: Annotated[bool, Setting("Write report.html into the run (default).", SWITCH, result=False)] = True
