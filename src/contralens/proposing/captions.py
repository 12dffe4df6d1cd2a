"""Candidates without a vision-language model: FALCON's caption bank for neurons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from contralens.checks import counted
from contralens.data.atomic_files import digest
from contralens.data.runs import Run
from contralens.data.store import Store
from contralens.data.vocabulary import read_vocabulary
from contralens.errors import ImageError, InputError, StoreError
from contralens.math.caption_concepts import (
    Phrases,
    contrast_phrases,
    falcon_contrasts,
    group_positives,
    phrases,
    top_captions,
)
from contralens.proposing.candidates import Candidates
from contralens.proposing.feature_sets import FeatureSets
from contralens.proposing.merge import gather
from contralens.proposing.prompts import clean
from contralens.proposing.proposers import CaptionBank
from contralens.run_data.crop_rows import RunCrops
from contralens.run_data.stored import RunImages, cached_rows, encoder_of, exemplars_of
from contralens.types import Encoder, Exemplars, Progress, Target, silent


@dataclass(frozen=True, slots=True)
class CaptionPlan:
    """What a caption bank is going to do."""

    neurons: int
    captions: int
    source: str

    def lines(self) -> list[str]:
        """The plan for people."""
        return [
            f"{counted(self.neurons, 'neuron')}; {counted(self.captions, 'caption')} from {self.source}, "
            "ranked by the encoder: no model is called, at no cost"
        ]


def caption_plan(run: Run, bank: CaptionBank, neurons: Sequence[int]) -> CaptionPlan:
    """How much `caption_candidates` has before it."""
    captions, source = _captions(run, bank)
    return CaptionPlan(len(neurons), len(captions), source)


NOTHING = "no word of the captions occurs on its positives but not on its contrasts"


def caption_candidates(
    run: Run,
    bank: CaptionBank,
    neurons: Sequence[int],
    names: dict[int, str],
    *,
    contrastive: bool = True,
    count: int = 8,
    contrast: Literal["partners", "falcon"] = "partners",
    groups: Sequence[Sequence[int]] | Literal["auto"] | None = None,
    top: int = 5,
    longest: int = 3,
    weights: Literal["share", "cosine"] = "share",
    held: float | None = None,
    merge: float | None = None,
    images: Any = None,
    encoder: Any = None,
    cache: str | Path | None = None,
    device: str = "cpu",
    target: Target | None = None,
    progress: Progress = silent,
    **finding: Any,
) -> Candidates:
    """Words and phrases of captions that hold on a neuron's positives and not on their partners.

    Args:
        run: a finished run.
        bank: the captions.
        neurons: indices. names: name of each.
        contrastive: False leaves the partners out (the baseline).
        count: words and phrases per neuron.
        contrast: "partners" of the run, or "falcon": images mined in the target's own space without the explained
            features (needs the cached activations of all images).
        groups: feature groups to explain together, as FALCON does; each neuron of a group gets the group's concepts.
            Its positives are the images on which all of its features are high. Neurons in no group stand for
            themselves. "auto" finds the groups (`FeatureSets`): a neuron is in the one with the most images.
        top: captions per image.
        longest: words of a phrase.
        weights, held: see `top_captions` and `contrast_phrases`; FALCON itself takes "cosine" and .1.
        merge, images, encoder, cache, device: as in `propose`.
        target: the run's network: images are cropped to where it says that the neurons fire (`focus="crop"`), see
            `RunCrops`; needs `images`. None: whole pictures.
        finding: with "auto": coherent, limit and least, see `FeatureSets`.
    """
    _check(contrast, weights, count, top, longest)
    held = (0.1 if weights == "cosine" else 1 / 3) if held is None else held
    captions, source = _captions(run, bank)
    index = _index(captions, longest, bank.name)
    eyes, store = encoder_of(run, encoder, device), Store(cache)
    exemplars = exemplars_of(run, list(neurons))
    whole = contrast == "falcon" or bool(groups)
    seen = None if whole else _images_of(exemplars)
    embeddings, notes = _embeddings(run, store, eyes, seen, images, progress)
    crops = None if target is None else RunCrops(target, eyes, RunImages(run, images), embeddings, store, progress)
    activations = _activations(run, store) if whole else None
    sets = FeatureSets.of(groups, activations, embeddings, crops, **finding)
    sides = _sides(exemplars, activations, sets, contrast)
    if not contrastive:
        sides = [(group, positives, contrasts[:0]) for group, positives, contrasts in sides]
    embeddings, shown = (embeddings, [side[1:] for side in sides]) if crops is None else crops(sides)
    best, cosines, shares = top_captions(embeddings, _texts(store, eyes, captions, progress), top)
    weight = cosines if weights == "cosine" else shares

    def ranked(positives: Tensor, contrasts: Tensor) -> list[tuple[str, float, float]]:
        against = contrasts if contrastive else None
        return contrast_phrases(positives, against, best, weight, index, held=held, top=count)

    prompt = "contrastive" if contrastive else "positives"
    asked = [{"neuron": n, "name": names[n], "prompt": prompt, "model": bank.name, "reply": None} for n in neurons]
    proposals, errors = _of_sides(ranked, shown, asked, progress)
    manifest = {
        "proposer": bank.name, "prompt": prompt, "run": str(run.path) if run.path else None, "contrast": contrast,
        "captions": {"source": source, "count": len(captions), "fingerprint": digest(*captions)},
        **sets.about, "count": count, "top": top, "longest": longest, "weights": weights, "held": held,
        "notes": notes + (crops.notes if crops else []), **({"focus": crops.about} if crops else {}),
    }  # fmt: skip
    return gather(proposals, errors, manifest, eyes, merge)


def _sides(
    exemplars: Exemplars, activations: Tensor | None, sets: FeatureSets, contrast: str
) -> list[tuple[list[int], Tensor, Tensor]]:
    """Each neuron's group, with its positives and contrasts."""
    out = []
    for n, positives, contrasts in zip(
        exemplars.neurons.tolist(), exemplars.positives, exemplars.contrasts, strict=True
    ):
        group, fired = sets.at(n)
        if activations is not None:
            positives, contrasts = _of_group(activations, positives, contrasts, group, contrast, fired)
        out.append((group, positives, contrasts))
    return out


