"""Train the rendered world's networks from scratch and measure their truth: `make world`.

Writes src/contralens/world/weights: the dual encoder (version 2) with its card, one target per world with its truth.
Version 1 of the encoder is frozen and trained only if it is named: "encoder". Everything is seeded and runs on one
thread, so the same machine gives the same files.

    python scripts/make_world.py [encoder-2] [1] [2] [3] [encoder] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import train_encoder_2

from contralens.bench import training
from contralens.world.encoder import WEIGHTS, DualEncoder, load_into, save
from contralens.world.targets import WORLDS, TargetNet, class_names
from contralens.world.truth import measure_target


def say(line: str) -> None:
    print(line, flush=True)


def write_json(path: Path, card: dict[str, object]) -> None:
    """One key a line, long tables in one piece."""
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in card.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def make_encoder(out: Path) -> None:
    start = time.monotonic()
    path = out / "encoder.safetensors"
    save(training.train_encoder(log=say), path)
    model = load_into(DualEncoder(), path)  # the card describes what is shipped, at half precision
    assert isinstance(model, DualEncoder)
    card = training.encoder_card(model)
    write_json(out / "encoder.json", card)
    say(f"encoder: {json.dumps(card, indent=1)}\n{time.monotonic() - start:.0f} s")


def make_encoder_2(out: Path) -> None:
    start = time.process_time()
    path = out / "encoder-2.safetensors"
    save(train_encoder_2.train_encoder(log=say), path)
    spent = time.process_time() - start
    model = load_into(DualEncoder(version=2), path)
    assert isinstance(model, DualEncoder)
    card = train_encoder_2.encoder_card(model)
    write_json(out / "encoder-2.json", card)
    say(f"encoder 2: {json.dumps(card, indent=1)}\n{spent:.0f} CPU s")


def make_target(out: Path, index: int) -> None:
    start = time.monotonic()
    path = out / f"target-{index}.safetensors"
    save(training.train_target(index, log=say), path)
    net = load_into(TargetNet(len(class_names(index))), path)
    assert isinstance(net, TargetNet)
    card = training.target_card(net, index)
    say(f"target {index}: {card}")
    effects = {
        layer: [[None if x != x else round(x, 3) for x in row] for row in rows.tolist()]
        for layer, rows in measure_target(net).items()
    }
    write_json(out / f"target-{index}.json", {**card, "effects": effects})
    say(f"{time.monotonic() - start:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help="encoder-2, 1, 2, 3 (by default), encoder")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    parts = chosen.parts or ["encoder-2", *map(str, WORLDS)]
    for part in parts:
        if part == "encoder":
            make_encoder(chosen.out)
        elif part == "encoder-2":
            make_encoder_2(chosen.out)
        else:
            make_target(chosen.out, int(part))
    total = sum(f.stat().st_size for f in chosen.out.glob("*.safetensors"))
    say(f"{total / 1e6:.2f} MB in {chosen.out}")


if __name__ == "__main__":
    main()
