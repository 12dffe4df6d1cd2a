"""The report: what it says, that it stands alone, that nothing in a run can run, and that a browser shows it all."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from drawn import drawn_run
from patience import HUNG

from contralens.data.contrast_changes import changes, telling_pairs, varied
from contralens.data.runs import Run, load
from contralens.errors import InputError, StoreError
from contralens.report.html import page, write_report

EVIL = "<script>document.title='hacked'</script><img src=x onerror=\"document.title='hacked'\">\"'&"


class Parsed(HTMLParser):
    """Tags with attributes, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.data: dict[str, str] = {}
        self.words: list[str] = []
        self._inside: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else None
        if self._inside:
            self._inside = dict(attrs).get("id") or tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.data[self._inside] = self.data.get(self._inside, "") + data
        else:
            self.words.append(data)

    def all(self, tag: str, **attrs: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.tags if t == tag and all(a.get(k) == v for k, v in attrs.items())]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def run() -> Run:
    return drawn_run()


@pytest.fixture(scope="module")
def evil(run: Run) -> Run:
    """A run in which every text that a stranger could choose is an attack."""

    def spoil(table: pa.Table, *columns: str) -> pa.Table:
        for name in columns:
            at = table.column_names.index(name)
            values = table[name].to_pylist()
            if name == "concepts":
                values = [[v + EVIL for v in row] for row in values]
            else:
                values = [None if v is None else v + EVIL for v in values]
            table = table.set_column(at, name, pa.array(values, table[name].type))
        return table

    def spoil_texts(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: v if k in ("fingerprint",) else spoil_texts(v) for k, v in value.items()}
        if isinstance(value, list):
            return [spoil_texts(v) for v in value]
        return value + EVIL if isinstance(value, str) else value

    manifest = spoil_texts(run.manifest)
    manifest["scorers"] = [*run.scorers[:2], "csp:gamma=0", "csp"]
    manifest["primary"] = "csp"
    manifest["neurons"]["skipped"] = {EVIL: 1}
    return replace(
        run,
        manifest=manifest,
        neurons=spoil(run.neurons, "name"),
        labels=spoil(run.labels, "name", "label", "concepts"),
        images=spoil(run.images, "id", "label"),
    )


# ---- what it says


def test_every_neuron_and_how_the_numbers_were_got(run: Run) -> None:
    found = Parsed(page(run))
    data = json.loads(found.data["data"])
    assert [row[0] for row in data["rows"]] == list(range(24))
    assert [row[2] for row in data["rows"][-3:]] == ["ok", "dead", "constant"]
    assert data["scorers"] == ["csp", "semanticlens", "clip_dissect", "csp:gamma=0"]
    by_hand = {(row["neuron"], row["scorer"]): row["label"] for row in run.labels.to_pylist()}
    for row in data["rows"]:
        assert row[3] == [by_hand[row[0], scorer] for scorer in data["scorers"]]
        assert row[5] == (None if row[3][0] is None else int(row[3][0] != row[3][3]))
    cosines = run.exemplars.filter(pc.field("neuron") == 3)["similarity"].to_numpy()
    assert data["rows"][3][8] == pytest.approx(np.nanmean(cosines), rel=1e-3)
    for said in (
        "torchvision:resnet50",
        "layer4",
        "pooling: mean",
        "open_clip:ViT-B-32/datacomp_xl_s13b_b90k",
        "photos/probe: 240 used, 2 skipped",
        "x/broken.jpg: image file is truncated",
        "words.txt: 15 concepts, asked as “{}”, “a photo of a {}”",
        "the 12 strongest images of each neuron",
        "1 constant (the same on every image), 1 dead (never active)",
        "drawn words stand in for an encoder here",
        "2 duplicates merged: red, blue",
        "torch 2.15.0",
        "All 22 labeled neurons with the first 10 of 12 pairs each",
    ):
        assert said in found.text, said
    assert "x/broken.jpg: x/broken.jpg" not in found.text


