"""Plugs: an installed package adds to every kind; a broken one is one line, and only where it is used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from plugged import install, registries

from contralens.data.vocabulary import VOCABULARIES, read_vocabulary
from contralens.encoders.registry import ENCODERS, encoder
from contralens.errors import InputError, MissingPackage
from contralens.evaluation.measuring import METRICS, wanted_metrics
from contralens.evaluation.painters import painter
from contralens.loading.loaders import TARGETS
from contralens.math.scorers import SCORERS, csp
from contralens.math.scoring import parse_scorer
from contralens.models.targets import target
from contralens.proposing.proposers import proposer

CODE = '''
import torch

def scorer(exemplars, embeddings, texts, *, power=2.0):
    """Cosine of the first exemplar, to a power."""
    return (torch.as_tensor(embeddings)[exemplars.positives[:, 0]] @ torch.as_tensor(texts).T) ** power

def metric(activations, predictions):
    """Mean product."""
    return (activations * predictions).mean(0)

def words():
    return ["moss", "rust"]

def load_target(rest, *, weights=None, checkpoint=None):
    """Plain pixels."""
    from contralens.loading.loaded import Loaded
    return Loaded(torch.nn.Flatten(), default_layer=".")

def load_encoder(rest, device):
    from contralens.encoders.registry import load_world
    return load_world("", device)

def load_proposer(rest, temperature=1.0):
    from contralens.proposing.proposers import CaptionBank
    return CaptionBank(rest)

def load_painter(rest, device):
    class Painter:
        name, fingerprint = "dots:" + rest, "0" * 32
        def paint(self, prompt, seeds):
            return ["blank" for _ in seeds]
    return Painter()
'''


def everything(own: str) -> dict[str, dict[str, str]]:
    return {
        "contralens.scorers": {"first": f"{own}:scorer", "csp": f"{own}:metric", "broken": "nowhere_at_all:x"},
        "contralens.metrics": {"product": f"{own}:metric"},
        "contralens.vocabularies": {"decay": f"{own}:words"},
        "contralens.targets": {"pixels": f"{own}:load_target", "broken": f"{own}:missing"},
        "contralens.encoders": {"again": f"{own}:load_encoder", "broken": "nowhere_at_all:x"},
        "contralens.proposers": {"bank": f"{own}:load_proposer", "broken": "nowhere_at_all:x"},
        "contralens.painters": {"dots": f"{own}:load_painter"},
    }


def test_an_installed_package_adds_to_every_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "lichen", CODE, everything("lichen"))
    assert SCORERS["csp"] is csp  # a built-in name cannot be taken over
    assert parse_scorer("first:power=3") == ("first", {"power": 3.0})
    with pytest.raises(InputError, match="no option 'powr'; did you mean power"):
        parse_scorer("first:powr=3")
    assert wanted_metrics("product,iou") == ["product", "iou"]
    assert torch.equal(METRICS["product"](torch.ones(3, 2), torch.ones(3, 2)), torch.ones(2))
    assert read_vocabulary("decay").concepts == ["moss", "rust"]
    assert read_vocabulary("decay").source == "decay: from the package lichen"
    assert target("pixels:x", preprocess="resize=2x2,mean=none").width == 12
    assert encoder("again:x").width == encoder("world").width
    assert ENCODERS.about("again") == "from the package lichen"
    assert proposer("bank:words.txt", temperature=0.5).name == "captions:words.txt"
    assert painter("dots:x").paint("a", [0, 1]) == ["blank", "blank"]


def test_a_broken_package_is_one_line_and_hinders_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "lichen", CODE, everything("lichen"))
    for kind, plugs in registries().items():
        assert all("\n" not in plugs.about(name) for name in plugs), kind
    for use, error in (
        (lambda: parse_scorer("broken"), MissingPackage),
        (lambda: TARGETS["broken"], InputError),  # the package is there, what it should hold is not
        (lambda: encoder("broken:x"), MissingPackage),
        (lambda: proposer("broken:x"), MissingPackage),
    ):
        with pytest.raises(error, match=r"the plug-in \S+ .*cannot be imported: "):
            use()
    assert VOCABULARIES.about("decay") == "from the package lichen"


def test_your_own_for_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCORERS, "mine", lambda exemplars, embeddings, texts, sharp=1.0: texts)
    assert parse_scorer("mine:sharp=2") == ("mine", {"sharp": 2.0})
    assert len(SCORERS) == len(list(SCORERS))
    del SCORERS["mine"]
    assert "mine" not in SCORERS
    SCORERS["mine"] = csp  # for monkeypatch to undo
