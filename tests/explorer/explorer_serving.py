"""A real run, and a real server on loopback, for the explorer's tests."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import torch
import uvicorn
from coloured import COLOURS, ColourEncoder, ColourNet, to_pixels
from patience import HUNG
from PIL import ImageColor
from torch import Tensor, nn
from torch.nn.functional import normalize

import contralens
from contralens.data.evaluations import SUMMARY, VALUES, VERDICTS, Evaluation
from contralens.data.runs import Run
from contralens.explorer.app import create_app
from contralens.explorer.search import Finder
from contralens.proposing.candidates import Candidates

HTTP = httpx.Client(timeout=HUNG, limits=httpx.Limits(max_keepalive_connections=0))
"""Asks servers; to make one takes longer than most answers."""
HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'


class Eyes(ColourEncoder):
    """An image is its mean colour, a text the colour that its last word names; any other text is grey."""

    def texts(self, texts: Sequence[str]) -> Tensor:
        rows = []
        for text in texts:
            last = (text.split() or [""])[-1]
            rows.append(ImageColor.getrgb(last) if last in COLOURS else (128, 128, 128))
        return normalize(torch.tensor(rows).float() + 1e-3, dim=1)


class WideNet(nn.Module):
    """36 neurons that each like a mixture of colours; number 4 is dead, number 5 constant."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.conv = nn.Conv2d(3, 36, 1)
        self.relu = nn.ReLU()
        with torch.no_grad():
            self.conv.weight.copy_(torch.randn(36, 3, 1, 1, generator=generator))
            self.conv.bias.fill_(-0.1)
            self.conv.weight[4:6] = 0.0
            self.conv.bias[4], self.conv.bias[5] = -1.0, 0.5

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv(x)).mean((2, 3))


def make_run(images: Path, out: Path, **options: Any) -> Run:
    """A finished run of `WideNet` on disc pictures."""
    given: dict[str, Any] = {
        "vocabulary": [*COLOURS, "bright magenta", "pale cyan"],
        "scorers": ["semanticlens", "csp:gamma=0", "csp:gamma=0.5", "csp"],
        "templates": ["{}", "a photo of {}"],
        "layer": "relu",
        "preprocess": to_pixels,
        "k": 6,
        **options,
    }
    return contralens.label(given.pop("network", None) or WideNet(), images, Eyes(), out=out, **given)


def hostile_copy(run: Run, out: Path) -> Run:
    """The same run with markup where labels, names, image names and concepts stand."""

    def put(table: pa.Table, column: str, value: Any) -> pa.Table:
        at = table.schema.get_field_index(column)
        return table.set_column(at, column, pa.array([value] * len(table), table.schema.field(column).type))

    labels = put(put(put(run.labels, "label", HOSTILE), "name", HOSTILE), "concepts", [HOSTILE, "=cmd()"])
    return replace(
        run,
        neurons=put(run.neurons, "name", HOSTILE),
        labels=put(labels, "scores", [0.5, 0.25]),
        images=put(run.images, "id", f"../../{HOSTILE}.png"),
        concepts=put(run.concepts, "source", HOSTILE),
        manifest={**run.manifest, "target": {**run.manifest["target"], "name": HOSTILE}},
        path=None,
    ).save(out)


def judged(run: Run, out: Path) -> None:
    """Put an evaluation of a run's CSP labels into its copy at `out`, and candidates beside it, with simple numbers."""
    rows = run.rows("csp")
    columns = [
        pa.array(c) for c in zip(*[(r["neuron"], r["name"], "csp", r["label"] or "") for r in rows], strict=True)
    ]
    count = len(rows)
    values = pa.table([*columns, pa.array(["auc"] * count), pa.array(np.linspace(0, 1, count))], VALUES.names)
    summary = pa.table([["csp"], ["auc"], [0.5], [0.4], [0.6], [count], [0], [True]], SUMMARY.names)
    fdr = [0.08, 0.03, 0.06] + [0.01] * (count - 3)
    given: list[Any] = [[0.01] * count, fdr, [rate <= 0.07 for rate in fdr], [0.9] * count, [["red", "blue"]] * count]
    given += [[[0.9, 0.1]] * count, [["red"]] * count, [[1.0]] * count]
    given += [[[0.9]] * count, [[[0, 1]]] * count, [[[2, 3]]] * count]
    verdicts = pa.table([*columns, *given], VERDICTS.names)
    tables = (values.cast(VALUES), summary.cast(SUMMARY), verdicts.cast(VERDICTS))
    Evaluation({"format": 1, "scorers": ["csp"]}, *tables).save(out)
    proposed = [
        {"concept": c, "text": c, "cosine": None, "neuron": n, "name": f"relu/{n}", "place": i, "prompt": "contrastive",
         "model": "a-model", "reply": None, "score": None}
        for n in range(count) for i, c in enumerate(["ruby", "a red disc"])
    ]  # fmt: skip
    Candidates(["ruby", "a red disc"], proposed).save(out.parent / f"{out.name}.candidates")


def rich_run(images: Path, out: Path) -> Path:
    """A run of `ColourNet` with everything that may be added to one later."""
    network = ColourNet()
    run = make_run(images, out, network=network, k=12)
    layer = contralens.target(network, "relu", preprocess=to_pixels)
    contralens.add_maps(run, target=layer, classes=["ant", "bee", "cow", "dog"])
    judged(run, out)
    return out


def copied(run: Run, out: Path) -> Path:
    assert run.path is not None
    shutil.copytree(run.path, out)
    return out


class CountedFinder(Finder):
    """A finder over `Eyes`, slow to load, that counts how often it loads."""

    def __init__(self, fingerprint: str = Eyes.fingerprint) -> None:
        self.loads = 0

        def load(name: str) -> Eyes:
            self.loads += 1
            time.sleep(0.2)
            eyes = Eyes()
            eyes.fingerprint = fingerprint
            return eyes

        super().__init__(load=load)


@contextlib.contextmanager
def serving(runs: Sequence[str | Path], **options: Any) -> Iterator[str]:
    """The explorer of some runs on a free port of loopback; gives its address without a slash at the end."""
    options.setdefault("finder", None if options.get("read_only") else CountedFinder())
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(create_app(runs, **options), log_level="warning", access_log=False, ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the explorer did not start")
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(5)
        listener.close()