def test_a_card_holds_pairs_labels_and_what_contrast_changed(run: Run) -> None:
    text = page(run)
    card = text[text.index('id="n10"') : text.index('id="n11"')]
    own = run.neuron(10)
    assert own["labels"]["csp:gamma=0"]["label"] == "red"
    assert own["labels"]["csp"]["label"] == "striped", "the run itself shows what the page is for"
    words = Parsed(card).text
    assert "Contrast changed the label csp, γ = 0 red → csp, γ = 1 striped" in words
    assert card.count('<li><div class="positive"') == 10
    at = [card.index(f">cos {row['similarity']:.2f}<") for row in own["exemplars"][:1]]
    assert card.index('class="positive"') < at[0] < card.index('class="contrast" title')
    first = own["exemplars"][0]
    for said in (first["positive_id"], first["contrast_id"], f"{first['activation']:.2f}"):
        assert str(said) in card
    for scorer in run.scorers:
        top = list(zip(own["labels"][scorer]["concepts"], own["labels"][scorer]["scores"], strict=True))[:5]
        part = words[words.index(f" {scorer} ") :]
        assert all(f"{concept} {score:.2f}" in part or f"{concept} {score:.3f}" in part for concept, score in top)
    last = text[text.index('id="n3"') : text.index('id="n4"')]
    assert "none below the mean" not in last, "only the twelfth pair lacks a contrast, and ten are shown"
    whole = page(run, pairs=12)
    assert "none below the mean" in whole[whole.index('id="n3"') : whole.index('id="n4"')]


def test_kept_labels_and_other_scorers(run: Run) -> None:
    assert "Contrast kept the label csp, γ = 0 green = csp, γ = 1 green" in Parsed(page(run)).text

    def only(scorers: list[str]) -> str:
        return Parsed(page(replace(run, manifest={**run.manifest, "scorers": scorers, "primary": scorers[-1]}))).text

    assert "Contrast changed the label semanticlens red → csp, γ = 1 striped" in only(["semanticlens", "csp"])
    assert "Contrast changed the label" not in only(["semanticlens"])
    assert "Contrast changed the label csp, γ = 0 red → csp, γ = 1 striped" in only(
        ["csp", "csp:gamma=0", "clip_dissect"]
    )


def test_the_page_leads_with_the_clearest_changes(run: Run) -> None:
    text = page(run)
    strip = text[text.index('class="strip"') : text.index('class="overview"')]
    lead = varied(changes(run), 6)
    assert strip.count("<li><a ") == len(lead) > 0
    for change in lead:
        assert f'href="#n{change.neuron}"' in strip
        assert f"<del>{change.before}</del> <b>{change.after}</b>" in strip
        pair = telling_pairs(run.neuron(change.neuron)["exemplars"])[0]
        assert pair["positive_id"] in strip
        assert pair["contrast_id"] in strip
    assert lead[0].neuron in {row[0] for row in json.loads(Parsed(page(run, most=2)).data["data"])["rows"] if row[9]}
    assert 'class="strip"' not in page(replace(run, manifest={**run.manifest, "scorers": ["clip_dissect", "csp"]}))


def test_confidence_is_a_bar_with_its_word(run: Run) -> None:
    rows = [{**row, "confidence": 0.93 if row["label"] else None} for row in run.labels.to_pylist()]
    schema = pa.schema([*run.labels.schema, ("confidence", pa.float64())])
    sure = replace(run, labels=pa.Table.from_pylist(rows, schema))
    text = page(sure)
    assert '<span class="bar supported"><i class="w93"></i></span> 0.93 supported' in text
    data = json.loads(Parsed(text).data["data"])
    assert [one[:2] for one in data["extra"][:1]] == [[0.93, "supported"]]
    assert all(len(one[3]) == 4 for one in data["extra"][:22])


def test_pairs_beyond_the_first_are_in_the_page_where_they_fit(run: Run) -> None:
    whole = json.loads(Parsed(page(run)).data["data"])["more"]
    assert {len(pairs) for pairs in whole.values()} == {2}
    small = sum(len(base64.b64decode(p)) for p in json.loads(Parsed(page(run)).data["pictures"])) - 1
    assert json.loads(Parsed(page(run, budget=small)).data["data"])["more"] != whole


def test_null_tests_of_other_scorers_are_folded_away(run: Run) -> None:
    chance = {"fdr": 0.05, "fakes": 1000, "no label beats chance": dict.fromkeys(run.scorers, 0)}
    rows = [{**row, "p": 0.01, "fdr": 0.02} for row in run.labels.to_pylist()]
    labels = pa.Table.from_pylist(rows, pa.schema([*run.labels.schema, ("p", pa.float64()), ("fdr", pa.float64())]))
    found = Parsed(page(replace(run, labels=labels, manifest={**run.manifest, "chance": chance}))).text
    own = found.index("Null test null test of csp: no label")
    assert "null test of" not in found[own + 30 : found.index("Null tests of the other scorers 3")]


