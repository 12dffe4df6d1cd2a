"""Tensors beside Python objects are read, and nothing in a pickle is ever run."""

import argparse
import collections
import datetime
import enum
import functools
import importlib
import operator
import pickle
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from contralens.errors import InputError
from contralens.loading import unpickling
from contralens.loading.weight_files import read_state, read_tables

RAN: list[object] = []


class Phase(enum.Enum):
    TRAIN = "train"


class Settings(dict):  # type: ignore[type-arg]
    """A dictionary of a class of one's own, as Lightning's AttributeDict."""

    def __setstate__(self, state: object) -> None:
        RAN.append(state)


class Runs:
    """Whatever is done with it runs code."""

    def __init__(self, how: object = None) -> None:
        self.how = how

    def __setstate__(self, state: object) -> None:
        RAN.append(state)

    def __hash__(self) -> int:
        RAN.append("hash")
        return 1


def run(*arguments: object) -> object:
    RAN.append(arguments)
    return arguments


class Reduces:
    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> object:
        return self.call


def read_or_said(file: Path) -> dict[str, Tensor] | str:
    """The tensors of a file, or the error that refuses it."""
    try:
        return read_state(file)[0]
    except InputError as e:
        return str(e)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2, bias=False))
    return net.state_dict()


BESIDE = {
    "Namespace": argparse.Namespace(lr=0.1, data=Path("/d")),
    "numpy scalar": np.float64(70.1),
    "numpy array": np.arange(6).reshape(2, 3).T,
    "Path": Path("/data"),
    "enum": Phase.TRAIN,
    "date": datetime.datetime(2026, 1, 2),
    "class": Settings,
    "own dictionary": Settings(arch="resnet18"),
    "default": collections.defaultdict(list, {"a": [1]}),
    "set": {"x", 3},
    "complex": 1 + 2j,
    "function": run,
    "keys": {Phase.TRAIN: 1, ("a", 1): 2},
    "slice": slice(1, 2),
    "deque": collections.deque([1, 2]),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("what", BESIDE)
def test_tensors_beside_objects(what: str, zipped: bool, state: dict[str, Tensor], tmp_path: Path) -> None:
    RAN.clear()
    file = tmp_path / "a.pth"
    torch.save({"state_dict": state, "extra": BESIDE[what], "epoch": 3}, file, _use_new_zipfile_serialization=zipped)
    found, notes = read_state(file)
    assert list(found) == list(state)
    assert all(torch.equal(found[key], value) and found[key].dtype == value.dtype for key, value in state.items())
    assert notes == ["took 'state_dict' of checkpoint a.pth"]
    assert not RAN


@pytest.mark.parametrize("zipped", [True, False])
def test_views_kinds_and_shapes_of_numbers(zipped: bool, tmp_path: Path) -> None:
    base = torch.arange(24, dtype=torch.float32)
    kinds = {str(kind): torch.ones(3).to(kind) for kind in unpickling._STORAGES.values()}
    state = {"view": base.view(4, 6)[1:3, ::2], "turned": base.view(4, 6).T, "tied": base, "one": torch.tensor(5.0),
             "none": torch.zeros(0, 3), "parameter": nn.Parameter(torch.ones(2)), **kinds}  # fmt: skip
    torch.save({"a": state, "b": Path("x")}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    found = read_tables(tmp_path / "a.pt").tensors["a"]
    for key, value in state.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value), key


def test_the_words_and_numbers_of_a_file_are_kept(state: dict[str, Tensor], tmp_path: Path) -> None:
    beside = argparse.Namespace(arch="resnet18", num_classes=7)
    torch.save({"state_dict": state, "args": beside, "hyper_parameters": Settings(in_chans=1)}, tmp_path / "a.ckpt")
    says = read_tables(tmp_path / "a.ckpt").says
    assert (says["arch"], says["num_classes"], says["in_chans"]) == ("resnet18", "7", "1")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_network_pickled_whole(zipped: bool, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Linear(4, 2)))
    net.register_buffer("passing", torch.ones(1), persistent=False)
    torch.save({"model": net, "epoch": 2}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    tables = read_tables(tmp_path / "a.pt")
    assert list(tables.tensors["model"]) == list(net.state_dict())
    assert all(torch.equal(tables.tensors["model"][key], value) for key, value in net.state_dict().items())
    assert tables.notes == [
        "took the tensors of the torch.nn.modules.container.Sequential in the file; its code was not run"
    ]


def test_numpy_arrays_by_name(tmp_path: Path) -> None:
    arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.asfortranarray(np.ones((2, 2), np.int64))}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "someone"}))
    found, _ = read_state(tmp_path / "a.pkl")
    assert {key: value.tolist() for key, value in found.items()} == {k: v.tolist() for k, v in arrays.items()}
    (tmp_path / "b.pkl").write_bytes(pickle.dumps({"model": arrays}, protocol=2))
    assert read_state(tmp_path / "b.pkl")[0]["w"].tolist() == arrays["w"].tolist()


