"""The settings of what is asked of a finished run: its evaluation, its audit, its verification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from contralens.checks import FAKES
from contralens.errors import InputError
from contralens.settings.kinds import (
    ALL_OR_COUNT,
    CLASSES,
    FILE,
    FILE_OR_OBJECT,
    FILES,
    FOLDER,
    NAMES,
    NULL_NEURONS,
    NUMBER,
    PATH,
    PYTHON,
    SWITCH,
    TABLE,
    TEXT,
    TEXTS,
    THING,
    TWO_NUMBERS,
    WHOLE,
    WORDS,
    between,
    indices_or,
    one_of,
    several,
    whole_from,
)
from contralens.settings.label import GROUPS
from contralens.settings.record import Settings, Where, Work, about, setting

DEFAULT_METRICS = ("simulation", "cosy", "fade", "audit")
IMAGE_COLUMN = about(TEXT, "Table column with the image name (default: detected by name or values).")
CLASS_COLUMN = about(TEXT, "Table column with the class (default: class, label, dx ...).")


@dataclass(frozen=True, kw_only=True)
class OnRun(Work):
    """What is asked of any run."""

    COMMON: ClassVar[bool] = True

    run: Any = field(kw_only=False, metadata=about(THING, "A run folder.", python="Or a `Run`."))
    source: Any = setting(None, FILE, "Current location of the run's images, if they moved.")
    target: Any = setting(None, PYTHON, "The run's network, if the manifest does not identify it.")


@dataclass(frozen=True, kw_only=True)
class KeptOnRun(OnRun):
    """What is asked of any run, and kept in its folder."""

    COMMON: ClassVar[bool] = True

    save: bool = setting(True, SWITCH, "Save the result in the run's folder, if it has one (default).")


@dataclass(frozen=True, kw_only=True)
class OnLabels(KeptOnRun):
    """What is asked of a run by null neurons, images of groups, and classes."""

    COMMON: ClassVar[bool] = True

    groups: Any = field(default=None, metadata=GROUPS)
    classes: str | Path | Sequence[str] | None = setting(None, CLASSES,
        "File of the network's class names, one per line (default: those of its weights).",
        python="Or a list of names.")  # fmt: skip
    fakes: int = setting(FAKES, NULL_NEURONS, "Number of null neurons in the null test.")

    @property
    def class_names(self) -> list[str] | None:
        """The classes, where they are given."""
        return None if self.classes is None else list(cast(Sequence[str], self.classes))


@dataclass(frozen=True, kw_only=True)
class Evaluate(OnLabels):
    """All settings of `contralens.evaluate`."""

    metrics: str | Sequence[str] = setting(DEFAULT_METRICS, NAMES,
        "Metrics or groups, comma-separated: simulation, cosy, fade, audit (default), faithfulness, "
        "granularity.", python="Or names in a list; see `contralens.evaluation.measuring.METRICS`.")  # fmt: skip
    judge: Any = setting(None, THING,
        "Encoder that judges the labels, named as in `label`. Use another one than the labeling "
        "encoder.")  # fmt: skip
    same_judge: bool = setting(False, SWITCH, "Let the labeling encoder judge its own labels; the result records it.")
    images: str | Path | None = setting(None, PATH, "Images for CoSy: a folder with one subfolder per label.")
    painter: Any = setting(None, THING,
        "Generate them: diffusers:ID_OR_FOLDER[@steps=4,guidance=0,size=512]. Without images and "
        "painter, the judge retrieves them from the held-out set.")  # fmt: skip
    preset: str | None = setting(None, TEXT, "Published generation settings: cosy or csp.")
    count: int | None = setting(None, WHOLE, "Images per label (default 20).")
    prompt: str | None = setting(None, TEXT, 'Prompt for the painter, e.g. "a photo of {label}".')
    control: int | None = setting(None, WHOLE, "Maximum number of control images (default: all held-out images).")
    heldout: Any = setting(None, FILE,
        "Other images to evaluate on (default: the held-out set of `label`).")  # fmt: skip
    encoder: Any = setting(None, PYTHON, "The run's labeling encoder, if the manifest does not identify it.")
    scorers: str | Sequence[str] | None = setting(None, TEXTS,
        "Evaluate only this scorer, repeatable (default: all of the run).", flag="--scorer")  # fmt: skip
    concepts: int = setting(1, WHOLE, "Number of top concepts that form a label.", written=True)
    combine: Literal["mean", "max"] = setting("max", one_of("mean", "max"),
        "How to combine several concepts.", written=True)  # fmt: skip
    sigmoid: tuple[float, float] | None = setting(None, TWO_NUMBERS,
        "Alpha and beta of the judge's sigmoid, e.g. 10,-2 (default: fitted on the validation set).")  # fmt: skip
    share: float = setting(0.05, between(),
        "Share of the images on which a neuron counts as active, and a concept as present.", written=True)  # fmt: skip
    check_metrics: bool = setting(True, SWITCH, "Also run sanity tests on the metrics (default).")
    fdr: float | None = setting(None, between(),
        "Null test: report which labels beat null neurons at this false-discovery rate, e.g. 0.05.")  # fmt: skip
    fake_kind: Literal["permuted", "mixture"] = setting("permuted", one_of("permuted", "mixture"),
        "Null neurons: real activations in random order, or random mixtures of neurons.")  # fmt: skip
    stability: int = setting(0, whole_from(0, 1_000_000),
        "Bootstrap samples of the probe set for label sets, e.g. 50 (default: none).")  # fmt: skip
    coverage: float = setting(0.9, between(one=True), "Share of the bootstrap samples that a label set covers.")
    meanings: bool = setting(False, SWITCH, "Detect polysemantic neurons.")
    gamma: Literal["layer", "neuron"] | None = setting(None, one_of("layer", "neuron"),
        "Also evaluate CSP at the gamma with the highest confidence, per layer or per "
        "neuron.")  # fmt: skip
    truth: Any = setting(None, FILE_OR_OBJECT,
        "True labels of neurons, to count correct labels: CSV with columns neuron and label, or JSON "
        "(default: class names of an output layer, the rendered world's).", python="Or a mapping.")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Audit(OnLabels):
    """All settings of `contralens.audit`."""

    concepts: str | Path | Mapping[str, Any] | Any = field(kw_only=False, metadata=about(FILE_OR_OBJECT,
        "Expected and spurious concepts: dermoscopy, photographs, or a YAML file.",
        python="Or a dict; see `contralens.concept_list`."))  # fmt: skip
    scorer: str = setting("csp", TEXT,
        "Scorer for the concepts, e.g. csp:gamma=0.5; it need not be one of the run's.", written=True)  # fmt: skip
    labeled: Any = setting(None, FILE_OR_OBJECT,
        "Images to measure pruning on: one subfolder per class, or a CSV file.",
        python="Or anything that `contralens.labeled_images` accepts.")  # fmt: skip
    new_head: bool = setting(False, SWITCH,
        "Fit a new linear head without the spurious neurons on part of the labeled images.")  # fmt: skip
    subgroups: str | Path | Mapping[str, Any] | None = setting(None, FILE_OR_OBJECT,
        "CSV file of subgroups: image, then one column per kind of group.",
        python="Or image -> {column: value}.")  # fmt: skip
    image_column: str | None = field(default=None, metadata=IMAGE_COLUMN)
    class_column: str | None = field(default=None, metadata=CLASS_COLUMN)
    unseen: bool = setting(False, SWITCH,
        "Exclude labeled images that are exemplars, and other images of their groups.")  # fmt: skip
    head: str | None = setting(None, TEXT,
        "Linear layer from neurons to classes (default: detected; none: do not use one).")  # fmt: skip
    follow: Sequence[str] | None = setting(None, TEXTS,
        "Class whose score to measure, repeatable (default: all, at most the 20 most predicted).")  # fmt: skip
    fdr: float = setting(0.05, between(), "False-discovery rate of the verdicts.")
    mode: Literal["hard", "soft"] = setting("hard", one_of("hard", "soft"),
        '"hard" sets spurious neurons to zero, "soft" attenuates them.', written=True)  # fmt: skip
    images: int = setting(16, WHOLE, "Images per neuron for measuring influence.")
    sample: int | None = setting(32, ALL_OR_COUNT,
        "Unexplained neurons to ablate in addition to all explained ones; -1 for all.",
        python="None also means all.")  # fmt: skip
    encoder: Any = setting(None, THING,
        "Use another encoder than the run's, e.g. a medical one; contrasts are then mined in its space.")  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.new_head and self.labeled is None:
            raise InputError("a new head needs labeled images with classes; set labeled= (--labeled FOLDER)")
        for name in ("subgroups", "unseen", "image_column", "class_column"):
            if self.labeled is None and getattr(self, name):
                raise InputError(f"`{name}` is about labeled images; set labeled= (--labeled FOLDER)")


@dataclass(frozen=True, kw_only=True)
class Verify(KeptOnRun):
    """All settings of `contralens.verify`."""

    editor: str | Any = setting("auto", THING,
        "How to edit images: retrieve, swap, world, diffusers:ID_OR_FOLDER (auto: world for images of a "
        "rendered world, else retrieve).", python="Or your own `Editor`.")  # fmt: skip
    scorer: str | None = setting(None, TEXT, "Scorer whose labels to test (default: the primary scorer).")
    neurons: Sequence[int | str] | None = setting(None, PYTHON,
        "Neurons to test, by index or name (default: all labeled neurons).")  # fmt: skip
    label: str | None = setting(None, TEXT, "Phrase to test instead of the scorer's labels; requires neurons.")
    images: int = setting(8, WHOLE, "Maximum number of exemplars, and of contrasts, edited per label.", written=True)
    controls: int = setting(2, WHOLE, "Control edits per image.", written=True)
    seconds: float | None = setting(None, NUMBER,
        "Start no further neuron after this many seconds; a note lists the skipped neurons.")  # fmt: skip
    edits: int | None = setting(None, WHOLE,
        "Maximum number of images that a diffusion model generates; labels beyond it are left out, and "
        "a later call resumes.")  # fmt: skip
    refine: int = setting(0, whole_from(0),
        "If a label is refuted, test up to this many other concepts until one is verified (default: 0).",
        written=True)  # fmt: skip
    inside: str | None = setting(None, TEXT,
        "Also steer the network itself along the concept, at this layer (auto: the layer before the run's), and name "
        "the class that the neuron affects most.", written=True)  # fmt: skip
    encoder: Any = setting(None, PYTHON, "The run's labeling encoder, if the manifest does not identify it.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label is not None and self.neurons is None:
            raise InputError("`label` tests one phrase on given neurons; set `neurons` (after the run)")


@dataclass(frozen=True, kw_only=True)
class Match(Work):
    """All settings of `contralens.match`."""

    one: Any = field(kw_only=False, metadata=about(THING, "A run folder.", python="Or a `Run`."))
    other: Any = field(kw_only=False, metadata=about(THING,
        "Second run folder: another checkpoint, seed, layer or network.", python="Or a `Run`."))  # fmt: skip
    by: Literal["auto", "activations", "exemplars"] = setting("auto", one_of("auto", "activations", "exemplars"),
        "How to compare neurons: by activations on the images that both runs share, or by the embeddings of their "
        "exemplars if the images differ (auto: activations from 50 shared images on).", written=True)  # fmt: skip
    null: Literal["auto", "mixture", "permuted"] = setting("auto", one_of("auto", "mixture", "permuted"),
        "Null neurons: random mixtures of the layer's neurons, or real activations in random order (auto: "
        "mixture for activations, permuted for exemplars).", written=True)  # fmt: skip
    fakes: int = setting(FAKES, NULL_NEURONS, "Null neurons per network.", written=True)
    level: float = setting(0.05, between(),
        "Share of the null neurons that may find a match above the threshold.", written=True)  # fmt: skip
    least: float = setting(0.0, between(zero=True), "Minimum correlation of a match.", written=True)
    scorer: str | None = setting(
        None, TEXT, "Scorer whose labels to compare (default: the primary scorer of each run)."
    )
    source: Any = setting(None, FILE, "Current location of the runs' images, if they moved.")
    targets: Any = setting(None, PYTHON, "List of both networks, if the manifests do not identify them.")
    encoder: Any = setting(None, PYTHON, "The runs' labeling encoder, if the manifests do not identify it.")


@dataclass(frozen=True, kw_only=True)
class Compare(Settings):
    """All settings of `contralens.compare`."""

    runs: Sequence[Any] = field(kw_only=False, metadata=about(several(THING),
        "Run folders; for a single run, compares its scorers.", python="Or runs."))  # fmt: skip
    scorers: Sequence[str] | None = field(default=None, kw_only=False, metadata=about(several(TEXT),
        "Compare this scorer, repeatable (default: the primary; for a single run, all).",
        flag="--scorer"))  # fmt: skip
    metrics: Sequence[str] | None = field(default=None, kw_only=False, metadata=about(WORDS,
        "Metrics, comma-separated (default: all that every run has)."))  # fmt: skip
    match: bool = setting(True, SWITCH, "Also pair neurons of different layers or networks (default).",
        python="This needs the cache; without it a note explains why neurons are not paired.")  # fmt: skip
    cache: str | Path | None = setting(None, PATH, "Cache used when labeling the runs.")


@dataclass(frozen=True, kw_only=True)
class Granularity(Where):
    """All settings of `contralens.granularity`."""

    run: Any = field(kw_only=False, metadata=about(THING, "A run folder.", python="Or a `Run`."))
    neurons: Sequence[int] | None = field(default=None, kw_only=False, metadata=about(indices_or(),
        "Indices such as 0,5,10-20 (default: all labeled)."))  # fmt: skip
    scorer: str = setting("csp", TEXT, "Scorer for the concepts along the chain.",
        python="It does not affect which concepts hold.")  # fmt: skip
    sense: int | None = setting(None, whole_from(0),
        "Meaning of the label's noun, 0 the most frequent (default: by its gloss).")  # fmt: skip
    wordnet: Any = setting(None, FOLDER,
        "Folder with WordNet's files (default: from contralens[wordnet] or the system).",
        python="Or a `WordNet`.")  # fmt: skip
    encoder: Any = setting(None, PYTHON, "The run's labeling encoder, if the manifest does not identify it.")


@dataclass(frozen=True, kw_only=True)
class AtlasOf(Work):
    """All settings of `contralens.atlas`."""

    runs: Any = field(kw_only=False, metadata=about(FILES,
        "Run folders of layers of one network, or a folder that holds them.", python="Or runs."))  # fmt: skip
    links: bool = setting(False, SWITCH,
        "Match the neurons of each layer with those of the next by their activations (see `contralens.match`).",
        written=True)  # fmt: skip
    edges: Literal["none", "weights", "ablation"] = setting("none", one_of("none", "weights", "ablation"),
        "Labeled neurons of a layer that feed those of the next: by weights, if the next layer is linear in this "
        "one; by ablation: what the next loses on its exemplars without the neuron.", written=True)  # fmt: skip
    edges_per_neuron: int = setting(3, WHOLE, "Edges per neuron of the next layer.", written=True)
    most: int = setting(20, WHOLE, "With ablation: labeled neurons per layer.", written=True)
    fakes: int = setting(FAKES, NULL_NEURONS, "Null neurons of the links, and null edges.", written=True)
    save: bool = setting(True, SWITCH, "Add links and edges to the run folders, for the explorer (default).")
    source: Any = setting(None, FILE, "Current location of the runs' images, if they moved.")
    target: Any = setting(None, PYTHON, "The network, if the manifests do not identify it.")
    encoder: Any = setting(None, PYTHON, "The runs' labeling encoder, if the manifests do not identify it.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, used, by in (
            ("edges_per_neuron", self.edges != "none", "edges (--edges)"),
            ("most", self.edges == "ablation", "edges by ablation (--edges ablation)"),
            ("fakes", self.links or self.edges == "weights", "links (--links) and edges by weights (--edges weights)"),
        ):
            if not used and self.given(name):
                raise InputError(f"`{name}` is about {by}, which are not asked for")


@dataclass(frozen=True, kw_only=True)
class ContrastClasses(OnRun):
    """All settings of `contralens.contrast_classes`."""

    a: str = field(kw_only=False, metadata=about(TEXT, "First class."))
    b: str = field(kw_only=False, metadata=about(TEXT, 'Second class; "*" means all other images.'))
    labels: Any = setting(None, FILES,
        "Table with the images' classes, repeatable: CSV, .tsv or .parquet (default: class folders).",
        python="Or a mapping of image to class, or the class of each image.", flag="--table")  # fmt: skip
    image_column: str | None = field(default=None, metadata=IMAGE_COLUMN)
    class_column: str | None = field(default=None, metadata=CLASS_COLUMN)
    captions: str | Path | None = setting(None, TABLE,
        "Table of captions, TABLE or TABLE:COLUMN; A and B are words in the captions.")  # fmt: skip
    words: bool = setting(False, SWITCH, "Let the labeling encoder retrieve the images; A and B are search texts.")
    share: float = setting(0.1, between(), "With words: share of the images retrieved per text.", written=True)
    scorer: str = setting("csp", TEXT, "Scorer that names the differences, e.g. csp:gamma=0.5.", written=True)
    k: int = setting(30, WHOLE, "Exemplar-contrast pairs per neuron.", flag="-k", written=True)
    fdr: float = setting(0.05, between(), "False-discovery rate over neurons.", written=True)
    describe: int = setting(
        20, whole_from(0), "Neurons described in words and images: the strongest of each side.", written=True
    )
    groups: Any = setting(None, TABLE,
        "Groups of images (one patient, lesion, scene, video): TABLE:COLUMN; intervals count each group "
        "once (default: the run's groups).", python="Or image -> group.", reads=True)  # fmt: skip
    encoder: Any = setting(None, PYTHON, "The run's labeling encoder, if the manifest does not identify it.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.given("share") and not self.words:
            raise InputError("`share` is about images that texts retrieve; set words=True (--words)")
