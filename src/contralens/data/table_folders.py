"""What a run, an evaluation and an audit have in common on the disk: a folder of parquet tables with a manifest."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError

from contralens.checks import few, first_line
from contralens.data.folder_kinds import Kind
from contralens.data.replace_folder import reserved
from contralens.errors import InputError, RunError

P = ParamSpec("P")
T = TypeVar("T")


@contextlib.contextmanager
def part_of_run(run: Path, kind: Kind) -> Iterator[Path]:
    """A folder to be filled that takes the place of RUN/NAME, atomically."""
    if not (run / "manifest.json").is_file():
        raise InputError(f"{run} is not a run folder; an {kind.what} is kept inside the run that it judges")
    with reserved(run / kind.what, kind) as place, place.filled() as folder:
        yield folder


@contextlib.contextmanager
def keeping_part(run: Any, kind: Kind, save: bool) -> Iterator[None]:
    """Reserves the folder RUN/NAME, if what is made of a run, or of its folder, will be saved there."""
    path = getattr(run, "path", run)
    if path is None or not save or not (Path(path) / "manifest.json").is_file():
        yield
        return
    with reserved(Path(path) / kind.what, kind):
        yield


def write_tables(folder: Path, tables: Mapping[str, pa.Table]) -> None:
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet", write_page_checksum=True)


def with_newer_columns(table: pa.Table, schema: pa.Schema, names: Sequence[str]) -> pa.Table:
    """The table with those of the named columns of a schema, empty, that an older version did not write."""
    for name in names:
        if name not in table.column_names:
            table = table.append_column(schema.field(name), pa.nulls(len(table), schema.field(name).type))
    return table


@contextlib.contextmanager
def reading(folder: Path, absent: str | None = None) -> Iterator[None]:
    """Turn what is missing (`absent` says it) or damaged into one line."""
    try:
        yield
    except FileNotFoundError as e:
        missing = f"{folder} is not a whole run folder: {Path(e.filename or folder).name} is missing{runs_in(folder)}"
        if absent is None and (folder / "manifest.json").is_file():
            raise RunError(missing) from e
        raise InputError(absent or missing) from e
    except (UnicodeDecodeError, pa.ArrowException, SafetensorError, OSError) as e:
        raise RunError(f"{folder} cannot be read: {first_line(e)}") from e


def runs_in(folder: Path) -> str:
    """A hint with the runs one or two levels below `folder`, ready to append to an error; empty if there are none."""
    runs = runs_below(folder)
    return f"; runs in it: {few(map(str, runs), 3)}" if runs else ""


def runs_below(folder: Path) -> list[Path]:
    """The run folders one or two levels below `folder`, in order.

    >>> "run" in [run.name for run in runs_below(Path("."))], runs_below(Path("run"))
    (True, [])
    """
    below = sorted(at.parent for depth in ("*", "*/*") for at in folder.glob(f"{depth}/manifest.json"))
    return [run for run in below if (run / "exemplars.parquet").is_file()]


def run_folders(given: Sequence[str | Path]) -> list[Path]:
    """The run folders that were named, and those in folders that hold some, each once.

    Raises:
        InputError: there is no such folder.

    >>> run_folders(["run"]), "run" in [run.name for run in run_folders(["."])]
    ([PosixPath('run')], True)
    """
    out: list[Path] = []
    for folder in map(Path, given):
        if not folder.is_dir():
            raise InputError(f"there is no run folder {folder}; `contralens label` writes one")
        inside = [] if (folder / "manifest.json").exists() else runs_below(folder)
        out += [run for run in inside or [folder] if run not in out]
    return out


def plain(value: Any) -> Any:
    """NaN and infinities as None, since JSON has no word for them.

    >>> plain({"mean": float("nan"), "all": [1.0]})
    {'mean': None, 'all': [1.0]}
    """
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def rows_of(table: pa.Table, neuron: int) -> pa.Table:
    """The rows of one neuron; many times faster than a filter, which plans a query each time.

    >>> rows_of(pa.table({"neuron": [4, 4, 7, 4]}), 4).num_rows
    3
    """
    places = np.flatnonzero(np.asarray(table["neuron"]) == neuron)
    if len(places) and places[-1] - places[0] + 1 == len(places):
        return table.slice(int(places[0]), len(places))
    return table.take(pa.array(places))
