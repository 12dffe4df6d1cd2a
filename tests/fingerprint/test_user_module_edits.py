"""Edits of one's own code that change the rows: each gets another fingerprint, or is told by the probe images."""

import copy
import importlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import contralens
from contralens.collecting.probe_check import proved
from contralens.data.store import Store
from contralens.models.targets import target

BASE = """
import argparse, functools, json, os, types
from pathlib import Path
import torch
from torch import nn
from torchvision import transforms as T

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        torch.manual_seed(0)
        nn.init.normal_(self.conv.weight)
    def forward(self, x):
        return self.conv(x)
to_tensor = T.Compose([T.Resize((16, 16)), T.ToTensor()])
"""
NET = "def build():\n    return Net(), to_tensor\n"
EDITS: dict[str, tuple[str, dict[str, str]]] = {
    # name: (main.py after BASE, other files); VALUE is 1 first and 2 then
    "a global Compose": (
        "scale = T.Compose([T.Lambda(lambda x: x * VALUE)])\n"
        "def pre(image): return scale(to_tensor(image))\ndef build(): return Net(), pre\n", {}),
    "a global settings object": (
        "cfg = types.SimpleNamespace(gain=VALUE)\n"
        "def pre(image): return to_tensor(image) * cfg.gain\ndef build(): return Net(), pre\n", {}),
    "a global argparse.Namespace used in forward": (
        "args = argparse.Namespace(gain=VALUE)\nclass Mine(Net):\n"
        "    def forward(self, x): return self.conv(x) * args.gain\ndef build(): return Mine(), to_tensor\n", {}),
    "a global instance of one's own class": (
        "class Gain:\n    def __init__(self, g): self._g = g\n    def __call__(self, x): return x * self._g\n"
        "gain = Gain(VALUE)\ndef pre(image): return gain(to_tensor(image))\ndef build(): return Net(), pre\n", {}),
    "a private number of the network": (
        "class Mine(Net):\n    def __init__(self):\n        super().__init__()\n        self._gain = VALUE\n"
        "    def forward(self, x): return self.conv(x) * self._gain\ndef build(): return Mine(), to_tensor\n", {}),
    "an object that the network holds": (
        "class Settings:\n    gain = VALUE\nclass Mine(Net):\n    def __init__(self):\n        super().__init__()\n"
        "        self.settings = Settings()\n    def forward(self, x): return self.conv(x) * self.settings.gain\n"
        "def build(): return Mine(), to_tensor\n", {}),
    "a function of a module beside it": (
        "import helper\ndef pre(image): return helper.gain(to_tensor(image))\ndef build(): return Net(), pre\n",
        {"helper.py": "def gain(x): return x * VALUE\n"}),
    "a constant of a module beside it": (
        "import helper\ndef pre(image): return to_tensor(image) * helper.GAIN\ndef build(): return Net(), pre\n",
        {"helper.py": "GAIN = VALUE\n"}),
    "what a function beside it calls": (
        "import helper\ndef pre(image): return helper.gain(to_tensor(image))\ndef build(): return Net(), pre\n",
        {"helper.py": "import deeper\ndef gain(x): return deeper.gain(x)\n",
         "deeper.py": "def gain(x): return x * VALUE\n"}),
    "a module of a package beside it": (
        "from pkg import ops\nclass Mine(Net):\n    def forward(self, x): return ops.gain(self.conv(x))\n"
        "def build(): return Mine(), to_tensor\n",
        {"pkg/__init__.py": "", "pkg/ops.py": "def gain(x): return x * VALUE\n"}),
    "a module imported inside a function": (
        "import helper\ndef pre(image):\n    import helper as h\n    return h.gain(to_tensor(image))\n"
        "def build(): return Net(), pre\n", {"helper.py": "def gain(x): return x * VALUE\n"}),
    "a function imported by name": (
        "from helper import gain\ndef pre(image): return gain(to_tensor(image))\ndef build(): return Net(), pre\n",
        {"helper.py": "def gain(x): return x * VALUE\n"}),
    "a base class beside it": (
        "from helper import Base\nclass Mine(Base): pass\ndef build(): return Mine(), to_tensor\n",
        {"helper.py": BASE + "class Base(Net):\n    def forward(self, x): return self.conv(x) * VALUE\n"}),
    "a hook registered while the network is made": (
        "def build():\n    net = Net()\n    net.conv.register_forward_hook(lambda m, x, y: y * VALUE)\n"
        "    return net, to_tensor\n", {}),
    "a hook before the forward": (
        "gain = VALUE\ndef scale(m, x): return (x[0] * gain,)\ndef build():\n    net = Net()\n"
        "    net.conv.register_forward_pre_hook(scale)\n    return net, to_tensor\n", {}),
    "a class attribute that is an object": (
        "class Mine(Net):\n    post = T.Lambda(lambda x: x * VALUE)\n"
        "    def forward(self, x): return self.post(self.conv(x))\ndef build(): return Mine(), to_tensor\n", {}),
    "a closure and a partial": (
        "def times(x, by): return x * by\ndef make(g):\n    f = functools.partial(times, by=g)\n"
        "    return lambda image: f(to_tensor(image))\ndef build(): return Net(), make(VALUE)\n", {}),
    "an attribute of a function": (
        "def pre(image): return to_tensor(image) * pre.gain\npre.gain = VALUE\ndef build(): return Net(), pre\n", {}),
    # what no look at the code can find
    "a file read in each call": (
        "HERE = Path(__file__).parent\nclass Mine(Net):\n    def forward(self, x):\n"
        "        return self.conv(x) * float((HERE / 'gain.txt').read_text())\ndef build(): return Mine(), to_tensor\n",
        {"gain.txt": "VALUE"}),
    "a function found by its name as a text": (
        "import helper\ndef pre(image): return getattr(helper, 'ga' + 'in')(to_tensor(image))\n"
        "def build(): return Net(), pre\n", {"helper.py": "def gain(x): return x * VALUE\n"}),
    "a setting of the environment": (
        "import helper\ndef pre(image): return to_tensor(image) * float(os.environ['GAIN_OF_TEST'])\n"
        "def build(): return Net(), pre\n", {"helper.py": "import os\nos.environ['GAIN_OF_TEST'] = 'VALUE'\n"}),
}  # fmt: skip
UNSEEN = list(EDITS)[-3:]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("GAIN_OF_TEST", "1")
    yield tmp_path
    _forget(tmp_path)


