"""Evaluation where the truth is known: right labels first, metrics against true names, judges that are no witnesses."""

from __future__ import annotations

import json
import math

import pytest
import torch
from colour_case import COLOURS, ColourEncoder

from contralens.errors import InputError
from contralens.evaluation.evaluate import evaluate, summarise
from contralens.evaluation.ground_truth import sanity_record, truth_of
from contralens.evaluation.judge_independence import is_target, shared
from contralens.math.metric_sanity import Sanity
from contralens.math.simulation import ALPHAS
from contralens.run_data.reopened import Reopened


def test_the_share_of_right_labels_comes_first(run, settings, tmp_path):
    rows = run.rows("csp")
    names = {row["neuron"]: row["label"] for row in rows if row["label"] is not None}
    wrong = min(names)
    names[wrong] = next(c for c in COLOURS if c != names[wrong])
    left = max(names)
    del names[left]
    found = evaluate(run, metrics="pearson,auprc", scorers=["csp"], truth=names, **settings)
    first = found.summary.to_pylist()[0]
    assert (first["metric"], first["neurons"]) == ("right", len(names))
    assert first["mean"] == pytest.approx(1 - 1 / len(names))
    right = found.value("right", "csp")
    assert right[wrong] == 0
    assert math.isnan(right[left])
    assert found.manifest["truth"]["neurons"] == len(names)
    below = found.manifest["truth"]["ranked below the true name"]
    assert below.keys() == {"pearson", "auprc"}
    assert all(share in (0.0, 0.5, 1.0) for share in below.values())  # one wrong label
    assert found.manifest["sanity"]["pearson"]["truth"] == below["pearson"]

    for file, text in (
        ("truth.json", json.dumps(names)),
        ("truth.csv", "neuron,label\n" + "".join(f"{run.rows()[n]['name']},{c}\n" for n, c in names.items())),
    ):
        (tmp_path / file).write_text(text)
        told = evaluate(run, metrics="audit", scorers=["csp"], truth=tmp_path / file, **settings)
        same = told.value("right", "csp")
        assert {n: v for n, v in same.items() if n != left} == {n: v for n, v in right.items() if n != left}


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("t.csv", "neuron,name\n0,red\n", "needs the columns neuron and label; it has neuron, name"),
        ("t.json", "[1, 2]", "must give each neuron a name"),
        ("t.json", "{", "cannot be read"),
        ("t.json", '{"999": "red"}', "names neuron 999, which the run does not have"),
    ],
)
def test_a_truth_that_is_none_is_refused(run, tmp_path, file, text, says):
    (tmp_path / file).write_text(text)
    with pytest.raises(InputError, match=says):
        truth_of(run, tmp_path / file)


def test_without_a_truth_nothing_is_said_of_right(run, settings):
    found = evaluate(run, metrics="audit", **settings)
    assert "truth" not in found.manifest
    assert "right" not in found.metrics


def test_synonyms_of_a_noun_with_one_meaning_are_right(run):
    found = truth_of(run, {0: "tench, Tinca tinca", 1: ["gold_finch", "Carduelis carduelis"]})
    assert found.is_right(0, "Tinca  Tinca")
    assert found.is_right(0, "tench")
    assert found.is_right(1, "gold finch")
    assert not found.is_right(0, "goldfish")
    assert found.names == {0: "tench", 1: "gold_finch"}


def test_a_metric_that_ranks_wrong_labels_above_the_true_names_is_not_sane():
    test = Sanity(1.0, 1.0, 0.5, 0.5, 9)
    kept = sanity_record({"pearson": test, "auprc": test, "f1": test}, {"pearson": 0.4, "auprc": 0.6})
    assert (kept["pearson"]["passes"], kept["pearson"]["misses"]) == (False, ["truth"])
    assert (kept["auprc"]["passes"], kept["auprc"]["misses"]) == (True, [])
    assert (kept["f1"]["passes"], kept["f1"]["truth"]) == (True, None)


