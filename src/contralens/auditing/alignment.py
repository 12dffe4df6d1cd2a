"""Neurons against a list of expected and spurious concepts: the best one, whether it beats nothing and chance.

S[n,w] is the scorer's score of neuron n for wording w (a name or synonym, its text averaged over the templates; or a
whole prompt). S[n,c] = max over the wordings of concept c: a neuron need match one of them. S[n,0] is the score of the
empty templates (Dreyer et al. 2025 take it off every score).

z[n,c] = (S[n,c] - m[c]) / s[c] with mean and deviation under chance: scores of null neurons, which are real ones with
their activations in a random order over the images. The same maximum over wordings is taken of null neurons, so that a
concept with many words has no advantage, nor has one whose words are near every image. The neuron's concept is the one
with the largest z. It explains the neuron if

- S[n,c] > S[n,0], and
- its false-discovery rate is at most the one asked for (`contralens.math.null_test`). What is tested is, for scorers
  that compare a mean with a text (csp, semanticlens), the mean projection L[n] S[n,c], L the length of the mean before
  it is made a unit vector: a few random images have a short mean whose direction says a lot about nothing.

Chance means images at random. That a neuron beats it says that its images share something and that of the list this
concept is the nearest, not that the list holds what they share.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from contralens.auditing.concepts import ConceptList
from contralens.encoders.registry import embed_texts, read_texts
from contralens.errors import InputError
from contralens.math.concept_vectors import concept_lengths
from contralens.math.null_neurons import together
from contralens.math.null_test import chance_of, null_moments, standardised
from contralens.math.scoring import parse_scorer, run_scorer, wants_activations
from contralens.math.tensors import matrix
from contralens.types import Brief, Encoder, Exemplars

DRAWS = 50
"""Bootstrap samples of the exemplars that the noise of a margin is measured on."""
MOST_IMAGES = 5000
"""Images on which `separation` looks at most."""


@dataclass(frozen=True, slots=True, repr=False)
class Wordings(Brief):
    """A concept list in an encoder's space.

    >>> concept = torch.tensor([0, 1, 1])
    >>> words = Wordings(texts, concept, ["red", "striped", "banded"], None, texts, concept)
    >>> [name for name, concept in zip(words.names, words.concept.tolist()) if concept == 1]
    ['striped', 'banded']
    """

    texts: Tensor
    """(W,D) unit rows, one per wording or prompt."""
    concept: Tensor
    """(W) the concept of each."""
    names: list[str]
    """(W) the wordings."""
    empty: Tensor | None
    """(D) the empty templates; None where the encoder refuses that."""
    single: Tensor
    """(P,D) unit rows: every wording in every template on its own, and the prompts."""
    single_concept: Tensor
    """(P) the concept of each."""
    notes: list[str] = field(default_factory=list)


def embed_concepts(encoder: Encoder, concepts: ConceptList) -> Wordings:
    """All wordings of a list as text rows; those that the encoder refuses are left out and noted.

    Raises:
        InputError: it refuses every wording of a concept.

    Returns:
        The wordings (W) as rows, and which concept each belongs to.

    >>> from contralens.auditing.concepts import concept_list
    >>> from contralens.encoders.registry import encoder
    >>> listed = concept_list({"expected": ["striped"], "spurious": [{"name": "red", "synonyms": ["crimson"]}]})
    >>> words = embed_concepts(encoder("world"), listed)
    >>> words.names, words.concept.tolist(), tuple(words.texts.shape)
    (['striped', 'red', 'crimson'], [0, 1, 1], (3, 96))
    """
    notes: list[str] = []
    words = [w for c in concepts for w in c.wordings]
    of = [i for i, c in enumerate(concepts) for _ in c.wordings]
    single, refused = _in_templates(encoder, words, concepts.templates)
    known = [i for i, w in enumerate(words) if w not in refused]
    texts = single[0] if len(single) == 1 else normalize(torch.stack(single).mean(0), dim=1)
    prompts = [p for c in concepts for p in c.prompts]
    prompt_of = [i for i, c in enumerate(concepts) for _ in c.prompts]
    rows, unread = read_texts(encoder, prompts) if prompts else (texts[:0], {})
    read = [i for i, p in enumerate(prompts) if p not in unread]
    if refused or unread:
        notes.append(f"the encoder refuses {len(refused) + len(unread)} wordings: {', '.join([*refused, *unread][:8])}")
    concept = torch.tensor([of[i] for i in known] + [prompt_of[i] for i in read], dtype=torch.int64)
    if lost := [c.name for i, c in enumerate(concepts) if not bool((concept == i).any())]:
        why = next(iter([*refused.values(), *unread.values()]))
        raise InputError(
            f"the encoder {encoder.name} reads no wording of {', '.join(lost[:5])} ({why}); use other words for it"
        )
    return Wordings(
        torch.cat([texts, rows]), concept, [words[i] for i in known] + [prompts[i] for i in read],
        _empty(encoder, concepts.templates, notes), torch.cat([*single, rows]),
        torch.cat([concept[: len(known)].repeat(len(single)), concept[len(known) :]]), notes,
    )  # fmt: skip


def _in_templates(
    encoder: Encoder, words: list[str], templates: tuple[str, ...]
) -> tuple[list[Tensor], dict[str, str]]:
    """Rows of the words that the encoder reads, one matrix per template, and why it refuses each of the others."""
    try:
        return [embed_texts(encoder, words, [template]) for template in templates], {}
    except InputError:  # it refuses a word
        refused = read_texts(encoder, words, templates)[1]
        known = [word for word in words if word not in refused]
        return [embed_texts(encoder, known, [template]) for template in templates], refused


def _empty(encoder: Encoder, templates: tuple[str, ...], notes: list[str]) -> Tensor | None:
    rows = []
    for template in templates:
        try:
            rows.append(encoder.texts([template.replace("{}", "").strip()])[0])
        except Exception:  # an own encoder may raise whatever it likes over no words
            continue
    if not rows:
        notes.append("the encoder refuses the empty template: verdicts use the null test alone")
        return None
    if len(rows) < len(templates):
        notes.append(f"the encoder reads {len(rows)} of {len(templates)} empty templates")
    return normalize(torch.stack(rows).mean(0), dim=0)


@dataclass(frozen=True, slots=True, repr=False)
class Alignment(Brief):
    """What the neurons (N) say of the concepts (C); NaN for a neuron that the scorer cannot score.

    >>> found = Alignment(
    ...     scores=torch.tensor([[0.5, 0.1]]), empty=torch.tensor([0.2]), z=torch.tensor([[4.0, 1.0]]),
    ...     best=torch.tensor([0]), p=torch.tensor([0.001]), fdr=torch.tensor([0.01]), null_share=0.1,
    ... )
    >>> found.explained(0.05), found.side(torch.tensor([False, True]))
    (tensor([True]), tensor([1.]))
    """

    scores: Tensor
    """(N,C)."""
    empty: Tensor
    """(N) score of the empty templates."""
    z: Tensor
    """(N,C) scores in deviations of chance."""
    best: Tensor
    """(N) the concept that stands out most, -1 for none."""
    p: Tensor
    """(N) how often a null neuron's best concept stands out as much."""
    fdr: Tensor
    """(N) false-discovery rate at which the concept would just be kept."""
    null_share: float
    """Estimated share of neurons that chance explains."""
    null: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    """(M,C) z of the null neurons."""
    scale: Tensor = field(default_factory=lambda: torch.empty(0))
    """(C) the null deviation of each concept's score."""

    def explained(self, fdr: float) -> Tensor:
        """(N) bool: the best concept beats the empty template and chance."""
        score = self.scores.gather(1, self.best.clamp_min(0)[:, None])[:, 0]
        return (self.best >= 0) & ~(score <= self.empty) & (self.fdr <= fdr)

    def side(self, of: Tensor) -> Tensor:
        """(N) the largest z among the concepts that `of` (C, bool) marks."""
        return self.z[:, of].amax(1)


