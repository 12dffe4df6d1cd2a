"""Who reads labels: after a strict evaluation and a person's correction all give the same answer."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from explorer_serving import serving
from typer.testing import CliRunner

import contralens
from contralens.bench.world_images import write_world
from contralens.cli import app
from contralens.data.answers import NO_LABEL
from contralens.data.final_labels import Judgements, final, final_labels
from contralens.data.notes import Notebook
from contralens.explorer.search import Finder

WORD = "a person's word"
Answer = tuple[str, str | None]
"""Status and label."""


def command(*words: Any) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.stdout


def asked(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read())


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A run that was evaluated strictly, and the address of an explorer of it and of the same run unjudged."""
    root = tmp_path_factory.mktemp("judged")
    write_world(root, 2, 250)
    words = (root / "vocabulary.txt").read_text().splitlines()
    (root / "vocabulary.txt").write_text("\n".join(words[:5]))  # what most neurons detect has no word
    given = ["--target", "world:2", "--encoder", "world", "--images", root / "images", "--cache", root / "cache",
             "--vocabulary", root / "vocabulary.txt", "--scorer", "semanticlens", "--scorer", "csp"]  # fmt: skip
    for name in ("run", "plain"):
        command("label", *given, "--out", root / name)
    command(
        "evaluate", root / "run", "--metrics", "audit", "--fdr", "0.05", "--fakes", "300", "--cache", root / "cache"
    )
    with serving([root / "run", root / "plain"], finder=Finder()) as url:
        yield root / "run", url


def turned_down(run: Path) -> list[int]:
    rows = contralens.data.evaluations.load_evaluation(run).verdicts.to_pylist()  # type: ignore[attr-defined]
    return [row["neuron"] for row in rows if row["scorer"] == "csp" and row["beats_chance"] is False]


def from_commands(run: Path, neurons: list[int], tmp: Path) -> dict[str, list[Answer]]:
    """What each command, and Python, says of the primary labels of some neurons."""
    found: dict[str, list[Answer]] = {}

    def of_rows(reader: str, rows: Sequence[dict[str, Any]]) -> None:
        by_neuron = {row["neuron"]: (row["status"], row["label"]) for row in rows}
        found[reader] = [by_neuron[n] for n in neurons]

    of_rows("Python", final(run).rows("csp"))
    of_rows("show", [json.loads(command("show", run, n, "--json"))["labels"]["csp"] for n in neurons])
    command("report", run, "--out", tmp / "report.html")
    data = json.loads(re.findall(r'id="data">(.*?)</script>', (tmp / "report.html").read_text())[0])
    csp = data["scorers"].index("csp")
    of_rows("report", [{"neuron": row[0], "status": row[2], "label": row[3][csp]} for row in data["rows"]])
    command("export-labels", run, "--out", tmp / "labels.json")
    of_rows("label file", json.loads(command("import-labels", tmp / "labels.json", "--json")))
    command("export", run, "--out", tmp / "site", "--notes")
    details = []
    for n in neurons:
        script = (tmp / "site" / "data" / "run" / f"neurons-{n // 16}.js").read_text()
        part = json.loads(json.loads(script.partition(", ")[2].rpartition(")")[0]))
        details.append(next(d for d in part if d["neuron"] == n))
    of_rows("export", [{"neuron": d["neuron"], **d["labels"][-1]} for d in details])
    compared = contralens.compare([run, run.parent / "plain"]).changes.to_pylist()
    labels = {row["neuron"]: row["one_label"] for row in compared}
    found["compare"] = [(status, labels[n]) for n, (status, _) in zip(neurons, found["Python"], strict=True)]
    return found


def from_explorer(url: str, neurons: list[int]) -> dict[str, list[Answer]]:
    """What each page of the explorer says of the primary labels of some neurons."""
    found: dict[str, list[Answer]] = {}
    details = [asked(f"{url}/api/runs/run/neurons/{n}") for n in neurons]
    assert [d["status"] for d in details] == [d["labels"][-1]["status"] for d in details]
    found["page"] = [(d["status"], d["labels"][-1]["label"]) for d in details]
    rows = {row["neuron"]: row for row in asked(f"{url}/api/runs/run/neurons?limit=1000")["rows"]}
    found["table"] = [(rows[n]["status"], rows[n]["label"]) for n in neurons]
    index = asked(f"{url}/api/runs/run/index")
    labels = next(s for s in index["scorers"] if s["scorer"] == "csp")["label"]
    at = [index["neuron"].index(n) for n in neurons]
    found["index"] = [
        (index["statuses"][index["status"][i]], None if labels[i] < 0 else index["labels"][labels[i]]) for i in at
    ]
    pairs = {pair["name"]: pair["a"] for pair in asked(f"{url}/api/compare?a=run&b=plain&changed=false")["changes"]}
    found["compare page"] = [(pairs[d["name"]]["status"], pairs[d["name"]]["label"]) for d in details]
    hits = {hit["neuron"]: hit["label"] for hit in asked(f"{url}/api/runs/run/search?text=red&limit=1000")["hits"]}
    found["search"] = [(d["status"], hits[d["neuron"]]) for d in details]
    return found


