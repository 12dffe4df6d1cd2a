"""What the JSON of each page holds. mypy checks it where it is built, OpenAPI documents it, a test validates it.

Longer than a page should be, as each shape is made of others, and they are read from here together, like a glossary.
"""

from __future__ import annotations

import ast
import inspect
import sys
from itertools import pairwise
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypeAliasType, TypedDict

from contralens.data.notes import Note as Note
from contralens.data.notes import Notes as Notes

Value = TypeAliasType("Value", str | int | float | bool | None)
Plain = TypeAliasType("Plain", dict[str, Value])


class Shape(TypedDict):
    """What all have in common: OpenAPI, and with it the front end's types, says what is below each member."""


class Missing(Shape):
    """Something a page could show if the run, or this machine, had it."""

    what: str
    why: str


class Audited(Shape):
    """That a run was audited, in one line."""

    concepts: str
    """Title of the list of concepts."""
    counts: dict[str, int]
    """Verdict -> neurons."""


class Highlight(Shape):
    """One of the few neurons that stand for a run."""

    neuron: int
    name: str
    label: str
    before: str | None
    """The label without contrast; null where contrast did not change it."""
    confidence: float | None
    pictures: list[int]


class Summary(Shape):
    """A run in a few lines, for the page over several runs."""

    network: str
    layer: str | None
    place: str
    """Neurons of runs of one place, or of one fingerprint, pair by number."""
    fingerprint: str | None
    neurons: int
    labeled: int
    images: int | None
    probe: str | None
    """Fingerprint of the images."""
    encoder: str | None
    words: dict[str, int]
    """"supported", "uncertain", "unsupported": labels; empty where the run has no confidence."""
    verified: dict[str, int]
    """"verified", "refuted", "untested": labels; empty without an experiment."""
    changed: int | None
    """Labels that contrast changed; null where the run cannot tell."""
    highlights: list[Highlight]


class RunInfo(Shape):
    """One run folder that was opened, or the reason why it could not be."""

    key: str
    """Name in URLs."""
    title: str
    stamp: str
    """Changes when the run is written again."""
    problem: str | None
    summary: Summary | None
    """Null where the run cannot be read."""
    manifest: dict[str, Any] | None
    """How the labels were made; of long lists, how many entries they have."""
    missing: list[Missing]
    remarks: list[str]
    """What a reader of the labels should know: of the network, the encoder, the exemplars and the null test."""
    notes: int
    evaluation: list[Plain]
    """Means of an evaluation over the neurons: scorer, metric, mean, low, high...; empty without one."""
    audit: Audited | None
    """Null where there is none, or none that can be read: then `missing` says why."""


class RunList(Shape):
    version: str
    runs: list[RunInfo]
    writable: bool
    """Whether notes can be written, and labels tested."""
    encoder: str | None
    """Why there is no search by words or pictures; null where there is."""


class ScorerColumns(Shape):
    scorer: str
    label: list[int]
    """Place in `labels`, -1 for none."""
    score: list[float | None]
    margin: list[float | None]
    """Best minus second best score."""
    gamma: float | None
    """Of CSP; null for another scorer."""
    verified: list[str | None] | None
    """What experiments on the labels came to: "verified", "refuted", "untested", null without one. Null as a whole
    where no label was tested."""
    columns: dict[str, list[float | None]]
    """Of this scorer's labels: confidence and fdr by the run; fdr, stability and metrics by an evaluation; removal and
    insertion by experiments."""


class Index(Shape):
    """All neurons of a run in columns, enough to draw, sort and filter the overview."""

    key: str
    stamp: str
    primary: str
    neuron: list[int]
    name: list[str]
    statuses: list[str]
    status: list[int]
    """Place in `statuses`."""
    labels: list[str]
    scorers: list[ScorerColumns]
    columns: dict[str, list[float | None]]
    """mean, maximum, firing_rate, agreement, and whatever else the run measured per neuron."""
    shown: int
    """Pictures per neuron in `positives` and `contrasts`."""
    positives: list[int]
    contrasts: list[int]
    """`shown` image numbers per neuron, one neuron after the other, -1 for none."""


class Row(Shape):
    neuron: int
    name: str
    status: str
    label: str | None
    verified: str | None
    """What an experiment on the label came to; null without one."""
    score: float | None
    margin: float | None
    figures: dict[str, float | None]


