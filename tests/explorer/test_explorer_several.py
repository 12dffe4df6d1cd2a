"""Several runs in the explorer: a page over all of them, and neurons of other layers compared as `match` pairs them."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from coloured import draw_discs, to_pixels
from explorer_browsing import BROWSER, Watched, accessible_everywhere, axe_source, until
from explorer_serving import HTTP, WideNet, make_run, serving
from patience import HUNG
from pydantic import TypeAdapter

import contralens
from contralens.commands.match import cached
from contralens.data.contrast_changes import changes
from contralens.data.table_folders import run_folders
from contralens.errors import InputError
from contralens.explorer import shapes
from contralens.explorer.export import export
from contralens.explorer.home import brief
from contralens.types import word_of

BUDGET = 300_000
"""Bytes of the first page without pictures."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs of two layers of a network, and one of the later layer with fewer exemplars; the cache that they filled."""
    home = tmp_path_factory.mktemp("several")
    patch = pytest.MonkeyPatch()
    patch.setenv("CONTRALENS_CACHE", str(home / "cache"))
    network, discs = WideNet(), draw_discs(home / "images", 70, 64)
    for name, options in {"late": {}, "early": {"layer": "conv"}, "again": {"k": 3}}.items():
        make_run(discs, home / "runs" / name, network=network, **options)
    yield home / "runs"
    patch.undo()


@pytest.fixture(autouse=True)
def _same_cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTRALENS_CACHE", str(home.parent / "cache"))


@pytest.fixture(scope="module")
def address(home: Path) -> Any:
    with serving(run_folders([home]), matcher=cached) as url:
        yield url


def get(url: str, **query: Any) -> Any:
    answer = HTTP.get(url, params=query or None, timeout=HUNG)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_folder_opens_the_runs_in_it(home: Path, tmp_path: Path) -> None:
    assert [run.name for run in run_folders([home])] == ["again", "early", "late"]
    assert run_folders([home / "late", home]) == [home / "late", home / "again", home / "early"]
    assert run_folders([tmp_path]) == [tmp_path], "the page says what is wrong with it"
    with pytest.raises(InputError, match="there is no run folder"):
        run_folders([home / "nobody"])


def test_a_run_in_a_few_lines(address: str, home: Path) -> None:
    listed = TypeAdapter(shapes.RunList).validate_python(get(f"{address}/api/runs"))
    told = {info["key"]: info["summary"] for info in listed["runs"]}
    run = contralens.load(home / "late")
    rows = [row for row in run.rows() if row["label"] is not None]
    late = told["late"]
    assert late is not None
    assert (late["layer"], late["neurons"], late["labeled"], late["images"]) == ("relu", 36, len(rows), 70)
    assert late["words"] == Counter(word_of(row["confidence"]) for row in rows)
    plain = {row["neuron"]: row["label"] for row in run.rows("csp:gamma=0")}
    assert late["changed"] == len(changes(run)) == sum(plain[row["neuron"]] != row["label"] for row in rows)
    shown = {row["neuron"]: row for row in rows}
    for neuron in late["highlights"]:
        row = shown[neuron["neuron"]]
        assert neuron["label"] == row["label"]
        assert neuron["before"] == (plain[neuron["neuron"]] if plain[neuron["neuron"]] != row["label"] else None)
    labels = [neuron["label"] for neuron in late["highlights"]]
    assert len(labels) == len(set(labels)) > 1
    assert late["place"] == (told["again"] or {})["place"] != (told["early"] or {})["place"]


def test_long_lists_are_counted_only() -> None:
    assert brief({"a": ["x"] * 51, "b": [{"c": ["x"] * 1000}], "d": None}) == {
        "a": "51 entries", "b": [{"c": "1,000 entries"}], "d": None,
    }  # fmt: skip