# ---- one file, same bytes, as small as asked


def test_same_run_same_bytes(run: Run, tmp_path: Path) -> None:
    saved = run.save(tmp_path / "run")
    path = write_report(saved)
    assert path == tmp_path / "run" / "report.html"
    first = path.read_bytes()
    assert write_report(load(tmp_path / "run"), tmp_path / "run").read_bytes() == first
    assert write_report(load(tmp_path / "run"), tmp_path / "x.html").read_bytes() == first


def test_nothing_is_asked_of_anybody(run: Run) -> None:
    text = page(run)
    found = Parsed(text)
    links = {a[k] for _, a in found.tags for k in ("src", "href", "action", "srcset", "poster") if k in a}
    assert {link for link in links if link and not link.startswith("#")} == {
        "data:,",
        "https://arxiv.org/abs/2604.22477",
    }
    assert "url(" not in found.data["style"]
    assert "@import" not in found.data["style"]
    assert not re.search(r"fetch\(|XMLHttpRequest|WebSocket|import\(|innerHTML|eval\(", found.data["script"])
    policy = found.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"] or ""
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for part in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(found.data[part].encode()).digest()).decode()
        assert f"{part}-src 'sha256-{digest}'" in policy
    assert not any("style" in attrs for _, attrs in found.tags), "the policy would ignore it"


def test_each_picture_is_there_once(run: Run) -> None:
    found = Parsed(page(run))
    pictures = json.loads(found.data["pictures"])
    assert len(set(pictures)) == len(pictures)
    later = [one for pairs in json.loads(found.data["data"])["more"].values() for one in pairs]
    asked = {one[side]["at"] for one in later for side in ("positive", "contrast") if "at" in one[side]}
    assert {int(a["data-p"] or "") for a in found.all("img")} | asked == set(range(len(pictures)))
    jpegs = set(run.thumbnails["jpeg"].to_pylist())
    assert {base64.b64decode(p) for p in pictures} <= jpegs
    used = {i for side in ("positive", "contrast") for i in run.exemplars[side].to_pylist() if i >= 0}
    assert len(pictures) == len({run.images["fingerprint"][i].as_py() for i in used})


def test_large_layers_show_some_neurons_evenly_spread(run: Run) -> None:
    found = Parsed(page(run, most=5, pairs=3))
    assert [a["id"] for a in found.all("section", **{"class": "neuron"})] == ["n0", "n5", "n10", "n16", "n21"]
    assert "5 of 22 labeled neurons, evenly spread" in found.text
    assert "the first 3 of 12 pairs each" in found.text
    rows = json.loads(found.data["data"])["rows"]
    assert len(rows) == 24
    assert [row[0] for row in rows if row[9]] == [0, 5, 10, 16, 21]
    none = Parsed(page(run, most=0))
    assert "No neuron is shown with pictures" in none.text
    assert json.loads(none.data["pictures"]) == []
    for budget in (200_000, 60_000, 10):
        kept = json.loads(Parsed(page(run, budget=budget)).data["pictures"])
        assert sum(len(base64.b64decode(p)) for p in kept) <= budget
        assert bool(kept) == (budget > 10)


def test_what_a_run_may_lack(run: Run) -> None:
    nothing = replace(
        run,
        manifest={**run.manifest, "neurons": {"selection": "all", "labeled": 0, "skipped": {"dead": 24}}},
        neurons=run.neurons.set_column(2, "status", pa.array(["dead"] * 24)),
        labels=run.labels.slice(0, 0),
        exemplars=run.exemplars.slice(0, 0),
        thumbnails=run.thumbnails.slice(0, 0),
    )
    found = Parsed(page(nothing))
    assert "No neuron has a label" in found.text
    assert {row[2] for row in json.loads(found.data["data"])["rows"]} == {"dead"}
    blind = Parsed(page(replace(run, thumbnails=run.thumbnails.slice(0, 0))))
    assert "no picture" in blind.text
    assert not blind.all("img")
    undefined = replace(run, neurons=run.neurons.set_column(5, "maximum", pa.array([float("nan")] * 24)))
    assert "NaN" not in Parsed(page(undefined)).data["data"]
    some = replace(
        run, labels=run.labels.filter(pc.field("neuron") != 4), exemplars=run.exemplars.filter(pc.field("neuron") != 4)
    )
    assert json.loads(Parsed(page(some)).data["data"])["rows"][4][2] == "not selected"


