"""The manifest of a run: from what, how and with which software the labels were got."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contralens import __version__
from contralens.data.runs import FORMAT
from contralens.data.trust import SIGNATURE, sign
from contralens.data.vocabulary import Vocabulary
from contralens.encoders.registry import templates_of
from contralens.labeling.ranking import about_ranking
from contralens.labeling.tables import picture_notes
from contralens.math.confidence import Weighed
from contralens.math.confidence_model import model
from contralens.math.null_test import Chance
from contralens.math.ranking import Best
from contralens.math.scorer_panel import PANEL
from contralens.math.statistics import NeuronStatistics
from contralens.proposing.candidates import Candidates
from contralens.settings.label import Mine
from contralens.types import Encoder, Exemplars, Target, word_of

if TYPE_CHECKING:
    from contralens.labeling.results import Judged, Mined

PROPOSED_UNFAIR = (
    "proposed concepts were generated from the real neurons' images but not from the null neurons', so the "
    "false-discovery rates of neurons with such a label are underestimated"
)


def manifest_of(judged: Judged) -> dict[str, Any]:
    """The manifest of a run, from what all stages found."""
    scored, settings = judged.scored, judged.settings
    mined = scored.mined
    parts, everything = mined.parts, mined.collected.rows
    status = mined.statistics.status()
    about = about_mined(mined)
    manifest = {
        "format": FORMAT,
        "contralens": __version__,
        "target": about["target"],
        "encoder": about["encoder"],
        "precision": mined.collected.steady.precision,
        "images": about["images"],
        "groups": parts.about_groups(),
        "near_copies": mined.near.about(),
        "vocabulary": about_vocabulary(scored.vocabulary),
        "candidates": about_candidates(scored.candidates, settings.own_only),
        "templates": list(templates_of(settings.templates)),
        **settings.written(),
        "ranking": about["ranking"],
        "crop": scored.crops.about if scored.crops else None,
        "notes": [
            *parts.notes(everything),
            *picture_notes(mined.tables["thumbnails"]),
            *mined.near.notes(),
            *about_exemplars(mined.exemplars, len(mined.probe.usable), mined.statistics, parts.about_groups()),
            *mined.collected.steady.notes,
            *scored.unjudged,
            *(scored.crops.notes if scored.crops else ()),
        ],
        "neighbours": mined.found.recall or {"neighbours": "exact"},
        "neurons": {
            "selection": settings.neurons if isinstance(settings.neurons, str) else "given",
            "labeled": len(mined.chosen),
            "skipped": dict(sorted(Counter(s for s in status if s != "ok").items())),
        },
        "scorers": settings.specs,
        "primary": settings.specs[-1],
        "confidence": about_confidence(scored.found.weighed, scored.found.best, [one.about() for one in scored.known]),
        "chance": about_chance(settings.fdr, settings.fakes, judged.chances, proposed=bool(scored.candidates)),
        "versions": versions(),
    }
    signature = sign(manifest)
    return manifest if signature is None else {**manifest, SIGNATURE: signature}


def about_mined(mined: Mined) -> dict[str, Any]:
    """The networks and images of what was mined."""
    settings, parts, everything = mined.settings, mined.parts, mined.collected.rows
    return {
        "target": about_target(mined.collected.target, settings),
        "ranking": about_ranking(mined.collected.target),
        "encoder": about_encoder(mined.collected.encoder),
        "images": {
            "name": mined.collected.images.name,
            "source": plain(getattr(settings.images, "source", settings.images)),
            "given": len(mined.collected.images),
            "count": len(mined.probe.usable),
            "fingerprint": mined.identity[0],
            "copies": parts.copied(everything),
            "skipped": mined.probe.skipped,
            "holdout": parts.about_holdout(everything),
            **(mined.in_shards or {}),
        },
        **settings.written(),
    }


def about_target(model: Target, settings: Mine) -> dict[str, Any]:
    """The layer, and how `contralens.target` makes it again: by its origin, else by the options given."""
    made = getattr(getattr(model, "base", model), "origin", None)
    origin = made or {"spec": None, "options": settings.target_options()}
    return {
        "name": model.name,
        "layer": model.layer,
        "depth": getattr(getattr(model, "base", model), "depth", None),
        "pooling": model.pooling,
        "fingerprint": model.fingerprint,
        "neurons": model.width,
        "notes": list(getattr(model, "notes", [])),
        "spec": origin["spec"],
        "options": plain(origin["options"]),
        "sae": plain(settings.sae),
        "sae_pooling": settings.sae_pooling,
    }


def about_encoder(encoder: Encoder) -> dict[str, Any]:
    return {
        "name": encoder.name,
        "width": encoder.width,
        "fingerprint": encoder.fingerprint,
        "notes": list(getattr(encoder, "notes", [])),
        "options": dict(getattr(encoder, "options", {})),
    }


def about_vocabulary(words: Vocabulary) -> dict[str, Any]:
    return {
        "source": words.source,
        "concepts": len(words.concepts),
        "fingerprint": words.fingerprint,
        "report": words.lint.lines(),
    }


def about_candidates(found: Candidates | None, own_only: bool) -> dict[str, Any] | None:
    return {**found.manifest, "own_only": own_only, "errors": found.errors} if found else None


def about_chance(fdr: float | None, fakes: int, chances: Mapping[str, Chance], proposed: bool) -> dict[str, Any] | None:
    """Results of the null test, by scorer; None without one."""
    if fdr is None:
        return None
    return {
        "fdr": fdr,
        "fakes": fakes,
        "kind": "permuted",
        "null_share": {spec: told.null_share for spec, told in chances.items()},
        "no label beats chance": {
            spec: int((~told.beats(fdr) & told.q.isfinite()).sum()) for spec, told in chances.items()
        },
        "notes": [PROPOSED_UNFAIR] if proposed else [],
    }


def about_confidence(
    weighed: Weighed | None, best: Mapping[str, Best], known: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any] | None:
    """How many labels of each scorer are supported, and how the confidence was computed; None without confidence."""
    if weighed is None:
        return None
    words = {spec: [word_of(p) for p in weighed.of_label(found.labels)[1].tolist()] for spec, found in best.items()}
    return {
        "panel": list(PANEL),
        "learnt from": model().learnt_from,
        "level set by": list(known),
        "labels": {spec: dict(sorted(Counter(said).items())) for spec, said in words.items()},
    }


def about_exemplars(
    exemplars: Exemplars, images: int, statistics: NeuronStatistics, groups: Mapping[str, Any] | None = None
) -> list[str]:
    """Why the exemplars may say little: too many of the images are among them, or they leave their neuron cold."""
    neurons, k = exemplars.positives.shape
    notes = []
    if neurons and 4 * k > images:
        notes.append(
            f"the {k} exemplars of a neuron are {k / images:.0%} of the {images} images, so labels describe "
            "the images rather than the neuron; give more images, or a smaller k"
        )
    if groups is not None and (few := int((exemplars.positives < 0).any(1).sum())):
        notes.append(
            f"{few} of {neurons} labeled neurons have fewer than {k} exemplars: there are {groups['count']} groups and "
            f"{groups['alone']} images in none, and a group gives at most {groups['per_group']}"
        )
    cold = exemplars.activations < statistics.below()[exemplars.neurons, None]
    if count := int((cold & (exemplars.positives >= 0)).any(1).sum()):
        notes.append(
            f"{count} of {neurons} labeled neurons exceed their mean on fewer than {k} images: their last "
            "exemplars do not activate them and are their own contrasts; csp gains nothing from these, and "
            "semanticlens and clip_dissect count them like the others"
        )
    return notes


def plain(value: Any) -> Any:
    """What JSON can hold of settings, paths as text; None stands for what it cannot."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items() if v is not None}
    return str(value) if isinstance(value, Path) else value if isinstance(value, (str, int, float)) else None


def versions() -> dict[str, str]:
    """What the numbers were computed with."""
    out = {"python": platform.python_version()}
    for package in ("torch", "torchvision", "numpy", "pillow", "timm", "open_clip_torch", "transformers"):
        try:
            out[package] = version(package)
        except PackageNotFoundError:
            continue
    return out
