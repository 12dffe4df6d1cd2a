"""The two sanity tests tell the metrics that notice a spoiled label from those that do not (NeuronEval's finding)."""

import pytest
import torch

from contralens.math.metric_sanity import METRICS, sanity, sanity_table, spoiled


@pytest.fixture(scope="module")
def activations():
    g = torch.Generator().manual_seed(0)
    noise = torch.rand(1000, 20, generator=g) * 0.3
    fires = torch.rand(1000, 20, generator=g) < 0.05
    return torch.where(fires, 1.0 + torch.rand(1000, 20, generator=g), noise)


def test_known_verdicts(activations):
    found = sanity_table(activations)
    passing = {name for name, s in found.items() if s.passes}
    assert {"pearson", "cosine", "auprc", "f1", "iou", "purity"} == passing
    for cosy in ("auc", "mad", "dma", "clarity", "max_ratio"):
        assert found[cosy].missing < 0.5, cosy  # a label that is too specific goes unpunished
    assert all(s.neurons == 20 for name, s in found.items())


def test_spoiling_does_what_it_says():
    g = torch.Generator().manual_seed(1)
    c = torch.rand(500, 6, generator=g) < torch.linspace(0.0, 0.3, 6)
    size = c.sum(0)
    missing, extra, other = (spoiled(c, how, g) for how in ("missing", "extra", "random"))
    assert ((missing & ~c).sum(0) == 0).all()
    assert torch.equal(missing.sum(0), size - size // 2)
    assert ((c & ~extra).sum(0) == 0).all()
    assert torch.equal(extra.sum(0), 2 * size)
    assert torch.equal(other.sum(0), size)


def test_any_metric_and_any_concept(activations):
    truth = activations > 0.9
    recall = sanity(lambda a, c: ((a > 0.9) & c).sum(0) / (a > 0.9).sum(0), activations, truth)
    precision = sanity(lambda a, c: ((a > 0.9) & c).sum(0) / c.sum(0), activations, truth)
    assert recall.missing == 1.0
    assert recall.extra < 0.1
    assert not recall.passes
    assert precision.extra == 1.0
    assert precision.missing < 0.1
    assert not precision.passes


def test_nothing_to_tell():
    found = sanity(METRICS["pearson"], torch.zeros(50, 3))
    assert found.neurons == 0
    assert found.passes is None
