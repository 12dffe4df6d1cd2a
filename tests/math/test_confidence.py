"""Confidence: what the ballots keep, what the signals say, and that confidence is about truth."""

from __future__ import annotations

import json
import math

import pytest
import torch
from clusters import clustered
from torch.nn.functional import normalize

import contralens
from contralens.errors import InputError
from contralens.math.activation_sources import source
from contralens.math.confidence import STAYS, STEADY, Weighed, _probabilities, label_confidence, log_likelihood
from contralens.math.confidence_model import Model, model
from contralens.math.confidence_signals import signals
from contralens.math.exemplars import find_exemplars
from contralens.math.null_neurons import fake_activations
from contralens.math.planted_neurons import plant
from contralens.math.scorer_panel import KEPT, PANEL, ballot, ballot_of
from contralens.math.scoring import run_scorer

CONCEPTS, IMAGES = 40, 800


def made(seed: int = 0, missing: int = 0, noise: float = 0.8, gain: float = 4):
    """Neurons that each follow one concept, images that show one or two, texts near what images show."""
    g = torch.Generator().manual_seed(seed)
    t = normalize(torch.randn(CONCEPTS, 32, generator=g), dim=1)
    shown = torch.randint(CONCEPTS, (IMAGES,), generator=g)
    e = normalize(t[shown] + noise * normalize(torch.randn(IMAGES, 32, generator=g), dim=1), dim=1)
    truth = torch.arange(CONCEPTS)
    gains = torch.rand(CONCEPTS, generator=g) * gain
    a = (shown[:, None] == truth) * gains + torch.randn(IMAGES, CONCEPTS, generator=g).abs()
    return a, e, t[: CONCEPTS - missing], truth