def align(
    scorer: str, exemplars: Exemplars, fakes: Exemplars, embeddings: Tensor, words: Wordings, activations: Any = None
) -> Alignment:
    """Scores of real and null neurons for all wordings, and how the best concept stands against chance.

    Args:
        scorer: a name in `SCORERS`, with options.
        exemplars: of the N real neurons.
        fakes: those of the null neurons (`contralens.math.null_neurons.fake_exemplars`).
        embeddings: (I,D), unit rows of the probe images.
        words: the concept list in the same space.
        activations: (I,N+M), of the null neurons too (`null_neurons.with_fakes`), for a scorer that looks at them.

    Returns:
        What each neuron says of each concept.

    >>> from contralens.math.null_neurons import fake_exemplars
    >>> words = Wordings(texts[1:], torch.tensor([0, 1]), ["striped", "round"], None, texts[1:], torch.tensor([0, 1]))
    >>> found = align("csp", exemplars, fake_exemplars(activations, embeddings, 50, k=2), embeddings, words)
    >>> found.best, tuple(found.z.shape)
    (tensor([0, 1]), (2, 2))
    """
    name, options = parse_scorer(scorer)
    everyone, n = together(exemplars, fakes), len(exemplars)
    texts = words.texts if words.empty is None else torch.cat([words.texts, words.empty[None]])
    raw = run_scorer(scorer, everyone, embeddings, texts, activations).double()
    empty = torch.full((n,), torch.nan, dtype=torch.float64) if words.empty is None else raw[:n, -1]
    raw = raw[:, : len(words.concept)]
    scores = _largest(raw, words)
    mean, scale = null_moments(scores, n)
    every = (scores - mean) / scale
    z = every[:n]
    best = z.nan_to_num(-torch.inf).argmax(1).masked_fill(z.isnan().all(1), -1)
    if name in ("csp", "semanticlens"):
        gamma = None if name == "semanticlens" else float(options.get("gamma", 1.0))
        raw = raw * concept_lengths(everyone, embeddings, gamma).double()[:, None]
    told = chance_of(standardised(_largest(raw, words), n), n, labels=best, others=False)
    return Alignment(scores[:n], empty, z, best, told.p, told.q, told.null_share, every[n:], scale)