def _forget(folder: Path) -> None:
    """As a new process would be: nothing that lies in the folder is imported, nor what other tests called the same."""
    importlib.invalidate_caches()
    own = {Path(name).parts[0].removesuffix(".py") for _, others in EDITS.values() for name in others}
    for name, module in list(sys.modules.items()):
        if name in own or str(getattr(module, "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]


def _written(folder: Path, edit: str, value: int) -> str:
    main, others = EDITS[edit]
    _forget(folder)
    for name, text in {"main.py": BASE + main, **others}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text.replace("VALUE", str(value)))
    return f"module:{folder / 'main.py'}:build"


def _row(made: Any) -> torch.Tensor:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8))
    return made(made.preprocess(image)[None])


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_is_recomputed_or_told(edit: str, home: Path) -> None:
    store = Store(home / "cache")

    def run(value: int) -> tuple[str, str, torch.Tensor]:
        made = target(_written(home, edit, value), "conv" if "before" in edit else ".")
        return made.fingerprint, proved([made], None, store)[0][0].fingerprint, _row(made)

    read, used, row = run(1)
    assert run(1)[:2] == (read, used), "nothing changed"
    assert read == used
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        other_read, other_used, other_row = run(2)
    assert not torch.allclose(row, other_row)
    assert other_used != used
    assert (other_read == read) == (edit in UNSEEN)
    said = [str(w.message) for w in told if "the cache has rows of other code" in str(w.message)]
    assert len(said) == (edit in UNSEEN)
    assert run(1)[1] == used, "the older code finds its own rows again"
    assert run(2)[1] == other_used


def test_a_run_recomputes_what_the_fingerprint_does_not_see(home: Path, discs: Path) -> None:
    spec = _written(home, UNSEEN[0], 1)
    options: dict[str, Any] = {"layer": ".", "k": 3, "scorers": "csp", "cache": home / "cache", "precision": "float32"}

    def run(**more: Any) -> Any:
        return contralens.label(spec, discs, "world", "world", **options, **more)

    first = run()
    (home / "gain.txt").write_text("2")
    with pytest.warns(UserWarning, match=r"other code or data under this fingerprint.*recomputed"):
        second = run()
    means = [np.array(r.neurons["mean"].to_pylist()) for r in (first, second)]
    np.testing.assert_allclose(2 * means[0], means[1], rtol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run().manifest == second.manifest, "known by now"
    streamed = run(store_activations=False)
    np.testing.assert_allclose(streamed.neurons["mean"].to_pylist(), means[1], rtol=1e-5)
    (home / "gain.txt").write_text("1")
    assert run().manifest["target"]["fingerprint"] == first.manifest["target"]["fingerprint"]


def test_an_encoder_of_ones_own_that_keeps_its_fingerprint_is_told(discs: Path, tmp_path: Path) -> None:
    from coloured import COLOURS, ColourEncoder, ColourNet, to_pixels

    class Shifted(ColourEncoder):
        by = 0

        def __call__(self, batch: torch.Tensor) -> torch.Tensor:
            return super().__call__(batch.roll(self.by, 1))

    def run(eyes: Any) -> Any:
        return contralens.label(
            ColourNet(), discs, eyes, list(COLOURS), layer="relu", preprocess=to_pixels, k=3, cache=tmp_path
        )

    first, eyes = run(Shifted()), Shifted()
    eyes.by = 1
    with pytest.warns(UserWarning, match="colours: the cache has rows of other code"):
        second = run(eyes)
    assert first.manifest["encoder"]["fingerprint"] != second.manifest["encoder"]["fingerprint"]
    assert first.rows()[0]["label"] != second.rows()[0]["label"]


def test_what_a_forward_changes_is_no_part_of_the_fingerprint() -> None:
    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self._last, self.calls = nn.Conv2d(3, 4, 3, bias=False), None, 0
            nn.init.ones_(self.conv.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            self._last = self.conv(x)
            return self._last

    made = Remembers()
    first = target(made, ".", preprocess="crop=16,mean=half").fingerprint
    assert target(made, ".", preprocess="crop=16,mean=half").fingerprint == first
    assert target(Remembers(), ".", preprocess="crop=16,mean=half").fingerprint == first


def test_copying_the_user_s_objects_changes_no_fingerprint() -> None:
    class Pixels:
        def __call__(self, image: Image.Image) -> torch.Tensor:
            return torch.from_numpy(np.array(image.resize((16, 16)), np.float32)).permute(2, 0, 1)

    network, own = nn.Conv2d(3, 4, 3), Pixels()
    before = target(network, layer=".", preprocess=own).fingerprint
    copy.copy(own)
    assert "__slotnames__" in vars(Pixels), "Python notes the names of slots in the class"
    assert target(network, layer=".", preprocess=own).fingerprint == before
