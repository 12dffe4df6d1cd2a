"""What is measured of a run's labels, and the matrices that it is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property, partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contralens.checks import as_texts, nearest
from contralens.encoders.registry import embed_texts
from contralens.errors import InputError
from contralens.evaluation.cosy import Made
from contralens.math import metrics
from contralens.math.activation_sources import ActivationSource, columns
from contralens.math.metric_sanity import METRICS as SANITY
from contralens.math.metric_sanity import Metric, Sanity, sanity_table
from contralens.math.metrics import active
from contralens.math.simulation import ALPHAS, fit_sigmoid, simulate
from contralens.math.tensors import blocks
from contralens.plugs import Plugs
from contralens.run_data.reopened import Reopened
from contralens.types import Encoder, Progress, silent

GROUPS: dict[str, dict[str, str]] = {
    "simulation": {
        "pearson": "correlation of activation and the judge's cosine with the label",
        "pearson_sigmoid": "the same through a calibrated sigmoid",
        "cosine": "cosine of activation and calibrated sigmoid",
        "auprc": "average precision of the judge's cosine for the neuron being active",
        "f1": "F1 of the judge's top images and the neuron's",
        "iou": "intersection over union of the same",
    },
    "cosy": {
        "auc": "chance that an image of the label activates the neuron more than a control image",
        "mad": "rise of the mean activation in standard deviations of the control",
        "dma": "mean activation on the label's images over the neuron's largest",
        "max_ratio": "largest activation on the label's images over the neuron's largest",
    },
    "fade": {
        "clarity": "|2 AUC - 1| of the label's images against control images",
        "responsiveness": "|2 AUC - 1| of held-out images with the concept against those without",
        "purity": "average precision of the activation for the concept",
    },
    "faithfulness": {
        "faithfulness": "rise of the label's class when the neuron is amplified, in what was left to rise",
        "ablation": "fall of the label's class when the neuron is switched off, in what was there",
    },
    "granularity": {
        "depth": "levels from the label up to the most general noun of WordNet",
    },
    "audit": {
        "exemplar_clarity": "mean cosine of two exemplars",
        "redundancy": "largest cosine with another neuron",
        "polysemanticity": "distance of two clusters of exemplars",
    },
}
"""Metrics by group, with one line each."""
METRICS: Plugs[Metric] = Plugs("metrics", {})
"""Metrics of your own and of installed packages, beside those of `GROUPS`: functions of activations (I,n) on the test
images and of predictions (I,n), the judge's cosines with the labels, to one number per neuron (n). A package adds one
with an entry point in the group "contralens.metrics"."""
ON_HELDOUT = {*GROUPS["simulation"], *GROUPS["cosy"], *GROUPS["fade"], *GROUPS["faithfulness"]}
"""Metrics that need held-out images."""
NEED_JUDGE = {*GROUPS["simulation"], "responsiveness", "purity", *GROUPS["faithfulness"]}
"""Metrics that need a judge even where images of the labels are given."""
SIGMOID = ("pearson_sigmoid", "cosine")
"""Metrics through the calibrated sigmoid."""
SAME_METRIC = {"pearson_sigmoid": "pearson"}
RETRIEVED = 20
"""Images taken for a label where none are made."""
SANITY_SIZE = (2000, 100)
"""Images and neurons at most on which a metric's sanity is tested."""
SIGMOID_NEURONS = 1000
"""Labels at most that the judge's sigmoid is fitted on."""
BLOCK_BYTES = 2**29
"""Bytes that measuring a block of neurons may take."""
MATRICES_HELD = 12
"""Matrices (I,n) of eight bytes an entry that measuring holds at once."""
Part = Literal["test", "validation"]


def wanted_metrics(metrics: str | Sequence[str]) -> list[str]:
    """The metrics that names of metrics and groups stand for, in order."""
    given = [part.strip() for part in metrics.split(",")] if isinstance(metrics, str) else as_texts("metrics", metrics)
    known = [name for group in GROUPS.values() for name in group] + list(METRICS)
    out: list[str] = []
    for name in given:
        if name not in known and name not in GROUPS:
            raise InputError(
                f"unknown metric {name!r}{nearest(name, [*known, *GROUPS])}; groups: "
                + "; ".join(f"{group}: {', '.join(names)}" for group, names in GROUPS.items())
                + (f"; plugged in: {', '.join(METRICS)}" if len(METRICS) else "")
            )
        out += list(GROUPS[name]) if name in GROUPS else []
        out += [name] if name in known else []
    if not out:
        raise InputError(f"`metrics` is empty; choose from the groups {', '.join(GROUPS)}")
    return list(dict.fromkeys(out))


def on_heldout(wanted: Sequence[str]) -> bool:
    """Whether one of these metrics needs held-out images."""
    return any(name in ON_HELDOUT or name in METRICS for name in wanted)


def needs_judge(wanted: Sequence[str]) -> bool:
    """Whether one of these metrics needs a judge, even where images of the labels are given."""
    return any(name in NEED_JUDGE or name in METRICS for name in wanted)


def _of_presence(metric: Metric, a: Tensor, present: Tensor) -> Tensor:
    return metric(a, present.double())


