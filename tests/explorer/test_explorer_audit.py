"""The audit in the explorer: its page says what `contralens audit` wrote, and a damaged audit is told in a line."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from audited_run import CONCEPTS, audited_run
from explorer_browsing import BROWSER, Watched, accessible_everywhere, axe_source
from explorer_serving import HOSTILE, HTTP, copied, serving
from older import as_older
from patience import HUNG
from pydantic import TypeAdapter

import contralens
from contralens.data.audits import margin
from contralens.data.runs import Run
from contralens.explorer import shapes
from contralens.explorer.audit_pages import MOST_CLASSES
from contralens.explorer.export import export
from contralens.report.audit_page import write_audit_page
from contralens.report.contrast_page import write_contrast_page
from contralens.report.html import write_report
from contralens.report.verify_page import write_verify_page

pytestmark = pytest.mark.slow
VERDICTS = ("spurious", "expected", "undecided", "unexplained")


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return audited_run(tmp_path_factory.mktemp("audited"))


@pytest.fixture
def own(audited: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be damaged: of format 1, whose files have no digests that would tell at once."""
    return as_older(shutil.copytree(audited, tmp_path / "run"))


def get(url: str, **query: Any) -> Any:
    answer = HTTP.get(url, params=query or None, timeout=HUNG)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_page_says_what_the_audit_wrote(audited: Path) -> None:
    wrote = contralens.load_audit(audited)
    with serving([audited]) as url:
        answer = HTTP.get(f"{url}/api/runs/run/audit", timeout=HUNG)
        told = TypeAdapter(shapes.Audit).validate_json(answer.content, strict=True)
        listed = get(f"{url}/api/runs")["runs"][0]
        one = told["neuron"][told["verdict"].index("spurious")]
        detail = TypeAdapter(shapes.Detail).validate_python(get(f"{url}/api/runs/run/neurons/{one}"))
    assert min(wrote.counts.values()) > 0, "the test's audit should find all kinds"
    assert listed["audit"] == {"concepts": CONCEPTS["title"], "counts": wrote.counts}
    assert "the audit" not in [m["what"] for m in listed["missing"]]
    assert told["warnings"] == wrote.warnings
    assert told["conclusion"] == wrote.conclusion != ""
    assert told["explanation"] == wrote.explanation
    assert told["new_head"] == []
    assert told["manifest"] == json.loads((audited / "audit" / "audit.json").read_text())
    rows = sorted(wrote.rows(), key=lambda r: r["neuron"])
    assert told["neuron"] == [r["neuron"] for r in rows]
    assert told["verdict"] == [r["verdict"] for r in rows]
    assert told["best"] == [r["best"] for r in rows]
    assert told["reason"] == [r["reason"] or None for r in rows]
    for name, values in told["columns"].items():
        expected = [margin(r) if name == "margin" else r[name] for r in rows]
        assert np.allclose([np.nan if v is None else v for v in values], expected, 1e-4, equal_nan=True), name
    assert told["classes"] == ["plain", "striped", "dotted", "checkered", "zigzag", "split"]
    moved = {(r["neuron"], r["class"]): r for r in wrote.influence.to_pylist()}
    for measure in ("head", "gradient", "ablation"):
        expected = [moved[n, c][measure] for n in told["neuron"] for c in told["classes"]]
        got = [np.nan if v is None else v for v in told["influence"][measure]]
        assert np.allclose(got, expected, 1e-4, 1e-6, equal_nan=True), measure
    assert None in told["influence"]["ablation"], "not all of the unexplained are switched off"
    assert [(p["group"], p["mode"]) for p in told["pruning"]] == [
        (p["group"], p["mode"]) for p in wrote.pruning.to_pylist()
    ]
    verdict = detail["audit"]
    assert verdict is not None
    assert (verdict["verdict"], verdict["best"]) == ("spurious", told["best"][told["neuron"].index(one)])
    sizes = [abs(c["ablation"] or 0) for c in verdict["influence"]]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == 6