def test_every_reader_gives_the_same_answer(judged: tuple[Path, str], tmp_path: Path) -> None:
    run, url = judged
    said = {row["neuron"]: row["label"] for row in contralens.load(run).rows("csp")}
    down = turned_down(run)
    assert len(down) > 1
    neurons = [next(n for n, label in said.items() if label is not None and n not in down), *down[:2]]
    before = [("ok", said[neurons[0]]), ("chance", None), ("chance", None)]
    found = from_explorer(url, neurons)
    assert found == dict.fromkeys(found, before)

    note = asked(f"{url}/api/runs/run/notes", {"neuron": down[1], "kind": "label", "text": WORD})
    found = {**from_explorer(url, neurons), **from_commands(run, neurons, tmp_path)}
    assert found == {key: [*before[:2], ("corrected", WORD)] for key in found}
    detail = asked(f"{url}/api/runs/run/neurons/{down[1]}")["labels"][-1]
    assert (detail["best"], detail["score"], detail["why"][:21]) == (said[down[1]], None, "corrected by a person")
    assert NO_LABEL in command("show", run, down[0])
    assert WORD in command("show", run, down[1])
    sent = json.loads(_pushed(run, tmp_path).read_text())["neurons"][down[1]]["labels"][-1]
    assert (sent["label"], sent["status"]) == (None, "chance")  # what people wrote is not sent

    asked(f"{url}/api/runs/run/notes/remove", {"id": note["id"]})
    found = from_explorer(url, neurons)
    assert found == dict.fromkeys(found, before)


def _pushed(run: Path, tmp: Path) -> Path:
    command("push", run, tmp / "shared")
    command("pull", tmp / "shared", "--out", tmp / "pulled")
    assert (
        final(tmp / "pulled")
        .labels.select(["label", "best"])
        .equals(final(run, corrections=False).labels.select(["label", "best"]))
    )
    return tmp / "shared" / "labels.json"


def test_what_was_turned_down_stays_to_be_read(judged: tuple[Path, str]) -> None:
    run = judged[0]
    said, now = contralens.load(run), final(run)
    assert final(now) is now
    for before, after in zip(said.rows("csp"), now.rows("csp"), strict=True):
        assert (before["label"], before["concepts"]) == (after["best"], after["concepts"])
    row = now.neuron(turned_down(run)[0])["labels"]["csp"]
    assert row["why"].startswith("rejected by the null test of `evaluate --fdr 0.05`: false-discovery rate 0.")
    assert row["fdr"] > 0.05
    assert (row["score"], row["confidence"]) == (None, None)
    shown = command("show", run, row["neuron"])
    assert f"null test: {row['best']} rejected; p {row['p']:.2g}" in shown
    assert said.labels.equals(contralens.load(run).labels)  # the run itself is as it was labeled


def test_notes_of_another_run_correct_nothing(judged: tuple[Path, str]) -> None:
    run = judged[0]
    book = Notebook(run, writable=True)
    note = book.add(3, "another layer/3", "label", WORD)
    try:
        assert final(run).labels.equals(final(run, corrections=False).labels)
    finally:
        book.remove(note["id"])


def test_a_correction_of_a_neuron_that_was_not_labeled(judged: tuple[Path, str]) -> None:
    labels = contralens.load(judged[0]).labels.slice(0, 6)
    note = {"id": "1", "time": "2026-01-02T03:04:05Z", "neuron": 60, "name": "x/60", "kind": "label", "text": WORD}
    rows = final_labels(labels, "csp", Judgements(corrections={60: note})).to_pylist()[6:]  # type: ignore[dict-item]
    told = {row["scorer"]: (row["neuron"], row["status"], row["label"], row["best"]) for row in rows}
    assert told == {"csp": (60, "corrected", WORD, None), "semanticlens": (60, "not selected", None, None)}
