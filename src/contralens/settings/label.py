"""The settings of labeling, stage by stage: those of each stage include those of the stages before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

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
    PYTHON,
    SWITCH,
    TABLE,
    TEMPLATES,
    TEXT,
    TEXTS,
    THING,
    WHOLE,
    WORDS,
    between,
    indices_or,
    named,
    one_of,
    whole_from,
)
from contralens.settings.record import Work, about, setting
from contralens.types import AUTO

DEFAULT_SCORERS = ("semanticlens", "clip_dissect", "csp:gamma=0", "csp")
GROUPS = about(
    TABLE,
    "Groups of images (one patient, lesion, scene, video): TABLE:COLUMN. A group is held "
    "out as a whole, provides at most `per_group` exemplars per neuron, and never its own contrasts.",
    python="Or image -> group.",
    reads=True,
)


@dataclass(frozen=True, kw_only=True)
class Collect(Work):
    """What is computed of every image: by which networks, and how."""

    target: Any = field(kw_only=False, metadata=about(THING,
        "The network: torchvision:NAME, timm:NAME, hf:ID, module:FILE.py:FUNCTION, world:1.",
        python="Or a `Target`, or an `nn.Module` (with `layer` and `preprocess`).", reads=True))  # fmt: skip
    images: Any = field(kw_only=False, metadata=about(FILE,
        "The probe images: a folder, @LIST.txt, hf-dataset:NAME:SPLIT[:COLUMN] or npz:FILE:ARRAY.",
        python="Or a list of files, a torch or Hugging Face dataset.", reads=True))  # fmt: skip
    encoder: Any = field(kw_only=False, metadata=about(ENCODER,
        "The image-text encoder: open_clip:ARCH/TAG, hf:ID, offline, world; `contralens collect` accepts "
        "several.", python="Or an `Encoder`.", reads=True))  # fmt: skip
    layer: str | Sequence[str] | None = setting(None, LAYER,
        "Layer name, as in `named_modules()`; `contralens layers TARGET` lists them. Repeatable; patterns such as "
        "'blocks.*' (\"*\" stays between dots, \"**\" crosses them) and \"all\" choose several: one forward pass "
        "covers all, and each gets its run in OUT.", python="Several are for `contralens.label_layers`.")  # fmt: skip
    layer_kinds: Sequence[str] | None = setting(None, WORDS,
        "Choose layers by kind: stem, block, head, conv, linear, attention, mlp, output; repeatable or with "
        "commas. With `layer`, only those of its layers.", result=False)  # fmt: skip
    pooling: str | None = setting(None, TEXT,
        "How to reduce a feature map or tokens to one number: mean, max, cls, mean_patches, ... "
        "(default: inferred).")  # fmt: skip
    sae: Any = setting(None, OBJECT,
        "Sparse autoencoder on that layer; labels its latents instead: FILE or "
        "FOLDER[:kind=topk,k=32,...].", reads=True)  # fmt: skip
    sae_pooling: str | None = setting(None, TEXT, "How to pool latents over patches: max (default), mean, cls.")
    rank_by: str = setting("activation", TEXT,
        'How to rank exemplars: by "activation", or by "relevance", the contribution to the score of the '
        'predicted class (LRP or activation times gradient); "relevance:method=gradient,class=3" '
        "(docs/howto/relevance.md).")  # fmt: skip
    checkpoint: str | Path | None = setting(None, CHECKPOINT,
        "Your weights for the architecture: .safetensors, .pt, .pth, .ckpt, a folder; FILE::PART for a "
        "part.", reads=True)  # fmt: skip
    weights: str | None = setting(None, TEXT, 'Name of pretrained weights, or "random".')
    preprocess: Callable[[Any], Any] | str | Mapping[str, Any] | None = setting(None, OBJECT,
        'Preprocessing of your network, e.g. "resize=256,crop=224,mean=imagenet".',
        python="Or a function of an image.")  # fmt: skip
    prefix_tokens: int | None = setting(None, whole_from(0),
        "Number of class and register tokens before the patches, if detection fails.")  # fmt: skip
    dtype: str = setting("float32", TEXT,
        'Precision of the target, even if it changes labels: "float32", "onednn" or "bf16".')  # fmt: skip
    compile: bool = setting(False, SWITCH,
        "Run the target by torch.compile, where it can be compiled and gives the same rows to within 2e-6; the run's "
        "notes say whether it was. For one layer.")  # fmt: skip
    decode: str = setting("exact", one_of("exact", "fast"),
        "\"exact\": each network's own transform; \"fast\": tensor operations, where they agree with it "
        "(docs/scale.md).")  # fmt: skip
    precision: str = setting("float32", one_of("float32", "onednn", "bf16"),
        '"float32", or "onednn" (float32 by oneDNN, CPUs only) or "bf16" where that is faster and agrees on the '
        "first images (docs/scale.md).")  # fmt: skip
    allow_nondeterministic: bool = setting(False, SWITCH,
        "Accept networks whose output is not a function of the image (random masking, active "
        "dropout, batch statistics); the run records it. They are refused otherwise.", written=True)  # fmt: skip
    limit: int | None = setting(None, WHOLE, "Use a random sample of this many images.", written=True)

    def target_options(self) -> dict[str, Any]:
        """Settings for `contralens.target` besides layer and device that differ from the default."""
        return self.given(
            "pooling", "checkpoint", "weights", "preprocess", "prefix_tokens", "dtype",
            "compile", "decode", "allow_nondeterministic",
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Mine(Collect):
    """How exemplars are found."""

    k: int = setting(30, WHOLE, "Exemplars per neuron.", flag="-k", written=True)
    reuse: bool = setting(
        True, SWITCH, "Allow an image to be the contrast of several exemplars (default).", written=True
    )
    exclude: float | None = setting(None, between(one=True),
        "Skip contrasts with a cosine above this, i.e. near-duplicates (default: off).", written=True)  # fmt: skip
    neighbours: str = setting("exact", TEXT,
        'Nearest-neighbour search: "exact"; beyond a million images faiss:hnsw, faiss:ivf (see '
        "`find_exemplars`).")  # fmt: skip
    neurons: Literal["all", "paper"] | Sequence[int] = setting("all", indices_or("all", "paper"),
        '"all", "paper" (its choice of 200, `select_neurons`), or indices such as 0,5,10-20.')  # fmt: skip
    holdout: float = setting(0.0, between(zero=True),
        "Share of the images to hold out for `contralens evaluate`, drawn with `seed` "
        "(default: none).")  # fmt: skip
    groups: Any = field(default=None, metadata=GROUPS)
    per_group: int = setting(1, WHOLE, "Maximum number of exemplars of a neuron per group; requires `groups`.")
    store_activations: bool = setting(True, SWITCH,
        "Store activations in the cache (default). If off, the network runs again on images "
        "that decide a contrast: same labels, memory O(N K), up to three times the network's time; "
        "scorers that use all activations need one more pass.")  # fmt: skip
    calibrate: Any = setting(None, CALIBRATE,
        "Calibrate confidence on neurons with known labels, repeatable: outputs (the network's "
        'own), or neurons planted on image content: classes, TABLE:COLUMN ("|" between several concepts '
        "of an image). docs/confidence.md shows where this helps and where it hurts.",
        python="Or image -> concepts, or a list of these.")  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.store_activations or (self.reuse and not self.allow_nondeterministic):
            return
        raise InputError(
            "a network with varying output cannot run again for a contrast; set `store_activations=True`"
            if self.reuse
            else "`reuse=False` needs stored activations; set `store_activations=True` or `reuse=True`"
        )

    def mining(self) -> dict[str, Any]:
        """Arguments of mining; those that may be left out only where they are not the default."""
        return {"k": self.k, "reuse": self.reuse, "exclude": self.exclude, **self.given("neighbours")}


@dataclass(frozen=True, kw_only=True)
class Score(Mine):
    """Which concepts are scored, and by what."""

    vocabulary: Any = field(kw_only=False, metadata=about(FILE,
        "Concepts to choose from: a file (one per line, JSON, YAML, TABLE.csv:COLUMN), or a built-in name.",
        python="Or a list of texts.", reads=True))  # fmt: skip
    scorers: str | Sequence[str] | None = setting(None, TEXTS,
        'Scorer with options, e.g. "csp:gamma=0.5", repeatable; the last is primary (default: '
        "semanticlens, clip_dissect, csp:gamma=0, csp, and auto where confidence is estimated). auto: for each "
        "neuron, the label that is most likely right.", flag="--scorer")  # fmt: skip
    primary: str | None = setting(None, TEXT,
        "Scorer whose labels are the run's; added to the others if missing (default: the last "
        "scorer).")  # fmt: skip
    crop: str | None = setting(None, TEXT,
        'Score crops of exemplars and contrasts around the region where the neuron fires: by its "map" or the '
        '"relevance" of pixels.')  # fmt: skip
    templates: str | Sequence[str] = setting("plain", TEMPLATES,
        'Text template, repeatable, e.g. "a photo of a {}", or a set: plain, photo.', flag="--template")  # fmt: skip
    normalise_texts: bool = setting(True, SWITCH,
        "Normalise text embeddings (default); off: as in the published code.",
        written=True)  # fmt: skip
    proposer: Any = setting(None, THING,
        "Propose concepts beyond the vocabulary from the exemplars: hf:MODEL, openai:MODEL@URL, "
        "captions:FILE; replies are saved in OUT.candidates (see `contralens.propose`).", reads=True)  # fmt: skip
    proposing: Mapping[str, Any] | None = setting(None, named("focus=crop"),
        "Setting of `contralens propose`, repeatable, e.g. focus=crop.",
        flag="--propose")  # fmt: skip
    candidates: Any = setting(None, FILE,
        "Output of `contralens propose` (RUN.candidates); added to the vocabulary.", reads=True)  # fmt: skip
    simple: bool = setting(False, SWITCH,
        "Label with a combination, e.g. red striped, only where it explains more than each part.",
        written=True)  # fmt: skip
    own_only: bool = setting(False, SWITCH,
        "Score each proposed concept only for the neurons it was proposed for.",
        flag="--own-only/--for-all")  # fmt: skip
    confidence: bool = setting(True, SWITCH,
        "Estimate how likely each label is right, with reasons (default; see `contralens.label_confidence`). "
        "Runs a panel of scorers in addition; needs stored activations.")  # fmt: skip
    top: int = setting(10, WHOLE, "Top concepts saved per neuron and scorer.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if AUTO in self.specs and not (self.confidence and self.store_activations):
            raise InputError('the scorer "auto" needs confidence, and that needs stored activations: leave both on')
        if self.calibrate is not None and not (self.confidence and self.store_activations):
            raise InputError("`calibrate` sets the level of confidence, which needs stored activations: leave both on")

    @property
    def _trusting(self) -> bool:
        """Whether labels get a confidence, by which "auto" chooses."""
        whole = self.crop is None and self.rank_by == "activation"
        return whole and self.confidence and self.store_activations

    @property
    def specs(self) -> list[str]:
        """The scorers as a list, the primary one last."""
        by_default = [*DEFAULT_SCORERS, *([AUTO] if self._trusting else [])]
        asked = (
            [self.scorers]
            if isinstance(self.scorers, str)
            else list(by_default if self.scorers is None else self.scorers)
        )
        return asked if self.primary is None else [*(s for s in asked if s != self.primary), self.primary]


@dataclass(frozen=True, kw_only=True)
class Judge(Score):
    """Which labels are rejected."""

    fdr: float | None = setting(None, between(),
        "Null test at this false-discovery rate, e.g. 0.05: reject labels that do not beat `fakes` null "
        "neurons (real activations in random order) (default: off).")  # fmt: skip
    fakes: int = setting(FAKES, NULL_NEURONS, "Number of null neurons in the null test.")

    @property
    def _trusting(self) -> bool:
        """The same, and no null test, which cannot test "auto"."""
        return self.fdr is None and super()._trusting


@dataclass(frozen=True, kw_only=True)
class Label(Judge):
    """All settings of `contralens.label`."""

    out: str | Path | None = setting(None, PATH,
        "Run folder to write. Replaces an older run only if the folder holds nothing else; "
        "checked before the work starts.",
        python="Without it the run is returned but not saved.", result=False)  # fmt: skip
    replace: bool = setting(False, SWITCH,
        "Replace an older run even if it was edited or holds an evaluation, audit or maps.", result=False)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LabelLayers(Label):
    """All settings of `contralens.label_layers`."""

    layers: str | Sequence[str] = field(default="all", metadata=about(LAYER,
        'Names or patterns of layers, or "all" (docs/howto/layers.md). Writes each run to OUT/LAYER ("output" for the '
        'layer ".").'))  # fmt: skip
    on_plan: Callable[[Any], None] | None = setting(None, PYTHON,
        "Called with the `LayerPlan` of a pattern, before any image is read.", result=False)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LabelCommand(Label):
    """What the command and its YAML file take besides."""

    report: bool = setting(True, SWITCH, "Write report.html into the run (default).", result=False)