MALICIOUS = {
    "a call": Reduces(run, "pwned"),
    "an object's state": Runs("pwned"),
    "a partial": functools.partial(run, 1),
    "an attribute": Reduces(getattr, Path("x"), "unlink"),
    "a method": Reduces(operator.methodcaller("touch"), Path("pwned")),
    "a module": Reduces(importlib.import_module, "antigravity"),
    "a tensor that is none": Reduces(torch._utils._rebuild_tensor_v2, 1, 2, 3, 4, 5, 6),
    "another loader": Reduces(torch.load, "a.pt"),
    "numpy's loader": Reduces(np.load, "a.npy", None, True),
    "a hub": Reduces(torch.hub.load, "somebody/repo", "model"),
    "a compiled file": Reduces(torch.jit.load, "a.pt"),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("what", MALICIOUS)
def test_nothing_in_a_pickle_runs(
    what: str, zipped: bool, state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    RAN.clear()
    file = tmp_path / "a.pt"
    torch.save({"extra": MALICIOUS[what], "state_dict": state}, file, _use_new_zipfile_serialization=zipped)
    RAN.clear()
    found = read_or_said(file)
    if isinstance(found, str):
        assert "only tensors are read" in found
    else:
        assert torch.equal(found["0.weight"], state["0.weight"])
    assert not RAN
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pt"]


def test_code_by_hand_written_opcodes_does_not_run(tmp_path: Path) -> None:
    module = __name__.encode()
    programs = [
        b"c" + module + b"\nrun\n(S'x'\ntR.",  # REDUCE
        b"(S'x'\ni" + module + b"\nrun\n.",  # INST
        b"(c" + module + b"\nrun\nS'x'\no.",  # OBJ
        b"\x80\x02c" + module + b"\nRuns\n)\x81}S'how'\nS'x'\nsb.",  # NEWOBJ and BUILD
        b"\x80\x04\x8c" + bytes([len(module)]) + module + b"\x8c\x03run\x93\x8c\x01x\x85R.",  # STACK_GLOBAL
        b"c" + module + b"\nrun\nc" + module + b"\nrun\n(S'x'\ntRtR.",
        b"cbuiltins\ngetattr\n(c" + module + b"\nRAN\nS'append'\ntR(S'x'\ntR.",
        b"c" + module + b"\nRAN\nS'x'\na.",  # APPEND to what it names
        b"c" + module + b"\nRAN\n}S'x'\nI1\nsb.",  # BUILD on what it names
    ]
    RAN.clear()
    for at, program in enumerate(programs):
        file = tmp_path / f"{at}.pkl"
        file.write_bytes(program)
        with pytest.raises(InputError) as e:
            read_state(file)
        assert "\n" not in str(e.value)
        with zipfile.ZipFile(tmp_path / f"{at}.pt", "w") as archive:
            archive.writestr("a/data.pkl", program)
        with pytest.raises(InputError):
            read_state(tmp_path / f"{at}.pt")
    assert not RAN
    assert not hasattr(RAN, "x")


def test_tensors_beyond_their_numbers_are_refused(tmp_path: Path) -> None:
    small = unpickling.Storage("FloatStorage", "0", 4, torch.zeros(4))
    for offset, size, stride in (
        (0, (5,), (1,)),
        (4, (1,), (1,)),
        (0, (2, 2), (4, 1)),
        (-1, (1,), (1,)),
        (0, (2,), (-1,)),
    ):
        with pytest.raises(pickle.UnpicklingError):
            unpickling.Content()._tensor((small, offset, size, stride), typed=False)
    assert unpickling.Content()._tensor((small, 0, (2, 2), (2, 1)), typed=False).shape == (2, 2)


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files_are_one_line(zipped: bool, tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    content = {"state_dict": {"w": torch.ones(5)}, "args": argparse.Namespace(a=1)}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    whole, chance = file.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        file.write_bytes(damaged[: chance.choice([len(damaged), chance.randrange(len(damaged))])])
        said = read_or_said(file)
        if isinstance(said, str):
            assert "\n" not in said
            refused += 1
    assert refused > 50
