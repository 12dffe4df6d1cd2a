"""Tables on a narrow terminal: names stay whole, one table compares, and the next step is told."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from coloured import COLOURS, ColourEncoder, ColourNet, to_pixels
from drawn import drawn_run

import contralens
from contralens.data.answers import trust
from contralens.data.runs import Run
from contralens.demo import SCORERS
from contralens.evaluation.compare import compare
from contralens.report.compare_tables import baseline, compare_tables
from contralens.report.tables import demo_table, labels_table, neuron_table, summary


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")


def long_names(run: Run) -> Run:
    """The run with names as long as those of transformers."""

    def longer(name: str) -> str:
        return f"vision_model.encoder.layers.11.mlp/{name}"

    tables = {}
    for table in ("neurons", "labels"):
        found = getattr(run, table)
        at = found.column_names.index("name")
        tables[table] = found.set_column(at, "name", [[longer(n) for n in found["name"].to_pylist()]])
    return replace(run, **tables)


def test_names_of_neurons_are_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    run = long_names(drawn_run())
    labels_table(run, most=5)
    shown = capsys.readouterr().out
    assert all(row["name"] in shown for row in run.rows()[:5])
    assert "…" not in shown
    assert run.manifest["primary"] in shown.splitlines()[0]
    assert "not shown to save space: semanticlens, clip_dissect" in shown


def test_all_scorers_are_shown_where_there_is_room(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    run = drawn_run()
    labels_table(run, most=5)
    assert capsys.readouterr().out.split("\n")[0].split() == ["neuron", *run.scorers, "score"]


def test_the_summary_says_what_comes_next_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = drawn_run().save(tmp_path / "a run")
    summary(run, None)
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("next:"))
    assert f"contralens explore '{tmp_path / 'a run'}'" in line
    assert {"evaluate,", "verify,"} <= set(line.split())


def test_a_comparison_of_many_is_one_table_against_the_primary(capsys: pytest.CaptureFixture[str]) -> None:
    run = drawn_run()
    found = compare([run])
    assert baseline(found) == "csp"
    compare_tables(found, most=3)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["csp", "semanticlens", "clip_dissect", "csp:gamma=0"]
    first, second = ({row["neuron"]: row["label"] for row in run.rows(s)} for s in ("csp", "semanticlens"))
    assert f"{sum(first[n] != second[n] for n in first)} of {len(first)}" in lines[2]
    compare_tables(found, most=0, pairs=True)
    assert len([line for line in capsys.readouterr().out.splitlines() if "changed their label" in line]) == 6


def test_the_demo_of_one_world_prints_its_columns_once(capsys: pytest.CaptureFixture[str]) -> None:
    def rows(worlds: tuple[int, ...]) -> list[dict[str, object]]:
        kinds = [f"world {w} {kind}" for w in worlds for kind in ("planted", "trained")]
        groups = [*kinds, "all planted", "all trained", "dominated planted", "dominated trained"]
        one = {"right": 1, "of": 2, "share": 0.5, "interval": [0.1, 0.9]}
        return [{"scorer": s, "neurons": g, **one} for s in SCORERS for g in groups]

    demo_table(rows((1,)))
    assert capsys.readouterr().out.count("clip_dissect_csp") == 1
    demo_table(rows((1, 2)))
    assert capsys.readouterr().out.count("clip_dissect_csp") == 2


def test_a_score_that_is_a_confidence_stands_once(discs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"layer": "relu", "preprocess": to_pixels, "k": 4, "scorers": ["csp", "auto"]}
    run = contralens.label(ColourNet(), discs, ColourEncoder(), list(COLOURS), **options)
    labels_table(run)
    assert capsys.readouterr().out.split("\n")[0].split() == ["neuron", "csp", "auto", "confidence"]
    row = next(row for row in run.rows("auto") if row["label"])
    assert row["score"] == row["confidence"]
    neuron_table(run, run.neuron(row["neuron"]))
    csp, auto = (line for line in capsys.readouterr().out.splitlines() if line.startswith(("csp ", "auto ")))
    number = r"\d\.\d+"
    assert len(re.findall(number, auto.split(trust(row))[0])) == 0, "the confidence alone"
    assert re.search(rf"{row['label']} +{number}", csp)
