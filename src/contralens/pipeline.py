"""The main job: images, a target and an encoder in; labels with their evidence out."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.nn.functional import pad

from contralens import __version__
from contralens.checks import InputError, require
from contralens.collecting.collect import Collected, collect
from contralens.collecting.precision import in_precision
from contralens.collecting.streaming import RecomputedActivations, collect_streamed
from contralens.data.candidates import Candidates, folder_of, load_candidates
from contralens.data.files import digest
from contralens.data.images import images as image_set
from contralens.data.known import known_fingerprints
from contralens.data.runs import FORMAT, LABELS, VECTORS, Run, check_free
from contralens.data.store import Store
from contralens.data.vocabulary import read_vocabulary
from contralens.math.approximate import parse_neighbours
from contralens.math.audit import clarity
from contralens.math.chance import FAKES, Chance, chance, fake_exemplars, with_fakes
from contralens.math.exemplars import Mined, NeuronStatistics, mine, neuron_statistics, select_neurons
from contralens.math.histograms import histograms
from contralens.math.placing import activations_on, rows_on
from contralens.math.ranking import Best, best
from contralens.math.scorers import SCORERS, contrast_parts, parse_scorer, score_blocks, wants_activations
from contralens.math.sources import ActivationSource
from contralens.math.statistics import STRENGTH
from contralens.models.encoders import embed_texts, templates_of
from contralens.models.encoders import encoder as load_encoder
from contralens.models.targets import target as load_target
from contralens.split import drawn
from contralens.types import Encoder, Exemplars, Progress, Target, silent

DEFAULT_SCORERS = ("semanticlens", "clip_dissect", "csp:gamma=0", "csp")
MINING_VERSION = "2"
PROPOSED_UNFAIR = (
    "proposed concepts were written after a look at the real neurons' images, and nobody looked at the fakes': the "
    "false-discovery rates of neurons that got such a label are too low"
)


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
    fdr: float | None = None,
    fakes: int = FAKES,
    store_activations: bool = True,
    limit: int | None = None,
    top: int = 10,
    out: str | Path | None = None,
    cache: str | Path | None = None,
    device: str | None = None,
    batch_size: int = 32,
    workers: int | None = None,
    decode: str = "exact",
    precision: str = "float32",
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
        scorers: names with options, e.g. "csp:gamma=0.5"; the last one is the primary.
        k: exemplars per neuron.
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
        fdr: false-discovery rate up to which labels are kept, e.g. 0.05, told by `fakes` fake neurons that go the same
            way (see `contralens.math.chance`). Above it a neuron has no label: its status is "chance".
        fakes: how many fake neurons chance is measured on.
        store_activations: False keeps no activation on disk: what is needed of all images is gathered while the network
            runs, and it runs again on those whose activations decide a contrast. Same exemplars and labels, memory
            O(N K), up to three times the network's time; a scorer that looks at all activations takes one time more.
        limit: use a sample of that many images, drawn with `seed`.
        top: concepts kept per neuron and scorer.
        out: run folder to write; without it the run is only returned.
        device: where both networks run; by default "cpu", or where a module of yours is. Mining and scoring run where
            the target does if that is a GPU with room for them.
        decode: "fast" preprocesses on tensors, where that agrees with each network's own transform (docs/scale.md).
        precision: "bf16" computes in bfloat16 where a look at the first images says that it is safe.
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
    specs = [scorers] if isinstance(scorers, str) else list(scorers)
    if not specs:
        raise InputError(f"`scorers` is empty; choose from {', '.join(SCORERS)}")
    for spec in specs:
        parse_scorer(spec)
    if k < 1 or top < 1 or batch_size < 1:
        raise InputError(f"`k`, `top` and `batch_size` must be at least 1; got {k}, {top} and {batch_size}")
    if fdr is not None and not 0.0 < fdr < 1.0:
        raise InputError(f"`fdr` must lie between 0 and 1, e.g. 0.05; got {fdr}")
    if parse_neighbours(neighbours)[0] != "exact":
        require("faiss", "faiss")
    if not (store_activations or reuse):
        raise InputError(
            "without reuse, contrasts are given out one rank after the other, and the network would run again for each "
            "rank: store the activations, or allow reuse"
        )
    if out is not None:
        check_free(Path(out))
    found, asking = _candidates(proposer, proposing, candidates, device)
    store = Store(cache)
    words = read_vocabulary(vocabulary)
    probe = image_set(images, limit=limit, seed=seed)
    if decode != "exact":
        target_options["decode"] = decode
    model = load_model(
        target, {"layer": layer, "pooling": pooling, "device": device, **target_options}, sae, sae_pooling
    )
    eyes: Encoder = load_encoder(encoder, device=device or "cpu", decode=decode)
    (model, eyes), checked = in_precision(precision, [model, eyes], probe, store)

    collecting: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "progress": progress}
    held_out: list[str] = []
    if store_activations:
        collected = collect(probe, [model, eyes], store, **collecting)
        if holdout:
            collected, held_out = _hold_out(collected, holdout, seed)
        activations = collected.activations(0)
    else:
        strongest = max(k, STRENGTH if neurons == "paper" else 0)
        held = drawn(known_fingerprints(probe, store), holdout, seed, "holdout") if holdout else None
        collected, activations = collect_streamed(probe, model, [eyes], store, k=strongest, held=held, **collecting)
        if holdout:
            collected, held_out = _hold_out(collected, holdout, seed)
    embeddings = rows_on(torch.from_numpy(collected.mapped(1)), getattr(model, "device", torch.device("cpu")))
    activations = activations_on(activations, embeddings.device)
    statistics = neuron_statistics(activations)
    status = statistics.status()
    chosen = _choose(neurons, activations, status)
    identity = [digest(*collected.fingerprints), model.fingerprint, eyes.fingerprint]
    mining: dict[str, Any] = {"k": k, "reuse": reuse, "exclude": exclude}
    if neighbours != "exact":
        mining["neighbours"] = neighbours
    progress("mining", 0, len(chosen))
    mined = _mined(
        store, ["exemplars", MINING_VERSION, *identity, repr((chosen.tolist(), *mining.values()))],
        lambda: mine(activations, embeddings, neurons=chosen, **mining),
    )  # fmt: skip
    progress("mining", len(chosen), len(chosen))
    if isinstance(activations, RecomputedActivations):
        activations.forget()
    exemplars = mined.exemplars
    if asking is not None:
        found = _proposed(
            {**asking, "cache": cache, "device": device or "cpu", "progress": progress}, out, model, probe, eyes,
            {"scorers": specs, "k": k, "reuse": reuse, "exclude": exclude, "neurons": neurons, "holdout": holdout,
             "neighbours": neighbours, "store_activations": store_activations,
             "vocabulary": words.concepts, "templates": templates, "cache": cache, "seed": seed,
             "progress": progress},
        )  # fmt: skip
    concepts = found.join(words.concepts) if found else words.concepts
    texts = _texts(store, eyes, concepts, templates, normalise_texts, progress)
    allowed = found.allowed(words.concepts, chosen.tolist()) if found and own_only else None
    found_best: dict[str, Best] = {}
    for done, spec in enumerate(specs):
        progress("scoring", done, len(specs))
        scores = score_blocks(spec, exemplars, embeddings, texts, activations)
        found_best[spec] = best(scores if allowed is None else _of_own(scores, torch.from_numpy(allowed)), top)
    progress("scoring", len(specs), len(specs))
    chances: dict[str, Chance] = {}
    if fdr is not None and len(chosen):
        progress("fake neurons", 0, fakes)
        made = _remembered(
            store, ["fakes", MINING_VERSION, *identity, repr((chosen.tolist(), *mining.values(), fakes, seed))],
            lambda: fake_exemplars(activations, embeddings, fakes, seed, neurons=chosen, **mining),
        )  # fmt: skip
        every = None
        if any(map(wants_activations, specs)):
            every = with_fakes(activations, fakes, seed, neurons=chosen)
        progress("fake neurons", fakes, fakes)
        chances = {
            spec: chance(spec, exemplars, made, embeddings, texts, every, labels=found_best[spec].labels)
            for spec in specs
        }
    labels = _label_table(model, status, chosen, found_best, concepts, chances, fdr)

    first, second = contrast_parts(exemplars, embeddings)
    described = {
        **(_origin(model) or {"spec": None, "options": _plain({"pooling": pooling, **target_options})}),
        "sae": _plain(sae),
        "sae_pooling": sae_pooling,
    }

    manifest = {
        "format": FORMAT,
        "contralens": __version__,
        "target": {
            "name": model.name,
            "layer": model.layer,
            "pooling": model.pooling,
            "fingerprint": model.fingerprint,
            "neurons": model.width,
            "notes": list(getattr(model, "notes", [])),
            **described,
        },
        "encoder": {
            "name": eyes.name,
            "width": eyes.width,
            "fingerprint": eyes.fingerprint,
            "notes": list(getattr(eyes, "notes", [])),
            "options": dict(getattr(eyes, "options", {})),
        },
        "precision": checked,
        "images": {
            "name": probe.name,
            "source": _plain(getattr(images, "source", images)),
            "given": len(probe),
            "count": len(collected.usable),
            "fingerprint": identity[0],
            "skipped": collected.skipped,
            "holdout": {"share": holdout, "fingerprints": held_out} if held_out else None,
        },
        "vocabulary": {
            "source": words.source,
            "concepts": len(words.concepts),
            "fingerprint": words.fingerprint,
            "report": words.lint.lines(),
        },
        "candidates": {**found.manifest, "own_only": own_only, "errors": found.errors} if found else None,
        "templates": list(templates_of(templates)),
        "normalise_texts": normalise_texts,
        "k": k,
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
        "chance": None
        if fdr is None
        else {
            "fdr": fdr,
            "fakes": fakes,
            "kind": "permuted",
            "null_share": {spec: told.null_share for spec, told in chances.items()},
            "no label beats chance": {
                spec: int((~told.beats(fdr) & told.q.isfinite()).sum()) for spec, told in chances.items()
            },
            "notes": [PROPOSED_UNFAIR] if found else [],
        },
        "seed": seed,
        "limit": limit,
        "versions": _versions(),
    }
    run = Run(
        manifest,
        neurons=_neuron_table(model, statistics, status, chosen, activations, clarity(exemplars, embeddings)),
        labels=labels,
        exemplars=_exemplar_table(mined),
        images=_image_table(probe, collected),
        concepts=pa.table(
            {
                "concept": list(concepts),
                "source": [words.source] * len(words.concepts) + ["proposed"] * (len(concepts) - len(words.concepts)),
            }
        ),
        candidates=found.table() if found else None,
        thumbnails=_thumbnail_table(exemplars, collected),
        vectors=dict(zip(VECTORS, (part.float().cpu().numpy() for part in (first, second, texts)), strict=True)),
    )
    return run if out is None else run.save(out)


def _origin(model: Target) -> dict[str, Any] | None:
    """How `contralens.target` made the network, so that a run can name it again; None for a target of another kind."""
    origin = getattr(getattr(model, "base", model), "origin", None)
    return {"spec": origin["spec"], "options": _plain(origin["options"])} if origin else None


def _hold_out(collected: Collected, share: float, seed: int) -> tuple[Collected, list[str]]:
    """The probe part of what was collected, and the fingerprints of the part that is held out."""
    if not 0.0 < share < 1.0:
        raise InputError(f"`holdout` must be a share between 0 and 1; got {share}")
    out = drawn(collected.fingerprints, share, seed, "holdout")
    kept = [i for i, held in enumerate(out) if not held]
    if not kept:
        raise InputError(f"`holdout`={share} leaves no image to label with; there are {len(out)}")
    probe = replace(
        collected,
        usable=[collected.usable[i] for i in kept],
        fingerprints=[collected.fingerprints[i] for i in kept],
    )
    return probe, [f for f, held in zip(collected.fingerprints, out, strict=True) if held]


def _candidates(
    proposer: Any, proposing: dict[str, Any] | None, candidates: Any, device: str | None
) -> tuple[Candidates | None, dict[str, Any] | None]:
    """Candidates that are there, or how to ask a ready proposer for them: what is wrong with either shows at once."""
    if proposer is None:
        if proposing:
            raise InputError("`proposing` says how `proposer` asks, and no `proposer` is given")
        if candidates is None or isinstance(candidates, Candidates):
            return candidates, None
        return load_candidates(candidates), None
    if candidates is not None:
        raise InputError("`proposer` asks for candidates and `candidates` has some; give one of the two")
    from contralens.models.proposers import CaptionBank
    from contralens.models.proposers import proposer as load_proposer

    asking = dict(proposing or {})
    ready = load_proposer(proposer, **{"device": device or "cpu", **asking.pop("proposer_options", {})})
    if not isinstance(ready, CaptionBank):
        _ = ready.fingerprint  # reads a model's folder, or says that there is none
    return None, {**asking, "proposer": ready}


def _proposed(
    asking: dict[str, Any],
    out: str | Path | None,
    model: Target,
    probe: Any,
    eyes: Encoder,
    settings: dict[str, Any],
) -> Candidates:
    """Candidates for the neurons, asked with the exemplars of a first run that is not written."""
    from contralens.proposing.propose import propose

    first = label(model, probe, eyes, **settings)
    folder = None if out is None else folder_of(Path(out))
    found = propose(first, **{"images": probe, "encoder": eyes, "target": model, "folder": folder, **asking})
    if not found.concepts:
        why = found.errors[0]["error"] if found.errors else "there is no neuron to ask about"
        raise InputError(
            f"{found.manifest['proposer']} proposed nothing: {why}; nothing was labeled, what was computed is kept"
        )
    return found


def load_model(target: Any, options: dict[str, Any], sae: Any = None, sae_pooling: str | None = None) -> Target:
    """A ready `Target` as it is, anything else made into one; with a sparse autoencoder on top if one is given."""
    if isinstance(target, Target):
        given = [name for name, value in options.items() if value is not None]
        if given:
            raise InputError(f"the target is ready made; give {', '.join(given)} to `contralens.target` instead")
        model = target
    else:
        model = load_target(target, **options)
    if sae is None:
        return model
    from contralens.models.saes import sae as with_sae

    return with_sae(model, sae, pooling=sae_pooling)


def _of_own(scores: Iterator[tuple[slice, Tensor]], allowed: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The scores of some concepts after the other, NaN where a neuron and a concept (N,C) have nothing to do."""
    for block, some in scores:
        yield block, some.masked_fill(~allowed[:, block].to(some.device), torch.nan)


