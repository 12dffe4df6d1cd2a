"""A walk through the pages in a real browser, live and exported."""

from __future__ import annotations

import functools
import http.server
import json
import re
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from explorer_browsing import BROWSER, Watched, accessible_everywhere, axe_source, until
from explorer_serving import HOSTILE, copied, make_run, rich_run, serving
from patience import HUNG
from PIL import Image

from contralens.data.runs import Run, load
from contralens.errors import InputError
from contralens.explorer.export import export
from contralens.types import word_of

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
pytestmark = BROWSER
PAGES = ("neurons?panel=open", "n/3", "map", "search?text=red", "compare?b=run~semanticlens", "audit", "notes", "about")


@pytest.fixture
def home(finished: Run, tmp_path: Path) -> Path:
    copied(finished, tmp_path / "run")
    return tmp_path / "run"


def test_a_walk_through_everything(chromium: Any, home: Path, discs: Path) -> None:
    make_run(discs, home.parent / "other", k=3)
    with serving([home, home.parent / "other"]) as url, Watched(chromium) as watched:
        page, expect = watched.page, playwright.expect
        page.goto(url)
        expect(page.get_by_role("heading", level=1)).to_have_text("2 runs of one network, 72 neurons")
        page.locator(".run-card", has_text="run ·").get_by_role("link", name="relu", exact=True).click()
        page.get_by_role("combobox", name="Sort").select_option("neuron")
        cards = page.locator(".card")
        expect(cards.first).to_be_visible()
        expect(page.locator(".card img").first).to_be_visible()
        expect(page.get_by_text("36 neurons, labels by csp")).to_be_visible()

        page.get_by_role("searchbox").fill("magenta")  # filter
        told = page.request.get(f"{url}/api/runs/run/neurons?q=magenta&limit=1000").json()
        assert told["total"] > 0
        expect(page.get_by_text(f"{told['total']} of 36 neurons")).to_be_visible()
        expect(cards).to_have_count(told["total"])
        page.get_by_role("searchbox").fill("")
        page.get_by_role("combobox", name="Sort").select_option("score")
        first = page.request.get(f"{url}/api/runs/run/neurons?sort=score&descending=true&limit=1").json()["rows"][0]
        expect(cards.first).to_contain_text(first["name"])
        page.get_by_role("combobox", name="Show").select_option("dead")
        expect(cards.first).to_contain_text("no label")
        page.get_by_role("combobox", name="Show").select_option("")
        page.get_by_role("button", name="Distributions").click()
        page.get_by_label("Least Score").fill("0.99")
        page.get_by_label("Least Score").press("Enter")
        expect(page).to_have_url(re.compile("within=score"))
        few = page.request.get(f"{url}/api/runs/run/neurons?within=score:0.99:&limit=1000").json()["total"]
        expect(cards).to_have_count(few)
        page.get_by_role("button", name="show all", exact=True).click()
        page.get_by_role("button", name="Contrasts").click()
        expect(page.locator(".card.contrasts").first).to_be_visible()

        page.goto(f"{url}/#/run/n/7")  # a neuron, its gamma
        expect(page.locator(".pair")).to_have_count(6)
        slider = page.get_by_role("slider")
        slider.fill("0.5")
        expect(page).to_have_url(re.compile(r"gamma=0\.5"))
        label = next(
            entry for entry in page.request.get(f"{url}/api/runs/run/neurons/7").json()["labels"]
            if entry["scorer"] == "csp:gamma=0.5"
        )  # fmt: skip
        best = page.locator(".gamma .concepts li").first
        expect(best).to_contain_text(label["label"])
        expect(best).to_contain_text(f"{label['score']:.3f}")
        page.locator(".pair").first.click()
        expect(page.get_by_role("dialog")).to_contain_text("Pair 1 of 6")
        page.get_by_role("button", name="Next →").click()
        expect(page.get_by_role("dialog")).to_contain_text("Pair 2 of 6")
        page.keyboard.press("Escape")

        note = page.locator("[data-note]")  # annotate, reload
        note.fill("edges & <b>corners</b>")
        page.get_by_role("button", name="Add").click()
        expect(page.locator(".note-text")).to_have_text("edges & <b>corners</b>")
        page.get_by_label("Kind of note").select_option("label")
        note.fill("my own label")
        page.get_by_role("button", name="Add").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("my own label")
        page.reload()
        expect(page.get_by_role("heading", level=1)).to_have_text("my own label")
        expect(page.get_by_role("slider")).to_have_value("0.5")
        assert len((home.parent / "run.notes.jsonl").read_text().splitlines()) == 2
        with page.expect_download() as saved:
            page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('no')) }")
            page.get_by_text("Copy", exact=True).click()
            page.get_by_role("button", name="Markdown").click()
        assert "Neuron relu" in saved.value.path().read_text()

        page.goto(f"{url}/#/run/search")  # words, a picture, a label
        page.get_by_role("searchbox").fill("pure blue")
        page.keyboard.press("Enter")
        expect(page.get_by_text("closest to “pure blue”")).to_be_visible(timeout=1000 * HUNG)
        expect(cards.first).to_be_visible()
        picture = home.parent / "query.png"
        Image.new("RGB", (40, 40), "red").save(picture)
        page.get_by_role("button", name="By picture").click()
        page.get_by_label("Search by picture").set_input_files(picture)
        expect(page.get_by_text("closest to the picture")).to_be_visible()
        page.get_by_role("button", name="By label").click()
        page.get_by_role("searchbox").fill("own label")
        expect(page.get_by_text("1 label with")).to_be_visible()

        page.goto(f"{url}/#/run/compare")  # two runs
        expect(page.locator(".verdict")).to_contain_text("of 36 neurons")
        page.get_by_label("Run B").select_option("run")
        page.get_by_label("Scorer B").select_option("semanticlens")
        told = page.request.get(f"{url}/api/compare?a=run&b=run&scorer_b=semanticlens").json()
        expect(page.locator(".verdict")).to_contain_text(f"{told['same']} of 36")

        page.goto(f"{url}/#/run/map")  # a lasso
        box = page.locator("canvas").bounding_box()
        corners = [(0.03, 0.03), (0.97, 0.03), (0.97, 0.97), (0.03, 0.97), (0.03, 0.1)]
        at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
        page.mouse.move(*at[0])
        page.mouse.down()
        for x, y in at[1:]:
            page.mouse.move(x, y, steps=4)
        page.mouse.up()
        drawn = page.request.get(f"{url}/api/runs/run/map").json()["neuron"]
        expect(page.get_by_role("heading", name=f"{len(drawn)} neurons in the lasso")).to_be_visible()
        page.get_by_role("link", name=re.compile("in the grid")).click()
        expect(page.get_by_text(f"{len(drawn)} of 36 neurons")).to_be_visible()

        page.goto(f"{url}/#/run/notes")
        expect(page.locator(".note-list li")).to_have_count(2)
        page.get_by_role("button", name=re.compile("Delete: edges")).click()
        expect(page.locator(".note-list li")).to_have_count(1)
        page.goto(f"{url}/#/run/about")
        expect(page.get_by_role("heading", name="How the labels were made")).to_be_visible()
        assert watched.problems == []
        assert watched.outside(url) == []


