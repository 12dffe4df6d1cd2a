"""Verdicts on small made cases: ties, concepts without support, encoders that cannot read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from contralens.auditing.alignment import DRAWS, Alignment, Separation, Wordings, align, margin_noise, resampled
from contralens.auditing.concept_verdicts import LIKELY, TIE, Verdicts, concept_confidence
from contralens.auditing.concepts import concept_list
from contralens.auditing.encoder_checks import LEVEL, Reading, reading
from contralens.math.exemplars import find_exemplars
from contralens.math.null_neurons import fake_exemplars, with_fakes
from contralens.math.scoring import run_scorer
from contralens.math.tensors import matrix

LISTED = concept_list({
    "expected": ["red", "green"], "spurious": ["ruler", "ink"], "other": ["skin"],
})  # fmt: skip
SIDES = [torch.tensor([c.side == side for c in LISTED]) for side in ("expected", "spurious")]


def made(images: int = 600, concepts: int = 5, width: int = 48, seed: int = 0) -> tuple[Tensor, Tensor, Wordings]:
    """Images that show concepts, neurons that follow one each (and two that follow none), and the concepts in words."""
    g = torch.Generator().manual_seed(seed)
    words = normalize(torch.randn(concepts, width, generator=g), dim=1)
    shown = (torch.rand(images, concepts, generator=g) < 0.3).float()
    e = normalize(shown @ words + 0.15 * torch.randn(images, width, generator=g) + 0.2, dim=1)
    a = shown + 0.2 * torch.rand(images, concepts, generator=g)
    a = torch.cat([a, torch.rand(images, 2, generator=g)], 1)
    single = normalize(words.repeat(2, 1) + 0.05 * torch.randn(2 * concepts, width, generator=g), dim=1)
    of = torch.arange(concepts)
    return a, e, Wordings(words, of, [c.name for c in LISTED], None, single, of.repeat(2))


def judged(
    z: list[list[float]], noise: list[float], confidence: list[float], reads: Reading | None = None
) -> list[dict[str, Any]]:
    values = torch.tensor(z, dtype=torch.float64)
    n, c = values.shape
    a, e, _ = made()
    ex = find_exemplars(a[:, :n], e, k=5)
    nothing = torch.zeros(n, dtype=torch.float64)
    apart = Separation(torch.full((c,), 0.9), torch.zeros(c), torch.zeros(c, dtype=torch.int64), 600)
    reads = reads or Reading(apart, torch.full((c,), 0.001), torch.full((c,), 0.01))
    aligned = Alignment(values, nothing, values, values.argmax(1), nothing, nothing, 0.0)
    layer = dict.fromkeys(("clarity", "redundancy", "polysemanticity"), nothing)
    found = Verdicts(LISTED, ex, aligned, torch.tensor(noise), torch.tensor(confidence), reads, 0.05, layer)
    return list(found.table().to_pylist())


def test_sides_that_tie_within_noise_are_undecided() -> None:
    rows = judged([[2.0, 0.0, 1.9, 0.0, 0.0]] * 2 + [[1.0, 0.0, 9.0, 0.0, 0.0]], [0.1, 0.05, 1.0], [0.9] * 3)
    assert [row["verdict"] for row in rows] == ["undecided", "expected", "spurious"]
    assert [row["concept"] for row in rows] == [None, "red", "ruler"]
    assert rows[0]["reason"] == f"red and ruler tie: 0.1 apart, {TIE:g} x 0.1 needed"
    assert rows[1]["reason"] == ""
    (row,) = judged([[2.0, 0.0, -5.0, -5.0, 0.0]], [float("nan")], [0.9])
    assert row["verdict"] == "undecided", "a noise that is not known decides nothing"


def test_a_verdict_needs_a_supported_concept() -> None:
    rows = judged([[0.0, 0.0, 9.0, 0.0, 0.0]] * 3, [0.1] * 3, [LIKELY, LIKELY - 0.01, float("nan")])
    assert [row["verdict"] for row in rows] == ["spurious", "unexplained", "unexplained"]
    assert rows[1]["reason"] == "ruler is not supported: confidence 0.49, 0.5 needed"
    assert [row["best"] for row in rows] == ["ruler"] * 3
    (row,) = judged([[0.0, 0.0, 1.0, 0.0, 9.0]], [0.1], [0.9])
    assert (row["verdict"], row["reason"]) == ("unexplained", "skin is neither expected nor spurious")


def test_a_concept_that_the_encoder_cannot_read_gives_no_verdict() -> None:
    apart = Separation(
        torch.tensor([0.9, 0.9, 0.1, 0.9, 0.9]), torch.tensor([0.1, 0.1, 0.5, 0.1, 0.1]),
        torch.tensor([1, 0, 0, 0, 0]), 600,
    )  # fmt: skip
    reads = Reading(apart, torch.tensor([0.5, 0.01, 0.01, 0.01, 0.01]), torch.tensor([0.01, 0.5, 0.01, 0.01, 0.01]))
    rows = judged((9 * torch.eye(5)[:4]).tolist(), [0.1] * 4, [0.9] * 4, reads)
    assert [row["verdict"] for row in rows] == ["unexplained"] * 3 + ["spurious"]
    for row, words in zip(rows, ("random directions", "other images' embeddings", "wordings agree"), strict=False):
        assert words in row["reason"]
    told = " ".join(reads.warnings("eyes", LISTED))
    assert "does not detect 2 of 5" in told
    assert "red, green" in told
    assert "cannot separate 1 of 5" in told
    assert "verdicts do not use 3 concepts" in told
    assert [c["readable"] for c in reads.manifest(LISTED)["concepts"]] == [False] * 3 + [True] * 2


def test_the_images_are_looked_at_not_the_words_alone() -> None:
    a, e, words = made()
    g = torch.Generator().manual_seed(1)
    turned = torch.linalg.qr(torch.randn(48, 48, generator=g))[0]
    random = normalize(torch.randn(e.shape, generator=g), dim=1)
    assert reading(e, a, range(5), words).readable.all()
    other = e[torch.randperm(len(e), generator=g)]
    for blind in (random, e @ turned, other):
        found = reading(blind, a, range(5), words)
        assert found.words.confused == [], "the words say nothing of it"
        assert int(found.readable.sum()) <= 2
    assert (reading(other, a, range(5), words).pairing > LEVEL).sum() >= 4
    holes = e.clone()
    holes[3] = torch.nan
    a[5, 2] = torch.nan
    assert reading(holes, a, range(5), words).readable.all()


def test_random_images_pass_at_about_the_level_of_the_tests() -> None:
    a, e, words = made()
    passed = {"random": 0, "rotated": 0}
    for seed in range(10):
        g = torch.Generator().manual_seed(seed)
        turned = torch.linalg.qr(torch.randn(48, 48, generator=g))[0]
        for name, blind in (("random", torch.randn(e.shape, generator=g)), ("rotated", e @ turned)):
            passed[name] += int(reading(normalize(blind, dim=1), a, range(5), words, seed).readable.sum())
    assert passed["random"] <= 2, passed
    assert passed["rotated"] <= 7, passed


@pytest.mark.parametrize("scorer", ["csp", "semanticlens", "clip_dissect", "lookalike"])
def test_confidence_holds_whatever_the_scorer(scorer: str) -> None:
    a, e, words = made()
    ex = find_exemplars(a, e, k=15)
    fakes = fake_exemplars(a, e, 100, 0, k=15)
    every = with_fakes(matrix(a, "a"), 100, 0) if scorer == "lookalike" else None
    aligned = align(scorer, ex, fakes, e, words, every)
    others = normalize(torch.randn(20, 48, generator=torch.Generator().manual_seed(8)), dim=1)
    found = concept_confidence(aligned.best, words, others, ex, a, e)
    assert (aligned.best[:5] == torch.arange(5)).sum() >= 4
    assert (found[:5][aligned.best[:5] == torch.arange(5)] >= LIKELY).all()
    assert (found[5:] < LIKELY).all(), "neurons that follow nothing"
    lacks = Wordings(words.texts[1:3], torch.arange(2), ["green", "ruler"], None, words.single, words.single_concept)
    nearest = concept_confidence(torch.zeros(7, dtype=torch.int64), lacks, words.texts[:1], ex, a, e)
    assert nearest[0] < LIKELY, "the list lacks the word that the run's vocabulary has"


def test_noise_is_the_deviation_over_bootstrap_samples() -> None:
    a, e, words = made()
    ex, fakes = find_exemplars(a, e, k=8), fake_exemplars(a, e, 60, 0, k=8)
    aligned = align("csp", ex, fakes, e, words)
    found = margin_noise("csp", aligned, ex, e, words, *SIDES, seed=3)
    g = torch.Generator().manual_seed(3)
    null = torch.cat([ex.positives, fakes.positives])  # the first 30 % of 60 null neurons calibrate
    assert len(null) == 67
    scores = run_scorer("csp", fakes, e, words.texts).double()[:18]
    margins = []
    for _ in range(DRAWS):
        z = (run_scorer("csp", resampled(ex, g), e, words.texts).double() - scores.mean(0)) / scores.std(0)
        margins.append(z[:, :2].amax(1) - z[:, 2:4].amax(1))
    assert torch.allclose(found, torch.stack(margins).std(0), rtol=0.05)
    assert (found > 0).all()
    one = find_exemplars(a, e, k=1)
    alone = align("csp", one, fake_exemplars(a, e, 60, 0, k=1), e, words)
    assert torch.allclose(margin_noise("csp", alone, one, e, words, *SIDES), torch.zeros(7, dtype=torch.float64))


def test_a_scorer_that_looks_at_all_activations_has_the_noise_of_null_neurons() -> None:
    a, e, words = made()
    ex, fakes = find_exemplars(a, e, k=8), fake_exemplars(a, e, 60, 0, k=8)
    aligned = align("lookalike", ex, fakes, e, words, with_fakes(matrix(a, "a"), 60, 0))
    found = margin_noise("lookalike", aligned, ex, e, words, *SIDES)
    z = aligned.z[0]
    pair = int(z[:2].argmax()), 2 + int(z[2:4].argmax())
    assert float(found[0]) == pytest.approx(float((aligned.null[:, pair[0]] - aligned.null[:, pair[1]]).std()))