def test_a_run_without_an_audit_says_how(finished: Run) -> None:
    assert finished.path
    with serving([finished.path]) as url:
        listed = get(f"{url}/api/runs")["runs"][0]
        answer = HTTP.get(f"{url}/api/runs/run/audit")
        assert get(f"{url}/api/runs/run/neurons/3")["audit"] is None
    assert listed["audit"] is None
    why = next(m["why"] for m in listed["missing"] if m["what"] == "the audit")
    assert "contralens audit RUN --concepts dermoscopy" in why
    assert (answer.status_code, answer.json()["error"]) == (404, why)


def change(table: str, how: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        file = run / "audit" / f"{table}.parquet"
        pq.write_table(how(pq.read_table(file)), file)

    return damage


def write(name: str, data: bytes | str) -> Callable[[Path], None]:
    return lambda run: (run / "audit" / name).write_bytes(data.encode() if isinstance(data, str) else data) and None


def column(name: str, value: Any, kind: pa.DataType | None = None) -> Callable[[pa.Table], pa.Table]:
    return lambda t: t.set_column(t.column_names.index(name), name, pa.array([value] * len(t), kind))


def cut(name: str) -> Callable[[Path], None]:
    return lambda run: os.truncate(run / "audit" / name, (run / "audit" / name).stat().st_size // 2)


def link(run: Path) -> None:
    (run.parent / "secret.json").write_text('{"format": 1}')
    (run / "audit" / "audit.json").unlink()
    (run / "audit" / "audit.json").symlink_to(run.parent / "secret.json")


def _put(run: Path, **values: Any) -> None:
    file = run / "audit" / "audit.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut neurons": (cut("neurons.parquet"), "neurons.parquet cannot be read"),
    "cut json": (cut("audit.json"), "audit.json cannot be read"),
    "no json": (lambda run: (run / "audit" / "audit.json").unlink(), "audit.json is missing"),
    "a list": (write("audit.json", "[1, 2]"), "it holds no object"),
    "deep": (write("audit.json", '{"a":' * 100_000), "audit.json cannot be read"),
    "no text": (write("audit.json", b"\xff\xfe{}"), "audit.json cannot be read"),
    "tomorrow's": (write("audit.json", '{"format": 4}'), "has format 4"),
    "other kinds": (
        lambda run: _put(run, warnings={"not": "a list"}, concepts=7),
        "audit.json is damaged or was edited",
    ),
    "a link": (link, "is a link out of the run folder"),
    "another verdict": (change("neurons", column("verdict", HOSTILE)), "no known verdict"),
    "no verdict": (change("neurons", column("verdict", None, pa.string())), "no known verdict"),
    "one neuron": (change("neurons", column("neuron", 3, pa.int32())), "no single neuron"),
    "words": (change("neurons", column("score", "high")), "neurons.parquet cannot be read"),
    "lists": (change("neurons", column("best", ["a", "b"])), "neurons.parquet cannot be read"),
    "no column": (change("neurons", lambda t: t.drop_columns(["fdr"])), "it has no column fdr"),
    "not a table": (write("neurons.parquet", b"PAR1" + bytes(100) + b"PAR1"), "neurons.parquet cannot be read"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_damaged_audit_is_told_in_a_line_and_the_rest_is_shown(own: Path, how: str) -> None:
    damage, says = BROKEN[how]
    damage(own)
    with serving([own]) as url:
        listed = get(f"{url}/api/runs")["runs"][0]
        answer = HTTP.get(f"{url}/api/runs/run/audit")
        detail = get(f"{url}/api/runs/run/neurons/3")
    assert (listed["problem"], listed["audit"], detail["audit"]) == (None, None, None)
    why = [m["why"] for m in listed["missing"] if m["what"] == "the audit"]
    assert len(why) == 1
    assert says in why[0]
    assert len(why[0].splitlines()) == 1
    assert (answer.status_code, answer.json()["error"]) == (404, why[0])
    assert detail["exemplars"]


def test_without_influence_or_pruning_the_verdicts_stand(own: Path) -> None:
    (own / "audit" / "influence.parquet").unlink()
    (own / "audit" / "pruning.parquet").write_bytes(b"nothing")
    with serving([own]) as url:
        told = get(f"{url}/api/runs/run/audit")
        missing = {m["what"]: m["why"] for m in get(f"{url}/api/runs")["runs"][0]["missing"]}
        assert get(f"{url}/api/runs/run/neurons/3")["audit"]["influence"] == []
    assert (told["classes"], told["influence"], told["pruning"]) == ([], {}, [])
    assert len(told["neuron"]) == 64
    assert "influence.parquet" in missing["what audited neurons do to the classes"]
    assert "pruning.parquet" in missing["the effect of pruning"]


def test_odd_values_in_an_audit_do_no_harm(own: Path) -> None:
    """Neurons the run lacks, numbers that are none, far more classes than a page can hold, halves of characters."""

    def more(table: pa.Table) -> pa.Table:
        names = [f"class {i}" for i in range(5000)]
        values = [float(i) for i in range(5000)]
        return pa.concat_tables([table, pa.table(
            [pa.array([3] * 5000, pa.int32()), names, values, [np.inf] * 5000, [np.nan] * 5000], schema=table.schema
        ), pa.table([pa.array([10**9], pa.int32()), ["plain"], [1.0], [1.0], [1.0]], schema=table.schema)])  # fmt: skip

    change("influence", more)(own)
    change("neurons", column("score", np.inf))(own)
    change("neurons", column("spurious", None, pa.float64()))(own)
    change("neurons", lambda t: t.set_column(0, "neuron", pa.array(range(40, 40 + len(t)), pa.int32())))(own)
    manifest = json.loads((own / "audit" / "audit.json").read_text())
    odd = json.dumps({**manifest, "warnings": [], "agreement": [], "concepts": {"title": ""}, "threshold": None})
    (own / "audit" / "audit.json").write_text(odd[:-1] + ', "x": NaN, "y": 1e999, "z": "\\ud800"}')
    whole = (own / "manifest.json").read_text().rstrip()
    (own / "manifest.json").write_text(whole[:-1] + ', "x": -Infinity, "z": "\\udc00"}')
    with serving([own]) as url:
        told = get(f"{url}/api/runs/run/audit")
        listed = get(f"{url}/api/runs")["runs"][0]
        assert get(f"{url}/api/runs/run/neurons/41")["audit"]["verdict"] in VERDICTS
    assert told["neuron"] == list(range(40, 64))
    assert set(told["columns"]["score"]) == {None}
    assert (told["manifest"]["x"], told["manifest"]["y"], told["manifest"]["z"]) == (None, None, "?")
    assert (len(told["classes"]), told["left_out"]) == (MOST_CLASSES, 5006 - MOST_CLASSES)
    assert told["warnings"] == []
    assert (listed["manifest"]["x"], listed["manifest"]["z"]) == (None, "?")
    assert sum(listed["audit"]["counts"].values()) == 24


def test_an_audit_made_while_the_run_is_shown_is_seen(audited: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(audited, run, ignore=shutil.ignore_patterns("audit"))
    with serving([run]) as url:
        before = get(f"{url}/api/runs")["runs"][0]
        assert before["audit"] is None
        contralens.load_audit(audited).save(run)
        for _ in range(3600):
            now = get(f"{url}/api/runs")["runs"][0]
            if now["audit"]:
                break
            time.sleep(0.1)
        assert now["audit"]["counts"] == contralens.load_audit(audited).counts
        assert now["stamp"] != before["stamp"]


@pytest.fixture
def watched(chromium: Any) -> Any:
    with Watched(chromium) as watched:
        yield watched


def walk(page: Any, address: str, wrote: contralens.Audit) -> None:
    """The audit's page, live or exported."""
    from playwright.sync_api import expect

    page.goto(f"{address}#/run/audit")
    for verdict in VERDICTS:
        expect(page.get_by_role("button", name=f"{wrote.counts[verdict]} {verdict}", exact=True)).to_be_visible()
    expect(page.get_by_role("heading", name="Caveats")).to_be_visible()
    expect(page.locator(".problem")).to_contain_text(wrote.warnings[0])
    expect(page.locator(".conclusion")).to_have_text(wrote.conclusion)
    expect(page.locator(".lead")).to_contain_text("against 400 fake neurons")
    rows = page.locator(".audited-row")
    influence: dict[int, dict[str, float]] = {}
    for r in wrote.influence.to_pylist():
        value = next((r[k] for k in ("ablation", "gradient", "head") if r[k] == r[k]), 0.0)
        influence.setdefault(r["neuron"], {})[r["class"]] = value

    page.get_by_role("button", name=re.compile("spurious$")).first.click()
    expect(page).to_have_url(re.compile("verdict=spurious"))
    spurious = [r["neuron"] for r in wrote.rows("spurious")]
    expect(rows).to_have_count(len(spurious))
    first = max(spurious, key=lambda n: (max(abs(v) for v in influence[n].values()), -n))
    name, value = max(influence[first].items(), key=lambda item: abs(item[1]))
    expect(rows.first).to_have_attribute("data-neuron", str(first))
    expect(rows.first).to_contain_text(f"moves {name} {'−' if value < 0 else '+'}{abs(value):.2f} by ablation")
    expect(rows.first.locator(".mark.ablation")).to_have_count(2)  # its score, and its influence
    expect(rows.first.locator(".mark.gradient, .mark.head")).to_have_count(2)
    expect(rows.first.locator(".positives img, .contrasts img")).to_have_count(8)

    page.get_by_label("Class").select_option("zigzag")
    by_zigzag = sorted(spurious, key=lambda n: (-abs(influence[n]["zigzag"]), n))
    expect(rows.first).to_have_attribute("data-neuron", str(by_zigzag[0]))
    expect(rows.first).to_contain_text("zigzag ")
    page.get_by_label("Sort by").select_option("margin")
    expect(rows.first).to_have_attribute("data-neuron", str(spurious[0]))
    concept = Counter(r["best"] for r in wrote.rows("spurious")).most_common(1)[0][0]
    page.get_by_label("Concept").select_option(concept)
    own = [r["neuron"] for r in wrote.rows("spurious") if r["best"] == concept]
    assert len(own) > 1
    expect(rows).to_have_count(len(own))

    rows.nth(1).get_by_role("link").click()  # to the neuron, its neighbours in the list, and back
    expect(page).to_have_url(re.compile(f"/n/{own[1]}$"))
    line = page.locator(".verdict-line")
    expect(line).to_contain_text(re.compile(f"spurious.*stands for {concept}"))
    expect(page.get_by_role("region", name="Effect on the classes").locator("li")).to_have_count(6)
    page.keyboard.press("ArrowLeft")
    expect(page).to_have_url(re.compile(f"/n/{own[0]}$"))
    page.keyboard.press("Escape")
    expect(page).to_have_url(re.compile(f"audit.*concept={concept}"))
    expect(rows).to_have_count(len(own))
    page.get_by_role("button", name="show all", exact=True).click()
    expect(rows).to_have_count(sum(min(6, count) for count in wrote.counts.values()))

    effect = page.get_by_role("region", name="Effect of pruning")
    groups = [r for r in wrote.pruning.to_pylist() if r["mode"] != "random"]
    expect(effect.locator("li:not(.scale)")).to_have_count(len(groups))
    whole = next(r for r in groups if r["group"] == "all")
    expect(effect.locator("li:not(.scale)").first).to_contain_text(
        f"{100 * whole['before']:.1f} % → {100 * whole['after']:.1f} %"
    )
    untied = effect.locator("li", has_text="background: untied")
    expect(untied.locator(".whisker")).to_have_count(2)
    page.get_by_text("The complete audit.json").click()
    expect(page.locator(".provenance").last).to_contain_text("permuted")


class TestInTheBrowser:
    pytestmark = BROWSER

    def test_live(self, watched: Any, audited: Path) -> None:
        with serving([audited]) as url:
            walk(watched.page, f"{url}/", contralens.load_audit(audited))
            watched.page.get_by_role("link", name="About").click()
            watched.page.get_by_role("link", name="To the audit").click()
            watched.page.get_by_role("heading", name="Audit", level=1).wait_for()
            assert watched.outside(url) == []
        assert watched.problems == []

    def test_exported(self, watched: Any, audited: Path, tmp_path: Path) -> None:
        site = export([audited], tmp_path / "site")
        walk(watched.page, (site / "index.html").as_uri(), contralens.load_audit(audited))
        assert watched.outside(site.as_uri()) == []
        assert watched.problems == []
        told = "".join(p.read_text() for p in (site / "data").rglob("*.js"))
        assert str(audited.parent) not in told

    def test_keyboard_alone(self, watched: Any, audited: Path) -> None:
        from playwright.sync_api import expect

        with serving([audited]) as url:
            page = watched.page
            page.goto(url)
            page.locator(".card").first.wait_for()
            page.keyboard.press("5")
            page.locator(".audited-row").first.wait_for()
            page.keyboard.press("/")
            expect(page.get_by_label("Concept")).to_be_focused()
            for _ in range(20):
                page.keyboard.press("Tab")
                if page.evaluate("document.activeElement.closest('.audited-row') !== null"):
                    break
            neuron = page.locator(".audited-row").first.get_attribute("data-neuron")
            page.keyboard.press("Enter")
            expect(page).to_have_url(re.compile(f"/n/{neuron}$"))
            page.locator(".verdict-line").wait_for()
            page.keyboard.press("Escape")
            expect(page).to_have_url(re.compile("/audit$"))
        assert watched.problems == []

    def test_it_fits_and_is_accessible(self, chromium: Any, audited: Path) -> None:
        axe = axe_source()
        if axe is None:
            pytest.skip("no axe-core here: pip install axe-playwright-python, or npm install in explorer-ui")
        with serving([audited]) as url, Watched(chromium) as watched:
            for path in ("audit", "audit?verdict=unexplained&sort=z", "n/3", "about"):
                watched.page.goto(f"{url}/#/run/{path}")
                watched.page.reload()
                watched.page.wait_for_load_state("networkidle")
                watched.page.locator("main h1").wait_for()
                accessible_everywhere(watched.page, axe)
            assert watched.problems == []

    def test_markup_in_an_audit_is_shown_as_text(self, watched: Any, own: Path) -> None:
        change("neurons", column("best", HOSTILE))(own)
        change("influence", column("class", HOSTILE))(own)
        change("pruning", column("group", HOSTILE))(own)
        manifest = json.loads((own / "audit" / "audit.json").read_text())
        manifest = {**manifest, "warnings": [HOSTILE], "scorer": HOSTILE, "concepts": {"title": HOSTILE}}
        (own / "audit" / "audit.json").write_text(json.dumps({**manifest, "agreement": {HOSTILE: {"pairs": HOSTILE}}}))
        with serving([own]) as url:
            page = watched.page
            for path in ("audit", "n/3", "about"):
                page.goto(f"{url}/#/run/{path}")
                page.reload()
                page.wait_for_load_state("networkidle")
                page.get_by_text(HOSTILE).filter(visible=True).first.wait_for()
                assert page.evaluate("window.hacked") is None
                assert page.locator("main img[src=x], main script").count() == 0
        assert watched.problems == []

    def test_a_run_without_an_audit(self, watched: Any, finished: Run, tmp_path: Path) -> None:
        with serving([copied(finished, tmp_path / "run")]) as url:
            watched.page.goto(f"{url}/#/run/audit")
            watched.page.get_by_text("contralens audit RUN --concepts dermoscopy").wait_for()
        assert watched.problems == []


@pytest.fixture(scope="module")
def pages(audited: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The pages that commands write, each one file."""
    home = tmp_path_factory.mktemp("pages")
    run = contralens.load(shutil.copytree(audited, home / "run"))
    classes = contralens.contrast_classes(
        run, "striped", "dotted", words=True, cache=audited.parent / "cache", describe=6
    )
    contralens.verify(run, neurons=list(range(6)), images=3, cache=audited.parent / "cache")
    return [
        write_report(run, home / "report.html"), write_audit_page(run, out=home / "audit.html"),
        write_contrast_page(run, classes, home / "contrast.html"), write_verify_page(run, out=home / "verify.html"),
    ]  # fmt: skip


class TestWrittenPages:
    pytestmark = BROWSER

    def test_they_fit_and_are_accessible(self, chromium: Any, pages: list[Path]) -> None:
        axe = axe_source()
        if axe is None:
            pytest.skip("no axe-core here: pip install axe-playwright-python, or npm install in explorer-ui")
        with Watched(chromium, bypass_csp=True) as watched:
            for path in pages:
                watched.page.goto(path.as_uri())
                watched.page.wait_for_load_state("networkidle")
                accessible_everywhere(watched.page, axe)
            assert watched.problems == []
