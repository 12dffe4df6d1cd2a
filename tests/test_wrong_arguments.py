"""Wrong arguments are one line, before memory is taken or anything is dropped."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
import torch
from coloured import COLOURS, ColourEncoder, ColourNet, to_pixels
from torch import Tensor, nn

import contralens
from contralens.config import read_config
from contralens.data.runs import Run, load
from contralens.data.vocabulary import read_vocabulary
from contralens.errors import InputError
from contralens.labeling.layers import label_layers
from contralens.settings.kinds import indices

PP = "resize=32x32,mean=half"
BAD = (-1, 10**30, 2.5, "5", True, float("nan"), float("inf"), [1])


@pytest.fixture(scope="module")
def home(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wrong")
    _label(discs, folder, out=folder / "run", holdout=0.4)
    return folder


def _label(discs: Path, folder: Path, target: Any = None, **options: Any) -> Run:
    given: dict[str, Any] = {"layer": "relu", "preprocess": to_pixels, "k": 3, "scorers": "csp", **options}
    return contralens.label(
        target or ColourNet(), discs, given.pop("encoder", None) or ColourEncoder(),
        given.pop("vocabulary", list(COLOURS)), cache=given.pop("cache", folder / "cache"), **given,
    )  # fmt: skip


def one_line(work: Callable[[], Any], says: str = "") -> None:
    with pytest.raises(InputError, match=says or None) as e:
        work()
    assert len(str(e.value)) < 700
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", ["k", "top", "batch_size", "workers", "fakes", "limit", "seed", "exclude", "holdout"])
def test_numbers_of_label(name: str, home: Path, discs: Path) -> None:
    for value in BAD:
        if (name, value) not in (("seed", -1), ("exclude", True)) and not (name == "exclude" and value is True):
            one_line(lambda value=value: _label(discs, home, fdr=0.1, **{name: value}), f"`{name}` must")


@pytest.mark.parametrize("neurons", [[0.5], ["0"], [True], [-1], [10**30], [], 5, None, "x", range(10**9), [6]])
def test_neurons_are_whole_numbers_of_the_layer(neurons: Any, home: Path, discs: Path) -> None:
    one_line(lambda: _label(discs, home, neurons=neurons), "`neurons`")


def test_neurons_of_other_kinds_are_taken(home: Path, discs: Path) -> None:
    for neurons in ((1, 0, 1), np.array([0, 1]), torch.tensor([1, 0]), range(2)):
        rows = _label(discs, home, neurons=neurons).rows()
        assert [row["neuron"] for row in rows if row["status"] == "ok"] == [0, 1]
    assert _label(discs, home, top=10**9).rows() == _label(discs, home, top=len(COLOURS)).rows()


@pytest.mark.parametrize("text", ["3-1", "0-999999999", "1,,2", "-1", "1.5", "²", "9" * 5000, "1-2-3", ""])
def test_ranges_on_the_command_line(text: str) -> None:
    one_line(lambda: indices("neurons", text), "`neurons`")


@pytest.mark.parametrize("name", ["layer", "pooling", "neighbours", "scorers", "templates", "out", "candidates"])
def test_texts_of_label(name: str, home: Path, discs: Path) -> None:
    for value in (5, 2.5, [1], b"x"):
        one_line(lambda value=value: _label(discs, home, **{name: value}))


def test_misspelt_keywords_are_named(home: Path, discs: Path) -> None:
    one_line(lambda: _label(discs, home, neighbour="exact"), "did you mean neighbours")
    one_line(lambda: _label(discs, home, checkpoit="x"), "did you mean checkpoint")
    one_line(lambda: label_layers(
        ColourNet(), discs, ColourEncoder(), list(COLOURS), layers=["relu"], preproces=to_pixels
    ), "did you mean preprocess")  # fmt: skip


def test_numbers_of_evaluate_audit_and_propose(home: Path) -> None:
    run = load(home / "run")
    for name in ("count", "control", "concepts", "fakes", "stability", "batch_size", "coverage", "share", "fdr"):
        for value in BAD:
            if not (name in ("count", "control") and value is None):
                one_line(lambda n=name, v=value: contralens.evaluate(run, **{n: v}), f"`{name}` must")
    concepts = {"expected": ["red"], "spurious": ["green"]}
    for name in ("fdr", "fakes", "images", "sample", "batch_size"):
        for value in BAD:
            one_line(lambda n=name, v=value: contralens.audit(run, concepts, **{n: v}), f"`{name}` must")
    for name in ("show", "cell", "columns", "count", "words", "max_tokens", "alike", "merge"):
        for value in BAD:
            one_line(lambda n=name, v=value: contralens.propose(run, "hf:x", **{n: v}), f"`{name}` must")
    one_line(lambda: contralens.propose(run, "hf:x", neurons=range(10**9)), "`neurons` names")
    one_line(lambda: contralens.compare([home / "run"], ["csp"], ["zz"]))


class Late(nn.Module):
    """Fails from a certain call on."""

    def __init__(self, calls: int, error: type[BaseException]) -> None:
        super().__init__()
        self.conv, self.calls, self.error = nn.Conv2d(3, 4, 3), calls, error

    def forward(self, x: Tensor) -> Tensor:
        self.calls -= 1
        if self.calls < 0:
            raise self.error("broken\nin two lines")
        return self.conv(x)


class Sparse(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)).to_sparse()


def _meta() -> nn.Module:
    with torch.device("meta"):
        return nn.Conv2d(3, 4, 3)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_networks_that_cannot_be_looked_into() -> None:
    conv = nn.Conv2d(3, 4, 3)
    scripted: Any = torch.jit.script(conv)
    for network, says in (
        (scripted, "torch.jit"), (nn.Sequential(_meta()), "meta device"), (Sparse(), "sparse tensor"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3072, 0)), "no neuron"),
    ):  # fmt: skip
        one_line(lambda network=network: contralens.target(network, ".", preprocess=PP), says)
    one_line(lambda: contralens.target(conv, ".", preprocess=PP, neurons=5), "`neurons`")
    one_line(lambda: contralens.target(conv, ".", preprocess=PP, prefix_tokens=2.5), "`prefix_tokens`")


@pytest.mark.parametrize("error", [RuntimeError, KeyError, SystemExit])
def test_a_network_that_fails_at_any_time(error: type[BaseException], discs: Path, tmp_path: Path) -> None:
    for calls in (0, 1, 3, 5, 6, 7):  # the last ones fail among the images
        one_line(lambda calls=calls: _label(discs, tmp_path, Late(calls, error), layer=".", preprocess=PP), "broken")


def test_an_encoder_that_gives_other_rows_than_it_says(discs: Path, tmp_path: Path) -> None:
    class Wide(ColourEncoder):
        width, fingerprint = 5, "5" * 32

    one_line(lambda: _label(discs, tmp_path, encoder=Wide()), r"rows of shape \(\d+, 5\)")


@pytest.mark.parametrize(
    "tensors",
    [
        {"k": torch.tensor([1, 2])}, {"k": torch.tensor(2.5)}, {"W_enc": torch.ones(6)}, {"b_enc": torch.tensor(0.0)},
        {"b_dec": torch.tensor(0.0)}, {"W_enc": torch.ones(1, 2, 3)}, {"threshold": torch.ones(3)},
    ],
)  # fmt: skip
def test_tensors_that_make_no_sparse_autoencoder(tensors: dict[str, Tensor]) -> None:
    base = contralens.target(ColourNet(), "relu", preprocess=to_pixels)
    given = {"W_enc": torch.ones(6, 12), "b_enc": torch.zeros(12), **tensors}
    one_line(lambda: contralens.sae(base, given))


@pytest.mark.parametrize(
    "options",
    [
        {"center": "/etc/hostname"}, {"center": "/etc"}, {"center": 5}, {"k": 2.5, "kind": "topk"}, {"scale": "x"},
        {"k": "5", "kind": "topk"}, {"threshold": "x", "kind": "jumprelu"}, {"scale": 0}, {"scale": float("inf")},
        {"knid": "topk"},
    ],
)  # fmt: skip
def test_options_of_a_sparse_autoencoder(options: dict[str, Any]) -> None:
    base = contralens.target(ColourNet(), "relu", preprocess=to_pixels)
    one_line(lambda: contralens.sae(base, {"W_enc": torch.ones(6, 12), "b_enc": torch.zeros(12)}, **options))


@pytest.mark.parametrize(
    "text",
    ["k: .inf", "k: " + "9" * 5000, "k: " + "[" * 3000, "k: " + "[" * 3000 + "]" * 3000, "seed: 0x" + "f" * 9000,
     "seed: 2001-99-99", "images: 5", "vocabulary: {a: 1}", "allow_nondeterministic: 1"],
)  # fmt: skip
def test_config_files(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    one_line(lambda: read_config(tmp_path / "c.yaml"), "c.yaml")


def test_a_huge_field_of_a_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text("a\n" + "b" * 200_000)
    one_line(lambda: read_vocabulary(tmp_path / "v.csv"), "field larger")


def test_label_files_with_huge_numbers(home: Path) -> None:
    import json

    from contralens.sharing.label_files import label_file, read_labels

    path = label_file(load(home / "run"), pairs=1).save(home / "labels.json").path
    assert path is not None
    content = json.loads(path.read_text())
    content["neurons"][0]["neuron"] = 10**30
    path.write_text(json.dumps(content))
    one_line(lambda: read_labels(path), "an impossible number")


def test_a_module_that_exits(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("raise SystemExit(0)")
    (tmp_path / "b.py").write_text("import sys\ndef build(): sys.exit()")
    for name, says in (("a.py:build", "importing .* failed"), ("b.py:build", r"calling build\(\) failed")):
        one_line(lambda name=name: contralens.target(f"module:{tmp_path}/{name}", "."), says)
    (tmp_path / "c.py").write_text(
        "import atexit, sys, torch\nclass Net(torch.nn.Module):\n    def forward(self, x): sys.exit(0)\n"
    )
    done = processes.run(processes.command, "layers", f"module:{tmp_path}/c.py:Net", "--preprocess", PP)
    assert done.returncode
    assert done.stderr.count("\n") == 1


def test_a_recipe_names_misspelt_keys_of_its_steps(tmp_path: Path) -> None:
    from contralens.evaluation.recipes import read_recipe

    good = "label: {target: world:1, images: i, encoder: world, vocabulary: world, layer: block3, preprocess: x}"
    for text, says in (
        (f"runs: {{a: {{{good}}}}}", ""),
        (f"runs: {{a: {{{good.replace('layer', 'leyer')}}}}}", "did you mean layer"),
        (f"runs: {{a: {{{good}, evaluate: {{metric: fade}}}}}}", "did you mean metrics"),
        (f"runs: {{a: {{{good}, audit: {{concept: x}}}}}}", "did you mean concepts"),
        (f"runs: {{a: {{{good}, candidates: {{propser: x}}}}}}", "did you mean proposer"),
        (f"runs: {{a: {{{good.replace('target: world:1, ', '')}}}}}", "a: label is missing target"),
        (f"runs: {{a: {{{good}}}}}\npublished: [{{run: a}}]", "published is missing scorer"),
        (f"runs: {{a: {{{good}}}}}\nneeds: {{images: {{A: many}}}}", "whole number"),
        ("runs: [a]", "no runs"),
    ):
        (tmp_path / "r.yaml").write_text(text)
        if says:
            one_line(lambda: read_recipe(tmp_path / "r.yaml"), says)
        else:
            read_recipe(tmp_path / "r.yaml")


def test_a_metric_that_nothing_measures_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from contralens.evaluation.measuring import METRICS
    from contralens.math.metric_registry import Metric

    both = ("exemplars", "labels")  # exemplars belong to the run, labels to a scorer
    monkeypatch.setitem(METRICS, "beauty", Metric(lambda exemplars, labels: exemplars, "audit", both))
    one_line(lambda: contralens.evaluate(
        home / "run", metrics="audit", cache=home / "cache", save=False
    ), "no metric gives beauty")  # fmt: skip


def test_fakes_are_mined_as_labels_were(
    home: Path, discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    from contralens.evaluation.verdicts import Probed
    from contralens.math import exemplars
    from contralens.run_data.reopened import Reopened

    one_line(lambda: _label(discs, home, neighbours="faiss:ivf,lists=1000"), "lists need as many images")
    one_line(lambda: _label(discs, home, neighbours="faiss:hnsw,links=1"), "links")
    assert _label(discs, home, neighbours="faiss:ivf", limit=3, k=2).rows()
    shutil.copytree(home / "cache", tmp_path / "cache")
    run = _label(discs, tmp_path, neighbours="faiss:hnsw")
    asked: list[str] = []
    real = exemplars.approximate

    def spy(products: Any, queries: Any, length: int, spec: str) -> Any:
        asked.append(spec)
        return real(products, queries, length, spec)

    monkeypatch.setattr(exemplars, "approximate", spy)
    Probed(Reopened(run, cache=tmp_path / "cache"), ["csp"]).chance(20)
    assert set(asked) == {"faiss:hnsw"}
