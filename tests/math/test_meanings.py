"""How many meanings: steps against slow copies, and planted neurons whose number of meanings is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from contralens.errors import InputError
from contralens.math.exemplars import find_exemplars
from contralens.math.meaning_labels import label_meanings
from contralens.math.meanings import Meanings, meanings, merged, sampled, whitened
from contralens.math.planted_neurons import plant_meanings


def scenes(images=1500, concepts=12, seed=0):
    """What images show, and embeddings that add up what is shown."""
    g = torch.Generator().manual_seed(seed)
    shows = torch.rand(images, concepts, generator=g) < 0.12
    directions = normalize(torch.randn(concepts, 24, generator=g), dim=1)
    e = normalize(shows.float() @ directions + 0.1 * torch.randn(images, 24, generator=g), dim=1)
    return shows, e, directions


@pytest.fixture(scope="module")
def found():
    shows, e, directions = scenes()
    a, truth = plant_meanings(shows, [1] * 12 + [2] * 12 + [3] * 12, seed=3)
    return a, e, directions, truth, meanings(a, e)


def test_the_number_of_meanings_is_found(found) -> None:
    _, _, _, truth, verdict = found
    true = torch.tensor([len(own) for own in truth])
    for count in (1, 2, 3):
        assert float((verdict.count[true == count] == count).double().mean()) >= 0.75
    assert (verdict.p[verdict.rows] <= 0.05).all()


def test_shares_members_and_parts_belong_together(found) -> None:
    a, _, _, _, verdict = found
    assert verdict.rows.tolist() == (verdict.count > 1).nonzero()[:, 0].tolist()
    torch.testing.assert_close(verdict.share.sum(1), torch.ones(len(a.T)))
    parts, row, part = verdict.parts(a, torch.arange(a.shape[1]))
    for v, (n, c) in enumerate(zip(row.tolist(), part.tolist(), strict=True)):
        member = verdict.member[verdict.rows.tolist().index(n)]
        assert ((member >= 0) == (a[:, n] > a[:, n].mean())).all()
        left_out = (member >= 0) & (member != c)
        assert torch.equal(parts[:, v].isnan(), left_out)
        assert torch.equal(parts[~left_out, v], a[~left_out, n])
        excess = (a[:, n] - a[:, n].mean()).clamp_min(0)
        assert float(verdict.share[n, c]) == pytest.approx(float(excess[member == c].sum() / excess.sum()), abs=1e-4)


def test_each_meaning_gets_its_label(found) -> None:
    a, e, directions, truth, verdict = found
    x = find_exemplars(a, e, k=20)
    named = label_meanings(verdict, x, a, e, directions, ["csp", "auto"], k=20)
    assert set(named["csp"]) == set(verdict.rows.tolist())
    hits = [m.concept in truth[n] for n, own in named["csp"].items() for m in own]
    assert np.mean(hits) >= 0.85
    for n, own in named["auto"].items():
        assert sum(m.share for m in own) == pytest.approx(1, abs=1e-4)
        assert [m.share for m in own] == sorted((m.share for m in own), reverse=True)
        assert len({m.concept for m in own}) == len(own)
        for m in own:
            assert 0 <= m.confidence <= 1
            assert (a[m.positives, n] > a[:, n].mean()).all()
            assert all(q < 0 or a[q, n] < a[:, n].mean() for q in m.contrasts)
    plain = label_meanings(verdict, x, a, e, directions, ["semanticlens"], confidence=False, k=20)
    assert all(math.isnan(m.confidence) for own in plain["semanticlens"].values() for m in own)


def test_the_same_twice_and_blocks_of_neurons_change_little(found, monkeypatch) -> None:
    a, e, _, _, verdict = found
    again = meanings(a, e)
    for field in ("count", "p", "share", "rows", "member"):
        torch.testing.assert_close(getattr(again, field), getattr(verdict, field), equal_nan=True)
    some = meanings(a, e, neurons=[14, 3])
    assert len(some.count) == 2
    monkeypatch.setattr("contralens.math.meanings.AT_ONCE", 2**17)
    assert float((meanings(a, e).count == verdict.count).double().mean()) > 0.9


def test_images_are_drawn_by_how_far_they_lie_above_the_mean() -> None:
    g = torch.Generator().manual_seed(0)
    values = torch.rand(3000, 2, generator=g) ** 6
    values[5, 0] = math.nan
    images = sampled(values)
    for n in range(2):
        w = [max(0.0, float(v) - float(values[:, n].nanmean())) if v == v else 0.0 for v in values[:, n]]
        order = sorted(range(len(w)), key=lambda i: (-w[i], i))
        total, want, at = math.fsum(w), [], 0
        running = w[order[0]]
        for tick in range(512):
            while running < total * (tick + 0.5) / 512 - 1e-9:
                at += 1
                running += w[order[at]]
            if not want or want[-1] != order[at]:
                want.append(order[at])
        own = images[n][images[n] >= 0].tolist()
        assert len(set(own)) == len(own)
        assert len(set(own) ^ set(want)) <= 4  # ties of rounding
    assert (sampled(torch.zeros(20, 1)) == -1).all()


def test_whitened_embeddings_vary_by_one_where_the_ridge_is_small() -> None:
    e = torch.randn(4000, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 2.0, 2.0, 1.5, 1.0])
    x = whitened(e)
    values = np.linalg.eigvalsh(np.cov(e.numpy().T, bias=True))[::-1]
    expected = values / (values + 0.1 * values.mean())
    np.testing.assert_allclose(np.cov(x.numpy().T, bias=True), np.diag(expected), atol=2e-3)


def test_merging_against_a_slow_copy() -> None:
    g = torch.Generator().manual_seed(1)
    for _ in range(20):
        r, n = torch.randn(8, 3, generator=g), torch.randint(1, 9, (8,), generator=g).float()
        groups = [[i] for i in range(8)]
        while len(groups) > 1:
            means = [sum(n[i] * r[i] for i in own) / sum(n[i] for i in own) for own in groups]
            pairs = [(float(torch.cosine_similarity(means[i], means[j], dim=0)), i, j)
                     for i in range(len(groups)) for j in range(i + 1, len(groups))]  # fmt: skip
            cosine, i, j = max(pairs)
            if cosine < 0.6 and len(groups) <= 6:
                break
            groups[i] += groups.pop(j)
        told = merged(r, n)
        assert {frozenset(own) for own in groups} == {
            frozenset((told == c).nonzero()[:, 0].tolist()) for c in told.unique().tolist()
        }


def test_nothing_to_find() -> None:
    e = normalize(torch.randn(60, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    a = torch.zeros(60, 3)
    a[:, 1], a[:4, 2] = math.nan, 1.0
    verdict = meanings(a, e)
    assert verdict.count.tolist() == [1, 1, 1]
    assert verdict.p.isnan().all()
    assert isinstance(meanings(a, e, neurons=[]), Meanings)
    assert verdict.parts(a, torch.arange(3))[0].shape == (60, 0)


def test_planted_meanings_follow_the_rule() -> None:
    shows, *_ = scenes()
    a, truth = plant_meanings(shows, [2, 4], seed=1)
    again, _ = plant_meanings(shows, [2, 4], seed=1)
    assert torch.equal(a, again)
    for column, own in zip(a.T, truth, strict=True):
        fires = shows[:, sorted(own)].any(1)
        assert float(column[fires].min()) >= 0.36
        assert float(column[~fires].max()) < 0.36
    with pytest.raises(InputError, match="with 13 meanings"):
        plant_meanings(shows, [13])
