"""What objects show of themselves: a short line, pictures of bounded size, nothing of a stranger's that could run."""

from __future__ import annotations

import io
import subprocess
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from drawn import drawn_run
from PIL import Image

from contralens.data.audits import NEURONS, PRUNING, Audit
from contralens.data.audits import SCHEMAS as AUDITED
from contralens.data.card import card, png
from contralens.data.contrast_changes import changes, telling_pairs
from contralens.data.evaluations import SCHEMAS as EVALUATED
from contralens.data.evaluations import SUMMARY, VALUES, Evaluation
from contralens.data.runs import LABELS, Run
from contralens.data.verifications import SCHEMAS as TESTED
from contralens.data.verifications import Verification
from contralens.errors import InputError
from contralens.labeling.label import label

EVIL = "<script>alert(1)</script>\"'&"
MOST = 120_000
"""Bytes of HTML that one object may show."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A saved run whose labels, names and ids are hostile."""
    made = drawn_run()
    rows = made.labels.to_pylist()
    for row in rows:
        row["label"] = row["label"] and f"{row['label']}{EVIL}"
        row["confidence"] = None if row["label"] is None else 0.93
    ids = pa.array([f"{name}{EVIL}" for name in made.images["id"].to_pylist()])
    images = made.images.set_column(made.images.column_names.index("id"), "id", ids)
    made = replace(made, labels=pa.Table.from_pylist(rows, LABELS), images=images)
    return made.save(tmp_path_factory.mktemp("shown") / "run")


def audit_of(run: Run) -> Audit:
    rows = [
        {"neuron": n, "verdict": "spurious" if n % 2 else "expected", "concept": f"c{n}{EVIL}", "side": "spurious",
         "expected": 1.0, "spurious": 2.0 + n}
        for n in range(6)
    ]  # fmt: skip
    pruning = [{"group": f"all{EVIL}", "images": 9, "before": 0.5, "after": 0.75, "mode": "hard"}]
    assert run.path is not None
    return Audit(
        {"conclusion": f"prune{EVIL}", "warnings": []}, pa.Table.from_pylist(rows, NEURONS),
        AUDITED["influence"].empty_table(), pa.Table.from_pylist(pruning, PRUNING), np.ones(24, np.float32),
        path=run.path / "audit",
    )  # fmt: skip


def evaluation_of(run: Run) -> Evaluation:
    values = [{"neuron": n, "name": "", "scorer": "csp", "metric": "auc", "value": n / 9} for n in range(9)]
    summary = [{"scorer": "csp", "metric": "auc", "mean": 0.5, "low": 0.4, "high": 0.6, "neurons": 9}]
    assert run.path is not None
    return Evaluation(
        {"scorers": ["csp"]}, pa.Table.from_pylist(values, VALUES), pa.Table.from_pylist(summary, SUMMARY),
        EVALUATED["verdicts"].empty_table(), path=run.path / "evaluation",
    )  # fmt: skip


def verification_of(run: Run) -> Verification:
    rows = [{"neuron": 0, "label": "x", "outcome": "verified", "reason": f"it is{EVIL}"}]
    assert run.path is not None
    empty = [TESTED[name].empty_table() for name in ("edits", "pictures")]
    return Verification({}, pa.Table.from_pylist(rows, TESTED["labels"]), *empty, path=run.path / "verification")


def test_each_object_shows_pictures_in_a_bounded_page_in_which_nothing_can_run(run: Run) -> None:
    neuron = run[0]
    for found in (run, neuron, neuron["exemplars"], audit_of(run), evaluation_of(run), verification_of(run)):
        page = found._repr_html_()
        assert page.count('<img src="data:image/jpeg;base64,') >= 2, type(found)
        assert len(page) < MOST, type(found)
        assert "<script" not in page
        assert "&lt;script&gt;" in page


def test_each_object_is_one_short_line(run: Run) -> None:
    for found in (run, run[0], audit_of(run), evaluation_of(run), verification_of(run)):
        assert repr(found).startswith(type(found).__name__)
        assert len(repr(found)) < 400
        assert "\n" not in repr(found)
    assert "22 of 24 neurons labeled by csp" in repr(run)


def test_a_neuron_is_still_a_dictionary(run: Run) -> None:
    assert run[3]["neuron"] == run[run._ipython_key_completions_()[3]]["neuron"] == run.neuron("3")["neuron"] == 3
    assert isinstance(run[3], dict)
    assert {"name", "labels", "exemplars", "proposals"} <= set(run[3]._ipython_key_completions_())
    with pytest.raises(InputError, match="no neuron"):
        run["nobody"]


def test_ipython_completes_the_names_of_neurons(run: Run) -> None:
    shell = pytest.importorskip("IPython.core.interactiveshell", reason="needs IPython").InteractiveShell()
    shell.user_ns["run"] = run
    name = run.neurons["name"][7].as_py()
    found = shell.complete(f"run['{name[:-1]}")[1]
    assert any(name in one for one in found)


def test_show_is_text_outside_of_notebooks(run: Run) -> None:
    assert repr(run.show()).splitlines()[0].startswith("22 of 24 neurons")
    text = repr(run.show(0, 1))
    assert text.count("maximum") == 2
    assert run[0]["exemplars"][0]["positive_id"] in text


