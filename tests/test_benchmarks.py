"""Every benchmark runs at small sizes, and the comparison with the published code tells ties from disagreement."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import processes
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"

PACKAGE = {
    "__init__.py": "",
    "config.py": """
from dataclasses import dataclass

@dataclass(frozen=True)
class NeuronDataConfig:
    topk_neurons: int = 200
    required_sample_count: int = 100
    mean_top_count: int = 100
    ignore_overly_active_neurons: bool = True
    overly_active_neuron_rate: float = 0.8
    neg_fetch_batch_size: int = 4096
    allow_neg_reuse: bool = True

@dataclass(frozen=True)
class NeuroLensConfig:
    neuron_data: NeuronDataConfig = NeuronDataConfig()
""",
    "target_model/__init__.py": """
def load_activations(**where):
    raise RuntimeError("there are no files to read")
""",
    "target_model/neuron_data/__init__.py": "",
    "target_model/neuron_data/utils.py": """
from types import SimpleNamespace
import torch
from neurolens.target_model import load_activations

WRONG = False

def _get_topk_positive_neuron_data(
    *, config, path_configs, target_model, img_dataset, device, ignore_input_indices=None, input_neurons=None, eps=1e-6
):
    asked = config.neuron_data
    read = dict(config=config, path_configs=path_configs, target_model=target_model, img_dataset=img_dataset)
    total = torch.zeros(target_model.get_total_neuron_count())
    firing, top = torch.zeros_like(total), []
    for start in range(0, len(img_dataset), 4069):
        span = (start, min(start + 4069, len(img_dataset)))
        rows = load_activations(**read, device=device, sample_indices=span)
        total += rows.sum(0)
        firing += (rows > eps).sum(0)
        top.append(rows.topk(asked.mean_top_count, dim=0).values)
    means = total / len(img_dataset)
    strength = torch.cat(top).topk(asked.mean_top_count, dim=0).values.mean(0)
    strength[firing < asked.required_sample_count] = -torch.inf
    assert not asked.ignore_overly_active_neurons
    chosen = strength.topk(asked.topk_neurons).indices.tolist()
    columns = load_activations(**read, device=device, neuron_indices=chosen)
    found = {}
    for place, neuron in enumerate(chosen):
        order = sorted(range(len(columns)), key=lambda i: (-float(columns[i, place]), -i))  # ties: the last one first
        indices = torch.tensor(order[: asked.required_sample_count])
        found[neuron] = SimpleNamespace(
            neuron_idx=neuron, indices=indices, activation_values=columns[indices, place],
            similarity_values=torch.ones(len(indices)), probe_dataset_overall_mean=means[neuron].item(),
        )
    return found

def _get_negative_neuron_data(
    config, path_configs, img_dataset, target_model, pos_neuron_data, device, all_img_embds, ignore_input_indices=None
):
    column = load_activations(
        config=config, path_configs=path_configs, img_dataset=img_dataset, target_model=target_model,
        neuron_indices=pos_neuron_data.neuron_idx, device=device,
    ).squeeze(dim=1)
    cold = (column < pos_neuron_data.probe_dataset_overall_mean).nonzero()[:, 0]
    partners, cosines = [], []
    for positive in pos_neuron_data.indices:
        cosine = all_img_embds[cold] @ all_img_embds[positive]
        best = cosine.topk(2).indices[int(WRONG)]
        partners.append(cold[best])
        cosines.append(cosine[best])
    partners = torch.stack(partners)
    return SimpleNamespace(
        neuron_idx=pos_neuron_data.neuron_idx, indices=partners, activation_values=column[partners],
        similarity_values=torch.stack(cosines), probe_dataset_overall_mean=pos_neuron_data.probe_dataset_overall_mean,
    )