def test_keyboard_alone(chromium: Any, home: Path) -> None:
    with serving([home]) as url, Watched(chromium) as watched:
        page, expect = watched.page, playwright.expect
        page.goto(url)
        expect(page.locator(".card").first).to_be_visible()
        page.keyboard.press("/")
        page.keyboard.type("r")
        expect(page.get_by_role("searchbox")).to_be_focused()
        page.get_by_role("searchbox").fill("")
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.classList.contains('card')"):
                break
        names = [r["name"] for r in page.request.get(f"{url}/api/runs/run/neurons?limit=100").json()["rows"]]
        focused = page.locator(".card:focus")
        expect(focused).to_contain_text(names[0])
        page.keyboard.press("ArrowRight")
        expect(focused).to_contain_text(names[1])
        page.keyboard.press("End")
        expect(focused).to_contain_text(names[-1])
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        expect(page).to_have_url(re.compile("/n/1$"))
        expect(page.locator(".pair").first).to_be_visible()
        page.keyboard.press("ArrowRight")
        expect(page).to_have_url(re.compile("/n/2$"))
        expect(page.locator(".neuron-head .name")).to_contain_text(names[2])
        page.keyboard.press("g")
        expect(page.get_by_role("slider")).to_be_focused()
        page.keyboard.press("Home")
        expect(page).to_have_url(re.compile("gamma=0$"))
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("n")
        page.keyboard.type("typed")
        page.keyboard.press("Enter")
        expect(page.locator(".note-text")).to_have_text("typed")
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("Escape")
        expect(page).to_have_url(re.compile("/neurons|/#/$|/$"))
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()
        page.keyboard.press("4")
        expect(page.get_by_role("heading", name="Compare")).to_be_visible()
        page.keyboard.press("5")
        expect(page.get_by_text("contralens audit RUN --concepts dermoscopy")).to_be_visible()
        assert watched.problems == []


