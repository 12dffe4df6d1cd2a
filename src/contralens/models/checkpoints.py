"""A user's own weights from a file into a network: read without running code, matched key by key."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from contralens.checks import InputError, first_line, reason

_WRAPPERS = ("state_dict", "model_state_dict", "model", "model_state", "net", "weights")
_PREFIXES = ("module.", "model.", "backbone.", "net.", "network.", "_orig_mod.")
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar")


def read_state(path: str | Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a checkpoint by name, and notes on what was taken from it.

    `.safetensors` is read by safetensors, anything else by `torch.load(weights_only=True)`, which runs no code. A
    dictionary inside one of the usual wrappers ("state_dict", "model", "model_state_dict", ...) is taken out of it.

    Raises:
        InputError: the file is missing, is none of these formats, or holds Python objects besides tensors.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"checkpoint {path} {what}: give a file ({', '.join(_SUFFIXES[:4])})")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path), []
        except (SafetensorError, ValueError) as e:
            raise InputError(f"checkpoint {path} is no readable safetensors file: {first_line(e)}") from e
    try:
        with warnings.catch_warnings(action="ignore"):  # of pickle protocols: what matters is raised
            loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        named = re.search(r"GLOBAL ([\w.]+)", str(e))
        what = f"holds Python objects ({named[1]})" if named else "holds something other than tensors, or is damaged"
        raise InputError(
            f"checkpoint {path} {what}: objects may run code when loaded, so only tensors are read; save them alone, "
            "torch.save(model.state_dict(), FILE), or as .safetensors"
        ) from e
    except (RuntimeError, EOFError, ValueError, LookupError, TypeError, AssertionError, AttributeError, OSError) as e:
        raise InputError(
            f"checkpoint {path} is no file that torch.load can read ({reason(e)}); give one that torch.save or "
            "safetensors wrote"
        ) from e
    return _unwrapped(loaded, path)


def _unwrapped(loaded: Any, path: Path) -> tuple[dict[str, Tensor], list[str]]:
    notes: list[str] = []
    for _ in range(3):
        if not isinstance(loaded, Mapping):
            break
        tensors = {str(k): v for k, v in loaded.items() if isinstance(v, Tensor)}
        inside = [key for key in _WRAPPERS if isinstance(loaded.get(key), Mapping)]
        if not inside:
            if not tensors:
                break
            return tensors, notes
        others = [str(k) for k, v in loaded.items() if k != inside[0] and isinstance(v, Mapping) and _holds_tensors(v)]
        ignored = f" (not {', '.join(others)})" if others else ""
        notes.append(f"took {inside[0]!r}{ignored} of checkpoint {path.name}")
        loaded = loaded[inside[0]]
    raise InputError(f"checkpoint {path} holds no tensors by name: save model.state_dict()")


def _holds_tensors(value: Mapping[Any, Any]) -> bool:
    return any(isinstance(v, Tensor) for v in value.values())


def load_checkpoint(
    build: Callable[[int | None], nn.Module], path: str | Path, what: str, *, other_heads: bool = True
) -> tuple[nn.Module, list[str]]:
    """A network built and filled from a checkpoint, and notes.

    `build(classes)` makes the network with that many classes, or with its default for None. All keys must match, after
    one of the usual prefixes ("module.", "model.", "backbone.", ...) is taken off where that makes them match. Where
    the file's classifier has another number of classes and `other_heads`, the network is built anew with that number.

    Raises:
        InputError: keys are missing, left over or of another shape; some are listed.
    """
    state, notes = read_state(path)
    network = build(None)
    prefix = _best_prefix(state, network)
    if prefix:
        state = {_strip(key, prefix): value for key, value in state.items()}
        notes.append(f"took the prefix {prefix!r} off the names in checkpoint {Path(path).name}")
    missing, left, shapes = _differences(state, network)
    if other_heads and shapes and not missing and not left:
        classes = _classes(state, network, shapes)
        if classes is not None:
            network = build(classes)
            missing, left, shapes = _differences(state, network)
            notes.append(f"built with {classes} classes, as many as checkpoint {Path(path).name} has")
    if missing or left or shapes:
        expected = network.state_dict()
        wrong = [f"{k}: file {tuple(state[k].shape)}, network {tuple(expected[k].shape)}" for k in shapes]
        parts = [
            _some("missing", missing),
            _some("unexpected", left),
            _some("of another shape", wrong),
        ]
        raise InputError(f"checkpoint {path} does not fit {what}: {'; '.join(p for p in parts if p)}")
    network.load_state_dict(state)
    return network, notes


def _strip(key: str, prefix: str) -> str:
    return key.removeprefix(prefix)


def _best_prefix(state: Mapping[str, Tensor], network: nn.Module) -> str:
    """The prefix without which the names fit the network best; none unless that is better than as they are."""
    wanted = set(network.state_dict())
    pairs = [a + b for a in _PREFIXES for b in _PREFIXES if a != b]
    own = getattr(network, "base_model_prefix", "")
    candidates = ["", *_PREFIXES, *pairs, *([f"{own}."] if own else [])]

    def fits(prefix: str) -> int:
        names = {_strip(key, prefix) for key in state}
        return len(wanted & names) if len(names) == len(state) else 0

    return max(candidates, key=fits)


def _differences(state: Mapping[str, Tensor], network: nn.Module) -> tuple[list[str], list[str], list[str]]:
    wanted = network.state_dict()
    missing = [k for k in wanted if k not in state and not k.endswith("num_batches_tracked")]
    left = [k for k in state if k not in wanted]
    shapes = [k for k in wanted if k in state and state[k].shape != wanted[k].shape]
    return missing, left, shapes


def _classes(state: Mapping[str, Tensor], network: nn.Module, shapes: list[str]) -> int | None:
    """The file's number of classes, if all that differs is the first size of some tensors, by one pair of numbers."""
    wanted = network.state_dict()
    if any(state[k].dim() != wanted[k].dim() or state[k].dim() == 0 for k in shapes):
        return None
    if any(state[k].shape[1:] != wanted[k].shape[1:] for k in shapes):
        return None
    sizes = {(int(wanted[k].shape[0]), int(state[k].shape[0])) for k in shapes}
    return sizes.pop()[1] if len(sizes) == 1 else None


def _some(what: str, keys: list[str], most: int = 3) -> str:
    if not keys:
        return ""
    more = f", ... {len(keys) - most} more" if len(keys) > most else ""
    return f"{len(keys)} {what} ({', '.join(keys[:most])}{more})"
