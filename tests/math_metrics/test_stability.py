"""Bootstrap over images: sets reach their coverage, sure labels are stable, doubtful ones are not."""

import math

import pytest
import torch
from test_null_test import layer

from contralens.errors import InputError
from contralens.math.exemplars import find_exemplars
from contralens.math.scoring import run_scorer
from contralens.math.stability import Stability, bootstrap_labels


def test_sets_and_agreement_by_hand():
    labels = torch.tensor([[5, 2], [5, -1], [7, 2], [5, 3], [1, 2]])
    found = Stability(labels)
    assert found.agreement(torch.tensor([5, -1]))[0] == pytest.approx(0.6)
    assert math.isnan(found.agreement(torch.tensor([5, -1]))[1])
    assert [[v for v, _ in s] for s in found.sets(0.6)] == [[5], [2]]
    assert [[v for v, _ in s] for s in found.sets(0.8)] == [[5, 1], [2, -1]]
    assert [[v for v, _ in s] for s in found.sets(1.0)] == [[5, 1, 7], [2, -1, 3]]
    with pytest.raises(InputError, match="coverage"):
        found.sets(0.0)


@pytest.mark.parametrize("name", ["csp", "lookalike"])
def test_sets_hold_what_they_promise_and_real_neurons_are_stable(name):
    a, e, texts, detects = layer()
    a = torch.cat([a[:, :30], torch.rand(500, 10)], dim=1)  # the last ten respond to nothing
    found = bootstrap_labels({"it": name}, a, e, texts, samples=20, k=10)["it"]
    assert found.labels.shape == (20, 40)
    if name == "csp":
        assert torch.equal(found.labels, bootstrap_labels({"it": name}, a, e, texts, samples=20, k=10)["it"].labels)
    labels = run_scorer(name, find_exemplars(a, e, k=10), e, texts, a).argmax(1)
    agreement = found.agreement(labels)
    assert agreement[:30].mean() > 0.9 > 0.5 > agreement[30:].mean()
    for n, kept in enumerate(found.sets(0.9)):
        members = torch.tensor([v for v, _ in kept])
        assert float(torch.isin(found.labels[:, n], members).double().mean()) >= 0.9
    sizes = torch.tensor([len(s) for s in found.sets(0.9)]).double()
    assert sizes[:30].mean() < sizes[30:].mean()
    assert (labels[:30] == detects[:30]).double().mean() > 0.8
