"""Take the docs' screenshots of every page from a folder of runs: by default the demo's.

contralens demo --world 1 --images 600
python scripts/make_screenshots.py contralens-demo/world-1

What a page shows only after another command (`audit`, `verify`, `contrast`, `maps --layout`, a run of another
layer) is left out, with a line, where the runs do not have it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

import contralens
from contralens.data.card import chosen
from contralens.data.showing import Explorer
from contralens.data.table_folders import runs_below
from contralens.report.html import write_report

OUT = Path(__file__).resolve().parents[1] / "docs" / "pictures"
WIDTH, SHOWN = 1240, 800
"""Pixels of the window, and of the picture in the docs."""
QUALITY = 74
SETTLED = 2500
"""Milliseconds that a page gets to fetch its pictures."""
EXPLORER = {
    "home": ("#/", 860),
    "neurons": ("#/{run}/neurons?sort=confidence", 800),
    "neuron": ("#/{run}/n/{neuron}", 1280),
    "map": ("#/{run}/map", 900),
    "search": ("#/{run}/search", 860),
    "compare": ("#/{run}/compare", 860),
    "contrast": ("#/{run}/compare?a={run}~semanticlens&b={run}~csp", 860),
    "audit": ("#/{run}/audit", 1100),
    "notes": ("#/{run}/notes", 860),
    "about": ("#/{run}/about", 860),
}
"""Name -> address and height of each page of the explorer."""
WRITTEN = {"audit": "audit.html", "verify": "verification.html", "contrast": "contrast-*.html"}
"""Name -> page that a command leaves in the run's folder."""


def shoot(page: Page, address: str, name: str, height: int) -> None:
    """A page from its top, as a JPEG of the docs' width."""
    page.set_viewport_size({"width": WIDTH, "height": height})
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_timeout(SETTLED)
    while page.evaluate("!!document.querySelector('.spinner')"):
        page.wait_for_timeout(SETTLED)
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        page.screenshot(path=file.name)
        image = Image.open(file.name).convert("RGB")
        image.resize((SHOWN, round(height * SHOWN / WIDTH)), Image.Resampling.LANCZOS).save(
            OUT / f"{name}.jpg", "JPEG", quality=QUALITY, optimize=True
        )
    print(f"wrote {OUT / name}.jpg")


def shoot_all(page: Page, run: contralens.Run, neuron: int, explorer: Explorer, home: Path) -> None:
    """Every page of the explorer, and those that commands write."""
    key = Path(str(run.path)).name
    for name, (address, height) in EXPLORER.items():
        shoot(page, explorer.address + address.format(run=key, neuron=neuron), f"explorer-{name}", height)
    shoot(page, write_report(run, home / "report.html").as_uri(), "report", 1000)
    for name, pattern in WRITTEN.items():
        found = sorted(Path(str(run.path)).glob(pattern))
        if found:
            shoot(page, found[0].resolve().as_uri(), f"page-{name}", 1000)
        else:
            print(f"{run.path} has no {pattern}: page-{name}.jpg stays as it was")


def main(folder: str = "contralens-demo/world-1", main_run: str = "trained") -> None:
    """All of them, most from the run called `main_run`."""
    runs = runs_below(Path(folder))
    run = contralens.load(next((path for path in runs if path.name == main_run), runs[0]))
    neuron = chosen(contralens.final(run))
    explorer = Explorer(folder, read_only=True)
    try:
        with sync_playwright() as p, tempfile.TemporaryDirectory() as home:
            browser = p.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
            page = browser.new_page(color_scheme="light")
            shoot_all(page, run, neuron, explorer, Path(home))
            browser.close()
    finally:
        explorer.stop()
    run.plot(neuron).convert("RGB").save(OUT / "card.jpg", "JPEG", quality=QUALITY + 8, optimize=True)
    print(f"wrote {OUT / 'card.jpg'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