class Rows(Shape):
    scorer: str
    total: int
    """Neurons that pass the filter."""
    rows: list[Row]


class Concept(Shape):
    concept: str
    score: float | None
    source: str | None


class Meaning(Shape):
    """One of several meanings of a neuron."""

    label: str
    share: float | None
    """Part of the activation above the neuron's mean that it has."""
    confidence: float | None
    """How likely its label is right; null where that is unknown."""
    positives: list[int]
    """Image numbers of its strongest images; those with a thumbnail."""
    contrasts: list[int]
    """Image numbers of their contrasts; those with a thumbnail."""


class ScorerLabels(Shape):
    scorer: str
    status: str
    """ "chance" where the null test of the run or of its evaluation (`--fdr`) turned the label down, "corrected" where
    label corrected by a person."""
    label: str | None
    """As finally judged."""
    best: str | None
    """What the scorer said, also where it was rejected or corrected."""
    why: str | None
    """What turned the label down or corrected it; null if nothing did."""
    verified: str | None
    """What an experiment on the label came to: "verified", "refuted" or "untested"; null without one."""
    experiment: str | None
    """The same in words, with the editor."""
    score: float | None
    confidence: float | None
    """How likely the label is right, 0 to 1; null without a label, or where the run has no confidence."""
    reasons: list[str]
    """What speaks for the label, and what against it."""
    p: float | None
    fdr: float | None
    """False-discovery rate of the null test, of the run or of its evaluation; null unless it was asked for."""
    concepts: list[Concept]
    meanings: list[Meaning]
    """By falling share, of a neuron with several; else empty."""


class Picture(Shape):
    image: int
    id: str
    label: str | None


class Pair(Shape):
    rank: int
    activation: float | None
    positive: Picture | None
    contrast: Picture | None
    contrast_activation: float | None
    similarity: float | None


class Gamma(Shape):
    """CSP at any gamma: score = (first - gamma second) / sqrt(norms[0] - 2 gamma norms[1] + gamma^2 norms[2]).

    Holds each concept that is among the best ten for some gamma in [0, 1].
    """

    concepts: list[str]
    sources: list[str | None]
    first: list[float]
    second: list[float]
    norms: list[float]


class Histogram(Shape):
    edges: list[float]
    counts: list[int]


class Neighbour(Shape):
    neuron: int
    name: str
    label: str | None
    similarity: float
    pictures: list[int]


class Measured(Shape):
    """A figure of one label, and the mean of all labels of its scorer with the interval of that mean."""

    scorer: str
    metric: str
    value: float | None
    mean: float | None
    low: float | None
    high: float | None


class Evaluated(Shape):
    values: list[Measured]
    verdicts: list[dict[str, Value | list[Value]]]
    """By scorer: p, fdr, beats_chance; label_set with set_shares over resampled probe images; meanings."""


class Map(Shape):
    """Where in an image the neuron was active: row-major values, 255 the strongest place among the neuron's maps."""

    image: int
    box: list[float]
    """Left, top, right, bottom of what the network saw, as shares of the image."""
    aspect: float
    """Width / height of the image."""
    height: int
    width: int
    values: list[int]


class Fed(Shape):
    """A class that the neuron feeds through a linear head."""

    name: str
    weight: float | None
    """What one unit of activation adds to the class score."""
    adds: float | None
    """The same at the mean activation of the neuron's exemplars."""


class Influenced(Shape):
    """What one neuron adds to the score of one class, measured three ways; null where one was not computed."""

    name: str
    head: float | None
    gradient: float | None
    ablation: float | None


class Edited(Shape):
    """A picture that an experiment changed, and what the neuron did."""

    kind: str
    """"remove": the concept was taken out; "insert": it was put in."""
    before: str
    """The picture, as a data: address."""
    after: str
    was: float | None
    """The neuron's activation before."""
    became: float | None


class Experiment(Shape):
    """A label, or another phrase, that was tested on this neuron."""

    label: str
    outcome: str
    """"verified", "refuted" or "untested"."""
    reason: str
    editor: str
    instead_of: str | None
    """The refuted label in whose place it was tested (`--refine`)."""
    removal: float | None
    """Share of the neuron's excess that is lost where the concept is taken out."""
    removal_images: int
    insertion: float | None
    """Share of the gap that is closed where it is put in."""
    insertion_images: int
    edited: list[Edited]


