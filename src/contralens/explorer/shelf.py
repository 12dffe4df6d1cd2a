"""The runs that an explorer shows: opened when first asked for, opened again when they change on the disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

from contralens import __version__
from contralens.checks import nearest
from contralens.data.notes import Notebook
from contralens.errors import RunError
from contralens.explorer import pages, shapes
from contralens.explorer.runs import OpenRun, keys
from contralens.explorer.values import NotThere

LOOK_SECONDS = 0.5
"""Seconds between two looks at whether a run changed."""


class NotReadable(RunError):
    """A run that was given, but cannot be read now: 503."""


class Shelf:
    """Run folders by key. One that cannot be read is reported; the others continue."""

    def __init__(self, paths: Sequence[str | Path], writable: bool, trust_code: bool = False) -> None:
        self.paths = keys([Path(p) for p in paths])
        self.notebooks = {key: Notebook(path, writable) for key, path in self.paths.items()}
        self.writable, self.trust_code = writable, trust_code
        self.pages: dict[str, tuple[object, bytes]] = {}
        """Pages over several runs, with what they were made of."""
        self._open: dict[str, OpenRun] = {}
        self._looked: dict[str, float] = {}
        self._noted: dict[str, str] = {}
        self._locks = {key: threading.Lock() for key in self.paths}

    def run(self, key: str) -> OpenRun:
        """The run of this key as it is on the disk now."""
        if key not in self.paths:
            raise NotThere(f"there is no run {key!r}{nearest(key, self.paths)}")
        with self._locks[key]:
            now = time.monotonic()
            run = self._open.get(key)
            if run is not None and now - self._looked.get(key, 0.0) < LOOK_SECONDS:
                return run
            book = self.notebooks[key]
            noted = book.stamp()
            try:
                if run is None or not run.fresh():
                    self._open.pop(key, None)
                    run = OpenRun(key, self.paths[key], self.trust_code, book.corrections())
                    self._open[key] = run
                    threading.Thread(target=run.pictures.warm, daemon=True).start()
                elif noted != self._noted.get(key):
                    run.judge(book.corrections())
            except RunError as e:
                self._open.pop(key, None)
                raise NotReadable(str(e)) from e
            self._looked[key], self._noted[key] = now, noted
            return run

    def noted(self, key: str) -> None:
        """Look at the run's notes at once: one was written."""
        self._looked.pop(key, None)

    def list(self, encoder: str | None) -> shapes.RunList:
        """All runs, with the reason where one cannot be read."""
        return {
            "version": __version__,
            "runs": [self._info(key) for key in self.paths],
            "writable": self.writable,
            "encoder": encoder,
        }

    def _info(self, key: str) -> shapes.RunInfo:
        try:
            run = self.run(key)
        except NotReadable as e:
            return {
                "key": key,
                "title": key,
                "stamp": "",
                "problem": str(e),
                "summary": None,
                "manifest": None,
                "missing": [],
                "remarks": [],
                "notes": 0,
                "evaluation": [],
                "audit": None,
            }
        return pages.info(run, len(self.notebooks[key].read()["notes"]))
