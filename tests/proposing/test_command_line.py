"""Proposals as a user meets them: the command line, a real server that looks, a network whose maps give the focus."""

from __future__ import annotations

import importlib.util
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from contralens.bench.world_images import write_world
from contralens.cli import main
from contralens.data.runs import load

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "proposals.py"
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    def called(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["contralens", *map(str, args)])
        with warnings.catch_warnings(), pytest.raises(SystemExit) as stopped:
            main()
        code = stopped.value.code
        out, err = capsys.readouterr()
        return code if isinstance(code, int) else 0, out, err

    return called


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """World 1 with a vocabulary that lacks what its neurons are tuned to."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, 1, n=150)
    (folder / "shapes.txt").write_text("circle\nsquare\nlarge objects\nsmall objects\n")
    return folder


@pytest.fixture(scope="module")
def looker() -> Iterator[Any]:
    """The benchmark's server, which answers from the pixels of the grids."""
    spec = importlib.util.spec_from_file_location("proposals_benchmark", BENCHMARK)
    if spec is None or spec.loader is None or not BENCHMARK.is_file():
        pytest.skip("this tree holds no benchmarks")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    eyes = module.Looker()
    asked: list[int] = []
    answer = eyes.answer
    eyes.answer = lambda body: asked.append(1) or answer(body)
    server = module.serve(eyes)
    server.asked, server.keys = asked, []
    handle = server.RequestHandlerClass.do_POST

    def noted(handler: Any) -> None:
        server.keys.append(handler.headers["Authorization"])
        handle(handler)

    server.RequestHandlerClass.do_POST = noted
    server.spec = f"openai:looker@http://127.0.0.1:{server.server_address[1]}/v1"
    yield server
    server.shutdown()
    server.server_close()


def settings(world: Path, out: Path) -> list[object]:
    return [
        "--target", "world:1", "--encoder", "world", "--images", world / "images", "--vocabulary",
        world / "shapes.txt", "--out", out, "--cache", world / "cache", "--k", 6, "--neurons", "1,4-5,8",
    ]  # fmt: skip


ASKING = ["--propose", "cell=112", "--propose", "workers=1", "--propose", "price=1/4"]