class Verdict(Shape):
    """What an audit says of one neuron."""

    verdict: str
    """"expected", "spurious", "undecided" or "unexplained"."""
    best: str | None
    """The concept of the list that it stands out in most; not believed where the neuron is unexplained."""
    side: str | None
    """Side of the list that this concept is from."""
    reason: str | None
    """Why there is no verdict for a side; null where there is one."""
    experiment: str | None
    """What an experiment says of the verdict; null without one on this neuron and concept."""
    figures: dict[str, float | None]
    """score, empty, z, expected, spurious, noise, p, fdr, confidence, clarity, redundancy, polysemanticity, margin."""
    influence: list[Influenced]
    """The classes that it moves most first."""


class TrueClass(Shape):
    """The class of an output neuron."""

    name: str
    named: bool | None
    """Whether the label names it, in its words or a synonym; null without a label."""


class Detail(Shape):
    """All about one neuron."""

    run: str
    neuron: int
    name: str
    status: str
    previous: int | None
    next: int | None
    figures: dict[str, float | None]
    labels: list[ScorerLabels]
    before: str | None
    """The label without contrast, where contrast made the primary scorer say another one."""
    true_class: TrueClass | None
    """Null but on output layers whose neurons have the names of classes."""
    exemplars: list[Pair]
    gamma: Gamma | None
    histogram: Histogram | None
    neighbours: list[Neighbour] | None
    evaluation: Evaluated | None
    candidates: list[Plain] | None
    classes: list[Fed] | None
    """Those that it speaks for first, those that it speaks against last."""
    maps: list[Map] | None
    audit: Verdict | None
    experiments: list[Experiment] | None
    """Null where no label of the run was tested."""
    missing: list[Missing]


class Pruned(Shape):
    """Accuracy on some labeled images before and after pruning."""

    group: str
    """"all", "balanced", "class=NAME" or "COLUMN=VALUE"."""
    mode: str
    """"hard" or "soft", or "random": the same factors given to neurons drawn at random."""
    images: int | None
    before: float | None
    after: float | None
    difference: float | None
    low: float | None
    """95 % interval of the difference."""
    high: float | None


class NewHead(Shape):
    """Accuracy on held-out images of one group: the network, pruned, with a new head, with one on all neurons."""

    group: str
    images: int | None
    before: float | None
    pruned: float | None
    after: float | None
    all_neurons: float | None
    difference: float | None
    low: float | None
    """95 % interval of after - before."""
    high: float | None


class Audit(Shape):
    """Which neurons stand for expected and spurious concepts, what they do to the classes, and what pruning does."""

    run: str
    manifest: dict[str, Any]
    """audit.json: the list of concepts, the rule of the verdicts, seeds, how well the measures agree."""
    conclusion: str | None
    """What follows from the numbers, in one line."""
    explanation: list[str]
    """What the conclusion does not say by itself."""
    warnings: list[str]
    neuron: list[int]
    verdict: list[str]
    best: list[str | None]
    """The concept that each neuron stands out in most, also of unexplained ones."""
    side: list[str | None]
    reason: list[str | None]
    """Why each neuron has no verdict for a side."""
    experiment: list[str | None]
    """What experiments say of the verdicts."""
    columns: dict[str, list[float | None]]
    """score, empty, z, expected, spurious, noise, p, fdr, confidence, clarity, redundancy, polysemanticity, margin."""
    classes: list[str]
    """Those that neurons move most, in the network's order."""
    left_out: int
    """Classes beyond these in influence.parquet."""
    influence: dict[str, list[float | None]]
    """ablation, gradient, head: a value per neuron and class, one neuron after the other; empty where not measured."""
    pruning: list[Pruned]
    new_head: list[NewHead]
    """Accuracy on held-out images with a new head; empty where none was fitted."""


class Plane(Shape):
    """Neurons as points: those with similar concept vectors lie close together."""

    method: str
    """"umap" or "pca"."""
    methods: list[str]
    """All that the run has."""
    gamma: float
    explained: list[float] | None
    """PCA: share of the variance on each axis."""
    neuron: list[int]
    x: list[float]
    y: list[float]


