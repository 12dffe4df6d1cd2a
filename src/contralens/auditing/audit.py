"""The audit: which neurons stand for expected and spurious concepts, what they do to the classes, what pruning does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from contralens import __version__
from contralens.auditing.aligning import DRAWS, align, embed_concepts, margin_noise
from contralens.auditing.concepts import SIDES, ConceptList, concept_list
from contralens.auditing.concluding import conclusion, explanation, missing_classes
from contralens.auditing.judging import LIKELY, TIE, Verdicts, concept_confidence
from contralens.auditing.network import in_the_network
from contralens.auditing.pruning import MODES, Mode, make_mask
from contralens.auditing.reading import reading
from contralens.checks import as_share, as_text, as_texts, nearest, whole
from contralens.data.audits import FORMAT, VERDICTS, Audit
from contralens.data.folders import keeping_part
from contralens.data.owned import AUDIT
from contralens.data.runs import Run, load
from contralens.errors import InputError
from contralens.math.audit import clarity, polysemanticity, redundancy
from contralens.math.exemplars import find_exemplars
from contralens.math.fakes import FAKES, MOST_FAKES, fake_exemplars, with_fakes
from contralens.math.scoring import parse_scorer, wants_activations
from contralens.models.encoders import read_texts
from contralens.reopen import Reopened
from contralens.types import Exemplars, Progress, silent

IMAGES = 16
"""Images per neuron that influence is measured over."""
MOST_WORDS = 2000
"""Words of the run's vocabulary that compete with the list's at most."""
SAMPLE = 32
"""Unexplained neurons whose influence is measured inside the network, drawn at random."""


@keeping_part(AUDIT)
def audit(
    run: Run | str | Path,
    concepts: str | Path | Mapping[str, Any] | ConceptList,
    *,
    scorer: str = "csp",
    labeled: Any = None,
    new_head: bool = False,
    subgroups: str | Path | Mapping[str, Any] | None = None,
    image_column: str | None = None,
    class_column: str | None = None,
    groups: Any = None,
    unseen: bool = False,
    classes: Sequence[str] | None = None,
    head: str | None = None,
    follow: Sequence[str] | None = None,
    fdr: float = 0.05,
    mode: Mode = "hard",
    fakes: int = FAKES,
    images: int = IMAGES,
    sample: int | None = SAMPLE,
    encoder: Any = None,
    source: Any = None,
    target: Any = None,
    cache: str | Path | None = None,
    device: str = "cpu",
    batch_size: int = 32,
    seed: int = 0,
    save: bool = True,
    progress: Progress = silent,
) -> Audit:
    """Judge every neuron of a run against a list of expected and spurious concepts, and measure what that is good for.

    A neuron stands for the concept that it stands out in most against null neurons, if that also beats a template with
    nothing in it and the false-discovery rate (`contralens.auditing.aligning`), if the encoder can read the concept on
    these images (`contralens.auditing.reading`) and if it is more likely right than not; else it is "unexplained".
    Where an expected and a spurious concept tie it is "undecided" (`contralens.auditing.judging`). What neurons add to
    the class scores is measured three ways (`contralens.auditing.influence`). The mask switches spurious neurons off or
    turns them down (`contralens.auditing.pruning`); its effect is measured where labeled images are given.

    Args:
        run: a run, or its folder.
        concepts: a shipped list ("dermoscopy", "photographs"), a YAML file or a dict; see `contralens.concept_list`.
        scorer: with options, e.g. "csp", "csp:gamma=0.5", "semanticlens"; it need not be one that the run was labeled
            with.
        labeled: images with a known class, to measure pruning on: a folder with one sub-folder per class, or whatever
            `contralens.labeled_images` takes.
        new_head: whether to fit a new linear head on the neurons that are not spurious, on part of the labeled images,
            and to measure it on the rest (`contralens.auditing.new_head`).
        subgroups: a CSV file (an image column, then one per kind of group), or image -> {column: value}: groups of the
            labeled images, beside those that they have.
        image_column: the column of the labeled images' tables that names the image; found by itself by default.
        class_column: the column that holds the class, likewise; see `contralens.labeled_images`.
        groups: labeled images that belong together, as `contralens.label` takes them; by default what the run knows of
            them. The intervals draw whole groups, and `unseen` goes by them.
        unseen: whether to leave out labeled images that the verdicts were found on, the run's probe images, and others
            of their groups.
        classes: names of the network's classes; by default those that come with its weights.
        head: name of the linear layer from the neurons to the classes; None tries out which one it is, "none" leaves
            the head out.
        follow: classes whose scores are followed; by default all, or the 20 predicted most often where there are more.
        fdr: false-discovery rate of the verdicts, over 0 and below 1.
        mode: "hard" switches spurious neurons off, "soft" turns them down.
        fakes: fake neurons that chance is measured on.
        images: images per neuron that influence is measured over.
        sample: unexplained neurons whose gradient and ablation are measured beside all explained ones; None for all.
        encoder: another encoder than the run's, by name or given; contrasts are then found in its space.
        source: where the run's images are, if they moved.
        target: the network, where the run cannot name it.
        cache: the cache that `label` used.
        device: where the networks run.
        batch_size: images per forward pass.
        seed: of all that is drawn.
        save: whether to write RUN/audit/ (only for a run that lies in a folder).
        progress: called with stage, done and total.

    Returns:
        The audit; inside the run folder where `save` and the run has one.

    Raises:
        InputError: the list, the images, the network or the labeled set cannot be used; in one line.

    >>> found = audit("run", {"expected": ["striped"], "spurious": ["red"]}, fakes=50, sample=0)
    >>> sum(found.counts.values()), found.mask.shape
    (64, (64,))
    """
    run = load(run) if not isinstance(run, Run) else run
    listed = concept_list(concepts)
    parse_scorer(as_text("scorer", scorer))
    for name, given in (("classes", classes), ("follow", follow)):
        if given is not None:
            as_texts(name, given)
    for name, word in (("head", head), ("image_column", image_column), ("class_column", class_column)):
        if word is not None:
            as_text(name, word)
    _check(fdr, mode, images, batch_size, sample, fakes, seed)
    if new_head and labeled is None:
        raise InputError("a new head needs labeled images with classes: give labeled= (--labeled FOLDER)")
    reopened = Reopened(
        run, source=source, target=target, cache=cache, device=device, batch_size=batch_size, groups=groups,
        progress=progress,
    )  # fmt: skip
    made, exemplars, embeddings = _space(reopened, encoder, device)
    words = embed_concepts(made, listed)
    progress("fake neurons", 0, fakes)
    probe = reopened.activations(reopened.probe)
    fake = fake_exemplars(probe, embeddings, fakes, seed, "permuted", exemplars.neurons, **reopened.mining)
    every = with_fakes(probe, fakes, seed, neurons=exemplars.neurons) if wants_activations(scorer) else None
    progress("fake neurons", fakes, fakes)
    aligned = align(scorer, exemplars, fake, embeddings, words, every)
    read = reading(embeddings, probe, exemplars.neurons, words, seed)
    sides = [torch.tensor([c.side == side for c in listed]) for side in ("expected", "spurious")]
    layer = {f.__name__: f(exemplars, embeddings) for f in (clarity, redundancy, polysemanticity)}
    others = _other_words(reopened, made, listed, seed)
    verdicts = Verdicts(
        listed, exemplars, aligned,
        margin_noise(scorer, aligned, exemplars, embeddings, words, sides[0], sides[1], seed),
        concept_confidence(aligned.best, words, others, exemplars, probe, embeddings), read, fdr, layer,
    )  # fmt: skip
    notes = [*words.notes, *read.warnings(made.name, listed)]
    keep = make_mask(
        len(run), exemplars.neurons, verdicts.spurious, verdicts.z("expected"), verdicts.z("spurious"), mode
    )
    moved, pruning, new, about = in_the_network(
        reopened, exemplars, verdicts.words, keep, notes, labeled=labeled, new_head=new_head, subgroups=subgroups,
        columns={"image_column": image_column, "class_column": class_column}, unseen=unseen, classes=classes, head=head,
        follow=follow, mode=mode, images=images, sample=sample, batch_size=batch_size, seed=seed,
        progress=progress,
    )  # fmt: skip
    counts = {v: verdicts.words.count(v) for v in VERDICTS}
    rows, missing = pruning.to_pylist(), missing_classes(about["classes"], listed)
    manifest = {
        "format": FORMAT,
        "contralens": __version__,
        "concepts": {
            "title": listed.title, "about": listed.about, "source": listed.source, "fingerprint": listed.fingerprint,
            "templates": list(listed.templates),
            **{side: [c.name for c in listed.side(side)] for side in SIDES},
        },
        "scorer": scorer,
        "encoder": {"name": made.name, "fingerprint": made.fingerprint, "labeling": encoder is None},
        "separation": read.manifest(listed),
        "threshold": {
            "rule": "score above that of the templates with nothing in them, false-discovery rate at most fdr, a "
                    "concept that the encoder reads, with at least this confidence; undecided below tie x noise",
            "confidence": LIKELY, "other_words": len(others), "tie": TIE, "draws": DRAWS,
            "empty": words.empty is not None, "fdr": fdr, "fakes": fakes, "kind": "permuted",
            "null_share": aligned.null_share,
        },
        "mode": mode,
        "seed": seed,
        "verdicts": counts,
        "conclusion": conclusion(counts, rows, labeled is not None, mode),
        "explanation": explanation(
            counts, rows, mode, about["output_layer"], missing, len(about["classes"]), about["new_head"]
        ),
        "missing_classes": missing,
        "layer": {name: _mean(value) for name, value in layer.items()},
        "target": {key: run.manifest["target"].get(key) for key in ("name", "layer", "pooling", "fingerprint")},
        "probe": {"name": run.manifest["images"]["name"], "count": len(reopened.probe)},
        **about,
        "warnings": notes,
    }  # fmt: skip
    found = Audit(manifest, verdicts.table(), moved, pruning, keep.numpy(), new)
    return found.save(run.path) if save and run.path is not None else found


def _check(fdr: float, mode: str, images: int, batch_size: int, sample: int | None, fakes: int, seed: int) -> None:
    as_share("fdr", fdr)
    if not isinstance(mode, str) or mode not in MODES:
        raise InputError(f"`mode` must be hard or soft; got {mode!r}{nearest(str(mode), MODES)}")
    whole("images", images)
    whole("batch_size", batch_size)
    whole("fakes", fakes, 1, MOST_FAKES)
    whole("seed", seed, -(2**63), 2**63 - 1)
    if sample is not None:
        whole("sample", sample, 0)


def _space(reopened: Reopened, encoder: Any, device: str) -> tuple[Any, Exemplars, Tensor]:
    """The encoder, the exemplars with contrasts in its space, and the probe images' rows (I,D)."""
    if encoder is None:
        return reopened.encoder, reopened.exemplars, reopened.embeddings(reopened.probe)
    from contralens.models.encoders import encoder as load_encoder

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