def _choose(neurons: Any, activations: ActivationSource, status: list[str]) -> Tensor:
    """Indices of the neurons to label: those asked for that have something to tell."""
    ok = torch.tensor([s == "ok" for s in status])
    if isinstance(neurons, str):
        if neurons not in ("all", "paper"):
            raise InputError(f'`neurons` must be "all", "paper" or indices; got {neurons!r}')
        wanted = torch.arange(len(ok)) if neurons == "all" else select_neurons(activations).sort().values
    else:
        wanted = torch.as_tensor(sorted(set(neurons)), dtype=torch.int64)
        if len(wanted) and not (0 <= int(wanted.min()) and int(wanted.max()) < len(ok)):
            raise InputError(f"`neurons` must lie in 0..{len(ok) - 1}; got {int(wanted.min())}..{int(wanted.max())}")
    return wanted[ok[wanted]]


def _remembered(store: Store, identity: Sequence[str], make: Callable[[], Exemplars]) -> Exemplars:
    """Exemplars, kept in the store under all that they depend on."""
    kept = store.remember(*identity)
    arrays = kept.get()
    if arrays is None:
        found = make()
        arrays = {f.name: getattr(found, f.name).numpy() for f in fields(Exemplars)}
        kept.put(arrays)
    return Exemplars(*(torch.from_numpy(np.array(arrays[f.name])) for f in fields(Exemplars)))


