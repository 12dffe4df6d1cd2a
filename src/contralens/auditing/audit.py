"""The audit: which neurons stand for expected and spurious concepts, what they do to the classes, what pruning does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor
from torch.nn.functional import normalize

from contralens import __version__
from contralens.auditing.alignment import DRAWS, Alignment, Wordings, align, embed_concepts, margin_noise
from contralens.auditing.concept_verdicts import LIKELY, TIE, Verdicts, concept_confidence
from contralens.auditing.concepts import SIDES, ConceptList, concept_list
from contralens.auditing.conclusions import conclusion, explanation, missing_classes
from contralens.auditing.encoder_checks import Reading, reading
from contralens.auditing.network import in_the_network
from contralens.auditing.pruning import make_mask
from contralens.data.audits import FORMAT, VERDICTS, Audit
from contralens.data.folder_kinds import AUDIT
from contralens.data.runs import Run, load
from contralens.data.table_folders import keeping_part
from contralens.encoders.registry import read_texts
from contralens.math.exemplar_statistics import clarity, polysemanticity, redundancy
from contralens.math.exemplars import find_exemplars
from contralens.math.null_neurons import fake_exemplars, with_fakes
from contralens.math.scoring import parse_scorer, wants_activations
from contralens.math.tensors import keeping_memory
from contralens.run_data.reopened import Reopened
from contralens.settings.finished_run import Audit as AuditSettings
from contralens.settings.record import job
from contralens.types import Exemplars

MOST_WORDS = 2000
"""Words of the run's vocabulary that compete with the list's at most."""


@job(AuditSettings)
@keeping_memory()
def audit(settings: AuditSettings) -> Audit:
    """Judge every neuron of a run against a list of expected and spurious concepts, and measure the effect of pruning.

    A neuron's concept is the one with the largest z against null neurons. It needs a score above the empty template's,
    a false-discovery rate below `fdr` (`contralens.auditing.alignment`), a concept that the encoder can read on these
    images (`contralens.auditing.encoder_checks`) and a confidence of at least .5; otherwise the neuron is
    "unexplained". If an expected and a spurious concept tie, it is "undecided"
    (`contralens.auditing.concept_verdicts`). Influence on the class scores is measured in three ways
    (`contralens.auditing.influence`). The mask sets spurious neurons to zero or attenuates them
    (`contralens.auditing.pruning`); labeled images measure its effect.

    Returns:
        The audit, saved in the run folder if `save` is set and the run has one.

    Raises:
        InputError: the list, the images, the network or the labeled set cannot be used.

    >>> found = audit("run", {"expected": ["striped"], "spurious": ["red"]}, fakes=50, sample=0)
    >>> sum(found.counts.values()), found.mask.shape
    (64, (64,))
    """
    with keeping_part(settings.run, AUDIT, settings.save):
        run = settings.run if isinstance(settings.run, Run) else load(settings.run)
        listed = concept_list(settings.concepts)
        parse_scorer(settings.scorer)
        reopened = Reopened.of(run, settings, target=settings.target, groups=settings.groups)
        found = _judged(settings, reopened, listed)
        verdicts, notes = found.verdicts, [*found.words.notes, *found.read.warnings(found.encoder.name, listed)]
        keep = make_mask(
            len(run), verdicts.exemplars.neurons, verdicts.spurious, verdicts.z("expected"), verdicts.z("spurious"),
            settings.mode,
        )  # fmt: skip
        moved, pruning, new, about = in_the_network(reopened, verdicts.exemplars, verdicts.words, keep, notes, settings)
        manifest = _manifest(settings, reopened, listed, found, pruning, about, notes)
        made = Audit(manifest, verdicts.table(), moved, pruning, keep.numpy(), new)
        return made.save(run.path) if settings.save and run.path is not None else made


@dataclass(frozen=True)
class Judged:
    """The verdicts on all neurons, and what they were found with."""

    encoder: Any
    verdicts: Verdicts
    words: Wordings
    read: Reading
    aligned: Alignment
    others: int
    """Words of the vocabulary that competed."""


def _judged(settings: AuditSettings, reopened: Reopened, listed: ConceptList) -> Judged:
    """Judge each neuron against null neurons, the words of the list and others."""
    scorer, fakes, seed = settings.scorer, settings.fakes, settings.seed
    made, exemplars, embeddings = _space(reopened, settings.encoder, settings.device or "cpu")
    words = embed_concepts(made, listed)
    settings.progress("null neurons", 0, fakes)
    probe = reopened.activations(reopened.probe)
    fake = fake_exemplars(probe, embeddings, fakes, seed, "permuted", exemplars.neurons, **reopened.mining)
    every = with_fakes(probe, fakes, seed, neurons=exemplars.neurons) if wants_activations(scorer) else None
    settings.progress("null neurons", fakes, fakes)
    aligned = align(scorer, exemplars, fake, embeddings, words, every)
    read = reading(embeddings, probe, exemplars.neurons, words, seed)
    sides = [torch.tensor([c.side == side for c in listed]) for side in ("expected", "spurious")]
    layer = {f.__name__: f(exemplars, embeddings) for f in (clarity, redundancy, polysemanticity)}
    others = _other_words(reopened, made, listed, seed)
    verdicts = Verdicts(
        listed, exemplars, aligned,
        margin_noise(scorer, aligned, exemplars, embeddings, words, sides[0], sides[1], seed),
        concept_confidence(aligned.best, words, others, exemplars, probe, embeddings), read, settings.fdr, layer,
    )  # fmt: skip
    return Judged(made, verdicts, words, read, aligned, len(others))


def _manifest(
    settings: AuditSettings, reopened: Reopened, listed: ConceptList, found: Judged, pruning: pa.Table,
    about: dict[str, Any], notes: list[str],
) -> dict[str, Any]:  # fmt: skip
    run, mode, verdicts = reopened.run, settings.mode, found.verdicts
    counts = {v: verdicts.words.count(v) for v in VERDICTS}
    rows, missing = pruning.to_pylist(), missing_classes(about["classes"], listed)
    return {
        "format": FORMAT,
        "contralens": __version__,
        "concepts": {
            "title": listed.title, "about": listed.about, "source": listed.source, "fingerprint": listed.fingerprint,
            "templates": list(listed.templates),
            **{side: [c.name for c in listed.side(side)] for side in SIDES},
        },
        **settings.written(),
        "encoder": {
            "name": found.encoder.name, "fingerprint": found.encoder.fingerprint, "labeling": settings.encoder is None,
        },
        "separation": found.read.manifest(listed),
        "threshold": {
            "rule": "score above that of the empty templates, false-discovery rate at most fdr, a "
                    "concept that the encoder reads, with at least this confidence; undecided below tie x noise",
            "confidence": LIKELY, "other_words": found.others, "tie": TIE, "draws": DRAWS,
            "empty": found.words.empty is not None, "fdr": settings.fdr, "fakes": settings.fakes, "kind": "permuted",
            "null_share": found.aligned.null_share,
        },
        "verdicts": counts,
        "conclusion": conclusion(counts, rows, settings.labeled is not None, mode),
        "explanation": explanation(
            counts, rows, mode, about["output_layer"], missing, len(about["classes"]), about["new_head"]
        ),
        "missing_classes": missing,
        "layer": {name: _mean(value) for name, value in verdicts.layer.items()},
        "target": {key: run.manifest["target"].get(key) for key in ("name", "layer", "pooling", "fingerprint")},
        "probe": {"name": run.manifest["images"]["name"], "count": len(reopened.probe)},
        **about,
        "warnings": notes,
    }  # fmt: skip


def _space(reopened: Reopened, encoder: Any, device: str) -> tuple[Any, Exemplars, Tensor]:
    """The encoder, the exemplars with contrasts in its space, and the probe images' rows (I,D)."""
    if encoder is None:
        return reopened.encoder, reopened.exemplars, reopened.embeddings(reopened.probe)
    from contralens.encoders.registry import encoder as load_encoder

    made = load_encoder(encoder, device=device)
    embeddings = reopened.embeddings(reopened.probe, made)
    if made.fingerprint == reopened.run.manifest["encoder"]["fingerprint"]:
        return made, reopened.exemplars, embeddings
    mined = find_exemplars(
        reopened.activations(reopened.probe), embeddings, neurons=reopened.exemplars.neurons, **reopened.mining
    )
    return made, mined, embeddings


def _other_words(reopened: Reopened, made: Any, listed: ConceptList, seed: int) -> Tensor:
    """Unit rows (V,D) of the words of the run's vocabulary that are no wording of the list, at most `MOST_WORDS`."""
    known = {text.casefold() for c in listed for text in (*c.wordings, *c.prompts)}
    at = [i for i, word in enumerate(reopened.concepts) if word.casefold() not in known]
    if len(at) > MOST_WORDS:
        order = torch.randperm(len(at), generator=torch.Generator().manual_seed(seed))[:MOST_WORDS]
        at = [at[i] for i in order.sort().values.tolist()]
    if made.fingerprint == reopened.run.manifest["encoder"]["fingerprint"]:
        return normalize(reopened.texts[at].float(), dim=1)
    return (
        read_texts(made, [reopened.concepts[i] for i in at], listed.templates)[0] if at else torch.zeros(0, made.width)
    )


def _mean(values: Tensor) -> float:
    return float(values.nanmean()) if bool(values.isfinite().any()) else float("nan")
