"""How the explorer does with 10,000 neurons x 30 exemplars: start, first page, scrolling, neuron pages, memory.

    python benchmarks/explorer.py [--neurons 10000] [--k 30] [--images 20000] [--concepts 5000] [--width 512]

Makes a run of that size from rendered noise (random vectors, real JPEG thumbnails), starts `contralens explore` as its
own process, measures from this one over loopback, and, where Chromium and playwright are installed, in a real browser.
Prints one line a figure, with the target where there is one.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from contralens.data.runs import FORMAT, Run

SCORERS = ["semanticlens", "clip_dissect", "csp:gamma=0", "csp"]


def thumbnails(count: int, random: np.random.Generator) -> list[bytes]:
    """JPEGs of 128 px with about as many bytes as photographs have (5 kB)."""
    kinds = []
    for _ in range(200):
        small = random.integers(0, 255, (12, 12, 3), np.uint8)
        image = Image.fromarray(small).resize((128, 128), Image.Resampling.BICUBIC)
        draw = ImageDraw.Draw(image)
        for _ in range(25):
            x, y, r = random.integers(0, 128, 3).tolist()
            draw.ellipse((x, y, x + r // 4, y + r // 4), fill=tuple(random.integers(0, 255, 3).tolist()))
        out = io.BytesIO()
        image.save(out, "JPEG", quality=85)
        kinds.append(out.getvalue())
    return [kinds[i % len(kinds)] for i in range(count)]


def made(path: Path, n: int, k: int, images: int, concepts: int, width: int) -> None:
    """A run of that size; numbers are random, all else is as `contralens label` and `contralens maps` write it."""
    random = np.random.default_rng(0)
    words = [f"concept {i} of many" for i in range(concepts)]
    names = [f"layer4/{i}" for i in range(n)]
    best = random.integers(0, concepts, (n, len(SCORERS), 10))
    scores = np.sort(random.random((n, len(SCORERS), 10)), axis=2)[:, :, ::-1]
    labels = pa.table({
        "neuron": pa.array(np.repeat(np.arange(n), len(SCORERS)), pa.int32()),
        "name": np.repeat(names, len(SCORERS)).tolist(),
        "scorer": SCORERS * n,
        "status": ["ok"] * (n * len(SCORERS)),
        "label": [words[c] for c in best[:, :, 0].reshape(-1)],
        "score": scores[:, :, 0].reshape(-1),
        "concepts": [[words[c] for c in row] for row in best.reshape(-1, 10)],
        "scores": scores.reshape(-1, 10).tolist(),
    })  # fmt: skip
    exemplars = pa.table({
        "neuron": pa.array(np.repeat(np.arange(n), k), pa.int32()),
        "rank": pa.array(np.tile(np.arange(k), n), pa.int32()),
        "positive": random.integers(0, images, n * k),
        "activation": random.random(n * k, np.float32),
        "contrast": random.integers(0, images, n * k),
        "contrast_activation": random.random(n * k, np.float32),
        "similarity": random.random(n * k, np.float32),
    })  # fmt: skip
    neurons = pa.table({
        "neuron": pa.array(range(n), pa.int32()), "name": names, "status": ["ok"] * n,
        "mean": random.random(n), "minimum": np.zeros(n), "maximum": random.random(n) + 1,
        "firing_rate": random.random(n), "selected": [True] * n,
        "histogram": random.integers(0, 999, (n, 32)).tolist(),
    })  # fmt: skip
    prints = [f"{i:032x}" for i in range(images)]
    vectors = {
        "positive_mean": random.standard_normal((n, width), np.float32),
        "contrast_mean": random.standard_normal((n, width), np.float32) / 2,
        "texts": random.standard_normal((concepts, width), np.float32),
    }
    manifest: dict[str, Any] = {
        "format": FORMAT, "target": {"name": "benchmark", "layer": "layer4"}, "encoder": {"name": "none"},
        "scorers": SCORERS, "primary": "csp", "templates": ["{}"],
    }  # fmt: skip
    Run(
        manifest,
        neurons=neurons,
        labels=labels,
        exemplars=exemplars,
        images=pa.table({"index": range(images), "id": [f"images/{p}.jpg" for p in prints], "fingerprint": prints}),
        concepts=pa.table({"concept": words, "source": ["benchmark"] * concepts}),
        thumbnails=pa.table({"fingerprint": prints, "jpeg": pa.array(thumbnails(images, random), pa.binary())}),
        vectors=vectors,
    ).save(path)
    few = 10
    extra = {
        "maps": pa.table({
            "neuron": pa.array(np.repeat(np.arange(n), 2 * few), pa.int32()),
            "image": random.integers(0, images, n * 2 * few),
            "height": pa.array([7] * (n * 2 * few), pa.int16()), "width": pa.array([7] * (n * 2 * few), pa.int16()),
            "map": pa.array([bytes(m) for m in random.integers(0, 256, (n * 2 * few, 49), np.uint8)], pa.binary()),
            "box": pa.array([[0.06, 0.06, 0.94, 0.94]] * (n * 2 * few), pa.list_(pa.float32(), 4)),
            "aspect": pa.array([1.0] * (n * 2 * few), pa.float32()),
        }),
        "classes": pa.table({
            "neuron": pa.array(np.repeat(np.arange(n), 12), pa.int32()),
            "class": [f"class {c}" for c in random.integers(0, 1000, n * 12)],
            "weight": random.standard_normal(n * 12), "adds": random.standard_normal(n * 12),
        }),
        "layout": pa.table({
            "neuron": pa.array(range(n), pa.int32()), "x": random.standard_normal(n), "y": random.standard_normal(n),
        }),
    }  # fmt: skip
    for name, table in extra.items():
        pq.write_table(table, path / f"{name}.parquet")


def resident(pid: int) -> float:
    """Memory of a process now, MB."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", text)
    return int(found[1]) / 1024 if found else float("nan")