def margin_noise(
    scorer: str, aligned: Alignment, exemplars: Exemplars, embeddings: Tensor, words: Wordings,
    expected: Tensor, spurious: Tensor, seed: int = 0,
) -> Tensor:  # fmt: skip
    """(N) deviation of (largest z of an expected concept) - (largest z of a spurious one).

    Over `DRAWS` bootstrap samples of each neuron's exemplars, drawn with their contrasts, in units of the same null
    deviations; for a scorer that looks at all activations, of the same two concepts' difference among the null neurons.

    Args:
        scorer: as in `align`.
        aligned: what `align` returned.
        exemplars: of the N neurons.
        embeddings: (I,D).
        words: the concept list.
        expected: (C, bool), the concepts of that side.
        spurious: (C, bool), likewise.
        seed: of the samples.

    >>> from contralens.math.null_neurons import fake_exemplars
    >>> words = Wordings(texts[1:], torch.tensor([0, 1]), ["striped", "round"], None, texts[1:], torch.tensor([0, 1]))
    >>> aligned = align("csp", exemplars, fake_exemplars(activations, embeddings, 50, k=2), embeddings, words)
    >>> side = torch.tensor([True, False])
    >>> margin_noise("csp", aligned, exemplars, embeddings, words, side, ~side).shape
    torch.Size([2])
    """
    if wants_activations(scorer):
        at = [
            aligned.z.masked_fill(~side, -torch.inf).nan_to_num(-torch.inf).argmax(1) for side in (expected, spurious)
        ]
        return (aligned.null[:, at[0]] - aligned.null[:, at[1]]).std(0)
    generator = torch.Generator().manual_seed(seed)
    margins = []
    for _ in range(DRAWS):
        raw = run_scorer(scorer, resampled(exemplars, generator), embeddings, words.texts).double().cpu()
        z = aligned.z + (_largest(raw, words) - aligned.scores) / aligned.scale
        margins.append(z[:, expected].amax(1) - z[:, spurious].amax(1))
    return torch.stack(margins).std(0)


