"""The world benchmark: against a slow recount, its tables read back, and the committed table found again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from contralens.bench.cases import cases
from contralens.bench.training import rows_of
from contralens.bench.world_bench import CHANCE, MEASURES, world_bench
from contralens.bench.world_images import probe_scenes, score_labels
from contralens.cli import app
from contralens.errors import InputError
from contralens.math.exemplars import find_exemplars
from contralens.math.intervals import clustered_interval, wilson
from contralens.math.scorers import SCORERS
from contralens.report import world_bench as paper
from contralens.world.captions import concepts, meaning
from contralens.world.encoder import load_encoder
from contralens.world.planted import planted_activations
from contralens.world.render import render
from contralens.world.targets import LAYER, load_target, world
from contralens.world.truth import target_activations

SMALL = {"seeds": [5], "images": 300, "fakes": 60}
RESULTS = Path(__file__).parents[2] / "docs" / "results.md"


@pytest.fixture(scope="module")
def small():
    """World 2 at two dials, two scorers and a method that is told the truth."""

    def oracle(case, texts):
        named = np.array([[level in c.levels for level in LEVELS] for c in concepts(1 if len(texts) == 38 else 2)])
        single = named & (named.sum(1, keepdims=True) == 1)
        return torch.from_numpy(case.true_levels.astype(float) @ single.T.astype(float))

    from contralens.world.truth import LEVELS

    return world_bench(["csp", "semanticlens"], {"oracle": oracle}, worlds=[2], dials=[0.5, 0.9], **SMALL)


def test_outcomes_equal_a_slow_recount(small) -> None:
    scenes = probe_scenes(2, 300, 5, 0.9)
    pictures = render(scenes)
    encoder = load_encoder()
    e = torch.nn.functional.normalize(rows_of(encoder.model.image, pictures), dim=1)
    a, _, truth = planted_activations(scenes, 2, 5)
    found = find_exemplars(torch.from_numpy(a), e, k=30)
    here = (small.neurons["kind"] == "planted") & (small.neurons["dial"] == 0.9)
    partner = {level: set(tied) for level, tied in world(2).partner_levels.items()}
    for scorer in ("csp", "semanticlens"):
        labels = {}
        for most in (1, 2):
            words = [c.text for c in concepts(most)]
            best = SCORERS[scorer](found, e, encoder.texts(words)).argmax(1).tolist()
            labels[most] = [words[c] for c in best]
        right = score_labels(labels[1], truth)
        assert small.outcomes[scorer]["right"][here].tolist() == right.astype(float).tolist()
        misled = [
            bool(meaning(said) & partner[t.levels[0]]) and not ok
            for said, t, ok in zip(labels[1], truth, right, strict=True)
        ]
        assert small.outcomes[scorer]["misled"][here].tolist() == misled
        exact = [meaning(said) == set(t.levels) for said, t in zip(labels[2], truth, strict=True)]
        assert small.outcomes[scorer]["exact"][here].tolist() == exact
        names_it = [bool(meaning(said) & set(t.levels)) for said, t in zip(labels[2], truth, strict=True)]
        specific = [float(x) if y else None for x, y in zip(exact, names_it, strict=True)]
        got = small.outcomes[scorer]["specific"][here]
        assert [None if np.isnan(x) else x for x in got] == specific


def test_every_dial_shows_the_pictures_of_its_own_scenes() -> None:
    for case in cases([1], [0.0, 0.9, 1.0], seeds=[6], images=60, k=5):
        scenes = probe_scenes(1, 60, 6, case.dial)
        pictures = render(scenes)
        e = torch.nn.functional.normalize(rows_of(load_encoder().model.image, pictures), dim=1)
        assert torch.allclose(case.embeddings, e, atol=1e-5)
        if case.kind == "trained":
            a = torch.from_numpy(target_activations(load_target(1), pictures)[LAYER])
            kept = [int(name.split("/")[1]) for name in case.names]
            assert torch.allclose(case.activations, a[:, kept], atol=1e-4)
            assert len(kept) < a.shape[1] or all(t.kind != "dead" for t in case.truth)
        else:
            assert np.array_equal(case.activations.numpy(), planted_activations(scenes, 1, 6)[0])


def test_an_oracle_is_always_right_and_chance_hardly_ever(small) -> None:
    rows = {(r["kind"], r["dial"], r["scorer"], r["measure"]): r for r in small.rows()}
    assert {r["measure"] for r in small.rows()} == set(MEASURES)
    for kind in ("planted", "trained"):
        for dial in (0.5, 0.9):
            assert rows[kind, dial, "oracle", "right"]["mean"] == 1.0
            assert rows[kind, dial, "oracle", "exact"]["mean"] == 1.0
            assert rows[kind, dial, "oracle", "misled"]["mean"] == 0.0
            assert rows[kind, dial, CHANCE, "right"]["mean"] < 0.2
            assert rows[kind, dial, "csp", "right"]["mean"] > 0.3
            row = rows[kind, dial, "semanticlens", "right"]
            paired = small.outcomes["semanticlens"]["right"] - small.outcomes["csp"]["right"]
            here = (small.neurons["kind"] == kind) & (small.neurons["dial"] == dial)
            assert row["difference"]["mean"] == pytest.approx(paired[here].mean())
            assert row["low"] <= row["mean"] <= row["high"]


def test_the_same_seed_gives_the_same_numbers(small) -> None:
    again = world_bench(["csp", "semanticlens"], worlds=[2], dials=[0.9], **SMALL)
    here = small.neurons["dial"] == 0.9
    for measure in ("right", "exact", "answered", "real", "fake"):
        assert np.array_equal(small.outcomes["csp"][measure][here], again.outcomes["csp"][measure], equal_nan=True)
    table = small.table()
    assert table.num_rows == len(small.outcomes) * len(here)
    assert {"world", "kind", "dial", "seed", "name", "scorer", "right", "exact"} <= set(table.column_names)


def test_tables_are_read_back_and_checked(small, tmp_path) -> None:
    bench = small.to_dict()
    document = tmp_path / "results.md"
    document.write_text(f"# Results\n\n{paper.BEGIN}\nstale\n{paper.END}\n\nafter\n")
    paper.write_into(document, paper.markdown(bench))
    text = document.read_text()
    assert text.startswith("# Results\n")
    assert text.endswith("\nafter\n")
    assert "stale" not in text
    told, meant = paper.read(text), paper.numbers(bench)
    assert told.keys() == meant.keys()
    for key, value in meant.items():
        assert np.allclose(told[key], value, atol=0.0051, equal_nan=True), key
    shared, wrong = paper.outside(bench, text)
    assert shared > 15
    assert wrong == []
    for row in bench["rows"]:
        if row["measure"] == "right" and row["scorer"] == "csp":
            row["mean"] = row["low"] - 0.1
    assert len(paper.outside(bench, text)[1]) == 4
    with pytest.raises(InputError, match="no markers"):
        paper.read("a document without markers")


def test_clustered_interval_equals_a_slow_bootstrap() -> None:
    rng = np.random.default_rng(3)
    clusters = rng.integers(0, 12, 200)
    values = (rng.random(200) < (clusters % 4) / 4 + 0.1).astype(float)
    values[7] = np.nan
    found = clustered_interval(values, clusters)
    means = []
    for _ in range(4000):
        rows = np.concatenate([np.flatnonzero(clusters == c) for c in rng.choice(12, 12)])
        means.append(np.nanmean(values[rows]))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.02)
    assert found.mean == pytest.approx(np.nanmean(values))
    assert found.count == 199
    wide = np.ptp(np.quantile(means, [0.025, 0.975]))
    assert wide > 1.5 * np.ptp(wilson(int(np.nansum(values)), 199)), "neurons that go together say less"
    assert clustered_interval([1, 1, 1], ["a", "b", "c"]).low == pytest.approx(1 - wilson(0, 3)[1])
    assert np.isnan(clustered_interval([], []).mean)
    assert np.isnan(clustered_interval([1, 0], ["a", "a"]).low)


def test_the_command(tmp_path) -> None:
    arguments = ["bench", "world", "--world", "5", "--dial", "0.5", "--seed", "5", "--images", "200", "--fakes", "40"]
    document = tmp_path / "d.md"
    document.write_text(f"{paper.BEGIN}\n{paper.END}\n")
    done = CliRunner().invoke(
        app, [*arguments, "--scorer", "csp", "--out", str(tmp_path / "out"), "--docs", str(document), "--json"]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["settings"]["worlds"] == [5]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["world.json", "world.parquet", "world.png"]
    done = CliRunner().invoke(app, [*arguments, "--scorer", "csp", "--check", str(document)])
    assert done.exit_code == 0, done.output
    assert "means are within the intervals" in done.output
    assert "planted neurons, right" in done.output


def test_wrong_settings_are_named() -> None:
    with pytest.raises(InputError, match="a dial must be between 0"):
        world_bench(["csp"], dials=[1.5])
    with pytest.raises(InputError, match="unknown world 9"):
        world_bench(["csp"], worlds=[9])
    with pytest.raises(InputError, match="no neurons of the kinds"):
        world_bench(["csp"], worlds=[5], kinds=["trained"])
    with pytest.raises(InputError, match="did you mean csp"):
        world_bench(["cps"])


@pytest.mark.slow
def test_the_committed_table_is_found_again() -> None:
    """Four scorers on the trained neurons at one dial of seven: every mean lies in its interval."""
    bench = world_bench(
        ["csp", "semanticlens", "clip_dissect", "lookalike"], worlds=[1, 2, 3], dials=[0.9], kinds=["trained"]
    ).to_dict()
    shared, wrong = paper.outside(bench, RESULTS.read_text(encoding="utf-8"))
    assert shared > 15
    assert wrong == []
