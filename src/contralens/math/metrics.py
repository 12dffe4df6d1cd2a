"""How well a label shows what a neuron does: one number per neuron, all neurons at once.

Letters: I images, N neurons, G images made (or found) for a label, M control images, L concepts of a label. Column n
belongs to neuron n. NaN and infinite entries are left out, column by column. What cannot be determined is NaN, never 0:
a constant activation, a constant prediction, an empty set; who reports a mean counts those.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from contralens.errors import InputError
from contralens.math import metric_rows as rows
from contralens.math.metric_registry import metric
from contralens.math.tensors import matrix

ACTIVE_SHARE = 0.05
"""Share of the images on which a neuron counts as active where a metric needs a yes or no."""


@metric(
    "cosy",
    "on_label",
    "on_control",
    about="chance that an image of the label activates the neuron more than a control image",
)
def auc(made: Any, control: Any) -> Tensor:
    """Chance that an image made for the label activates the neuron more than a control image; ties count one half.

    ROC-AUC of activations `made` (G,N) against `control` (M,N): CoSy, Kopf et al. 2024.

    >>> auc([[1.0], [3.0]], [[1.0], [0.0]])
    tensor([0.8750], dtype=torch.float64)
    """
    a1, a0 = _pair(made, control)
    scores = torch.cat([a1, a0])
    truth = torch.zeros(scores.shape, dtype=torch.bool)
    truth[: len(a1)] = True
    return auc_of(truth, scores)


def auc_of(truth: Any, scores: Any) -> Tensor:
    """ROC-AUC of `scores` (I,N) for a yes-or-no `truth` (I,N); ties count one half, so constant scores are NaN.

    >>> auc_of([[True], [False], [True]], [[3.0], [0.0], [1.0]])
    tensor([1.], dtype=torch.float64)
    """
    return rows.by_column(rows.auc, _truth(truth), matrix(scores, "scores"))


@metric("cosy", "on_label", "on_control", about="rise of the mean activation in standard deviations of the control")
def mad(made: Any, control: Any) -> Tensor:
    """(mean made - mean control) / standard deviation of control, (G,N),(M,N) -> (N): CoSy's MAD, population form.

    >>> mad([[3.0], [5.0]], [[0.0], [2.0]])
    tensor([3.], dtype=torch.float64)
    """
    a1, a0 = _pair(made, control)
    mean, spread = _mean(a0), _spread(a0)
    return (_mean(a1) - mean) / spread.masked_fill(rows.constant(a0.T), torch.nan)


@metric("cosy", "on_label", "strongest", about="mean activation on the label's images over the neuron's largest")
def dma(made: Any, strongest: Any) -> Tensor:
    """Mean activation on the label's images over the neuron's largest activation on real ones (N); CSP's code.

    NaN where the largest activation is not positive: the ratio then has no meaning.

    >>> dma([[3.0], [5.0]], [8.0])
    tensor([0.5000], dtype=torch.float64)
    """
    return _mean(matrix(made, "made")) / _positive(strongest)


@metric("cosy", "on_label", "strongest", about="largest activation on the label's images over the neuron's largest")
def max_ratio(made: Any, strongest: Any) -> Tensor:
    """Largest activation on the label's images over the neuron's largest activation on real ones (N); CSP's code.

    >>> max_ratio([[3.0], [6.0]], [8.0])
    tensor([0.7500], dtype=torch.float64)
    """
    a = matrix(made, "made").double()
    top = a.masked_fill(~a.isfinite(), -torch.inf)
    top = top.amax(0) if len(top) else torch.full((a.shape[1],), -torch.inf, dtype=torch.float64)
    return top.masked_fill(top.isinf(), torch.nan) / _positive(strongest)


@metric(
    "simulation", "activations", "calibrated", about="the same through a calibrated sigmoid", name="pearson_sigmoid"
)
@metric(
    "simulation", "activations", "predictions", about="correlation of activation and the judge's cosine with the label"
)
def pearson(activations: Any, predictions: Any) -> Tensor:
    """Pearson correlation of two matrices (I,N), column by column.

    >>> pearson([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0]], [[0.0, 1.0], [2.0, 2.0], [4.0, 3.0]]).round(decimals=9)
    tensor([1., nan], dtype=torch.float64)
    """
    return rows.by_column(rows.pearson, *_pair(activations, predictions, rows=True))


@metric("simulation", "activations", "calibrated", about="cosine of activation and calibrated sigmoid")
def cosine(activations: Any, predictions: Any) -> Tensor:
    """Cosine of two matrices (I,N), column by column, nothing subtracted.

    >>> cosine([[3.0], [0.0]], [[4.0], [3.0]])
    tensor([0.8000], dtype=torch.float64)
    """
    return rows.by_column(rows.cosine, *_pair(activations, predictions, rows=True))


def _of_presence(activations: Tensor, present: Tensor) -> Tensor:
    return purity(activations, present)


@metric(
    "simulation", "active", "predictions", about="average precision of the judge's cosine for the neuron being active",
    tested=_of_presence,
)  # fmt: skip
def auprc(truth: Any, scores: Any) -> Tensor:
    """Average precision of `scores` (I,N) for a yes-or-no `truth` (I,N): sum over thresholds of precision x new recall.

    Equal scores are one threshold, as in scikit-learn.

    >>> auprc([[True], [False], [True]], [[3.0], [2.0], [1.0]])
    tensor([0.8333], dtype=torch.float64)
    """
    return rows.by_column(rows.auprc, _truth(truth), matrix(scores, "scores"))


@metric("simulation", "active", "present", about="F1 of the judge's top images and the neuron's")
def f1(truth: Any, predicted: Any) -> Tensor:
    """2 TP / (2 TP + FP + FN) of two yes-or-no matrices (I,N); NaN where either says the same of all images.

    >>> f1([[True], [True], [False], [False]], [[True], [False], [False], [False]])
    tensor([0.6667], dtype=torch.float64)
    """
    both, t, p = _overlap(truth, predicted)
    return 2 * both / (t + p)


@metric("simulation", "active", "present", about="intersection over union of the same")
def iou(truth: Any, predicted: Any) -> Tensor:
    """TP / (TP + FP + FN) of two yes-or-no matrices (I,N); NaN where either says the same of all images.

    >>> iou([[True], [True], [False], [False]], [[True], [False], [False], [False]])
    tensor([0.5000], dtype=torch.float64)
    """
    both, t, p = _overlap(truth, predicted)
    return both / (t + p - both)


def active(values: Any, share: float = ACTIVE_SHARE) -> Tensor:
    """Where each column is among its ceil(share I) largest values, ties at the border included; (I,N) bool.

    The smallest value never counts: a neuron that is 0 on most images is active only where it is not.

    Raises:
        InputError: a share outside ]0,1[.

    >>> active([[0.0], [0.0], [3.0], [5.0]], share=0.75).flatten().tolist()
    [False, False, True, True]
    """
    if not 0.0 < share < 1.0:
        raise InputError(f"`share` must lie between 0 and 1; got {share}")
    return rows.by_column(lambda v: rows.active(v, share), matrix(values, "values"), rows=True)


@metric("fade", "on_label", "on_control", about="|2 AUC - 1| of the label's images against control images")
def clarity(made: Any, natural: Any) -> Tensor:
    """|2 AUC - 1| of images made for the label against natural ones (FADE, Puri et al. 2025); (G,N),(M,N) -> (N).

    >>> clarity([[3.0], [5.0]], [[0.0], [4.0]])
    tensor([0.5000], dtype=torch.float64)
    """
    return (2 * auc(made, natural) - 1).abs()


@metric("fade", "activations", "present", about="|2 AUC - 1| of held-out images with the concept against those without")
def responsiveness(activations: Any, present: Any) -> Tensor:
    """|2 AUC - 1| of natural images with the concept against those without (FADE); (I,N),(I,N) -> (N).

    >>> responsiveness([[3.0], [0.0], [1.0]], [[True], [False], [False]])
    tensor([1.], dtype=torch.float64)
    """
    return (2 * auc_of(present, activations) - 1).abs()


@metric("fade", "activations", "present", about="average precision of the activation for the concept")
def purity(activations: Any, present: Any) -> Tensor:
    """Average precision of the activation for the concept's presence (FADE); (I,N),(I,N) -> (N).

    >>> purity([[3.0], [2.0], [1.0]], [[True], [False], [True]])
    tensor([0.8333], dtype=torch.float64)
    """
    return auprc(present, activations)


def gained_share(before: Any, after: Any) -> Tensor:
    """max(0, max_m (after[m] - before) / (1 - before)): FADE's faithfulness from a concept's share of the output.

    `before` (N) with the neuron as it is, `after` (M,N) with it scaled in M ways; shares between 0 and 1. NaN where the
    share is 1 already.

    >>> gained_share([0.5], [[0.6], [0.75]])  # scaled in two ways
    tensor([0.5000], dtype=torch.float64)
    """
    b, a = torch.as_tensor(before).double(), matrix(after, "after").double()
    gain = (a - b) / (1 - b).masked_fill(b >= 1, torch.nan)
    return gain.amax(0).clamp_min(0.0)


def _overlap(truth: Any, predicted: Any) -> tuple[Tensor, Tensor, Tensor]:
    t, p = _truth(truth), _truth(predicted)
    if t.shape != p.shape:
        raise InputError(f"`predicted` must have shape {tuple(t.shape)} like `truth`; got {tuple(p.shape)}")
    both, nt, np_ = (x.sum(0).double() for x in (t & p, t, p))
    tells = (nt > 0) & (nt < len(t)) & (np_ > 0) & (np_ < len(t))
    return both.masked_fill(~tells, torch.nan), nt, np_


def _mean(v: Tensor) -> Tensor:
    v = v.double()
    return v.masked_fill(~v.isfinite(), torch.nan).nanmean(0)


def _spread(v: Tensor) -> Tensor:
    v = v.double()
    v = v.masked_fill(~v.isfinite(), torch.nan)
    return (v - v.nanmean(0)).square().nanmean(0).sqrt()


def _positive(strongest: Any) -> Tensor:
    top = torch.as_tensor(strongest).double()
    return top.masked_fill(~(top > 0) | top.isinf(), torch.nan)


def _truth(value: Any) -> Tensor:
    t = torch.as_tensor(value)
    if t.ndim != 2:
        raise InputError(f"a yes-or-no matrix must be (I,N); got shape {tuple(t.shape)}")
    return t.bool()


def _pair(one: Any, other: Any, rows: bool = False) -> tuple[Tensor, Tensor]:
    a, b = matrix(one, "first matrix"), matrix(other, "second matrix")
    if a.shape[1] != b.shape[1] or (rows and a.shape != b.shape):
        raise InputError(
            f"the two matrices must fit, column for column; got shapes {tuple(a.shape)} and {tuple(b.shape)}"
        )
    return a, b.to(a.dtype) if a.dtype == torch.float64 else b
