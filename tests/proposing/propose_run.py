"""A small finished run: rendered discs, planted neurons, an encoder that reads colours and stripes off the pixels."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image, ImageDraw

from contralens.data.runs import FORMAT, Run
from contralens.data.store import Store

COLOURS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (50, 80, 220)}
WORDS = ["red", "green", "blue", "striped", "plain"]


def disc(colour: str, striped: bool, seed: int, size: int = 160) -> Image.Image:
    """A disc on light grey, plain or with dark horizontal stripes."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (size, size), (235, 235, 235))
    draw = ImageDraw.Draw(image)
    radius = int(rng.integers(48, 62))
    x, y = (int(v) for v in rng.integers(radius + 4, size - radius - 4, 2))
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=COLOURS[colour])
    if striped:
        dark = tuple(v // 3 for v in COLOURS[colour])
        for top in range(y - radius + int(rng.integers(0, 12)), y + radius, 16):
            for line in range(top, min(top + 8, y + radius)):
                half = int(max(0, radius**2 - (line - y) ** 2) ** 0.5)
                draw.line((x - half, line, x + half, line), fill=dark)
    return image


class PixelEncoder:
    """Colour and stripes read off the pixels, texts by their words: a real, tiny encoder."""

    name, width = "pixels", 6
    fingerprint = hashlib.sha256(b"pixels-1").hexdigest()[:32]

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.asarray(image.convert("RGB").resize((96, 96)), np.float32)).permute(2, 0, 1)

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        rows = []
        for x in batch:
            spread = x.amax(0) - x.amin(0)
            inside = spread > 25
            mean = x[:, inside].mean(1)
            colour = torch.nn.functional.one_hot(mean.argmax(), 3).float()
            light = x.amax(0)
            columns = [light[:, c][inside[:, c]] for c in range(light.shape[1]) if inside[:, c].sum() > 20]
            rough = torch.stack([c.std() for c in columns]).median()
            striped = float(rough > 20)
            rows.append(torch.tensor([*colour.tolist(), striped, 1 - striped, 0.3]))
        return torch.nn.functional.normalize(torch.stack(rows), dim=1)

    def texts(self, texts: list[str]) -> torch.Tensor:
        out = torch.zeros(len(texts), self.width)
        for i, text in enumerate(texts):
            found = [WORDS.index(w) for w in text.lower().split() if w in WORDS]
            out[i, found] = 1.0
            out[i, 5] = 0.3
        return torch.nn.functional.normalize(out, dim=1)


def build_run(folder: Path, per_kind: int = 8, cache: Path | None = None, neurons: int = 3) -> Run:
    """FOLDER/images and FOLDER/run: neuron i fires on striped discs of colour i % 3, its partners are plain."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    ids, kinds, jpegs, prints = [], [], {}, []
    for colour in COLOURS:
        for striped in (True, False):
            for i in range(per_kind):
                image = disc(colour, striped, seed=len(ids))
                path = folder / "images" / f"{colour}-{'striped' if striped else 'plain'}-{i}.png"
                image.save(path)
                ids.append(path.name)
                kinds.append((colour, striped))
    from contralens.data.images import images as image_set

    probe = image_set(folder / "images")
    by_id = dict(zip(probe.ids, probe.fingerprints(), strict=True))
    prints = [by_id[i] for i in ids]
    for i, fingerprint in zip(ids, prints, strict=True):
        small = Image.open(folder / "images" / i).convert("RGB")
        small.thumbnail((128, 128))
        out = io.BytesIO()
        small.save(out, "JPEG", quality=85)
        jpegs[fingerprint] = out.getvalue()
    rows = []
    for n in range(neurons):
        colour = list(COLOURS)[n % 3]
        turn = n // 3
        on = [i for i, k in enumerate(kinds) if k == (colour, True)]
        off = [i for i, k in enumerate(kinds) if k == (colour, False)]
        on, off = on[turn % len(on) :] + on[: turn % len(on)], off[turn % len(off) :] + off[: turn % len(off)]
        for rank, (p, q) in enumerate(zip(on, off, strict=True)):
            rows.append((n, rank, p, 5.0 - 0.1 * rank, q, 0.1, 0.9))
    names = ("neuron", "rank", "positive", "activation", "contrast", "contrast_activation", "similarity")
    exemplars = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    encoder = PixelEncoder()
    manifest = {
        "format": FORMAT,
        "target": {"name": "planted", "layer": "l", "pooling": "none", "fingerprint": "t" * 32, "neurons": neurons},
        "encoder": {"name": "pixels", "width": encoder.width, "fingerprint": encoder.fingerprint, "notes": []},
        "images": {"name": str(folder / "images"), "given": len(ids), "count": len(ids), "skipped": []},
        "vocabulary": {"source": "a list", "concepts": 2},
        "templates": ["{}"], "normalise_texts": True, "k": per_kind, "scorers": ["csp"], "primary": "csp",
        "reuse": True, "contralens": "0.1.0",
        "neurons": {"selection": "all", "labeled": neurons, "skipped": {}},
    }  # fmt: skip
    labels = [
        {"neuron": n, "name": f"l/{n}", "scorer": "csp", "status": "ok", "label": "striped", "score": 0.5,
         "concepts": ["striped"], "scores": [0.5]}
        for n in range(neurons)
    ]  # fmt: skip
    run = Run(
        manifest,
        neurons=pa.table(
            {
                "neuron": pa.array(range(neurons), pa.int32()),
                "name": [f"l/{n}" for n in range(neurons)],
                "status": ["ok"] * neurons,
                "mean": [1.0] * neurons,
                "minimum": [0.0] * neurons,
                "maximum": [5.0] * neurons,
                "histogram": [[0] * 32] * neurons,
                "firing_rate": [0.2] * neurons,
                "selected": [True] * neurons,
            }
        ),
        labels=pa.Table.from_pylist(labels),
        exemplars=pa.table(exemplars),
        images=pa.table(
            {
                "index": pa.array(range(len(ids)), pa.int64()),
                "id": ids,
                "fingerprint": prints,
                "label": [f"a {'striped' if s else 'plain'} {c} disc" for c, s in kinds],
            }
        ),
        concepts=pa.table({"concept": ["striped", "plain"], "source": ["a list"] * 2}),
        thumbnails=pa.table({"fingerprint": list(jpegs), "jpeg": pa.array(list(jpegs.values()), pa.binary())}),
        vectors={
            "positive_mean": np.zeros((neurons, encoder.width), np.float32),
            "contrast_mean": np.zeros((neurons, encoder.width), np.float32),
            "texts": encoder.texts(["striped", "plain"]).numpy(),
        },
    )
    if cache is not None:
        pictures = [encoder.preprocess(Image.open(folder / "images" / i)) for i in ids]
        Store(cache).table("rows", encoder.fingerprint).append(prints, {"rows": encoder(torch.stack(pictures)).numpy()})
    return run.save(folder / "run")