""",
}


def run(name: str, *arguments: str, code: int = 0) -> str:
    done = processes.run(processes.script, BENCHMARKS / f"{name}.py", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


QUICK = [
    "mining",
    "scoring",
    "memory",
    "collecting",
    "chance",
    "allocating",
    "feeding",
    "match",
    "limits",
    "shards",
    "compiling",
    "crops",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_quick(name: str, tmp_path: Path) -> None:
    also = {"memory": ["--images", "700", "--modes", "plain", "cached", "streamed"]}
    if name in ("mining", "scoring"):
        also[name] = ["--json", str(tmp_path / "numbers.json")]
    out = run(name, "--quick", *also.get(name, []))
    assert {
        "mining": "| yes |", "scoring": "| clip_dissect |", "memory": "confidence adds, CPU s",
        "chance": "real kept", "collecting": "'same_bits': True", "allocating": "| kept |", "feeding": "Same rows: yes",
        "limits": "| evaluation |", "compiling": "world:1, block3",
        "crops": "| block3 | object | 19 | label, csp |",
        "shards": "the exemplars are those of all at once, the labels too",
        "match": "| permuted, by exemplars | neurons matched to themselves | 100 % (100 %) |",
    }[name] in out  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not (BENCHMARKS.parent / ".git").exists(), reason="older code comes from the repository")
def test_the_code_before_beside_the_code_as_it_is() -> None:
    out = run("before", "--quick", "--threads", "1")
    assert "Commit HEAD → the code as it is." in out
    assert "| 1 batches of 32 through mobilenet_v3_small |" in out


@pytest.mark.slow
def test_a_gpu_benchmark_runs_without_one(tmp_path: Path) -> None:
    assert "|" in run("gpu", "--quick", "--device", "cpu", "--out", str(tmp_path / "gpu.json"))


@pytest.mark.slow
def test_classes_that_differ_in_one_factor() -> None:
    out = run("contrast_classes", "--worlds", "1", "--ties", "0", "--factors", "background", "--images", "16")
    pairs, apart, strongest = (cell.split()[0] for cell in out.splitlines()[-1].split("|")[2:5])
    assert pairs == "15"
    assert float(apart) > 0.5
    assert float(strongest) > 0.5


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of the same shape, written here, whose ties fall the other way."""
    for name, text in PACKAGE.items():
        file = tmp_path / "src" / "neurolens" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield tmp_path
    for name in [m for m in sys.modules if m.partition(".")[0] == "neurolens"]:
        del sys.modules[name]


def test_published_code_agrees(published: Path) -> None:
    from made import make
    from published import compare

    told, agree = compare(published, *make(700, 9, 1.0, False), 12, 9)
    assert agree
    assert "partners: same 108, positives: same 108;" in told


def test_ties_are_told_from_disagreement(published: Path) -> None:
    from made import make
    from published import compare

    a, e = make(700, 9, 1.0, False)
    e[350:] = e[:350]  # each image twice: cosines are equal
    told, agree = compare(published, (2 * a).round(), e, 12, 9)
    assert agree
    assert "positives: tie in activation" in told
    utils = published / "src" / "neurolens" / "target_model" / "neuron_data" / "utils.py"
    utils.write_text(utils.read_text().replace("WRONG = False", "WRONG = True"))
    for name in [m for m in sys.modules if m.partition(".")[0] == "neurolens"]:
        del sys.modules[name]
    told, agree = compare(published, *make(700, 9, 1.0, False), 12, 9)
    assert not agree
    assert "partners: OTHER" in told


@pytest.mark.slow
def test_published_code_from_the_command_line(published: Path) -> None:
    small = ("--images", "1200", "--neurons", "6", "--k", "9", "--repeats", "1")
    assert "positives: same 54;" in run("mining", *small, "--neurolens", str(published))


def test_a_folder_without_the_package_says_so(tmp_path: Path) -> None:
    out = run("mining", "--quick", "--images", "1100", "--neurons", "2", "--neurolens", str(tmp_path), code=1)
    assert "no package `neurolens` there" in out


def test_tables_have_a_place_in_results() -> None:
    results = (BENCHMARKS / "RESULTS.md").read_text()
    for name in ("limits", "before", "mining", "shards", "scoring", "memory", "crops"):
        assert results.count(f"<!-- {name} -->") == results.count(f"<!-- end {name} -->") == 1
