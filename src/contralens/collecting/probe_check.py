"""Whether the cache still fits: the rows of a few probe images, computed in every run, must equal those kept for them.

A fingerprint says what rows depend on as far as that can be read from code. What it misses (a file that is read while
the network runs, code reached by way of a text) shows in the values: before the cache is used, each extractor sees
`probe_images`, the same everywhere, and a few images of the set. Their rows are kept with the fingerprint. Where they
differ from the kept ones by more than rounding, the cached rows were computed by something else. They are not used: the
extractor gets a fingerprint of its own, under which all is computed again, and a warning says why. The older code finds
its own rows again.

What counts as rounding: on the same processor with the same torch, batch and threads a row is repeated to the last bits
(`NEAR`); elsewhere, and for images of the set, which lay in other batches, kernels round differently (`FAR`, and
`COARSE` where 16 bits are computed with). Each is a share of the neuron's largest value, and a tenth of it of the rows'
root mean square. Sparse autoencoders are looked at by the layer below, where no choice of latents tips over.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import default_collate

from contralens.checks import blaming
from contralens.data.atomic_files import digest
from contralens.data.fingerprint_cache import known_fingerprints
from contralens.data.image_sets import ImageSet, OtherImages
from contralens.data.store import Store, Table
from contralens.errors import ImageError, InputError
from contralens.models.determinism import is_coarse, noise, not_a_function, why_not_repeatable
from contralens.models.hooked_layer import HookedTarget
from contralens.models.sae_target import SparseTarget
from contralens.models.shared_forward import forward_key, rows_together
from contralens.types import Encoder, Extractor, Images

VERSION = "probes 1"
NEAR, FAR, COARSE = 1e-5, 1e-3, 5e-2
SIZES = ((256, 256), (320, 240), (240, 300))
"""Width and height of the probe images."""
TEXTS = ["red", "striped"]
"""Texts that an encoder is asked about as well."""
OF_THE_SET = 2
"""Images of the set that are looked at."""


def proved(
    extractors: Sequence[Extractor],
    images: Images | None,
    store: Store,
    *,
    allow_nondeterministic: bool = False,
    expected: str | None = None,
    first: int = 0,
) -> tuple[list[Any], list[str]]:
    """The extractors with fingerprints under which the cache holds their own rows, and notes for the manifest.

    Args:
        images: the set that is about to be collected, if it can be opened.
        allow_nondeterministic: leave those be whose rows are not a function of the image; a note says so.
        expected: a fingerprint that a run was recorded with, perhaps on a machine with another cache.
        first: the image from which on the set is hashed, where that has not been done (`known_fingerprints`).

    Raises:
        InputError: the rows of an extractor are not a function of the image.
    """
    out: list[Extractor] = []
    notes: list[str] = []
    some = _some(images, store, first)
    belows = [_below(extractor) for extractor in extractors]
    fixed = _together(belows, [(digest(VERSION, str(size)), noise(1, size, at)[0]) for at, size in enumerate(SIZES)])
    seen = _together(belows, some)
    for extractor, below, known, own in zip(extractors, belows, fixed, seen, strict=True):
        try:
            out.append(_fitting(extractor, below, known, own, some, store, expected))
        except _NotRepeatable as e:
            out.append(extractor)
            if not isinstance(below, HookedTarget):  # of which its own notes tell
                if not allow_nondeterministic:
                    raise InputError(not_a_function(below.name, str(e))) from None
                notes.append(not_a_function(below.name, str(e), allowed=True))
    return out, notes


class _NotRepeatable(Exception):
    """An extractor's rows are not a function of the image."""


def _check_repeatable(below: Extractor, some: Sequence[tuple[str, Any]]) -> None:
    """Look at an extractor of which the store knows nothing; rows that equal those of another process need no look.

    It sees noise, or images of the set where it says itself that it takes no others.
    """
    if isinstance(below, HookedTarget):  # looked at when it was made
        return
    pictures = noise(2)
    try:
        below.preprocess(pictures[0])
    except InputError:  # it takes no pictures but those of the set
        pictures = [image for _, image in some]
    except Exception:
        pass
    if len(pictures) < 2:
        return
    with blaming(f"{below.name} failed on two images"):
        why = why_not_repeatable(pictures, below.preprocess, lambda batch: [below(batch)])
    if why:
        raise _NotRepeatable(why)


