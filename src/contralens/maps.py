"""Maps of a finished run, added to it for the explorer: over images, to the network's classes, of all neurons.

RUN/maps.parquet: neuron, image (row of `images`), height, width, map (height x width bytes, row by row), box (left,
top, right, bottom of what the network saw, as shares of the image), aspect (width / height of the image). 255 is the
strongest place among the neuron's maps, so all maps of a neuron share one scale; 0 is no activation (or, of a neuron
that is negative everywhere, the weakest place).

RUN/classes.parquet, where the layer feeds the network's classes through one linear layer: neuron, class, weight (what
one unit of activation adds to the class score), adds (the same at the mean activation of the neuron's exemplars).

RUN/layout.parquet, where asked for: neuron, x, y, by UMAP of the concept vectors at the primary scorer's gamma (cosine,
15 neighbours, seed 0). It keeps neighbourhoods, not distances. The explorer shows the two main components without it.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from torch.utils.data import default_collate

from contralens.checks import as_texts, whole
from contralens.data.added_files import add_to_run, check_addable
from contralens.data.runs import Run, load
from contralens.errors import InputError
from contralens.math.tensors import keeping_memory
from contralens.models.activation_maps import maps, seen
from contralens.models.heads import linear_head
from contralens.run_data.reopened import Reopened
from contralens.specs import gamma_of
from contralens.types import Progress, silent

if TYPE_CHECKING:
    from PIL.Image import Image

FILES = ("maps.parquet", "classes.parquet", "layout.parquet")
LARGEST = 32
"""Sides of a map at most; finer ones are averaged."""
MOST_CLASSES = 6
"""Classes kept at each end: those that a neuron speaks for, and those that it speaks against."""
PAIRS = 10
FEWEST = 16
"""Neurons below which a layout says nothing that the list does not."""

MAPS = pa.schema([
    ("neuron", pa.int32()), ("image", pa.int64()), ("height", pa.int16()), ("width", pa.int16()), ("map", pa.binary()),
    ("box", pa.list_(pa.float32(), 4)), ("aspect", pa.float32()),
])  # fmt: skip
LAYOUT = pa.schema([("neuron", pa.int32()), ("x", pa.float32()), ("y", pa.float32())])
CLASSES = pa.schema([("neuron", pa.int32()), ("class", pa.string()), ("weight", pa.float64()), ("adds", pa.float64())])


def add_maps(
    run: Run | str | Path,
    *,
    pairs: int = PAIRS,
    source: Any = None,
    target: Any = None,
    classes: Sequence[str] | None = None,
    layout: bool = False,
    cache: str | Path | None = None,
    device: str = "cpu",
    batch_size: int = 32,
    progress: Progress = silent,
) -> list[str]:
    """Write activation maps, downstream classes and, optionally, a layout into a run folder.

    Each file is written atomically.

    Args:
        run: a run that was written to a folder, or that folder.
        pairs: number of exemplar-contrast pairs per neuron with maps. Needs one forward pass per image; a map of 7 x 7
            takes about 100 bytes, and a neuron has twice `pairs` maps.
        source: where the run's images are, if they moved.
        target: the network, if the run does not identify it.
        classes: names of its classes; by default those of its weights, otherwise numbers.
        layout: also compute a UMAP layout for the explorer's map page. It needs umap-learn, which takes about ten
            seconds to compile; without a layout the page shows the two main components.
        cache: the cache that `label` used.
        device: where the network runs.
        batch_size: images per forward pass.
        progress: called with stage, done and total.

    Returns:
        One line per file: its content, or why it is missing. The first line counts missing pictures, if there are any.

    Raises:
        InputError: the images cannot be found, or the network is another one.
        ModelUnavailable: the network cannot be loaded.

    >>> told = add_maps("run", pairs=2)
    >>> [line.partition(" in ")[2] for line in told]
    ['run/maps.parquet', 'run/classes.parquet']
    """
    run = load(run) if not isinstance(run, Run) else run
    if run.path is None:
        raise InputError("the run was never saved to a folder; give `out` to `label` first")
    whole("pairs", pairs)
    whole("batch_size", batch_size)
    if classes is not None:
        as_texts("classes", classes)
    check_addable(run.path, FILES if layout else FILES[:2])
    reopened = Reopened(run, source=source, target=target, cache=cache, device=device)
    wanted = _wanted(run, pairs)
    pictures = reopened.pictures(wanted)
    told = []
    there = set(reopened.images.fingerprints())
    if gone := sum(reopened.named[image] not in there for image in wanted):
        told.append(f"{gone} of {len(wanted)} pictures are no longer in {reopened.images.name}: they have no maps")
    found = _maps(reopened, wanted, pictures, batch_size, progress)
    if found is None:
        one = reopened.target
        ordered = getattr(getattr(one, "base", one), "raster_order", None)
        why = "has tokens that are not in row order" if ordered is False else "has no spatial positions"
        told.append(f"no activation maps: {one.layer} {why} (pooling {one.pooling})")
    else:
        _write(run.path / "maps.parquet", found)
        told.append(f"{found.num_rows} activation maps in {run.path / 'maps.parquet'}")
    by_relevance = bool(run.manifest.get("ranking"))
    some = [] if by_relevance else [p for p in map(pictures, sorted(wanted)[:4]) if p is not None]
    fed = _classes(reopened, classes, some)
    if by_relevance:
        told.append("no classes: the exemplars were ranked by relevance, and their mean activations are not known")
    elif fed is None:
        told.append(f"no classes: {reopened.target.layer} does not feed them through one linear layer")
    else:
        _write(run.path / "classes.parquet", fed)
        told.append(f"classes that neurons feed in {run.path / 'classes.parquet'}")
    return [*told, _laid_out(run, run.path, reopened.exemplars.neurons.tolist())] if layout else told


def _laid_out(run: Run, folder: Path, neurons: list[int]) -> str:
    laid = _layout(run, neurons)
    if isinstance(laid, str):
        return f"no layout: {laid}; the explorer's map shows the two main components"
    _write(folder / "layout.parquet", laid)
    return f"{laid.num_rows} neurons laid out by UMAP in {folder / 'layout.parquet'}"


def _layout(run: Run, neurons: list[int]) -> pa.Table | str:
    """UMAP of the concept vectors, or why there is none."""
    if find_spec("umap") is None:
        return "umap-learn is not installed (pip install 'contralens[umap]')"
    first, second = (run.vectors[name] for name in ("positive_mean", "contrast_mean"))
    vectors = first - (gamma_of(run.manifest["primary"]) or 0.0) * second
    there = np.flatnonzero(np.isfinite(vectors).all(1) & (np.abs(vectors) > 0).any(1))
    if len(there) < FEWEST:
        return f"UMAP needs at least {FEWEST} labeled neurons, the run has {len(there)}"
    from umap import UMAP

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed means one thread
        # The usual start, from the graph's eigenvectors, differs from run to run where the graph falls into parts.
        model = UMAP(n_neighbors=min(15, len(there) - 1), metric="cosine", init="pca", random_state=0)
        points = np.asarray(model.fit_transform(vectors[there]), np.float32)
    return pa.table([[neurons[i] for i in there], points[:, 0], points[:, 1]], schema=LAYOUT)


def _wanted(run: Run, pairs: int) -> dict[int, list[int]]:
    """Image (row of `images`) -> neurons among whose first `pairs` pairs it is, both in ascending order."""
    table = run.exemplars.select(["neuron", "rank", "positive", "contrast"]).to_pydict()
    neurons, ranks = (np.asarray(table[name], np.int64) for name in ("neuron", "rank"))
    first = ranks < pairs
    sides = [np.asarray(table[side], np.int64)[first] for side in ("positive", "contrast")]
    places = np.concatenate([np.stack([images, neurons[first]], axis=1) for images in sides])
    out: dict[int, list[int]] = {}
    for image, neuron in np.unique(places[places[:, 0] >= 0], axis=0).tolist():
        out.setdefault(image, []).append(neuron)
    return out


@keeping_memory()
def _maps(
    reopened: Reopened,
    wanted: dict[int, list[int]],
    picture: Callable[[int], Image | None],
    batch_size: int,
    progress: Progress,
) -> pa.Table | None:
    rows: list[tuple[int, int, NDArray[np.float32], list[float], float]] = []
    boxes: dict[tuple[int, int], list[float]] = {}
    images = sorted(wanted)
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        shown = {image: made for image in part if (made := picture(image)) is not None}
        neurons = [wanted[image] for image in shown]
        found = maps(reopened.target, list(shown.values()), neurons) if shown else []
        if found is None:
            return None
        for (image, made), own, values in zip(shown.items(), neurons, found, strict=True):
            if made.size not in boxes:
                left, top, right, bottom = seen(reopened.target.preprocess, made.size)
                boxes[made.size] = [left / made.width, top / made.height, right / made.width, bottom / made.height]
            place = (boxes[made.size], made.width / made.height)
            rows += [(n, image, _coarse(value), *place) for n, value in zip(own, values, strict=True)]
        progress("activation maps", start + len(part), len(images))
    rows.sort(key=lambda row: row[:2])
    return pa.Table.from_pylist(_scaled(rows), MAPS)


def _scaled(rows: list[tuple[int, int, NDArray[np.float32], list[float], float]]) -> list[dict[str, Any]]:
    """Values as bytes, on one scale for each neuron."""
    limits: dict[int, tuple[float, float]] = {}
    for neuron, _, values, *_ in rows:
        low, high = limits.get(neuron, (np.inf, -np.inf))
        finite = values[np.isfinite(values)]
        if finite.size:
            limits[neuron] = (min(low, float(finite.min())), max(high, float(finite.max())))
    out = []
    for neuron, image, values, box, aspect in rows:
        low, high = limits.get(neuron, (0.0, 1.0))
        low = 0.0 if high > 0 else low
        level = np.nan_to_num((values - low) / max(high - low, 1e-12)).clip(0, 1)
        out.append({
            "neuron": neuron, "image": image, "height": values.shape[0], "width": values.shape[1],
            "map": np.rint(255 * level).astype(np.uint8).tobytes(), "box": box, "aspect": aspect,
        })  # fmt: skip
    return out


def _coarse(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The map with blocks of places averaged, so that no side is above `LARGEST`."""
    step = -(-max(values.shape) // LARGEST)
    if step == 1:
        return values
    high, wide = (-(-side // step) * step for side in values.shape)
    padded = np.pad(values, ((0, high - values.shape[0]), (0, wide - values.shape[1])), mode="edge")
    means: NDArray[np.float32] = padded.reshape(high // step, step, wide // step, step).mean((1, 3), dtype=np.float32)
    return means


def _classes(reopened: Reopened, names: Sequence[str] | None, some: list[Image]) -> pa.Table | None:
    target = reopened.target
    weight = linear_head(target, default_collate([target.preprocess(image) for image in some])) if some else None
    if weight is None:
        return None
    if names is None:
        try:
            names = reopened.classes
        except InputError:  # they have no names
            names = []
    if len(names) != len(weight):
        names = [f"class {c}" for c in range(len(weight))]
    exemplars = reopened.exemplars
    rows = []
    for neuron, own in zip(exemplars.neurons.tolist(), exemplars.activations, strict=True):
        mean = float(own[own.isfinite()].mean())
        column = weight[:, neuron]
        order = column.sort(descending=True, stable=True).indices.tolist()
        for c in dict.fromkeys([*order[:MOST_CLASSES], *order[-MOST_CLASSES:]]):
            value = float(column[c])
            rows.append({"neuron": neuron, "class": names[c], "weight": value, "adds": value * mean})
    return pa.Table.from_pylist(rows, CLASSES)


def _write(path: Path, table: pa.Table) -> None:
    out = io.BytesIO()
    pq.write_table(table, out, row_group_size=8192, write_page_checksum=True)
    add_to_run(path.parent, {path.name: out.getvalue()})
