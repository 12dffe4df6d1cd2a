"""Groups of features that fire together: FALCON's discovery and filter (Kalibhat et al. 2023, ICML, arXiv 2308.10555).

With r[i] the activations of image i as a unit row, feature n fires on image i if

    r[i,n] >= mean r + `limit` deviation r,    mean and deviation over all images and features.

Images on which exactly the same features fire belong to one group; groups of more than `least` images stay. Those are
interpretable whose images look alike to the encoder: the mean cosine of all pairs of them, each with itself too, is
above .8 in the paper, with CLIP ViT-B/32 and images cropped to where the group fires.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from contralens.errors import InputError
from contralens.math.activation_sources import source
from contralens.math.tensors import matrix
from contralens.types import Brief


@dataclass(frozen=True, slots=True, repr=False)
class FeatureGroup(Brief):
    """Features that fire together, and on what.

    >>> FeatureGroup((3, 8), torch.tensor([5, 6, 9])).features
    (3, 8)
    """

    features: tuple[int, ...]
    """Rising."""
    images: Tensor
    """Indices of the images on which these fire and no others, rising."""


def feature_groups(activations: Any, *, limit: float = 5.0, least: int = 10) -> list[FeatureGroup]:
    """FALCON's feature groups, most images first, ties by lower features.

    Args:
        activations: (I,N), in memory or any `ActivationSource`, read three times; NaN and infinite ones count 0.
        limit: deviations above the mean at which a feature fires.
        least: a group has more images than this.

    Raises:
        InputError: a negative limit or least.

    >>> a = torch.zeros(60, 40)
    >>> a[:12, 3], a[:12, 8] = 1.0, 1.0
    >>> [group.features for group in feature_groups(a + 0.001)]
    [(3, 8)]
    """
    if limit < 0 or least < 0:
        raise InputError(f"`limit` and `least` must not be negative; got {limit} and {least}")
    a = source(activations)
    count = a.shape[0] * a.shape[1]
    if count < 2:
        return []
    mean = sum(float(_unit(rows).sum(dtype=torch.float64)) for _, rows in a.blocks()) / count
    away = sum(float((_unit(rows).double() - mean).square().sum()) for _, rows in a.blocks())
    least_value = mean + limit * (away / (count - 1)) ** 0.5
    firing: dict[int, list[int]] = defaultdict(list)
    for start, rows in a.blocks():
        for image, feature in (_unit(rows).double() >= least_value).nonzero().tolist():
            firing[start + image].append(feature)
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for image, features in firing.items():
        groups[tuple(features)].append(image)
    found = [FeatureGroup(features, torch.tensor(images)) for features, images in groups.items() if len(images) > least]
    return sorted(found, key=lambda group: (-len(group.images), group.features))


def coherence(embeddings: Any, images: Tensor) -> float:
    """Mean cosine of all pairs of some images (each with itself too), from unit rows (I,D); 0 without any image.

    >>> coherence(torch.eye(2), torch.tensor([0, 1]))
    0.5
    """
    rows = matrix(embeddings, "embeddings")[images]
    return float(rows.mean(0).square().sum()) if len(rows) else 0.0


def _unit(rows: Tensor) -> Tensor:
    return normalize(rows.cpu().nan_to_num(0.0, 0.0, 0.0), dim=1)
