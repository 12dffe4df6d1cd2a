"""From fine to coarse: a label's hypernyms in WordNet, and how far the evidence holds along them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from contralens.checks import as_path
from contralens.collecting.activations import stored_activations
from contralens.data.final_labels import final
from contralens.data.runs import Run, load
from contralens.data.store import Store
from contralens.data.wordnet import WordNet, find_wordnet
from contralens.encoders.registry import read_texts
from contralens.errors import InputError, StoreError
from contralens.math.activation_sources import ActivationSource
from contralens.math.caption_concepts import separates
from contralens.math.scoring import parse_scorer, run_scorer, wants_activations
from contralens.run_data.stored import cached_rows, encoder_of, exemplars_of
from contralens.settings.finished_run import Granularity
from contralens.settings.record import job

MOST_SENSES = 6
"""Meanings of a noun that are compared; rarer ones are left out."""
SIGNIFICANCE = 0.05
"""p-value up to which a concept counts as separated from the contrasts."""


@job(Granularity)
def granularity(settings: Granularity) -> list[dict[str, Any]]:
    """The chain of broader concepts above each neuron's primary label, and where the evidence stops.

    A concept holds if significantly more pairs have the positive closer to it than the contrast (one-sided sign test
    over the pairs, p <= .05). For example, "animal" no longer separates zebras from horses.

    Returns:
        One entry per neuron: neuron, name, label, broadest (the last concept of the unbroken run of concepts that hold
        from the label upwards, None if already the label does not), stops (the first concept above it that does not
        hold, None if all do), and chain: concept, gloss, score, pairs (share won), p, holds. The last four are None for
        a concept that the encoder cannot read; such concepts are skipped. The chain is empty for a label without a noun
        in WordNet.

    Raises:
        InputError: an encoder that is not the run's.
        MissingPackage: no WordNet.
        StoreError: the cache no longer holds the rows of the images.

    >>> from contralens.data.runs import load
    >>> found = granularity(load("run"))
    >>> [(row["label"], row["broadest"]) for row in found if row["broadest"]][:2]
    [('zigzag', 'zigzag'), ('orange', 'orange')]
    """
    run = settings.run if isinstance(settings.run, Run) else load(settings.run)
    sense, scorer = settings.sense, settings.scorer
    words = _checked(run, scorer, settings.wordnet)
    rows = {row["neuron"]: row for row in final(run).rows() if row["label"] and row["best"]}
    chosen = list(rows) if settings.neurons is None else list(settings.neurons)
    if unlabeled := [n for n in chosen if n not in rows]:
        raise InputError(f"neuron {unlabeled[0]} has no label in this run; {len(rows)} neurons have one")
    store = Store(settings.cache)
    embeddings = _embeddings(run, store)
    eyes = encoder_of(run, settings.encoder, settings.device or "cpu", store)
    activations = _activations(run, store) if wants_activations(scorer) else None
    exemplars = exemplars_of(run, chosen)

    def scored(texts: list[str]) -> tuple[Tensor, Tensor, dict[str, int]]:
        """Scores and text rows of those texts that the encoder reads, and the column of each."""
        t, refused = read_texts(
            eyes, texts, run.manifest.get("templates", "plain"), run.manifest.get("normalise_texts", True)
        )
        columns = {text: at for at, text in enumerate(text for text in texts if text not in refused)}
        return run_scorer(scorer, exemplars, embeddings, t, activations), t, columns

    meant = dict.fromkeys(chosen, sense or 0)
    if sense is None:
        meant = _senses({n: words.glosses(rows[n]["label"])[:MOST_SENSES] for n in chosen}, scored)
    chains = {n: words.chain(rows[n]["label"], meant[n]) for n in chosen}
    texts = list(dict.fromkeys(text for chain in chains.values() for text, _ in chain))
    if not texts:
        return [_entry(rows[n], []) for n in chosen]
    scores, t, column = scored(texts)
    measured = (scores, *separates(exemplars, embeddings, t))
    return [
        _entry(
            rows[n],
            [_step(text, gloss, column.get(text), [part[at] for part in measured]) for text, gloss in chains[n]],
        )
        for at, n in enumerate(chosen)
    ]


def _step(text: str, gloss: str, column: int | None, measured: Sequence[Tensor]) -> dict[str, Any]:
    """A concept of a neuron's chain, with its score, the share of pairs won and p, of the (C) of each."""
    values: dict[str, Any] = dict.fromkeys(("score", "pairs", "p", "holds"))
    if column is not None:
        values["score"], won, chance = (float(part[column]) for part in measured)
        if chance == chance:  # a neuron without a single pair tells nothing
            values |= {"pairs": won, "p": chance, "holds": chance <= SIGNIFICANCE}
    return {"concept": text, "gloss": gloss, **values}


def _checked(run: Run, scorer: str, wordnet: WordNet | str | Path | None) -> WordNet:
    """WordNet, after a look at what was asked for."""
    parse_scorer(scorer)
    if run.manifest.get("crop"):
        raise InputError("this run was labeled from crops, and granularity scores whole pictures: label without `crop`")
    if isinstance(wordnet, WordNet):
        return wordnet
    return find_wordnet(None if wordnet is None else as_path("wordnet", wordnet))


def _senses(glosses: Mapping[int, Sequence[str]], scored: Callable[[list[str]], Any]) -> dict[int, int]:
    """Which sense of each neuron's label the scorer prefers, by the senses' glosses; the first where none is read."""
    meant = dict.fromkeys(glosses, 0)
    every = list(dict.fromkeys(g for own in glosses.values() if len(own) > 1 for g in own))
    if every:
        scores, _, column = scored(every)
        for at, (n, own) in enumerate(glosses.items()):
            known = [(float(scores[at, column[g]]), -i) for i, g in enumerate(own) if g in column]
            if len(own) > 1 and known:
                meant[n] = -max(known)[1]
    return meant


def _activations(run: Run, store: Store) -> ActivationSource:
    table = store.table("rows", run.manifest["target"]["fingerprint"])
    fingerprints = run.images["fingerprint"].to_pylist()
    if not all(table.has_row(f) for f in fingerprints):
        raise StoreError(
            "the scorer looks at the activations of all images, and the cache no longer holds those of this run; label "
            "again, storing them, or choose another scorer"
        )
    return stored_activations(table, fingerprints)


def _embeddings(run: Run, store: Store) -> Tensor:
    kept = cached_rows(run, store, "encoder")
    if kept is None:
        raise StoreError(
            "the cache no longer holds the image embeddings of this run; label again, with the same images"
        )
    return torch.from_numpy(kept)


def _entry(row: dict[str, Any], chain: list[dict[str, Any]]) -> dict[str, Any]:
    broadest = stops = None
    for step in chain:
        if step["holds"] is None:
            continue
        if not step["holds"]:
            stops = step["concept"]
            break
        broadest = step["concept"]
    own = {name: row[name] for name in ("neuron", "name", "label")}
    return {**own, "broadest": broadest, "stops": stops, "chain": chain}
