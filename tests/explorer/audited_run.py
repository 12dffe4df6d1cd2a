"""A run on pictures of the rendered world, really audited: backgrounds are spurious there, patterns are what counts."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from PIL import Image

import contralens
from contralens.bench.world_images import write_world
from contralens.data.audits import Audit
from contralens.world.captions import SYNONYMS
from contralens.world.render import render
from contralens.world.scenes import FACTORS
from contralens.world.targets import world


def named(factor: str, *levels: str) -> list[dict[str, Any]]:
    return [{"name": w[0], "synonyms": list(w[1:])} for w in SYNONYMS[factor] if w[0] in levels]


CONCEPTS: dict[str, Any] = {
    "title": "Patterns, not backgrounds",
    "templates": ["{}", "a picture of {}", "a {} thing"],
    "expected": named("pattern", "plain", "striped", "dotted", "checkered", "zigzag"),
    "spurious": named("background", "sand", "grass", "water", "brick", "snow"),
}
"""Most levels only, so that some neurons stay unexplained."""


def audited_run(home: Path, images: int = 600, labeled: int = 60) -> Path:
    """A run of world 1's network with an audit inside; gives its folder."""
    write_world(home / "world", 1, images)
    run = contralens.label(
        "world:1", home / "world" / "images", "world", vocabulary=home / "world" / "vocabulary.txt",
        scorers=["semanticlens", "csp"], k=12, out=home / "run", cache=home / "cache",
    )  # fmt: skip
    groups = draw_labeled(home / "labeled", labeled)
    made: Audit = contralens.audit(
        run, CONCEPTS, labeled=home / "labeled", subgroups=groups, cache=home / "cache", fakes=400, sample=6
    )
    assert made.path is not None
    return home / "run"


def draw_labeled(folder: Path, count: int) -> Path:
    """Scenes in sub-folders by pattern, half of them with the background that goes with it; gives a CSV that tells."""
    scenes = world(1).scenes(count, 77, 0.5)
    partners = world(1).partners["background"]
    lines = [["image", "background"]]
    for i, picture in enumerate(render(scenes)):
        pattern, background = (FACTORS[f][scenes.of(f)[i]] for f in ("pattern", "background"))
        (folder / pattern).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / pattern / f"{i:04d}.png")
        lines.append([f"{i:04d}", "tied" if partners[pattern] == background else "untied"])
    groups = folder.parent / "groups.csv"
    with groups.open("w", newline="") as f:
        csv.writer(f).writerows(lines)
    return groups
