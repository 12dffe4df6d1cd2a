"""The page over all layers: its numbers are the atlas's, live and exported; it fits a phone and is accessible."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from coloured import ColourNet, draw_discs, to_pixels
from explorer_browsing import BROWSER, Watched, accessible, axe_source, until
from explorer_serving import HOSTILE, Eyes, hostile_copy, serving
from patience import HUNG
from pydantic import TypeAdapter

import contralens
from contralens.explorer import shapes
from contralens.explorer.export import export

WORDS = ["red", "green", "blue", "yellow", "magenta", "cyan", "white"]


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    home = tmp_path_factory.mktemp("layers")
    images = draw_discs(home / "images", 60, 64)
    runs = contralens.label_layers(
        ColourNet(), images, Eyes(), WORDS, layers=["relu", "."], preprocess=to_pixels, k=4, out=home / "runs",
        cache=home / "cache",
    )  # fmt: skip
    return [run.path for run in runs.values() if run.path is not None]


def page_of(url: str) -> Any:
    answer = httpx.get(f"{url}/api/layers", timeout=HUNG)
    assert answer.status_code == 200, answer.text
    TypeAdapter(shapes.Layers).validate_json(answer.content, strict=True)
    return answer.json()


def test_the_page_says_what_the_atlas_says(layers: list[Path]) -> None:
    atlas = contralens.atlas(layers)
    with serving(layers) as url:
        page = page_of(url)
    assert [row["layer"] for row in page["layers"]] == ["relu", "."]
    assert [row["labeled"] for row in page["layers"]] == atlas.layers["labeled"].to_pylist()
    assert [c["concept"] for c in page["concepts"]] == atlas.concepts["concept"].to_pylist()
    assert [c["counts"] for c in page["concepts"]] == atlas.concepts["counts"].to_pylist()
    said = [None if at < 0 else page["labels"][at] for at in page["label"]]
    assert said == atlas.neurons["label"].to_pylist()
    assert {row["run"] for row in page["layers"]} == {"relu", "output"}


def test_runs_of_other_networks_and_broken_ones_are_left_out_with_the_reason(
    layers: list[Path], finished: Any, tmp_path: Path
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/manifest.json").write_text('{"format": 2}')
    with serving([*layers, finished.path, tmp_path / "broken"]) as url:
        page = page_of(url)
    assert [row["layer"] for row in page["layers"]] == ["relu", "."]
    with serving([finished.path]) as url:
        assert len(page_of(url)["layers"]) == 1
    with serving([tmp_path / "broken"]) as url:
        assert page_of(url)["layers"] == []


def test_a_corrected_label_counts_at_once_and_is_exported_only_with_notes(layers: list[Path], tmp_path: Path) -> None:
    import shutil

    own = [Path(shutil.copytree(path, tmp_path / path.name)) for path in layers]
    with serving(own) as url:
        assert "my own word" not in page_of(url)["labels"]
        note = {"neuron": 0, "kind": "label", "text": "my own word"}
        assert httpx.post(f"{url}/api/runs/relu/notes", json=note, timeout=HUNG).status_code == 200
        assert "my own word" in page_of(url)["labels"]
    for notes in (True, False):
        export(own, tmp_path / f"site {notes}", with_notes=notes)
        assert ("my own word" in (tmp_path / f"site {notes}/data/layers.js").read_text()) is notes


def test_one_run_alone_has_no_page_in_an_export(layers: list[Path], tmp_path: Path) -> None:
    export(layers[:1], tmp_path / "site")
    assert not (tmp_path / "site/data/layers.js").exists()
    export(layers, tmp_path / "both")
    text = (tmp_path / "both/data/layers.js").read_text()
    assert str(tmp_path) not in text
    assert json.loads(text[text.index('"{') : text.rindex(")")])


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (390, "dark")])
class TestInTheBrowser:
    pytestmark = BROWSER

    def test_it_fits_finds_and_is_accessible(
        self, chromium: Any, layers: list[Path], tmp_path: Path, width: int, theme: str
    ) -> None:
        sync = pytest.importorskip("playwright.sync_api")
        axe = axe_source()
        options = {"viewport": {"width": width, "height": 844}, "color_scheme": theme}
        export(layers, tmp_path / "site")
        with serving(layers) as url, Watched(chromium, **options) as watched:
            page = watched.page
            for start in (url, (tmp_path / "site/index.html").as_uri()):
                page.goto(f"{start}/#/relu/layers" if start == url else f"{start}#/relu/layers")
                until(page, "document.querySelectorAll('.layer-neurons li').length > 0")
                sync.expect(page.locator(".layer-list li")).to_have_count(2)
                sync.expect(page.locator(".layer-neurons img").first).to_be_visible()
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
                if axe is not None and start == url:
                    accessible(page, axe)
                concept = page.locator(".concept-list button").first
                word = concept.inner_text()
                concept.click()
                sync.expect(page.get_by_role("searchbox")).to_have_value(word)
                sync.expect(page.locator(".layer-neurons strong").first).to_have_text(word)
                page.locator(".layer-neurons a").first.click()
                sync.expect(page.get_by_role("heading", level=1)).to_contain_text(word)
            assert watched.problems == []


@pytest.mark.slow
def test_markup_in_labels_is_shown_as_text(chromium: Any, finished: Any, tmp_path: Path) -> None:
    evil = hostile_copy(finished, tmp_path / "evil")
    with serving([evil.path, finished.path]) as url, Watched(chromium) as watched:
        page = watched.page
        page.goto(f"{url}/#/evil/layers")
        until(page, "document.querySelector('.layers')")
        assert page.evaluate("window.hacked") is None
        assert page.locator("main img[src=x], main script").count() == 0
        assert HOSTILE in page.content() or HOSTILE in page.inner_text("main")
        assert watched.problems == []
