"""Files of sparse autoencoders: their tensors, and their settings inside and beside, read as data, never as code."""

from __future__ import annotations

import io
import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from contralens.checks import first_line
from contralens.errors import InputError
from contralens.loading import unpickling
from contralens.loading.weight_files import read_state, read_tables
from contralens.saes.contents import is_sae_settings

_WEIGHTS = ("sae_weights.safetensors", "sae.safetensors", "ae.pt", "sae.pt")
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".npz")
_WRAPPERS = ("state_dict", "model_state_dict", "ae", "autoencoder", "sae", "model", "model_state", "net", "weights")
_SETTINGS = ("cfg", "config", "hparams", "hyper_parameters", "args", "kwargs")
Read = tuple[dict[str, Tensor], dict[str, Any], list[str]]
"""Tensors, settings and notes."""


def read_file(path: Path) -> tuple[str, dict[str, Tensor], dict[str, Any], list[str]]:
    """Name, tensors, settings and notes of a file, or of the one file of weights in a folder.

    Settings are those in the file and, where it does not say otherwise, those of the JSON file beside it.
    """
    path = _weights_file(path)
    with path.open("rb") as f:
        if path.suffix != ".safetensors" and f.read(1) == b"{":
            f.seek(0)
            return str(path), *_read_saev(path, f.readline(), f.read())
    tensors, inside, notes = _inside(path)
    beside, more = _beside(path)
    return str(path), tensors, {**beside, **inside}, [*notes, *more]


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


def _inside(path: Path) -> Read:
    """What a file holds: its tensors, and whatever else is in it as settings."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        state, notes = read_state(path)
        try:
            with safe_open(path, framework="pt") as f:
                said = f.metadata() or {}
        except (SafetensorError, OSError):
            said = {}
        return state, {name: _parsed(text) for name, text in said.items() if name != "format"}, notes
    if path.suffix == ".npz":  # as Gemma Scope's
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}, {}, []
        except Exception as e:  # zipfile and numpy raise whatever the bytes lead them to
            raise InputError(f"{path} is not a readable archive of numpy arrays ({first_line(e)})") from e
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # something besides tensors, or damage: `read_tables` has the words for what is refused
        read_tables(path)
        content = unpickling.read(path)
        loaded = _data(content, content.root)
        if isinstance(content.root, unpickling.Stub) and isinstance(loaded, dict):
            loaded["class name"] = content.root.kind.rpartition(".")[2]
    if isinstance(loaded, Mapping):
        return sorted_out(loaded, path.name)
    state, notes = read_state(path)
    return state, {}, notes


def _data(content: unpickling.Content, value: Any) -> Any:
    """Tensors, numbers and texts of an unpickled value; of an object what it holds, by name, and never its code."""
    value = content.value(value)
    if isinstance(value, unpickling.Stub):
        state = content.value(value.__dict__["state"])
        fields = {k: v for k, v in state.items() if k != "training"} if isinstance(state, dict) else {}
        tensors = unpickling.module_state(content, value)
        if tensors is not None:
            return {**_attributes(content, value, tensors), **tensors}
        if fields:
            return {k: _data(content, v) for k, v in fields.items()}
        arguments = value.__dict__["arguments"]
        return _data(content, arguments[0]) if len(arguments) == 1 else value.kind
    if isinstance(value, Mapping):
        return {str(k): _data(content, v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_data(content, v) for v in value]
    return value.kind if isinstance(value, type) and issubclass(value, unpickling.Stub) else value


def _attributes(content: unpickling.Content, module: unpickling.Stub, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a module that was pickled whole holds besides tensors; a part without tensors stands as its class's name."""
    state = content.value(module.__dict__["state"])
    made = {k: _data(content, v) for k, v in state.items() if not k.startswith("_") and k != "training"}
    for name, part in dict(content.value(state["_modules"])).items():
        held = {key for key in tensors if key.startswith(f"{name}.")}
        if isinstance(part, unpickling.Stub) and not (held and part.kind.startswith("torch.")):
            made[name] = part.kind.rpartition(".")[2]
            inside = {key.removeprefix(f"{name}."): tensors[key] for key in held}
            made |= {f"{name}.{key}": value for key, value in _attributes(content, part, inside).items()}
    return made


def sorted_out(loaded: Mapping[Any, Any], name: str) -> Read:
    """What a dictionary holds: tensors by name, out of the usual wrappers, and the rest as settings."""
    tensors: dict[str, Tensor] = {}
    settings: dict[str, Any] = {}
    notes: list[str] = []
    for _ in range(4):
        inner = next((key for key in _WRAPPERS if _holds_tensors(loaded.get(key))), None)
        others = []
        for key, value in loaded.items():
            if key == inner:
                continue
            if isinstance(value, Tensor | np.ndarray):
                tensors.setdefault(str(key), torch.as_tensor(value))
            elif _holds_tensors(value):
                others.append(str(key))
            elif isinstance(value, Mapping) and key in _SETTINGS:
                settings = {**value, **settings}
            else:
                settings.setdefault(str(key), value)
        if inner is None:
            if others:
                raise InputError(f"{name} holds groups of tensors, {', '.join(others[:4])}: save one autoencoder alone")
            return tensors, {key: _plain(value) for key, value in settings.items()}, notes
        ignored = f" (not {', '.join(others)})" if others else ""
        notes.append(f"took {inner!r}{ignored} of {name}")
        loaded = loaded[inner]
    raise InputError(f"{name} holds no tensors by name: save the autoencoder's state_dict()")


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(v, Tensor) or _holds_tensors(v) for v in value.values())


def _plain(value: Any) -> Any:
    """A number of numpy's or a tensor's as Python has it."""
    return value.item() if isinstance(value, np.generic) else value


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _beside(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Settings from the JSON files beside weights, and notes on files that speak of something else."""
    settings: dict[str, Any] = {}
    notes = []
    names = ["cfg.json", "config.json", f"{path.stem}.json", f"{path.stem}_cfg.json", f"{path.stem}_config.json"]
    files = [path.with_name(name) for name in dict.fromkeys(names)]
    if path.parent.name == "checkpoints":  # dictionary_learning keeps the settings above them
        files.append(path.parent.parent / "config.json")
    for file in files:
        if not file.is_file():
            continue
        content = _json(file.read_bytes(), file)
        if not is_sae_settings(content):
            notes.append(f"{file.name} next to it does not describe a sparse autoencoder: ignored")
            continue
        for key, value in content.items():
            settings.setdefault(key, value)
    scaler = path.with_name("activation_scaler.json")
    if settings and scaler.is_file():
        settings["activation_scaler"] = _json(scaler.read_bytes(), scaler)
    return settings, notes


def _read_saev(path: Path, line: bytes, rest: bytes) -> Read:
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
    tensors, settings, notes = sorted_out(state, path.name)
    return tensors, {**settings, "saev": header}, notes


def _json(data: bytes, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except ValueError as e:
        raise InputError(f"{path} holds no readable JSON where it should ({e})") from e
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold JSON settings by name; got {type(content).__name__}")
    return content


def only_tensor(path: Path) -> Tensor:
    """The one tensor of a file, alone or by a name."""
    if path.suffix != ".safetensors" and path.is_file():
        try:
            alone = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError):
            alone = None
        except Exception as e:  # the unpickler raises whatever the bytes lead it to
            raise InputError(f"{path} is not a file that torch.load can read ({first_line(e)})") from e
        if isinstance(alone, Tensor):
            return alone
    state, _ = read_state(path)
    if len(state) != 1:
        raise InputError(f"{path} must hold one tensor; got {len(state)}")
    return next(iter(state.values()))
