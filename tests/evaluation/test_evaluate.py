"""Evaluation end to end on a small real run: parts, judges, metrics against scikit-learn, verdicts, interventions."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
from colour_case import COLOURS, ColourEncoder, colour_network, colour_target, paint_folder

from contralens import label
from contralens.data.evaluations import load_evaluation
from contralens.errors import InputError, MissingPackage, StoreError
from contralens.evaluation.evaluate import evaluate
from contralens.holdout import drawn
from contralens.math.activation_sources import columns
from contralens.math.metric_registry import groups
from contralens.models.interventions import class_scores, scaled, shares
from contralens.models.targets import target
from contralens.run_data.reopened import Reopened


def test_simulation_metrics_on_the_test_part_equal_scikit_learn(run, settings):
    found = evaluate(run, metrics="simulation,fade", **settings)
    reopened = Reopened(run, heldout=settings["heldout"], cache=settings["cache"])
    assert not set(reopened.test) & set(reopened.validation)
    assert not set(reopened.held_out) & set(reopened.probe)
    assert found.manifest["images"]["test"] == len(reopened.test)
    a = columns(reopened.activations(reopened.test), torch.arange(9)).double().numpy()
    judge = settings["judge"]
    e = reopened.embeddings(reopened.test, judge).numpy()
    for row in run.rows("csp"):
        if row["label"] is None:
            assert row["neuron"] not in found.value("pearson", "csp")
            continue
        n = row["neuron"]
        cosine = e @ judge.texts([row["label"]])[0].numpy()
        assert found.value("pearson", "csp")[n] == pytest.approx(scipy.stats.pearsonr(a[:, n], cosine)[0], abs=1e-5)
        count = math.ceil(0.05 * len(a))
        truth, present = (v >= np.sort(v)[-count] for v in (a[:, n], cosine))
        for metric, expected in {
            "auprc": sklearn.metrics.average_precision_score(truth, cosine),
            "f1": sklearn.metrics.f1_score(truth, present),
            "iou": sklearn.metrics.jaccard_score(truth, present),
            "purity": sklearn.metrics.average_precision_score(present, a[:, n]),
            "responsiveness": abs(2 * sklearn.metrics.roc_auc_score(present, a[:, n]) - 1),
        }.items():
            assert found.value(metric, "csp")[n] == pytest.approx(expected, abs=1e-6), metric


def test_summary_counts_what_is_undefined(run, settings):
    found = evaluate(run, metrics="cosy,audit", scorers=["semanticlens"], **settings)
    rows = {row["metric"]: row for row in found.summary.to_pylist()}
    assert rows["mad"]["undefined"] + rows["mad"]["neurons"] == 8
    assert rows["auc"]["low"] <= rows["auc"]["mean"] <= rows["auc"]["high"]
    assert rows["auc"]["sane"] is False
    assert rows["exemplar_clarity"]["scorer"] == "exemplars"
    assert rows["exemplar_clarity"]["sane"] is None
    assert "retrieved by colours:1.5" in found.manifest["label_images"]["from"]


def test_the_judge_must_not_be_the_labeling_encoder(run, settings):
    settings.pop("judge")
    with pytest.raises(InputError, match="a judge is missing"):
        evaluate(run, **settings)
    with pytest.raises(InputError, match="would judge its own labels"):
        evaluate(run, judge=ColourEncoder(), **settings)
    found = evaluate(run, metrics="pearson", judge=ColourEncoder(), same_judge=True, **settings)
    assert found.manifest["judge"]["same_as_labeling_encoder"] is True
    audited = evaluate(run, metrics="audit", **settings)
    assert audited.manifest["judge"] is None


def test_without_held_out_images_it_says_what_to_do(run, settings, case, tmp_path):
    settings.pop("heldout")
    with pytest.raises(InputError, match=r"--holdout 0\.2"):
        evaluate(run, **settings)
    with pytest.raises(InputError, match="among the run's probe images"):
        evaluate(run, heldout=case / "probe", **settings)
    copied = paint_folder(tmp_path / "mixed", 40, 3)
    for i, path in enumerate(sorted((case / "probe").iterdir())[:5]):
        (copied / f"copy{i}.png").write_bytes(path.read_bytes())
    found = evaluate(run, heldout=copied, metrics="pearson", **settings)
    assert found.manifest["images"]["held_out"] == 40
    assert any("5 held-out images excluded" in note for note in found.manifest["notes"])


def test_images_held_out_by_the_run_come_from_the_cache_alone(run, settings, case):
    other = Reopened(run, heldout=case / "other", cache=settings["cache"]).held_out
    manifest = {**run.manifest, "images": {**run.manifest["images"], "holdout": {"share": 0.4, "fingerprints": other}}}
    held = replace(run, manifest=manifest)
    first = evaluate(run, metrics="simulation", **settings)
    for gone in ("heldout", "target", "encoder", "source"):
        settings.pop(gone)
    second = evaluate(held, metrics="simulation", **settings)
    assert second.values.equals(first.values)
    settings["cache"] = case / "empty"
    with pytest.raises(InputError, match="give it as target="):
        evaluate(held, metrics="simulation", **settings)


def test_another_network_is_refused(run, settings):
    settings["target"] = target(torch.nn.Sequential(*colour_network()), "0", preprocess="resize=12x12,mean=none")
    settings["cache"] = settings["cache"].parent / "second"
    with pytest.raises(InputError, match="is not the one of the run"):
        evaluate(run, metrics="pearson", **settings)


def test_verdicts_chance_stability_and_meanings(run, settings):
    found = evaluate(
        run, metrics="audit", fdr=0.05, fakes=300, stability=8, meanings=True, scorers=["semanticlens"], **settings
    )
    rows = found.verdicts.to_pylist()
    assert len(rows) == 8
    for row in rows:
        assert row["beats_chance"] == (row["fdr"] <= 0.05)
        assert 0 < row["p"] <= 1
        assert row["label"] in row["label_set"]
        assert sum(row["set_shares"]) >= 0.9
        assert row["meanings"] == [row["label"]]
    assert sum(row["beats_chance"] for row in rows) >= 6
    counted = found.manifest["chance"]["no label beats chance"]["semanticlens"]
    assert counted == sum(not row["beats_chance"] for row in rows)


def test_verdicts_on_a_scorer_that_looks_at_all_activations(run, case, settings):
    """`label(fdr=...)` and `evaluate(fdr=...)` give it the same fakes."""
    options = {"k": 10, "cache": case / "cache", "scorers": ["csp", "lookalike"], "fdr": 0.05, "fakes": 300}
    made = label(colour_target(), case / "probe", ColourEncoder(), list(COLOURS), **options)
    told = {(row["neuron"], row["scorer"]): row for row in made.labels.to_pylist()}
    found = evaluate(made, metrics="audit", fdr=0.05, fakes=300, stability=6, meanings=True, **settings)
    rows = [row for row in found.verdicts.to_pylist() if row["scorer"] == "lookalike"]
    assert len(rows) >= 5
    for row in rows:
        assert (row["p"], row["fdr"]) == (
            told[row["neuron"], "lookalike"]["p"],
            told[row["neuron"], "lookalike"]["fdr"],
        )
        assert row["beats_chance"]
        assert row["label"] in row["label_set"]
        assert row["meanings"] == [row["label"]]


def test_a_run_of_noise_abstains(case, settings):
    from contralens import label

    torch.manual_seed(0)
    noise = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 144, 30), torch.nn.Tanh())
    with torch.no_grad():
        noise[1].weight -= noise[1].weight.reshape(30, 3, 144).mean(2, keepdim=True).expand(-1, -1, 144).reshape(30, -1)
    model = target(noise, "2", preprocess="resize=12x12,mean=none")
    found = label(model, case / "probe", ColourEncoder(), list(COLOURS), k=10, cache=case / "cache")
    settings["target"] = model
    judged = evaluate(found, metrics="audit", fdr=0.05, fakes=400, **settings)
    total = judged.verdicts.num_rows
    assert sum(judged.manifest["chance"]["no label beats chance"].values()) >= 0.9 * total


def test_gamma_is_chosen_by_confidence_and_stays_unless_another_is_better_beyond_doubt(run, settings):
    found = evaluate(run, metrics="pearson", gamma="layer", **settings)
    chosen = found.manifest["gamma"]
    assert chosen["chosen by"] == "confidence"
    assert chosen["scorer"] in found.scorers
    better = [g for g, (low, _) in chosen["gain over 1"].items() if low > 0]
    assert f"{chosen['gamma']:g}" in (better or ["1"])
    each = evaluate(run, metrics="pearson", gamma="neuron", fdr=0.1, fakes=50, **settings)
    assert sum(each.manifest["gamma"]["neurons at each gamma"].values()) == 8
    assert "csp:gamma=neuron" in each.scorers
    assert any("--scorer auto" in note for note in each.manifest["notes"])
    assert "csp:gamma=neuron" not in each.verdicts["scorer"].to_pylist()


def test_faithfulness_in_the_network(run, settings):
    found = evaluate(run, metrics="faithfulness", scorers=["semanticlens"], classes=COLOURS, **settings)
    ablation = found.value("ablation", "semanticlens")
    assert min(found.value("faithfulness", "semanticlens").values()) > 0.05
    assert min(ablation.values()) > 0.3
    # against a copy by hand for one neuron
    reopened = Reopened(run, heldout=settings["heldout"], cache=settings["cache"])
    a = columns(reopened.activations(reopened.test), torch.tensor([2]))[:, 0]
    strongest = a.sort(descending=True, stable=True).indices[:16].tolist()
    at = {f: i for i, f in enumerate(reopened.heldout_images.fingerprints())}
    pictures = [reopened.heldout_images.load(at[reopened.test[i]]) for i in strongest]
    batch = torch.stack([settings["target"].preprocess(p) for p in pictures])
    network = colour_network()
    with torch.no_grad():
        maps = network[1](network[0](batch))
        whole = network[2:](maps).softmax(1)[:, 2].mean()
        maps[:, 2] = 0
        without = network[2:](maps).softmax(1)[:, 2].mean()
    assert run.rows("semanticlens")[2]["label"] == COLOURS[2]
    assert ablation[2] == pytest.approx(float((whole - without) / whole), abs=1e-5)
    with pytest.raises(InputError, match="class names do not fit"):
        evaluate(run, metrics="faithfulness", classes=COLOURS[:3], **settings)
    with pytest.raises(InputError, match="have no names"):
        evaluate(run, metrics="faithfulness", **settings)


def test_scaling_touches_one_neuron_and_leaves_no_hook():
    model = colour_target()
    batch = torch.rand(3, 3, 12, 12)
    plain = class_scores(model, batch)
    with scaled(model, 4, 0.0):
        activations = model(batch)
        assert (activations[:, 4] == 0).all()
        assert not torch.equal(class_scores(model, batch), plain)
    assert torch.equal(class_scores(model, batch), plain)
    assert not model.module._modules["1"]._forward_hooks
    out = shares(model, batch, 4, [1.0, 3.0])
    torch.testing.assert_close(out[0], plain.softmax(1))
    torch.testing.assert_close(out.sum(2), torch.ones(2, 3))
    tokens = torch.nn.Sequential(torch.nn.Flatten(2), torch.nn.Linear(144, 6), torch.nn.Flatten())
    sequence = target(tokens, "1", preprocess="resize=12x12,mean=none", pooling="mean_patches", prefix_tokens=0)
    before = sequence(batch)
    with scaled(sequence, 1, 2.0):
        torch.testing.assert_close(sequence(batch)[:, 1], 2 * before[:, 1])
        torch.testing.assert_close(sequence(batch)[:, 2], before[:, 2])


def test_several_concepts_a_label(run, settings):
    one = evaluate(run, metrics="pearson", scorers=["csp"], **settings)
    three = evaluate(run, metrics="pearson", scorers=["csp"], concepts=3, combine="mean", **settings)
    assert three.value("pearson", "csp") != one.value("pearson", "csp")
    with pytest.raises(InputError, match="concepts"):
        evaluate(run, concepts=0, **settings)


def test_saved_and_read_again(run, settings, tmp_path):
    settings["save"] = True
    run = replace(run).save(tmp_path / "run")
    found = evaluate(run.path, metrics="simulation", fdr=0.05, fakes=50, **settings)
    again = load_evaluation(run.path)
    assert again.values.equals(found.values)
    assert again.verdicts.equals(found.verdicts)
    json.loads((run.path / "evaluation" / "manifest.json").read_text(), parse_constant=lambda c: pytest.fail(c))
    with pytest.raises(InputError, match="did you mean pearson"):
        again.value("pearsn", "csp")
    with pytest.raises(InputError, match="contralens evaluate"):
        load_evaluation(run.path.parent)
    (run.path / "evaluation" / "values.parquet").unlink()
    with pytest.raises(InputError, match="holds no evaluation"):
        load_evaluation(run.path)
    with pytest.raises(InputError, match="not a run folder"):
        found.save(run.path.parent)


def test_metrics_by_group_and_by_name(run, settings):
    with pytest.raises(InputError, match="did you mean pearson"):
        evaluate(run, metrics="pearsn", **settings)
    with pytest.raises(InputError, match="empty"):
        evaluate(run, metrics=[], **settings)
    with pytest.raises(InputError, match="no scorer"):
        evaluate(run, scorers=["cps"], **settings)
    assert evaluate(run, metrics=["iou", "audit"], **settings).manifest["metrics"] == ["iou", *groups()["audit"]]


def test_the_split_goes_by_content():
    names = [f"{i:032x}" for i in range(4000)]
    first = drawn(names, 0.2, seed=1)
    assert 0.17 < np.mean(first) < 0.23
    assert drawn(names[::-1], 0.2, seed=1) == first[::-1]
    assert drawn(names, 0.2, seed=2) != first
    both = np.mean([a and b for a, b in zip(first, drawn(names, 0.2, 1, "validation"), strict=True)])
    assert 0.02 < both < 0.06
    for share in (0.0, 1.0, -1, 2):
        with pytest.raises(InputError, match="share"):
            drawn(names, share)


def test_levels_of_labels_in_wordnet(run, settings):
    try:
        from contralens.data.wordnet import find_wordnet

        words = find_wordnet()
    except MissingPackage:
        pytest.skip("WordNet is not installed")
    from contralens.evaluation.hypernyms import depth, move

    assert depth(words, "zebra") > depth(words, "mammal") > depth(words, "animal") > depth(words, "entity") == 0
    assert depth(words, "striped zebra") == depth(words, "zebra") + 1
    assert math.isnan(depth(words, "xyzzy"))
    for before, after, where in (
        ("equine", "zebra", "down"), ("zebra", "animal", "up"), ("zebra", "wolf", "sideways"),
        ("Zebra", "zebra", "same"),
        ("zebra", "xyzzy", "unknown"), ("zebra", "striped zebra", "down"),
    ):  # fmt: skip
        assert move(words, before, after) == where, (before, after)
    found = evaluate(run, metrics="granularity,pearson", **{**settings, "judge": Anything()})
    assert sum(found.manifest["granularity"]["moves"]["csp"].values()) == 8
    curve = found.manifest["granularity"]["curve"]["semanticlens"]
    assert curve[0]["step"] == 0
    assert curve[0]["mean"] == pytest.approx(np.mean(list(found.value("pearson", "semanticlens").values())), abs=1e-6)
    assert evaluate(run, metrics="depth", source=settings["source"], cache=settings["cache"], save=False).metrics == [
        "depth"
    ]


class Anything(ColourEncoder):
    """Also places words that are no colours: at the colour that their hash gives."""

    def __init__(self):
        super().__init__(1.5)

    def texts(self, texts):
        return super().texts([t if t in COLOURS else "#" + hashlib.sha256(t.encode()).hexdigest()[:6] for t in texts])


def test_labels_that_do_not_beat_chance_are_turned_down(run, case, settings):
    """`label(fdr=...)` says what `evaluate(fdr=...)` says of the same labels, and keeps what it rejected."""
    told = evaluate(run, metrics="audit", fdr=0.05, fakes=200, **settings)
    abstained = label(
        colour_target(), case / "probe", ColourEncoder(), list(COLOURS), k=10, cache=case / "cache",
        scorers=run.scorers, fdr=0.05, fakes=200,
    )  # fmt: skip
    verdicts = {(row["neuron"], row["scorer"]): row for row in told.verdicts.to_pylist()}
    for row, before in zip(abstained.labels.to_pylist(), run.labels.to_pylist(), strict=True):
        verdict = verdicts.get((row["neuron"], row["scorer"]))
        assert before["p"] is before["fdr"] is None
        if verdict is None:
            assert (row["status"], row["label"], row["fdr"]) == ("dead", None, None)
            continue
        assert (row["p"], row["fdr"]) == (verdict["p"], verdict["fdr"])
        assert row["status"] == ("ok" if verdict["beats_chance"] else "chance")
        assert row["label"] == (before["label"] if verdict["beats_chance"] else None)
        assert (row["score"] is None) == (row["label"] is None)
        assert row["concepts"] == before["concepts"]
    counted = abstained.manifest["chance"]
    assert counted["no label beats chance"] == told.manifest["chance"]["no label beats chance"]
    assert counted["null_share"] == told.manifest["chance"]["null_share"]
    assert 0 < sum(counted["no label beats chance"].values()) < 24
    found = evaluate(abstained, metrics="simulation,cosy,fade", **settings)
    assert len(found.value("pearson", "csp")) == sum(r["label"] is not None for r in abstained.rows("csp"))


def test_label_with_holdout(case, settings):
    held = label(
        colour_target(), case / "probe", ColourEncoder(), list(COLOURS), k=10, holdout=0.4, cache=case / "cache"
    )
    recorded = held.manifest["images"]["holdout"]
    assert not set(recorded["fingerprints"]) & set(held.images["fingerprint"].to_pylist())
    assert len(recorded["fingerprints"]) + held.images.num_rows == 160
    assert recorded["fingerprints"] == [
        f for f, chosen in zip(
            Reopened(held).images.fingerprints(), drawn(Reopened(held).images.fingerprints(), 0.4), strict=True
        ) if chosen
    ]  # fmt: skip
    settings.pop("heldout")
    found = evaluate(held, metrics="simulation,cosy", **settings)
    assert found.manifest["images"]["held_out"] == len(recorded["fingerprints"])
    assert found.manifest["images"]["holdout"] == 0.4


def test_the_printed_evaluation_names_what_a_metric_misses(run, case, settings, capsys):
    from contralens.commands.evaluate import _print_evaluation

    found = evaluate(run, metrics="simulation,cosy", fdr=0.05, fakes=60, stability=3, **settings)
    _print_evaluation(found)
    printed = capsys.readouterr().out
    for name, tested in found.manifest["sanity"].items():
        line = next(x for x in printed.splitlines() if x.split()[:1] == [name])
        missed = "both" if len(tested["misses"]) > 1 else "".join(tested["misses"])
        assert line.rstrip().endswith(
            f"no: {missed}" if tested["passes"] is False else "yes" if tested["passes"] else "-"
        )
    assert "missing" in found.manifest["sanity"]["auc"]["misses"]
    for scorer in run.scorers:
        assert f"null test of {scorer}: no label beats random images on " in printed
        assert re.search(rf"{re.escape(scorer)}: \d+% of 3 bootstrap samples agree on a label; ", printed)


class Closed(Anything):
    """A judge with a closed vocabulary."""

    def texts(self, texts):
        if unknown := [t for t in texts if t.split()[-1] not in COLOURS]:
            raise InputError(f"it knows no {unknown[0]}")
        return super().texts(texts)


def test_a_judge_that_refuses_a_hypernym_is_a_note_and_what_the_disk_refuses_is_none(case, run, settings, tmp_path):
    from contralens.data.wordnet import find_wordnet
    from contralens.evaluation.hypernyms import levels
    from contralens.evaluation.measuring import Session

    try:
        find_wordnet()
    except MissingPackage:
        pytest.skip("WordNet is not installed")

    def curve(judge):
        given = {key: settings[key] for key in ("heldout", "target", "encoder", "source")}
        reopened = Reopened(run, **given, cache=tmp_path / "cache")
        session = Session(reopened, judge, ["depth"], 0.1, 1, "mean", None, 5)
        return levels(session, ["semanticlens", "csp"]).get("curve"), reopened.notes

    shutil.copytree(case / "cache", tmp_path / "cache")
    found, notes = curve(Closed())
    assert found is None
    assert any("no curve along the hypernyms: it knows no" in note for note in notes)
    found, notes = curve(Anything())
    assert set(found) == {"semanticlens", "csp"}
    assert not notes
    shutil.rmtree(tmp_path / "cache" / "rows")
    (tmp_path / "cache" / "rows").write_text("a file is in the way")
    with pytest.raises(StoreError, match="cannot write"):
        curve(Anything())
