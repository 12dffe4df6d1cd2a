"""Which neuron of one run is which of another, for the page that compares two runs."""

from __future__ import annotations

import importlib.util
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from contralens.data.matchings import Matching
from contralens.data.places import same_place
from contralens.errors import ContralensError
from contralens.explorer import shapes
from contralens.explorer.runs import OpenRun
from contralens.explorer.values import short

Matcher = Callable[[Path, Path, bool], Matching]
"""Pairs the neurons of two run folders; the last argument: whether the runs may name code."""
KEPT = 32
"""Pairs of runs whose matches are remembered."""
TURNED = {"split": "merged", "merged": "split", "new": "gone", "gone": "new"}


class Partners:
    """The matches of neurons in other runs, each pair of runs matched once."""

    def __init__(self, match: Matcher | None = None, trust_code: bool = False) -> None:
        self._match, self._trust_code = match, trust_code
        self._known: OrderedDict[tuple[str, str], shapes.Matched] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, a: OpenRun, b: OpenRun) -> shapes.Matched:
        """How the neurons of two runs pair: by number at one place of a network, else by `contralens.match`.

        Where that cannot be known, `problem` says why, and neurons pair by number.
        """
        if a.key == b.key or same_place(*(_target(run) for run in (a, b))):
            return by_number(a, b)
        if a.key > b.key:
            return turned(self.of(b, a))
        with self._lock:
            key = (a.stamp, b.stamp)
            if key not in self._known:
                made = self._make(a, b)
                if isinstance(made, str):
                    return by_number(a, b, made)
                self._known[key] = made
                while len(self._known) > KEPT:
                    self._known.popitem(last=False)
            self._known.move_to_end(key)
            return self._known[key]

    def _make(self, a: OpenRun, b: OpenRun) -> shapes.Matched | str:
        if self._match is None:
            return "this server does not match neurons; `contralens explore` does"
        if importlib.util.find_spec("torch") is None:
            return "torch is not installed here, which matching needs (pip install contralens)"
        try:
            found = self._match(a.path, b.path, self._trust_code)
        except ContralensError as e:
            return f"{e} (`contralens match {a.path.name} {b.path.name}`)"
        return _matched(found)


def by_number(a: OpenRun, b: OpenRun, problem: str | None = None) -> shapes.Matched:
    """Neurons paired by number; of those in one run alone, none."""
    known = set(b.neurons)
    both = [n for n in a.neurons if n in known]
    return {
        "by": "number",
        "problem": problem,
        "images": None,
        "threshold": None,
        "notes": [],
        "status": ["pair"] * len(both),
        "a": list(both),
        "b": list(both),
        "correlation": [None] * len(both),
    }


def turned(found: shapes.Matched) -> shapes.Matched:
    """The same, seen from the other run."""
    return {
        **found,
        "status": [TURNED.get(status, status) for status in found["status"]],
        "a": found["b"],
        "b": found["a"],
    }


def _matched(found: Matching) -> shapes.Matched:
    m, pairs = found.manifest, found.pairs.to_pydict()
    return {
        "by": str(m["by"]),
        "problem": None,
        "images": m["images"] or None,
        "threshold": short(m["threshold"]),
        "notes": [str(note) for note in m["notes"]],
        "status": [status if status in TURNED else "pair" for status in pairs["status"]],
        "a": pairs["one"],
        "b": pairs["other"],
        "correlation": [short(r) for r in pairs["correlation"]],
    }


def _target(run: OpenRun) -> dict[str, object]:
    target = run.manifest.get("target")
    return target if isinstance(target, dict) else {"name": run.key}
