"""FILE.py:NAME for every kind of plug, through the command line; and what names code in a file is not run unasked."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from coloured import draw_discs

import contralens
from contralens.cli import main
from contralens.data.evaluations import load_evaluation
from contralens.data.vocabulary import read_vocabulary
from contralens.encoders.registry import ENCODERS, encoder
from contralens.errors import InputError
from contralens.evaluation.measuring import METRICS, wanted_metrics
from contralens.evaluation.painters import painter
from contralens.loading.loaders import load
from contralens.math.scoring import parse_scorer
from contralens.proposing.proposers import proposer
from contralens.verifying.editors import EDITORS

OWN = Path(__file__).parent / "own_plugs.py"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures, own code, a key, and a run that the command line made of nothing else."""
    home = tmp_path_factory.mktemp("own")
    draw_discs(home / "pictures")
    shutil.copy(OWN, home / "mine.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("XDG_STATE_HOME", str(home / "state"))
        assert _run(
            "label --target mine.py:network:three --encoder mine.py:eyes:x?power=2 --vocabulary mine.py:words --k 4 "
            "--scorer mine.py:strongest:rank=1 --scorer csp --images pictures --holdout 0.4 --out run --cache cache"
        ) == 0  # fmt: skip
    return home


@pytest.fixture(autouse=True)
def _here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))


def _run(line: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["contralens", *line.split()])
        try:
            main()
        except SystemExit as e:
            return int(e.code or 0)
    return 0


def test_a_run_of_own_code_alone(home: Path) -> None:
    run = contralens.load("run")
    assert run.manifest["target"]["name"].startswith("mine.py:network:three")
    assert run.scorers == ["mine.py:strongest:rank=1", "csp"]
    assert {row["label"] for row in run.rows("mine.py:strongest:rank=1")} <= {"red", "green", "blue", "white"}
    assert run.trusted
    assert _run("show run 0") == 0
    assert _run("report run") == 0


def test_an_evaluation_by_own_code(home: Path) -> None:
    shutil.copytree("run", "judged")
    asked = "evaluate judged --metrics mine.py:hit_rate:k=3,pearson,auc --judge mine.py:eyes:x?power=2 --same-judge"
    assert _run(f"{asked} --painter mine.py:brush:any@size=6 --count 4 --fdr 0.5 --fakes 50 --cache cache") == 0
    found = load_evaluation("judged")
    assert found.manifest["metrics"] == ["mine.py:hit_rate:k=3", "pearson", "auc"]
    assert found.manifest["label_images"]["from"] == "mine.py:brush:any@size=6"
    assert {"mine.py:hit_rate:k=3"} < {row["metric"] for row in found.summary.to_pylist()}


def test_proposals_and_edits_by_own_code(home: Path) -> None:
    assert _run("propose run --proposer mine.py:namer:red --neurons 0 --cache cache") == 0
    assert "red" in Path("run.candidates/candidates.json").read_text()
    assert _run("verify run --editor mine.py:nothing --scorer csp --cache cache") == 0


def test_what_a_name_stands_for() -> None:
    assert read_vocabulary("mine.py:words:most=3").concepts == ["red", "green", "blue"]
    assert read_vocabulary("mine.py:words").source == "mine.py:words: Colours, few of them."
    assert encoder("module:mine.py:eyes:x?power=2").fingerprint == encoder("mine.py:eyes:y?power=2").fingerprint
    assert load("mine.py:network:a", None, None)[0].notes == ["channels of a"]
    assert isinstance(load("mine.py:build", None, None)[0].network, torch.nn.Sequential)
    assert parse_scorer("mine.py:strongest:rank=1") == ("mine.py:strongest", {"rank": 1})
    assert proposer("mine.py:namer:red", loud=True).name == "namer:RED"
    assert painter("mine.py:brush:x@size=3").paint("red", [0])[0].size == (3, 3)
    assert METRICS.make("mine.py:hit_rate:k=2").needs == ("activations", "predictions")
    assert wanted_metrics("mine.py:hit_rate:k=2,iou") == ["mine.py:hit_rate:k=2", "iou"]


