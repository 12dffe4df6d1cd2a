"""Approximate lists of neighbours by FAISS, for sets of images beyond a million (extra `faiss`); never the default.

Exact lists cost one product of every positive with every image. From about a million images on an index is faster, at
the price of neighbours that it misses: a contrast may then be a slightly less similar image. What is missed is measured
each time on a sample of the positives and is in the run's manifest. All else (which images leave the neuron cold,
which of the listed ones is best, positives that the lists do not settle) stays exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from contralens.checks import as_text, nearest, require, whole
from contralens.errors import InputError
from contralens.math.neighbours import Neighbours, Products
from contralens.math.tensors import blocks
from contralens.specs import WHOLE, options, scheme

INDEXES = {"hnsw": {"links": 32, "build": 80, "search": 0}, "ivf": {"lists": 0, "probes": 0}}
"""Kinds of index and their options; 0 means by the number of images or of neighbours."""
BOUNDS = {"links": (2, 1024), "build": (1, 100_000), "search": (0, 2**30), "lists": (0, 2**24), "probes": (0, 2**24)}
"""Least and most of each option."""
SAMPLE = 256
"""Positives whose lists are compared with exact ones."""


def parse_neighbours(spec: str) -> tuple[str, dict[str, int]]:
    """ "faiss:KIND" with options as on the command line -> (kind, options); ("exact", {}) for "exact".

    >>> parse_neighbours("faiss:hnsw,search=512")
    ('hnsw', {'links': 32, 'build': 80, 'search': 512})
    """
    if as_text("neighbours", spec) == "exact":
        return "exact", {}
    engine, rest = scheme(spec)
    kind, _, given = rest.partition(",")
    if engine != "faiss" or kind not in INDEXES:
        known = ["exact", *(f"faiss:{name}" for name in INDEXES)]
        raise InputError(f"unknown neighbours {spec!r}{nearest(spec, known)}; known: {', '.join(known)}")
    read = options(given, dict.fromkeys(INDEXES[kind], WHOLE), f"neighbours {spec!r}")
    checked = {key: whole(f"{key} of {engine}:{kind}", value, *BOUNDS[key]) for key, value in read.items()}
    return kind, {**INDEXES[kind], **checked}


def approximate(products: Products, queries: Tensor, length: int, spec: str) -> tuple[Neighbours, dict[str, Any]]:
    """`nearest_images` by a FAISS index, and its recall on a sample: a dict for the manifest.

    The index holds a float32 copy of the embeddings in memory (and the links of HNSW), 4 D bytes an image.
    """
    kind, given = parse_neighbours(spec)
    faiss = require("faiss", "faiss")
    faiss.omp_set_num_threads(torch.get_num_threads())
    total, width = products.e.shape
    length = min(length, total)
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(width, given["links"], faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = given["build"]
        index.hnsw.efSearch = given["search"] or 2 * length
    else:
        lists = given["lists"] or max(1, min(total, round(4 * total**0.5)))
        if lists > total:
            raise InputError(f"neighbours {spec!r}: {lists:,} lists need as many images; there are {total:,}")
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = given["probes"] or max(1, lists // 16)
        some = torch.randperm(total, generator=torch.Generator().manual_seed(0))[: 64 * lists].sort().values
        index.train(_floats(products, some))
    for block in blocks(total, 4 * width):
        index.add(_floats(products, block))
    images = torch.full((len(queries), length), -1, dtype=torch.int32)
    cosines = torch.full((len(queries), length), -torch.inf)
    for block in blocks(len(queries), 4 * width + 12 * length):
        found, at = index.search(_floats(products, queries[block]), length)
        images[block] = torch.from_numpy(at).int()
        cosines[block] = torch.from_numpy(found).masked_fill(images[block] < 0, -torch.inf)
    floors = torch.full((len(queries),), -torch.inf) if length == total else cosines[:, -1].clone()
    floors[(images < 0).any(1)] = torch.inf  # too few were found: these positives look at all images
    place = queries.device
    near = Neighbours(images.to(place), cosines.to(place), floors.to(place))
    return near, {"neighbours": spec, **_recall(products, queries, near)}


def _floats(products: Products, images: slice | Tensor) -> np.ndarray:
    rows = products.e[images].masked_fill(~products.usable[images, None], 0.0)
    return np.ascontiguousarray(rows.float().cpu().numpy())


def _recall(products: Products, queries: Tensor, near: Neighbours) -> dict[str, Any]:
    """Share of the truly nearest images that the lists hold, over a random sample of the queries."""
    some = torch.randperm(len(queries), generator=torch.Generator().manual_seed(0))[:SAMPLE].to(queries.device)
    rows, length = products.e[queries[some]].float(), near.images.shape[1]
    best = torch.full((len(some), length), -torch.inf, device=rows.device)
    for block in blocks(len(products.e), 4 * (products.e.shape[1] + len(some))):
        cosine = rows @ products.e[block].float().masked_fill(~products.usable[block, None], 0.0).T
        best = torch.cat([best, cosine], dim=1).topk(length, dim=1).values
    listed = near.cosines[some]
    out: dict[str, Any] = {"queries": len(queries), "sample": len(some)}
    for depth in sorted({min(10, length), length}):
        limit = best[:, depth - 1 : depth] - 1e-5
        out[f"recall@{depth}"] = round(float((listed >= limit).sum(1).clamp_max(depth).double().mean() / depth), 5)
    return out
