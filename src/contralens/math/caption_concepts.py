"""Concepts out of captions, merging of near-synonyms, and what separates positives from contrasts.

FALCON (Kalibhat et al. 2023, "Identifying Interpretable Subspaces in Image Representations") names features with words
of captions that suit the activating images and not the contrastive ones. Here its unit is a neuron, and the contrastive
images are CSP's contrasts unless `falcon_contrasts` mines FALCON's own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from contralens.errors import InputError
from contralens.math.activation_sources import columns, source
from contralens.math.tensors import blocks, matrix
from contralens.types import Exemplars

STOP = frozenset(
    word
    for line in (
        "a an the this that these those some any each every all both no it its he she we they his her their my your",
        "is are was were be been being am has have had do does did can could will would may there here",
        "of in on at by to from with without into onto over under near next beside behind between for as and or but",
        "our i nor very so too also just while than then which who what where when how whose why if because",
        "up down out off away back around across along through against towards toward above below inside outside",
        "after before during upon within amid among between beyond past per via like as such same other another",
        "one many much few more most less least several lot lots bit pair group bunch couple various different own",
        "you me him them us something someone anything nothing everything thing things only even still already again",
        "being get gets getting got go goes going went make makes making made put puts putting take takes taking took",
        "not really quite almost about seems seem appears appear shows showing shown see seen seeing",
        "image images picture pictures photo photos photograph photographs background foreground",
    )
    for word in line.split()
)
"""Words that are no concept by themselves, and neither begin nor end a phrase."""
COUNTS = frozenset({
    "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "dozen", "first", "second", "third",
})  # fmt: skip
"""Words that begin a phrase ("two objects"), but neither end one nor stand alone."""


@dataclass(frozen=True, slots=True)
class Phrases:
    """Words and phrases of captions: caption m holds `ids[starts[m]:starts[m+1]]`."""

    texts: list[str]
    """(P) in lower case."""
    lengths: Tensor
    """(P) words of each, int64."""
    starts: Tensor
    """(M+1) int64."""
    ids: Tensor
    """int64, rising within a caption."""
    longer: dict[int, list[int]]
    """For each phrase those that contain it."""


def phrases(captions: Sequence[str], longest: int = 3) -> Phrases:
    """All words and phrases of up to `longest` words in captions (M), without those that begin or end with a stop word.

    >>> phrases(["A red, striped disc on the sand"], longest=2).texts
    ['red', 'striped', 'disc', 'sand', 'red striped', 'striped disc']
    """
    number: dict[str, int] = {}
    held: list[list[int]] = []
    longer: dict[int, set[int]] = {}
    for caption in captions:
        sentences = re.split(r"[.;:!?()\n]+|, (?=(?:and|with|on|in) )", caption)
        pieces = [re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", piece.lower()) for piece in sentences]
        own: set[int] = set()
        for length in range(1, longest + 1):
            for words in pieces:
                for at in range(len(words) - length + 1):
                    span = words[at : at + length]
                    if not _is_concept(span):
                        continue
                    phrase = number.setdefault(" ".join(span), len(number))
                    own.add(phrase)
                    for low in range(length):
                        for high in range(low + 1, length + 1):
                            part = number.get(" ".join(span[low:high]))
                            if part is not None and part != phrase:
                                longer.setdefault(part, set()).add(phrase)
        held.append(sorted(own))
    starts = torch.tensor([0, *(len(h) for h in held)]).cumsum(0)
    ids = torch.tensor([p for h in held for p in h], dtype=torch.int64)
    lengths = torch.tensor([len(t.split()) for t in number], dtype=torch.int64)
    return Phrases(list(number), lengths, starts, ids, {p: sorted(q) for p, q in longer.items()})


def _is_concept(words: Sequence[str]) -> bool:
    """Whether words of a caption may stand as a label: no fragment that begins or ends in the middle of something.

    >>> [_is_concept(text.split()) for text in ("two objects", "two", "up", "boat rowing down", "boat on a river")]
    [True, False, False, False, True]
    """
    ends = words[0] in STOP or words[-1] in STOP or words[-1] in COUNTS
    return not ends and any(letter.isalpha() for word in words for letter in word)


def top_captions(embeddings: Any, captions: Any, top: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """The `top` captions of each image by cosine, from unit rows (I,D) and (M,D).

    Returns:
        Indices (I,top), cosines (I,top), and shares (I,top): (cosine - average) / (best - average), where the average
        is that of the image over all captions. A share is 1 for the image's best caption and 0 for one that suits it no
        better than any, whatever the encoder's range of cosines.
    """
    e, c = matrix(embeddings, "embeddings"), matrix(captions, "captions")
    if e.shape[1] != c.shape[1]:
        raise InputError(f"`embeddings` and `captions` must be of one width; got {e.shape[1]} and {c.shape[1]}")
    top = min(top, c.shape[0])
    indices = torch.empty(e.shape[0], top, dtype=torch.int64)
    cosines = torch.empty(e.shape[0], top, dtype=e.dtype)
    for block in blocks(e.shape[0], c.shape[0] * e.element_size()):
        best = (e[block] @ c.T).sort(dim=1, descending=True, stable=True)
        indices[block], cosines[block] = best.indices[:, :top], best.values[:, :top]
    average = (e @ c.mean(0))[:, None]
    shares = ((cosines - average) / (cosines[:, :1] - average).clamp_min(1e-9)).clamp(0.0, 1.0)
    return indices, cosines, shares


def phrase_scores(images: Tensor, captions: Tensor, weights: Tensor, index: Phrases) -> tuple[Tensor, Tensor]:
    """How far each phrase holds on a set of images: ids (P') and scores (P'), for the phrases that occur at all.

    score(w, S) = mean over images i in S of max over the captions m of i that hold w of weight(i,m)

    `images` (K) are rows of `captions` and `weights` (I,top); -1 is skipped. FALCON's weight is the cosine.
    """
    images = images[images >= 0]
    if len(images) == 0:
        return torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.float64)
    weight, rows = weights[images].double(), captions[images]
    sizes = (index.starts[rows + 1] - index.starts[rows]).reshape(-1)
    total = int(sizes.sum())
    offsets = torch.arange(total) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    held = index.ids[index.starts[rows].reshape(-1).repeat_interleave(sizes) + offsets]
    slot = torch.arange(len(images)).repeat_interleave(rows.shape[1]).repeat_interleave(sizes)
    ids, place = torch.unique(held, return_inverse=True)
    table = torch.zeros(len(images) * len(ids), dtype=torch.float64)
    table.scatter_reduce_(0, slot * len(ids) + place, weight.reshape(-1).repeat_interleave(sizes), "amax")
    return ids, table.reshape(len(images), len(ids)).mean(0)


def contrast_phrases(
    positives: Tensor,
    contrasts: Tensor | None,
    captions: Tensor,
    weights: Tensor,
    index: Phrases,
    *,
    held: float = 1 / 3,
    top: int = 8,
) -> list[tuple[str, float, float]]:
    """A neuron's words and phrases: (text, score on positives, score on contrasts), best first.

    Ranked by the score on positives minus that on contrasts, ties by the shorter phrase. Dropped are those that hold on
    the contrasts too (a score of at least `held`: a third where `weights` are shares; FALCON takes .1 with cosines,
    about a third of the cosine of a good caption under CLIP), and phrases of several words inside a longer one that
    holds just as far on the positives. Without `contrasts` the positives alone decide.
    """
    ids, score = phrase_scores(positives, captions, weights, index)
    other = torch.zeros(len(index.texts), dtype=torch.float64)
    if contrasts is not None:
        theirs, value = phrase_scores(contrasts, captions, weights, index)
        other[theirs] = value
    known = dict(zip(ids.tolist(), score.tolist(), strict=True))
    rows = []
    for phrase, on, off in zip(ids.tolist(), score.tolist(), other[ids].tolist(), strict=True):
        if contrasts is not None and off >= held:
            continue
        words = int(index.lengths[phrase])
        part = words > 1 and any(known.get(q, -1.0) >= on - 1e-9 for q in index.longer.get(phrase, ()))
        if on > off and not part:
            rows.append((round(off - on, 9), words, index.texts[phrase], on, off))
    return [(text, on, off) for _, _, text, on, off in sorted(rows)[:top]]


def falcon_contrasts(
    activations: Any, positives: Tensor, group: Sequence[int], least: float = 0.3, most: int = 10
) -> Tensor:
    """FALCON's contrastive images of a feature group, mined in the target's own space: indices (most), padded with -1.

    r[i] are the activations (I,N) without the columns of `group`, as unit rows; images count on which every feature of
    the group is below its mean and whose cosine to the mean of the positives' r is at least `least`; the nearest `most`
    are kept. Activations are read in blocks, twice; any `ActivationSource` will do.
    """
    a = source(activations)
    explained = torch.tensor(sorted(set(group)), dtype=torch.int64)
    out = torch.full((most,), -1, dtype=torch.int64)
    positives = positives[positives >= 0]
    if len(explained) == a.shape[1] or len(positives) == 0:
        return out

    def unit(rows: Tensor) -> Tensor:
        return normalize(rows.nan_to_num(0.0, 0.0, 0.0).index_fill_(1, explained, 0.0), dim=1)

    mean = torch.zeros(a.shape[1])
    for start, rows in a.blocks():
        here = positives[(positives >= start) & (positives < start + len(rows))] - start
        mean = mean + unit(rows[here]).sum(0)
    direction = normalize(mean, dim=0)
    cosine = torch.cat([unit(rows) @ direction for _, rows in a.blocks()])
    high = columns(a, explained).nan_to_num(0.0, 0.0, 0.0)
    cold = (high < high.mean(0)).all(1)
    order = cosine.masked_fill(~cold | (cosine < least), -torch.inf).sort(descending=True, stable=True)
    chosen = order.indices[: int(order.values[:most].isfinite().sum())]
    out[: len(chosen)] = chosen
    return out


def group_positives(activations: Any, group: Sequence[int], k: int) -> Tensor:
    """Images (k) on which all features of a group are high: by falling least activation, each scaled by its maximum."""
    a = matrix(activations, "activations")[:, list(group)].nan_to_num(-torch.inf)
    least = (a / a.amax(0).clamp_min(1e-9)).amin(1)
    return least.sort(descending=True, stable=True).indices[:k]


def merge_near(texts: Any, threshold: float) -> tuple[Tensor, Tensor]:
    """Near-synonyms: for each of C unit rows (C,D) the row that it counts as, and the cosine of the two.

    Walked in the order given: a text counts as the earlier kept text with the highest cosine, if that is at least
    `threshold`; otherwise it is kept. Merging does not chain: two texts that count as one are `threshold` close
    themselves.

    >>> merge_near(torch.eye(2)[[0, 1, 0]], 0.9)[0].tolist()
    [0, 1, 0]
    """
    t = matrix(texts, "texts")
    counts_as, cosine = torch.arange(len(t)), torch.ones(len(t), dtype=t.dtype)
    kept: list[int] = []
    for row in range(len(t)):
        if kept:
            near = t[kept] @ t[row]
            best = int(near.argmax())
            if float(near[best]) >= threshold:
                counts_as[row], cosine[row] = kept[best], near[best]
                continue
        kept.append(row)
    return counts_as, cosine


def separates(exemplars: Exemplars, embeddings: Any, texts: Any) -> tuple[Tensor, Tensor]:
    """Whether concepts tell positives from their partners: share of pairs and p-value, (N,C) float64 each.

    share = of the pairs with both images, those with cos(e[p], t) > cos(e[q(p)], t), ties one half; p = probability of
    at least as many under a fair coin (one-sided sign test, ties left out). NaN for a neuron without pairs.
    """
    e, t = matrix(embeddings, "embeddings"), matrix(texts, "texts")
    there = (exemplars.positives >= 0) & (exemplars.contrasts >= 0)
    share = torch.full((len(exemplars), len(t)), torch.nan, dtype=torch.float64)
    p = share.clone()
    for n in range(len(exemplars)):
        if not there[n].any():
            continue
        gap = (e[exemplars.positives[n, there[n]]] - e[exemplars.contrasts[n, there[n]]]) @ t.T
        wins, ties = (gap > 1e-7).sum(0), (gap.abs() <= 1e-7).sum(0)
        share[n] = (wins + 0.5 * ties).double() / gap.shape[0]
        for c, (won, drawn) in enumerate(zip(wins.tolist(), ties.tolist(), strict=True)):
            of = gap.shape[0] - drawn
            p[n, c] = sum(math.comb(of, i) for i in range(won, of + 1)) / 2**of
    return share, p
