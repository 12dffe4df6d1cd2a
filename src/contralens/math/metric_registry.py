"""The registry of metrics: what is measured of labels, each declared beside its function.

`INPUTS` lists what a metric may be made from. What needs held-out images or a judge follows from the inputs, and so do
the groups, `--metrics` and the sanity tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from contralens.errors import InputError
from contralens.plugs import Registry

F = TypeVar("F", bound=Callable[..., Any])
YOURS = "plugged in"
"""The group of metrics that name none."""


@dataclass(frozen=True, slots=True)
class Input:
    """Something that a metric can be made from.

    >>> INPUTS["predictions"].judge, INPUTS["exemplars"].heldout
    (True, False)
    """

    about: str
    heldout: bool = True
    """Whether it takes held-out images."""
    judge: bool = False
    """Whether it takes a judge, also where images of the labels are given."""


INPUTS = {
    "activations": Input("activations (I,n) on the test images"),
    "predictions": Input("the judge's cosines (I,n) of the test images and the labels", judge=True),
    "calibrated": Input("predictions through the calibrated sigmoid (I,n)", judge=True),
    "active": Input("the strongest activations (I,n), bool"),
    "present": Input("the highest predictions (I,n), bool", judge=True),
    "on_label": Input("activations (G,n) on images of the label, made or retrieved"),
    "on_control": Input("activations (M,n) on control images"),
    "strongest": Input("the largest activation (n) on the probe images"),
    "class_shares": Input("the label's class score (F,n), neuron scaled by `FACTORS`, over all images", judge=True),
    "strongest_class_shares": Input("the same over the images that activate the neuron most", judge=True),
    "labels": Input("the labels (n)", heldout=False),
    "wordnet": Input("WordNet", heldout=False),
    "exemplars": Input("the exemplars of the run", heldout=False),
    "embeddings": Input("the labeling encoder's embeddings of the probe images (I,D)", heldout=False),
}
"""What metrics are made from, by name."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: a function of the inputs `needs`, in their order, to one number per neuron (n), NaN where undefined.

    A function alone is a metric of activations and predictions.

    Raises:
        InputError: an input that is not in `INPUTS`.

    >>> import torch
    >>> rate = Metric(lambda on_label: (on_label > 0).double().mean(0), "cosy", ("on_label",), "share that fires")
    >>> rate(torch.tensor([[1.0], [0.0]])), rate.heldout, rate.judge
    (tensor([0.5000], dtype=torch.float64), True, False)
    """

    function: Callable[..., Any]
    group: str = YOURS
    needs: tuple[str, ...] = ("activations", "predictions")
    about: str = ""
    """One line for lists; by default the first of the function's documentation."""
    tested: Callable[..., Any] | None = field(default=None, kw_only=True)
    """What the sanity tests (`metric_sanity`) test instead: a function of activations and presence, both (I,n)."""

    def __post_init__(self) -> None:
        if unknown := [name for name in self.needs if name not in INPUTS]:
            raise InputError(f"a metric needs {', '.join(unknown)}; there is only {', '.join(INPUTS)}")
        text = self.about or (self.function.__doc__ or "").strip().split("\n")[0]
        object.__setattr__(self, "about", text or getattr(self.function, "__name__", self.group))

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """The values (n)."""
        return self.function(*inputs, **options)

    @property
    def heldout(self) -> bool:
        """Whether it needs held-out images."""
        return any(INPUTS[name].heldout for name in self.needs)

    @property
    def judge(self) -> bool:
        """Whether it needs a judge, also where images of the labels are given."""
        return any(INPUTS[name].judge for name in self.needs)


METRICS: Registry[Metric] = Registry(
    "metrics", one="metric", takes=("inputs",), read=lambda value: value if isinstance(value, Metric) else Metric(value)
)
"""Metrics by name: records, or functions of activations (I,n) on the test images and of predictions (I,n), the judge's
cosines with the labels, to one number per neuron (n). A package adds one with an entry point in the group
"contralens.metrics"."""


def metric(group: str, *needs: str, about: str, name: str = "", tested: Any = None) -> Callable[[F], F]:
    """Declares the function below as a metric, under its own name or another; arguments are those of `Metric`.

    >>> @metric("demo", "activations", "predictions", about="mean product")
    ... def product(activations, predictions):
    ...     return (activations * predictions).mean(0)
    >>> METRICS.pop("product").group
    'demo'
    """

    def declare(function: F) -> F:
        own = name or function.__name__
        METRICS[own] = Metric(function, group, needs, about, tested=tested)
        if function.__module__.startswith("contralens."):
            METRICS.built_in |= {own}
        return function

    return declare


def groups() -> dict[str, dict[str, str]]:
    """Metrics by group, with one line each; those of installed packages, which are not imported, in a group of theirs.

    >>> from contralens.math import metrics
    >>> list(groups()["fade"])
    ['clarity', 'responsiveness', 'purity']
    """
    here = METRICS.here()
    found: dict[str, dict[str, str]] = {}
    for name in METRICS:
        group = here[name].group if name in here else YOURS
        found.setdefault(group, {})[name] = METRICS.about(name)
    return found
