"""The settings of what is asked of a finished run: its evaluation and its audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast

from contralens.checks import FAKES
from contralens.errors import InputError
from contralens.settings.kinds import (
    ALL_OR_COUNT,
    CLASSES,
    FILE,
    FILE_OR_OBJECT,
    NAMES,
    NULL_NEURONS,
    PATH,
    PYTHON,
    SWITCH,
    TEXT,
    TEXTS,
    THING,
    TWO_NUMBERS,
    WHOLE,
    choice,
    count,
    share,
)
from contralens.settings.label import GROUPS
from contralens.settings.record import Setting, Work

DEFAULT_METRICS = ("simulation", "cosy", "fade", "audit")


@dataclass(frozen=True, kw_only=True)
class OnRun(Work):
    """What is asked of any run."""

    COMMON: ClassVar[bool] = True

    run: Annotated[Any, Setting("A run folder.", THING, python="Or a `Run`.")] = field(kw_only=False)
    groups: Annotated[Any, GROUPS] = None
    source: Annotated[Any, Setting("Where the run's images are now, if they moved.", FILE)] = None
    target: Annotated[Any, Setting("The run's network, where the manifest cannot say.", PYTHON)] = None
    classes: Annotated[
        str | Path | Sequence[str] | None,
        Setting("File with the network's class names, one a line (default: those that come with its weights).", CLASSES,
                python="Or the names in a list."),
    ] = None  # fmt: skip
    fakes: Annotated[int, Setting("Null neurons of the null test.", NULL_NEURONS)] = FAKES
    save: Annotated[bool, Setting("Keep the result in the run's folder, if it has one (default).", SWITCH)] = True

    @property
    def class_names(self) -> list[str] | None:
        """The classes, where they are given."""
        return None if self.classes is None else list(cast(Sequence[str], self.classes))


@dataclass(frozen=True, kw_only=True)
class Evaluate(OnRun):
    """All settings of `contralens.evaluate`."""

    metrics: Annotated[
        str | Sequence[str],
        Setting("Metrics or groups, with commas: simulation, cosy, fade, audit (default), faithfulness, granularity.",
                NAMES, python="Or names in a list; see `GROUPS` and `METRICS`."),
    ] = DEFAULT_METRICS  # fmt: skip
    judge: Annotated[
        Any,
        Setting("The encoder that judges, named as in `label`; not the one that labeled, which would judge its own "
                "work.", THING),
    ] = None  # fmt: skip
    same_judge: Annotated[
        bool, Setting("Let the labeling encoder judge its own labels; the result says so.", SWITCH)
    ] = False
    images: Annotated[str | Path | None, Setting("Images for CoSy: a folder with one sub-folder per label.", PATH)] = (
        None
    )
    painter: Annotated[
        Any,
        Setting("Or paint them: diffusers:ID_OR_FOLDER[@steps=4,guidance=0,size=512]. Without images and painter, the "
                "judge retrieves them from the held-out ones.", THING),
    ] = None  # fmt: skip
    preset: Annotated[str | None, Setting("Published settings of painting: cosy or csp.", TEXT)] = None
    count: Annotated[int | None, Setting("Images per label (default 20).", WHOLE)] = None
    prompt: Annotated[str | None, Setting('What the painter is asked, e.g. "a photo of {label}".', TEXT)] = None
    control: Annotated[
        int | None, Setting("Control images at most (default: all held-out ones).", WHOLE)
    ] = None  # fmt: skip
    heldout: Annotated[
        Any, Setting("Other images to evaluate on (default: those that `label` set aside, `holdout`).", FILE)
    ] = None
    encoder: Annotated[Any, Setting("The run's labeling encoder, where the manifest cannot say.", PYTHON)] = None
    scorers: Annotated[
        str | Sequence[str] | None,
        Setting("Judge this scorer only, repeatable (default: all of the run).", TEXTS, flag="--scorer"),
    ] = None
    concepts: Annotated[int, Setting("Best concepts that make up a label.", WHOLE, written=True)] = 1
    combine: Annotated[
        Literal["mean", "max"], Setting("How several concepts are joined.", choice("mean", "max"), written=True)
    ] = "max"  # fmt: skip
    sigmoid: Annotated[
        tuple[float, float] | None,
        Setting("Alpha and beta of the judge, e.g. 10,-2 (default: fitted on the validation part).", TWO_NUMBERS),
    ] = None
    share: Annotated[
        float,
        Setting(
            "Part of the images on which a neuron counts as active, and a concept as present.", share(), written=True
        ),
    ] = 0.05
    check_metrics: Annotated[bool, Setting("Run the sanity tests on the metrics, too (default).", SWITCH)] = True
    fdr: Annotated[
        float | None,
        Setting("Null test: say which labels beat random images at this false-discovery rate, e.g. 0.05.", share()),
    ] = None
    fake_kind: Annotated[
        Literal["permuted", "mixture"],
        Setting("Null neurons are real ones in a random order, or random mixtures of them.",
                choice("permuted", "mixture")),
    ] = "permuted"  # fmt: skip
    stability: Annotated[
        int,
        Setting("Bootstrap samples of the probe images for label sets, e.g. 50 (default: none).", count(0, 1_000_000)),
    ] = 0
    coverage: Annotated[float, Setting("Share of the samples that a label set holds.", share(one=True))] = 0.9
    meanings: Annotated[bool, Setting("Look for neurons with two meanings.", SWITCH)] = False
    gamma: Annotated[
        Literal["layer", "neuron"] | None,
        Setting("Also judge CSP at the gamma whose labels are most likely right, for the layer or for each neuron.",
                choice("layer", "neuron")),
    ] = None  # fmt: skip
    truth: Annotated[
        Any,
        Setting("True names of neurons, to count right labels: CSV with columns neuron and label, or JSON (default: "
                "class names of an output layer, the rendered world's).", FILE_OR_OBJECT, python="Or a mapping."),
    ] = None  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Audit(OnRun):
    """All settings of `contralens.audit`."""

    concepts: Annotated[
        str | Path | Mapping[str, Any] | Any,
        Setting("Expected and spurious concepts: dermoscopy, photographs, or a YAML file.", FILE_OR_OBJECT,
                python="Or a dict; see `contralens.concept_list`."),
    ] = field(kw_only=False)  # fmt: skip
    scorer: Annotated[
        str, Setting("What scores the concepts, e.g. csp:gamma=0.5; the run need not have it.", TEXT, written=True)
    ] = "csp"  # fmt: skip
    labeled: Annotated[
        Any,
        Setting("Images to measure pruning on: one sub-folder per class, or a CSV file.", FILE_OR_OBJECT,
                python="Or whatever `contralens.labeled_images` takes."),
    ] = None  # fmt: skip
    new_head: Annotated[
        bool, Setting("Fit a new linear head without the spurious neurons on part of the labeled images.", SWITCH)
    ] = False
    subgroups: Annotated[
        str | Path | Mapping[str, Any] | None,
        Setting("CSV file of groups among them: image, then one column per kind of group.", FILE_OR_OBJECT,
                python="Or image -> {column: value}."),
    ] = None  # fmt: skip
    image_column: Annotated[
        str | None,
        Setting("The table's column that names the image (default: found by name, or by values).", TEXT),
    ] = None
    class_column: Annotated[
        str | None, Setting("The table's column that holds the class (default: class, label, dx ...).", TEXT)
    ] = None
    unseen: Annotated[
        bool,
        Setting("Leave out labeled images that exemplars came from, and others of their groups.", SWITCH),
    ] = False
    head: Annotated[
        str | None,
        Setting("The linear layer from neurons to classes (default: found by trying; none: without).", TEXT),
    ] = None
    follow: Annotated[
        Sequence[str] | None,
        Setting("Class whose score is followed, repeatable (default: all, at most the 20 most predicted).", TEXTS),
    ] = None
    fdr: Annotated[float, Setting("False-discovery rate of the verdicts.", share())] = 0.05
    mode: Annotated[
        Literal["hard", "soft"],
        Setting('"hard" switches spurious neurons off, "soft" turns them down.', choice("hard", "soft"), written=True),
    ] = "hard"
    images: Annotated[int, Setting("Images per neuron that influence is measured over.", WHOLE)] = 16
    sample: Annotated[
        int | None,
        Setting("Unexplained neurons that are switched off too, beside all explained ones; -1 for all.", ALL_OR_COUNT,
                python="None stands for all as well."),
    ] = 32  # fmt: skip
    encoder: Annotated[
        Any,
        Setting("Another encoder than the run's, e.g. a medical one; contrasts are then found in its space.", THING),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.new_head and self.labeled is None:
            raise InputError("a new head needs labeled images with classes: give labeled= (--labeled FOLDER)")