def _below(extractor: Extractor) -> Extractor:
    """What is looked at in place of an extractor: the layer below an autoencoder, a network in float32."""
    below: Extractor = extractor.base if isinstance(extractor, SparseTarget) else extractor
    if isinstance(below, HookedTarget) and below.dtype != "float32":
        return below.with_dtype("float32")
    return below


def _fitting(
    extractor: Extractor,
    below: Extractor,
    fixed: dict[str, NDArray[Any]],
    seen: dict[str, NDArray[Any]],
    some: Sequence[tuple[str, Any]],
    store: Store,
    expected: str | None,
) -> Extractor:
    """The extractor itself, or under another fingerprint where the cache holds rows of something else under its own."""
    if isinstance(below, HookedTarget) and not below.repeatable:
        raise _NotRepeatable
    if isinstance(below, Encoder):
        fixed |= _texts(below)
    own = _bits(fixed, seen)
    others = store.remember("variants", VERSION, below.fingerprint)
    known = bytes((others.get() or {}).get("names", np.zeros(0, np.uint8))).decode().split()
    candidates = [below.fingerprint, *known]
    if expected == digest(below.fingerprint, own):  # as a run was recorded that was made with another cache
        candidates.insert(0, expected)
    for fingerprint in candidates:
        fits = _fits(below, fingerprint, fixed, seen, store)
        if fits is None:
            _check_repeatable(below, some)
        if fits is not False:
            _keep(below, fingerprint, fixed, seen, store)
            return extractor if fingerprint == below.fingerprint else _renamed(extractor, fingerprint)
    _check_repeatable(below, some)
    made = digest(below.fingerprint, own)
    others.put({"names": np.frombuffer(" ".join([*known, made]).encode(), np.uint8)})
    _keep(below, made, fixed, seen, store)
    warnings.warn(
        f"{below.name}: the cache has rows of other code or data under this fingerprint: the rows of {len(fixed)} "
        "probe images and of images of the set differ from those computed now; all rows are recomputed",
        stacklevel=2,
    )
    return _renamed(extractor, made)


def _fits(
    below: Extractor, fingerprint: str, fixed: dict[str, NDArray[Any]], seen: dict[str, NDArray[Any]], store: Store
) -> bool | None:
    """Whether rows are those that the store keeps under a fingerprint; None where it keeps none of the probe images."""
    here, anywhere = _tables(below, fingerprint, store)
    collected = store.table("rows", fingerprint)
    loose = COARSE if is_coarse(getattr(below, "module", None) or getattr(below, "_model", None)) else FAR
    pairs: dict[float, list[tuple[NDArray[Any], NDArray[Any]]]] = {NEAR: [], loose: []}
    for name, row in (fixed | seen).items():
        strict = name in fixed and here.has_row(name)
        held = next((t for t in ([here] if strict else [anywhere, collected]) if t.has_row(name)), None)
        if held is not None:
            pairs[NEAR if strict else loose].append((row, held.rows([name])[0]))
    for share, both in pairs.items():
        for width in {len(row) for row, _ in both}:
            ours, kept = zip(*((a, b) for a, b in both if len(a) == width), strict=True)
            if not all(len(b) == width for b in kept) or not _equal(np.stack(ours), np.stack(kept), share):
                return False
    return True if pairs[NEAR] or any(anywhere.has_row(name) for name in fixed) else None


def _equal(one: NDArray[Any], other: NDArray[Any], share: float) -> bool:
    """Whether two sets of rows (P,N) differ by rounding at most."""
    if one.shape != other.shape or not np.array_equal(np.isfinite(one), np.isfinite(other)):
        return False
    one, other = np.nan_to_num(one.astype(np.float64)), np.nan_to_num(other.astype(np.float64))
    size = np.maximum(np.abs(one), np.abs(other))
    allowed = share * (size.max(0) + 0.1 * np.sqrt(np.square(size).mean()))
    return bool((np.abs(one - other) <= allowed).all())


def _keep(
    below: Extractor, fingerprint: str, fixed: dict[str, NDArray[Any]], seen: dict[str, NDArray[Any]], store: Store
) -> None:
    here, anywhere = _tables(below, fingerprint, store)
    for table, rows in ((here, fixed), (anywhere, fixed), (anywhere, seen)):
        new = [name for name in rows if name not in table]
        for width in sorted({len(rows[name]) for name in new}):  # texts fill one row, images another
            own = [name for name in new if len(rows[name]) == width]
            table.append(own, {"rows": np.stack([rows[name] for name in own])})


