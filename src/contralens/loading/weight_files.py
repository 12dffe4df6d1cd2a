"""Files of weights: read without running code, as tensors by name."""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from contralens.checks import first_line, reason
from contralens.errors import InputError
from contralens.loading import unpickling
from contralens.loading.unpickling import Stub

_WRAPPERS = ("state_dict", "model_state_dict", "model", "model_state", "net", "weights")
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar")
_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
          "open_clip_model.safetensors", "diffusion_pytorch_model.safetensors")  # fmt: skip
_OTHER_KINDS = {
    ".onnx": "ONNX", ".h5": "Keras or HDF5", ".keras": "Keras", ".pb": "TensorFlow", ".tflite": "TensorFlow Lite",
    ".msgpack": "Flax", ".npz": "NumPy", ".gguf": "GGUF", ".engine": "TensorRT", ".mlmodel": "Core ML",
}  # fmt: skip
_ATTACKS = ("os", "posix", "nt", "subprocess", "sys", "runpy", "socket", "shutil", "importlib", "pty", "ctypes", "code")
_ATTACKING = ("eval", "exec", "compile", "open", "__import__", "input", "breakpoint", "execfile")
DEPTH = 4
"""How deep dictionaries of tensors are looked for inside one another."""
_READ = "only tensors are read; save them alone, torch.save(model.state_dict(), FILE), or as .safetensors"


@dataclass(slots=True)
class Tables:
    """All dictionaries of tensors in a file, by the keys that lead to them ("" for the file itself)."""

    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    says: dict[str, str] = field(default_factory=dict)
    """What the file says of the network besides, e.g. its hyper-parameters, where these are words and numbers."""


def read_state(path: str | Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a checkpoint by name, and notes on what was taken from it.

    `.safetensors` is read by safetensors, anything else by `torch.load(weights_only=True)`, or where the file holds
    objects besides tensors by `contralens.loading.unpickling`; neither runs code. A dictionary inside one of the usual
    wrappers ("state_dict", "model", "model_state_dict", ...) is taken out of it.

    Raises:
        InputError: the file is missing, is none of these formats, or holds no tensors by name.
    """
    path = Path(path).expanduser()
    read = read_tables(path)
    taken, notes = "", list(read.notes)
    for _ in range(3):
        inside = [k for k in _WRAPPERS if any(f"{name}.".startswith(f"{_joined(taken, k)}.") for name in read.tensors)]
        if not inside:
            break
        others = [name for name in read.tensors if _is_beside(name, taken) and name != _joined(taken, inside[0])]
        ignored = f" (not {', '.join(n.removeprefix(f'{taken}.') for n in others)})" if others else ""
        notes.append(f"took {inside[0]!r}{ignored} of checkpoint {path.name}")
        taken = _joined(taken, inside[0])
    if taken not in read.tensors:
        raise InputError(f"checkpoint {path} holds no tensors by name: save model.state_dict()")
    return read.tensors[taken], notes


def _joined(outer: str, inner: str) -> str:
    return f"{outer}.{inner}" if outer else inner


def _is_beside(name: str, outer: str) -> bool:
    rest = name.removeprefix(f"{outer}.") if outer else name
    return bool(rest) and "." not in rest and (not outer or name.startswith(f"{outer}."))


def read_tables(path: Path) -> Tables:
    """All dictionaries of tensors in a checkpoint: a file, the index of shards, or a folder with one of these.

    Raises:
        InputError: the file is missing, is none of the formats, or holds no tensors by name.
    """
    path = checkpoint_file(path)
    if path.name.endswith(".index.json"):
        return _shards(path)
    if path.suffix == ".safetensors":
        return Tables({"": _safetensors(path)})
    if path.suffix.lower() in _OTHER_KINDS:
        raise InputError(
            f"checkpoint {path} is a file of {_OTHER_KINDS[path.suffix.lower()]}, which is not read: give PyTorch's "
            f"weights ({', '.join(_SUFFIXES[:4])})"
        )
    _refuse_compiled(path)
    found = Tables()
    root, content = _loaded(path)
    try:
        _collect(root, content, "", found, DEPTH)
    except Exception as e:  # stubs of builders that were called with anything
        raise InputError(f"checkpoint {path} is damaged ({reason(e)}): {_READ}") from e
    if not found.tensors:
        if content is None or not content.kinds:
            raise InputError(f"checkpoint {path} holds no tensors by name: save model.state_dict()")
        raise InputError(
            f"checkpoint {path} holds something other than tensors ({', '.join(list(content.kinds)[:3])}), or is "
            f"damaged: objects may run code when loaded, so {_READ}"
        )
    return found


def checkpoint_file(path: Path) -> Path:
    """The file to read: the path itself, or of a folder, as hubs and save_pretrained write it, the weights in it.

    Raises:
        InputError: nothing is there, or a folder without weights or with several.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(f"checkpoint {path} does not exist: give a file ({', '.join(_SUFFIXES[:4])})")
    inside = snapshot(path)
    known = [inside / name for name in _FILES if (inside / name).is_file()]
    files = known[:1] or sorted(p for p in inside.iterdir() if p.suffix in _SUFFIXES)
    if len(files) != 1:
        what = f"{len(files)} files of weights ({files[0].name}, {files[1].name}, ...)" if files else "no weights in it"
        raise InputError(f"checkpoint {path} is a folder with {what}: give a file ({', '.join(_SUFFIXES[:4])})")
    return files[0]


def snapshot(folder: Path) -> Path:
    """Of a folder of the Hugging Face cache ("models--ORG--NAME") the revision that `main` names, or the only one.

    >>> snapshot(Path("nowhere")).name
    'nowhere'
    """
    revisions = folder / "snapshots"
    if not revisions.is_dir():
        return folder
    main = folder / "refs" / "main"
    if main.is_file() and (revisions / main.read_text().strip()).is_dir():
        return revisions / main.read_text().strip()
    found = [entry for entry in revisions.iterdir() if entry.is_dir()]
    return found[0] if len(found) == 1 else folder


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, ValueError) as e:
        raise InputError(f"checkpoint {path} is not a readable safetensors file: {first_line(e)}") from e
    return tensors