def _mined(store: Store, identity: Sequence[str], make: Callable[[], Mined]) -> Mined:
    """Likewise, with what is known of them besides."""
    kept = store.remember(*identity)
    arrays = kept.get()
    if arrays is None:
        found = make()
        arrays = {f.name: getattr(found.exemplars, f.name).numpy() for f in fields(Exemplars)}
        arrays |= {"cold": found.cold.numpy(), "recall": np.frombuffer(json.dumps(found.recall).encode(), np.uint8)}
        kept.put(arrays)
    tensors = {f.name: torch.from_numpy(np.array(arrays[f.name])) for f in fields(Exemplars)}
    cold, recall = torch.from_numpy(np.array(arrays["cold"])), json.loads(arrays["recall"].tobytes())
    return Mined(Exemplars(**tensors), cold, recall)


def _texts(
    store: Store, encoder: Encoder, concepts: Sequence[str], templates: Any, normalise: bool, progress: Progress
) -> Tensor:
    """Text embeddings (C,D), each kept in the store under the encoder, the templates and the text."""
    chosen = templates_of(templates)
    table = store.table("texts", encoder.fingerprint, *chosen, str(normalise))
    keys = [digest(concept) for concept in concepts]
    missing = [i for i, key in enumerate(keys) if key not in table]
    for start in range(0, len(missing), 1024):
        part = missing[start : start + 1024]
        rows = embed_texts(encoder, [concepts[i] for i in part], chosen, normalise)
        table.append([keys[i] for i in part], {"rows": rows.numpy()})
        progress("embedding texts", min(start + 1024, len(missing)), len(missing))
    return torch.from_numpy(table.rows(keys))


