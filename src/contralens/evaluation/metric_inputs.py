"""The inputs of metrics (`math.metric_registry.INPUTS`), and the values of what can be made from them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contralens.math.metric_registry import INPUTS, METRICS, Metric
from contralens.math.metrics import active
from contralens.math.simulation import simulate

if TYPE_CHECKING:
    from contralens.evaluation.measuring import Session


def metric_of(name: str) -> Metric:
    """The metric that a name with options stands for."""
    metric: Metric = METRICS.make(name)
    return metric


def values_from(inputs: Any, wanted: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """The values (n) of those metrics that are made from these inputs alone: a dictionary, or `Seen`."""
    chosen = {name: metric_of(name) for name in wanted}
    return {
        name: torch.as_tensor(metric(*(inputs[part] for part in metric.needs))).double().numpy()
        for name, metric in chosen.items()
        if all(part in inputs for part in metric.needs)
    }


class Seen:
    """The inputs of some labels from the activations (I,n) of their neurons, each computed once it is asked for."""

    def __init__(self, session: Session, activations: Tensor, rows: Sequence[dict[str, Any]]) -> None:
        self._session, self._rows, self.activations = session, rows, activations
        self.labels = [row["label"] for row in rows]

    def __contains__(self, name: str) -> bool:
        return name in INPUTS and (name in vars(self) or hasattr(type(self), name))

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    @cached_property
    def _similarities(self) -> Tensor:
        return self._session.similarities(self._rows)

    @cached_property
    def predictions(self) -> Tensor:
        """The judge's cosines."""
        return simulate(self._similarities, combine=self._session.combine)

    @cached_property
    def calibrated(self) -> Tensor:
        """Through the sigmoid; NaN where the labels do not determine it."""
        alpha, beta = self._session.sigmoid()
        if self._session.undetermined:
            return torch.full_like(self.predictions, torch.nan)
        return simulate(self._similarities, alpha, beta, combine=self._session.combine)

    @cached_property
    def active(self) -> Tensor:
        """The strongest activations."""
        return active(self.activations, self._session.share)

    @cached_property
    def present(self) -> Tensor:
        """The highest predictions."""
        return active(self.predictions, self._session.share)

    @cached_property
    def _retrieved(self) -> Tensor:
        return self.predictions.nan_to_num(-torch.inf).topk(self._session.count, dim=0).indices

    @cached_property
    def on_label(self) -> Tensor:
        """On images that were made for the labels, else on those that the judge retrieves."""
        made = self._session.made
        if made is not None:
            return made.of(self.labels, [row["neuron"] for row in self._rows])
        return self.activations.gather(0, self._retrieved)

    @cached_property
    def on_control(self) -> Tensor:
        """On all other images, or on a sample."""
        if self._session.made is not None:
            return self.activations[self._session.controls()]
        return self.activations.scatter(0, self._retrieved, torch.nan)

    @cached_property
    def strongest(self) -> Tensor:
        """On the probe images."""
        maximum = self._session.run.neurons["maximum"].to_numpy()
        return torch.from_numpy(maximum[[row["neuron"] for row in self._rows]].copy())
