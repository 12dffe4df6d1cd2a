"""Train version 2 of the rendered world's encoder on scenes without the held-out combinations.

Version 1 learnt that some pairs of levels never occur: in its training scenes a ground excluded a pattern, and with
CLIP's loss it pays to know that. On scenes with such a pair it named the pattern right 3 % of the time, and a linear
probe on its image rows did so 2 % of the time (25 % on the features below the head): the image tower had learnt it.
Version 2 is trained in three steps, and none compares what the held-out combinations can decide:

- *Image tower*: of each factor, the scene's level against the others, as rows that are learnt along, one for each of
  the 38 levels. A level that with the rest of the scene would be a held-out combination is left out, so no ground
  speaks against a pattern (`combinations.possible`). In most scenes some factors show levels that have no name
  (`world.foreign`), so that each factor is learnt apart from the others: split tones on objects of a size in between,
  large objects of patterns in between. A size in between is called large as much as small, whatever is of that size;
  so is light. Shapes and patterns, which are learnt the slowest, count more. A linear head on the features, which is
  not kept, speeds it up. Every scene is new; the last part shows the nuisances of `world.disturbances`.
- *Text tower*: texts that name one level ("a banded thing") to that level's row; and CLIP's loss between captions and
  pictures, where a caption counts as false only by levels that could have been.
- *Head*: the image tower's last layer, on fixed features. Snow is never dim, so the image tower may call all snow
  bright, and nothing corrects it. But snow in between bright and dim must be as near to both, and a ring of a pattern
  without a name must be as striped as any other shape of one. Only this step makes held-out combinations of place and
  light come out (`settle_head`).

One step for both did worse: while the image tower did not see shapes yet, all words for shapes came to mean the same.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from contralens.bench.training import Log, rows_of, seeded, steps_of
from contralens.math.fast_kernels import bfloat16_is_fast
from contralens.math.tensors import keeping_memory
from contralens.world.captions import SYNONYMS, captions, concept_text, concepts, meaning, one_factor_captions
from contralens.world.combinations import (
    OFFSETS,
    PAIRS,
    SIZES,
    held_out_scenes,
    held_out_table,
    numbered,
    possible,
    seen,
    seen_scenes,
    training_scenes,
)
from contralens.world.disturbances import Disturbances, numbers, others, render
from contralens.world.encoder import FEATURES, WIDTH, DualEncoder, to_tensor, word_ids
from contralens.world.render import SIZE
from contralens.world.scenes import FACTORS, NAMES, Scenes, column
from contralens.world.truth import LEVELS

SAMPLES = 300_000
BATCH = 64
CHUNK = 96
"""Batches rendered at a time."""
CLEAN = 0.6
"""Share of training without nuisances."""
ROUGH = Disturbances(0.15, 0.15, 0.15, 0.15)
WEIGHTS = torch.tensor([{"shape": 2.0, "pattern": 4.0}.get(name, 1.0) for name in NAMES])
BETWEEN = 0.3
"""Weight of the loss of sizes and light in between."""
SHUT = -1e4


def train_encoder(seed: int = 0, samples: int = SAMPLES, log: Log = print) -> DualEncoder:
    """The encoder from scratch, on `samples` scenes, each shown once: about 4 ms of one core each."""
    seeded(seed)
    model = DualEncoder(version=2).to(memory_format=torch.channels_last)
    rows = nn.Parameter(torch.randn(sum(SIZES), WIDTH))
    with keeping_memory():
        _train_images(model, rows, samples, seed, log)
        _train_texts(model, F.normalize(rows.detach(), dim=1), samples // 200, seed, log)
        settle_head(model, min(samples // 10, 24_000), seed, log)
    return model.eval()


def _train_images(model: DualEncoder, rows: nn.Parameter, samples: int, seed: int, log: Log) -> None:
    head, start, steps = nn.Linear(FEATURES[2], sum(SIZES)), time.process_time(), samples // BATCH
    parts = nn.ModuleList([model.image, head])
    parts.register_parameter("rows", rows)
    parts.register_parameter("scale", model.log_scale)
    model.train()
    shown: dict[str, float] = {}
    for number, step in enumerate(steps_of(parts, 3e-3, steps)):
        if number % CHUNK == 0:
            log(f"  {number}/{steps}  {shown}  {time.process_time() - start:.0f} CPU s")
            chunk = _Chunk(training_scenes(CHUNK * BATCH, 1_000_000 * (seed + 1) + number), number >= CLEAN * steps)
        at = slice(number % CHUNK * BATCH, number % CHUNK * BATCH + BATCH)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_is_fast()):
            features = model.image.features(to_tensor(chunk.pictures[at]))
            embedded = model.image.project(features)
        near = model.log_scale.exp().clamp(max=100) * embedded @ F.normalize(rows, dim=1).T
        losses = _level_losses(near, chunk.levels[at], chunk.possible[at])
        shown = {name: round(x.item(), 2) for name, x in zip(NAMES, losses, strict=True)}
        losses = losses + _level_losses(head(features.float()), chunk.levels[at], chunk.possible[at])
        step((losses * WEIGHTS).mean())
    model.eval()


def _level_losses(logits: Tensor, levels: Tensor, can: Tensor, between: float = BETWEEN) -> Tensor:
    """(8): of every factor the cross-entropy of the known levels; logits and possible levels (B,38), levels (B,8).

    A scene counts where two levels at least are possible. Size and light in between count too: half of each level.
    """
    found = []
    sizes = list(SIZES)
    parts = zip(NAMES, torch.split(logits, sizes, 1), torch.split(can, sizes, 1), levels.T, strict=True)
    for name, part, able, level in parts:
        asked = (level < part.shape[1]) & (able.sum(1) > 1)
        own = level.where(asked, torch.tensor(-100))
        loss = F.cross_entropy(part.masked_fill(~able, SHUT), own, reduction="sum") / asked.sum().clamp_min(1)
        if name in ("size", "lighting"):
            middle = level == part.shape[1]
            even = -part.log_softmax(1).mean(1)[middle].sum() / middle.sum().clamp_min(1)
            loss = loss + between * even
        found.append(loss)
    return torch.stack(found)


def _train_texts(model: DualEncoder, rows: Tensor, steps: int, seed: int, log: Log, images: int = 6144) -> None:
    """The text tower alone: the rows of the levels, (38,D), and the pictures' rows stay as they are."""
    start, sayings = time.process_time(), _sayings(seed)
    chunk = _Chunk(seen_scenes(images, 1_000_000 * (seed + 1) + 999_999), False)
    embedded = rows_of(model.image, chunk.pictures)
    own = torch.arange(BATCH)
    model.train()
    for number, step in enumerate(steps_of(model.text, 2e-3, steps)):
        if number % (images // BATCH) == 0:
            texts = captions(chunk.scenes, seed + number)
            ids, said = word_ids(texts), torch.from_numpy(_named(texts))
        at = slice(number % (images // BATCH) * BATCH, number % (images // BATCH) * BATCH + BATCH)
        choice = torch.randint(sayings.shape[1], (2, len(rows)))
        short = torch.cat([sayings[torch.arange(len(rows)), some] for some in choice])
        away = 1 - (model.text(short) * rows.repeat(2, 1)).sum(1).mean()
        words = ids[at][:, : int((ids[at] > 0).sum(1).max())]
        logits = model.log_scale.detach().exp().clamp(max=100) * embedded[at] @ model.text(words).T
        false = said[at][None] & ~chunk.own[at][:, None]  # (picture, caption, level)
        against = false.any(2) & ~(false & ~chunk.possible[at][:, None]).any(2)
        against[own, own] = True
        logits = logits.masked_fill(~against, SHUT)
        step(4 * away + (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 8)
        if number % 200 == 0:
            log(f"  texts {number}/{steps}  {away.item():.4f}  {time.process_time() - start:.0f} CPU s")
    model.eval()


MIDDLE = {"size": [(2, (0, 1))], "lighting": [(2, (0, 1))], "position": [(3, (0, 1)), (4, (1, 2))]}
"""Of factors with an order, the foreign levels, each with the two levels that it lies between."""
_FREE = ["position", "lighting"]
_SETTLED = torch.tensor([8.0 if name == "lighting" else float(name in _FREE) for name in NAMES])


def settle_head(model: DualEncoder, n: int, seed: int = 0, log: Log = print, epochs: int = 30) -> None:
    """The image tower's head again, on the fixed features of `n` training scenes and the fixed rows of the labels.

    Four losses: of places and light, the levels as before; what lies between two levels is half each, the more so where
    one of them is excluded; a foreign level looks as much like a level among scenes that exclude it as elsewhere; the
    logits of all other factors stay (mean square).
    """
    start, scenes = time.process_time(), []
    features, rows = [], torch.from_numpy(label_rows(model))
    for number in range(0, n, 1000):
        chunk = _Chunk(
            training_scenes(min(1000, n - number), 5_000_000 + seed * 1000 + number // 1000), number % 4000 == 3000
        )
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_is_fast()):
            parts = [model.image.features(to_tensor(some)).float() for some in np.array_split(chunk.pictures, 8)]
        features.append(torch.cat(parts).clone())
        scenes.append(chunk)
    x, levels = torch.cat(features), torch.cat([c.levels for c in scenes])
    can, own = torch.cat([c.possible for c in scenes]), torch.cat([c.own for c in scenes])
    scale = float(model.log_scale.detach().exp().clamp(max=100))
    with torch.no_grad():
        before = scale * model.image.project(x) @ rows.T
    stay = torch.cat([torch.full((size,), name not in _FREE) for name, size in zip(NAMES, SIZES, strict=True)])
    optimiser = torch.optim.AdamW(model.image.head.parameters(), lr=1e-3, weight_decay=0.0)
    batches = [
        b
        for e in range(epochs)
        for b in torch.split(torch.randperm(n, generator=torch.Generator().manual_seed(e)), 2048)
    ]
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, len(batches))
    for at in batches:
        logits = scale * model.image.project(x[at]) @ rows.T
        known = (_level_losses(logits, levels[at], can[at], 0.0) * _SETTLED).mean()
        loss = known + _between(logits, levels[at], can[at]) + _apart(logits, levels[at], own[at])
        loss = loss + (logits - before[at])[:, stay].square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        cycle.step()
    log(f"  head {loss.item():.3f}  {time.process_time() - start:.0f} CPU s")


def _between(logits: Tensor, levels: Tensor, can: Tensor) -> Tensor:
    """What lies between two levels is half each; four times the weight where one of the two is excluded."""
    total = torch.zeros(())
    for name, middles in MIDDLE.items():
        at = slice(OFFSETS[column(name)], OFFSETS[column(name)] + SIZES[column(name)])
        shares = logits[:, at].log_softmax(1)
        for number, both in middles:
            weight = (levels[:, column(name)] == number) * (1 + 3 * (can[:, at][:, list(both)].sum(1) < 2))
            total = total - (shares[:, list(both)].mean(1) * weight).sum() / weight.sum().clamp_min(1)
    return total / len(NAMES)


def _apart(logits: Tensor, levels: Tensor, own: Tensor) -> Tensor:
    """Of each held-out combination of unordered factors, how far one level speaks for the other where that is foreign.

    The mean square, over combinations, of the difference between two means of a level's logit (less its factor's mean):
    of scenes with the other level, and of all scenes whose level of this factor is foreign.
    """
    table = torch.from_numpy(held_out_table()).float()
    for name in MIDDLE:
        at = slice(OFFSETS[column(name)], OFFSETS[column(name)] + SIZES[column(name)])
        table[at], table[:, at] = 0, 0
    total = torch.zeros(())
    for place, size in enumerate(SIZES):
        at = slice(OFFSETS[place], OFFSETS[place] + size)
        foreign = (levels[:, place] >= size).float()[:, None]
        part = logits[:, at] - logits[:, at].mean(1, keepdim=True)
        there = own * foreign
        n = there.sum(0)
        mean = (there.T @ part) / n.clamp_min(1)[:, None]
        every = (part * foreign).sum(0) / foreign.sum().clamp_min(1)
        total = total + ((mean - every).square() * table[:, at] * (n > 3)[:, None]).sum()
    return total / table.sum()


class _Chunk:
    """Pictures of scenes without held-out combinations, with what the losses ask of them."""

    def __init__(self, scenes: Scenes, rough: bool) -> None:
        self.scenes = scenes
        self.pictures = _rough(scenes) if rough else render(scenes)
        self.levels = torch.from_numpy(scenes.levels)
        self.possible = torch.from_numpy(possible(scenes.levels))
        self.own = torch.zeros(len(scenes), sum(SIZES) + 1, dtype=torch.bool)
        self.own = self.own.scatter_(1, torch.from_numpy(numbered(scenes.levels)), True)[:, :-1]


def _rough(scenes: Scenes) -> NDArray[np.uint8]:
    """Pictures with nuisances; other objects stand only where they make no held-out combination either.

    That is so in a third of the scenes, which show them the more often.
    """
    alone = others(scenes, numbers(scenes))
    for factor in ("count", "position"):  # they are not counted, and stand in no place that has a name
        alone.levels[:, column(factor)] = len(FACTORS[factor])
    able = seen(alone)
    pictures = np.empty((len(scenes), SIZE, SIZE, 3), np.uint8)
    for of, objects in ((able, 3 * ROUGH.objects), (~able, 0.0)):
        pictures[of] = render(scenes[of], replace(ROUGH, objects=objects))
    return pictures


def _named(texts: Sequence[str]) -> NDArray[np.bool_]:
    """(len(texts),38): the levels that each text names."""
    at = {level: i for i, level in enumerate(LEVELS)}
    found = np.zeros((len(texts), len(LEVELS)), bool)
    for row, text in zip(found, texts, strict=True):
        row[[at[level] for level in meaning(text)]] = True
    return found


def _sayings(seed: int, each: int = 24) -> Tensor:
    """(38,S,L): word numbers of texts that name one level and nothing else."""
    found = []
    for number, (factor, i) in enumerate(LEVELS):
        name = FACTORS[factor][i]
        texts = one_factor_captions(factor, i, each, seed * 1000 + number)
        labels = [concept_text(factor, name).replace(name, word) for word in SYNONYMS[factor][i]]
        found.append(word_ids([*texts, *(labels * 3)[:3]])[:, :12])
    return torch.stack(found)


@torch.no_grad()
def label_rows(model: DualEncoder) -> NDArray[np.float32]:
    """(38,D): the rows of the labels of all levels."""
    rows: NDArray[np.float32] = model.text(word_ids([c.text for c in concepts()])).numpy()
    return rows


@torch.inference_mode()
def zero_shot_guesses(model: DualEncoder, scenes: Scenes, shares: Disturbances | None = None) -> NDArray[np.int64]:
    """(I,8): of every factor the level whose label is nearest to the picture."""
    near = rows_of(model.image, render(scenes, shares)) @ torch.from_numpy(label_rows(model)).T
    return torch.stack([part.argmax(1) for part in torch.split(near, list(SIZES), 1)], 1).numpy()


def held_out_accuracy(
    model: DualEncoder, n: int, seed: int, shares: Disturbances | None = None
) -> dict[str, dict[str, float]]:
    """Zero-shot accuracy of both factors on `n` scenes with a held-out pair of levels: factor -> other -> share."""
    found: dict[str, dict[str, float]] = {factor: {} for factor in NAMES}
    for pair in PAIRS:
        scenes = held_out_scenes(pair, n, seed)
        guesses = zero_shot_guesses(model, scenes, shares)
        for factor, other in (pair, pair[::-1]):
            right = guesses[:, NAMES.index(factor)] == scenes.of(factor)
            found[factor][other] = round(float(right.mean()), 4)
    return found


def encoder_card(model: DualEncoder, seed: int = 9000, n: int = 200) -> dict[str, object]:
    """How often the encoder names a level right: on combinations that it saw, held out, and with nuisances."""
    scenes = seen_scenes(4 * n, seed)
    right = (zero_shot_guesses(model, scenes) == scenes.levels).mean(0)
    rough = (zero_shot_guesses(model, scenes, ROUGH) == scenes.levels).mean(0)
    held = held_out_accuracy(model, n, seed + 1)
    every = [share for row in held.values() for share in row.values()]
    return {
        "seen combinations": {name: round(float(x), 4) for name, x in zip(NAMES, right, strict=True)},
        "seen combinations, nuisances": {name: round(float(x), 4) for name, x in zip(NAMES, rough, strict=True)},
        "held-out combinations": held,
        "held-out least": min(every), "held-out mean": round(float(np.mean(every)), 4),
        "scenes": {"seen": 4 * n, "held out, each pair of factors": n},
        "parameters": sum(p.numel() for p in model.parameters()),
    }  # fmt: skip
