"""Slow copies of the formulas, one loop per index, written from the papers and independent of `contralens.math`.

Bouanani et al. 2026 (arXiv 2604.22477) for exemplars, CSP and its variant of CLIP-Dissect; Dreyer et al. 2025 for
SemanticLens; Oikarinen & Weng 2023 for CLIP-Dissect. Everything in float64; sums of activations are exact (`fsum`).
"""

from __future__ import annotations

import math

import numpy as np

SAME = 1e-12  # cosines closer than this are one number, computed in another order


def exemplars(activations, embeddings, k, neurons=None, reuse=True, exclude=None, groups=None, most=1):
    """Lists (N,K) of positives, activations, contrasts and similarities; -1 and NaN where there is none.

    `groups` (I): `most` positives of each at most, and no contrast of its positive's.
    """
    a, e = np.asarray(activations, dtype=np.float64), np.asarray(embeddings, dtype=np.float64)
    usable = [bool(np.isfinite(row).all()) for row in e]
    out = ([], [], [], [])
    for n in range(a.shape[1]) if neurons is None else neurons:
        images = [i for i in range(len(a)) if usable[i] and math.isfinite(a[i, n])]
        ranked = sorted(images, key=lambda i: (-a[i, n], i))
        if groups is not None:
            ranked = [i for at, i in enumerate(ranked) if [groups[j] for j in ranked[:at]].count(groups[i]) < most]
        ranked = ranked[:k]
        mean = math.fsum(a[i, n] for i in images) / max(1, len(images))
        cold = [i for i in images if a[i, n] < mean] if len({a[i, n] for i in images}) > 1 else []
        contrasts, cosines = [], []
        for p in ranked:
            cos = {i: math.fsum(e[p] * e[i]) for i in cold}
            if exclude is not None:
                cos = {i: c for i, c in cos.items() if c <= exclude}
            if groups is not None:
                cos = {i: c for i, c in cos.items() if groups[i] != groups[p]}
            if not reuse:
                cos = {i: c for i, c in cos.items() if i not in contrasts}
            best = max(cos.values(), default=math.nan)
            q = min((i for i, c in cos.items() if c >= best - SAME), default=-1)
            contrasts.append(q)
            cosines.append(cos.get(q, math.nan))
        fill = min(k, len(a)) - len(ranked)
        out[0].append(ranked + [-1] * fill)
        out[1].append([float(a[p, n]) for p in ranked] + [math.nan] * fill)
        out[2].append(contrasts + [-1] * fill)
        out[3].append(cosines + [math.nan] * fill)
    return tuple(np.array(field) for field in out)


def unit(v):
    """Length 1; NaN where nothing but rounding errors is left."""
    length = math.sqrt(math.fsum(v * v))
    return v / length if length > 1e-6 else v * math.nan


def _shares(activations):
    """Raw activations, negative ones 0, sum 1; all equal where none is positive."""
    w = [max(0.0, float(x)) for x in activations]
    if not sum(w) > 0:
        w = [1.0] * len(w)
    return [x / sum(w) for x in w]


def _there(x, n):
    return [r for r in range(x.positives.shape[1]) if int(x.positives[n, r]) >= 0]


def concept(x, e, n, gamma=None):
    """A neuron's unit vector (D): plain mean for gamma None, else CSP's weighted mean of residuals; None if empty."""
    ranks = _there(x, n)
    if not ranks:
        return None
    w = _shares([1.0 if gamma is None else x.activations[n, r] for r in ranks])
    total = np.zeros(e.shape[1])
    for share, r in zip(w, ranks, strict=True):
        residual = e[int(x.positives[n, r])].copy()
        q = int(x.contrasts[n, r])
        if gamma is not None and q >= 0:
            residual -= gamma * float(x.similarities[n, r]) * e[q]
        total += share * residual
    return unit(total)


def _table(x, t, score):
    """(N,C) of score(n, c), NaN for a neuron without any exemplar."""
    rows = [[score(n, c) if _there(x, n) else math.nan for c in range(len(t))] for n in range(len(x))]
    return np.array(rows, dtype=np.float64).reshape(len(x), len(t))


def semanticlens(x, e, t):
    return _table(x, t, lambda n, c: float(concept(x, e, n) @ t[c]))


def csp(x, e, t, gamma=1.0):
    return _table(x, t, lambda n, c: float(concept(x, e, n, gamma) @ t[c]))


def centred(x, e, t, gamma=0.0):
    usable = [row for row in e if np.isfinite(row).all()]

    def average(c):
        return math.fsum(float(row @ t[c]) for row in usable) / len(usable)

    return _table(x, t, lambda n, c: float(concept(x, e, n, gamma) @ t[c]) - average(c))


def mean_difference(x, e, t):
    def score(n, c):
        hot = [float(e[int(p)] @ t[c]) for p in x.positives[n] if int(p) >= 0]
        cold = [float(e[int(q)] @ t[c]) for q in x.contrasts[n] if int(q) >= 0]
        return sum(hot) / len(hot) - (sum(cold) / len(cold) if cold else 0.0)

    return _table(x, t, score)


def softmax(v):
    powers = [math.exp(x - max(v)) for x in v]
    return [p / math.fsum(powers) for p in powers]


def clip_dissect(x, e, t, temperature=10.0, p_start=0.998, p_end=0.97, weight=1.0, prior="neurons"):
    P = [softmax(temperature * (t @ row)) if np.isfinite(row).all() else None for row in e]
    k = x.positives.shape[1]
    p = [p_start - r / k * (p_start - p_end) for r in range(k)]

    def likelihood(n, c):
        return math.fsum(math.log(1 + p[r] * (P[int(x.positives[n, r])][c] - 1) + 1e-7) for r in _there(x, n))

    scored = [n for n in range(len(x)) if _there(x, n)]
    L = {n: [likelihood(n, c) for c in range(len(t))] for n in scored}

    def base(c):
        if prior == "images":
            known = [row[c] for row in P if row is not None]
            return math.fsum(math.log(1 + p_r * (math.fsum(known) / len(known) - 1) + 1e-7) for p_r in p)
        return math.log(math.fsum(math.exp(L[n][c]) for n in scored)) - math.log(len(scored))

    bases = [base(c) for c in range(len(t))] if scored else []
    return _table(x, t, lambda n, c: L[n][c] - weight * bases[c])


def clip_dissect_csp(x, e, t, temperature=10.0, weight=1.0):
    P = {i: softmax((t @ row) / temperature) for i, row in enumerate(e) if np.isfinite(row).all()}

    def score(n, c):
        ranks = _there(x, n)
        w = _shares([x.activations[n, r] for r in ranks])
        hot = math.fsum(share * P[int(x.positives[n, r])][c] for share, r in zip(w, ranks, strict=True))
        return math.log(hot + 1e-6) - weight * math.log(math.fsum(row[c] for row in P.values()) / len(P))

    return _table(x, t, score)
