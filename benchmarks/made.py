"""Made-up layers: embeddings in clusters, activations that follow the clusters."""

from __future__ import annotations

import math

import torch
from torch.nn.functional import normalize


def make(images: int, neurons: int, strength: float, sparse: bool, seed: int = 0, width: int = 512):
    """Activations (I,N) and unit embeddings (I,D)."""
    g = torch.Generator().manual_seed(seed)
    clusters = max(1, images // 250)
    kind = torch.randint(clusters, (images,), generator=g)
    centre = normalize(torch.randn(clusters, width, generator=g), dim=1)
    embeddings = torch.empty(images, width)
    activations = torch.empty(images, neurons)
    signal = strength * torch.randn(clusters, neurons, generator=g)
    bias = 3.5 * math.sqrt(1 + strength**2) if sparse else 0.0
    for rows in torch.arange(images).split(2048):
        noise = torch.randn(len(rows), width, generator=g) / math.sqrt(width)
        embeddings[rows] = normalize(centre[kind[rows]] + noise, dim=1)
        activations[rows] = torch.relu(signal[kind[rows]] + torch.randn(len(rows), neurons, generator=g) - bias)
    return activations, embeddings
