"""The stages of labeling, one by one: collect, mine, score, judge, write.

Each is a function of what the stage before it found, and what it finds is a value: with another vocabulary or scorer,
score again; with another false-discovery rate, judge again. No image is touched for that. A stage takes as keywords
those of its own settings (`contralens.settings.label`) that are to change.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from contralens.collecting import collect as collecting
from contralens.collecting.networks import Networks, Steady, networks, steady
from contralens.collecting.streaming import RecomputedActivations, collect_streamed
from contralens.data.atomic_files import digest
from contralens.data.runs import Run
from contralens.data.store import Store
from contralens.data.vocabulary import read_vocabulary
from contralens.errors import InputError
from contralens.labeling import stored_exemplars
from contralens.labeling.calibrating import Calibration, Known
from contralens.labeling.check_settings import changed, chosen_neurons, ready
from contralens.labeling.crops import cropped
from contralens.labeling.decoders import decoder_for
from contralens.labeling.manifest import manifest_of
from contralens.labeling.near_copies import near_copies
from contralens.labeling.probe_set import parts_asked
from contralens.labeling.proposed_concepts import candidates_for
from contralens.labeling.ranking import about_ranking, no_confidence
from contralens.labeling.reserving import reserving
from contralens.labeling.results import Collected, Judged, Mined, Scored
from contralens.labeling.scoring import ranked
from contralens.labeling.tables import (
    concept_table,
    exemplar_table,
    image_table,
    label_table,
    neuron_table,
    thumbnail_table,
    vectors,
    with_crops,
)
from contralens.math import exemplars as mining
from contralens.math.combinations import allowed_combinations, parts_of
from contralens.math.exemplar_statistics import clarity
from contralens.math.gpu_placing import activations_on, rows_on
from contralens.math.null_neurons import fake_exemplars, with_fakes
from contralens.math.null_test import chance
from contralens.math.scoring import wants_activations
from contralens.math.statistics import STRONGEST, neuron_statistics
from contralens.proposing.candidates import Candidates
from contralens.settings.label import DEFAULT_SCORERS, Collect, Judge, Label, Mine, Score
from contralens.settings.record import settings_of
from contralens.types import AUTO


def collect(settings: Mine, found: Networks | None = None, proved: Steady | None = None) -> Collected:
    """Rows of every image from the target and the encoder, read from the cache where there, else computed.

    Args:
        settings: of this stage and, for activations that are not stored, of the next.
        found: the networks and images, where they are open already.
        proved: the same networks, where it has been seen that their rows may be kept.

    >>> from contralens.settings.label import Mine
    >>> collect(Mine("world:1", "world-1/images", "world", layer="block3")).target.name
    'world:1'
    """
    store = Store(settings.cache)
    opened = found or networks(settings)
    if len(opened.targets) != 1 or len(opened.encoders) != 1:
        raise InputError("`layer` and `encoder` must be one each; `contralens.label_layers` labels several layers")
    calibration = Calibration.asked(settings.calibrate, opened.targets[0], settings.images, opened.images)
    checked = proved or steady(settings, opened, store, beside=calibration.extractors)
    work: dict[str, Any] = {
        "batch_size": settings.batch_size, "workers": settings.workers, "processes": settings.processes,
        "progress": settings.progress,
    }  # fmt: skip
    if settings.store_activations:
        rows = collecting.collect(opened.images, checked.extractors, store, **work)
        return Collected(settings, opened.images, store, checked, calibration, rows, None)
    parts = parts_asked(settings, opened.images, store)
    rows, streamed = collect_streamed(
        opened.images, checked.extractors[0], checked.extractors[1:], store, held=parts.left_out,
        groups=parts.grouping(), k=max(settings.k, STRONGEST if settings.neurons == "paper" else 0), **work,
    )  # fmt: skip
    return Collected(settings, opened.images, store, checked, calibration, rows, streamed)


def mine(collected: Collected, **changes: Any) -> Mined:
    """Exemplars of each neuron: its most activating images, each with a contrast.

    >>> from contralens.settings.label import Mine
    >>> collected = collect(Mine("world:1", "world-1/images", "world", layer="block3"))
    >>> mine(collected, k=5).exemplars.positives.shape
    torch.Size([64, 5])
    """
    settings = changed(collected.settings, Mine, Collect, changes)
    if collected.streamed is not None and set(changes) & settings_of(Mine).keys():
        raise InputError(f"without stored activations, `{next(iter(changes))}` is fixed by collecting: collect again")
    model, parts = collected.target, parts_asked(settings, collected.images, collected.store)
    probe = parts.probe(collected.rows)
    embeddings = rows_on(torch.from_numpy(probe.mapped(1)), getattr(model, "device", torch.device("cpu")))
    activations = activations_on(collected.streamed or probe.activations(0), embeddings.device)
    statistics = neuron_statistics(activations)
    chosen = chosen_neurons(settings.neurons, activations, statistics.status())
    groups = parts.grouping(probe.usable)
    identity = [digest(*probe.fingerprints), model.fingerprint, collected.encoder.fingerprint]
    numbers = [] if groups is None else [settings.per_group, digest(*map(str, groups.numbers.tolist()))]
    how = (chosen.tolist(), *settings.mining().values(), *numbers)
    settings.progress("mining", 0, len(chosen))
    found = stored_exemplars.mined(
        collected.store, [*identity, repr(how)],
        lambda: mining.mine(activations, embeddings, neurons=chosen, groups=groups, **settings.mining()),
    )  # fmt: skip
    settings.progress("mining", len(chosen), len(chosen))
    if isinstance(activations, RecomputedActivations):
        activations.forget()
    pictures = thumbnail_table(found.exemplars, probe)
    clear = clarity(found.exemplars, embeddings)
    tables = {
        "neurons": neuron_table(model, statistics, statistics.status(), chosen, activations, clear),
        "exemplars": exemplar_table(found),
        "images": image_table(collected.images, probe, parts.groups),
        "thumbnails": pictures,
    }
    near = near_copies(found.exemplars, embeddings, probe.fingerprints, pictures)
    return Mined(
        settings, collected, parts, probe, activations, embeddings, statistics, chosen, found, tables, near, groups,
        identity, how,
    )  # fmt: skip


def score(mined: Mined, **changes: Any) -> Scored:
    """The best concepts of each neuron, out of the vocabulary and of what is proposed.

    >>> from contralens.settings.label import Mine
    >>> mined = mine(collect(Mine("world:1", "world-1/images", "world", layer="block3", k=5)))
    >>> [score(mined, vocabulary="world", scorers=f"csp:gamma={gamma}").settings.specs for gamma in (0, 1)]
    [['csp:gamma=0'], ['csp:gamma=1']]
    """
    settings = ready(changed(mined.settings, Score, Mine, changes))
    if settings.scorers is None and about_ranking(mined.collected.target) is not None:
        settings = settings.to(type(settings), scorers=DEFAULT_SCORERS)  # and no "auto"
    collected, words = mined.collected, read_vocabulary(settings.vocabulary)
    embedded = functools.partial(
        stored_exemplars.texts, collected.store, collected.encoder, templates=settings.templates,
        normalise=settings.normalise_texts, progress=settings.progress,
    )  # fmt: skip
    candidates: Candidates | None = settings.candidates
    if settings.proposer is not None:
        embedded(words.concepts)  # an encoder that fails does so before anything is asked
        candidates = candidates_for(mined.run(), settings, collected.images, collected.encoder, collected.target)
    unjudged = no_confidence(collected.target, settings.crop, settings.confidence, settings.specs, settings.calibrate)
    decoder = decoder_for(settings.specs, mined)
    concepts = candidates.join(words.concepts) if candidates else list(words.concepts)
    texts = embedded(concepts)
    crops = None if settings.crop is None else cropped(
        settings.crop, collected.target, collected.encoder, collected.images, mined.probe, mined.exemplars,
        mined.embeddings, collected.store, [*mined.identity, repr(mined.how)], batch_size=settings.batch_size,
        workers=settings.workers, progress=settings.progress,
    )  # fmt: skip
    own = candidates if settings.own_only else None
    allowed = torch.from_numpy(own.allowed(words.concepts, mined.chosen.tolist())) if own else None
    if settings.simple:
        simple = allowed_combinations(mined.activations, mined.embeddings, texts, parts_of(concepts), mined.chosen)
        allowed = simple if allowed is None else allowed & simple
    known = _known(mined, concepts, texts)
    found = ranked(
        settings.specs, mined.exemplars, mined.embeddings, texts, mined.activations, allowed=allowed,
        top=min(settings.top, len(concepts)), progress=settings.progress, crops=crops,
        confidence=settings.confidence and not unjudged, level=[one.weighed for one in known],
        decoder=decoder,
    )  # fmt: skip
    return Scored(settings, mined, words, candidates, concepts, texts, found, known, crops, unjudged)


def judge(scored: Scored, **changes: Any) -> Judged:
    """Which labels beat those of null neurons, if that is asked for.

    >>> from contralens.settings.label import Mine
    >>> mined = mine(collect(Mine("world:1", "world-1/images", "world", layer="block3", k=5)))
    >>> scored = score(mined, vocabulary="world", scorers="csp")
    >>> list(judge(scored).chances), list(judge(scored, fdr=0.1, fakes=50).chances)
    ([], ['csp'])
    """
    settings = changed(scored.settings, Judge, Score, changes)
    mined, fakes = scored.mined, settings.fakes
    best = {spec: scored.found.best[spec] for spec in settings.specs}  # with `fdr`, none of "auto" by default
    scored = replace(scored, found=replace(scored.found, best=best))
    if settings.fdr is None or not len(mined.chosen):
        return Judged(settings, scored, {})
    activations, embeddings, chosen, seed = mined.activations, mined.embeddings, mined.chosen, settings.seed
    settings.progress("null neurons", 0, fakes)
    how = {**mined.settings.mining(), "groups": mined.groups}
    made = stored_exemplars.fakes(
        mined.collected.store, [*mined.identity, repr((*mined.how, fakes, seed))],
        lambda: fake_exemplars(activations, embeddings, fakes, seed, neurons=chosen, **how),
    )  # fmt: skip
    asked = [spec for spec in settings.specs if spec != AUTO]
    every = with_fakes(activations, fakes, seed, neurons=chosen) if any(map(wants_activations, asked)) else None
    settings.progress("null neurons", fakes, fakes)
    return Judged(settings, scored, {
        spec: chance(spec, mined.exemplars, made, embeddings, scored.texts, every, labels=best[spec].labels)
        for spec in asked
    })  # fmt: skip


def write(judged: Judged, **changes: Any) -> Run:
    """The run: labels with their evidence, and a manifest; in the folder `out`, if there is one.

    >>> from contralens.settings.label import Mine
    >>> mined = mine(collect(Mine("world:1", "world-1/images", "world", layer="block3", k=5)))
    >>> write(judge(score(mined, vocabulary="world", scorers="csp")), out="again").path.name
    'again'
    """
    settings = changed(judged.settings, Label, Judge, changes)
    scored, mined = judged.scored, judged.scored.mined
    with reserving(settings) as save:
        return save(Run(
            manifest_of(judged),
            labels=label_table(
                mined.collected.target, mined.statistics.status(), mined.chosen, scored.found.best, scored.concepts,
                judged.chances, settings.fdr, scored.found.weighed,
            ),
            concepts=concept_table(scored.vocabulary, scored.concepts),
            candidates=scored.candidates.table() if scored.candidates else None,
            vectors=vectors(*scored.seen, scored.texts),
            **(mined.tables if scored.crops is None else with_crops(mined.tables, mined.found, scored.crops)),
        ))  # fmt: skip


def _known(mined: Mined, concepts: Sequence[str], texts: Tensor) -> list[Known]:
    """The neurons whose truth is known, if they are asked for."""
    calibration, names = mined.collected.calibration, mined.collected.images.ids
    if mined.settings.calibrate is None:
        return []
    rows = mined.probe.activations(2) if calibration.extractors else None
    return calibration.known(
        rows, [names[i] for i in mined.probe.usable], mined.embeddings, concepts, texts, mined.settings.seed,
        groups=mined.groups, **mined.settings.mining(),
    )  # fmt: skip