def _neuron_table(
    model: Target,
    statistics: NeuronStatistics,
    status: list[str],
    chosen: Tensor,
    activations: ActivationSource,
    clear: Tensor,
) -> pa.Table:
    clarities = np.full(len(status), np.nan)
    clarities[chosen.numpy()] = clear.cpu().numpy()
    selected = np.zeros(len(status), bool)
    selected[chosen.numpy()] = True
    if isinstance(activations, RecomputedActivations):
        counts = activations.histograms()
    else:
        counts = histograms(activations, statistics.minimum, statistics.maximum)
    return pa.table(
        {
            "neuron": pa.array(range(len(status)), pa.int32()),
            "name": pa.array(list(model.neurons), pa.string()),
            "status": pa.array(status, pa.string()),
            "mean": statistics.mean.numpy(),
            "minimum": statistics.minimum.double().numpy(),
            "maximum": statistics.maximum.double().numpy(),
            "firing_rate": statistics.firing.double().numpy() / activations.shape[0],
            "clarity": pa.array(clarities, from_pandas=True),
            "selected": selected,
            "histogram": pa.array(counts.tolist(), pa.list_(pa.int64())),
        }
    )


def _label_table(
    model: Target,
    status: list[str],
    chosen: Tensor,
    best: Mapping[str, Best],
    concepts: Sequence[str],
    chances: Mapping[str, Chance],
    fdr: float | None,
) -> pa.Table:
    """One row per neuron asked for and scorer: its best concepts.

    A label whose false-discovery rate is above `fdr` is turned down: the status is "chance", label and score are null,
    and `concepts` and `scores` still tell what was turned down.
    """
    place = torch.full((len(status),), -1)  # the last row, which is an empty one
    place[chosen] = torch.arange(len(chosen))
    wanted = [n for n, at in enumerate(place.tolist()) if at >= 0 or status[n] != "ok"]
    concept_of = {spec: pad(b.concepts, (0, 0, 0, 1), value=-1) for spec, b in best.items()}
    score_of = {spec: pad(b.scores, (0, 0, 0, 1), value=torch.nan) for spec, b in best.items()}
    rates = {spec: pad(torch.stack([told.p, told.q], 1), (0, 0, 0, 1)) for spec, told in chances.items()}
    parts = []
    for start in range(0, len(wanted), 4096):
        some, rows = wanted[start : start + 4096], []
        at = place[some]
        here = {spec: (concept_of[spec][at].tolist(), score_of[spec][at].tolist()) for spec in best}
        told = {spec: rates[spec][at].tolist() for spec in rates}
        for row, n in enumerate(some):
            for spec, (ranked, values) in here.items():
                kept = [(concepts[c], v) for c, v in zip(ranked[row], values[row], strict=True) if c >= 0]
                p, q = told[spec][row] if kept and spec in told else (None, None)
                word = "ok" if kept else "nan"
                if q is not None and fdr is not None and not q <= fdr:
                    word = "chance"
                label, score = kept[0] if word == "ok" else (None, None)
                rows.append({
                    "neuron": n, "name": model.neurons[n], "scorer": spec,
                    "status": word if status[n] == "ok" else status[n],
                    "label": label, "score": score, "concepts": [c for c, _ in kept], "scores": [v for _, v in kept],
                    "p": p, "fdr": q,
                })  # fmt: skip
        parts.append(pa.Table.from_pylist(rows, schema=LABELS))
    return pa.concat_tables(parts or [LABELS.empty_table()]).combine_chunks()


