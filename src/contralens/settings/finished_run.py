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
    between,
    one_of,
    whole_from,
)
from contralens.settings.label import GROUPS
from contralens.settings.record import Work, about, setting

DEFAULT_METRICS = ("simulation", "cosy", "fade", "audit")


@dataclass(frozen=True, kw_only=True)
class OnRun(Work):
    """What is asked of any run."""

    COMMON: ClassVar[bool] = True

    run: Any = field(kw_only=False, metadata=about(THING, "A run folder.", python="Or a `Run`."))
    source: Any = setting(None, FILE, "Where the run's images are now, if they moved.")
    target: Any = setting(None, PYTHON, "The run's network, where the manifest cannot say.")


@dataclass(frozen=True, kw_only=True)
class KeptOnRun(OnRun):
    """What is asked of any run, and kept in its folder."""

    COMMON: ClassVar[bool] = True

    save: bool = setting(True, SWITCH, "Keep the result in the run's folder, if it has one (default).")


@dataclass(frozen=True, kw_only=True)
class OnLabels(KeptOnRun):
    """What is asked of a run by null neurons, images of groups, and classes."""

    COMMON: ClassVar[bool] = True

    groups: Any = field(default=None, metadata=GROUPS)
    classes: str | Path | Sequence[str] | None = setting(None, CLASSES,
        "File with the network's class names, one a line (default: those that come with its weights).",
        python="Or the names in a list.")  # fmt: skip
    fakes: int = setting(FAKES, NULL_NEURONS, "Null neurons of the null test.")

    @property
    def class_names(self) -> list[str] | None:
        """The classes, where they are given."""
        return None if self.classes is None else list(cast(Sequence[str], self.classes))


@dataclass(frozen=True, kw_only=True)
class Evaluate(OnLabels):
    """All settings of `contralens.evaluate`."""

    metrics: str | Sequence[str] = setting(DEFAULT_METRICS, NAMES,
        "Metrics or groups, with commas: simulation, cosy, fade, audit (default), faithfulness, "
        "granularity.", python="Or names in a list; see `contralens.evaluation.measuring.METRICS`.")  # fmt: skip
    judge: Any = setting(None, THING,
        "The encoder that judges, named as in `label`; not the one that labeled, which would judge its "
        "own work.")  # fmt: skip
    same_judge: bool = setting(False, SWITCH, "Let the labeling encoder judge its own labels; the result says so.")
    images: str | Path | None = setting(None, PATH, "Images for CoSy: a folder with one sub-folder per label.")
    painter: Any = setting(None, THING,
        "Or paint them: diffusers:ID_OR_FOLDER[@steps=4,guidance=0,size=512]. Without images and "
        "painter, the judge retrieves them from the held-out ones.")  # fmt: skip
    preset: str | None = setting(None, TEXT, "Published settings of painting: cosy or csp.")
    count: int | None = setting(None, WHOLE, "Images per label (default 20).")
    prompt: str | None = setting(None, TEXT, 'What the painter is asked, e.g. "a photo of {label}".')
    control: int | None = setting(None, WHOLE, "Control images at most (default: all held-out ones).")
    heldout: Any = setting(None, FILE,
        "Other images to evaluate on (default: those that `label` set aside, `holdout`).")  # fmt: skip
    encoder: Any = setting(None, PYTHON, "The run's labeling encoder, where the manifest cannot say.")
    scorers: str | Sequence[str] | None = setting(None, TEXTS,
        "Judge this scorer only, repeatable (default: all of the run).", flag="--scorer")  # fmt: skip
    concepts: int = setting(1, WHOLE, "Best concepts that make up a label.", written=True)
    combine: Literal["mean", "max"] = setting("max", one_of("mean", "max"),
        "How several concepts are joined.", written=True)  # fmt: skip
    sigmoid: tuple[float, float] | None = setting(None, TWO_NUMBERS,
        "Alpha and beta of the judge, e.g. 10,-2 (default: fitted on the validation part).")  # fmt: skip
    share: float = setting(0.05, between(),
        "Part of the images on which a neuron counts as active, and a concept as present.", written=True)  # fmt: skip
    check_metrics: bool = setting(True, SWITCH, "Run the sanity tests on the metrics, too (default).")
    fdr: float | None = setting(None, between(),
        "Null test: say which labels beat random images at this false-discovery rate, e.g. 0.05.")  # fmt: skip
    fake_kind: Literal["permuted", "mixture"] = setting("permuted", one_of("permuted", "mixture"),
        "Null neurons are real ones in a random order, or random mixtures of them.")  # fmt: skip
    stability: int = setting(0, whole_from(0, 1_000_000),
        "Bootstrap samples of the probe images for label sets, e.g. 50 (default: none).")  # fmt: skip
    coverage: float = setting(0.9, between(one=True), "Share of the samples that a label set holds.")
    meanings: bool = setting(False, SWITCH, "Look for neurons with two meanings.")
    gamma: Literal["layer", "neuron"] | None = setting(None, one_of("layer", "neuron"),
        "Also judge CSP at the gamma whose labels are most likely right, for the layer or for each "
        "neuron.")  # fmt: skip
    truth: Any = setting(None, FILE_OR_OBJECT,
        "True names of neurons, to count right labels: CSV with columns neuron and label, or JSON "
        "(default: class names of an output layer, the rendered world's).", python="Or a mapping.")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Audit(OnLabels):
    """All settings of `contralens.audit`."""

    concepts: str | Path | Mapping[str, Any] | Any = field(kw_only=False, metadata=about(FILE_OR_OBJECT,
        "Expected and spurious concepts: dermoscopy, photographs, or a YAML file.",
        python="Or a dict; see `contralens.concept_list`."))  # fmt: skip
    scorer: str = setting("csp", TEXT,
        "What scores the concepts, e.g. csp:gamma=0.5; the run need not have it.", written=True)  # fmt: skip
    labeled: Any = setting(None, FILE_OR_OBJECT,
        "Images to measure pruning on: one sub-folder per class, or a CSV file.",
        python="Or whatever `contralens.labeled_images` takes.")  # fmt: skip
    new_head: bool = setting(False, SWITCH,
        "Fit a new linear head without the spurious neurons on part of the labeled images.")  # fmt: skip
    subgroups: str | Path | Mapping[str, Any] | None = setting(None, FILE_OR_OBJECT,
        "CSV file of groups among them: image, then one column per kind of group.",
        python="Or image -> {column: value}.")  # fmt: skip
    image_column: str | None = setting(None, TEXT,
        "The table's column that names the image (default: found by name, or by values).")  # fmt: skip
    class_column: str | None = setting(None, TEXT,
        "The table's column that holds the class (default: class, label, dx ...).")  # fmt: skip
    unseen: bool = setting(False, SWITCH,
        "Leave out labeled images that exemplars came from, and others of their groups.")  # fmt: skip
    head: str | None = setting(None, TEXT,
        "The linear layer from neurons to classes (default: found by trying; none: without).")  # fmt: skip
    follow: Sequence[str] | None = setting(None, TEXTS,
        "Class whose score is followed, repeatable (default: all, at most the 20 most predicted).")  # fmt: skip
    fdr: float = setting(0.05, between(), "False-discovery rate of the verdicts.")
    mode: Literal["hard", "soft"] = setting("hard", one_of("hard", "soft"),
        '"hard" switches spurious neurons off, "soft" turns them down.', written=True)  # fmt: skip
    images: int = setting(16, WHOLE, "Images per neuron that influence is measured over.")
    sample: int | None = setting(32, ALL_OR_COUNT,
        "Unexplained neurons that are switched off too, beside all explained ones; -1 for all.",
        python="None stands for all as well.")  # fmt: skip
    encoder: Any = setting(None, THING,
        "Another encoder than the run's, e.g. a medical one; contrasts are then found in its space.")  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.new_head and self.labeled is None:
            raise InputError("a new head needs labeled images with classes: give labeled= (--labeled FOLDER)")


