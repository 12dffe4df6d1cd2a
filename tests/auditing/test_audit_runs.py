"""The whole audit on a network with a planted artefact: found, measured, pruned, written whole."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
import torch
import yaml
from safetensors.torch import load_file
from strip_case import CLASSES, CONCEPTS, SPURIOUS, Blind, HueEncoder, StripNet, draw_folder, to_pixels
from torch import nn

import contralens
from contralens.auditing.alignment import MOST_IMAGES, align, embed_concepts, separation
from contralens.auditing.concept_verdicts import LIKELY
from contralens.auditing.concepts import concept_list
from contralens.data.audits import INFLUENCE, NEURONS, PRUNING, Audit, load_audit
from contralens.data.runs import Run, load
from contralens.encoders.registry import embed_texts
from contralens.errors import InputError, RunError
from contralens.math.intervals import paired_interval
from contralens.math.lookalike import lookalike
from contralens.math.null_neurons import fake_exemplars, together, with_fakes
from contralens.math.null_test import chance_of, standardised
from contralens.math.scorers import csp
from contralens.models.interventions import class_scores
from contralens.report.audit_page import audit_page, write_audit_page
from contralens.world.encoder import load_encoder

COLOURS = ["red", "blue", "lime", "yellow"]


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """probe/ with the strip tied to melanoma, fair/ with it tied to benign, and a run."""
    home = tmp_path_factory.mktemp("audit")
    draw_folder(home / "probe", 200, 0, 0.85)
    draw_folder(home / "fair", 120, 1, 0.1)
    contralens.label(
        StripNet().eval(), home / "probe/images", HueEncoder(), COLOURS, layer="relu", preprocess=to_pixels, k=12,
        scorers=["csp"], out=home / "run", cache=home / "cache",
    )  # fmt: skip
    return home


@pytest.fixture
def settings(case: Path) -> dict[str, Any]:
    return {
        "target": contralens.target(StripNet().eval(), "relu", preprocess=to_pixels), "encoder": HueEncoder(),
        "cache": case / "cache", "fakes": 300, "save": False,
    }  # fmt: skip


@pytest.fixture(scope="session")
def found(case: Path) -> Audit:
    return contralens.audit(
        case / "run", CONCEPTS, labeled=case / "fair/images", subgroups=case / "fair/groups.csv", classes=CLASSES,
        target=contralens.target(StripNet().eval(), "relu", preprocess=to_pixels), encoder=HueEncoder(),
        cache=case / "cache", fakes=300,
    )  # fmt: skip


def test_the_planted_neuron_is_found_and_the_others_are_called_what_they_are(found: Audit) -> None:
    rows = {row["neuron"]: row for row in found.rows()}
    assert sorted(rows) == [0, 1, 2, 3], "the dead neuron has no exemplars and no verdict"
    assert (rows[0]["verdict"], rows[0]["concept"]) == ("expected", "red")
    assert (rows[1]["verdict"], rows[1]["concept"]) == ("expected", "blue")
    assert (rows[SPURIOUS]["verdict"], rows[SPURIOUS]["concept"]) == ("spurious", "lime")
    for row in rows.values():
        told = row["verdict"] != "unexplained"
        assert told == (row["score"] > row["empty"] and row["fdr"] <= 0.05 and row["confidence"] >= LIKELY)
        assert told == (row["reason"] == "")
        assert row["concept"] == (row["best"] if told else None)
        assert row["z"] == max(row["expected"], row["spurious"])
        assert row["side"] == ("expected" if row["expected"] > row["spurious"] else "spurious")
    assert found.rows("spurious") == [rows[SPURIOUS]]
    assert found.counts["spurious"] == 1


def test_influence_is_the_heads_and_told_by_all_three(found: Audit) -> None:
    rows = found.influence.to_pylist()
    assert {row["class"] for row in rows} == set(CLASSES)
    for row in rows:
        assert row["head"] == pytest.approx(row["ablation"], abs=1e-5)
        assert row["gradient"] == pytest.approx(row["ablation"], abs=1e-5)
    strip = {row["class"]: row["ablation"] for row in rows if row["neuron"] == SPURIOUS}
    assert strip["melanoma"] > 1
    assert strip["benign"] == pytest.approx(-strip["melanoma"], rel=1e-5)
    for told in found.manifest["agreement"].values():
        assert told["correlation"] == pytest.approx(1)


def test_pruning_restores_what_the_strip_broke(case: Path, found: Audit) -> None:
    assert found.mask.tolist() == [1, 1, 0, 1, 1]
    rows = {(row["mode"], row["group"]): row for row in found.pruning.to_pylist()}
    hard, control = rows["hard", "all"], rows["random", "all"]
    assert hard["images"] == 120
    assert hard["before"] < 0.65, "benign lesions with a strip are taken for melanoma"
    assert hard["after"] == 1.0
    assert hard["low"] > 0.25
    assert control["after"] < hard["after"]
    assert rows["hard", "balanced"]["after"] == 1.0
    for group in ("class=benign", "class=melanoma", "strip=yes", "strip=no"):
        assert ("hard", group) in rows
    net = StripNet().eval()
    labeled = contralens.labeled_images(case / "fair/images")
    batch = torch.stack([to_pixels(labeled.images.load(i)) for i in range(len(labeled))])
    right = {}
    for name, keep in (("before", torch.ones(5)), ("after", torch.tensor(found.mask))):
        with contralens.pruned(net, keep, layer="relu"):
            right[name] = (net(batch).argmax(1).numpy() == labeled.targets).astype(float)
    for group, member in {"all": labeled.targets >= 0, "class=melanoma": labeled.targets == 1}.items():
        for name, values in right.items():
            assert rows["hard", group][name] == pytest.approx(values[member].mean())
        told = paired_interval(right["before"][member], right["after"][member])
        assert (rows["hard", group]["low"], rows["hard", group]["high"]) == (told.low, told.high)


def test_images_that_the_verdicts_were_found_on_can_be_left_out(
    case: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    for part, count in (("probe", 20), ("fair", 30)):
        for name in CLASSES:
            (tmp_path / "mixed" / name).mkdir(parents=True, exist_ok=True)
            for file in sorted((case / part / "images" / name).iterdir())[:count]:
                shutil.copy(file, tmp_path / "mixed" / name / f"{part}-{file.name}")
    given = {**settings, "classes": CLASSES, "labeled": tmp_path / "mixed"}
    found = contralens.audit(case / "run", CONCEPTS, **given).manifest
    assert (found["labeled"]["images"], found["labeled"]["probe_images"]) == (100, 40)
    found = contralens.audit(case / "run", CONCEPTS, unseen=True, **given).manifest
    assert (found["labeled"]["images"], found["labeled"]["probe_images"]) == (60, 0)
    with pytest.raises(InputError, match="are probe images of the run"):
        contralens.audit(case / "run", CONCEPTS, **{**given, "labeled": case / "probe/images"}, unseen=True)


def test_intervals_and_what_was_seen_go_by_groups(case: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    labeled = contralens.labeled_images(case / "fair/images").with_groups(case / "fair/groups.csv")
    kind = [f"{t}{s}{i % 2}" for i, (t, s) in enumerate(zip(labeled.targets, labeled.groups["strip"], strict=True))]
    groups = dict(zip(labeled.ids, kind, strict=True))
    given = {**settings, "classes": CLASSES, "labeled": case / "fair/images"}
    alone = contralens.audit(case / "run", CONCEPTS, **given)
    found = contralens.audit(case / "run", CONCEPTS, groups=groups, **given)
    assert found.manifest["labeled"]["groups"] == 8
    assert found.manifest["labeled"]["interval"] == "95 %, paired bootstrap over groups of images"
    assert alone.manifest["labeled"]["groups"] is None
    for one, other in zip(found.pruning.to_pylist(), alone.pruning.to_pylist(), strict=True):
        assert [one[name] for name in ("group", "images", "difference")] == [
            other[name] for name in ("group", "images", "difference")
        ]
    width = [row["high"] - row["low"] for row in (found.pruning.to_pylist()[0], alone.pruning.to_pylist()[0])]
    assert width[0] > 2 * width[1], "pictures with a strip are right or wrong together"

    (tmp_path / "mixed/benign").mkdir(parents=True)
    (tmp_path / "mixed/melanoma").mkdir()
    for name in [f"{c}/{n:04d}.png" for n in range(20) for c in CLASSES if n % 2 == CLASSES.index(c)]:
        for part in ("probe", "fair"):
            shutil.copy(case / part / "images" / name, tmp_path / "mixed" / name.replace("/", f"/{part}"))
    table = tmp_path / "patients.csv"
    lines = [f"probe{n:04d},{n}\nfair{n:04d},{n if n < 5 else n + 100}" for n in range(20)]
    table.write_text("\n".join(["image,patient", *lines]))
    given |= {"labeled": tmp_path / "mixed", "unseen": True, "groups": f"{table}:patient"}
    found = contralens.audit(case / "run", CONCEPTS, **given)
    assert found.manifest["labeled"]["images"] == 15, "five are of patients that probe images come from"
    run = contralens.label(
        settings["target"], case / "probe/images", HueEncoder(), COLOURS, k=6, scorers=["csp"], cache=case / "cache",
        groups={f"{i:04d}": f"patient {i // 5}" for i in range(200)},
    )  # fmt: skip
    given |= {"labeled": case / "probe/images", "unseen": False, "groups": None}
    seen = contralens.audit(run, CONCEPTS, **given)
    assert seen.manifest["labeled"]["groups"] == 40, "the run knows the groups of its own images"


def test_what_is_written_is_read_back_and_says_how_it_was_got(case: Path, found: Audit) -> None:
    assert found.path == case / "run/audit"
    again = load_audit(case / "run")
    for name, schema in (("neurons", NEURONS), ("influence", INFLUENCE), ("pruning", PRUNING)):
        assert getattr(again, name).equals(getattr(found, name))
        assert getattr(again, name).schema.equals(schema)
    assert np.array_equal(again.mask, found.mask)
    mask = load_file(case / "run/audit/mask.safetensors")["keep"]
    t = contralens.target(StripNet().eval(), "relu", preprocess=to_pixels)
    batch = torch.rand(3, 3, 16, 16)
    with contralens.pruned(t, mask):
        scores = class_scores(t, batch)
    with contralens.pruned(t, case / "run/audit/mask.safetensors"):
        assert torch.equal(class_scores(t, batch), scores)
    with contralens.pruned(t, again):
        assert torch.equal(class_scores(t, batch), scores)
    m = json.loads((case / "run/audit/audit.json").read_text())
    assert m["concepts"]["fingerprint"] == concept_list(CONCEPTS).fingerprint
    assert m["scorer"] == "csp"
    assert m["encoder"]["name"] == "hues"
    assert (m["threshold"]["fdr"], m["threshold"]["fakes"], m["seed"]) == (0.05, 300, 0)
    assert m["labeled"]["images"] == 120
    assert m["labeled"]["probe_images"] == 0
    assert m["influence"]["head"] == "found by running the network"
    assert m["warnings"] == []


def test_other_concepts_compete_and_explain_nothing(case: Path, settings: dict[str, Any]) -> None:
    given = {**CONCEPTS, "spurious": CONCEPTS["spurious"][1:], "other": CONCEPTS["spurious"][:1]}
    found = contralens.audit(case / "run", given, **settings)
    row = found.rows()[SPURIOUS]
    assert (row["verdict"], row["concept"], row["side"], row["best"]) == ("unexplained", None, "other", "lime")
    assert found.manifest["concepts"]["other"] == ["lime"]


def test_soft_pruning_turns_down_by_how_much_more_the_neuron_speaks_of_the_spurious(
    case: Path, settings: dict[str, Any]
) -> None:
    found = contralens.audit(case / "run", CONCEPTS, mode="soft", **settings)
    row = found.rows("spurious")[0]
    expected = min(1.0, max(0.0, row["expected"] / row["spurious"]))
    assert found.mask[SPURIOUS] == pytest.approx(expected)
    assert found.mask[[0, 1, 3, 4]].tolist() == [1, 1, 1, 1]
    assert found.pruning.num_rows == 0


def test_scores_and_chance_are_as_a_slow_copy_has_them(case: Path, settings: dict[str, Any]) -> None:
    from contralens.run_data.reopened import Reopened

    run, listed, encoder = load(case / "run"), concept_list(CONCEPTS), HueEncoder()
    r = Reopened(run, target=settings["target"], encoder=encoder, cache=case / "cache")
    e, exemplars = r.embeddings(r.probe), r.exemplars
    words = embed_concepts(encoder, listed)
    fakes = fake_exemplars(r.activations(r.probe), e, 60, 3, "permuted", exemplars.neurons, **r.mining)
    got = align("csp:gamma=0.5", exemplars, fakes, e, words)

    def unit(v: np.ndarray) -> np.ndarray:
        return v / np.linalg.norm(v)

    everyone = together(exemplars, fakes)
    scores, lengths = np.full((len(everyone), len(listed)), -np.inf), np.zeros(len(everyone))
    empty = unit(np.mean([encoder.texts([t.replace("{}", "").strip()])[0].numpy() for t in listed.templates], 0))
    alone = np.zeros(len(everyone))
    for n in range(len(everyone)):
        mean = np.zeros(4)
        weights = np.maximum(0, everyone.activations[n].double().numpy())
        for k, p in enumerate(everyone.positives[n].tolist()):
            q = int(everyone.contrasts[n, k])
            residual = e[p].double().numpy()
            if q >= 0:
                residual = residual - 0.5 * float(everyone.similarities[n, k]) * e[q].double().numpy()
            mean += weights[k] / weights.sum() * residual
        lengths[n] = np.linalg.norm(mean)
        alone[n] = unit(mean) @ empty
        for c, concept in enumerate(listed):
            for wording in concept.wordings:
                rows = [encoder.texts([t.replace("{}", wording)])[0].double().numpy() for t in listed.templates]
                scores[n, c] = max(scores[n, c], unit(mean) @ unit(np.mean([unit(row) for row in rows], 0)))
    assert np.allclose(got.scores, scores[:4], atol=1e-6)
    assert np.allclose(got.empty, alone[:4], atol=1e-6)
    null = scores[4:22]  # the first 30 % of 60 fakes calibrate
    z = (scores[:4] - null.mean(0)) / null.std(0)
    assert np.allclose(got.z, z, atol=1e-4)
    assert got.best.tolist() == z.argmax(1).tolist()
    projected = scores * lengths[:, None]
    null = projected[4:22]
    tested = (projected - null.mean(0)) / null.std(0)
    largest = tested[22:].max(1)
    for n, c in enumerate(z.argmax(1)):
        assert float(got.p[n]) == pytest.approx((1 + (largest >= tested[n, c]).sum()) / (len(largest) + 1))


def test_whether_the_encoder_tells_concepts_apart_is_measured(case: Path, settings: dict[str, Any]) -> None:
    listed = concept_list(CONCEPTS)
    e = torch.nn.functional.normalize(torch.randn(50, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    words = embed_concepts(HueEncoder(), listed)
    got = separation(e, words)
    columns = [[] for _ in listed]
    for c, concept in enumerate(listed):
        for wording in concept.wordings:
            for template in listed.templates:
                text = HueEncoder().texts([template.replace("{}", wording)])[0]
                columns[c].append((e @ text).double().numpy())
                columns[c][-1] -= columns[c][-1].mean()
    shared = np.mean([np.mean(group, 0) for group in columns], 0)
    r = lambda a, b: np.corrcoef(a - shared, b - shared)[0, 1]  # noqa: E731
    for c, own in enumerate(columns):
        within = np.mean([r(a, b) for i, a in enumerate(own) for j, b in enumerate(own) if i != j])
        others = [np.mean([r(a, b) for a in own for b in group]) for d, group in enumerate(columns) if d != c]
        assert float(got.within[c]) == pytest.approx(within, abs=1e-5)
        assert float(got.across[c]) == pytest.approx(max(others), abs=1e-5)
    assert got.confused == []
    assert len(e) < MOST_IMAGES

    blind = contralens.audit(case / "run", CONCEPTS, **{**settings, "encoder": Blind()})
    assert blind.manifest["separation"]["confused"] >= 2
    assert any("cannot separate" in line and "blind" in line for line in blind.warnings)
    assert blind.manifest["encoder"] == {"name": "blind", "fingerprint": "b1" * 16, "labeling": False}
    single = contralens.audit(
        case / "run", {"expected": ["red", "blue"], "spurious": ["lime", "yellow"]}, **settings
    )  # fmt: skip
    assert any("cannot be measured for 4 concepts" in line for line in single.warnings)


def test_a_scorer_that_looks_at_all_activations_is_given_the_fakes_too(case: Path, settings: dict[str, Any]) -> None:
    from contralens.run_data.reopened import Reopened

    found = contralens.audit(case / "run", CONCEPTS, scorer="lookalike", **settings)
    assert found.manifest["scorer"] == "lookalike"
    rows = {row["neuron"]: row for row in found.rows()}
    assert [rows[n]["best"] for n in (0, 1, SPURIOUS)] == ["red", "blue", "lime"]
    r = Reopened(load(case / "run"), encoder=HueEncoder(), cache=case / "cache", target=settings["target"])
    e, a = r.embeddings(r.probe), r.activations(r.probe)
    words = embed_concepts(HueEncoder(), concept_list(CONCEPTS))
    fakes = fake_exemplars(a, e, 300, 0, "permuted", r.exemplars.neurons, **r.mining)
    scores = lookalike(
        together(r.exemplars, fakes), e, words.texts, activations=with_fakes(a, 300, 0, neurons=r.exemplars.neurons)
    )
    told = standardised(torch.stack([scores[:, words.concept == c].amax(1) for c in range(4)], 1), len(rows))
    for n, row in rows.items():
        assert row["z"] == pytest.approx(float(told[r.exemplars.neurons.tolist().index(n)].max()), abs=1e-4)


@pytest.mark.filterwarnings("ignore:the rendered world's encoder does not know")
def test_wordings_that_the_encoder_refuses_are_left_out_and_told() -> None:
    encoder = load_encoder()
    given: dict[str, Any] = {
        "templates": ["{}", "a photo of a {} object"],
        "expected": [{"name": "striped", "synonyms": ["xyzzy", "banded"]}],
        "spurious": [{"name": "red", "prompts": ["a red thing"]}],
    }  # fmt: skip
    words = embed_concepts(encoder, concept_list(given))
    assert words.names == ["striped", "banded", "red", "a red thing"]
    assert words.concept.tolist() == [0, 0, 1, 1]
    assert torch.allclose(words.texts[:3], embed_texts(encoder, words.names[:3], given["templates"]), atol=1e-6)
    assert torch.equal(words.texts[3:], encoder.texts(["a red thing"]))
    assert words.single_concept.tolist() == [0, 0, 1, 0, 0, 1, 1]
    assert "refuses 1 wordings: xyzzy" in words.notes[0]
    assert "1 of 2 empty templates" in words.notes[1]
    with pytest.raises(InputError, match="reads no wording of xyzzy"):
        embed_concepts(encoder, concept_list({"expected": ["xyzzy"], "spurious": ["red"]}))


def test_neurons_that_mean_nothing_are_unexplained_at_about_the_rate_asked_for(case: Path) -> None:
    """Permuted neurons against other permuted ones: hardly any may be kept."""
    from contralens.run_data.reopened import Reopened

    r = Reopened(load(case / "run"), encoder=HueEncoder(), cache=case / "cache")
    e, a = r.embeddings(r.probe), r.activations(r.probe)
    words = embed_concepts(HueEncoder(), concept_list(CONCEPTS))
    kept = 0
    for seed in range(5):
        nothing = fake_exemplars(a, e, 60, 100 + seed, "permuted", r.exemplars.neurons, **r.mining)
        fakes = fake_exemplars(a, e, 400, seed, "permuted", r.exemplars.neurons, **r.mining)
        kept += int(align("csp", nothing, fakes, e, words).explained(0.05).sum())
    assert kept <= 9, f"{kept} of 300 neurons that mean nothing got a verdict"


def test_a_network_without_a_linear_head_and_images_that_are_known(case: Path, tmp_path: Path) -> None:
    class Squared(StripNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.relu(self.conv(x)).mean((2, 3)) ** 2)

    t = contralens.target(Squared().eval(), "relu", preprocess=to_pixels)
    run = contralens.label(
        t, case / "probe/images", HueEncoder(), COLOURS, k=12, scorers=["csp"], out=tmp_path / "run"
    )  # fmt: skip
    found = contralens.audit(run, CONCEPTS, target=t, encoder=HueEncoder(), fakes=200, labeled=case / "probe/images")
    assert any("no head influence" in line for line in found.warnings)
    assert any("of the labeled images were used for the verdicts" in line for line in found.warnings)
    assert any("classes are used as the network's, in order: benign, melanoma" in line for line in found.warnings)
    rows = found.influence.to_pylist()
    assert all(np.isnan(row["head"]) for row in rows)
    for row in rows:  # the score is a quadratic form: first order tells twice what a squared neuron adds alone
        assert row["gradient"] == pytest.approx(2 * row["ablation"], rel=1e-3, abs=1e-5)
    named = contralens.audit(run, CONCEPTS, target=t, encoder=HueEncoder(), fakes=200, head="head", save=False)
    assert any("its influence is an estimate" in line for line in named.warnings)
    assert not any(np.isnan(row["head"]) for row in named.influence.to_pylist())


def test_of_output_neurons_few_are_switched_off(case: Path) -> None:
    class Many(StripNet):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(5, 12)

    t = contralens.target(Many().eval(), "head", preprocess=to_pixels)
    run = contralens.label(t, case / "probe/images", HueEncoder(), COLOURS, k=12, scorers=["csp"])
    found = contralens.audit(run, CONCEPTS, target=t, encoder=HueEncoder(), fakes=200)
    about = found.manifest["influence"]
    assert about["head"] == "the neurons are the class scores"
    assert about["switched off"] <= 8 < about["neurons"]
    for row in found.influence.to_pylist():
        if row["class"] != f"class {row['neuron']}":
            assert row["head"] == 0
    whole = contralens.audit(run, CONCEPTS, target=t, encoder=HueEncoder(), fakes=200, head="none")
    assert whole.manifest["influence"]["switched off"] == about["neurons"]
    for ours, theirs in zip(found.influence.to_pylist(), whole.influence.to_pylist(), strict=True):
        assert ours["ablation"] == pytest.approx(theirs["ablation"], rel=1e-4, abs=1e-5)


def test_effects_are_measured_in_single_precision_whatever_the_run_was(case: Path) -> None:
    t = contralens.target(StripNet().eval(), "relu", preprocess=to_pixels, dtype="bf16")
    run = contralens.label(t, case / "probe/images", HueEncoder(), COLOURS, k=12, scorers=["csp"])
    found = contralens.audit(run, CONCEPTS, target=t, encoder=HueEncoder(), fakes=200)
    assert found.path is None
    assert found.manifest["influence"]["head"] == "found by running the network"
    rows = found.influence.to_pylist()
    assert all(row["gradient"] == pytest.approx(row["ablation"], abs=1e-5) for row in rows)
    assert all(row["head"] == pytest.approx(row["ablation"], rel=0.02, abs=0.01) for row in rows)


def test_where_nothing_can_be_pruned_it_is_said(case: Path, tmp_path: Path) -> None:
    class Maps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = StripNet()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net.relu(self.net.conv(x))

    t = contralens.target(Maps().eval(), "net.relu", preprocess=to_pixels)
    run = contralens.label(t, case / "probe/images", HueEncoder(), COLOURS, k=12, out=tmp_path / "run")
    found = contralens.audit(run, CONCEPTS, target=t, encoder=HueEncoder(), fakes=200)
    assert found.counts["spurious"] == 1
    assert found.influence.num_rows == found.pruning.num_rows == 0
    assert any("no influence and no pruning" in line for line in found.warnings)
    with pytest.raises(InputError, match="not one row of class scores"):
        contralens.audit(run, CONCEPTS, target=t, encoder=HueEncoder(), fakes=200, labeled=case / "fair/images")
    fine = {"expected": ["red", "blue", "lime"], "spurious": ["yellow"]}
    t = contralens.target(StripNet().eval(), "relu", preprocess=to_pixels)
    clean = contralens.audit(
        case / "run", fine, target=t, encoder=HueEncoder(), fakes=200, labeled=case / "fair/images", save=False,
        cache=case / "cache",
    )  # fmt: skip
    if clean.counts["spurious"] == 0:
        assert any("nothing was pruned" in line for line in clean.warnings)
        assert clean.mask.tolist() == [1] * 5


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"fdr": 0.0}, "between 0 and 1"),
        ({"mode": "sfot"}, "did you mean soft"),
        ({"images": 0}, "at least 1"),
        ({"scorer": "cps"}, "did you mean csp"),
        ({"classes": ["a", "b", "c"]}, "3 class names do not fit the network's 2"),
        ({"head": "haed"}, "did you mean head"),
        ({"follow": ["melanom"], "classes": CLASSES}, "did you mean melanoma"),
        ({"fakes": 10}, "too few"),
        ({"labeled": "/no/where"}, "no folder"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    case: Path, settings: dict[str, Any], given: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words) as told:
        contralens.audit(case / "run", CONCEPTS, **{**settings, **given})
    assert "\n" not in str(told.value)


def test_labels_and_subgroups_that_do_not_fit(case: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    given = {**settings, "labeled": case / "fair/images"}
    with pytest.raises(InputError, match="no output called 'benign'"):
        contralens.audit(case / "run", CONCEPTS, classes=["nevus", "melanoma"], **given)
    (tmp_path / "groups.csv").write_text("image,strip\nnone,yes\n")
    with pytest.raises(InputError, match="name none of the images"):
        contralens.audit(case / "run", CONCEPTS, subgroups=tmp_path / "groups.csv", **given)
    three = shutil.copytree(case / "fair/images", tmp_path / "three")
    (three / "other").mkdir()
    shutil.copy(next((three / "benign").iterdir()), three / "other/x.png")
    with pytest.raises(InputError, match="network has 2 outputs"):
        contralens.audit(case / "run", CONCEPTS, **{**settings, "labeled": three})
    with pytest.raises(InputError, match="holds no audit"):
        load_audit(tmp_path)
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit/audit.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        load_audit(tmp_path)


def _work(case: Path, run: Path) -> None:
    contralens.audit(
        run, CONCEPTS, labeled=case / "fair/images", encoder=HueEncoder(), cache=case / "cache", fakes=200,
        target=contralens.target(StripNet().eval(), "relu", preprocess=to_pixels),
    )  # fmt: skip


def _same(one: Audit, other: Audit) -> None:
    """Equal up to rounding: sums may come in another order in another process."""
    assert one.mask.tolist() == other.mask.tolist()
    assert set(one.manifest) == set(other.manifest)
    for name in ("neurons", "influence", "pruning"):
        a, b = (getattr(x, name).to_pydict() for x in (one, other))
        for column, values in a.items():
            if values and isinstance(values[0], float):
                assert np.allclose(values, b[column], atol=1e-5, equal_nan=True), column
            else:
                assert values == b[column], column


def test_killed_at_any_moment_the_audit_is_whole_or_not_there(case: Path, tmp_path: Path) -> None:
    run = shutil.copytree(case / "run", tmp_path / "run", ignore=shutil.ignore_patterns("audit"))
    _work(case, run)
    start = time.perf_counter()
    _work(case, run)
    duration = time.perf_counter() - start
    expected = {p.name: p.read_bytes() for p in sorted((run / "audit").iterdir())}
    assert sorted(expected) == [
        "audit.json",
        "influence.parquet",
        "mask.safetensors",
        "neurons.parquet",
        "pruning.parquet",
    ]
    whole = load_audit(run)
    shutil.rmtree(run / "audit")
    fork, seeded, died = multiprocessing.get_context("fork"), random.Random(0), 0
    while died < 8:
        child = fork.Process(target=_work, args=(case, run))
        child.start()
        child.join(seeded.uniform(0.2, 1.1) * duration)
        if child.is_alive():
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
            died += 1
        child.join()
        if (run / "audit").exists():
            assert sorted(p.name for p in (run / "audit").iterdir()) == sorted(expected)
            _same(load_audit(run), whole)
            shutil.rmtree(run / "audit")
        assert isinstance(load(run), Run)


def test_the_command(case: Path, tmp_path: Path) -> None:
    code = tmp_path / "net.py"
    code.write_text("import strip_case\nnetwork = strip_case.network\n")
    contralens.label(
        f"module:{code}:network", case / "probe/images", HueEncoder(), COLOURS, layer="relu", k=12, scorers=["csp"],
        out=tmp_path / "run",
    )  # fmt: skip
    (tmp_path / "strips.yaml").write_text(yaml.safe_dump(CONCEPTS))
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    hues = (
        "import strip_case, contralens.encoders.registry as e; real = e.encoder\n"
        "e.encoder = lambda spec, **o: strip_case.HueEncoder() if spec == 'hues' else real(spec, **o)\n"
        "from contralens.cli import main; main()"
    )
    options = [
        "--concepts", str(tmp_path / "strips.yaml"), "--labeled", str(case / "fair/images"), "--fakes", "200",
        "--subgroups", str(case / "fair/groups.csv"), "--classes", str(tmp_path / "classes.txt"),
    ]  # fmt: skip

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return processes.run(processes.code, hues, "audit", tmp_path / "run", *more)

    done = run(*options)
    assert done.returncode == 0, done.stderr
    for words in ("spurious: 1 neurons", "lime", "melanoma +", "hard", "strip=yes", "mask.safetensors", "audit.html"):
        assert words in done.stdout, done.stdout
    first = load_audit(tmp_path / "run").pruning.to_pylist()
    assert {row["mode"] for row in first} == {"hard", "random"}
    fair = sorted((case / "fair/images").rglob("*.png"))
    rows = [f"{file.parent.name} {file.stem},{file.parent.name}/{file.name},{file.parent.name}" for file in fair]
    (tmp_path / "table.csv").write_text("\n".join(["case,photo,verdict", *rows]))
    tables = ["--table", str(tmp_path / "table.csv"), "--class-column", "verdict", "--image-column", "photo"]
    again = json.loads(run(*options, *tables, "--json").stdout)
    assert again["manifest"]["verdicts"]["spurious"] == 1
    assert again["pruning"] == first
    for more, words in (
        (["--concepts", "dermoscpy"], "did you mean dermoscopy"), ([*options, "--mode", "hrad"], "did you mean hard"),
        (["--concepts", "dermoscopy", "--table", "x.csv"], "say with --labeled"),
        (["--concepts", "dermoscopy", "--class-column", "x"], "say with --labeled"),
        ([*options, *tables[:2], "--class-column", "verdit"], "did you mean verdict"),
    ):  # fmt: skip
        done = run(*more)
        assert done.returncode == 2
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


EVIL = "<script>document.title='hacked'</script>\"'&"


def test_the_page_stands_alone_and_nothing_in_it_runs(case: Path, found: Audit, tmp_path: Path) -> None:
    run = load(case / "run")
    page = write_audit_page(run, out=tmp_path / "audit.html").read_text()
    assert page == audit_page(run, found)
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    for words in ("Strips", "lime", "melanoma", "Spurious: 1", "strip=yes", "Effect of pruning", "Unexplained"):
        assert words in page
    assert page.count("data:image/jpeg") >= 3 * 2 * 8
    evil = contralens.audit(
        case / "run", {**CONCEPTS, "title": EVIL, "about": EVIL}, classes=[EVIL, "b"], encoder=HueEncoder(),
        target=contralens.target(StripNet().eval(), "relu", preprocess=to_pixels), cache=case / "cache", fakes=200,
        save=False, labeled=None,
    )  # fmt: skip
    page = audit_page(run, evil)
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_chance_keeps_its_meaning_for_scores_that_were_standardised() -> None:
    scores = torch.randn(120, 5, generator=torch.Generator().manual_seed(1)).double()
    one = chance_of(scores, 20, labels=scores[:20].argmax(1), others=False)
    z = standardised(scores, 20)
    best = scores[:20].argmax(1)
    assert torch.allclose(one.z, z[:20].gather(1, best[:, None])[:, 0])


def test_paired_intervals_cover_about_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        before = generator.random(80) < 0.6
        after = np.where(generator.random(80) < 0.25, generator.random(80) < 0.9, before)
        found = paired_interval(before, after, seed=seed)
        covered += found.low <= 0.25 * (0.9 - 0.6) <= found.high
    assert 0.88 <= covered / 200 <= 0.99
    strata = np.array([0] * 30 + [1] * 10)
    after = np.concatenate([np.ones(30), np.zeros(10)])
    assert paired_interval(np.zeros(40), after, strata).mean == 0.5


def test_the_score_of_a_plain_scorer_is_the_scorers_own(found: Audit, case: Path) -> None:
    from contralens.run_data.reopened import Reopened

    r = Reopened(load(case / "run"), encoder=HueEncoder(), cache=case / "cache")
    words = embed_concepts(HueEncoder(), concept_list(CONCEPTS))
    own = csp(r.exemplars, r.embeddings(r.probe), words.texts)
    best = [row["best"] for row in found.rows()]
    names = [c.name for c in concept_list(CONCEPTS)]
    for n, row in enumerate(found.rows()):
        mine = own[n][words.concept == names.index(best[n])]
        assert row["score"] == pytest.approx(float(mine.max()), abs=1e-6)
