"""Search by words or by a picture, in the space of the run's encoder, which is loaded once, when first asked for."""

from __future__ import annotations

import importlib.util
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from contralens.data.trust import check_named
from contralens.errors import ContralensError, ImageError, InputError, MissingPackage, ModelUnavailable
from contralens.explorer import shapes
from contralens.explorer.overview import named
from contralens.explorer.runs import OpenRun
from contralens.explorer.values import NotThere
from contralens.explorer.vectors import normalise

LARGEST_UPLOAD = 10 << 20
LARGEST_PIXELS = 40_000_000
LONGEST_TEXT = 400
KINDS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM", b"RIFF")
"""How uploads may begin: JPEG, PNG, GIF, BMP, WebP."""


class Unavailable(ContralensError):
    """Search by meaning is not available here: 503."""


class Finder:
    """Finds neurons by words or pictures; holds the last two encoders."""

    def __init__(self, read_only: bool = False, load: Callable[[str], Any] | None = None) -> None:
        self._read_only = read_only
        self._load = load or _load
        self._needs_torch = load is None
        self._encoders: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def why_not(self) -> str | None:
        """Why there is no search by meaning, None where there is."""
        if self._read_only:
            return "started with --read-only: no encoder is loaded; labels can still be searched"
        if self._needs_torch and importlib.util.find_spec("torch") is None:
            return "torch is not installed here; labels can still be searched (pip install contralens)"
        return None

    def loaded(self) -> list[str]:
        return list(self._encoders)

    def text(self, run: OpenRun, text: str, gamma: float, most: int) -> shapes.Hits:
        """Neurons whose concept vector points where the words do.

        The query is mean_T[text(T(query)) - text(T(""))] over the run's templates, to unit length: what the words add
        to an empty sentence (Dreyer et al. 2025). An encoder that takes no empty sentence has none subtracted, and the
        answer says so.
        """
        text = " ".join(text.split())
        if not text:
            raise InputError("the search text is empty")
        if len(text) > LONGEST_TEXT:
            raise InputError(f"the search text has {len(text)} characters; at most {LONGEST_TEXT}")
        templates = [t for t in run.manifest.get("templates", []) if isinstance(t, str) and "{}" in t] or ["{}"]
        with self._lock:
            encoder = self._encoder(run)
            query = np.asarray(encoder.texts([t.replace("{}", text) for t in templates]), np.float32)
            note = None
            try:
                query = query - np.asarray(encoder.texts([t.replace("{}", "") for t in templates]), np.float32)
            except InputError as e:  # it refuses a text
                note = f"Nothing was subtracted, since this encoder has no empty prompt ({e})."
        return self._hits(run, text, query.mean(0), gamma, most, note)

    def picture(self, run: OpenRun, data: bytes, gamma: float, most: int) -> shapes.Hits:
        """Neurons whose concept vector points where an uploaded picture does."""
        from contralens.data.decode import decode, reason

        if not data.startswith(KINDS):
            raise ImageError("the upload is not a JPEG, PNG, GIF, BMP or WebP picture")
        with self._lock:
            try:
                image = decode(data, LARGEST_PIXELS)
            except Exception as e:  # whatever a hostile file makes a decoder raise
                raise ImageError(f"the picture cannot be decoded: {reason(e)}") from e
            encoder = self._encoder(run)
            from torch.utils.data import default_collate

            rows = encoder(default_collate([encoder.preprocess(image)]))
        return self._hits(run, "a picture", np.asarray(rows, np.float32)[0], gamma, most)

    def _encoder(self, run: OpenRun) -> Any:
        why = self.why_not()
        if why:
            raise Unavailable(f"search by words or pictures is off: {why}")
        if run.vectors is None:
            raise NotThere(next(m["why"] for m in run.missing if "search" in m["what"]))
        told = run.manifest.get("encoder")
        name = told.get("name") if isinstance(told, dict) else None
        if not isinstance(told, dict) or not isinstance(name, str):
            raise Unavailable("this run does not record its encoder")
        try:
            check_named(run, "encoder", name, "search by label")
        except InputError as e:  # not trusted
            raise Unavailable(str(e)) from e
        if name not in self._encoders:
            try:
                self._encoders[name] = self._load(name)
            except (InputError, MissingPackage, ModelUnavailable) as e:
                raise Unavailable(f"the encoder {name} cannot be loaded: {e}") from e
            while len(self._encoders) > 2:
                self._encoders.popitem(last=False)
        encoder = self._encoders[name]
        expected = told.get("fingerprint")
        if expected and encoder.fingerprint != expected:
            raise Unavailable(
                f"the encoder {name} that is installed here is not the one this run was made with "
                f"({encoder.fingerprint[:8]} instead of {str(expected)[:8]}); label again to search"
            )
        return encoder

    def _hits(
        self, run: OpenRun, query: str, vector: Any, gamma: float, most: int, note: str | None = None
    ) -> shapes.Hits:
        assert run.vectors is not None
        length = float(np.linalg.norm(vector))
        if not np.isfinite(length) or length < 1e-6 or len(vector) != run.vectors.first.shape[1]:
            raise InputError("the encoder sees no difference between this search and an empty one; try other words")
        found = run.vectors.nearest(normalise(vector), gamma, most)
        known = named(run, [n for n, _ in found])
        return {
            "query": query,
            "gamma": gamma,
            "note": note,
            "hits": [
                {"neuron": n, "name": known[n][0], "label": known[n][1], "similarity": round(s, 5)} for n, s in found
            ],
        }


def _load(name: str) -> Any:
    from contralens.encoders.registry import encoder

    return encoder(name)