def test_errors_are_one_line(run: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="never saved; give a file for the report"):
        write_report(run)
    with pytest.raises(InputError, match="`most` must be at least 0"):
        write_report(run, tmp_path / "x.html", most=-1)
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot write"):
        write_report(run, tmp_path / "file" / "x.html")


def test_it_needs_no_torch(run: Run, tmp_path: Path) -> None:
    run.save(tmp_path / "run")
    code = (
        "import sys; from contralens.data.runs import load; from contralens.report.html import write_report;"
        f"write_report(load({str(tmp_path / 'run')!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_run_of_the_main_job(discs: Path, tmp_path: Path) -> None:
    from coloured import COLOURS, ColourEncoder, ColourNet, to_pixels

    import contralens

    done = contralens.label(
        ColourNet(),
        discs,
        ColourEncoder(),
        list(COLOURS),
        layer="relu",
        preprocess=to_pixels,
        k=5,
        out=tmp_path / "run",
    )
    found = Parsed(write_report(done).read_text(encoding="utf-8"))
    rows = json.loads(found.data["data"])["rows"]
    assert [(row[1], row[3][0]) for row in rows[:3]] == [(f"relu/{n}", COLOURS[c]) for n, c in enumerate((0, 1, 2))]
    assert [row[2] for row in rows[4:]] == ["dead", "constant"]
    assert len(found.all("section", **{"class": "neuron"})) == 4
    assert len(json.loads(found.data["pictures"])) == len({a["data-p"] for a in found.all("img")}) > 5


def test_exemplars_that_say_little_are_told(discs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from coloured import COLOURS, ColourEncoder, ColourNet, to_pixels

    import contralens
    from contralens.report.tables import neuron_table, summary

    options: dict[str, Any] = {"layer": "relu", "preprocess": to_pixels}
    few = contralens.label(ColourNet(), discs, ColourEncoder(), list(COLOURS), k=4, **options)
    assert few.manifest["notes"] == []
    run = contralens.label(ColourNet(), discs, ColourEncoder(), list(COLOURS), k=30, out=tmp_path / "run", **options)
    share, cold = run.manifest["notes"]
    assert share.startswith("the 30 exemplars of a neuron are 71% of the 42 images")
    own = {row["neuron"] for row in run.exemplars.to_pylist() if row["contrast"] == row["positive"] >= 0}
    assert own
    labeled = run.manifest["neurons"]["labeled"]
    assert cold.startswith(f"{len(own)} of {labeled} labeled neurons exceed their mean on fewer than 30 images")
    page = write_report(run).read_text()
    assert share in page
    assert cold in page
    assert page.count(">itself: already below the mean") == sum(
        row["contrast"] == row["positive"] >= 0 and row["rank"] < 10 for row in run.exemplars.to_pylist()
    )
    summary(run, None)
    assert f"note: {share}" in capsys.readouterr().out
    neuron_table(run, run.neuron(min(own)))
    assert "itself: already below the neuron's mean" in capsys.readouterr().out


# ---- attacks


def test_names_cannot_become_markup(run: Run, evil: Run) -> None:
    plain, spoilt = Parsed(page(run)), Parsed(page(evil))
    assert [t for t, _ in spoilt.tags if t == "script"] == ["script"] * 3
    assert not any(name.startswith("on") for _, attrs in spoilt.tags for name in attrs)
    assert {t for t, _ in spoilt.tags} <= {t for t, _ in plain.tags}
    assert all("src" not in a for a in spoilt.all("img"))
    assert "<" not in spoilt.data["data"]
    rows = json.loads(spoilt.data["data"])["rows"]
    assert rows[10][1] == "layer4/10" + EVIL
    assert rows[10][3][0] == "striped" + EVIL
    assert "striped" + " ".join(EVIL.split()) in spoilt.text, "shown as it is written"


# ---- in a browser


def browser() -> str:
    found = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
    if found is None:
        pytest.skip("no Chromium here (apt-get install chromium)")
    return found


FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]


@pytest.mark.parametrize("which", ["run", "evil"])
def test_a_browser_shows_every_picture_and_complains_of_nothing(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = write_report(request.getfixturevalue(which), tmp_path / "report.html")
    chromium = browser()
    with playwright.sync_playwright() as p:
        window = p.chromium.launch(executable_path=chromium, args=FLAGS)
        view = window.new_page()
        view.set_default_timeout(1000 * HUNG)
        complaints: list[str] = []
        view.on("console", lambda message: complaints.append(message.text))
        view.on("pageerror", lambda error: complaints.append(str(error)))
        view.goto(path.as_uri(), timeout=1000 * HUNG)
        every = "[...document.images].every((img) => img.complete && img.naturalWidth > 0)"
        told = "(([loaded, total]) => loaded === total)(document.documentElement.dataset.pictures.split('/'))"
        # Not `wait_for_function`, which the page's own Content Security Policy forbids.
        for _ in range(1200):
            if view.evaluate(f"{every} && {told}"):
                break
            view.wait_for_timeout(100)
        page, title = view.content(), view.title()
        window.close()
    assert not complaints
    found = Parsed(page)
    loaded, _, total = (found.all("html")[0]["data-pictures"] or "").partition("/")
    assert loaded == total == str(sum("data-p" in attrs for attrs in found.all("img")))
    assert int(total) == 22 * 20 + 2 * page.count('class="duo"')
    assert len(found.all("img")) == int(total) + 22 * 4, "four thumbnails in each row of the table"
    assert len(found.all("tr")) == 25
    assert title.startswith("torchvision:resnet50"), "an attack would have set it to one word"


def test_table_sorts_filters_and_fits_a_phone(run: Run, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = write_report(run, tmp_path / "report.html")
    chromium = browser()
    with playwright.sync_playwright() as p:
        window = p.chromium.launch(executable_path=chromium, args=FLAGS)
        view = window.new_page(viewport={"width": 390, "height": 844})
        asked: list[str] = []
        view.on("request", lambda r: asked.append(r.url))
        view.goto(path.as_uri())
        assert view.evaluate("document.documentElement.scrollWidth") == 390
        assert view.evaluate("document.querySelector('.scroll').scrollWidth") <= 364, "rows fit, too"
        names = "[...document.querySelectorAll('#rows tr td:first-child')].map(td => td.textContent)"
        assert view.evaluate(names) == [f"layer4/{n}" for n in range(24)]
        view.click("th:nth-child(3) button")
        scores = {row["neuron"]: row["score"] for row in run.rows("csp") if row["score"] is not None}
        best = sorted(scores, key=lambda n: -round(scores[n], 4))
        assert view.evaluate(names)[:3] == [f"layer4/{n}" for n in best[:3]]
        assert view.evaluate(names)[-2:] == ["layer4/22", "layer4/23"], "those without a score come last"
        view.click("th:nth-child(3) button")
        assert view.evaluate(names)[0] == f"layer4/{best[-1]}"
        assert view.get_attribute("th:nth-child(3)", "aria-sort") == "ascending"
        view.fill("#find", "red layer4/1")
        assert set(view.evaluate(names)) == {"layer4/10", "layer4/15"}
        assert view.text_content("#count") == "2 of 2 found (24 in all)"
        view.check("#changed")
        assert view.evaluate(names) == ["layer4/10"]
        assert view.evaluate("document.querySelector('#rows td.label').textContent") == "redstriped"
        assert not view.is_visible("td.other")
        view.check("#scorers")
        assert view.locator("td.other:visible").all_text_contents() == ["red", "red", "red"]
        view.uncheck("#scorers")
        button = "#n10 .all-pairs"
        assert view.text_content(button) == "Show all 12 pairs"
        view.click(button)
        assert view.locator("#n10 .pairs li").count() == 12
        assert view.evaluate("document.documentElement.scrollWidth") == 390
        view.fill("#find", "nothing such")
        assert view.text_content("#count") == "Nothing found."
        view.fill("#find", "")
        view.uncheck("#changed")
        view.select_option("#status", "dead")
        assert view.evaluate(names) == ["layer4/22"]
        view.select_option("#status", "")
        view.fill("#find", "layer4/10")
        view.click("#rows a")
        assert view.evaluate("document.querySelector('.neuron:target h3').textContent") == "layer4/10"
        # cards above are measured when they come near
        view.wait_for_function(
            "(y => 0 <= y && y < 100)(document.querySelector('.neuron:target').getBoundingClientRect().y)"
        )
        view.wait_for_function("(([a, b]) => a === b)(document.documentElement.dataset.pictures.split('/'))")
        assert view.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
        window.close()
