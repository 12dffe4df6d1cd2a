"""The main job: images, a target and an encoder in; labels with their evidence out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from contralens import __version__
from contralens.checks import InputError, require
from contralens.collecting.collect import collect
from contralens.collecting.precision import in_precision
from contralens.collecting.probing import proved
from contralens.collecting.streaming import RecomputedActivations, collect_streamed
from contralens.data.files import digest
from contralens.data.images import images as image_set
from contralens.data.known import known_fingerprints
from contralens.data.runs import FORMAT, VECTORS, Run
from contralens.data.store import Store
from contralens.data.trust import SIGNATURE, sign
from contralens.data.vocabulary import read_vocabulary
from contralens.labeling import cached
from contralens.labeling.arguments import (
    check_arguments,
    chosen_neurons,
    known_options,
    wanted_neurons,
    wanted_scorers,
)
from contralens.labeling.calibrating import Calibration
from contralens.labeling.copies import near_copies
from contralens.labeling.crops import cropped
from contralens.labeling.manifest import (
    about_candidates,
    about_chance,
    about_confidence,
    about_encoder,
    about_exemplars,
    about_target,
    about_vocabulary,
    plain,
    versions,
)
from contralens.labeling.probe import parts_of
from contralens.labeling.proposed import candidates_for, candidates_or_proposer
from contralens.labeling.ranking import about_ranking, check_ranking, no_confidence
from contralens.labeling.reserving import reserving
from contralens.labeling.scored import scored
from contralens.labeling.tables import (
    concept_table,
    exemplar_table,
    image_table,
    label_table,
    neuron_table,
    picture_notes,
    thumbnail_table,
)
from contralens.math.approximate import parse_neighbours
from contralens.math.audit import clarity
from contralens.math.chance import Chance, chance
from contralens.math.confidence import AUTO
from contralens.math.exemplars import mine, neuron_statistics
from contralens.math.fakes import FAKES, fake_exemplars, with_fakes
from contralens.math.placing import activations_on, rows_on
from contralens.math.scorers import contrast_parts
from contralens.math.scoring import wants_activations
from contralens.math.statistics import STRONGEST
from contralens.models.encoders import encoder as load_encoder
from contralens.models.encoders import templates_of
from contralens.models.relevance import ranked
from contralens.models.targets import load_model
from contralens.types import Encoder, Progress, silent

DEFAULT_SCORERS = ("semanticlens", "clip_dissect", "csp:gamma=0", "csp")


@reserving
def label(
    target: Any,
    images: Any,
    encoder: Any,
    vocabulary: Any,
    *,
    layer: str | None = None,
    pooling: str | None = None,
    sae: Any = None,
    sae_pooling: str | None = None,
    scorers: str | Sequence[str] = DEFAULT_SCORERS,
    k: int = 30,
    rank_by: str = "activation",
    crop: str | None = None,
    reuse: bool = True,
    exclude: float | None = None,
    neighbours: str = "exact",
    neurons: Literal["all", "paper"] | Sequence[int] = "all",
    templates: str | Sequence[str] = "plain",
    normalise_texts: bool = True,
    proposer: Any = None,
    proposing: dict[str, Any] | None = None,
    candidates: Any = None,
    own_only: bool = False,
    holdout: float = 0.0,
    groups: Any = None,
    per_group: int = 1,
    fdr: float | None = None,
    fakes: int = FAKES,
    confidence: bool = True,
    calibrate: Any = None,
    store_activations: bool = True,
    limit: int | None = None,
    top: int = 10,
    out: str | Path | None = None,
    replace: bool = False,
    cache: str | Path | None = None,
    device: str | None = None,
    batch_size: int = 32,
    workers: int | None = None,
    decode: str = "exact",
    precision: str = "float32",
    allow_nondeterministic: bool = False,
    seed: int = 0,
    progress: Progress = silent,
    **target_options: Any,
) -> Run:
    """Label the neurons of one layer, and keep the evidence.

    Args:
        target: a spec such as "torchvision:resnet50", a `Target`, or an `nn.Module` (with `layer` and `preprocess`).
        images: a folder, a list of files, a torch or Hugging Face dataset; the probe set.
        layer: its name as in `named_modules()`; see `contralens.target`.
        pooling: how an activation becomes one number; inferred by default, see `contralens.target`.
        sae: a sparse autoencoder over that layer, whose latents are labeled instead; see `contralens.sae`.
        sae_pooling: how latents of patches become one number; see `contralens.sae`.
        encoder: a spec such as "open_clip:ViT-B-32/datacomp_xl_s13b_b90k", or an `Encoder`.
        vocabulary: a file with one concept a line, a built-in name, or a list of texts.
        scorers: names with options, e.g. "csp:gamma=0.5"; the last one is the primary. "auto" takes, for each neuron,
            the label with the highest confidence.
        k: exemplars per neuron.
        rank_by: "activation", or "relevance", what a neuron adds to the score of the predicted class, by LRP or by
            activation times gradient; "relevance:method=gradient,class=3" (docs/howto/relevance.md).
        crop: scorers compare crops of exemplars and contrasts to where the neuron fires: by its "map", or by the
            "relevance" of pixels.
        reuse: whether one image may be the contrast of several positives of a neuron.
        exclude: skip contrasts with a cosine above this (near-duplicates); off by default.
        neighbours: how look-alikes are found, exactly or by FAISS; see `find_exemplars`.
        neurons: all, the paper's choice of 200 (`select_neurons`), or indices.
        templates: a built-in set's name, or texts with {} for the concept.
        normalise_texts: False gives the published code's text embeddings, without the last normalisation.
        proposer: a vision-language model or caption bank that is shown the exemplars and proposes concepts beyond the
            vocabulary (see `contralens.propose`); its replies are kept in OUT.candidates.
        proposing: arguments of `contralens.propose` for it, e.g. {"focus": "crop", "domain": "dermoscopy"}.
        candidates: what `contralens propose` wrote, or a `Candidates`; joins the vocabulary.
        own_only: a proposed concept is scored only for the neurons that it was proposed for.
        holdout: share of the images that no exemplar comes from, drawn with `seed`, kept for `contralens evaluate`.
        groups: images that belong together (of one patient, lesion, scene, video): "TABLE:COLUMN", or image -> group.
            A group is held out as a whole, gives a neuron at most `per_group` exemplars, and no contrast of its own.
        per_group: exemplars of one neuron from one group, at most.
        fdr: false-discovery rate up to which labels are kept, e.g. 0.05, told by `fakes` fake neurons that go the same
            way (see `contralens.math.chance`). Above it a neuron has no label: its status is "chance".
        fakes: how many fake neurons chance is measured on.
        confidence: say how likely each label is right, and why (see `contralens.label_confidence`); the scorers of the
            panel are run besides those asked for. Not where activations are not stored.
        calibrate: neurons whose truth is known set the level of confidence: "outputs", the network's own, whose class
            names are known; or neurons planted on what the images show: "classes" (folders, or a data set with
            classes), "TABLE:COLUMN" ("|" between several concepts of an image), or image -> concepts; or a list of
            these. docs/confidence.md says where this helps and where it harms.
        store_activations: False keeps no activation on disk: what is needed of all images is gathered while the network
            runs, and it runs again on those whose activations decide a contrast. Same exemplars and labels, memory
            O(N K), up to three times the network's time; a scorer that looks at all activations takes one time more.
        limit: use a sample of that many images, drawn with `seed`.
        top: concepts kept per neuron and scorer.
        out: run folder to write; without it the run is only returned. What is there already is looked at before the
            work: only an older run, with nothing else in it, is replaced.
        replace: also replace an older run that was changed since, or that holds an evaluation, an audit or maps.
        device: where both networks run; by default "cpu", or where a module of yours is. Mining and scoring run where
            the target does if that is a GPU with room for them.
        decode: "fast" preprocesses on tensors, where that agrees with each network's own transform (docs/scale.md).
        precision: "bf16" computes in bfloat16 where that is faster here and safe on the first images.
        allow_nondeterministic: take networks whose rows are not a function of the image (random masking, dropout that
            is always on, statistics of the batch); the manifest's notes say so. They are refused otherwise.
        cache: folder of the cache; by default $CONTRALENS_CACHE or the user's cache folder.
        batch_size: images per forward pass.
        workers: threads that decode images; by default one per core.
        seed: of the sample and of the holdout.
        progress: called with stage, done and total.
        target_options: what else `contralens.target` takes: `preprocess`, `weights`, `checkpoint`, ...

    Returns:
        The `Run`: tables of labels, exemplars and neurons, and a manifest from which each label can be derived again.

    Raises:
        InputError: something given is wrong; one line that says what, where and what to do.

    >>> run = label("world:1", "world-1/images", "world", "world-1/vocabulary.txt", layer="block3", k=5, scorers="csp")
    >>> len(run.rows("csp")), run.rows("csp")[0]["name"], run.labels.num_rows
    (64, 'block3/0', 64)
    """
    specs = wanted_scorers(scorers)
    if AUTO in specs and not (confidence and store_activations):
        raise InputError('the scorer "auto" needs confidence, and that needs stored activations: leave both on')
    if calibrate is not None and not (confidence and store_activations):
        raise InputError("`calibrate` sets the level of confidence, which needs stored activations: leave both on")
    check_arguments(
        k=k, top=top, batch_size=batch_size, workers=workers, fakes=fakes, limit=limit, seed=seed, exclude=exclude,
        fdr=fdr, holdout=holdout, per_group=per_group, layer=layer, pooling=pooling, sae_pooling=sae_pooling,
        neighbours=neighbours, out=out, cache=cache,
    )  # fmt: skip
    check_ranking(rank_by, crop, specs, fdr, calibrate)
    neurons = wanted_neurons(neurons)
    known_options(target_options)
    if parse_neighbours(neighbours)[0] != "exact":
        require("faiss", "faiss")
    if not (store_activations or (reuse and not allow_nondeterministic)):
        raise InputError(
            "without reuse, contrasts are given out one rank after the other, and the network would run again for each "
            "rank: store the activations, or allow reuse"
            if not reuse
            else "a network whose rows differ from run to run cannot be run again for a contrast: store the activations"
        )
    found, asking = candidates_or_proposer(proposer, proposing, candidates, device)
    store = Store(cache)
    words = read_vocabulary(vocabulary)
    probe = image_set(images, limit=limit, seed=seed)
    if decode != "exact":
        target_options["decode"] = decode
    if allow_nondeterministic:
        target_options["allow_nondeterministic"] = True
    model = load_model(
        target, {"layer": layer, "pooling": pooling, "device": device, **target_options}, sae, sae_pooling
    )
    model = ranked(model, rank_by)
    unjudged = no_confidence(model, crop, confidence, specs, calibrate)
    eyes: Encoder = load_encoder(encoder, device=device or "cpu", decode=decode)
    calibration = Calibration.asked(calibrate, model, images, probe)
    networks = [model, eyes, *calibration.extractors]
    networks, unsteady = proved(networks, probe, store, allow_nondeterministic=allow_nondeterministic)
    (model, eyes, *outputs), checked = in_precision(precision, networks, probe, store)

    parts = parts_of(probe, known_fingerprints(probe, store), holdout, seed, groups, per_group)
    collecting: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "progress": progress}
    if store_activations:
        collected, streamed = collect(probe, [model, eyes, *outputs], store, **collecting), None
    else:
        strongest = max(k, STRONGEST if neurons == "paper" else 0)
        collected, streamed = collect_streamed(
            probe, model, [eyes], store, k=strongest, held=parts.left_out, groups=parts.grouping(), **collecting
        )
    everything, collected = collected, parts.probe(collected)
    grouping = parts.grouping(collected.usable)
    activations = collected.activations(0) if streamed is None else streamed
    embeddings = rows_on(torch.from_numpy(collected.mapped(1)), getattr(model, "device", torch.device("cpu")))
    activations = activations_on(activations, embeddings.device)
    statistics = neuron_statistics(activations)
    status = statistics.status()
    chosen = chosen_neurons(neurons, activations, status)
    identity = [digest(*collected.fingerprints), model.fingerprint, eyes.fingerprint]
    mining: dict[str, Any] = {"k": k, "reuse": reuse, "exclude": exclude}
    if neighbours != "exact":
        mining["neighbours"] = neighbours
    how = [*mining.values(), *([] if grouping is None else [per_group, digest(*map(str, grouping.numbers.tolist()))])]
    found_with = {**mining, "groups": grouping}
    progress("mining", 0, len(chosen))
    mined = cached.mined(
        store, [*identity, repr((chosen.tolist(), *how))],
        lambda: mine(activations, embeddings, neurons=chosen, **found_with),
    )  # fmt: skip
    progress("mining", len(chosen), len(chosen))
    if isinstance(activations, RecomputedActivations):
        activations.forget()
    exemplars = mined.exemplars
    if asking is not None:
        first = label(
            model, probe, eyes, words.concepts, scorers=specs, neurons=neurons, holdout=holdout, templates=templates,
            groups=groups, per_group=per_group, store_activations=store_activations, cache=cache, seed=seed,
            progress=progress, allow_nondeterministic=allow_nondeterministic,
            **{"neighbours": neighbours, **mining},
        )  # fmt: skip
        asking = {
            "images": probe, "encoder": eyes, "target": model, **asking, "cache": cache, "device": device or "cpu",
            "progress": progress,
        }  # fmt: skip
        found = candidates_for(first, out, asking)
    thumbnails = thumbnail_table(exemplars, collected)
    near = near_copies(exemplars, embeddings, collected.fingerprints, thumbnails)
    concepts = found.join(words.concepts) if found else words.concepts
    top = min(top, len(concepts))
    texts = cached.texts(store, eyes, concepts, templates, normalise_texts, progress)
    crops = None if crop is None else cropped(
        crop, model, eyes, probe, collected, exemplars, embeddings, store,
        [*identity, repr((chosen.tolist(), *how))], **collecting,
    )  # fmt: skip
    seen = (exemplars, embeddings) if crops is None else (crops.exemplars, crops.embeddings)
    allowed = found.allowed(words.concepts, chosen.tolist()) if found and own_only else None
    known = calibration.known(
        collected.activations(2) if outputs else None, [probe.ids[i] for i in collected.usable], embeddings, concepts,
        texts, seed, **found_with,
    )  # fmt: skip
    told = scored(
        specs, exemplars, embeddings, texts, activations, top=top, progress=progress,
        confidence=confidence and not unjudged, crops=crops,
        level=[one.weighed for one in known], allowed=None if allowed is None else torch.from_numpy(allowed),
    )  # fmt: skip
    asked = [spec for spec in specs if spec != AUTO]
    chances: dict[str, Chance] = {}
    if fdr is not None and len(chosen):
        progress("fake neurons", 0, fakes)
        made = cached.fakes(
            store, [*identity, repr((chosen.tolist(), *how, fakes, seed))],
            lambda: fake_exemplars(activations, embeddings, fakes, seed, neurons=chosen, **found_with),
        )  # fmt: skip
        every = None
        if any(map(wants_activations, asked)):
            every = with_fakes(activations, fakes, seed, neurons=chosen)
        progress("fake neurons", fakes, fakes)
        chances = {
            spec: chance(spec, exemplars, made, embeddings, texts, every, labels=told.best[spec].labels)
            for spec in asked
        }
    manifest = {
        "format": FORMAT,
        "contralens": __version__,
        "target": about_target(model, {"pooling": pooling, **target_options}, sae, sae_pooling),
        "encoder": about_encoder(eyes),
        "precision": checked,
        "images": {
            "name": probe.name,
            "source": plain(getattr(images, "source", images)),
            "given": len(probe),
            "count": len(collected.usable),
            "fingerprint": identity[0],
            "copies": parts.copied(everything),
            "skipped": collected.skipped,
            "holdout": parts.about_holdout(everything),
        },
        "groups": parts.about_groups(),
        "near_copies": near.about(),
        "vocabulary": about_vocabulary(words),
        "candidates": about_candidates(found, own_only),
        "templates": list(templates_of(templates)),
        "normalise_texts": normalise_texts,
        "k": k,
        "notes": [
            *parts.notes(everything),
            *picture_notes(thumbnails),
            *near.notes(),
            *about_exemplars(exemplars, len(collected.usable), statistics, parts.about_groups()),
            *unsteady,
            *unjudged,
            *(crops.notes if crops else ()),
        ],
        "ranking": about_ranking(model),
        "crop": crops.about if crops else None,
        "allow_nondeterministic": allow_nondeterministic,
        "reuse": reuse,
        "exclude": exclude,
        "neighbours": mined.recall or {"neighbours": "exact"},
        "neurons": {
            "selection": neurons if isinstance(neurons, str) else "given",
            "labeled": len(chosen),
            "skipped": dict(sorted(Counter(s for s in status if s != "ok").items())),
        },
        "scorers": specs,
        "primary": specs[-1],
        "confidence": about_confidence(told.weighed, told.best, [one.about() for one in known]),
        "chance": about_chance(fdr, fakes, chances, proposed=bool(found)),
        "seed": seed,
        "limit": limit,
        "versions": versions(),
    }
    if (signature := sign(manifest)) is not None:
        manifest[SIGNATURE] = signature
    vectors = (*contrast_parts(*seen), texts)
    return Run(  # `reserving` writes it to `out`
        manifest,
        neurons=neuron_table(model, statistics, status, chosen, activations, clarity(*seen)),
        labels=label_table(model, status, chosen, told.best, concepts, chances, fdr, told.weighed),
        exemplars=exemplar_table(mined, crops),
        images=image_table(probe, collected, parts.groups),
        concepts=concept_table(words, concepts),
        candidates=found.table() if found else None,
        thumbnails=thumbnails,
        vectors=dict(zip(VECTORS, (v.float().cpu().numpy() for v in vectors), strict=True)),
    )
