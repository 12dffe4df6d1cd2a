"""What is measured of a run's labels, and the matrices that it is made of."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contralens.checks import as_texts, nearest
from contralens.encoders.registry import embed_texts
from contralens.errors import InputError
from contralens.evaluation import faithfulness, hypernyms  # noqa: F401  (they declare metrics)
from contralens.evaluation.cosy import Made
from contralens.evaluation.metric_inputs import Seen, metric_of, values_from
from contralens.math import exemplar_statistics  # noqa: F401  (likewise)
from contralens.math.activation_sources import ActivationSource, columns
from contralens.math.metric_registry import METRICS, groups
from contralens.math.metric_sanity import Sanity, can_be_tested, sanity_table
from contralens.math.simulation import ALPHAS, fit_sigmoid, simulate
from contralens.math.tensors import blocks
from contralens.run_data.reopened import Reopened
from contralens.types import Encoder, Progress, silent

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
    given = re.split(r",(?!\s*\w+\s*=)", metrics) if isinstance(metrics, str) else as_texts("metrics", metrics)
    known = groups()
    out: list[str] = []
    for name in (part.strip() for part in given):
        plain = METRICS.parse(name)[0] if METRICS.names(name) else None
        if plain is None and name not in known:
            raise InputError(
                f"unknown metric {name!r}{nearest(name, [*METRICS, *known])}; groups: "
                + "; ".join(f"{group}: {', '.join(names)}" for group, names in known.items())
            )
        out += [*known.get(name, ()), *([] if plain is None else [name])]
    if not out:
        raise InputError(f"`metrics` is empty; choose from the groups {', '.join(known)}")
    return list(dict.fromkeys(out))


def on_heldout(wanted: Sequence[str]) -> bool:
    """Whether one of these metrics needs held-out images."""
    return any(metric_of(name).heldout for name in wanted)


def needs_judge(wanted: Sequence[str]) -> bool:
    """Whether one of these metrics needs a judge, even where images of the labels are given."""
    return any(metric_of(name).judge for name in wanted)


def made_from(given: str, wanted: Iterable[str]) -> list[str]:
    """Those of some metrics that need one of `INPUTS`.

    >>> made_from("calibrated", ["pearson", "pearson_sigmoid"])
    ['pearson_sigmoid']
    """
    return [name for name in wanted if given in metric_of(name).needs]


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
        self.undetermined = False
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

    def blocks(self, neurons: int, concepts: int = 0) -> Iterator[slice]:
        """Some of the neurons at a time, as many as memory holds with so many concepts for each."""
        return blocks(neurons, len(self.reopened.test) * (MATRICES_HELD + concepts) * 8, BLOCK_BYTES)

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
        for block in self.blocks(len(every), self.concepts):
            progress("measuring", block.start, len(every))
            a = self.activations(every[block])
            at = {n: i for i, n in enumerate(every[block])}
            for scorer, rows in labeled.items():
                if own := [row for row in rows if row["neuron"] in at]:
                    parts[scorer].append(
                        values_from(Seen(self, a[:, [at[row["neuron"]] for row in own]], own), self.wanted)
                    )
        progress("measuring", len(every), len(every))
        return {
            scorer: {name: np.concatenate([part[name] for part in own]) for name in (own[0] if own else ())}
            for scorer, own in parts.items()
        }

    def true_names(self, names: Mapping[int, str]) -> dict[str, dict[int, float]]:
        """Metric -> neuron -> its value for the neuron's true name in place of a label."""
        neurons = sorted(names)
        out: dict[str, dict[int, float]] = {}
        for block in self.blocks(len(neurons), 1):
            some = neurons[block]
            rows = [{"neuron": n, "label": names[n], "concepts": [names[n]]} for n in some]
            for metric, values in values_from(Seen(self, self.activations(some), rows), self.wanted).items():
                out.setdefault(metric, {}).update(zip(some, values.tolist(), strict=True))
        return out

    def controls(self) -> Tensor:
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
                names = " and ".join(made_from("calibrated", METRICS.here()))
                self.undetermined = True
                self.notes.append(
                    f"{names} are undefined: the slope of the judge's sigmoid ({self._sigmoid[0]:g}) "
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
        return sanity_table(a, {name: metric for name in self.wanted if can_be_tested(metric := metric_of(name))})

    def counts(self) -> dict[str, Any]:
        """How many images each part has, and where they are from."""
        if not on_heldout(self.wanted):
            return {}
        r = self.reopened
        recorded = self.run.manifest["images"].get("holdout") or {}
        where = {"set": r.heldout_images.name} if r.on_other_images else {"holdout": recorded.get("share")}
        return {**where, "held_out": len(r.held_out), "validation": len(r.validation), "test": len(r.test)}
