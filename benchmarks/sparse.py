"""Is the power of `lookalike:power=auto` right for sparse latents? Truth by intervention, in the rendered worlds.

    python benchmarks/sparse.py [--latents 256] [--active 4] [--json FILE]

A TopK sparse autoencoder is trained over the places of block3 of each world's network (untied pictures); a latent's
activation is its mean over the places. What each latent responds to is measured by rendering scenes again with one
factor changed. Then the latents are labeled on 1,200 pictures at five ties, by `lookalike` with the rule (.75 where
most latents are silent), with the power that the rule overrules, with 1.5 as shipped, and by the published scorers.
Nothing was chosen on these latents. Intervals are paired, over latents of all ties and worlds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from contralens.bench.training import rows_of
from contralens.bench.world_images import score_labels
from contralens.math import lookalike
from contralens.math.activation_sources import source
from contralens.math.confidence import label_confidence
from contralens.math.exemplars import find_exemplars
from contralens.math.intervals import mean_interval
from contralens.math.scoring import run_scorer
from contralens.math.statistics import neuron_statistics, survey
from contralens.world.captions import concepts
from contralens.world.encoder import load_encoder, to_tensor
from contralens.world.render import render
from contralens.world.scenes import Scenes, sample_scenes
from contralens.world.targets import WORLDS, load_target, world
from contralens.world.truth import base_scenes, known, measure_effects, truth_of

TIES = (0.0, 0.3, 0.5, 0.8, 0.95)
PUBLISHED = ("semanticlens", "csp", "clip_dissect")
RULE, CHOSEN, SHIPPED, AUTO = "power=auto, rule", "power=auto, no rule", "power=1.5", "auto"


class TopK(nn.Module):
    """Autoencoder of rows (B,64) whose `active` strongest latents count."""

    def __init__(self, width: int, latents: int, active: int) -> None:
        super().__init__()
        self.active = active
        self.encoder, self.decoder = nn.Linear(width, latents), nn.Linear(latents, width)
        with torch.no_grad():
            self.encoder.weight.copy_(normalize(self.encoder.weight, dim=1))
            self.decoder.weight.copy_(self.encoder.weight.T)
            self.encoder.bias.zero_()

    def latents(self, x: Tensor) -> Tensor:
        z = self.encoder(x - self.decoder.bias).relu()
        values, place = z.topk(self.active, dim=-1)
        return torch.zeros_like(z).scatter(-1, place, values)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.decoder(self.latents(x))
        return out


def maps(net: nn.Module, pictures: np.ndarray) -> Tensor:
    """(I,places,64) of block3."""
    out = []
    with torch.inference_mode():
        for start in range(0, len(pictures), 128):
            x = to_tensor(pictures[start : start + 128])
            out.append(net.block3(net.block2(net.block1(net.stem(x)))).flatten(2).transpose(1, 2))  # type: ignore[operator]
    return torch.cat(out)


def trained(net: nn.Module, index: int, latents: int, active: int) -> tuple[TopK, float, float]:
    """An autoencoder, the scale of what it reads, and the share of variance that it explains."""
    torch.manual_seed(index)
    x = maps(net, render(sample_scenes(3000, 91_000 + index))).flatten(0, 1)
    scale = float(x.square().sum(1).mean().sqrt())
    x = x / scale
    model = TopK(x.shape[1], latents, active)
    model.decoder.bias.data.copy_(x.mean(0))
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(1500):
        some = x[torch.randint(len(x), (2048,))]
        loss = (model(some) - some).square().sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.inference_mode():
        some = x[torch.randint(len(x), (20_000,))]
        left = (model(some) - some).square().sum() / (some - some.mean(0)).square().sum()
    return model.eval(), scale, 1 - float(left)


def unruled(a: Tensor, e: Tensor) -> float:
    """The power that `power="auto"` takes for dense neurons."""
    neurons, usable = torch.arange(a.shape[1]), torch.ones(len(e), dtype=torch.bool)
    statistics = survey(source(a), 0, neurons, usable)[0]
    return lookalike.chosen_power(source(a), neurons, statistics, usable, lookalike.Centred(e, usable))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--latents", type=int, default=256)
    parser.add_argument("--active", type=int, default=4)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    words, eyes = [c.text for c in concepts()], load_encoder()
    texts = eyes.texts(words)
    right: dict[str, list[np.ndarray]] = {name: [] for name in (AUTO, RULE, CHOSEN, SHIPPED, *PUBLISHED)}
    each: list[dict[str, Any]] = []
    for index in WORLDS:
        net = load_target(index)
        model, scale, explained = trained(net, index, args.latents, args.active)

        def activate(scenes: Scenes, net: nn.Module = net, model: TopK = model, scale: float = scale) -> np.ndarray:
            with torch.inference_mode():
                return model.latents(maps(net, render(scenes)) / scale).mean(1).numpy()

        truths = [truth_of(row) for row in measure_effects(activate, base_scenes(100))]
        told = torch.from_numpy(np.stack([score_labels([word] * len(truths), truths) for word in words], 1)).bool()
        print(
            f"world {index}: {explained:.1%} explained, {known(truths).sum()} of {len(truths)} latents known",
            flush=True,
        )
        for tie in TIES:
            scenes = world(index).scenes(1200, 92_000 + index + int(100 * tie), tie)
            a = torch.from_numpy(activate(scenes))
            e = rows_of(eyes.model.image, render(scenes))  # type: ignore[arg-type]
            statistics = neuron_statistics(a)
            use = torch.tensor([status == "ok" for status in statistics.status()]) & torch.from_numpy(known(truths))
            use &= statistics.firing >= 30  # as many images as exemplars
            silent = float((statistics.firing[use] / len(a)).median())
            power = unruled(a[:, use], e)
            specs = {
                RULE: "lookalike:power=auto", CHOSEN: f"lookalike:power={power}", SHIPPED: "lookalike:power=1.5",
                **{name: name for name in PUBLISHED},
            }  # fmt: skip
            exemplars = find_exemplars(a[:, use], e, k=30)
            row: dict[str, Any] = {"world": index, "tie": tie, "latents": int(use.sum()), "median firing": silent}
            chosen = {AUTO: label_confidence(a[:, use], e, texts, k=30).labels}
            for name, spec in specs.items():
                chosen[name] = run_scorer(spec, exemplars, e, texts, a[:, use]).nan_to_num(-torch.inf).argmax(1)
            for name, labels in chosen.items():
                hit = told[use].gather(1, labels[:, None])[:, 0].double().numpy()
                right[name].append(hit)
                row[name] = float(hit.mean())
            each.append({**row, "chosen power": power})
            print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in each[-1].items()}), flush=True)
    joined = {name: np.concatenate(parts) for name, parts in right.items()}
    rows = []
    print(f"{len(joined[RULE])} latents over all\n| scorer | right | rule minus it | auto minus it (95 % intervals) |")
    print("|---|---|---|---|")
    for name, hits in joined.items():
        both = [mean_interval(joined[one] - hits) for one in (RULE, AUTO)]
        rows.append({
            "scorer": name, "right": float(hits.mean()),
            **{one: [i.mean, i.low, i.high] for one, i in zip((RULE, AUTO), both, strict=True)},
        })  # fmt: skip
        cells = [f"{i.mean:+.3f} ({i.low:+.3f} to {i.high:+.3f})" for i in both]
        print(f"| {name} | {hits.mean():.3f} | " + " | ".join(cells) + " |")
    if args.json:
        args.json.write_text(json.dumps({"each": each, "all": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