class Session:
    """What metrics are made of, a block of neurons at a time."""

    def __init__(
        self, reopened: Reopened, judge: Encoder | None, wanted: list[str], share: float, concepts: int,
        combine: Literal["mean", "max"], sigmoid: tuple[float, float] | None, count: int,
    ) -> None:  # fmt: skip
        if concepts < 1:
            raise InputError(f"`concepts` must be at least 1; got {concepts}")
        self.reopened, self.run, self.judge, self.wanted = reopened, reopened.run, judge, wanted
        self.share, self.concepts, self.combine, self._sigmoid = share, concepts, combine, sigmoid
        self._count = count
        self.made: Made | None = None
        self.control: int | None = None
        self.sigmoid_used: dict[str, Any] | None = None
        self._undetermined = False
        self.notes: list[str] = []
        self.effects: dict[int, tuple[Tensor, Tensor]] = {}
        """Neuron -> class shares (factors,classes) over all images and over its strongest (`faithful`)."""
        self._texts: dict[str, Tensor] = {}

    def rows(self, scorer: str) -> list[dict[str, Any]]:
        """The labeled neurons of a scorer."""
        return [row for row in self.run.rows(scorer) if row["label"] is not None]

    @property
    def count(self) -> int:
        """Images retrieved per label: never more than a quarter of the test part."""
        return max(1, min(self._count, len(self.reopened.test) // 4))

    def activations(self, neurons: Sequence[int], part: Part = "test") -> Tensor:
        """Activations of some neurons on a part's images, (I,len(neurons))."""
        return columns(self._sources(part), torch.tensor(list(neurons), dtype=torch.int64))

    @cached_property
    def _sources(self) -> Callable[[Part], ActivationSource]:
        return cache(lambda part: self.reopened.activations(getattr(self.reopened, part)))

    @cached_property
    def _judged(self) -> Callable[[Part], Tensor]:
        return cache(lambda part: self.reopened.embeddings(getattr(self.reopened, part), self.judge))

    def read(self, texts: Sequence[str]) -> None:
        """Have the judge embed texts that it has not read yet; `InputError` where it refuses one."""
        assert self.judge is not None
        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        if new:
            embedded = embed_texts(self.judge, new, self.run.manifest["templates"])
            self._texts |= dict(zip(new, embedded, strict=True))

    def cosines(self, texts: Sequence[str], part: Part = "test") -> Tensor:
        """The judge's cosines (I,len(texts)) of a part's images and some texts."""
        self.read(texts)
        e = self._judged(part)
        return e @ torch.stack([self._texts[text] for text in texts]).T if texts else torch.empty(len(e), 0)

    def similarities(self, rows: Sequence[dict[str, Any]], part: Part = "test") -> Tensor:
        """The judge's cosines (I,n,L) of a part's images and the concepts of n labels."""
        lists = [(row["concepts"] or [row["label"]])[: self.concepts] for row in rows]
        used = list(dict.fromkeys(c for some in lists for c in some))
        at = {c: i for i, c in enumerate(used)}
        most = max(map(len, lists), default=1)
        index = torch.tensor([[at[c] for c in some] + [-1] * (most - len(some)) for some in lists], dtype=torch.int64)
        index = index.reshape(-1, most)
        return self.cosines(used, part)[:, index.clamp_min(0)].masked_fill(index < 0, torch.nan)

    def measure(self, scorers: Sequence[str], progress: Progress = silent) -> dict[str, dict[str, NDArray[np.float64]]]:
        """Every metric that is asked for of the labels of each scorer, in the order of `rows`.

        A block of neurons at a time, so that memory stays bounded however many neurons and images there are.
        """
        labeled = {scorer: self.rows(scorer) for scorer in scorers}
        every = sorted({row["neuron"] for rows in labeled.values() for row in rows})
        parts: dict[str, list[dict[str, NDArray[np.float64]]]] = {scorer: [] for scorer in scorers}
        each = len(self.reopened.test) * (MATRICES_HELD + self.concepts) * 8
        for block in blocks(len(every), each, BLOCK_BYTES):
            progress("measuring", block.start, len(every))
            a = self.activations(every[block])
            at = {n: i for i, n in enumerate(every[block])}
            for scorer, rows in labeled.items():
                if own := [row for row in rows if row["neuron"] in at]:
                    parts[scorer].append(self._measure(a[:, [at[row["neuron"]] for row in own]], own))
        progress("measuring", len(every), len(every))
        return {
            scorer: {name: np.concatenate([part[name] for part in own]) for name in (own[0] if own else ())}
            for scorer, own in parts.items()
        }

    def true_names(self, names: Mapping[int, str]) -> dict[str, dict[int, float]]:
        """Metric -> neuron -> its value for the neuron's true name in place of a label."""
        neurons = sorted(names)
        out: dict[str, dict[int, float]] = {}
        for block in blocks(len(neurons), len(self.reopened.test) * (MATRICES_HELD + 1) * 8, BLOCK_BYTES):
            some = neurons[block]
            rows = [{"neuron": n, "label": names[n], "concepts": [names[n]]} for n in some]
            for metric, values in self._measure(self.activations(some), rows).items():
                out.setdefault(metric, {}).update(zip(some, values.tolist(), strict=True))
        return out

    def _measure(self, a: Tensor, rows: Sequence[dict[str, Any]]) -> dict[str, NDArray[np.float64]]:
        """The metrics of some labels from the activations (I,n) of their neurons."""
        neurons = [row["neuron"] for row in rows]
        wanted = set(self.wanted)
        out: dict[str, Tensor] = {}
        if self.judge is not None:
            s = self.similarities(rows)
            raw = simulate(s, combine=self.combine)
            present = active(raw, self.share)
            if wanted & set(SIGMOID):
                out |= self._through_sigmoid(a, s)
            if wanted & set(GROUPS["simulation"]):
                truth = active(a, self.share)
                out |= {"pearson": metrics.pearson(a, raw), "auprc": metrics.auprc(truth, raw)}
                out |= {"f1": metrics.f1(truth, present), "iou": metrics.iou(truth, present)}
            out |= {name: METRICS[name](a, raw) for name in self.wanted if name in METRICS}
            if wanted & {"responsiveness", "purity"}:
                out |= {"responsiveness": metrics.responsiveness(a, present), "purity": metrics.purity(a, present)}
        if wanted & {*GROUPS["cosy"], "clarity"}:
            if self.made is not None:
                a1, a0 = self.made.of([row["label"] for row in rows], neurons), a[self._controls()]
            else:
                found = raw.nan_to_num(-torch.inf).topk(self.count, dim=0).indices
                a1, a0 = a.gather(0, found), a.scatter(0, found, torch.nan)
            strongest = torch.from_numpy(self.run.neurons["maximum"].to_numpy()[neurons].copy())
            out |= {"auc": metrics.auc(a1, a0), "mad": metrics.mad(a1, a0), "clarity": metrics.clarity(a1, a0)}
            out |= {"dma": metrics.dma(a1, strongest), "max_ratio": metrics.max_ratio(a1, strongest)}
        return {name: out[name].double().numpy() for name in self.wanted if name in out}

    def _through_sigmoid(self, a: Tensor, s: Tensor) -> dict[str, Tensor]:
        """The metrics `SIGMOID` (n); undefined where the labels do not determine the sigmoid."""
        alpha, beta = self.sigmoid()
        if self._undetermined:
            return dict.fromkeys(SIGMOID, torch.full((a.shape[1],), torch.nan))
        bent = simulate(s, alpha, beta, combine=self.combine)
        return {"pearson_sigmoid": metrics.pearson(a, bent), "cosine": metrics.cosine(a, bent)}

    def _controls(self) -> Tensor:
        """Rows of the test part that serve as control images: all, or a sample."""
        count = len(self.reopened.test)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        return order[: self.control or count].sort().values

    def sigmoid(self) -> tuple[float, float]:
        """alpha and beta: given, or fitted on the validation part with the labels of the primary scorer."""
        if self._sigmoid is None:
            scorer = self.run.manifest["primary"]
            rows = self.rows(scorer)
            rows = rows[:: max(1, -(-len(rows) // SIGMOID_NEURONS))]
            a = self.activations([row["neuron"] for row in rows], "validation")
            cosines = simulate(self.similarities(rows, "validation"), combine=self.combine)
            self._sigmoid = fit_sigmoid(a, cosines)
            self.sigmoid_used = {"fitted on": f"{len(a)} validation images, {len(rows)} labels of {scorer}"}
            if self._sigmoid[0] in (ALPHAS[0], ALPHAS[-1]):
                self._undetermined = True
                self.notes.append(
                    f"{' and '.join(SIGMOID)} are undefined: the slope of the judge's sigmoid ({self._sigmoid[0]:g}) "
                    "is the last one tried, so the labels do not determine it; read pearson, or give `sigmoid`"
                )
        alpha, beta = self._sigmoid
        self.sigmoid_used = {**(self.sigmoid_used or {"given": True}), "alpha": alpha, "beta": beta}
        return alpha, beta

    def sanity(self) -> dict[str, Sanity]:
        """The sanity tests of the metrics in use, on this run's own activations."""
        images, most = SANITY_SIZE
        neurons = self.reopened.exemplars.neurons[:most]
        a = self.activations(neurons.tolist())[:images]
        base = {name: SAME_METRIC.get(name, name) for name in self.wanted}
        tested = {name: SANITY[name] for name in base.values() if name in SANITY}
        tested |= {name: partial(_of_presence, METRICS[name]) for name in base.values() if name in METRICS}
        found = sanity_table(a, tested)
        return {name: found[of] for name, of in base.items() if of in found}

    def counts(self) -> dict[str, Any]:
        """How many images each part has, and where they are from."""
        if not on_heldout(self.wanted):
            return {}
        r = self.reopened
        recorded = self.run.manifest["images"].get("holdout") or {}
        where = {"set": r.heldout_images.name} if r.on_other_images else {"holdout": recorded.get("share")}
        return {**where, "held_out": len(r.held_out), "validation": len(r.validation), "test": len(r.test)}