def _shards(index: Path) -> Tables:
    try:
        files = json.loads(index.read_bytes())["weight_map"]
        names = sorted(set(files.values()))
    except (ValueError, LookupError, TypeError, AttributeError) as e:
        raise InputError(f"{index} is not an index of shards ({reason(e)}): it must have a weight_map") from e
    state: dict[str, Tensor] = {}
    for name in names:
        shard = index.parent / str(name)
        if Path(str(name)).name != name or not shard.is_file():
            raise InputError(f"{index} names the shard {name}, which is not next to it: put it there")
        state.update(_safetensors(shard) if shard.suffix == ".safetensors" else read_state(shard)[0])
    if lost := [key for key in files if key not in state]:
        raise InputError(f"{index} names {len(lost)} tensors that its shards do not hold ({lost[0]}, ...)")
    return Tables({"": state}, [f"{len(names)} shards named by {index.name}"])


def _refuse_compiled(path: Path) -> None:
    """Refuse archives of compiled code, which hold no names of tensors that could be matched."""
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception as e:  # zipfile raises whatever the bytes lead it to
        raise InputError(f"checkpoint {path} is a damaged archive ({reason(e)})") from e
    if any(name.endswith("constants.pkl") for name in names):
        raise InputError(
            f"checkpoint {path} is TorchScript (torch.jit.save), whose compiled code is not run here: save its "
            "weights, torch.save(torch.jit.load(FILE).state_dict(), OUT), and give OUT"
        )
    if any(name.endswith(("archive_format", "serialized_exported_program.json")) for name in names):
        raise InputError(
            f"checkpoint {path} is a program of torch.export, which is not run here: save its weights, "
            "torch.save(torch.export.load(FILE).state_dict, OUT), and give OUT"
        )
    if any(name.endswith("saved_model.pb") for name in names):
        raise InputError(f"checkpoint {path} is a file of TensorFlow, which is not read: give PyTorch's weights")


def _loaded(path: Path) -> tuple[Any, unpickling.Content | None]:
    """What the file holds: tensors and plain objects, or, where that is not all, inert stubs for the other objects."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of pickle protocols: what matters is raised
            return torch.load(path, map_location="cpu", weights_only=True), None
    except Exception as e:  # something besides tensors; or bytes that lead the unpickler anywhere
        first = e
    try:
        content = unpickling.read(path)
    except Exception as e:
        if isinstance(first, pickle.UnpicklingError):
            raise InputError(
                f"checkpoint {path} holds something other than tensors, or is damaged ({reason(e)}): {_READ}"
            ) from e
        raise InputError(
            f"checkpoint {path} is not a file that torch.load can read ({reason(first)}); give one that torch.save or "
            "safetensors wrote"
        ) from e
    for kind in content.kinds:
        module, _, name = kind.rpartition(".")
        if module.partition(".")[0] in _ATTACKS or (module in ("builtins", "__builtin__") and name in _ATTACKING):
            raise InputError(
                f"checkpoint {path} holds Python objects ({kind}): objects may run code when loaded, so {_READ}"
            )
    return content.root, content


def _collect(value: Any, content: unpickling.Content | None, name: str, found: Tables, depth: int) -> None:
    """Tables of tensors in a value, those in it and in the dictionaries of it."""
    if content is not None:
        whole = unpickling.module_state(content, value) if isinstance(value, Stub) else None
        if whole:
            found.tensors[name] = whole
            found.notes.append(f"took the tensors of the {value.kind} in the file; its code was not run")
            return
        value = content.value(value)
    if not isinstance(value, Mapping) or depth < 0:
        return
    tensors: dict[str, Tensor] = {}
    found.tensors[name] = tensors  # before those inside it, as the file has them
    for key, inner in value.items():
        made = content.value(inner) if content is not None else inner
        if isinstance(made, Tensor):
            tensors[str(key)] = made
        elif isinstance(made, Mapping | Stub):
            _collect(made, content, _joined(name, str(key)), found, depth - 1)
        elif isinstance(made, str | int | float) and isinstance(key, str) and len(str(made)) < 60:
            found.says.setdefault(key, str(made))
    if not tensors:
        del found.tensors[name]
