"""Train version 2 of the rendered world's encoder on scenes without the held-out combinations.

Version 1 learnt that some pairs of levels never occur: in its training scenes a ground excluded a pattern, and with
CLIP's loss it pays to know that. On scenes with such a pair it named the pattern right 3 % of the time, and a linear
probe on its image rows did so 2 % of the time (25 % on the features below the head): the image tower had learnt it.
Version 2 is trained in two steps, and neither compares what the held-out combinations can decide:

- *Image tower*: of each factor, the scene's level against the others, as rows that are learnt along, one for each of
  the 38 levels. A level that with the rest of the scene would be a held-out combination is left out, so no ground
  speaks against a pattern (`combinations.possible`). A linear head on the features, which is not kept, speeds it up.
  Every scene is new; the last part shows the nuisances of `world.disturbances`.
- *Text tower*: texts that name one level ("a banded thing") to that level's row; and CLIP's loss between captions and
  pictures, where a caption counts as false only by levels that could have been.

One step for both did worse: while the image tower did not see shapes yet, all words for shapes came to mean the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from contralens.bench.training import Log, rows_of, seeded
from contralens.math.fast_kernels import bfloat16_is_fast
from contralens.math.tensors import keeping_memory
from contralens.world.captions import SYNONYMS, captions, concept_text, concepts, meaning, one_factor_captions
from contralens.world.combinations import PAIRS, SIZES, held_out_scenes, numbered, possible, seen_scenes
from contralens.world.disturbances import Disturbances, render
from contralens.world.encoder import FEATURES, WIDTH, DualEncoder, to_tensor, word_ids
from contralens.world.scenes import FACTORS, NAMES, Scenes
from contralens.world.truth import LEVELS

SAMPLES = 230_000
BATCH = 128
CHUNK = 48
"""Batches rendered at a time."""
CLEAN = 0.6
"""Share of training without nuisances."""
ROUGH = Disturbances(0.15, 0.15, 0.15, 0.15)
SHUT = -1e4


def train_encoder(seed: int = 0, samples: int = SAMPLES, log: Log = print) -> DualEncoder:
    """The encoder from scratch, on `samples` scenes, each shown once: about 2.5 ms of one core each."""
    seeded(seed)
    model = DualEncoder(version=2).to(memory_format=torch.channels_last)
    rows = nn.Parameter(torch.randn(sum(SIZES), WIDTH))
    with keeping_memory():
        _train_images(model, rows, samples, seed, log)
        _train_texts(model, F.normalize(rows.detach(), dim=1), samples // 160, seed, log)
    return model.eval()


def _steps(parts: nn.Module, rate: float, steps: int) -> Iterator[Callable[[Tensor], None]]:
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


def _train_images(model: DualEncoder, rows: nn.Parameter, samples: int, seed: int, log: Log) -> None:
    head, start, steps = nn.Linear(FEATURES, sum(SIZES)), time.process_time(), samples // BATCH
    parts = nn.ModuleList([model.image, head])
    parts.register_parameter("rows", rows)
    parts.register_parameter("scale", model.log_scale)
    model.train()
    shown: dict[str, float] = {}
    for number, step in enumerate(_steps(parts, 2e-3, steps)):
        if number % CHUNK == 0:
            log(f"  {number}/{steps}  {shown}  {time.process_time() - start:.0f} CPU s")
            chunk = _Chunk(CHUNK * BATCH, 1_000_000 * (seed + 1) + number, number >= CLEAN * steps)
        at = slice(number % CHUNK * BATCH, number % CHUNK * BATCH + BATCH)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16_is_fast()):
            features = model.image.features(to_tensor(chunk.pictures[at]))
            embedded = model.image.project(features)
        levels, total = chunk.levels[at], torch.zeros(())
        near = model.log_scale.exp().clamp(max=100) * embedded @ F.normalize(rows, dim=1).T
        for logits in (near, head(features.float())):
            parted = logits.masked_fill(~chunk.possible[at], SHUT).split(SIZES, 1)
            losses = [F.cross_entropy(part, level) for part, level in zip(parted, levels.T, strict=True)]
            total = total + torch.stack(losses).mean()
            shown = (
                shown
                if logits is not near
                else {name: round(x.item(), 2) for name, x in zip(NAMES, losses, strict=True)}
            )
        step(total)
    model.eval()


def _train_texts(model: DualEncoder, rows: Tensor, steps: int, seed: int, log: Log, images: int = 6144) -> None:
    """The text tower alone: the rows of the levels, (38,D), and the pictures' rows stay as they are."""
    start, sayings = time.process_time(), _sayings(seed)
    chunk = _Chunk(images, 1_000_000 * (seed + 1) + 999_999, False)
    embedded = rows_of(model.image, chunk.pictures)
    own = torch.arange(BATCH)
    model.train()
    for number, step in enumerate(_steps(model.text, 2e-3, steps)):
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


class _Chunk:
    """Scenes without held-out combinations, with what the losses ask of them."""

    def __init__(self, n: int, seed: int, rough: bool) -> None:
        scenes = self.scenes = seen_scenes(n, seed)
        self.pictures = render(scenes, ROUGH if rough else None)
        self.levels = torch.from_numpy(scenes.levels)
        self.possible = torch.from_numpy(possible(scenes.levels))
        self.own = torch.zeros(n, sum(SIZES), dtype=torch.bool)
        self.own.scatter_(1, torch.from_numpy(numbered(scenes.levels)), True)


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


@torch.inference_mode()
def zero_shot_guesses(model: DualEncoder, scenes: Scenes, shares: Disturbances | None = None) -> NDArray[np.int64]:
    """(I,8): of every factor the level whose label is nearest to the picture."""
    texts = model.text(word_ids([c.text for c in concepts()]))
    near = rows_of(model.image, render(scenes, shares)) @ texts.T
    return torch.stack([part.argmax(1) for part in near.split(SIZES, 1)], 1).numpy()


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
