"""Which images of a run are of class A and which of B: by folders, tables, captions or search words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contralens.checks import counted, few, nearest, shown
from contralens.data.class_columns import classes_in
from contralens.data.image_tables import Places, read_lines, read_table
from contralens.encoders.registry import embed_texts
from contralens.errors import InputError
from contralens.run_data.reopened import Reopened
from contralens.settings.finished_run import ContrastClasses

REST = "*"
"""Stands for all images that the other class leaves."""
FEW = 20
"""Images of a class below which a note warns."""


@dataclass(frozen=True)
class ImageClasses:
    """Images of two classes, by row of the run's images."""

    a: NDArray[np.int64]
    b: NDArray[np.int64]
    source: str
    """Where the classes came from, for people."""
    notes: tuple[str, ...] = ()


def image_classes(reopened: Reopened, settings: ContrastClasses) -> ImageClasses:
    """The images of both classes.

    Raises:
        InputError: the classes are one, an unknown class, images of neither are known.
    """
    a, b = settings.a, settings.b
    if plain(a) == plain(b):
        raise InputError(f"both classes are {a!r}; give two")
    if a == REST:
        raise InputError('"*" means all images outside the first class: give it second')
    ways = {"words": settings.words, "captions": settings.captions is not None, "labels": settings.labels is not None}
    if sum(ways.values()) > 1:
        given = [name for name, asked in ways.items() if asked]
        raise InputError(f"classes come from one source; got {' and '.join(given)}")
    if (settings.image_column or settings.class_column) and not (
        settings.labels is not None and _is_paths(settings.labels)
    ):
        raise InputError(
            "`image_column` and `class_column` name columns of a table: give it with labels= (--table FILE)"
        )
    ids = reopened.run.images["id"].to_pylist()
    if settings.words:
        found = _by_words(reopened, a, b, settings.share)
    elif settings.captions is not None:
        found = _by_captions(ids, settings.captions, a, b)
    else:
        names, source, notes = _names(reopened, ids, settings)
        rows_a, rows_b = _of_class(names, a, source), None if b == REST else _of_class(names, b, source)
        if rows_b is None:
            rows_b = np.array([i for i, n in enumerate(names) if n and plain(n) != plain(a)], np.int64)
        found = ImageClasses(rows_a, rows_b, source, tuple(notes))
    for name, rows in ((a, found.a), (b, found.b)):
        if len(rows) < 2:
            raise InputError(f"{found.source}: {counted(len(rows), 'image')} of {name!r}; each class needs two or more")
    few = [f"{name!r} has {len(rows)}" for name, rows in ((a, found.a), (b, found.b)) if len(rows) < FEW]
    note = f"few images: {' and '.join(few)}; expect wide intervals, and words that depend on single images"
    return found if not few else ImageClasses(found.a, found.b, found.source, (*found.notes, note))


def plain(name: str) -> str:
    """A name without what spellings differ in.

    >>> plain("Basal_cell-carcinoma")
    'basal cell carcinoma'
    """
    return " ".join(re.sub(r"[_\-\s]+", " ", name).split()).casefold()


Names = tuple[list[str | None], str, list[str]]
"""The class of each image, where that came from, and notes."""


def _names(reopened: Reopened, ids: Sequence[str], settings: ContrastClasses) -> Names:
    given = settings.labels
    if given is None:
        names = reopened.run.images["label"].to_pylist()
        if not any(names):
            raise InputError(
                "the run's images have no classes: they lay in no class folders. Give a table (--table FILE, in "
                "Python labels=), captions (--captions FILE), or let the encoder search (--words)"
            )
        return names, "folders of the images", []
    place = Places(ids)
    if isinstance(given, Mapping):
        rows = {place.find(str(image)): str(name) for image, name in given.items()}
        rows.pop(None, None)
        if not rows:
            raise InputError(f"`labels` names none of the run's images; one is called {ids[0]!r}")
        return [rows.get(i) for i in range(len(ids))], "labels given", []
    if _is_paths(given):
        return _of_tables(place, ids, settings)
    if not isinstance(given, Sequence | np.ndarray) or len(given) != len(ids):
        raise InputError(
            f"`labels` must be a table, a mapping image -> class, or the class of each of {len(ids)} images; got "
            f"{shown(given)}"
        )
    return [None if name is None else str(name) for name in given], "labels given", []