@pytest.mark.parametrize(
    ("use", "says"),
    [
        (lambda: encoder("mine.py:eyes:x?powr=2"), "encoder 'mine.py:eyes' has no option 'powr'; did you mean power"),
        (lambda: encoder("mine.py:eyes:x?power=b"), "encoder 'mine.py:eyes': power must be a number; got 'b'"),
        (lambda: encoder("mine.py:yes:x"), "encoder mine.py:yes: there is no 'yes'; did you mean eyes"),
        (lambda: encoder("other.py:eyes:x"), "there is no file .*other.py"),
        (lambda: encoder("mine.py:brush:x"), "got Brush, which is missing width"),
        (lambda: encoder("mine.py:words:x"), "calling words failed"),
        (lambda: parse_scorer("mine.py:strongest:rnk=1"), "has no option 'rnk'; did you mean rank"),
        (lambda: parse_scorer("auto"), "'auto' chooses among labels of a run by their confidence"),
        (lambda: parse_scorer("strongst"), "unknown scorer 'strongst'; known: semanticlens; .*FILE.py:NAME"),
        (lambda: read_vocabulary("mine.py:words:most=x"), "most must be a whole number; got 'x'"),
        (lambda: wanted_metrics("mine.py:hit_rate:j=2"), "metric 'mine.py:hit_rate' has no option 'j'; it takes k"),
        (lambda: proposer("mine.py:namer:red", loud="perhaps"), "loud must be yes or no; got 'perhaps'"),
        (lambda: painter("mine.py:brush:x@sise=3"), "painter 'mine.py:brush' has no option 'sise'; did you mean size"),
        (lambda: EDITORS.make("mine.py:nothing?a=1", None), "'mine.py:nothing' has no option 'a'; it takes none"),
        (lambda: load("mine.py:network:x", None, "no.pt") and load("mine.py:wrk:x", None, None), "there is no 'wrk'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(use: object, says: str) -> None:
    with pytest.raises(InputError, match=says) as e:
        use()  # type: ignore[operator]
    assert "\n" not in str(e.value)


def test_code_that_changes_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "w.py").write_text("def f():\n    return ['a', 'b']\n")
    assert read_vocabulary(f"{tmp_path}/w.py:f").concepts == ["a", "b"]
    (tmp_path / "w.py").write_text("def f():\n    return ['a', 'b', 'c']\n")
    assert read_vocabulary(f"{tmp_path}/w.py:f").concepts == ["a", "b", "c"]


def test_plain_functions_in_every_dictionary(monkeypatch: pytest.MonkeyPatch) -> None:
    import own_plugs
    from plugged import keep

    keep(monkeypatch)
    ENCODERS["mine"] = own_plugs.eyes
    assert encoder("mine:x?power=2").width == 3
    METRICS.add(own_plugs.hit_rate)
    assert wanted_metrics("plugged in") == ["hit_rate"]
    assert METRICS.about("hit_rate").startswith("Share of the k images")
    contralens.SCORERS.add(own_plugs.strongest)
    assert parse_scorer("strongest:rank=2") == ("strongest", {"rank": 2})


@pytest.mark.parametrize(
    "line",
    [
        "target: mine.py:network:x",
        "encoder: mine.py:eyes",
        "vocabulary: mine.py:words",
        "scorers: [csp, mine.py:strongest]",
    ],
)
def test_a_settings_file_runs_no_code_unasked(line: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "settings.yaml").write_text(line + "\n")
    assert _run("label --config settings.yaml --images pictures --out other") == 2
    said = capsys.readouterr().err
    assert "--trust-code" in said
    assert said.count("\n") == 1


def test_a_run_from_elsewhere_runs_no_scorer_unasked(home: Path) -> None:
    shutil.rmtree("theirs", ignore_errors=True)
    shutil.copytree("run", "theirs")
    manifest = json.loads(Path("theirs/manifest.json").read_text())
    from contralens.data.seals import manifest_digest

    manifest["target"] |= {"spec": "world:1", "name": "world:1"}  # so that only the scorer is code
    manifest["digest"] = manifest_digest(manifest)
    Path("theirs/manifest.json").write_text(json.dumps(manifest))
    own = encoder("mine.py:eyes:x?power=2")
    asked = {"metrics": "audit", "fdr": 0.5, "fakes": 20, "encoder": own, "cache": "cache", "save": False}
    with pytest.raises(InputError, match=r"would run the code mine\.py:strongest:rank=1"):
        contralens.evaluate("theirs", **asked)
    assert contralens.evaluate("theirs", scorers=["csp"], **asked).verdicts.num_rows
