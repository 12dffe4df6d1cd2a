"""Recipes parse, say what is missing, and can be followed from end to end (a small one, with real parts)."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import yaml

from contralens import label
from contralens.auditing.audit import audit
from contralens.data.audits import load_audit
from contralens.errors import InputError, MissingPackage
from contralens.evaluation.evaluate import evaluate
from contralens.evaluation.measuring import wanted_metrics
from contralens.evaluation.recipes import follow, lacking, read_recipe
from contralens.math.scoring import parse_scorer

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
LABEL = {*inspect.signature(label).parameters, "weights", "checkpoint", "preprocess", "sae", "holdout"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_recipes_are_sound(path):
    recipe = read_recipe(path)
    for steps in recipe["runs"].values():
        assert set(steps["label"]) <= LABEL
        assert set(steps.get("evaluate", {})) <= set(inspect.signature(evaluate).parameters)
        assert set(steps.get("audit", {})) <= set(inspect.signature(audit).parameters)
        for scorer in steps["label"]["scorers"]:
            parse_scorer(scorer)
        assert wanted_metrics(steps["evaluate"]["metrics"])
    for row in recipe["published"]:
        steps = recipe["runs"][row["run"]]
        assert row["scorer"] in steps["label"]["scorers"]
        assert row["metric"] in wanted_metrics(steps["evaluate"]["metrics"])


def test_what_is_lacking_is_listed(monkeypatch, tmp_path):
    recipe = read_recipe(next(p for p in RECIPES if p.stem == "sae"))
    for name in recipe["needs"]["environment"]:
        monkeypatch.delenv(name, raising=False)
    assert [line.split()[0] for line in lacking(recipe)] == [
        "IMAGENET_VAL", "SAE_NETWORK", "SAE_LAYER", "SAE_TOPK", "SAE_VANILLA"
    ]  # fmt: skip
    recipe["needs"]["packages"] = ["no_such_package"]
    monkeypatch.setenv("SAE_TOPK", "/no/where")
    lines = lacking(recipe)
    assert lines[0] == "the package no_such_package is not installed"
    assert any("/no/where does not exist" in line for line in lines)
    with pytest.raises(InputError, match="cannot be followed here"):
        follow(recipe, tmp_path)


def test_mistakes_are_told(tmp_path):
    for text, words in (
        ("titel: x\nruns: {}", "did you mean title"), ("title: x", "no runs"), ("- 1", "got list"),
        ("a: [", "cannot read"),
        ("runs: {a: {evaluate: {}}}", "no label step"), ("runs: {a: {lable: {}}}", "did you mean label"),
        ("runs: {a: {label: {}}}\npublished: [{run: b, value: 1}]", "names the run 'b'"),
    ):  # fmt: skip
        (tmp_path / "r.yaml").write_text(text)
        with pytest.raises(InputError, match=words):
            read_recipe(tmp_path / "r.yaml")
    with pytest.raises(InputError, match="no recipe"):
        read_recipe(tmp_path / "none.yaml")


def test_a_small_recipe_is_followed(case, tmp_path, monkeypatch):
    from colour_case import ColourEncoder

    from contralens.encoders import registry

    real = registry.encoder
    named = {"colours": ColourEncoder(), "colours:1.0": ColourEncoder(), "other": ColourEncoder(1.5)}
    for module in ("collecting.networks", "evaluation.judge_independence"):
        monkeypatch.setattr(f"contralens.{module}.load_encoder", lambda spec, **_: named.get(spec) or real(spec))
    monkeypatch.setattr(registry, "encoder", lambda spec, **_: named.get(spec) or real(spec))
    here = Path(__file__).parent
    monkeypatch.setenv("PROBE", str(case / "probe"))
    recipe = {
        "needs": {"environment": {"PROBE": "pictures"}, "images": {"PROBE": 100}},
        "runs": {"small": {
            "label": {
                "target": f"module:{here / 'colour_case.py'}:colour_network", "layer": "1", "images": "$PROBE",
                "preprocess": "resize=12x12,mean=none", "encoder": "colours", "vocabulary": ["red", "blue", "lime"],
                "scorers": ["semanticlens", "csp"], "k": 5,
            },
            "evaluate": {"metrics": ["pearson"], "judge": "other", "heldout": str(case / "other")},
            "audit": {"concepts": {"expected": ["red", "blue"], "spurious": ["lime"]}, "fakes": 100, "sample": 0},
        }},
        "published": [{"run": "small", "scorer": "csp", "metric": "pearson", "value": 2.0, "source": "nowhere"}],
    }  # fmt: skip
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(InputError, match=r"code to run \(small.label.target: module:.*--trust-code"):
        follow(tmp_path / "small.yaml", tmp_path / "out", cache=tmp_path / "cache")
    rows = follow(tmp_path / "small.yaml", tmp_path / "out", cache=tmp_path / "cache", trust_code=True)
    assert rows[0]["published"] == 2.0
    assert rows[0]["inside"] is False
    assert rows[0]["low"] <= rows[0]["mean"] <= rows[0]["high"]
    assert (tmp_path / "out" / "small" / "evaluation" / "summary.parquet").is_file()
    assert load_audit(tmp_path / "out" / "small").manifest["threshold"]["fakes"] == 100


def test_recipe_command_says_what_is_lacking(monkeypatch):
    import typer
    from typer.testing import CliRunner

    from contralens.commands.evaluate import recipe_command

    app = typer.Typer()
    app.command("recipe")(recipe_command)
    app.command("other")(lambda: None)
    monkeypatch.delenv("IMAGENET_VAL", raising=False)
    shown = CliRunner().invoke(app, ["recipe", str(RECIPES[0]), "--check"])
    assert shown.exit_code == 1
    assert "IMAGENET_VAL is not set" in shown.output


def test_granularity_needs_wordnet_and_says_so_first(monkeypatch, run, settings):
    recipe = read_recipe(next(p for p in RECIPES if p.stem == "gamma-sweep"))
    assert not any("WordNet" in line for line in lacking(recipe))
    monkeypatch.setattr("contralens.data.wordnet._places", lambda: iter(()))
    assert any(line.startswith("for granularity: this needs WordNet") for line in lacking(recipe))
    monkeypatch.setattr("contralens.evaluation.evaluate.Reopened", lambda *a, **k: pytest.fail("work began"))
    with pytest.raises(MissingPackage, match="needs WordNet"):
        evaluate(run, metrics="granularity", **settings)
