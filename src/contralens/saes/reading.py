"""Sparse autoencoders from files: what the common trainers write, read as numbers only, never as code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from contralens.checks import blaming, nearest, real, shown, whole
from contralens.errors import InputError
from contralens.saes.autoencoder import KINDS, NORMS, Autoencoder
from contralens.saes.contents import Found
from contralens.saes.disk import only_tensor, read_file, sorted_out
from contralens.saes.formats import find
from contralens.specs import FLAG, NUMBER, TEXT, WHOLE, options, tail


def read_sae(
    source: str | Path | Mapping[str, Any],
    *,
    kind: str | None = None,
    k: int | None = None,
    threshold: float | None = None,
    b_dec: bool | None = None,
    center: Tensor | str | Path | None = None,
    scale: float | None = None,
    ignore: str | Sequence[str] = (),
) -> Autoencoder:
    """A sparse autoencoder from a file, a folder or a dictionary of tensors; what is in the file need not be given.

    Every tensor and setting of the file, and of the JSON file of settings beside it, is used, known to change no
    latent, named in a note or refused by name.

    Args:
        source: SAELens' folder (cfg.json, sae_weights.safetensors), ViT-Prisma's or sparsify's folder, saev's file,
            dictionary_learning's folder or ae.pt, OpenAI's file, overcomplete's state dictionary, or tensors W_enc,
            b_enc, b_dec, threshold; a text may end in options, as in "sae.pt:kind=topk,k=32".
        kind: one of `KINDS`.
        k: latents kept by TopK.
        threshold: of BatchTopK or JumpReLU.
        b_dec: whether the decoder's bias is subtracted from activations before they are encoded.
        center: (D), or a file with that one tensor: what training subtracted from the activations.
        scale: what training multiplied activations by after that.
        ignore: tensors and settings that are refused because they may change the latents, and do not; in a text joined
            by "+".

    Raises:
        InputError: the file is missing, damaged, holds objects besides tensors, leaves something open, or holds a
            tensor or a setting that may change the latents and is not read.

    >>> made = read_sae({"W_enc": torch.ones(4, 8), "b_enc": torch.zeros(8), "k": 2})
    >>> made.kind, made.k, made.inputs, made.width
    ('topk', 2, 4, 8)
    >>> read_sae({"W_enc": torch.ones(4, 8), "b_extra": torch.zeros(8)}, ignore="b_extra").kind
    'relu'
    """
    options: dict[str, Any] = {
        "kind": kind,
        "k": k,
        "threshold": threshold,
        "b_dec": b_dec,
        "center": center,
        "scale": scale,
        "ignore": ignore,
    }
    if isinstance(source, Mapping):
        name, (tensors, settings, notes) = "the dictionary", sorted_out(source, "the dictionary")
    else:
        path, said = parse_sae(str(source))
        options.update({key: value for key, value in said.items() if options[key] is None or options[key] == ()})
        name, tensors, settings, notes = read_file(Path(path).expanduser())
    ignored = options["ignore"].split("+") if isinstance(options["ignore"], str) else list(options["ignore"] or ())
    if options["kind"] is not None and options["kind"] not in KINDS:
        raise InputError(
            f"unknown kind of sparse autoencoder {options['kind']!r}{nearest(options['kind'], KINDS)}; known: "
            f"{', '.join(KINDS)}"
        )
    found = find(tensors, settings, name, options["kind"], ignored)
    with blaming(f"{name}: its tensors and settings make no sparse autoencoder"):
        return _assemble(found, options, name, notes)


def parse_sae(spec: str) -> tuple[str, dict[str, Any]]:
    """A path with options, as on the command line, e.g. "FILE:kind=topk,k=32" -> (path, options).

    >>> parse_sae("runs/sae.pt:kind=topk,k=32")
    ('runs/sae.pt', {'kind': 'topk', 'k': 32})
    >>> parse_sae("runs/sae.pt")
    ('runs/sae.pt', {})
    """
    path, rest = tail(spec, ":")
    return path, options(rest, _OPTIONS, f"sae {path!r}")


_OPTIONS = {
    "kind": TEXT,
    "k": WHOLE,
    "threshold": NUMBER,
    "b_dec": FLAG,
    "center": TEXT,
    "scale": NUMBER,
    "ignore": TEXT,
}


def _assemble(found: Found, given: Mapping[str, Any], name: str, notes: list[str]) -> Autoencoder:
    """What a file says, overridden by what the user says, checked."""
    kind = given["kind"] or found.kind
    if kind is None:
        raise InputError(
            f"{name} ({found.what}) does not state its kind: add kind= one of {', '.join(found.could_be)}, as in "
            f"{Path(name).name}:kind={found.could_be[0]}{',k=32' if found.could_be[0] == 'topk' else ''}"
        )
    if kind == "gated" and (found.gate is None or found.magnitude is None):
        raise InputError(f"{name} ({found.what}): a gated autoencoder needs the tensors b_gate, r_mag and b_mag")
    inputs, width = (int(n) for n in found.encoder.shape)
    k = given["k"] if given["k"] is not None else found.k
    if isinstance(k, float) and given["k"] is None and k.is_integer():  # as some trainers write it
        k = int(k)
    k = None if k is None else whole("k", k, -(2**62), 2**62)
    if kind == "topk" and (k is None or not 1 <= k <= width):
        raise InputError(
            f"{name} ({found.what}): TopK needs k from 1 to {width}; got {k}"
            + ("" if k is not None else ": add it, as in :kind=topk,k=32")
        )
    threshold = found.threshold if given["threshold"] is None else torch.tensor(real("threshold", given["threshold"]))
    if kind in ("batchtopk", "jumprelu") and threshold is None:
        raise InputError(f"{name} ({found.what}): {kind} needs a threshold, which is not in it: add threshold=NUMBER")
    if kind == "batchtopk" and threshold is not None and bool((threshold <= 0).all()):
        notes = [*notes, "its threshold is not positive, as before training learns one: all positive latents are kept"]
    scale = given["scale"] if given["scale"] is not None else found.scale
    if scale is None:
        raise InputError(
            f"{name}: {found.what} scaled its activations and does not say by how much: add scale=NUMBER (1 if it "
            "was folded into the weights)"
        )
    if real("scale", scale) == 0:
        raise InputError(f"{name}: `scale` is what activations are multiplied by, so it cannot be 0")
    subtract = found.subtract if given["b_dec"] is None else given["b_dec"]
    if subtract and found.b_dec is None:
        raise InputError(f"{name} ({found.what}) has no decoder bias to subtract from activations")
    if found.norm not in NORMS:
        raise InputError(
            f"{name}: activations normalised by {found.norm!r} are not known here; known: {', '.join(NORMS)}; "
            "fold it into the weights, or pass the model itself"
        )
    center = found.center if given["center"] is None else given["center"]
    if isinstance(center, str | Path):
        center = only_tensor(Path(center).expanduser())
    if center is not None and not isinstance(center, Tensor):
        raise InputError(f"`center` must be a tensor (D) or a file with one; got {shown(center)}")
    made = Autoencoder(
        kind=kind,
        encoder=found.encoder.float().contiguous(),
        bias=torch.zeros(width) if found.bias is None else found.bias.float(),
        b_dec=_float(found.b_dec) if subtract else None,
        gain=_float(found.gain),
        gate=_float(found.gate),
        magnitude=_float(found.magnitude),
        k=int(k or 0) if kind == "topk" else 0,
        threshold=threshold.float().squeeze() if kind in ("batchtopk", "jumprelu") and threshold is not None else None,
        at_threshold=found.at_threshold,
        signed=found.signed and kind == "topk",
        norm=found.norm,
        center=_float(center),
        std=_float(found.std),
        scale=float(scale),
        tokens=found.tokens,
        decoder=_decoder(found.decoder, (width, inputs)),
        notes=(f"sparse autoencoder of {found.what}: {kind}, {inputs} -> {width}", *found.notes, *notes),
    )
    for what, tensor, shapes in (
        ("encoder bias", made.bias, [(width,)]),
        ("decoder bias", made.b_dec, [(inputs,)]),
        ("threshold", made.threshold, [(width,), ()]),
        ("`center`", made.center, [(inputs,)]),
        ("standard deviation", made.std, [(inputs,)]),
        ("gate's bias", made.gate, [(width,)]),
        ("r_mag", made.magnitude, [(width,)]),
        ("decoder", made.gain, [(width,)]),
    ):
        if tensor is not None and tuple(tensor.shape) not in shapes:
            raise InputError(f"{name}: the {what} has shape {tuple(tensor.shape)}, the encoder {(inputs, width)}")
    return made


def _decoder(decoder: Tensor | None, shape: tuple[int, int]) -> Tensor | None:
    """W_dec (N,D); None where the file has it in another shape, since labels do not need it."""
    return None if decoder is None or tuple(decoder.shape) != shape else decoder.float().contiguous()


def _float(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.float()
