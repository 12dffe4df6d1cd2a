"""A driver for tests/test_distributed.py: collects on Ray workers and prints what it did."""

from __future__ import annotations

import sys
import time

import torch
from coloured import ColourEncoder, ColourNet, to_pixels

from contralens.collecting.distributed import collect_ray
from contralens.models.targets import target
from contralens.settings.label import Collect


class Slow(ColourEncoder):
    """Takes its time, so that there is something to kill."""

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        time.sleep(0.15)
        return super().__call__(batch)


def job(images: str, cache: str, slow: bool) -> Collect:
    net = target(ColourNet(), "relu", preprocess=to_pixels)
    return Collect(net, images, Slow() if slow else ColourEncoder(), cache=cache)


if __name__ == "__main__":
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    done = collect_ray(job(sys.argv[1], sys.argv[2], slow=True), actors=int(sys.argv[3]))
    print("done", done.tiles, done.total, flush=True)