def test_a_ballot_is_what_the_scores_say() -> None:
    a, e, t, _ = made()
    x = find_exemplars(a, e, k=10)
    for spec in PANEL:
        scores = run_scorer(spec, x, e, t, a)
        said = ballot(spec, x, e, t, a)
        assert said.labels.tolist() == scores.argmax(1).tolist()
        assert torch.equal(said.best(5).scores, scores.topk(5).values)
        torch.testing.assert_close(said.mean, scores.mean(1), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(said.deviation, scores.std(1, correction=0), atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(said.concept_mean, scores.mean(0), atol=1e-5, rtol=1e-4)
        stands = said.stands(said.labels[:, None])
        top = scores.topk(2).values
        torch.testing.assert_close(
            stands["margin"][:, 0], (top[:, 0] - top[:, 1]) / said.deviation, atol=1e-3, rtol=1e-3
        )
        assert not stands["rank"].any()


def test_what_is_not_kept_stands_at_the_end() -> None:
    scores = torch.rand(5, 200, generator=torch.Generator().manual_seed(0))
    said = ballot_of(iter([(slice(0, 120), scores[:, :120]), (slice(120, 200), scores[:, 120:])]))
    order = scores.argsort(1, descending=True)
    last, below = said.stands(order[:, KEPT - 1 : KEPT]), said.stands(order[:, 150:151])
    assert all(torch.equal(last[name][:, 0], below[name][:, 0]) for name in ("rank", "among concepts", "margin"))
    wider = ballot_of(iter([(slice(0, 200), scores)]), 100)
    assert wider.best(100).concepts.tolist() == order[:, :100].tolist()
    assert torch.equal(wider.stands(order[:, 150:151])["rank"], below["rank"])


def test_a_ballot_counts_only_scores_that_are_there() -> None:
    scores = torch.randn(7, 50, generator=torch.Generator().manual_seed(0)) - 40
    scores[2], scores[:, 9], scores[4, 3] = torch.nan, torch.nan, torch.nan
    said = ballot_of(iter([(slice(0, 30), scores[:, :30]), (slice(30, 50), scores[:, 30:])]))
    there = scores[[0, 1, 3, 4, 5, 6]]
    torch.testing.assert_close(said.mean[[0, 1, 3, 4, 5, 6]], there.nanmean(1))
    assert bool(said.mean[2].isnan())
    assert bool(said.concept_mean[9].isnan())
    own = there[:, 3][~there[:, 3].isnan()]
    torch.testing.assert_close(said.concept_deviation[3], own.std(correction=0), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("broken", [0, 3])
def test_signals_agree_with_a_slow_copy(broken) -> None:
    a, e, t, _ = made()
    e[torch.arange(broken) * 7] = torch.nan
    a, x = a[:, :6], find_exemplars(a[:, :6], e, k=10)
    panel = {spec: ballot(spec, x, e, t, a) for spec in PANEL}
    candidates = torch.stack([said.labels for said in panel.values()], 1)
    found = signals(panel, candidates, x, source(a), e, t)
    there = ~e.isnan().any(1)
    cosine = (e @ t.T).nan_to_num(-torch.inf)
    spread, average = cosine[there].std(0, correction=0), e[there].mean(0) @ t.T
    for n in range(6):
        for q, c in enumerate(candidates[n].tolist()):
            near = [c in cosine[i].topk(5).indices.tolist() for i in x.positives[n, :5].tolist()]
            assert found["near (strongest)"][n, q] == pytest.approx(sum(near) / 5)
            best = torch.stack([cosine[i].max() for i in x.positives[n, :5]]).mean()
            own = cosine[x.positives[n], c].mean()
            assert found["cosine below the best"][n, q] == pytest.approx(
                float(cosine[x.positives[n, :5], c].mean() - best), abs=1e-5
            )
            assert found["above the average image"][n, q] == pytest.approx(
                float((own - average[c]) / spread[c]), rel=1e-3, abs=1e-3
            )
            back = (a[cosine[:, c].topk(5).indices, n] - a[there, n].mean()) / (
                x.activations[n, :5].mean() - a[there, n].mean()
            )
            assert found["its images' activation"][n, q] == pytest.approx(float(back.clamp(-2, 2).mean()), abs=1e-4)
            together = torch.stack([a[there, n], cosine[there, c]])
            assert found["correlation"][n, q] == pytest.approx(float(torch.corrcoef(together)[0, 1]), abs=1e-3)
            votes = sum(int(said.labels[n]) == c for said in panel.values()) / len(PANEL)
            assert found["votes"][n, q] == pytest.approx(votes)
            back = [i in x.positives[n].tolist() for i in cosine[:, c].topk(5).indices.tolist()]
            assert found["its images among the exemplars"][n, q] == pytest.approx(sum(back) / 5)
    peak = (x.activations[:, 0] - x.activations[:, -1]) / a[there].std(0, correction=0)
    torch.testing.assert_close(found["peak"][:, 0], peak, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("scorer", ["auto", "csp", "csp:gamma=0.5"])
def test_confidence_tells_right_labels_from_wrong_ones(scorer: str) -> None:
    from sklearn.metrics import roc_auc_score

    a, e, t, truth = made(missing=8)
    found = label_confidence(a, e, t, scorer)
    right = found.labels == truth
    assert 0.3 < right.float().mean() < 0.95
    assert roc_auc_score(right.numpy(), found.confidence.numpy()) > 0.85
    assert right[found.confidence >= 0.9].float().mean() > 0.9
    assert all(why and all(isinstance(text, str) for text in why) for why in found.reasons)
    assert all((name in PANEL) if scorer == "auto" else name == scorer for name in found.scorers)


@pytest.mark.parametrize("kind", ["permuted", "mixture"])
def test_neurons_that_mean_nothing_are_not_supported(kind) -> None:
    a, e, t, _ = made()
    nothing = fake_activations(a, 200, kind=kind)
    assert (label_confidence(nothing, e, t).confidence >= 0.9).float().mean() <= 0.01


def test_auto_leaves_the_steady_scorer_for_a_much_likelier_label_only() -> None:
    a, e, t, _ = made(seed=1, missing=8, noise=1.5, gain=2)
    auto, steady = label_confidence(a, e, t), label_confidence(a, e, t, STEADY)
    each = {scorer: label_confidence(a, e, t, scorer) for scorer in PANEL}
    for one in each.values():
        same = auto.labels == one.labels
        torch.testing.assert_close(auto.confidence[same], one.confidence[same])
        assert bool((auto.confidence >= one.confidence)[one.confidence >= 0.9].all()), "none that is supported"
    stays = auto.labels == steady.labels
    assert 0 < int((~stays).sum()) < len(stays)
    assert bool((auto.confidence > math.exp(STAYS) * steady.confidence)[~stays].all())
    likeliest = torch.stack([one.confidence for one in each.values()]).amax(0)
    assert bool((likeliest <= math.exp(STAYS) * steady.confidence)[stays].all())
    torch.testing.assert_close(auto.confidence[~stays], likeliest[~stays])


def test_the_preference_of_auto_gives_way_to_known_neurons() -> None:
    a, e, t, truth = made(seed=1, noise=1.5, gain=2)
    weighed = Weighed.by_panel(find_exemplars(a, e, k=10), a, e, t)
    assert weighed.calibrated({}).preference == STAYS
    assert torch.equal(weighed.calibrated({}).logits, weighed.logits)
    one, many = (weighed.calibrated({n: {int(truth[n])} for n in range(count)}) for count in (1, 30))
    assert STAYS > one.preference > many.preference > 0
    steady, others = weighed.of_steady, ~weighed.of_steady & (weighed.candidates >= 0)
    moved = many.logits - weighed.logits
    wrong = weighed.calibrated({n: set() for n in range(30)}).logits - weighed.logits
    assert moved[steady].mean() > wrong[steady].mean()
    assert moved[others].mean() > wrong[others].mean()


def test_known_truth_moves_the_level() -> None:
    a, e, t, truth = made()
    before = label_confidence(a, e, t)
    wrong = label_confidence(a, e, t, truth={n: (int(truth[n]) + 1) % CONCEPTS for n in range(30)})
    assert wrong.confidence[30:].mean() < before.confidence[30:].mean() - 0.1
    right = label_confidence(a, e, t, truth={n: [int(before.labels[n])] for n in range(30)})
    assert right.confidence[30:].mean() > before.confidence[30:].mean()
    assert label_confidence(a, e, t, truth={}).confidence.tolist() == before.confidence.tolist()
    with pytest.raises(InputError, match="`truth` says that neuron 99"):
        label_confidence(a, e, t, truth={99: 0})


def test_planted_neurons_follow_what_images_show() -> None:
    shows = torch.zeros(600, 6, dtype=torch.bool)
    shows[torch.arange(600), torch.arange(600) % 5] = True  # no image shows the sixth
    a, truth = plant(shows, 40, seed=3)
    assert torch.equal(a, plant(shows, 40, seed=3)[0])
    assert not torch.equal(a, plant(shows, 40, seed=4)[0])
    assert a.isfinite().all()
    assert a.amin() >= 0
    for n, own in enumerate(truth):
        shown = shows[:, sorted(own)].any(1)
        assert len(own) in (1, 2)
        assert 5 not in own
        assert a[shown, n].mean() > a[~shown, n].mean()
    assert plant(torch.zeros(50, 6, dtype=torch.bool), 40)[1] == []


def test_planting_sets_the_level_by_what_the_encoder_can_see_here() -> None:
    """Where the encoder sees what images show, planting says so; where it sees noise, no label stays supported."""
    a, e, t, truth = made()
    shows = (a - a.mean(0)) > 0
    shows &= a == a.amax(1, keepdim=True)
    seen = label_confidence(a, e, t, shows=shows, seed=1)
    assert seen.labels.tolist() == label_confidence(a, e, t).labels.tolist()
    right = seen.labels == truth
    assert seen.confidence[right].mean() > 0.6
    noise = normalize(torch.randn(*e.shape, generator=torch.Generator().manual_seed(5)), dim=1)
    assert label_confidence(a, noise, t, shows=shows).confidence.max() < 0.5
    with pytest.raises(InputError, match="800 images whether they show each of 40 concepts; its shape is"):
        label_confidence(a, e, t, shows=shows[:5])
    with pytest.raises(InputError, match="no concept that at least three images show"):
        label_confidence(a, e, t, shows=torch.zeros_like(shows))
    with pytest.raises(InputError, match="must be True or False"):
        label_confidence(a, e, t, shows=0.5 * shows)


def test_dead_constant_and_broken_neurons_have_no_label_and_say_why() -> None:
    a, e = clustered(60, 6)
    a[:, 0], a[:, 1], a[:, 2] = 0.0, 1.0, torch.nan
    a[3, 3], e[5] = torch.inf, torch.nan
    t = normalize(torch.randn(9, e.shape[1], generator=torch.Generator().manual_seed(0)), dim=1)
    found = label_confidence(a, e, t, k=5)
    assert found.labels[:3].tolist() == [-1, -1, -1]
    assert found.words[:3] == ["no exemplars"] * 3
    assert found.confidence[:3].isnan().all()
    assert [why[0] for why in found.reasons[:3]] == [
        "it never fires on these images", "it has the same activation on all images",
        "none of its activations is a finite number",
    ]  # fmt: skip
    assert bool((found.labels[3:] >= 0).all())
    assert bool(((found.confidence[3:] >= 0) & (found.confidence[3:] <= 1)).all())


def test_few_of_everything_and_bad_input() -> None:
    a, e, t, _ = made()
    for some in ((a[:3, :1], e[:3], t[:1]), (a[:40, :2], e[:40], t[:2]), (a[:5], e[:5], t)):
        found = label_confidence(*some, k=3)
        assert len(found.labels) == some[0].shape[1]
        most = len(some[0]) / (len(some[0]) + 30)
        assert bool((found.confidence < most + 1e-9).all()), "few images prove nothing"
    with pytest.raises(InputError, match="do not belong together"):
        label_confidence(a, e[:-1], t)
    with pytest.raises(InputError, match="unknown scorer 'no'"):
        label_confidence(a, e, t, "no")
    for rows, says in (
        ((3 * e, t), "row 0 has length 3"), ((e, 0.5 * t), "`texts` must be rows of length 1"),
        ((torch.full_like(e, torch.nan), t), "`embeddings` holds no row"),
        ((e, torch.cat([t[:1] * torch.nan, t[1:]])), "`texts` must be finite"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=says):
            label_confidence(a, *rows)


def test_the_model_reads_what_it_wrote_and_counts_nothing_beyond_its_range() -> None:
    shipped = model()
    again = Model.from_json(json.loads(json.dumps(shipped.to_json())))
    far = {name: torch.full((2, 3), 1e9) for name in shipped.names}
    edge = {name: shipped.knots[i, 4].expand(2, 3) for i, name in enumerate(shipped.names)}
    unknown = {name: torch.full((2, 3), torch.nan) for name in shipped.names}
    assert torch.equal(shipped.logits(far), again.logits(far))
    torch.testing.assert_close(shipped.logits(far), shipped.logits(edge))
    assert shipped.logits(unknown).isfinite().all()
    logits = torch.tensor([[0.0, 1.0, -torch.inf]])
    p = _probabilities(logits)[0]
    assert p.sum() < 1
    right = torch.tensor([[False, True, False]])
    assert float(log_likelihood(logits, right).exp()) == pytest.approx(float(p[1]))
    assert float(log_likelihood(logits, right & False).exp()) == pytest.approx(float(1 - p.sum()))


def test_a_run_says_how_likely_its_labels_are_right(discs, tmp_path) -> None:
    from coloured import COLOURS, ColourEncoder
    from test_layers import InPlace

    options = {"layer": "mixed", "preprocess": "resize=32x32,mean=half", "k": 5, "cache": tmp_path / "cache"}
    run = contralens.label(InPlace(), discs, ColourEncoder(), list(COLOURS), scorers=["csp", "auto"], **options)
    rows, auto = run.rows("csp"), run.rows("auto")
    labeled = [row for row in rows if row["label"] is not None]
    assert labeled
    assert all(0 <= row["confidence"] <= 1 and row["reasons"] for row in labeled)
    for one, other in zip(rows, auto, strict=True):
        if one["label"] is not None:
            assert other["confidence"] >= one["confidence"] or one["confidence"] < 0.9
            assert other["score"] == other["confidence"]
    counts = run.manifest["confidence"]["labels"]["csp"]
    assert sum(counts.values()) == len(labeled)
    options["confidence"] = False
    without = contralens.label(InPlace(), discs, ColourEncoder(), list(COLOURS), scorers="csp", **options)
    assert without.manifest["confidence"] is None
    assert all(row["confidence"] is None for row in without.rows())
    assert [row["label"] for row in without.rows()] == [row["label"] for row in rows]
    with pytest.raises(InputError, match='"auto" needs confidence'):
        contralens.label(InPlace(), discs, ColourEncoder(), list(COLOURS), scorers="auto", **options)


def test_arguments_that_say_nothing_of_use_are_one_line() -> None:
    a, e, t, truth = made()
    for wrong in (truth.tolist(), {0: "striped"}, {0: 1.0}, {0: None}, {"first": 0}):
        with pytest.raises(InputError, match="`truth` must map"):
            label_confidence(a, e, t, truth=wrong)
    with pytest.raises(InputError, match="`k` must be a whole number"):
        label_confidence(a, e, t, k=2.5)
    for neurons, texts in ((0, len(t)), (len(truth), 0)):
        with pytest.raises(InputError, match="must hold a neuron and a text"):
            label_confidence(a[:, :neurons], e, t[:texts])
    number = label_confidence(a, e, t, truth={0: int(truth[0])}).confidence
    assert torch.equal(label_confidence(a, e, t, truth={0: truth[0]}).confidence, number), "an index of any library"
