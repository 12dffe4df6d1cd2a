"""Made-up layers and embeddings for the tests of the maths."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize


def clustered(images: int, neurons: int, clusters: int = 5, width: int = 16, seed: int = 0):
    """Activations (I,N) = ReLU(class signal + noise) and unit embeddings (I,D) in clusters."""
    g = torch.Generator().manual_seed(seed)
    kind = torch.randint(clusters, (images,), generator=g)
    noise = torch.randn(images, width, generator=g) / math.sqrt(width)
    embeddings = normalize(normalize(torch.randn(clusters, width, generator=g), dim=1)[kind] + noise, dim=1)
    signal = 2 * torch.randn(clusters, neurons, generator=g)[kind]
    return torch.relu(signal + torch.randn(images, neurons, generator=g)), embeddings


def _ties():
    a, e = clustered(60, 7, seed=1)
    return (a * 2).round(), (e * 4).round() / 4  # few distinct values: exact ties everywhere


def _cases():
    a, e = clustered(90, 8)
    yield "plain", a, e
    yield "ties", *_ties()
    yield "negative", a - 3.0, e
    signed = torch.randn(90, 8, generator=torch.Generator().manual_seed(3))
    yield "signed", signed, e
    yield "all negative", -signed.abs() - 0.1, e
    constant = a.clone()
    constant[:, 0], constant[:, 1], constant[:, 2] = 0.0, 0.1, -1e30
    yield "constant", constant, e
    yield "few images", a[:4], e[:4]
    yield "two images", a[:2], e[:2]
    yield "one image", a[:1], e[:1]
    twice = torch.cat([torch.arange(45), torch.arange(45)])
    yield "duplicates", a[twice], e[twice]
    yield "all one image", a[torch.zeros(30, dtype=torch.int64)], e[torch.zeros(30, dtype=torch.int64)]
    yield "duplicated embeddings only", a, e[twice]
    broken = a.clone()
    broken[3, 0], broken[5, 1], broken[7, 2], broken[:, 3], broken[1:, 4] = (
        math.nan,
        math.inf,
        -math.inf,
        math.nan,
        math.nan,
    )
    broken[:40, 5] = math.nan
    yield "nan activations", broken, e
    lost = e.clone()
    lost[0], lost[17, 2], lost[50, 0] = math.nan, math.inf, math.nan
    yield "nan embeddings", a, lost
    yield "nan both", broken, lost
    yield "no usable embedding", a, torch.full_like(e, math.nan)
    yield "zeros of both signs", torch.where(signed > 0, 0.0, -0.0), e
    yield "float64", a.double() + 1e-9 * signed.double(), normalize(e.double(), dim=1)
    yield "mean equals a value", torch.tensor([[0.1], [0.2], [0.3]] * 7), e[:21]
    yield "sparse", torch.where(a > a.quantile(0.95), a, 0.0), e
    opposite = torch.cat([e[:45], -e[:45]])
    yield "opposites", a, opposite


CASES = {name: (a, e) for name, a, e in _cases()}


@pytest.fixture(params=CASES, ids=lambda name: name.replace(" ", "_"))
def case(request):
    """One (activations, embeddings) after the other, ordinary and adversarial."""
    return CASES[request.param]