def test_every_page_fits_and_is_accessible(chromium: Any, home: Path) -> None:
    axe = axe_source()
    if axe is None:
        pytest.skip("no axe-core here: pip install axe-playwright-python, or npm install in explorer-ui")
    with serving([home]) as url, Watched(chromium) as watched:
        page = watched.page
        for path in PAGES:
            page.goto(f"{url}/#/run/{path}")
            page.reload()
            page.wait_for_load_state("networkidle")
            until(page, "!document.querySelector('.spinner') && document.querySelector('main h1')")
            accessible_everywhere(page, axe)
        assert watched.problems == []


def test_markup_in_labels_is_shown_as_text(chromium: Any, hostile: Run) -> None:
    assert hostile.path
    with serving([hostile.path]) as url, Watched(chromium) as watched:
        page = watched.page
        for path in ("neurons", "n/3", "map", "compare", "about", "search?by=label&text=script"):
            page.goto(f"{url}/#/evil/{path}")
            page.reload()
            page.wait_for_load_state("networkidle")
            assert page.evaluate("window.hacked") is None
            assert page.locator("main img[src=x], main script").count() == 0
        page.goto(f"{url}/#/evil/n/3")
        playwright.expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE)
        assert watched.problems == []
        assert watched.outside(url) == []


@pytest.fixture(scope="module")
def rich(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all that can be added to it: maps, classes, a layout, an evaluation and candidates."""
    home = tmp_path_factory.mktemp("rich")
    patch = pytest.MonkeyPatch()
    patch.setenv("CONTRALENS_CACHE", str(home / "cache"))
    try:
        return rich_run(discs, home / "run")
    finally:
        patch.undo()


def test_all_that_a_run_may_hold_is_shown(chromium: Any, rich: Path) -> None:
    with serving([rich]) as url, Watched(chromium) as watched:
        page, expect = watched.page, playwright.expect
        detail = page.request.get(f"{url}/api/runs/run/neurons/1").json()
        page.goto(f"{url}/#/run/n/1")
        expect(page.locator(".pair")).to_have_count(10)
        page.keyboard.press("a")
        expect(page.locator(".pair")).to_have_count(len(detail["exemplars"]))
        expect(page.locator(".heat")).to_have_count(0)
        page.keyboard.press("m")
        shown = {m["image"] for m in detail["maps"]}
        wanted = [p[s]["image"] in shown for p in detail["exemplars"] for s in ("positive", "contrast") if p[s]]
        expect(page.locator(".heat")).to_have_count(sum(wanted))
        expect(page).to_have_url(re.compile("maps=1"))
        page.reload()
        expect(page.locator(".heat")).to_have_count(sum(wanted))
        page.locator(".pair").nth(1).click()
        expect(page).to_have_url(re.compile("pair=2"))
        expect(page.get_by_role("dialog").locator(".heat")).to_have_count(2)
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()

        fed = page.get_by_role("region", name="Classes it feeds")
        expect(fed.locator("li")).to_have_count(len(detail["classes"]))
        expect(fed.locator("li").first).to_contain_text(detail["classes"][0]["name"])
        expect(page.get_by_role("region", name="Candidates")).to_contain_text("a-model")
        expect(page.get_by_role("region", name="Candidates")).to_contain_text("contrastive")
        judged = page.get_by_role("region", name="Evaluation")
        expect(judged).to_contain_text("0.500 [0.400, 0.600]")
        expect(judged).not_to_contain_text("false-discovery rate")
        expect(page.get_by_role("region", name="Labels by scorer")).to_contain_text("false-discovery rate 0.030")
        before, after = detail["before"], detail["labels"][-1]["label"]
        shown = after if before is None else f"{before} → {after}"
        expect(page.get_by_role("heading", level=1)).to_have_text(shown)
        used = Counter(p["contrast"]["image"] for p in detail["exemplars"] if p["contrast"])
        several = [n for image, n in used.items() if n > 1]
        expect(page.locator(".pair .shared")).to_have_count(sum(several))
        expect(page.locator(".figures dd").first).to_contain_text(re.compile("active|selective"))

        refused = page.request.get(f"{url}/api/runs/run/neurons/0").json()
        assert (refused["status"], refused["labels"][-1]["label"]) == ("chance", None)
        page.goto(f"{url}/#/run/n/0")
        expect(page.get_by_role("heading", level=1)).to_have_text("no label beats random images")
        word = refused["labels"][-1]["concepts"][0]["concept"]
        expect(page.get_by_text(f"rejected “{word}” of")).to_be_visible()
        labels = page.get_by_role("region", name="Labels by scorer")
        expect(labels).to_contain_text("null test: rejected, false-discovery rate 0.080")

        page.goto(f"{url}/#/run/neurons")
        page.get_by_role("combobox", name="Sort").select_option("fdr")
        rows = page.request.get(f"{url}/api/runs/run/neurons?sort=fdr").json()["rows"]
        expect(page.locator(".card").first).to_contain_text(rows[0]["name"])
        sure = [row["figures"]["confidence"] for row in rows]
        words = Counter(word_of(confidence) for confidence in sure if confidence is not None)
        for word, count in words.items():
            page.get_by_role("combobox", name="Show").select_option(word)
            expect(page.get_by_text(f"{count} of {len(rows)} neurons")).to_be_visible()
        page.get_by_role("combobox", name="Show").select_option("")
        expect(page.locator(".card .status-chance")).to_have_count(1)
        twin = page.get_by_role("link", name="JSON").get_attribute("href")
        assert page.request.get(f"{url}/{twin}").json()["rows"][0]["name"] == rows[0]["name"]

        page.goto(f"{url}/#/run/map")
        expect(page.get_by_text("The two main components")).to_be_visible()
        page.goto(f"{url}/#/run/about")
        expect(page.get_by_role("heading", name="Evaluation: means over the neurons")).to_be_visible()
        assert watched.problems == []


def test_a_neuron_is_copied_in_four_forms(chromium: Any, rich: Path) -> None:
    with serving([rich]) as url, Watched(chromium) as watched:
        page, expect = watched.page, playwright.expect
        watched.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=url)
        page.goto(f"{url}/#/run/n/1")
        name = page.request.get(f"{url}/api/runs/run/neurons/1").json()["name"]
        for kind, begins in (("JSON", "{"), ("CSV of the pairs", "neuron,rank"), ("Markdown", "## Neuron")):
            page.get_by_text("Copy", exact=True).click()
            page.get_by_role("button", name=kind, exact=True).click()
            expect(page.locator(".copy [role=status]")).to_contain_text("Copied")
            text = page.evaluate("navigator.clipboard.readText()")
            assert text.startswith(begins)
            assert name in text
        page.get_by_text("Copy", exact=True).click()
        page.get_by_role("button", name="Image", exact=True).click()
        expect(page.locator(".copy [role=status]")).to_contain_text("Copied as an image")
        size = page.evaluate(
            """async () => {
                const [item] = await navigator.clipboard.read();
                const made = await createImageBitmap(await item.getType("image/png"));
                return [made.width, made.height];
            }"""
        )
        assert size == [1200, 630]
        with page.expect_download() as saved:
            page.get_by_role("button", name="Share card").click()
        assert saved.value.suggested_filename == f"run-{name}.png".replace("/", "-")
        assert watched.problems == []


def test_notes_are_exported(chromium: Any, home: Path) -> None:
    with serving([home]) as url, Watched(chromium) as watched:
        page = watched.page
        for kind, text in (("note", "=HYPERLINK(1)"), ("tag", "odd"), ("label", "a thing")):
            page.request.post(f"{url}/api/runs/run/notes", data={"neuron": 2, "kind": kind, "text": text})
        page.goto(f"{url}/#/run/notes")
        saved = {}
        for form in ("JSON", "CSV", "Markdown"):
            with page.expect_download() as download:
                page.get_by_role("button", name=f"Save as {form}").click()
            saved[form] = download.value.path().read_text()
        assert [n["kind"] for n in json.loads(saved["JSON"])] == ["note", "tag", "label"]
        assert "'=HYPERLINK" in saved["CSV"]
        assert "a thing" in saved["Markdown"]
        page.goto(f"{url}/#/run/neurons")
        page.get_by_role("searchbox").fill("#odd")
        playwright.expect(page.locator(".card")).to_have_count(1)
        assert watched.problems == []


def test_no_blank_gaps_after_a_long_scroll(chromium: Any, home: Path) -> None:
    with serving([home]) as url, Watched(chromium, viewport={"width": 500, "height": 600}) as watched:
        page = watched.page
        page.goto(url)
        page.locator(".card img").first.wait_for()
        page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
        until(
            page,
            """() => [...document.querySelectorAll('.card')].filter(c => {
                const b = c.getBoundingClientRect(); return b.bottom > 0 && b.top < innerHeight;
            }).length >= 4 && !document.querySelector('.waiting')""",
        )
        assert page.locator(".card").count() < 36


def walk_export(page: Any, address: str) -> None:
    expect = playwright.expect
    page.goto(address)
    expect(page.locator(".card img").first).to_be_visible()
    until(page, "[...document.querySelectorAll('.card img')].every(i => i.complete && i.naturalWidth > 0)")
    page.get_by_role("searchbox").fill("magenta")
    expect(page.get_by_text(re.compile(r"\d+ of 36 neurons"))).to_be_visible()
    page.locator(".card").first.click()
    expect(page.locator(".pair")).to_have_count(6)
    page.get_by_role("slider").fill("0.25")
    expect(page.locator(".gamma output")).to_have_text("0.25")
    page.get_by_role("link", name="Search").click()
    expect(page.get_by_role("button", name="By label")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("searchbox").fill("red")
    expect(page.get_by_text(re.compile("labels? with “red”"))).to_be_visible()
    expect(page.locator(".card img").first).to_be_visible()
    page.get_by_role("button", name="By meaning").click()
    expect(page.get_by_role("alert")).to_contain_text("contralens explore")
    for name in ("Map", "Compare", "Audit", "Notes", "About"):
        page.get_by_role("link", name=name, exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_be_visible()


def test_the_export_opens_from_a_file_and_from_a_sub_path(chromium: Any, home: Path) -> None:
    site = export([home], home.parent / "host" / "some" / "sub path")
    with Watched(chromium) as watched:
        address = (site / "index.html").as_uri()
        walk_export(watched.page, address)
        assert watched.problems == []
        assert watched.outside(site.as_uri()) == []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

    handler = functools.partial(Quiet, directory=str(home.parent / "host"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, Watched(chromium) as watched:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}/some/sub%20path/"
        walk_export(watched.page, base)
        assert watched.problems == []
        assert watched.outside(base) == []
        server.shutdown()


def test_an_export_of_hostile_labels_runs_none_of_them(chromium: Any, hostile: Run, tmp_path: Path) -> None:
    assert hostile.path
    site = export([hostile.path], tmp_path / "site")
    with Watched(chromium) as watched:
        page = watched.page
        page.goto(f"{(site / 'index.html').as_uri()}#/evil/n/3")
        playwright.expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE)
        assert page.evaluate("window.hacked") is None
        assert watched.problems == []


def test_pasted_links_preview_and_lead_to_the_neuron(chromium: Any, home: Path, tmp_path: Path) -> None:
    site = export([home], tmp_path / "site", url="https://example.org/site/")
    run = load(home)
    text = (site / "links/run/7.html").read_text()
    label = run.neuron(7)["labels"][run.manifest["primary"]]["label"]
    assert f'<meta property="og:title" content="{run.neuron(7)["name"]}: {label}">' in text
    assert '<meta property="og:image" content="https://example.org/site/links/run/7.jpg">' in text
    assert Image.open(site / "links/run/7.jpg").size == (1200, 630)
    assert len(list((site / "links/run").glob("*.html"))) == len(run)
    with Watched(chromium) as watched:
        watched.page.goto((site / "links/run/7.html").as_uri())
        playwright.expect(watched.page.get_by_role("heading", level=1)).to_contain_text(label)
        assert watched.page.url.endswith("index.html#/run/n/7")
    assert not (export([home], tmp_path / "site") / "links").exists(), "an older export is replaced"
    with pytest.raises(InputError, match="must be the address of the site"):
        export([home], tmp_path / "site", url="example.org")


def test_export_files(home: Path, tmp_path: Path) -> None:
    (home.parent / "run.notes.jsonl").write_text(
        json.dumps({"id": "1", "time": "t", "neuron": 1, "name": "n", "kind": "note", "text": "private"}) + "\n"
    )
    site = export([home], tmp_path / "site")
    assert "private" not in (site / "data/run/notes.js").read_text()
    assert "private" in (export([home], tmp_path / "site", with_notes=True) / "data/run/notes.js").read_text()
    told = "".join(p.read_text() for p in (site / "data").rglob("*.js"))
    assert str(home.parent) not in told
    assert "/tmp/" not in told
    with pytest.raises(ValueError, match="holds files but no export"):
        export([home], home.parent)
    with pytest.raises(ValueError, match="outside"):
        export([home], home / "site")