def test_tables_of_pandas(run: Run) -> None:
    pytest.importorskip("pandas", reason="needs the extra pandas")
    frame = run.to_pandas()
    assert list(frame["neuron"]) == list(range(24))
    assert frame["label"].notna().sum() == 22
    assert set(frame["scorer"].dropna()) == {"csp"}
    assert len(run.to_pandas("exemplars")) == run.exemplars.num_rows
    assert list(evaluation_of(run).to_pandas("summary")["mean"]) == [0.5]
    with pytest.raises(InputError, match="no table 'neuron'; did you mean neurons"):
        run.to_pandas("neuron")


# ---- what contrast changes


def test_changes_are_ordered_by_trust_then_by_the_vectors() -> None:
    run = drawn_run()
    found = changes(run)
    first = {row["neuron"]: row["label"] for row in run.rows("csp:gamma=0")}
    second = {row["neuron"]: row["label"] for row in run.rows("csp")}
    assert {c.neuron: (c.before, c.after) for c in found} == {
        n: (first[n], second[n]) for n in first if first[n] is not None and first[n] != second[n]
    }
    assert [c.strength for c in found] == sorted((c.strength for c in found), reverse=True)
    words = run.concepts["concept"].to_pylist()
    rows = {n: i for i, n in enumerate(dict.fromkeys(run.exemplars["neuron"].to_pylist()))}
    for change in found:
        a, b = (run.vectors[name][rows[change.neuron]].astype(float) for name in ("positive_mean", "contrast_mean"))
        plain, contrasted = a / np.linalg.norm(a), (a - b) / np.linalg.norm(a - b)
        old, new = (run.vectors["texts"][words.index(word)] for word in (change.before, change.after))
        assert change.strength == pytest.approx(plain @ old - plain @ new + contrasted @ new - contrasted @ old)
        assert change.strength >= 0  # either label wins where it was chosen


def test_the_most_telling_pair_is_alike_and_far_apart_in_activation(run: Run) -> None:
    rows = run[0]["exemplars"]
    best = telling_pairs(rows)[0]
    value = {r["rank"]: (r["activation"] - r["contrast_activation"]) * r["similarity"] for r in rows}
    assert value[best["rank"]] == max(v for v in value.values() if v == v)


# ---- the card


def test_a_card_shows_the_pictures_of_its_neuron(run: Run) -> None:
    image = run.plot(0, pairs=4)
    assert image.size == (1200, 630)
    assert len(png(image)) < 800_000
    assert run.plot(0, 1).size == (1200, 1260)
    paper = [np.asarray(card(run, 0, dark=dark))[0, 0].tolist() for dark in (False, True)]
    assert paper[0] == [255, 255, 255]
    assert max(paper[1]) < 60
    first = Image.open(io.BytesIO(run.thumbnail(run[0]["exemplars"][0]["positive"]) or b""))
    shown = np.asarray(image.crop((48, 208, 188, 348)).resize((16, 16)), float)
    assert np.abs(shown - np.asarray(first.convert("RGB").resize((16, 16)), float)).mean() < 12


def test_a_card_holds_any_label_and_says_what_is_wrong(run: Run) -> None:
    long = [{**row, "label": row["label"] and "große 猫 " * 40} for row in run.labels.to_pylist()]
    assert card(replace(run, labels=pa.Table.from_pylist(long, LABELS), path=None), 0).size == (1200, 630)
    none = [{**row, "label": None, "status": "dead"} for row in run.labels.to_pylist()]
    blank = replace(run, labels=pa.Table.from_pylist(none, LABELS), path=None)
    assert card(blank, 0).size == (1200, 630)
    with pytest.raises(InputError, match="no neuron of the run has a label"):
        card(blank)
    with pytest.raises(InputError, match="pairs"):
        card(run, 0, pairs=11)


def test_the_command_writes_the_card(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from contralens.commands.look import card_command

    assert run.path is not None
    card_command(run.path, "0", tmp_path / "card.png", 6, False)
    assert capsys.readouterr().out == f"wrote {tmp_path / 'card.png'}\n"
    assert (tmp_path / "card.png").read_bytes() == png(card(run, 0))


# ---- the explorer, and wrong arguments


def test_explore_starts_the_explorer_and_stops_it(run: Run) -> None:
    pytest.importorskip("fastapi", reason="needs the extra explore")
    with pytest.raises(InputError, match="never saved"):
        replace(run, path=None).explore()
    explorer = run.explore(read_only=True)
    try:
        assert explorer.address in explorer._repr_html_()
        with urllib.request.urlopen(explorer.address) as answer:
            assert answer.status == 200
    finally:
        explorer.stop()
    assert repr(explorer) == "Explorer(stopped)"


def test_an_explorer_that_cannot_start_says_why(run: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did not start: there is no run folder"):
        replace(run, path=tmp_path / "gone").explore()


@pytest.mark.parametrize(
    ("arguments", "words", "said"),
    [
        (("a", "b", "c", ["red"]), {"k": "ten"}, "`k` must be a whole number; got 'ten'"),
        (("a",), {"k": 3}, "`label` needs `images` and `encoder` and `vocabulary`"),
        (("a", "b"), {"images": "b", "encoder": "c", "vocabulary": "d"}, "multiple values for argument 'images'"),
    ],
)
def test_wrong_arguments_are_one_line(arguments: tuple[object, ...], words: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as e:
        label(*arguments, **words)  # type: ignore[arg-type]
    assert said in str(e.value)


def test_importing_a_run_loads_no_pandas_and_no_pillow() -> None:
    code = "import sys, contralens.data.runs; print([m for m in ('pandas', 'jinja2', 'torch') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