def test_judges_that_share_the_text_model_are_noted(run, settings):
    reopened = Reopened(run, heldout=settings["heldout"], cache=settings["cache"], encoder=ColourEncoder())
    assert shared(reopened, ColourEncoder()) == []  # the encoder itself is told of elsewhere
    assert any("one text model" in note for note in shared(reopened, settings["judge"]))

    class Other(ColourEncoder):
        """Reads every word as the next one."""

        def texts(self, texts):
            return super().texts([COLOURS[(COLOURS.index(t.split()[-1]) * 3 + 1) % len(COLOURS)] for t in texts])

    assert shared(reopened, Other(1.2)) == []
    reopened.encoder.classes = judge_classes = ("red", "lime")
    other = Other(1.2)
    assert shared(reopened, other) == []
    other.classes = judge_classes
    assert ["know the same 2 classes" in note for note in shared(reopened, other)] == [True]
    told = evaluate(run, metrics="pearson", **settings)
    assert any("one text model" in note for note in told.manifest["notes"])


def test_a_judge_that_holds_the_networks_weights_is_refused(run, settings):
    reopened = Reopened(run, heldout=settings["heldout"], cache=settings["cache"], target=settings["target"])
    assert not is_target(reopened, settings["judge"])

    class Sees(ColourEncoder):
        """An encoder built on the network under study."""

        def __init__(self) -> None:
            super().__init__()
            self.fingerprint, self.network = "sees", reopened.target.module

    assert is_target(reopened, Sees())
    with pytest.raises(InputError, match="contains the weights of the network under study"):
        evaluate(run, **(settings | {"judge": Sees(), "metrics": "pearson"}))


def test_metrics_through_the_sigmoid_count_the_same_neurons_for_every_scorer(run, settings):
    values = evaluate(run, metrics="cosine,pearson", **settings).values
    at = values.schema.get_field_index("value")
    column = values["value"].to_pylist()
    keys = list(zip(*(values[c].to_pylist() for c in ("scorer", "metric", "neuron")), strict=True))
    scorers = list(dict.fromkeys(s for s, _, _ in keys))
    for metric in ("cosine", "pearson"):
        place = keys.index((scorers[0], metric, next(n for s, m, n in keys if (s, m) == (scorers[0], metric))))
        column[place] = math.nan
    told = values.set_column(at, "value", [column])
    rows = {(r["scorer"], r["metric"]): r for r in summarise(told).to_pylist()}
    counts = {s: rows[s, "cosine"]["neurons"] for s in scorers}
    assert len(set(counts.values())) == 1
    assert rows[scorers[0], "pearson"]["neurons"] < rows[scorers[1], "pearson"]["neurons"]


def test_metrics_through_a_sigmoid_that_the_labels_do_not_determine_are_left_out(run, settings):
    """A judge that likes no image more than another gives no slope; a slope that is given counts."""
    values = {"metrics": "cosine,pearson,pearson_sigmoid", "scorers": ["csp"], **settings}

    class Blind(ColourEncoder):
        """Sees the same in every image, but for a trace of its colour."""

        def __call__(self, batch):
            rows = super().__call__(batch)
            return torch.nn.functional.normalize(torch.ones_like(rows) + 1e-4 * rows, dim=1)

    blind = Blind(1.2)
    blind.fingerprint = "b1" * 16
    told = evaluate(run, **{**values, "judge": blind})
    assert told.manifest["sigmoid"]["alpha"] in (ALPHAS[0], ALPHAS[-1])
    assert all(math.isnan(v) for m in ("cosine", "pearson_sigmoid") for v in told.value(m, "csp").values())
    assert any("cosine are undefined" in note for note in told.manifest["notes"])
    given = evaluate(run, **{**values, "judge": blind, "sigmoid": (1.0, 0.0)})
    assert any(not math.isnan(v) for v in given.value("pearson_sigmoid", "csp").values())
