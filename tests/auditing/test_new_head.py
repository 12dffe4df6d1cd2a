"""A new head on the neurons that are not spurious, and the line that follows from an audit's numbers."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from strip_case import CLASSES, CONCEPTS, SPURIOUS, HueEncoder, StripNet, draw_folder, to_pixels
from torch import nn

import contralens
from contralens.auditing.conclusions import conclusion, explanation
from contralens.auditing.network import is_output
from contralens.auditing.new_head import HELD_OUT, LEAST, check_enough, fit_new_head
from contralens.auditing.pruning import read_labeled
from contralens.data.audits import Audit, load_audit
from contralens.data.new_heads import load_head
from contralens.data.runs import load
from contralens.errors import InputError
from contralens.holdout import drawn
from contralens.report.audit_page import audit_page
from contralens.report.audit_tables import audit_tables


def target() -> Any:
    return contralens.target(StripNet().eval(), "relu", preprocess=to_pixels)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("head")
    draw_folder(home / "probe", 160, 0, 0.85)
    draw_folder(home / "fair", 160, 1, 0.1)
    contralens.label(
        target(), home / "probe/images", HueEncoder(), ["red", "blue", "lime", "yellow"], k=12, scorers=["csp"],
        out=home / "run", cache=home / "cache",
    )  # fmt: skip
    return home


@pytest.fixture(scope="module")
def found(case: Path) -> Audit:
    return contralens.audit(
        case / "run", CONCEPTS, labeled=case / "fair/images", subgroups=case / "fair/groups.csv", classes=CLASSES,
        target=target(), encoder=HueEncoder(), cache=case / "cache", fakes=200, new_head=True,
    )  # fmt: skip


def test_the_head_leaves_the_spurious_neuron_out_and_is_measured_on_other_images(case: Path, found: Audit) -> None:
    assert found.counts["spurious"] == 1
    head, told = found.new_head, found.manifest["new_head"]
    assert head is not None
    assert head.keep.tolist() == [1, 1, 0, 1, 1]
    assert (head.weight[:, SPURIOUS] == 0).all()
    assert head.classes == CLASSES
    labeled = read_labeled(case / "fair/images", CLASSES, 2)
    out = np.array(drawn(labeled.images.fingerprints(), HELD_OUT, 0, "new head"))
    assert (told["fitted_on"], told["held_out"]) == (int((~out).sum()), int(out.sum()))
    batch = torch.stack([to_pixels(labeled.images.load(i)) for i in np.flatnonzero(out)])
    truth = labeled.targets[out]
    rows = {row["group"]: row for row in told["rows"]}
    assert set(rows) == {"all", "class=benign", "class=melanoma", "strip=yes", "strip=no"}
    every = rows["all"]
    net = StripNet().eval()
    assert every["before"] == pytest.approx(float((net(batch).argmax(1).numpy() == truth).mean()))
    with contralens.pruned(net, found.mask, layer="relu"):
        assert every["pruned"] == pytest.approx(float((net(batch).argmax(1).numpy() == truth).mean()))
    scores = head(target()(batch).numpy())
    assert every["after"] == pytest.approx(float((scores.argmax(1) == truth).mean()))
    assert every["before"] < 0.7 < 0.95 < every["after"]
    assert every["low"] > 0


def test_the_head_is_written_and_read_back(case: Path, found: Audit) -> None:
    again = load_audit(case / "run")
    assert again.new_head is not None
    assert found.new_head is not None
    assert np.array_equal(again.new_head.weight, found.new_head.weight)
    file = case / "run/audit/head.safetensors"
    head = load_head(file)
    assert head.about["layer"] == "relu"
    tensors = load_file(file)
    net = StripNet().eval()
    with torch.no_grad():  # as the docs have it: into the network itself
        net.head.weight.copy_(tensors["weight"])
        net.head.bias.copy_(tensors["bias"])
    batch = torch.rand(4, 3, 16, 16)
    assert np.allclose(net(batch).detach().numpy(), head(target()(batch).numpy()), atol=1e-4)
    with pytest.raises(InputError, match="takes rows of 5 neurons"):
        head(np.zeros((2, 3)))
    with pytest.raises(InputError, match="make one with"):
        load_head(case / "none.safetensors")
    with pytest.raises(InputError, match="is not a head"):
        load_head(case / "run/audit/mask.safetensors")


def test_it_is_shown(case: Path, found: Audit, capsys: pytest.CaptureFixture[str]) -> None:
    audit_tables(found)
    told = capsys.readouterr().out
    page = audit_page(load(case / "run"), found)
    for words in ("1 neuron looks spurious; pruning it raises accuracy", "A new head without the 1 spurious neuron"):
        assert words in told
        assert words in page
    assert "new head: without 1 of 5 neurons" in told
    names = load(case / "run").neurons["name"].to_pylist()
    assert all(re.search(rf"^{re.escape(names[row['neuron']])} ", told, re.M) for row in found.rows("spurious"))
    assert "head.safetensors" in told
    assert "Effect of a new head" in page
    assert "2 of 2 classes are missing from the list (benign, melanoma)" in told
    assert found.manifest["missing_classes"] == list(CLASSES)


def test_the_same_seed_gives_the_same_head_and_a_mask_does_not_matter(case: Path) -> None:
    labeled = read_labeled(case / "fair/images", CLASSES, 2)
    off = torch.tensor([SPURIOUS])
    one, first = fit_new_head(target(), labeled, torch.ones(5), off, seed=3)
    other, second = fit_new_head(target(), labeled, torch.ones(5).index_fill(0, off, 0.0), off, seed=3)
    assert np.allclose(one.weight, other.weight, atol=1e-5)
    assert first["rows"][0]["after"] == second["rows"][0]["after"]
    assert first["rows"][0]["pruned"] != second["rows"][0]["pruned"]


def test_what_cannot_be_fitted_is_refused_in_a_line(case: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "target": target(), "encoder": HueEncoder(), "cache": case / "cache", "fakes": 200, "save": False,
        "classes": CLASSES, "new_head": True,
    }  # fmt: skip
    for lone in ({"subgroups": "sub.csv"}, {"unseen": True}, {"class_column": "dx"}):
        with pytest.raises(InputError, match=f"`{next(iter(lone))}` is about labeled images"):
            contralens.audit(case / "run", CONCEPTS, **lone)
    with pytest.raises(InputError, match="needs labeled images with classes"):
        contralens.audit(case / "run", CONCEPTS, **given)
    for name, count in zip(CLASSES, (LEAST - 1, 30), strict=True):
        (tmp_path / "few" / name).mkdir(parents=True)
        for file in sorted((case / "fair/images" / name).iterdir())[:count]:
            shutil.copy(file, tmp_path / "few" / name)
    with pytest.raises(InputError, match="has 9 of 'benign'") as told:
        contralens.audit(case / "run", CONCEPTS, labeled=tmp_path / "few", **given)
    assert "\n" not in str(told.value)
    labeled = read_labeled(case / "fair/images", CLASSES, 2)
    with pytest.raises(InputError, match="two classes or more"):
        check_enough(labeled.take(labeled.targets == 1))


def test_verdicts_on_class_scores_say_what_they_mean(case: Path) -> None:
    out = contralens.target(StripNet().eval(), ".", preprocess=to_pixels)
    run = contralens.label(out, case / "probe/images", HueEncoder(), ["red", "blue", "lime"], k=12, scorers=["csp"])
    told = contralens.audit(run, CONCEPTS, target=out, encoder=HueEncoder(), fakes=200).manifest
    assert told["output_layer"]
    assert told["explanation"][0].startswith("The audited layer is the classifier's output")
    batch = torch.rand(5, 3, 16, 16)
    soft = contralens.target(nn.Sequential(StripNet(), nn.Softmax(1)).eval(), "0.head", preprocess=to_pixels)
    assert is_output(soft, batch, soft.module(batch).detach()) is False
    plain = contralens.target(StripNet().eval(), "head", preprocess=to_pixels)
    assert is_output(plain, batch, plain.module(batch).detach())
    assert not is_output(target(), batch, StripNet()(batch).detach())


def row(change: float, low: float, high: float, mode: str = "hard", group: str = "all") -> dict[str, Any]:
    return {"group": group, "mode": mode, "difference": change, "low": low, "high": high}


@pytest.mark.parametrize(
    ("counts", "rows", "words"),
    [
        ({"spurious": 29}, [row(-0.15, -0.19, -0.11)], "29 neurons look spurious; pruning them costs 15.0 points"),
        ({"spurious": 29}, [row(-0.15, -0.19, -0.11)], "do not prune"),
        ({"spurious": 1}, [row(0.0, -0.01, 0.02)], "1 neuron looks spurious; pruning it changes accuracy by +0.0"),
        ({"spurious": 2}, [row(0.1, 0.05, 0.15), row(0.0, -0.01, 0.01, "random")], "pruning helps"),
        (
            {"spurious": 2},
            [row(0.1, 0.05, 0.15), row(0.1, 0.05, 0.15, "random")],
            "random neurons may have the same effect",
        ),
        ({"spurious": 2}, [], "was not measured"),
        ({"expected": 3, "undecided": 2}, [], "No neuron looks spurious (3 neurons for an expected concept, 2 und"),
    ],
)
def test_the_conclusion_follows_from_the_numbers(
    counts: dict[str, int], rows: list[dict[str, Any]], words: str
) -> None:
    told = conclusion(counts, rows, labeled=bool(rows))
    assert words in told
    assert "\n" not in told


def test_a_headline_and_a_verdict_that_disagree_are_explained() -> None:
    def told(*rows: dict[str, Any]) -> str:
        return " ".join(explanation({"spurious": 2}, rows, "hard", False, [], 2, None))

    assert "A spurious verdict describes what a neuron responds to" in told(row(-0.1, -0.2, -0.05))
    assert "changes nothing on these images" in told(row(0.0, -0.1, 0.1))
    mixed = told(row(-0.1, -0.2, -0.05), row(0.3, 0.2, 0.4, group="strip=no"), row(0.3, 0.2, 0.4, "random", "x=1"))
    assert "Accuracy still rises on some images: strip=no +30.0." in mixed
    assert "Accuracy falls on some images: class=a -20.0." in told(
        row(0.1, 0.05, 0.2), row(-0.2, -0.3, -0.1, group="class=a")
    )
    assert told() == ""


def test_groups_stay_on_one_side_of_the_split(case: Path) -> None:
    labeled = read_labeled(case / "fair/images", CLASSES, 2)
    lesions = [f"lesion {i // 4}" for i in range(len(labeled))]
    out = np.array(drawn([f"group {name}" for name in lesions], HELD_OUT, 0, "new head"))
    assert all(len(set(out[i : i + 4])) == 1 for i in range(0, len(out), 4))
    _, told = fit_new_head(target(), labeled, torch.ones(5), torch.tensor([SPURIOUS]), clusters=lesions)
    assert told["held_out"] == int(out.sum())
    assert "groups of" in told["interval"]
