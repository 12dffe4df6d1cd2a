"""Train the rendered world's networks from scratch; `scripts/make_world.py` is the command."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from contralens.math.fast_kernels import bfloat16_is_fast
from contralens.math.tensors import keeping_memory
from contralens.world.captions import captions, concepts
from contralens.world.encoder import FEATURES, DualEncoder, held_out, to_tensor, word_ids
from contralens.world.render import render
from contralens.world.scenes import FACTORS, Scenes, sample_scenes
from contralens.world.targets import STRENGTH, TRAINING_STRENGTH, TargetNet, World, class_names, load_target, world

Log = Callable[[str], None]


def seeded(seed: int) -> None:
    """Make what follows repeatable on one machine."""
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)


def steps_of(parts: nn.Module, rate: float, steps: int) -> Iterator[Callable[[Tensor], None]]:
    """AdamW with one cycle of the rate: for every step what is done with its loss."""
    heavy = [p for p in parts.parameters() if p.ndim > 1]
    light = [p for p in parts.parameters() if p.ndim <= 1]
    groups = [{"params": heavy, "weight_decay": 0.05}, {"params": light, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=0.15)

    def step(loss: Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        cycle.step()

    for _ in range(steps):
        yield step


def fit(
    model: nn.Module,
    loss: Callable[[NDArray[np.int64]], Tensor],
    n: int,
    epochs: int,
    batch: int,
    rate: float,
    log: Log,
    seed: int = 0,
) -> Iterator[int]:
    """AdamW with one cycle of the rate; `loss` gets the rows of a batch. Yields before every epoch."""
    rng = np.random.default_rng(seed)
    steps = n // batch
    stepping, start = steps_of(model, rate, epochs * steps), time.monotonic()
    for epoch in range(epochs):
        yield epoch
        model.train()
        total = 0.0
        for rows in rng.permutation(n)[: steps * batch].reshape(steps, batch):
            value = loss(rows)
            next(stepping)(value)
            total += value.item()
        log(f"  epoch {epoch + 1}/{epochs}  loss {total / steps:.3f}  {time.monotonic() - start:.0f} s")
    model.eval()


SAYINGS = 3
"""Captions of a picture in one step, with other words, order and omissions."""


def train_encoder(
    seed: int = 0, images: int = 24_000, epochs: int = 10, batch: int = 128, log: Log = print
) -> DualEncoder:
    """CLIP's loss on untied scenes without the held-out combinations; three new captions a picture every epoch.

    A second loss, from a linear head on the image features that is thrown away afterwards, predicts the levels of the
    scene: with CLIP's loss alone, shapes and patterns were learnt six times more slowly than colours and backgrounds.
    """
    seeded(seed)
    scenes = sample_scenes(int(images * 1.5), seed=1000 + seed)
    scenes = scenes[~held_out(scenes)][:images]
    pictures = render(scenes)
    log(f"encoder: {len(scenes)} pictures")
    model = DualEncoder().to(memory_format=torch.channels_last)
    sizes = [len(names) for names in FACTORS.values()]
    levels = torch.from_numpy(np.stack([scenes.of(f) for f in FACTORS], axis=1))
    probe = nn.Linear(FEATURES[1], sum(sizes))
    ids: list[Tensor] = []

    def loss(rows: NDArray[np.int64]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_is_fast()):
            features = model.image.features(to_tensor(pictures[rows]))
            embedded, guesses = model.image.project(features), probe(features)
        said = [words[rows] for words in ids]
        total = torch.stack([model.loss(embedded, w[:, : int((w > 0).sum(1).max())]) for w in said]).mean()
        for guess, level in zip(guesses.float().split(sizes, 1), levels[rows].T, strict=True):
            total = total + F.cross_entropy(guess, level) / len(sizes)
        return total

    for epoch in fit(nn.ModuleList([model, probe]), loss, len(scenes), epochs, batch, 2e-3, log):
        ids = [word_ids(captions(scenes, seed=epoch * SAYINGS + i)) for i in range(SAYINGS)]
    return model


@torch.inference_mode()
def rows_of(network: nn.Module, pictures: NDArray[np.uint8]) -> Tensor:
    """Run a network over (I,96,96,3) pictures in blocks of 128."""
    parts = [pictures[i : i + 128] for i in range(0, len(pictures), 128)]
    return torch.cat([network(to_tensor(part)).float() for part in parts])


@torch.inference_mode()
def zero_shot(model: DualEncoder, scenes: Scenes) -> dict[str, float]:
    """Share of scenes whose level of each factor is the nearest of that factor's labels."""
    rows = rows_of(model.image, render(scenes))
    found = {}
    for factor in FACTORS:
        texts = [c.text for c in concepts() if c.levels[0][0] == factor]
        guess = (rows @ model.text(word_ids(texts)).T).argmax(1).numpy()
        found[factor] = float(np.mean(guess == scenes.of(factor)))
    return found


