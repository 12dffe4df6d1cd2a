"""Sparse autoencoders from files: what the common trainers write, read as numbers only, never as code."""

from __future__ import annotations

import io
import json
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from contralens.checks import InputError, blaming, first_line, nearest, real, shown, whole
from contralens.models.autoencoders import KINDS, NORMS, Autoencoder
from contralens.models.checkpoints import read_state
from contralens.models.sae_formats import Found, find

_WEIGHTS = ("sae_weights.safetensors", "ae.pt", "sae.pt")
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


def read_sae(
    source: str | Path | Mapping[str, Any],
    *,
    kind: str | None = None,
    k: int | None = None,
    threshold: float | None = None,
    b_dec: bool | None = None,
    center: Tensor | str | Path | None = None,
    scale: float | None = None,
) -> Autoencoder:
    """A sparse autoencoder from a file, a folder or a dictionary of tensors; what is in the file need not be given.

    Args:
        source: SAELens' folder (cfg.json, sae_weights.safetensors), saev's file, dictionary_learning's folder or ae.pt,
            overcomplete's state dictionary, or tensors W_enc, b_enc, b_dec, threshold; a text may end in options, as in
            "sae.pt:kind=topk,k=32".
        kind: one of `KINDS`.
        k: latents kept by TopK.
        threshold: of BatchTopK or JumpReLU.
        b_dec: whether the decoder's bias is subtracted from activations before they are encoded.
        center: (D), or a file with that one tensor: what training subtracted from the activations.
        scale: what training multiplied activations by after that.

    Raises:
        InputError: the file is missing, damaged, holds objects besides tensors, or leaves something open.
    """
    options: dict[str, Any] = {
        "kind": kind,
        "k": k,
        "threshold": threshold,
        "b_dec": b_dec,
        "center": center,
        "scale": scale,
    }
    state: Mapping[str, Any]
    config: dict[str, Any]
    notes: list[str]
    if isinstance(source, Mapping):
        name, (state, config, notes) = "the dictionary", (source, {}, [])
    else:
        path, said = parse_sae(str(source))
        options.update({key: value for key, value in said.items() if options[key] is None})
        file = _weights_file(Path(path).expanduser())
        name, (state, config, notes) = str(file), _read(file)
    numeric = (Tensor, np.ndarray, int, float)
    tensors = {str(key): torch.as_tensor(value) for key, value in state.items() if isinstance(value, numeric)}
    found = find(tensors, config, name)
    with blaming(f"{name}: its tensors and settings make no sparse autoencoder"):
        return _assemble(found, options, name, notes)


def parse_sae(spec: str) -> tuple[str, dict[str, Any]]:
    """A path with options, as on the command line, e.g. "FILE:kind=topk,k=32" -> (path, options).

    >>> parse_sae("runs/sae.pt:kind=topk,k=32")
    ('runs/sae.pt', {'kind': 'topk', 'k': 32})
    >>> parse_sae("runs/sae.pt")
    ('runs/sae.pt', {})
    """
    path, _, rest = spec.rpartition(":")
    if not path or "=" not in rest:
        return spec, {}
    options: dict[str, Any] = {}
    for part in rest.split(","):
        key, _, value = part.partition("=")
        if key not in _OPTIONS:
            raise InputError(f"sae {spec!r}: no option {key!r}{nearest(key, _OPTIONS)}; known: {', '.join(_OPTIONS)}")
        try:
            options[key] = _OPTIONS[key](value)
        except (ValueError, KeyError):
            raise InputError(f"sae {spec!r}: option {key} cannot be {value!r}") from None
    return path, options


_OPTIONS: dict[str, Callable[[str], Any]] = {
    "kind": str,
    "k": int,
    "threshold": float,
    "b_dec": {"yes": True, "no": False, "true": True, "false": False}.__getitem__,
    "center": str,
    "scale": float,
}


def _weights_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(f"there is no sparse autoencoder at {path}: give a file, or SAELens' folder")
    known = [path / name for name in _WEIGHTS if (path / name).is_file()]
    found = known[:1] or sorted(p for p in path.iterdir() if p.suffix in _SUFFIXES)
    if len(found) != 1:
        what = "no weights" if not found else f"{len(found)} files of weights, {found[0].name}, {found[1].name}, ..."
        raise InputError(f"{path} holds {what}: give the file itself")
    return found[0]


