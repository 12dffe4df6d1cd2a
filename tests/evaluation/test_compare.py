"""Comparisons: paired and unpaired differences against a slow copy, changed labels, plots, and both commands."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from contralens.commands.evaluate import compare_command, evaluate_command
from contralens.data.runs import load
from contralens.errors import InputError
from contralens.evaluation.compare import TIE, compare
from contralens.evaluation.evaluate import evaluate
from contralens.math.intervals import difference_interval, mean_interval


@pytest.fixture(scope="module")
def evaluated(run, case):
    from colour_case import ColourEncoder, colour_target

    def judged(name, **changes):
        copy = replace(run, **changes).save(case / name)
        evaluate(
            copy, judge=ColourEncoder(1.5), heldout=case / "other", target=colour_target(), encoder=ColourEncoder(),
            source=case / "probe", cache=case / "cache",
        )  # fmt: skip
        return case / name

    rows = run.labels.to_pylist()
    for row in rows:
        if row["scorer"] == "csp" and row["neuron"] in (0, 1):
            row["label"], row["concepts"] = "black", ["black"]
    worse = type(run.labels).from_pylist(rows, schema=run.labels.schema)
    other = {**run.manifest, "target": {**run.manifest["target"], "fingerprint": "0" * 32, "layer": "elsewhere"}}
    manifest = {**run.manifest}
    return judged("good"), judged("worse", labels=worse, manifest=manifest), (other, run, case)


def test_scorers_of_one_run(evaluated):
    found = compare([evaluated[0]])
    assert [m.name for m in found.methods] == ["semanticlens", "csp:gamma=0.5", "csp"]
    run = load(evaluated[0])
    rows = [r for r in found.differences.to_pylist() if r["metric"] == "pearson" and r["other"] == "csp"]
    a, b = (found.methods[i].values("pearson") for i in (0, 2))
    difference = np.array([a[n] - b[n] for n in sorted(a)])
    row = rows[0]
    assert row["paired"]
    assert row["difference"] == pytest.approx(difference.mean())
    assert (row["win"], row["tie"], row["loss"]) == (
        (difference > TIE).sum(), (abs(difference) <= TIE).sum(), (difference < -TIE).sum()
    )  # fmt: skip
    assert row["low"] <= row["difference"] <= row["high"]
    labels = [{r["neuron"]: r["label"] for r in run.rows(s)} for s in ("semanticlens", "csp")]
    changed = sum(labels[0][n] != labels[1][n] for n in labels[0])
    assert found.to_dict()["labels"]["semanticlens | csp"] == {"changed": changed, "neurons": 9}


def test_two_runs_and_which_neurons_changed_meaning(evaluated, tmp_path):
    good, worse, _ = evaluated
    found = compare([good, worse], metrics=["pearson", "auc"])
    assert [m.name for m in found.methods] == ["good", "worse"]
    assert {r["name"] for r in found.to_dict()["changes"]} == {"1/0", "1/1"}
    pearson = found.differences.to_pylist()[0]
    assert (pearson["win"], pearson["tie"], pearson["loss"]) == (2, 6, 0)
    assert pearson["difference"] > 0
    written = found.save(tmp_path / "out")
    assert pq.read_table(tmp_path / "out" / "differences.parquet").equals(found.differences)
    json.loads(written[0].read_text(), parse_constant=lambda c: pytest.fail(c))
    pytest.importorskip("matplotlib")
    assert {p.name for p in written[1:]} == {"pearson.png", "auc.png"}
    found.save(tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="your files are not overwritten"):
        found.save(tmp_path / "mine")


def test_another_layer_is_not_paired(evaluated):
    good, _, (manifest, run, case) = evaluated
    elsewhere = replace(run, manifest=manifest).save(case / "elsewhere")
    (elsewhere.path / "evaluation").mkdir()
    for path in (good / "evaluation").iterdir():
        (elsewhere.path / "evaluation" / path.name).write_bytes(path.read_bytes())
    found = compare([good, elsewhere.path], metrics=["pearson"])
    row = found.differences.to_pylist()[0]
    assert row["paired"] is False
    assert row["win"] is None
    assert row["low"] < 0 < row["high"]
    assert found.changes.num_rows == 0
    checkpoint = {**run.manifest["target"], "fingerprint": "1" * 32}
    other = replace(run, manifest={**run.manifest, "target": checkpoint})
    assert compare([run, other]).changes.num_rows == 9, "another checkpoint of the same layer is paired"


def test_what_cannot_be_compared_is_told(evaluated, run):
    with pytest.raises(InputError, match="to compare"):
        compare([evaluated[0]], scorers=["csp"])
    with pytest.raises(InputError, match="`runs` is empty"):
        compare([])
    found = compare([run, evaluated[0]])
    assert "only labels are compared" in found.notes[0]
    assert found.differences.num_rows == 0
    with pytest.raises(InputError, match="did you mean pearson"):
        compare([evaluated[0]], metrics=["pearsn"])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-5, 5) | st.just(math.nan), max_size=30))
def test_intervals(values):
    found = mean_interval(values)
    told = [v for v in values if not math.isnan(v)]
    assert found.count == len(told)
    if not told:
        assert math.isnan(found.mean)
        return
    assert found.mean == pytest.approx(np.mean(told))
    if len(told) == 1:
        assert math.isnan(found.low)
    else:
        assert min(told) - 1e-9 <= found.low <= found.high <= max(told) + 1e-9
    zero = difference_interval(values, values)
    assert zero.mean == pytest.approx(0, abs=1e-12)


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    samples = rng.exponential(size=(200, 60))
    hits = [i.low <= 1 <= i.high for i in map(mean_interval, samples)]
    assert 0.88 <= np.mean(hits) <= 0.99
    apart = [difference_interval(s + 1, t[:40]) for s, t in zip(samples[:100], samples[100:], strict=True)]
    assert 0.88 <= np.mean([i.low <= 1 <= i.high for i in apart]) <= 1.0


@pytest.fixture
def app():
    made = typer.Typer()
    made.command("evaluate")(evaluate_command)
    made.command("compare")(compare_command)
    return made


def test_compare_command(app, evaluated, tmp_path):
    good, worse, _ = (str(p) for p in evaluated)
    shown = CliRunner().invoke(app, ["compare", good, worse, "--metrics", "pearson", "--out", str(tmp_path / "out")])
    assert shown.exit_code == 0, shown.output
    assert "2 of 9 neurons changed their label" in shown.output
    assert (tmp_path / "out" / "comparison.json").is_file()
    told = json.loads(CliRunner().invoke(app, ["compare", good, "--json"]).output)
    assert told["methods"] == ["semanticlens", "csp:gamma=0.5", "csp"]


def test_evaluate_command_says_what_is_missing(app, evaluated):
    outcome = CliRunner().invoke(app, ["evaluate", str(evaluated[0])])
    assert isinstance(outcome.exception, InputError)
    assert "a judge is missing" in str(outcome.exception)
    outcome = CliRunner().invoke(app, ["evaluate", str(evaluated[0]), "--gamma", "mine"])
    assert "layer, neuron" in str(outcome.exception)


def test_evaluate_command_prints_table_and_json(app, evaluated, case, monkeypatch):
    from colour_case import ColourEncoder, colour_target

    import contralens.evaluation.evaluate as module

    real = module.evaluate
    own = {"judge": ColourEncoder(1.5), "target": colour_target(), "encoder": ColourEncoder(), "cache": case / "cache"}
    monkeypatch.setattr(module, "evaluate", lambda *a, **k: real(*a, **{**k, **own}))
    command = ["evaluate", str(evaluated[0]), "--heldout", str(case / "other"), "--source", str(case / "probe"),
               "--fdr", "0.05", "--fakes", "50", "--metrics", "simulation,audit", "--meanings"]  # fmt: skip
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    assert "no label beats random images on" in shown.output
    assert "judge: colours:1.5" in shown.output
    told = json.loads(CliRunner().invoke(app, [*command, "--json"]).output)
    assert {row["metric"] for row in told["summary"]} >= {"pearson", "auprc", "redundancy"}
    assert told["verdicts"][0]["beats_chance"] in (True, False)
