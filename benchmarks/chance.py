"""How many meaningless neurons are kept at a false-discovery rate, and how many real ones, for every scorer.

    python benchmarks/chance.py [--draws 40] [--quick]

Planted and trained neurons of a rendered world in one set, 1,000 pictures. 4,000 fakes are made; in each draw 1,000 of
them tell chance and 200 others stand among the real neurons, to be kept or turned down. Every setting's share of fakes
among the labels kept is a mean over draws, with its standard error.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch.nn.functional import normalize

from contralens.bench.training import rows_of
from contralens.bench.world_bench import BENCHED, SIMPLE
from contralens.bench.world_images import vocabulary
from contralens.math.exemplars import find_exemplars
from contralens.math.null_neurons import fake_exemplars, together, with_fakes
from contralens.math.null_test import chance
from contralens.math.statistics import neuron_statistics
from contralens.world.encoder import load_encoder
from contralens.world.planted import planted_activations
from contralens.world.render import render
from contralens.world.targets import LAYER, load_target, world
from contralens.world.truth import target_activations

SETTINGS = ((1, 0.9), (2, 0.9), (1, 0.5))
"""World and dial."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--draws", type=int, default=40)
    parser.add_argument("--fdr", type=float, default=0.05)
    parser.add_argument("--quick", action="store_true", help="one setting, 200 pictures, 300 fakes, 2 draws")
    args = parser.parse_args()
    images, made, told, draws = (200, 300, 200, 2) if args.quick else (1000, 4000, 1000, args.draws)
    encoder = load_encoder()
    for number, dial in SETTINGS[:1] if args.quick else SETTINGS:
        scenes = world(number).scenes(images, 5, dial)
        pictures = render(scenes)
        planted = torch.from_numpy(planted_activations(scenes, number)[0])
        a = torch.cat([planted, torch.from_numpy(target_activations(load_target(number), pictures)[LAYER])], 1).float()
        e = normalize(rows_of(encoder.model.image, pictures), dim=1)  # type: ignore[arg-type]
        texts = encoder.texts(vocabulary())
        fakes, every = fake_exemplars(a, e, made, seed=1, k=30), with_fakes(a, made, seed=1)
        ok = torch.tensor([status == "ok" for status in neuron_statistics(a).status()])
        real = find_exemplars(a, e, k=30).of(ok)
        for spec in (spec for spec in BENCHED if not spec.endswith(SIMPLE)):
            false, kept = [], []
            for draw in range(draws):
                order = torch.randperm(len(fakes), generator=torch.Generator().manual_seed(draw))
                telling, among = (fakes.of(some) for some in (order[:told], order[told : told + 200]))
                keep = chance(spec, together(real, among), telling, e, texts, every).beats(args.fdr)
                false.append(float(keep[len(real) :].sum()) / max(1, int(keep.sum())))
                kept.append(float(keep[: len(real)].double().mean()))
            error = np.std(false, ddof=1) / draws**0.5
            print(
                f"world {number} at {dial:g}  {spec:18} fakes {np.mean(false):.1%} (error {error:.1%})  "
                f"real kept {np.mean(kept):.0%} of {len(real)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