def _read(path: Path) -> tuple[Mapping[str, Any], dict[str, Any], list[str]]:
    """Tensors, configuration and notes of a file: saev's header line, or a JSON file of a known form beside it."""
    with path.open("rb") as f:
        if path.suffix != ".safetensors" and f.read(1) == b"{":
            f.seek(0)
            return _read_saev(path, f.readline(), f.read())
    state, notes = read_state(path)
    config: dict[str, Any] = {}
    for name, sign in (("cfg.json", "d_sae"), ("config.json", "trainer")):
        beside = path.with_name(name)
        if beside.is_file():
            content = _json(beside.read_bytes(), beside)
            if sign in content:
                config = content
                break
    scaler = path.with_name("activation_scaler.json")
    if config and scaler.is_file():
        config["activation_scaler"] = _json(scaler.read_bytes(), scaler)
    return state, config, notes


def _read_saev(path: Path, line: bytes, rest: bytes) -> tuple[Mapping[str, Any], dict[str, Any], list[str]]:
    header = _json(line, path)
    try:
        state = torch.load(io.BytesIO(rest), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        named = re.search(r"GLOBAL ([\w.]+)", str(e))
        raise InputError(
            f"{path} holds {f'Python objects ({named[1]})' if named else 'something other than tensors'}: objects may "
            "run code when loaded, so only tensors are read"
        ) from e
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as e:
        raise InputError(f"{path} has saev's header, but what follows cannot be read: it may be truncated") from e
    if not isinstance(state, Mapping):
        raise InputError(f"{path} has saev's header, but no tensors by name after it")
    return state, {"saev": header}, []


def _json(data: bytes, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except ValueError as e:
        raise InputError(f"{path} holds no readable JSON where it should ({e})") from e
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold JSON settings by name; got {type(content).__name__}")
    return content


def _assemble(found: Found, given: Mapping[str, Any], name: str, notes: list[str]) -> Autoencoder:
    """What a file says, overridden by what the user says, checked."""
    kind = given["kind"] or found.kind
    if kind is None:
        raise InputError(
            f"{name} ({found.what}) does not say which kind it is: add kind= one of {', '.join(found.could_be)}, as in "
            f"{Path(name).name}:kind={found.could_be[0]}{',k=32' if found.could_be[0] == 'topk' else ''}"
        )
    if kind not in KINDS:
        raise InputError(
            f"unknown kind of sparse autoencoder {kind!r}{nearest(kind, KINDS)}; known: {', '.join(KINDS)}"
        )
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
    center = given["center"]
    if isinstance(center, str | Path):
        center = _only_tensor(Path(center).expanduser())
    if center is not None and not isinstance(center, Tensor):
        raise InputError(f"`center` must be a tensor (D) or a file with one; got {shown(center)}")
    made = Autoencoder(
        kind=kind,
        encoder=found.encoder.float().contiguous(),
        bias=torch.zeros(width) if found.bias is None else found.bias.float(),
        b_dec=found.b_dec.float() if subtract and found.b_dec is not None else None,
        gain=None if found.gain is None else found.gain.float(),
        k=int(k or 0) if kind == "topk" else 0,
        threshold=threshold.float().squeeze() if kind in ("batchtopk", "jumprelu") and threshold is not None else None,
        at_threshold=found.at_threshold,
        signed=found.signed and kind == "topk",
        norm=found.norm,
        center=None if center is None else center.float(),
        scale=float(scale),
        decoder=_decoder(found.decoder, (width, inputs)),
        notes=(f"sparse autoencoder of {found.what}: {kind}, {inputs} -> {width}", *found.notes, *notes),
    )
    for what, tensor, shapes in (
        ("encoder bias", made.bias, [(width,)]),
        ("decoder bias", made.b_dec, [(inputs,)]),
        ("threshold", made.threshold, [(width,), ()]),
        ("`center`", made.center, [(inputs,)]),
        ("decoder", made.gain, [(width,)]),
    ):
        if tensor is not None and tuple(tensor.shape) not in shapes:
            raise InputError(f"{name}: the {what} has shape {tuple(tensor.shape)}, the encoder {(inputs, width)}")
    return made


def _decoder(decoder: Tensor | None, shape: tuple[int, int]) -> Tensor | None:
    """W_dec (N,D); None where the file has it in another shape, since labels do not need it."""
    return None if decoder is None or tuple(decoder.shape) != shape else decoder.float().contiguous()


def _only_tensor(path: Path) -> Tensor:
    if path.suffix != ".safetensors" and path.is_file():
        try:
            alone = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError):
            alone = None
        except Exception as e:  # the unpickler raises whatever the bytes lead it to
            raise InputError(f"{path} is no file that torch.load can read ({first_line(e)})") from e
        if isinstance(alone, Tensor):
            return alone
    state, _ = read_state(path)
    if len(state) != 1:
        raise InputError(f"{path} must hold one tensor; got {len(state)}")
    return next(iter(state.values()))
