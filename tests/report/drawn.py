"""A run made by hand in a second: drawn shapes, neurons that respond to a factor or two, exemplars by the formula."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw

from contralens.data.runs import Run

COLOURS = {"red": "#d63c3c", "green": "#3f9e5b", "blue": "#3b6fd1", "amber": "#e3a32b", "violet": "#8a52c7"}
SHAPES = ("disc", "square", "triangle", "ring")
PATTERNS = ("plain", "striped", "dotted")
GROUNDS = {"sand": "#e9dcc0", "night": "#20242f", "grass": "#c5d8b4"}
WORDS = (*COLOURS, *SHAPES, *PATTERNS, *GROUNDS)
SCORERS = ("semanticlens", "clip_dissect", "csp:gamma=0", "csp")


def draw(colour: str, shape: str, pattern: str, ground: str, random: np.random.Generator) -> Image.Image:
    side = 192
    image = Image.new("RGB", (side, side), GROUNDS[ground])
    mask = Image.new("L", (side, side))
    pen = ImageDraw.Draw(mask)
    size, x, y = random.integers(84, 132), *random.integers(16, 56, 2)
    box = (x, y, x + size, y + size)
    if shape == "square":
        pen.rectangle(box, fill=255)
    elif shape == "triangle":
        pen.polygon([(x + size / 2, y), (x + size, y + size), (x, y + size)], fill=255)
    else:
        pen.ellipse(box, fill=255)
        if shape == "ring":
            hole = size // 4
            pen.ellipse((x + hole, y + hole, x + size - hole, y + size - hole), fill=0)
    body = Image.new("RGB", (side, side), COLOURS[colour])
    pen = ImageDraw.Draw(body)
    for i in range(0, side, 22):
        if pattern == "striped":
            pen.line((0, i, side, i + 30), fill="white", width=8)
        elif pattern == "dotted":
            for j in range(0, side, 22):
                pen.ellipse((i, j, i + 9, j + 9), fill="white")
    image.paste(body, mask=mask.resize((side, side)))
    return image.resize((128, 128), Image.Resampling.LANCZOS)


def drawn_run(neurons: int = 24, images: int = 240, k: int = 12, seed: int = 0, **manifest: Any) -> Run:
    """A run over drawn shapes; each word is an axis, and colours weigh more than patterns."""
    random = np.random.default_rng(seed)
    factors = []
    for _ in range(images):
        pattern = str(random.choice(PATTERNS))
        tied = pattern == "striped" and random.random() < 0.85  # striped things are mostly red, on sand
        colour = "red" if tied else str(random.choice(list(COLOURS)))
        factors.append(
            (colour, str(random.choice(SHAPES)), pattern, "sand" if tied else str(random.choice(list(GROUNDS))))
        )
    jpegs = []
    for chosen in factors:
        out = io.BytesIO()
        draw(*chosen, random).save(out, "JPEG", quality=85)
        jpegs.append(out.getvalue())
    prints = [hashlib.sha256(jpeg).hexdigest()[:32] for jpeg in jpegs]
    hot = np.array([[w in chosen for w in WORDS] for chosen in factors]) * (
        [1.5] * 5 + [1.0] * 4 + [0.8] * 3 + [1.1] * 3
    )
    hot += random.normal(0, 0.05, hot.shape)
    e = hot / np.linalg.norm(hot, axis=1, keepdims=True)
    texts = np.eye(len(WORDS))

    a = np.maximum(random.normal(0, 0.15, (images, neurons)), 0)
    for n in range(neurons):
        a[:, n] += (3 + random.random(images)) * np.array([WORDS[n % len(WORDS)] in chosen for chosen in factors])
    a[:, neurons - 2], a[:, neurons - 1] = 0, 0.7
    status = ["ok"] * (neurons - 2) + ["dead", "constant"]

    exemplars: dict[str, list[Any]] = {
        name: []
        for name in ("neuron", "rank", "positive", "activation", "contrast", "contrast_activation", "similarity")
    }
    labels: dict[str, list[Any]] = {
        name: [] for name in ("neuron", "name", "scorer", "status", "label", "score", "concepts", "scores")
    }
    firsts, seconds = [], []
    for n in range(neurons):
        vectors = {}
        if status[n] == "ok":
            top = np.argsort(-a[:, n], kind="stable")[:k]
            below = np.flatnonzero(a[:, n] < a[:, n].mean())
            cosines = e[top] @ e[below].T
            partner, s = below[cosines.argmax(1)], cosines.max(1)
            if n == 3:
                partner[-1], s[-1] = -1, np.nan
            weights = a[top, n] / a[top, n].sum()
            first = weights @ e[top]
            second = weights @ np.where(partner[:, None] < 0, 0, np.nan_to_num(s)[:, None] * e[partner])
            firsts.append(first)
            seconds.append(second)
            vectors = {
                "semanticlens": e[top].mean(0),
                "clip_dissect": 3 * first,
                "csp:gamma=0": first,
                "csp": first - second,
            }
            rows = zip(range(k), top, a[top, n], partner, np.where(partner < 0, np.nan, a[partner, n]), s, strict=True)
            for row in rows:
                for column, value in zip(exemplars.values(), (n, *row), strict=True):
                    column.append(value)
        for scorer in SCORERS:
            row = (n, f"layer4/{n}", scorer, status[n], None, None, [], [])
            if vectors:
                v = vectors[scorer]
                score = texts @ (v / (np.linalg.norm(v) if scorer != "clip_dissect" else 1))
                order = np.argsort(-score, kind="stable")[:10]
                names = [WORDS[c] for c in order]
                row = (*row[:4], names[0], float(score[order[0]]), names, score[order].tolist())
            for column, value in zip(labels.values(), row, strict=True):
                column.append(value)

    lowest, highest = a.min(0), a.max(0)
    counts = [
        np.histogram(a[:, n], 32, (lowest[n], highest[n] if highest[n] > lowest[n] else lowest[n] + 1))[0]
        for n in range(neurons)
    ]
    used = {i for side in ("positive", "contrast") for i in exemplars[side] if i >= 0}
    return Run(
        {
            "format": 1,
            "contralens": "0.1.0",
            "target": {
                "name": "torchvision:resnet50",
                "layer": "layer4",
                "pooling": "mean",
                "fingerprint": "a" * 32,
                "neurons": neurons,
                "notes": [],
            },
            "encoder": {
                "name": "open_clip:ViT-B-32/datacomp_xl_s13b_b90k",
                "fingerprint": "b" * 32,
                "width": len(WORDS),
                "notes": ["drawn words stand in for an encoder here"],
            },
            "images": {
                "name": "photos/probe",
                "given": images + 2,
                "count": images,
                "skipped": [
                    {"id": "x/broken.jpg", "reason": "x/broken.jpg: image file is truncated"},
                    {"id": "y.png", "reason": "empty file"},
                ],
                "fingerprint": "c" * 32,
            },
            "vocabulary": {
                "source": "words.txt",
                "concepts": len(WORDS),
                "fingerprint": "d" * 32,
                "report": ["2 duplicates merged: red, blue"],
            },
            "templates": ["{}", "a photo of a {}"],
            "normalise_texts": True,
            "k": k,
            "reuse": True,
            "exclude": None,
            "neurons": {"selection": "all", "labeled": neurons - 2, "skipped": {"constant": 1, "dead": 1}},
            "scorers": list(SCORERS),
            "primary": "csp",
            "seed": 0,
            "limit": None,
            "versions": {"python": "3.11.7", "torch": "2.15.0"},
            **manifest,
        },
        neurons=pa.table(
            {
                "neuron": pa.array(range(neurons), pa.int32()),
                "name": [f"layer4/{n}" for n in range(neurons)],
                "status": status,
                "mean": a.mean(0),
                "minimum": lowest,
                "maximum": highest,
                "firing_rate": (a > 1e-6).mean(0),
                "selected": [s == "ok" for s in status],
                "histogram": [c.tolist() for c in counts],
            }
        ),
        labels=pa.table(
            {
                name: pa.array(column, pa.list_(pa.float64())) if name == "scores" else column
                for name, column in labels.items()
            }
        ),
        exemplars=pa.table(exemplars),
        images=pa.table(
            {
                "index": list(range(images)),
                "id": [f"{c[2]}/{i:04}.png" for i, c in enumerate(factors)],
                "fingerprint": prints,
                "label": [f"{c[0]} {c[1]}" if i % 3 else None for i, c in enumerate(factors)],
            }
        ),
        concepts=pa.table({"concept": list(WORDS), "source": ["words.txt"] * len(WORDS)}),
        thumbnails=pa.table(
            {
                "fingerprint": list(dict.fromkeys(prints[i] for i in sorted(used))),
                "jpeg": pa.array([jpegs[i] for i in {prints[i]: i for i in sorted(used)}.values()], pa.binary()),
            }
        ),
        vectors={"positive_mean": np.float32(firsts), "contrast_mean": np.float32(seconds), "texts": np.float32(texts)},
    )