def _of_sides(
    ranked: Callable[[Tensor, Tensor], list[tuple[str, float, float]]], sides: Sequence[tuple[Tensor, Tensor]],
    asked: Sequence[dict[str, Any]], progress: Progress,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:  # fmt: skip
    """Proposals, and what went without any."""
    proposals: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    for at, ((positives, contrasts), about) in enumerate(zip(sides, asked, strict=True)):
        progress("proposing", at, len(asked))
        why = NOTHING
        found: list[tuple[str, float, float]] = []
        if about["prompt"] == "contrastive" and not bool((contrasts >= 0).any()):
            why = "it has no contrastive images"
        else:
            found = ranked(positives, contrasts)
        proposals += _proposals(found, about)
        if not found:
            errors.append({"neuron": about["neuron"], "name": about["name"], "error": why, "reply": None})
    progress("proposing", len(asked), len(asked))
    return proposals, errors


def _images_of(exemplars: Exemplars) -> list[int]:
    """The images that are somebody's exemplar or contrast."""
    used = torch.cat([exemplars.positives.reshape(-1), exemplars.contrasts.reshape(-1)])
    return sorted(set(used[used >= 0].tolist()))


def _index(captions: Sequence[str], longest: int, name: str) -> Phrases:
    index = phrases(captions, longest)
    if not index.texts:
        raise InputError(f"{name} holds no word that could be a label")
    return index


def _proposals(found: Sequence[tuple[str, float, float]], asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of a neuron's words, with the shares of positives and of partners on which each holds."""
    return [
        {"text": clean(text) or text, **asked, "place": place, "score": round(on - off, 6)}
        for place, (text, on, off) in enumerate(found)
    ]


def _check(contrast: str, weights: str, count: int, top: int, longest: int) -> None:
    if contrast not in ("partners", "falcon"):
        raise InputError(f'`contrast` must be "partners" or "falcon"; got {contrast!r}')
    if weights not in ("share", "cosine"):
        raise InputError(f'`weights` must be "share" or "cosine"; got {weights!r}')
    if min(count, top, longest) < 1:
        raise InputError(f"`count`, `top` and `longest` must be at least 1; got {count}, {top} and {longest}")


def _activations(run: Run, store: Store) -> torch.Tensor:
    """(I,N) of all images, from the cache."""
    rows = cached_rows(run, store, "target")
    if rows is None:
        raise StoreError("the cache no longer holds the activations of this run; label again, with the same images")
    return torch.from_numpy(rows)


def _of_group(
    activations: torch.Tensor, positives: torch.Tensor, contrasts: torch.Tensor, group: Sequence[int], contrast: str,
    images: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Positives and contrasts of a feature group, which may be one neuron; `images` are those of a discovered one."""
    if images is not None:
        return images, falcon_contrasts(activations, images, group)
    if len(group) > 1:
        positives = group_positives(activations, group, len(positives))
    if contrast == "falcon" or len(group) > 1:
        contrasts = falcon_contrasts(activations, positives, group)
    return positives, contrasts


def _captions(run: Run, bank: CaptionBank) -> tuple[list[str], str]:
    """Distinct captions, and where they come from."""
    if bank.source == "metadata":
        labels = list(dict.fromkeys(label for label in run.images["label"].to_pylist() if label))
        if len(labels) < 2:
            raise InputError("the image set of this run has no classes or captions; give captions:FILE instead")
        return list(read_vocabulary(labels).concepts), "metadata of the image set"
    words = read_vocabulary(bank.source)
    return list(words.concepts), words.source


def _texts(store: Store, encoder: Encoder, captions: Sequence[str], progress: Progress) -> Tensor:
    """Caption rows (M,D), kept in the store."""
    table = store.table("texts", encoder.fingerprint, "{}", "True")
    keys = [digest(caption) for caption in captions]
    missing = [i for i, key in enumerate(keys) if key not in table]
    for start in range(0, len(missing), 1024):
        part = missing[start : start + 1024]
        table.append([keys[i] for i in part], {"rows": encoder.texts([captions[i] for i in part]).numpy()})
        progress("embedding captions", min(start + 1024, len(missing)), len(missing))
    return torch.from_numpy(table.rows(keys))


def _embeddings(
    run: Run, store: Store, encoder: Encoder, needed: list[int] | None, images: Any, progress: Progress
) -> tuple[Tensor, list[str]]:
    """Image rows (I,D): from the cache, else of the images (or thumbnails) that are needed; the others stay zero."""
    kept = cached_rows(run, store, "encoder")
    if kept is not None:
        return torch.from_numpy(kept), []
    if needed is None:
        raise StoreError("the cache no longer holds the rows of this run; label again, with the same images")
    pictures = RunImages(run, images)
    out = np.zeros((len(pictures.ids), encoder.width), np.float32)
    lost = 0
    for start in range(0, len(needed), 32):
        progress("embedding", start, len(needed))
        batch = {}
        for i in needed[start : start + 32]:
            try:
                batch[i] = encoder.preprocess(pictures.load(i))
            except ImageError:
                lost += 1
        if batch:
            out[list(batch)] = encoder(default_collate(list(batch.values()))).numpy()
    progress("embedding", len(needed), len(needed))
    notes = [f"{lost} images could not be loaded"] if lost else []
    if pictures.kind == "thumbnails":
        notes.append("images were embedded from the run's thumbnails (128 px), as the cache no longer holds their rows")
    return torch.from_numpy(out), notes