def _tables(below: Extractor, fingerprint: str, store: Store) -> tuple[Table, Table]:
    """Rows of the probe images as this machine computes them, and as any does."""
    device = torch.device(getattr(below, "device", "cpu")).type
    where = [torch.__version__, device, torch.backends.cpu.get_cpu_capability(), str(torch.get_num_threads())]
    machine = store.table("probes", VERSION, fingerprint, *where)
    anywhere = store.table("probes", VERSION, fingerprint)
    return (machine if device == "cpu" else anywhere), anywhere


def _together(extractors: Sequence[Extractor], images: Sequence[tuple[str, Any]]) -> list[dict[str, NDArray[Any]]]:
    """`_rows` of each extractor; several layers of one network from one forward."""
    groups: dict[Any, list[int]] = {}
    for at, extractor in enumerate(extractors):
        groups.setdefault(forward_key(extractor), []).append(at)
    rows: list[dict[str, NDArray[Any]]] = [{} for _ in extractors]
    for group in groups.values():
        found = _rows([extractors[at] for at in group], images)
        if len(group) > 1 and not found[0]:  # one of them fails, and the others may not
            found = [_rows([extractors[at]], images)[0] for at in group]
        for at, own in zip(group, found, strict=True):
            rows[at] = own
    return rows


def _rows(extractors: Sequence[Extractor], images: Sequence[tuple[str, Any]]) -> list[dict[str, NDArray[Any]]]:
    """Rows of named images from each of some extractors of one network.

    They are computed together where they preprocess to one shape; without those that cannot be taken.
    """
    groups: dict[str, list[tuple[str, Any]]] = {}
    for name, image in images:
        with suppress(Exception, SystemExit):
            made = extractors[0].preprocess(image)
            groups.setdefault(_shape(made), []).append((name, made))
    rows: list[dict[str, NDArray[Any]]] = [{} for _ in extractors]
    for group in groups.values():
        with suppress(Exception, SystemExit), torch.no_grad():
            batch = default_collate([made for _, made in group])
            every = [extractors[0](batch)] if len(extractors) == 1 else rows_together(extractors, batch)
            for own, found in zip(rows, every, strict=True):
                own |= dict(zip((name for name, _ in group), found.float().cpu().numpy(), strict=True))
    return rows


def _texts(encoder: Encoder) -> dict[str, NDArray[Any]]:
    with suppress(Exception, SystemExit):
        return {digest(VERSION, *TEXTS): encoder.texts(TEXTS).float().cpu().numpy().reshape(-1)}
    return {}


def _shape(made: Any) -> str:
    return str({k: tuple(v.shape) for k, v in made.items()} if isinstance(made, dict) else tuple(made.shape))


def _some(images: Images | None, store: Store, first: int) -> list[tuple[str, Any]]:
    """A few images of a set with the fingerprints of their contents."""
    if images is None or not len(images):
        return []
    fingerprints = known_fingerprints(images, store, first)
    places = sorted({i * len(images) // OF_THE_SET for i in range(OF_THE_SET)})
    part = (images if isinstance(images, ImageSet) else OtherImages(images)).take(places)
    found: dict[str, Any] = {}
    for i, place in enumerate(places):
        with suppress(ImageError):
            found[fingerprints[place]] = part.load(i)
    return list(found.items())


def _bits(*rows: dict[str, NDArray[Any]]) -> str:
    return digest(*(f"{name} {row.tobytes().hex()}" for some in rows for name, row in sorted(some.items())))


def _renamed(extractor: Extractor, fingerprint: str) -> Extractor:
    """The same extractor under another fingerprint."""
    if isinstance(extractor, SparseTarget):
        own = digest(extractor.fingerprint, fingerprint)
        return replace(extractor, base=_renamed(extractor.base, fingerprint), fingerprint=own)  # type: ignore[arg-type]
    if isinstance(extractor, HookedTarget):
        made = replace(extractor, fingerprint=fingerprint, network=f"{extractor.network} {fingerprint}")
        return made if made.dtype == "float32" else made.with_dtype(made.dtype)
    try:
        other = copy.copy(extractor)
        other.fingerprint = fingerprint
    except (AttributeError, TypeError) as e:
        raise InputError(
            f"{extractor.name}: the cache has rows of other code under its `fingerprint`; use another one"
        ) from e
    return other