def peak(pid: int) -> float:
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


def timed(call: Callable[[], Any]) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def say(what: str, value: float, unit: str, target: float | None = None) -> None:
    verdict = "" if target is None else f"   target < {target:g} {unit}: {'met' if value < target else 'MISSED'}"
    print(f"{what:58s} {value:9.1f} {unit}{verdict}", flush=True)


def browsed(url: str, n: int) -> None:
    """The same in a real browser: until pictures stand on the screen, and after jumps of a screen and of thousands."""
    chromium = shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        chromium = None
    if chromium is None:
        print("no chromium or no playwright: not measured in a browser")
        return
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--no-first-run"]
    whole = """() => {
        const cards = [...document.querySelectorAll('.card')].filter(c => {
            const b = c.getBoundingClientRect(); return b.bottom > 60 && b.top < innerHeight; });
        const images = cards.flatMap(c => [...c.querySelectorAll('img')]);
        const room = document.querySelector('.grid')?.getBoundingClientRect();
        const lowest = Math.max(...cards.map(c => c.getBoundingClientRect().bottom));
        return cards.length > 0 && lowest >= Math.min(innerHeight, room.bottom) - 16
            && images.length === 4 * cards.length && images.every(i => i.complete && i.naturalWidth > 0);
    }"""
    jump = (
        "(top) => new Promise(done => { const whole = "
        + whole
        + """; const start = performance.now();
        window.scrollTo(0, top);
        const look = () => { if (whole()) done(performance.now() - start); else requestAnimationFrame(look); };
        requestAnimationFrame(look);
    })"""
    )
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        start = time.perf_counter()
        page.goto(url)
        page.wait_for_function(whole, polling="raf")
        say("first page, pictures standing (browser)", 1000 * (time.perf_counter() - start), "ms", 2000)
        height = page.evaluate("document.body.scrollHeight")
        steps = [page.evaluate(jump, 600 * i) for i in range(1, 40)]
        say("gap while scrolling by 600 px, median (browser)", median(steps), "ms")
        say("gap while scrolling by 600 px, worst of 39 (browser)", max(steps), "ms", 200)
        far = [page.evaluate(jump, height * i / 17) for i in (9, 2, 14, 5, 11, 16, 1, 8)]
        say("gap after a jump of thousands of neurons, median (browser)", median(far), "ms")
        say("gap after a jump of thousands of neurons, worst of 8", max(far), "ms", 200)
        say("elements in the page", page.evaluate("document.querySelectorAll('*').length"), "")
        opened = []
        for neuron in range(17, n, n // 12):
            start = time.perf_counter()
            page.evaluate(f"location.hash = '#/' + location.hash.split('/')[1] + '/n/{neuron}?pairs=all'")
            page.wait_for_function(
                f"""() => document.querySelector('.neuron-head .name')?.textContent.includes('/{neuron}')
                && document.querySelectorAll('.pair img').length === 60
                && [...document.querySelectorAll('.pair img')].every(i => i.complete && i.naturalWidth)""",
                polling="raf",
            )
            opened.append(1000 * (time.perf_counter() - start))
        say("neuron page with its 60 pictures, median (browser)", median(opened), "ms", 300)
        say("neuron page with its 60 pictures, worst (browser)", max(opened), "ms")
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, value in (("neurons", 10_000), ("k", 30), ("images", 20_000), ("concepts", 5000), ("width", 512)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--quick", action="store_true", help="400 neurons x 6 exemplars, 400 images, 200 concepts")
    given = parser.parse_args()
    if given.quick:
        given.neurons, given.k, given.images, given.concepts, given.width = 400, 6, 400, 200, 64
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        made(run, given.neurons, given.k, given.images, given.concepts, given.width)
        size = sum(f.stat().st_size for f in run.iterdir()) / 1e6
        print(f"{given.neurons} neurons x {given.k} exemplars, {given.images} images, {size:.0f} MB")
        command = [
            sys.executable,
            "-m",
            "contralens",
            "explore",
            str(run),
            "--no-browser",
            "--port",
            "0",
            "--read-only",
        ]
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout
                url = re.search(r"http://\S+/", server.stdout.readline())[0]  # type: ignore[index]
                while True:
                    try:
                        httpx.get(url)
                        break
                    except httpx.ConnectError:
                        time.sleep(0.01)
                say("from the command to the first answer", 1000 * (time.perf_counter() - start), "ms")
                with httpx.Client(base_url=url, timeout=60) as client:

                    def get(path: str) -> bytes:
                        answer = client.get(path)
                        answer.raise_for_status()
                        return answer.content

                    first = timed(lambda: get("api/runs")) + timed(lambda: get("api/runs/run/index"))
                    say("opening the run and its index, first time (loopback)", first, "ms", 2000)
                    say("  index", len(get("api/runs/run/index")) / 1e6, "MB")
                    say("index again", timed(lambda: get("api/runs/run/index")), "ms")
                    timed(lambda: get("api/runs/run/neurons/3"))
                    pages = [
                        timed(lambda i=i: get(f"api/runs/run/neurons/{i}"))
                        for i in range(5, given.neurons, given.neurons // 40)
                    ]
                    say("neuron as JSON, median", median(pages), "ms")
                    say("neuron as JSON, worst of 40", max(pages), "ms", 300)
                    random = np.random.default_rng(1)
                    batch = [
                        "api/runs/run/pictures?images=" + ",".join(map(str, random.integers(0, given.images, 100)))
                        for _ in range(20)
                    ]
                    say("100 pictures, median", median(timed(lambda b=b: get(b)) for b in batch), "ms")
                    say("map, first time", timed(lambda: get("api/runs/run/map")), "ms")
                    say("filtered and sorted rows", timed(lambda: get("api/runs/run/neurons?q=9&sort=score")), "ms")
                browsed(url, given.neurons)
                say("memory of the server at the end", resident(server.pid), "MB", 400)
                say("memory of the server at its peak", peak(server.pid), "MB", 400)
            finally:
                server.terminate()


if __name__ == "__main__":
    main()