def test_neurons_of_other_layers_are_paired_as_match_does_it(address: str, home: Path) -> None:
    found = contralens.match(home / "early", home / "late", targets=[_target("conv"), _target("relu")])
    told = TypeAdapter(shapes.Matched).validate_python(get(f"{address}/api/match", a="early", b="late"))
    assert (told["by"], told["images"], told["problem"]) == ("activations", 70, None)
    assert told["threshold"] == pytest.approx(found.manifest["threshold"], rel=1e-4)
    pairs = {i: j for word, i, j in zip(told["status"], told["a"], told["b"], strict=True) if word == "pair"}
    assert pairs == found.partners
    assert len(pairs) > 5
    back = get(f"{address}/api/match", a="late", b="early")
    assert {j: i for word, i, j in zip(back["status"], back["a"], back["b"], strict=True) if word == "pair"} == pairs
    counts, turned = Counter(told["status"]), Counter(back["status"])
    assert (turned["new"], turned["gone"], turned["split"]) == (counts["gone"], counts["new"], counts["merged"])

    compared = get(f"{address}/api/compare", a="early", b="late", changed=False)
    assert (compared["matched_by"], compared["both"]) == ("activations", len(pairs))
    assert all(row["b"]["neuron"] == pairs[row["a"]["neuron"]] for row in compared["changes"])
    assert min(row["correlation"] for row in compared["changes"]) >= found.manifest["threshold"] - 1e-4


def _target(layer: str) -> Any:
    return contralens.target(WideNet(), layer, preprocess=to_pixels)


def test_one_place_pairs_by_number(address: str) -> None:
    told = get(f"{address}/api/match", a="late", b="again")
    assert (told["by"], told["problem"], told["a"], told["b"]) == ("number", None, list(range(36)), list(range(36)))


