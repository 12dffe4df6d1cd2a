"""softmax_c(scale <e[i], t[c]>) of images and texts: its mean over all images, and the values of some of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from contralens.math.tensors import all_bits, blocks, room


def average_softmax(e: Tensor, t: Tensor, scale: float) -> Tensor:
    """mean_i softmax_c(scale <e[i], t[c]>), (C), of the images that have an embedding, one pass over them."""
    total, count = torch.zeros(len(t), dtype=torch.float64, device=e.device), 0
    for block in blocks(len(e), 3 * len(t) * e.element_size(), room(e.device)):
        rows = e[block]
        rows = rows[rows.isfinite().all(1)]
        with all_bits(e.device):
            total += torch.softmax(scale * (rows @ t.T), dim=1).sum(0, dtype=torch.float64)
        count += len(rows)
    return (total / count).to(e.dtype)


class SeenSoftmax:
    """softmax_c(scale <e[i], t[c]>) of the images i that are somebody's positive, some concepts at a time."""

    def __init__(self, e: Tensor, positives: Tensor, t: Tensor, scale: float) -> None:
        self.used, self.row = torch.unique(positives.clamp_min(0), return_inverse=True)
        """Images (U), and the place of each positive among them (N,K)."""
        self._e, self._t, self._scale = e, t, scale
        if len(self.used) * e.shape[1] * e.element_size() <= 4 * room(e.device):
            self._rows: Tensor | None = e[self.used]
        else:
            self._rows = None  # read again, part by part
        self._log_sum = t.new_empty(len(self.used))
        with all_bits(e.device):
            for part in self._parts(3 * len(t)):
                self._log_sum[part] = torch.logsumexp(scale * (self._part(part) @ t.T), dim=1)

    def softmax(self, some: slice) -> Tensor:
        """(U,c) of the concepts `some`."""
        t = self._t[some]
        out = t.new_empty(len(self.used), len(t))
        for part in self._parts(self._e.shape[1] + 2 * len(t)):
            out[part] = torch.exp(self._scale * (self._part(part) @ t.T) - self._log_sum[part, None])
        return out

    def _parts(self, numbers: int) -> Iterator[slice]:
        return blocks(len(self.used), numbers * self._e.element_size(), room(self._e.device))

    def _part(self, part: slice) -> Tensor:
        return self._e[self.used[part]] if self._rows is None else self._rows[part]