def _rounded(shares: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in shares.items()}


def encoder_card(model: DualEncoder, seed: int = 0) -> dict[str, object]:
    """What the encoder is and how often it names a level right, on combinations it saw and on those it never saw."""
    scenes = sample_scenes(6000, seed=2000 + seed)
    new = held_out(scenes)
    s, c, p, b = (scenes.of(f) for f in ("shape", "colour", "pattern", "background"))
    first, second = (3 * s + c) % 8 == 0, (p + b) % 6 == 0
    one, two = zero_shot(model, scenes[first]), zero_shot(model, scenes[second])
    return {
        "seen combinations": _rounded(zero_shot(model, scenes[~new])),
        "held-out combinations": _rounded(
            {"shape": one["shape"], "colour": one["colour"], "pattern": two["pattern"], "background": two["background"]}
        ),
        "scenes": {"seen": int((~new).sum()), "shape x colour held out": int(first.sum()),
                   "pattern x background held out": int(second.sum())},
        "parameters": sum(p.numel() for p in model.parameters()),
    }  # fmt: skip


def train_target(
    index: int | World, images: int = 12_000, epochs: int = 8, batch: int = 128, log: Log = print
) -> TargetNet:  # fmt: skip
    """Cross-entropy on the true factor, in the tied world: the network may use whatever separates the classes."""
    place = world(index)
    seeded(place.index)
    scenes = place.scenes(images, seed=0, strength=TRAINING_STRENGTH)
    pictures = render(scenes)
    names = FACTORS[place.true]
    log(f"target {place.index}: {images} pictures, classes: {', '.join(names)}")
    net = TargetNet(len(names))
    classes = torch.from_numpy(scenes.of(place.true))
    return _classify(net, pictures, classes, epochs, batch, 3e-3, log)


def tune_target(
    pictures: NDArray[np.uint8],
    classes: NDArray[np.int64],
    names: Sequence[str],
    *,
    start: int = 2,
    epochs: int = 5,
    batch: int = 128,
    seed: int = 0,
    log: Log = print,
) -> TargetNet:
    """Fine-tune the shipped target of a world, with a new head, on pictures (I,96,96,3) and their classes (I).

    As people do with a network available; from scratch the same takes three times as long. 4,000 pictures and 5 epochs
    are about 15 s of one core.
    """
    torch.manual_seed(seed)
    net = load_target(start)
    net.head = nn.Linear(net.head.in_features, len(names))
    return _classify(net, pictures, torch.from_numpy(classes), epochs, batch, 2e-3, log, seed)


def _classify(
    net: TargetNet, pictures: NDArray[np.uint8], classes: Tensor, epochs: int, batch: int, rate: float, log: Log,
    seed: int = 0,
) -> TargetNet:  # fmt: skip
    """Train with the cross-entropy of the classes."""
    net.to(memory_format=torch.channels_last)

    def loss(rows: NDArray[np.int64]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_is_fast()):
            logits = net(to_tensor(pictures[rows]))
        return F.cross_entropy(logits.float(), classes[rows])

    with keeping_memory():
        for _ in fit(net, loss, len(pictures), epochs, batch, rate, log, seed):
            pass
    return net


def target_card(net: TargetNet, index: int) -> dict[str, object]:
    """How often a target names the class right in its own tied world and where nothing is tied."""
    right = {}
    for name, strength in (("tied world", STRENGTH), ("training ties", TRAINING_STRENGTH), ("untied world", 0.0)):
        scenes = world(index).scenes(2000, 3, strength)
        guess = rows_of(net, render(scenes)).argmax(1).numpy()
        right[name] = round(float(np.mean(guess == scenes.of(world(index).true))), 4)
    return {"world": index, "classes": list(class_names(index)), "accuracy": right,
            "parameters": sum(p.numel() for p in net.parameters())}  # fmt: skip