@dataclass(frozen=True, kw_only=True)
class Verify(KeptOnRun):
    """All settings of `contralens.verify`."""

    editor: str | Any = setting("auto", THING,
        "What changes the pictures: retrieve, swap, world, diffusers:ID_OR_FOLDER (auto: world for images of a "
        "rendered world, else retrieve).", python="Or an `Editor` of yours.")  # fmt: skip
    scorer: str | None = setting(None, TEXT, "Whose labels (default: the primary scorer's).")
    neurons: Sequence[int | str] | None = setting(None, PYTHON,
        "Which, by index or name (default: all that have a label).")  # fmt: skip
    label: str | None = setting(None, TEXT, "Another phrase to test than the scorer's labels; goes with neurons.")
    images: int = setting(8, WHOLE, "Exemplars, and contrasts, edited for each label, at most.", written=True)
    controls: int = setting(2, WHOLE, "Other edits that each image's is compared with.", written=True)
    seconds: float | None = setting(None, NUMBER,
        "Begin with no further neuron after so much time; the rest is left out, and a note says so.")  # fmt: skip
    edits: int | None = setting(None, WHOLE,
        "Let a diffusion model make at most so many pictures; labels that it does not suffice for are left out, and "
        "a later call goes on.")  # fmt: skip
    refine: int = setting(0, whole_from(0),
        "Where a label is refuted, test up to so many other concepts, until one is verified (default: none).",
        written=True)  # fmt: skip
    inside: str | None = setting(None, TEXT,
        "Also steer the network itself, at this layer, along the concept (auto: the layer before), and say which class "
        "the neuron moves.", written=True)  # fmt: skip
    encoder: Any = setting(None, PYTHON, "The run's labeling encoder, where the manifest cannot say.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label is not None and self.neurons is None:
            raise InputError("`label` tests one phrase on the neurons given: say which with `neurons`")


@dataclass(frozen=True, kw_only=True)
class Match(Work):
    """All settings of `contralens.match`."""

    one: Any = field(kw_only=False, metadata=about(THING, "A run folder.", python="Or a `Run`."))
    other: Any = field(kw_only=False, metadata=about(THING, "Another.", python="Or a `Run`."))
    by: Literal["auto", "activations", "exemplars"] = setting("auto", one_of("auto", "activations", "exemplars"),
        "What neurons are compared by: activations on the images that both runs share, or the embeddings of their "
        "exemplars, where the images differ (auto: activations from 50 shared images on).", written=True)  # fmt: skip
    null: Literal["auto", "mixture", "permuted"] = setting("auto", one_of("auto", "mixture", "permuted"),
        "Null neurons: random mixtures of the layer's neurons, or real ones in a random order over the images (auto: "
        "mixture for activations, permuted for exemplars).", written=True)  # fmt: skip
    fakes: int = setting(FAKES, NULL_NEURONS, "Null neurons made of each network.", written=True)
    level: float = setting(0.05, between(),
        "Share of the null neurons that find a partner above the threshold.", written=True)  # fmt: skip
    least: float = setting(0.0, between(zero=True), "Correlation that a match needs at least.", written=True)
    scorer: str | None = setting(None, TEXT, "Whose labels are compared (default: the primary scorer of each run).")
    source: Any = setting(None, FILE, "Where the runs' images are now, if they moved.")
    targets: Any = setting(None, PYTHON, "The networks of both runs in a list, where the manifests cannot say.")
    encoder: Any = setting(None, PYTHON, "The runs' labeling encoder, where the manifests cannot say.")


@dataclass(frozen=True, kw_only=True)
class AtlasOf(Work):
    """All settings of `contralens.atlas`."""

    runs: Any = field(kw_only=False, metadata=about(FILES,
        "Run folders of layers of one network, or a folder that holds them.", python="Or runs."))  # fmt: skip
    links: bool = setting(False, SWITCH,
        "Match the neurons of each layer with those of the next by their activations (see `contralens.match`).",
        written=True)  # fmt: skip
    edges: Literal["none", "weights", "ablation"] = setting("none", one_of("none", "weights", "ablation"),
        "Which labeled neurons of a layer feed which of the next: weights, where the next layer is linear in this "
        "one; ablation, what the next loses on its exemplars when a neuron is switched off.", written=True)  # fmt: skip
    edges_per_neuron: int = setting(3, WHOLE, "Edges kept per neuron of the next layer.", written=True)
    most: int = setting(20, WHOLE, "With ablation: labeled neurons of each layer that are looked at.", written=True)
    fakes: int = setting(FAKES, NULL_NEURONS, "Null neurons of the links, and null edges.", written=True)
    source: Any = setting(None, FILE, "Where the runs' images are now, if they moved.")
    target: Any = setting(None, PYTHON, "The network, where the manifests cannot say.")
    encoder: Any = setting(None, PYTHON, "The runs' labeling encoder, where the manifests cannot say.")


@dataclass(frozen=True, kw_only=True)
class ContrastClasses(OnRun):
    """All settings of `contralens.contrast_classes`."""

    a: str = field(kw_only=False, metadata=about(TEXT, "The one class."))
    b: str = field(kw_only=False, metadata=about(TEXT, 'The other; "*" stands for all images that the first leaves.'))
    labels: Any = setting(None, FILES,
        "Table with the images' classes, repeatable: CSV, .tsv or .parquet (default: class folders).",
        python="Or a mapping of image to class, or the class of each image.", flag="--table")  # fmt: skip
    image_column: str | None = setting(None, TEXT,
        "The table's column that names the image (default: found by name, or by values).")  # fmt: skip
    class_column: str | None = setting(None, TEXT,
        "The table's column that holds the class (default: class, label, dx ...).")  # fmt: skip
    captions: str | Path | None = setting(None, TABLE,
        "Table of captions, TABLE or TABLE:COLUMN: A and B are words that the images' captions hold.")  # fmt: skip
    words: bool = setting(False, SWITCH, "Let the labeling encoder search for the images: A and B are search words.")
    share: float = setting(0.1, between(), "With words: part of the images that each text gets.", written=True)
    scorer: str = setting("csp", TEXT, "What names the differences, e.g. csp:gamma=0.5.", written=True)
    k: int = setting(30, WHOLE, "Pairs of an image and its contrast per neuron.", flag="-k", written=True)
    fdr: float = setting(0.05, between(), "False-discovery rate over neurons.", written=True)
    describe: int = setting(
        20, whole_from(0), "Neurons described in words and pictures, the strongest of either side.", written=True
    )
    groups: Any = setting(None, TABLE,
        "Images that belong together (of one patient, lesion, scene, video): TABLE:COLUMN; intervals count a group "
        "once (default: the run's groups).", python="Or image -> group.", reads=True)  # fmt: skip
    encoder: Any = setting(None, PYTHON, "The run's labeling encoder, where the manifest cannot say.")