def _is_paths(given: Any) -> bool:
    several = [given] if isinstance(given, str | Path) else given
    return isinstance(several, Sequence) and all(
        isinstance(one, Path) or (isinstance(one, str) and Path(one).suffix) for one in several
    )


def _of_tables(place: Places, ids: Sequence[str], settings: ContrastClasses) -> Names:
    given = settings.labels
    paths = [Path(one) for one in ([given] if isinstance(given, str | Path) else given)]
    tables = [read_table(path, place.sole, settings.image_column) for path in paths]
    telling, columns, by_image, notes = classes_in(tables, settings.class_column, None)
    names: list[str | None] = [None] * len(ids)
    for image, name in by_image.items():
        if (row := place.find(image)) is not None:
            names[row] = name
    if not any(names):
        first = next(iter(by_image), "nothing")
        raise InputError(f"{telling.path} names none of the run's images: it says {first!r}, one is called {ids[0]!r}")
    return names, f"{telling.path.name}, {few(columns)}", notes


def _of_class(names: Sequence[str | None], wanted: str, source: str) -> NDArray[np.int64]:
    """Rows of a class: called exactly so, else in another spelling, else a folder "n01440764_tench" by its name."""
    for fits in (
        lambda name: name == wanted,
        lambda name: plain(name) == plain(wanted),
        lambda name: plain(re.sub(r"^n\d{8}_", "", name)) == plain(wanted),
    ):
        rows = [i for i, name in enumerate(names) if name is not None and fits(name)]
        if rows:
            return np.array(rows, np.int64)
    known = [str(name) for name, _ in Counter(n for n in names if n).most_common()]
    raise InputError(f"no image of class {wanted!r}{nearest(wanted, known)} in {source}; classes: {few(known)}")


def _by_captions(ids: Sequence[str], given: str | Path, a: str, b: str) -> ImageClasses:
    """Images whose captions hold the words; those with both words are left out."""
    path, column = str(given), None
    if not Path(given).exists() and ":" in path:
        path, _, column = path.rpartition(":")
    texts = read_lines(Path(path), column, Places(ids))
    if not texts:
        raise InputError(f"{given} names none of the run's images; one is called {ids[0]!r}")

    def holding(word: str) -> NDArray[np.bool_]:
        phrase = r"[\s_-]+".join(map(re.escape, plain(word).split()))
        wanted = re.compile(rf"\b{phrase}(s|es)?\b", re.IGNORECASE)
        return np.array([any(wanted.search(text) for text in texts.get(i, ())) for i in range(len(ids))])

    known = np.array([i in texts for i in range(len(ids))])
    in_a = holding(a)
    in_b = known & ~in_a if b == REST else holding(b)
    both = int((in_a & in_b).sum())
    notes = (f"{counted(both, 'image')} whose captions name both excluded",) if both else ()
    return ImageClasses(np.flatnonzero(in_a & ~in_b), np.flatnonzero(in_b & ~in_a), f"captions in {path}", notes)


def _by_words(reopened: Reopened, a: str, b: str, share: float) -> ImageClasses:
    """Images nearest to each text, by the labeling encoder; those near to both go to the one that they are nearer to.

    Similarities are standardised over the images, since texts differ in how similar they are to all images.
    """
    run = reopened.run.manifest
    texts = [a] if b == REST else [a, b]
    t = embed_texts(reopened.encoder, texts, run.get("templates", "plain"), run.get("normalise_texts", True))
    e = reopened.embeddings(reopened.probe)
    usable = e.isfinite().all(1).numpy()
    cosine = np.full((len(e), len(texts)), -np.inf)
    cosine[usable] = (e[usable] @ t.to(e).T).double().numpy()
    spread = cosine[usable]
    z = (cosine - spread.mean(0)) / np.maximum(spread.std(0), 1e-12)
    count = max(2, round(share * int(usable.sum())))
    near = [z[:, i] >= np.sort(z[usable, i])[-min(count, int(usable.sum()))] for i in range(len(texts))]
    if b == REST:
        in_a, in_b = near[0], usable & ~near[0]
    else:
        in_a, in_b = near[0] & ~(near[1] & (z[:, 1] >= z[:, 0])), near[1] & ~(near[0] & (z[:, 0] > z[:, 1]))
    note = "the encoder selected the images by these words, so finding the same words as the difference proves nothing"
    source = f"the {share:.0%} of images nearest to each text, by the encoder {run['encoder']['name']}"
    return ImageClasses(np.flatnonzero(in_a), np.flatnonzero(in_b), source, (note,))