def _exemplar_table(mined: Mined) -> pa.Table:
    exemplars = mined.exemplars
    n, k = exemplars.positives.shape
    return pa.table(
        {
            "neuron": pa.array(exemplars.neurons.repeat_interleave(k).numpy(), pa.int32()),
            "rank": pa.array(np.tile(np.arange(k, dtype=np.int32), n)),
            "positive": exemplars.positives.reshape(-1).numpy(),
            "activation": exemplars.activations.reshape(-1).numpy(),
            "contrast": exemplars.contrasts.reshape(-1).numpy(),
            "contrast_activation": mined.cold.reshape(-1).numpy(),
            "similarity": exemplars.similarities.reshape(-1).numpy(),
        }
    )


def _image_table(probe: Any, collected: Collected) -> pa.Table:
    labels = getattr(probe, "labels", None)
    return pa.table(
        {
            "index": pa.array(range(len(collected.usable)), pa.int64()),
            "id": pa.array([probe.ids[i] for i in collected.usable], pa.string()),
            "fingerprint": pa.array(collected.fingerprints, pa.string()),
            "label": pa.array([labels[i] if labels else None for i in collected.usable], pa.string()),
        }
    )


def _thumbnail_table(exemplars: Exemplars, collected: Collected) -> pa.Table:
    used = np.unique(np.concatenate([exemplars.positives.numpy(), exemplars.contrasts.numpy()]))
    wanted = list(dict.fromkeys(collected.fingerprints[i] for i in used.tolist() if i >= 0))
    pictures = collected.thumbnails.blobs(wanted)
    return pa.table(
        {
            "fingerprint": pa.array(wanted, pa.string()),
            "jpeg": pa.array([pictures[f] for f in wanted], pa.binary()),
        }
    )


def _plain(value: Any) -> Any:
    """What JSON can hold of settings, paths as text; None stands for what it cannot."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items() if v is not None}
    return str(value) if isinstance(value, Path) else value if isinstance(value, (str, int, float)) else None


def _versions() -> dict[str, str]:
    """What the numbers were computed with."""
    out = {"python": platform.python_version()}
    for package in ("torch", "torchvision", "numpy", "pillow", "timm", "open_clip_torch", "transformers"):
        try:
            out[package] = version(package)
        except PackageNotFoundError:
            continue
    return out
