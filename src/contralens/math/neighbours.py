"""Fast inner products with a known error, exact choices from them, and each image's nearest neighbours."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

import torch
from torch import Tensor

from contralens.math.fast_kernels import bfloat16_is_fast
from contralens.math.tensors import BLOCK_BYTES, SPARE, blocks, return_memory, room, spread
from contralens.types import Brief

TOLERANCE = 4e-6
"""Error of a float32 inner product of unit vectors that is never exceeded in practice (D up to a few thousand)."""
TIE = 1e-12
"""Cosines closer than this in float64 are the same number, computed in another order."""
LENGTH = 288
"""Neighbours that a list holds on average; it holds at most half as many again."""
GROUP = 8
"""Products searched as one: by their maximum first."""
SMALL = 1024
"""Up to this many images a list simply holds all of them, and float32 is fast enough."""
ALIGN = 256
"""Rows and columns of products come in multiples of this, which suits vector units."""
CACHE = 2**21
"""Bytes of products that a core works on at once: what stays in its cache."""
PENDING = 512
"""Finds of some queries that wait until their lists take them in, which raises the floors."""


class Products:
    """Inner products of images' embeddings, off by at most `tolerance`: in float32, or in bfloat16 where it is faster.

    bfloat16 is used where the processor multiplies it fast, its error is small against the differences between the
    cosines available, and products computed both ways agree. Whoever chooses by these products settles what is within
    the tolerance with `exact`, so the choice does not depend on the precision.
    """

    def __init__(self, embeddings: Tensor) -> None:
        self.e = embeddings
        self.usable = torch.empty(len(embeddings), dtype=torch.bool, device=embeddings.device)
        lengths, roundings = [0.0], [0.0]

        def look(part: slice) -> None:
            rows = embeddings[part]
            self.usable[part] = rows.isfinite().all(1)
            rows = rows[self.usable[part]].float()
            if len(rows):
                lengths.append(float(rows.norm(dim=1).max()))
                roundings.append(float((rows - rows.bfloat16().float()).norm(dim=1).max()))

        spread(
            look,
            list(blocks(len(embeddings), 16 * embeddings.shape[1], budget=room(embeddings.device, 8 * CACHE))),
            embeddings.device,
        )
        longest, rounding = max(lengths), max(roundings)
        self.dtype, self.tolerance = torch.float32, TOLERANCE * max(1.0, longest**2)
        # Cauchy-Schwarz for the rounded inputs, half a unit in the last place for the rounded result.
        largest = max(longest**2, 1e-30) * (1 + 1e-6)
        last_place = 2.0 ** (math.ceil(math.log2(largest) - 1e-5) - 9)
        coarse = rounding * (2 * longest + rounding) + last_place + self.tolerance
        if len(embeddings) > SMALL and bfloat16_is_fast(embeddings.device) and self._trustworthy(coarse):
            self.dtype, self.tolerance = torch.bfloat16, coarse
        whole = 2 * embeddings.numel() <= 8 * BLOCK_BYTES  # else rounded again, block by block
        self._rounded = self._read(slice(None)) if whole and self.dtype != embeddings.dtype else None

    def rows(self, images: slice | Tensor) -> Tensor:
        """Embeddings of some images, ready to be multiplied; those that are not usable are 0."""
        return self._read(images) if self._rounded is None else self._rounded[images]

    def block(self, images: slice | Tensor) -> Tensor:
        """Embeddings of some images, filled up with 0 to a multiple of `GROUP`."""
        return padded(self.rows(images))

    def arranged(self, order: Tensor) -> Callable[[slice], Tensor]:
        """`rows` of the images in another order, which many ask for."""
        if self._rounded is None:
            return lambda part: self.rows(order[part])
        rows = self._rounded[order]
        return lambda part: rows[part]

    def _read(self, images: slice | Tensor) -> Tensor:
        rows, usable = self.e[images].to(self.dtype), self.usable[images]
        return rows if bool(usable.all()) else rows.masked_fill(~usable[:, None], 0.0)

    def exact(self, left: Tensor, right: Tensor) -> Tensor:
        """float64 inner products of images with images (L),(L) -> (L)."""
        out = torch.empty(len(left), dtype=torch.float64, device=self.e.device)
        each, together = 2**20 if out.is_cuda else 2**12, room(out.device, 2**22)

        def dot(part: slice) -> None:
            lefts, rights = left[part], right[part]
            for block in blocks(len(lefts), 32 * self.e.shape[1], budget=together):
                out[part][block] = torch.linalg.vecdot(self.e[lefts[block]].double(), self.e[rights[block]].double())

        spread(dot, list(blocks(len(left), 1, budget=each)), out.device)
        return out

    def _trustworthy(self, tolerance: float) -> bool:
        """Whether a sample of bfloat16 products is as good as assumed, and leaves few images too close to call."""
        some = self.usable.nonzero()[:, 0]
        some = some[torch.randperm(len(some), generator=torch.Generator().manual_seed(0))[:4096].to(some.device)]
        if len(some) < 64:
            return False
        e, true = self.e[some].bfloat16(), self.e[some[:64]].double() @ self.e[some].double().T
        right = bool(((e[:64] @ e.T).double() - true).abs().max() <= tolerance)
        close = (true >= true.topk(8, dim=1).values[:, -1:] - 2 * tolerance).double().mean()
        return right and float(close) <= 0.02


def winners(products: Products, queries: Tensor, which: Tensor, images: Tensor, exclude: float | None) -> Tensor:
    """The exact best of each query's candidates, (Q) -> (Q): highest cosine, lowest image among equals; -1 for none.

    Candidate c is image `images[c]` of query `queries[which[c]]`. Those with a cosine above `exclude` do not count.
    """
    count = torch.bincount(which, minlength=len(queries))
    unsure = slice(None) if exclude is not None else (count > 1)[which]
    cosine = torch.zeros(len(which), dtype=torch.float64, device=which.device)
    cosine[unsure] = products.exact(queries[which[unsure]], images[unsure])
    if exclude is not None:
        cosine.masked_fill_(cosine > exclude, -torch.inf)
    best = torch.full((len(queries),), -torch.inf, dtype=torch.float64, device=which.device)
    best.scatter_reduce_(0, which, cosine, "amax")
    first = (cosine >= best[which] - TIE) & (cosine > -torch.inf)
    found = torch.full((len(queries),), len(products.e), dtype=torch.int64, device=which.device)
    found.scatter_reduce_(0, which[first], images[first], "amin")
    return found.masked_fill(found == len(products.e), -1)


def of_winners(found: Tensor, which: Tensor, images: Tensor, values: Tensor) -> Tensor:
    """The values (Q) of the candidates that won; candidate c is image `images[c]` of query `which[c]`."""
    out = values.new_full(found.shape, torch.nan)
    won = images == found[which]
    out[which[won]] = values[won]
    return out


def close_ones(cosine: Tensor, tolerance: float, exclude: float | None) -> tuple[Tensor, Tensor]:
    """Which of (P,M) could be the best of its row once computed exactly, and the best that is sure to count (P)."""
    if exclude is None:
        best = cosine.amax(1)
    else:
        best = cosine.masked_fill(cosine > exclude - tolerance, -torch.inf).amax(1)
        cosine = cosine.masked_fill(cosine > exclude + tolerance, -torch.inf)
    return (cosine >= (best - 2 * tolerance)[:, None]) & (cosine > -torch.inf), best


@dataclass(frozen=True, slots=True, repr=False)
class Neighbours(Brief):
    """The images nearest to each query, by falling approximate cosine. What the list misses is at or below `floor`."""

    images: Tensor
    """(Q,M), -1 after the end of a shorter list."""
    cosines: Tensor
    """(Q,M), approximate by `Products.tolerance`; -inf after the end."""
    floor: Tensor
    """(Q), -inf where the list holds every image."""


def most_images(near: Neighbours, depth: int | None = None, row: Tensor | None = None) -> int:
    """How many images the first `depth` places of the lists, or of some of them, hold."""
    held = torch.zeros(int(near.images.max()) + 2, dtype=torch.bool, device=near.images.device)
    for block in blocks(len(near.images) if row is None else len(row), 8 * near.images.shape[1], budget=2**22):
        some = near.images[block if row is None else row[block], :depth]
        held[some.flatten() + 1] = True  # the first place is for -1, none
    return int(held[1:].sum())


def nearest_images(products: Products, queries: Tensor, length: int = LENGTH) -> Neighbours:
    """About `length` nearest images of each query image (Q, all different), the query itself among them.

    A random sample of the images shows each query's floor, the cosine that about `length` of all images exceed; one
    comparison with the floor then finds them all. So the lists differ in length, but are complete above their floors.
    The product of two queries is computed once for both. Memory: the lists and `PENDING` finds of each part of the
    queries.
    """
    total, device = len(products.e), queries.device
    longest = total if total <= SMALL else length * 3 // 2
    images = torch.full((len(queries), longest), -1, dtype=torch.int32, device=device)
    cosines = torch.full(images.shape, -torch.inf, device=device)
    scratch = room(device, CACHE) // products.dtype.itemsize
    floors = _floors(products, queries, length, scratch)
    other = torch.ones(total, dtype=torch.bool, device=device)
    other[queries] = False
    order = torch.cat([queries, other.nonzero()[:, 0]])
    arranged = products.arranged(order)
    step = max(GROUP, math.isqrt(scratch) // ALIGN * ALIGN)
    parts = list(blocks(len(queries), 1, budget=step))
    hits: list[list[tuple[Tensor, Tensor, Tensor]]] = [[] for _ in parts]
    """By part of the queries: the query's number within it, the image and the product."""
    locks = [Lock() for _ in parts]

    def fill(part: slice) -> None:
        at = part.start // step
        found, hits[at] = [torch.cat(field) for field in zip(*hits[at], strict=True)], []
        if found:
            _fill(images[part], cosines[part], floors[part], *found)
        return_memory(SPARE)

    def search(part: slice) -> None:
        here, rows = part.start // step, padded(arranged(part))
        width = max(step, scratch // len(rows) // ALIGN * ALIGN)
        space = torch.empty(len(rows) * width, dtype=rows.dtype, device=device)

        def product(columns: slice) -> Tensor:
            e = padded(arranged(columns))
            return torch.mm(rows, e.T, out=space[: len(rows) * len(e)].view(len(rows), len(e)))

        def keep(at: int, query: Tensor, image: Tensor, value: Tensor) -> None:
            if len(query):
                with locks[at]:
                    hits[at].append((query.short(), image.int(), value.to(products.dtype)))
                    if len(hits[at]) == PENDING:
                        fill(parts[at])

        rest = blocks(total - len(queries), 1, budget=width)
        others = [slice(len(queries) + block.start, len(queries) + block.stop) for block in rest]
        for at, columns in enumerate([*parts[here:], *others], here):
            cosine = product(columns)
            query, column, value = over(cosine, maxima(cosine), padded(floors[part], torch.inf))
            real = column < columns.stop - columns.start
            keep(here, query[real], order[columns][column[real]], value[real])
            if here < at < len(parts):  # the same products for the other query
                query, row, value = over_columns(cosine, padded(floors[columns], torch.inf))
                real = row < part.stop - part.start
                keep(at, query[real], order[part][row[real]], value[real])

    spread(search, parts, device)
    arranged = products.rows  # lets the copy go
    return_memory()
    spread(fill, parts, device)
    return Neighbours(images, cosines, floors)


def _floors(products: Products, queries: Tensor, length: int, scratch: int) -> Tensor:
    """The cosine of each query (Q) that about `length` of all images exceed; -inf where there are but few images."""
    total = len(products.e)
    floors = torch.full((len(queries),), -torch.inf, device=queries.device)
    if total <= SMALL:
        return floors
    sample = torch.randperm(total, generator=torch.Generator().manual_seed(0))[: min(max(256, total // 32), 32768)]
    rank, sampled = max(4, round(length * len(sample) / total)), products.rows(sample.to(queries.device))

    def look(part: slice) -> None:
        floors[part] = (products.rows(queries[part]) @ sampled.T).topk(rank, dim=1).values[:, -1]

    spread(look, list(blocks(len(queries), len(sample), budget=scratch)), queries.device)
    return floors


def maxima(values: Tensor) -> Tensor:
    """The maximum of each group of `GROUP` columns, W/GROUP apart: (Q,W) -> float32 (Q,W/GROUP)."""
    return values.view(len(values), GROUP, -1).amax(1).float()


def over(values: Tensor, maxima: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row, column and value of all entries of (Q,W) above their row's threshold (Q), by their groups' maxima."""
    row, group = (maxima > threshold[:, None]).nonzero(as_tuple=True)
    inside = values.view(len(values), GROUP, -1)[row, :, group].float()
    hit, place = (inside > threshold[row, None]).nonzero(as_tuple=True)
    return row[hit], group[hit] + place * maxima.shape[1], inside[hit, place]


def over_columns(values: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Column, row and value of all entries of (Q,W) above their column's threshold (W), Q a multiple of `GROUP`."""
    groups = values.view(GROUP, -1, values.shape[1])
    group, column = (groups.amax(0) > threshold).nonzero(as_tuple=True)
    inside = groups[:, group, column].float()
    place, hit = (inside > threshold[column]).nonzero(as_tuple=True)
    return column[hit], group[hit] + place * groups.shape[1], inside[place, hit]


def padded(rows: Tensor, value: float = 0.0) -> Tensor:
    """Filled up to a multiple of `GROUP` rows."""
    lacking = -len(rows) % GROUP
    return torch.cat([rows, rows.new_full((lacking, *rows.shape[1:]), value)]) if lacking else rows


def _fill(images: Tensor, cosines: Tensor, floor: Tensor, query: Tensor, image: Tensor, cosine: Tensor) -> None:
    """Hits (H) among those of the lists (Q,M), by falling cosine. Where there are more than M, the floor rises."""
    query, order = query.sort(stable=True)
    query, image, cosine = query.long(), image[order], cosine[order].float()
    count = torch.bincount(query, minlength=len(floor))
    length, held = images.shape[1], int((images >= 0).sum(1).max())
    place = held + torch.arange(len(query), device=query.device) - (count.cumsum(0) - count)[query]
    wide = torch.full((len(floor), max(length + 1, held + int(count.max()))), -torch.inf, device=query.device)
    wide_images = torch.full(wide.shape, -1, dtype=torch.int32, device=query.device)
    wide[:, :held], wide_images[:, :held] = cosines[:, :held], images[:, :held]
    wide[query, place] = cosine
    wide_images[query, place] = image
    wide, order = wide.sort(dim=1, descending=True)
    cosines[:] = wide[:, :length]
    images[:] = wide_images.gather(1, order[:, :length])
    floor[:] = torch.maximum(floor, wide[:, length])