class Hit(Shape):
    neuron: int
    name: str
    label: str | None
    similarity: float


class Hits(Shape):
    query: str
    gamma: float
    note: str | None
    """What a reader should know of how the search was done."""
    hits: list[Hit]


class Change(Shape):
    name: str
    a: Row | None
    b: Row | None
    correlation: float | None
    """Of the two neurons, where they were matched."""


class Matched(Shape):
    """Which neuron of one run is which of another: a row for each pair and for each neuron that is in none."""

    by: str
    """"number": one place of a network; else "activations" or "exemplars", as `contralens match` does it."""
    problem: str | None
    """Why neurons of different layers or networks could not be matched; they are paired by number then."""
    images: int | None
    """Shared images that activations were compared on."""
    threshold: float | None
    """Correlation from which two neurons match; null by number."""
    notes: list[str]
    status: list[str]
    """"pair", "split", "merged", "new" or "gone", as `contralens match` has them."""
    a: list[int | None]
    """Neuron of the one run; null of a new one."""
    b: list[int | None]
    """Neuron of the other; null of one that is gone."""
    correlation: list[float | None]
    """Null by number."""


class Comparison(Shape):
    a: str
    b: str
    matched_by: str
    """"number", "activations" or "exemplars"."""
    problem: str | None
    """Why neurons of different layers or networks could not be matched."""
    both: int
    same: int
    changes: list[Change]


class Job(Shape):
    """An experiment that was asked for on the page."""

    neuron: int
    label: str
    state: str
    """"running", "done" or "failed"."""
    stage: str
    """What is being done, or why it failed."""
    done: int
    total: int


class Testing(Shape):
    """The experiment that was asked for last on the page of a run."""

    job: Job | None


class Gone(Shape):
    error: str


class LayerRow(Shape):
    """One layer of the network that several runs are of."""

    run: str
    layer: str
    depth: float | None
    neurons: int
    silent: int
    labeled: int
    supported: int | None
    sure: int | None
    verified: int | None
    refuted: int | None
    confounded: int | None
    concepts: int
    new: int
    """Concepts that no layer before has."""


class LayerConcept(Shape):
    """A label, and in which layers it occurs."""

    concept: str
    neurons: int
    first: str
    first_sure: str | None
    most: str
    counts: list[int]
    """Neurons by layer."""
    run: str
    neuron: int
    picture: int
    """Of the neuron with the most confident such label."""


class LayerRelations(Shape):
    """Matches in other layers and edges between neurons, in columns."""

    one: list[int]
    """(R): place among the neurons of all layers: of an edge, the neuron that feeds."""
    other: list[int]
    """(R): likewise: the match, or the neuron that is fed."""
    kind: list[str]
    """(R): "match", or an edge by "weights" or "ablation"."""
    value: list[float | None]
    """(R): correlation of a match, effect of an edge."""
    null: list[float | None]
    """(R): threshold from null neurons, or from null edges."""
    p: list[float | None]
    """(R): of edges."""
    holds: list[bool]
    """(R): whether it is beyond the null."""


class Layers(Shape):
    """All neurons of all layers, in columns."""

    title: str
    layers: list[LayerRow]
    concepts: list[LayerConcept]
    notes: list[str]
    labels: list[str]
    layer: list[int]
    """(N): place in `layers`."""
    neuron: list[int]
    name: list[str]
    label: list[int]
    """(N): place in `labels`, -1 for none."""
    confidence: list[float | None]
    verified: list[str | None]
    picture: list[int]
    """(N): the image that activates the neuron most, -1 for none."""
    relations: LayerRelations


def _describe() -> None:
    """Give each member what is below it, all from one reading of this file.

    pydantic's `use_attribute_docstrings` says the same and reads the file once for each class and address: a second.
    """
    module = sys.modules[__name__]
    try:
        source = inspect.getsource(module)
    except OSError:  # installed without its source: the JSON is the same, and described less
        return
    shapes = [each for each in ast.parse(source).body if isinstance(each, ast.ClassDef)]
    for shape in shapes:
        for member, below in pairwise(shape.body):
            match member, below:
                case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                    kinds = getattr(module, shape.name).__annotations__
                    kinds[name] = Annotated[kinds[name], Field(description=inspect.cleandoc(text))]


_describe()
