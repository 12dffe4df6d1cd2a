"""Who reads labels says what experiments on them came to, and the explorer makes experiments on request."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from patience import HUNG
from starlette.testclient import TestClient
from typer.testing import CliRunner

import contralens
from contralens.bench.world_images import write_world
from contralens.cli import app
from contralens.commands.verify import label_test
from contralens.data.final_labels import final
from contralens.data.notes import Notebook
from contralens.errors import RunError
from contralens.explorer.app import create_app
from contralens.explorer.export import export
from contralens.report.audit_page import audit_page
from contralens.report.html import page
from contralens.sharing.label_files import read_labels

HOST = "http://127.0.0.1"
NEURONS = list(range(12))


def command(*words: Any) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, tuple[str, str]]]:
    """A run with an audit, some of whose labels were put to the test; label and outcome of these neurons."""
    root = tmp_path_factory.mktemp("tested")
    write_world(root, 1, 300)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTRALENS_CACHE", str(root / "cache"))
        contralens.label(
            "world:1", root / "images", "world", root / "vocabulary.txt", layer="block3", k=10,
            scorers=["semanticlens", "csp"], out=root / "run", confidence=False,
        )  # fmt: skip
        found = contralens.verify(root / "run", neurons=NEURONS)
    outcomes = {row["neuron"]: (row["label"], row["outcome"]) for row in found.rows()}
    assert len({word for _, word in outcomes.values()}) > 1, "the case says something"
    return root / "run", outcomes


@pytest.fixture
def here(tested: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONTRALENS_CACHE", str(tested[0].parent / "cache"))
    return tested[0]


@pytest.fixture
def client(here: Path) -> Iterator[TestClient]:
    with TestClient(create_app([here], tester=label_test), base_url=HOST) as client:
        yield client


def test_every_reader_gives_the_same_outcome(tested, here, client, tmp_path) -> None:
    _, outcomes = tested
    rows = {row["neuron"]: row for row in final(here).rows("csp")}
    assert {n: (rows[n]["label"], rows[n]["verified"]) for n in outcomes} == outcomes
    assert all(row["verified"] is None for n, row in rows.items() if n not in outcomes)
    assert rows[0]["experiment"].endswith("(editor world)")
    shown = json.loads(command("show", here, 0, "--json"))["labels"]["csp"]
    assert (shown["verified"], shown["experiment"]) == (outcomes[0][1], rows[0]["experiment"])
    assert f"{rows[0]['experiment']}" in " ".join(command("show", here, 0).split())
    index = client.get("/api/runs/run/index").json()
    own = next(s for s in index["scorers"] if s["scorer"] == "csp")
    assert [own["verified"][n] for n in NEURONS] == [outcomes[n][1] for n in NEURONS]
    assert set(own["columns"]) >= {"removal", "insertion"}
    for word in ("verified", "refuted", "untested"):
        listed = client.get("/api/runs/run/neurons", params={"verified": word, "sort": "removal"}).json()["rows"]
        assert {row["neuron"] for row in listed} == {n for n, (_, found) in outcomes.items() if found == word}
    html = page(contralens.load(here)).partition("Neurons with their evidence")[2]
    for word in {word for _, word in outcomes.values()}:
        assert html.count(f'<b class="outcome {word}">') == sum(found == word for _, found in outcomes.values())
    command("export-labels", here, "--out", tmp_path / "labels.json")
    told = {n["neuron"]: next(x for x in n["labels"] if x["scorer"] == "csp")
            for n in read_labels(tmp_path / "labels.json").content["neurons"]}  # fmt: skip
    assert {n: told[n]["verified"] for n in outcomes} == {n: word for n, (_, word) in outcomes.items()}
    assert final(here).labels.to_pandas().set_index(["neuron", "scorer"]).verified[0, "csp"] == outcomes[0][1]


def test_an_outcome_belongs_to_a_label_whoever_gives_it(tested, here) -> None:
    _, outcomes = tested
    for row in final(here).rows("semanticlens"):
        label, word = outcomes.get(row["neuron"], (None, None))
        assert row["verified"] == (word if row["label"] == label else None)
    Notebook(here, writable=True).add(0, "block3/0", "label", "something else")
    try:
        row = final(here).rows("csp")[0]
        assert (row["label"], row["verified"]) == ("something else", None)
        assert final(here, corrections=False).rows("csp")[0]["verified"] == outcomes[0][1]
    finally:
        Path(f"{here}.notes.jsonl").unlink()


def test_a_neurons_page_has_pictures_with_activations(tested, here, client, tmp_path) -> None:
    found = contralens.load_verification(here)
    pictures = [row for row in found.pictures.to_pylist() if row["neuron"] == 1]
    detail = client.get("/api/runs/run/neurons/1").json()
    (one,) = detail["experiments"]
    assert {(round(e["was"], 3), round(e["became"], 3)) for e in one["edited"]} == {
        (round(row["was"], 3), round(row["became"], 3)) for row in pictures
    }
    assert all(e[side].startswith("data:image/jpeg;base64,") for e in one["edited"] for side in ("before", "after"))
    assert client.get("/api/runs/run/neurons/40").json()["experiments"] == []
    site = export([here], tmp_path / "site")
    text = (site / "data" / "run" / "neurons-0.js").read_text()
    told = json.loads(json.loads(re.fullmatch(r'contralensData\("[^"]+", (".*")\);\n', text)[1]))  # type: ignore[index]
    assert told[1]["experiments"] == detail["experiments"]


def test_an_audit_says_what_experiments_confirm_or_contradict(tested, here) -> None:
    _, outcomes = tested
    label = outcomes[1][0]
    contralens.audit(here, {"expected": ["striped"], "spurious": [label]}, fakes=50, sample=0)
    try:
        audit = contralens.load_audit(here)
        best = {row["neuron"]: row["best"] for row in audit.rows()}
        assert best[1] == label
        words = {"verified": "confirms it", "refuted": "contradicts it", "untested": "did not decide it"}
        said = f"n experiment {words[outcomes[1][1]]}"
        assert said in audit_page(contralens.load(here), audit, most=200)
        with TestClient(create_app([here], tester=label_test), base_url=HOST) as client:
            assert said in client.get("/api/runs/run/neurons/1").json()["audit"]["experiment"]
            whole = client.get("/api/runs/run/audit").json()
        assert said in whole["experiment"][whole["neuron"].index(1)]
    finally:
        shutil.rmtree(here / "audit")


def test_comparisons_and_pulled_runs_hold_them(tested, here, tmp_path) -> None:
    _, outcomes = tested
    told = contralens.compare([here]).to_dict()
    counts = {
        word: sum(found == word for _, found in outcomes.values()) for word in ("verified", "refuted", "untested")
    }
    assert told["experiments"]["csp"] == counts
    assert f"csp, labels tested: {counts['verified']} verified" in command("compare", here)
    for pictures in (False, True):
        where = contralens.push(here, tmp_path / f"shared-{pictures}", thumbnails=pictures)
        back = contralens.pull(where, tmp_path / f"pulled-{pictures}")
        assert final(back).rows("csp") == final(here, corrections=False).rows("csp")
        held = contralens.load_verification(back.path)
        assert (held.pictures.num_rows > 0) == pictures
    contralens.pull(where, tmp_path / "pulled-True")  # again: it came along


def test_a_button_tests_a_label_and_the_page_shows_it(here, client) -> None:
    body = {"neuron": 20, "label": "  a  striped thing "}
    started = client.post("/api/runs/run/verify", json=body).json()["job"]
    assert (started["neuron"], started["label"], started["state"]) == (20, "a striped thing", "running")
    again = client.post("/api/runs/run/verify", json=body)
    assert again.status_code == 422
    assert "is being tested: wait" in again.json()["error"]
    begun = time.monotonic()
    while (job := client.get("/api/runs/run/verify").json()["job"])["state"] == "running":
        assert time.monotonic() - begun < HUNG
        time.sleep(0.05)
    assert job["state"] == "done", job
    before = len(contralens.load_verification(here).rows())
    assert before == len(NEURONS) + 1, "what was tested before stays"
    time.sleep(0.6)  # longer than the explorer goes without a look at the folder
    assert [e["label"] for e in client.get("/api/runs/run/neurons/20").json()["experiments"]] == ["a striped thing"]
    for bad, code in (({"neuron": 999, "label": "red"}, 404), ({"neuron": 0, "label": " "}, 422),
                      ({"neuron": 0}, 422), ({"neuron": 0, "label": "x" * 401}, 422)):  # fmt: skip
        assert client.post("/api/runs/run/verify", json=bad).status_code == code, bad


def test_read_only_tests_nothing(here) -> None:
    with TestClient(create_app([here], read_only=True, tester=label_test), base_url=HOST) as client:
        refused = client.post("/api/runs/run/verify", json={"neuron": 0, "label": "red"})
        assert refused.status_code == 503
        assert "--read-only" in refused.json()["error"]
        assert client.get("/api/runs/run/verify").json() == {"job": None}
        assert client.get("/api/runs/run/neurons/1").json()["experiments"], "what there is is shown"


def test_experiments_on_another_network_or_damaged_ones_are_not_shown(here) -> None:
    found = contralens.load_verification(here)
    try:
        other = {**found.manifest, "target": "0" * 32}
        contralens.Verification(other, found.labels, found.edits, found.pictures).save(here)
        assert all(row["verified"] is None for row in final(here).rows("csp"))
        with TestClient(create_app([here], tester=label_test), base_url=HOST) as client:
            assert client.get("/api/runs/run/neurons/1").json()["experiments"] is None
            why = client.get("/api/runs").json()["runs"][0]["missing"]
        assert any("another network" in m["why"] for m in why)
        found.save(here)
        file = here / "verification" / "labels.parquet"
        table = pq.read_table(file)
        pq.write_table(table.set_column(3, "outcome", pa.array(["perhaps"] * len(table))), file)
        with pytest.raises(RunError, match="verification"):
            final(here)
        with TestClient(create_app([here], tester=label_test), base_url=HOST) as client:
            assert client.get("/api/runs/run/neurons/1").status_code == 200
    finally:
        shutil.rmtree(here / "verification")
        found.save(here)
