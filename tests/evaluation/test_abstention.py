"""`contralens label --fdr`: "no label beats random images" is an answer in every output."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from contralens.bench.world_images import write_world
from contralens.cli import app
from contralens.data.answers import NO_LABEL
from contralens.data.runs import load
from contralens.evaluation.compare import compare
from contralens.explorer import overview, pages
from contralens.explorer.runs import OpenRun


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Folder with a run at `run`, and what the command printed: a table, and JSON the second time."""
    root = tmp_path_factory.mktemp("abstention")
    write_world(root, 2, 250)
    words = (root / "vocabulary.txt").read_text().splitlines()
    (root / "vocabulary.txt").write_text("\n".join(words[:5]))  # what most neurons detect has no word
    command = [
        "label", "--target", "world:2", "--encoder", "world", "--images", str(root / "images"), "--cache",
        str(root / "cache"), "--vocabulary", str(root / "vocabulary.txt"), "--scorer", "semanticlens",
        "--scorer", "csp", "--fdr", "0.05", "--fakes", "300", "--out", str(root / "run"),
    ]  # fmt: skip
    table = CliRunner().invoke(app, command)
    assert table.exit_code == 0, table.output
    as_json = CliRunner().invoke(app, [*command, "--json"])
    assert as_json.exit_code == 0, as_json.output
    return root, table.output, json.loads(as_json.stdout)


def refused(run):
    return [row for row in run.rows() if row["status"] == "chance"]


def test_tables_and_json_say_so(told) -> None:
    root, printed, found = told
    run = load(root / "run")
    assert 0 < len(refused(run)) < 64
    assert f"csp: {NO_LABEL} on {len(refused(run))} of " in printed
    assert "(chance)" in printed
    assert found["labels"] == run.labels.to_pylist()
    assert found["manifest"]["chance"]["no label beats chance"]["csp"] == len(refused(run))
    assert json.loads((root / "run" / "labels.json").read_text()) == run.labels.to_pylist()
    for row in run.rows():
        assert (row["label"] is None) == (row["status"] != "ok")
        assert row["status"] in ("dead", "constant") or (row["fdr"] > 0.05) == (row["status"] == "chance")
    assert all(0 < row["p"] <= 1 and 0 <= row["fdr"] <= 1 for row in run.rows() if row["fdr"] is not None)


def test_show_and_report_say_so(told) -> None:
    run = load(told[0] / "run")
    row = refused(run)[0]
    shown = CliRunner().invoke(app, ["show", str(run.path), str(row["neuron"])]).output
    assert NO_LABEL in shown
    assert f"null test: {row['concepts'][0]} rejected; p " in shown
    page = (run.path / "report.html").read_text()
    assert f"csp: {NO_LABEL} on {len(refused(run))} of " in page
    assert f"null test: {row['concepts'][0]} rejected; p " in page
    labeled = sum(r["label"] is not None for r in run.rows())
    assert f"<b>{labeled}</b> of 64 neurons labeled" in page


def test_the_explorer_says_so(told) -> None:
    run = load(told[0] / "run")
    opened = OpenRun("run", run.path)
    row = refused(run)[0]
    detail = pages.detail(opened, row["neuron"])
    own = next(labels for labels in detail["labels"] if labels["scorer"] == "csp")
    assert (own["status"], own["label"]) == ("chance", None)
    assert own["fdr"] == pytest.approx(row["fdr"], rel=1e-6)
    assert detail["status"] == "chance"
    index = overview.index(opened)
    found = [index["statuses"][s] for s in index["status"]]
    assert found.count("chance") == len(refused(run))
    assert overview.rows(opened, status="chance")["total"] == len(refused(run))


def test_who_abstains_differs_from_who_does_not(told) -> None:
    changes = compare([told[0] / "run"]).changes.to_pylist()
    assert any(row["changed"] and None in (row["one_label"], row["other_label"]) for row in changes)


@pytest.mark.parametrize("fdr", ["0", "1", "-0.1"])
def test_rates_that_are_none(told, fdr) -> None:
    done = CliRunner().invoke(app, ["label", "--target", "world:2", "--encoder", "world", "--images",
                                    str(told[0] / "images"), "--vocabulary", str(told[0] / "vocabulary.txt"),
                                    "--fdr", fdr, "--out", str(told[0] / "never")])  # fmt: skip
    assert done.exit_code != 0
    assert "`fdr` must lie between 0 and 1" in str(done.exception)