def test_label_asks_and_tells_where_each_label_came_from(
    command: Command, looker: Any, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "sk-command-line-0815"
    monkeypatch.setenv("CONTRALENS_API_KEY", key)
    given = [*settings(world, tmp_path / "run"), "--proposer", looker.spec, *ASKING]
    code, out, err = command("label", *given)
    assert code == 0, err
    assert "4 neurons: 0 answered already, 4 questions to ask" in err
    assert "at most 0.0" in err
    assert f"proposed by {looker.spec} (contrastive prompt) for 4 neurons; scored for all neurons" in out
    assert "✦" in out
    run = load(tmp_path / "run")
    proposed = set(run.candidates["concept"].to_pylist())
    assert proposed
    labels = {row["neuron"]: row["label"] for row in run}
    own = [n for n, label in labels.items() if label in {p["concept"] for p in run.proposals(n)}]
    assert own, "no neuron got a label proposed for it"
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Proposed for this neuron" in page
    assert "✦ marks concepts that were proposed" in page
    code, out, _ = command("show", tmp_path / "run", own[0])
    assert code == 0
    assert f"{labels[own[0]]}: proposed for this neuron" in out
    reply = next(line for line in out.splitlines() if line.startswith("the reply and its pictures: "))
    record = json.loads(Path(reply.partition(": ")[2]).read_text())
    assert [p["group"] for p in record["pictures"]] == ["positives", "contrasts"]
    told = json.loads(command("show", tmp_path / "run", own[0], "--json")[1])
    assert told["labels"]["csp"]["proposed"][0]["model"] == looker.spec
    assert [p["place"] for p in told["proposals"]] == [0, 1, 2]

    assert key in looker.keys[-1]
    for path in [*tmp_path.rglob("*"), *world.rglob("*")]:
        assert not path.is_file() or key.encode() not in path.read_bytes(), path
    assert key not in out + err

    asked = len(looker.asked)
    code, _, err = command("label", *given, "--own-only")
    assert code == 0, err
    assert len(looker.asked) == asked  # every reply was kept
    again = load(tmp_path / "run")
    vocabulary = {"circle", "square", "large objects", "small objects"}
    for row in again:
        assert set(row["concepts"]) <= vocabulary | {p["concept"] for p in again.proposals(row["neuron"])}
    code, out, err = command("label", *settings(world, tmp_path / "two"), "--candidates", tmp_path / "run.candidates")
    assert code == 0, err
    assert [row["label"] for row in load(tmp_path / "two")] == [labels[n] for n in sorted(labels)]


def test_a_config_file_says_how_to_ask(command: Command, looker: Any, world: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        f"proposer: {looker.spec}\npropose:\n  cell: 112\n  workers: 1\n  prompt: positives\n  focus: mask\n"
    )
    code, out, err = command("label", "--config", config, *settings(world, tmp_path / "run"))
    assert code == 0, err
    made = load(tmp_path / "run").manifest["candidates"]
    assert (made["prompt"], made["pictures"]["focus"], made["pictures"]["cell"]) == ("positives", "mask", 112)
    assert "(positives prompt)" in out


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--proposer", "openai:m@http://127.0.0.1:9/v1", "--propose", "retries=0"], "no connection"),
        (["--proposer", "opnai:m"], "did you mean openai"),
        (["--proposer", "hf:"], "needs a model"),
        (["--propose", "focus=crop"], "--propose needs --proposer"),
        (["--proposer", "captions:world", "--propose", "focs=crop"], "did you mean focus"),
        (["--proposer", "captions:world", "--propose", "show=many"], "a whole number"),
        (["--proposer", "captions:world", "--propose", "show"], "is NAME=VALUE"),
        (["--proposer", "captions:world", "--candidates", "."], "give one of the two|no candidates in"),
        (["--candidates", "nowhere"], "no candidates in nowhere"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(
    command: Command, world: Path, tmp_path: Path, more: list[str], says: str
) -> None:
    code, out, err = command("label", *settings(world, tmp_path / "run"), *more)
    assert (code, out) == (2, "")
    assert any(part in err.splitlines()[-1] for part in says.split("|")), err
    assert not (tmp_path / "run").exists()


def test_propose_finds_the_images_and_focuses_on_where_a_neuron_fires(
    command: Command, looker: Any, world: Path, tmp_path: Path
) -> None:
    command("label", *settings(world, tmp_path / "run"), "--no-report")
    base = ["propose", tmp_path / "run", "--proposer", looker.spec, "--cache", world / "cache", "--neurons", 5]
    asked = len(looker.asked)
    pictures = {}
    for focus in ("crop", "mask", None):
        out = tmp_path / str(focus)
        more = ["--focus", focus] if focus else []
        code, text, err = command(*base, *more, "--cell", 112, "--show", 4, "--dry-run", "--out", out)
        assert code == 0, err
        assert "1 question to ask" in err
        assert "thumbnails" not in err  # the images are where they were
        assert "Group B" in text
        page = (out / "dry-run" / "question.html").read_text()
        assert page.count("data:image/jpeg;base64,") == 2
        pictures[focus] = (out / "dry-run" / "0-positives.jpg").read_bytes()
    assert len(set(pictures.values())) == 3
    assert len(looker.asked) == asked
    code, _, err = command(*base, "--focus", "blur")
    assert code == 2
    assert "crop, mask" in err
    told = json.loads(command(*base, "--dry-run", "--json", "--out", tmp_path / "j")[1])
    assert told["manifest"]["dry_run"]["pictures"]
    (world / "images").rename(world / "moved")
    try:
        assert "thumbnails" in command(*base, "--dry-run", "--out", tmp_path / "t")[2]
        again = command(*base, "--dry-run", "--out", tmp_path / "t", "--images", world / "moved")
        assert "thumbnails" not in again[2]
    finally:
        (world / "moved").rename(world / "images")


def test_a_caption_bank_says_what_it_would_do(command: Command, world: Path, tmp_path: Path) -> None:
    command("label", *settings(world, tmp_path / "run"), "--no-report")
    base = ["propose", tmp_path / "run", "--proposer", "captions:world", "--cache", world / "cache"]
    code, _, err = command(*base, "--dry-run")
    assert code == 0
    assert "4 neurons; 38 captions" in err
    assert not (tmp_path / "run.candidates").exists()
    code, _, err = command(*base, "--contrast", "falcon", "--groups", "1,4;5")
    assert code == 0, err
    found = json.loads((tmp_path / "run.candidates" / "candidates.json").read_text())
    assert found["manifest"]["groups"] == [[1, 4], [5]]
    assert found["concepts"]
    code, _, err = command(*base, "--groups", "auto", "--out", tmp_path / "auto")
    assert code == 2
    assert "groups of neurons fire together on more than 10 images, none of them" in err
    listed = command("proposers", "--json")[1]
    assert len(json.loads(listed)) == 3


def test_granularity_tells_where_the_evidence_stops(command: Command, world: Path, tmp_path: Path) -> None:
    command("label", *settings(world, tmp_path / "run"), "--no-report")
    (tmp_path / "index.noun").write_text(
        "  1 a licence line\n"
        + "".join(f"{w} n 1 1 @ 1 0 00000200\n" for w in ("circle", "square", "objects"))
        + "red n 1 1 @ 1 0 00000300\n"
    )
    (tmp_path / "data.noun").write_text(
        "00000200 03 n 01 circle 0 001 @ 00000300 n 0000 | something with an outline\n"
        "00000300 03 n 01 zyxt 0 000 | a word that the encoder does not read\n"
    )
    base = ["granularity", tmp_path / "run", "--wordnet", tmp_path, "--cache", world / "cache"]
    code, out, err = command(*base)
    assert code == 0, err
    assert "something with" in out
    assert "-: the encoder does not read this concept" in out
    assert "4 of 4 labels are known to WordNet" in out
    found = json.loads(command(*base, "--neurons", "4,8", "--json")[1])
    assert [entry["neuron"] for entry in found] == [4, 8]
    for entry in found:
        read = [step for step in entry["chain"] if step["holds"] is not None]
        held = [step["concept"] for step in read if step["holds"]]
        assert entry["chain"][-1]["score"] is None
        assert entry["broadest"] in (*held, None)
        assert entry["stops"] not in held
    code, _, err = command(*base, "--neurons", "0")
    assert code == 2
    assert "neuron 0 has no label in this run" in err
    assert "holds no WordNet" in command("granularity", tmp_path / "run", "--wordnet", tmp_path / "no")[2]