def resampled(exemplars: Exemplars, generator: torch.Generator) -> Exemplars:
    """Each neuron's exemplars drawn with replacement, each with its activation and contrast.

    >>> resampled(exemplars, torch.Generator().manual_seed(0)).positives.shape == exemplars.positives.shape
    True
    """
    n, k = exemplars.positives.shape
    there = (exemplars.positives >= 0).sum(1).clamp_min(1)[:, None]
    drawn = (torch.rand(n, k, generator=generator) * there).long()
    names = ("positives", "activations", "contrasts", "similarities")
    return replace(exemplars, **{name: getattr(exemplars, name).gather(1, drawn) for name in names})


def _largest(raw: Tensor, words: Wordings) -> Tensor:
    """(.,W) to (.,C): the best wording of each concept."""
    count = int(words.concept.max()) + 1
    return torch.stack([raw[:, words.concept == c].amax(1) for c in range(count)], 1)


@dataclass(frozen=True, slots=True, repr=False)
class Separation(Brief):
    """Whether an encoder separates concepts (C) on some images.

    >>> found = Separation(torch.tensor([0.9, 0.2]), torch.tensor([0.1, 0.3]), torch.tensor([1, 0]), images=100)
    >>> found.confused, found.untold
    ([1], [])
    """

    within: Tensor
    """(C) mean correlation over images of two wordings of the concept; NaN where there is one wording only."""
    across: Tensor
    """(C) the same of its wordings with those of the concept that they are most like."""
    other: Tensor
    """(C) that concept."""
    images: int

    @property
    def confused(self) -> list[int]:
        """Concepts whose wordings agree with each other no better than with another concept's."""
        return (~(self.within > self.across) & ~self.within.isnan()).nonzero()[:, 0].tolist()

    @property
    def untold(self) -> list[int]:
        """Concepts with one wording only, of which this cannot be determined."""
        return self.within.isnan().nonzero()[:, 0].tolist()


def separation(embeddings: Tensor, words: Wordings, seed: int = 0) -> Separation:
    """Does the encoder rank the images alike for two wordings of one concept, and otherwise for another concept?

    s[i,p] = <e[i], t[p]> for every wording in every template, minus its mean over images and, for each image, the
    mean over concepts (which moves no ranking of concepts). Correlations of the columns are averaged over pairs of
    wordings. Passing is necessary, not enough, and mostly a matter of the texts: random image embeddings pass for
    nearly all concepts (`contralens.auditing.encoder_checks` looks at the images).

    Args:
        embeddings: (I,D), unit rows.
        words: the concept list in the same space.
        seed: of the choice of images, where there are more than 5,000.

    >>> concept = torch.tensor([0, 1, 1])
    >>> words = Wordings(texts, concept, ["red", "striped", "banded"], None, texts, concept)
    >>> separation(embeddings, words).untold  # "red" has no second wording
    [0]
    """
    e = matrix(embeddings, "embeddings")
    e = e[e.isfinite().all(1)]
    if len(e) > MOST_IMAGES:
        e = e[torch.randperm(len(e), generator=torch.Generator().manual_seed(seed))[:MOST_IMAGES].sort().values]
    s = (e @ words.single.to(e.dtype).T).double()
    member = torch.nn.functional.one_hot(words.single_concept).double()
    size = member.sum(0)
    s = s - s.mean(0)
    s = s - (s @ (member / size)).mean(1, keepdim=True)
    unit = normalize(s - s.mean(0), dim=0)
    r = unit.T @ unit
    pairs = size[:, None] * size
    total = member.T @ r @ member
    own = torch.arange(len(size))
    within = (total[own, own] - size) / (size * (size - 1))
    means = total / pairs
    means[own, own] = -torch.inf
    across, other = means.max(1)
    return Separation(within.masked_fill(size < 2, torch.nan), across, other, len(e))
