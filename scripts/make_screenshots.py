"""Take the docs' screenshots of the report, the explorer and a card from a run: by default one of the demo.

contralens demo --world 1 --images 300 && contralens verify contralens-demo/world-1/trained
python scripts/make_screenshots.py contralens-demo/world-1/trained
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

import contralens
from contralens.data.card import chosen
from contralens.report.html import write_report

OUT = Path(__file__).resolve().parents[1] / "docs" / "pictures"
WIDTH, SHOWN = 1240, 890
"""Pixels of the window, and of the picture in the docs."""
SETTLED = 1500
"""Milliseconds that a page gets to fetch its pictures."""


def shoot(page: Page, address: str, name: str, height: int) -> None:
    """A page from its top, as a JPEG of the docs' width."""
    page.set_viewport_size({"width": WIDTH, "height": height})
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_timeout(SETTLED)
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        page.screenshot(path=file.name)
        image = Image.open(file.name).convert("RGB")
        image.resize((SHOWN, round(height * SHOWN / WIDTH)), Image.Resampling.LANCZOS).save(
            OUT / f"{name}.jpg", "JPEG", quality=82, optimize=True
        )
    print(f"wrote {OUT / name}.jpg")


def main(folder: str = "contralens-demo/world-1/trained") -> None:
    """All of them."""
    run = contralens.load(folder)
    neuron = chosen(contralens.final(run))
    explorer = run.explore(read_only=True)
    try:
        with sync_playwright() as p, tempfile.TemporaryDirectory() as home:
            browser = p.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
            page = browser.new_page(color_scheme="light")
            key = Path(folder).name
            shoot(page, write_report(run, Path(home) / "report.html").as_uri(), "report", 1000)
            shoot(page, f"{explorer.address}#/{key}/neurons?sort=confidence", "explorer-neurons", 800)
            shoot(page, f"{explorer.address}#/{key}/n/{neuron}", "explorer-neuron", 1280)
            browser.close()
    finally:
        explorer.stop()
    run.plot(neuron).convert("RGB").save(OUT / "card.jpg", "JPEG", quality=85, optimize=True)
    print(f"wrote {OUT / 'card.jpg'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
