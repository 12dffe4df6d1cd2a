"""The benchmark's leaderboard, and its plain files read without contralens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from typer.testing import CliRunner

from contralens.bench.export import export_benchmark
from contralens.bench.leaderboard import leaderboard
from contralens.bench.versions import version
from contralens.bench.world_bench import BENCHED, world_bench
from contralens.bench.world_images import probe_scenes
from contralens.cli import app
from contralens.errors import InputError
from contralens.report import leaderboard as paper
from contralens.report.world_bench import write_into
from contralens.world.captions import concepts
from contralens.world.disturbances import render
from contralens.world.planted import planted_activations

SMALL = {"worlds": [1], "dials": [0.5], "seeds": [31], "images": 160}
OWN = '''
import torch


def first(exemplars, embeddings, texts):
    """The strongest exemplar alone."""
    return embeddings[exemplars.positives[:, 0].clamp_min(0)] @ texts.T
'''


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("own") / "mine.py"
    path.write_text(OWN)
    return f"{path}:first"


@pytest.fixture(scope="module")
def benches():
    """What the leaderboard sums up, by its sets of nuisances."""
    given = {**SMALL, "fakes": 100, "edition": 2}
    return {name: world_bench(["csp", "semanticlens"], **given, nuisances=name) for name in ("none", "all")}


@pytest.fixture(scope="module")
def board(own):
    return leaderboard(["csp", "semanticlens", own], **SMALL)


def test_shares_are_those_of_the_benchmark(board, benches) -> None:
    rows = {row["scorer"]: row for row in board["rows"]}
    for end, nuisances in (("", "none"), ("_rough", "all")):
        bench = benches[nuisances]
        for scorer in ("csp", "semanticlens"):
            for measure in ("right", "exact"):
                by_kind = [
                    bench.outcomes[scorer][measure][bench.neurons["kind"] == kind].mean()
                    for kind in ("planted", "trained")
                ]
                mean, low, high = rows[scorer][measure + end]
                assert mean == pytest.approx(np.mean(by_kind))
                assert low <= mean <= high
                assert high - low > 0.05
            if not end:
                assert rows[scorer]["planted"][0] == pytest.approx(
                    bench.outcomes[scorer]["right"][bench.neurons["kind"] == "planted"].mean()
                )


def test_rows_are_sorted_and_cost_something(board, own) -> None:
    names = [row["scorer"] for row in board["rows"]]
    assert set(names) == {"csp", "semanticlens", own, "chance"}
    assert names[-1] == "chance"
    right = [row["right"][0] for row in board["rows"][:-1]]
    assert right == sorted(right, reverse=True)
    assert board["rows"][-1]["right"][0] < 0.2 < right[0]
    for row in board["rows"][:-1]:
        assert row["seconds"] > 0
        assert row["bytes"] is None or row["bytes"] >= 0
    assert board["settings"]["changed"] == ["dials", "images", "seeds", "worlds"]


def test_without_options_every_scorer_of_the_benchmark_is_ranked() -> None:
    rows = leaderboard(worlds=[5], dials=[0.5], seeds=[31], images=60, fakes=20)["rows"]
    assert {row["scorer"] for row in rows} == {*BENCHED, "chance"}
    assert all(row["seconds"] > 0 for row in rows[:-1])


def test_the_table_says_what_it_holds(board, tmp_path) -> None:
    text = paper.markdown(board)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(board["rows"])
    assert len({line.count("|") for line in lines}) == 1
    for row, line in zip(board["rows"], lines[2:], strict=True):
        assert f"`{row['scorer']}`" in line
        assert f"{row['right'][0]:.2f} ({row['right'][1]:.2f}–{row['right'][2]:.2f})" in line
    assert "Not the frozen settings: dials, images, seeds, worlds." in text
    assert "160 images per probe set" in paper.plain_table(board)
    document = tmp_path / "page.md"
    document.write_text(f"before\n{paper.BEGIN}\nstale\n{paper.END}\nafter\n")
    write_into(document, text)
    assert document.read_text() == f"before\n{text.strip()}\nafter\n"
    with pytest.raises(InputError, match="has no markers"):
        write_into(Path(__file__).parents[1] / "conftest.py", text)


def test_the_commands(own, tmp_path) -> None:
    few = ["--world", "5", "--dial", "0.5", "--seed", "31", "--images", "120"]
    done = CliRunner().invoke(
        app, ["bench", "leaderboard", "--scorer", own, *few, "--out", str(tmp_path / "board"), "--json"]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["rows"][0]["scorer"] == own
    assert json.loads((tmp_path / "board" / "leaderboard.json").read_text())["rows"] == found["rows"]
    assert own in (tmp_path / "board" / "leaderboard.md").read_text()
    done = CliRunner().invoke(app, ["bench", "export", str(tmp_path / "files"), *few, "--no-pictures"])
    assert done.exit_code == 0, done.output
    assert "1 probe sets" in done.output
    assert not list((tmp_path / "files").rglob("*.png"))
    two = ["bench", "world", "--edition", "2", "--nuisance", "all", *few[:1], "7", *few[2:], "--fakes", "20", "--json"]
    done = CliRunner().invoke(app, [*two, "--scorer", "csp"])
    assert done.exit_code == 0, done.output
    settings = json.loads(done.stdout)["settings"]
    assert (settings["edition"], settings["nuisances"], settings["worlds"]) == (2, "all", [7])


def test_files_hold_what_the_benchmark_judges(benches, tmp_path) -> None:
    """Read with NumPy and safetensors alone: the same pictures, activations and truth, and the same labels right."""
    out = tmp_path / "files"
    folders = export_benchmark(out, **SMALL, nuisances=["all"])
    index = json.loads((out / "benchmark.json").read_text())
    assert [out / path for path in index["probe_sets"]] == folders
    data, words = load_file(folders[0] / "tensors.safetensors"), load_file(out / "concepts.safetensors")
    scenes = probe_scenes(1, 160, 31, 0.5)
    assert np.array_equal(data["levels"], scenes.levels)
    a, names, _ = planted_activations(scenes, 1, 31)
    assert np.array_equal(data["planted.activations"], a)
    assert json.loads((folders[0] / "names.json").read_text())["planted"] == names
    pictures = np.stack([np.asarray(Image.open(path)) for path in sorted((folders[0] / "images").iterdir())])
    assert np.array_equal(pictures, render(scenes, version(2).shares("all")))
    assert index["concepts"]["pairs"] == [c.text for c in concepts(2)]
    assert words["pairs.texts"].shape == (330, 96)
    named = [[index["levels"][j] for j in np.flatnonzero(row)] for row in words["single.names"]]
    assert named == [[level] for level in index["levels"]]
    bench = benches["all"]
    for kind in ("planted", "trained"):
        top = np.argsort(-data[f"{kind}.activations"], axis=0, kind="stable")[:30].T
        said = words["single.names"][(data["embeddings"][top].mean(1) @ words["single.texts"].T).argmax(1)]
        right = (said & data[f"{kind}.true"]).any(1)[data[f"{kind}.known"] == 1]
        assert right.tolist() == bench.outcomes["semanticlens"]["right"][bench.neurons["kind"] == kind].tolist()


def test_a_folder_of_something_else_is_left_alone(tmp_path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="holds something else"):
        export_benchmark(tmp_path, **SMALL)
    with pytest.raises(InputError, match="unknown world 8"):
        export_benchmark(tmp_path / "new", worlds=[8])
    assert not (tmp_path / "new").exists()