def test_what_cannot_be_matched_says_why(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [home / "early", home / "late"]
    with serving(runs) as url:
        told = get(f"{url}/api/match", a="early", b="late")
    assert "`contralens explore` does" in told["problem"]
    monkeypatch.setenv("CONTRALENS_CACHE", str(tmp_path / "empty"))
    with serving(runs, matcher=cached) as url:
        told = get(f"{url}/api/match", a="early", b="late")
        compared = get(f"{url}/api/compare", a="early", b="late")
    assert (told["by"], len(told["a"])) == ("number", 36)
    assert compared["problem"] == told["problem"]
    assert re.search("the cache is missing numbers of .*contralens match computes them again", told["problem"])


class TestPages:
    pytestmark = BROWSER

    def test_compare_opens_on_matched_neurons_and_says_why(self, chromium: Any, address: str) -> None:
        expect = pytest.importorskip("playwright.sync_api").expect
        told = get(f"{address}/api/compare", a="early", b="late")
        with Watched(chromium) as watched:
            page = watched.page
            page.goto(f"{address}/#/late/compare")
            expect(page.get_by_role("combobox", name="Run B")).to_have_value("again")
            page.goto(f"{address}/#/early/compare?b=late~csp")
            expect(page.locator(".verdict")).to_contain_text(f"{told['both']} of 36 neurons of early are found again")
            expect(page.get_by_role("button", name=f"{len(told['changes'])} changed")).to_be_visible()
            same = told["both"] - len(told["changes"])
            page.get_by_role("button", name=f"{same} same").click()
            expect(page.locator(".why").first).to_contain_text(
                re.compile(r"correlation .* of 6 top images are the same")
            )
            expect(page.locator(".change-side img").first).to_be_visible()
            page.goto(f"{address}/#/late/compare?a=late~semanticlens&b=late~csp")
            expect(page.locator(".change-row.one .decided img").first).to_be_visible()
            expect(page.locator(".why").first).to_contain_text(re.compile("comes|not among"))
            expect(page.locator(".change-words s").first).to_be_visible()
            assert watched.problems == []

    def test_home_leads_to_runs_and_neurons(self, chromium: Any, address: str) -> None:
        expect = pytest.importorskip("playwright.sync_api").expect
        with Watched(chromium) as watched:
            page = watched.page
            page.goto(address)
            expect(page.get_by_role("heading", level=1)).to_have_text("3 runs of one network, 108 neurons")
            expect(page.locator(".run-card img").first).to_be_visible()
            assert page.locator(".run-card").count() == 3
            page.get_by_role("link", name="Compare again with late").click()
            expect(page.get_by_role("heading", level=1)).to_have_text("Compare")
            page.get_by_role("link", name="contralens, all runs").click()
            page.locator(".highlights a").first.click()
            expect(page.locator(".pair").first).to_be_visible()
            page.get_by_role("combobox", name="Run").select_option("")
            expect(page.locator(".run-card").first).to_be_visible()
            page.keyboard.press("2")
            expect(page.get_by_role("heading", level=1)).to_have_text("Map of concept vectors")
            assert watched.problems == []

    def test_a_run_that_cannot_be_read_is_named(self, chromium: Any, home: Path, tmp_path: Path) -> None:
        expect = pytest.importorskip("playwright.sync_api").expect
        shutil.copytree(home / "late", tmp_path / "broken")
        (tmp_path / "broken" / "labels.parquet").write_bytes(b"")
        with serving([home / "late", tmp_path / "broken"]) as url, Watched(chromium) as watched:
            watched.page.goto(url)
            region = watched.page.get_by_role("region", name="Runs that cannot be read")
            expect(region).to_contain_text("labels.parquet")
            expect(watched.page.locator(".run-card")).to_have_count(1)

    def test_they_fit_and_are_accessible(self, chromium: Any, address: str) -> None:
        axe = axe_source()
        if axe is None:
            pytest.skip("no axe-core here: pip install axe-playwright-python, or npm install in explorer-ui")
        with Watched(chromium) as watched:
            page = watched.page
            for path in (
                "",
                "early/compare?b=late~csp",
                "early/compare?b=late~csp&all=1",
                "late/compare?a=late~semanticlens",
            ):
                page.goto(f"{address}/#/{path}")
                page.reload()
                page.wait_for_load_state("networkidle")
                until(page, "!document.querySelector('.spinner') && document.querySelector('main h1')")
                accessible_everywhere(page, axe)
            assert watched.problems == []

    def test_the_first_page_is_light(self, chromium: Any, address: str) -> None:
        for path in ("", "#/late/neurons", "#/late/n/3"):
            with Watched(chromium) as watched:
                sizes: list[tuple[str, int]] = []
                page = watched.page
                session = watched.context.new_cdp_session(page)
                session.send("Network.enable")
                names: dict[str, str] = {}
                session.on(
                    "Network.requestWillBeSent", lambda e, n=names: n.update({e["requestId"]: e["request"]["url"]})
                )
                session.on(
                    "Network.loadingFinished",
                    lambda e, n=names, s=sizes: s.append((n.get(e["requestId"], ""), int(e["encodedDataLength"]))),
                )
                page.goto(f"{address}/{path}")
                page.locator("main img").first.wait_for()
                page.wait_for_load_state("networkidle")
                data = {url: size for url, size in sizes if not re.search(r"/pictures\?|\.jpg|^data:", url)}
                assert len(data) >= 3
                assert sum(data.values()) < BUDGET, data

    def test_an_export_compares_matched_neurons_too(self, chromium: Any, home: Path, tmp_path: Path) -> None:
        expect = pytest.importorskip("playwright.sync_api").expect
        site = export(run_folders([home]), tmp_path / "site", matcher=cached)
        told = cached(home / "early", home / "late", False)
        with Watched(chromium) as watched:
            page = watched.page
            page.goto((site / "index.html").as_uri())
            expect(page.locator(".run-card")).to_have_count(3)
            expect(page.locator(".run-card img").first).to_be_visible()
            page.goto(f"{(site / 'index.html').as_uri()}#/late/compare?b=early~csp")
            expect(page.locator(".verdict")).to_contain_text(f"{len(told.partners)} of 36 neurons of late")
            expect(page.locator(".change-row").first).to_be_visible()
            page.goto(f"{(site / 'index.html').as_uri()}#/late/map")
            expect(page.locator("canvas")).to_be_visible()
            assert watched.problems == []
