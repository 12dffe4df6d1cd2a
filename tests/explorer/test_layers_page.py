"""The page over all layers: its numbers are the atlas's, live and exported; it fits a phone and is accessible."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from coloured import ColourNet, draw_discs, to_pixels
from explorer_browsing import BROWSER, Watched, accessible, axe_source, until
from explorer_serving import HOSTILE, HTTP, Eyes, hostile_copy, serving
from patience import HUNG
from pydantic import TypeAdapter

import contralens
from contralens.data import atlases
from contralens.data.folder_kinds import RELATIONS
from contralens.data.layer_relations import read
from contralens.explorer import shapes
from contralens.explorer.export import export
from contralens.explorer.layers_page import page as layers_page

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
    answer = HTTP.get(f"{url}/api/layers", timeout=HUNG)
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


def test_the_page_reads_the_neurons_of_each_run_once(layers: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    own = atlases._neurons
    monkeypatch.setattr(atlases, "_neurons", lambda run: read.append(run.path) or own(run))
    assert len(layers_page({path.name: path for path in layers})["layers"]) == len(layers)
    assert read == layers


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
    own = [Path(shutil.copytree(path, tmp_path / path.name)) for path in layers]
    with serving(own) as url:
        assert "my own word" not in page_of(url)["labels"]
        note = {"neuron": 0, "kind": "label", "text": "my own word"}
        assert HTTP.post(f"{url}/api/runs/relu/notes", json=note, timeout=HUNG).status_code == 200
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


@pytest.fixture(scope="module")
def related(toured: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Runs of two layers with the matches and edges of an atlas."""
    home, world = tmp_path_factory.mktemp("related"), toured / "world-1"
    runs = contralens.label_layers(
        "world:1", world / "images", "world", world / "vocabulary.txt", layers=["block3", "."], k=4,
        out=home / "runs", cache=home / "cache",
    )  # fmt: skip
    own = [run.path for run in runs.values()]
    found = contralens.atlas(own, links=True, edges="weights", fakes=100, cache=home / "cache")
    assert found.manifest["notes"] == []
    assert len(found.links) > 0
    assert len(found.edges) > 0
    return own


def test_matches_and_edges_of_an_atlas_stand_between_the_neurons(related: list[Path], tmp_path: Path) -> None:
    rows = {path.name: read(path).to_pylist() for path in related}
    with serving(related) as url:
        page = page_of(url)
    given = page["relations"]
    assert len(given["kind"]) == sum(map(len, rows.values()))
    run = [page["layers"][at]["run"] for at in page["layer"]]
    layer = [page["layers"][at]["layer"] for at in page["layer"]]
    shown = {
        (run[one], page["neuron"][one], layer[other], page["neuron"][other], kind, holds)
        for one, other, kind, holds in zip(given["one"], given["other"], given["kind"], given["holds"], strict=True)
    }
    assert shown == {
        (key, r["neuron"], r["other_layer"], r["other"], r["kind"], r["holds"])
        for key, own in rows.items()
        for r in own
    }
    assert None not in given["null"]
    edges = [i for i, kind in enumerate(given["kind"]) if kind != "match"]
    assert all(given["holds"][i] == (given["p"][i] <= 0.05) for i in edges)

    own = [Path(shutil.copytree(path, tmp_path / path.name)) for path in related]
    (own[0] / RELATIONS).write_bytes(b"damaged")
    with serving(own) as url:
        page = page_of(url)
    assert "block3" not in {run[one] for one in page["relations"]["one"]}
    assert any("run `contralens atlas` again" in note for note in page["notes"])


def test_an_atlas_keeps_what_it_did_not_look_for(related: list[Path], tmp_path: Path) -> None:
    def sorted_rows(runs: list[Path]) -> list[list[str]]:
        return [sorted(map(str, read(run).to_pylist())) for run in runs]

    before = sorted_rows(related)
    cache = related[0].parent.parent / "cache"
    contralens.atlas(related, edges="weights", fakes=100, cache=cache)
    assert sorted_rows(related) == before
    bare = [contralens.load(run).save(tmp_path / run.name).path for run in related]
    contralens.atlas(bare, links=True, fakes=100, cache=cache, save=False)
    assert not any((run / RELATIONS).exists() for run in bare)


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

    def test_a_neuron_shows_its_matches_and_edges(
        self, chromium: Any, related: list[Path], width: int, theme: str
    ) -> None:
        sync = pytest.importorskip("playwright.sync_api")
        axe = axe_source()
        options = {"viewport": {"width": width, "height": 844}, "color_scheme": theme}
        with serving(related) as url, Watched(chromium, **options) as watched:
            page = watched.page
            page.goto(f"{url}/#/block3/layers?layer=block3")
            page.locator(".layer-neurons a").first.click()
            panel = page.locator(".related")
            sync.expect(panel.get_by_role("heading", level=3)).to_have_count(3)
            sync.expect(panel.locator("li").first).to_contain_text("null")
            sync.expect(panel.get_by_role("heading", level=2)).to_be_in_viewport()
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            if axe is not None:
                accessible(page, axe)
            other = panel.locator("li .numbers").first.inner_text().split(" · ")[1]
            panel.locator("li button").first.click()
            sync.expect(panel.get_by_role("heading", level=2)).to_contain_text(other)
            panel.get_by_role("button", name="Close").click()
            sync.expect(panel).to_have_count(0)
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
