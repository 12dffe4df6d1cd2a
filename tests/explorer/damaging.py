"""Damage to the files of a run, drawn by hypothesis: what no run holds, in files that open all the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

ODD: list[Any] = [None, True, -1, 0, 1, 2**31, 2**63 - 1, -(2**63), 10**30, 1.5, float("nan"), float("inf"), "", "x",
                  "\ud800", "é" * 3, [], {}, [[]], [None], {"a": 1}, ["x", 1], "[" * 50]  # fmt: skip
"""Values where others are expected."""


def _nan(length: int, kind: Any) -> Any:
    return pa.array([float("nan")] * length, pa.float64())


COLUMNS: dict[str, Any] = {
    "nulls": lambda n, kind: pa.nulls(n, kind),
    "nothing": lambda n, kind: pa.nulls(n),
    "texts": lambda n, kind: pa.array([f"x{i}" for i in range(n)]),
    "invalid": lambda n, kind: pa.Array.from_buffers(
        pa.string(), n, [None, pa.py_buffer(np.arange(n + 1, dtype=np.int32).tobytes()), pa.py_buffer(b"\xff" * n)]
    ),
    "large": lambda n, kind: pa.array([2**62] * n, pa.int64()),
    "larger": lambda n, kind: pa.array([2**63 + 5] * n, pa.uint64()),
    "below": lambda n, kind: pa.array([-5] * n, pa.int32()),
    "halves": lambda n, kind: pa.array([i + 0.5 for i in range(n)]),
    "nan": _nan,
    "inf": lambda n, kind: pa.array([float("-inf")] * n, pa.float32()),
    "bytes": lambda n, kind: pa.array([b"\x00\xff"] * n),
    "truth": lambda n, kind: pa.array([True] * n),
    "lists": lambda n, kind: pa.array([[None, 1]] * n, pa.list_(pa.int64())),
    "words": lambda n, kind: pa.array([["a", None]] * n, pa.list_(pa.string())),
    "empty": lambda n, kind: pa.array([[]] * n, pa.list_(pa.float64())),
    "times": lambda n, kind: pa.array([-(2**45)] * n, pa.timestamp("s")),
    "exact": lambda n, kind: pa.array([10**30] * n, pa.decimal128(38, 0)),
    "structs": lambda n, kind: pa.array([{"a": 1}] * n),
    "same": lambda n, kind: None,
}


@st.composite
def damage(draw: Any, file: Path) -> str:
    """Damage `file` and say how."""
    kinds = {".json": _json, ".parquet": _table, ".safetensors": _vectors, ".jsonl": _lines}
    ways = [*((kinds[file.suffix],) * 6), _bits, _cut]
    return f"{file.name}: {draw(st.sampled_from(ways))(draw, file)}"


def _bits(draw: Any, file: Path) -> str:
    data = bytearray(file.read_bytes())
    bits = draw(st.lists(st.integers(0, max(0, 8 * len(data) - 1)), min_size=1, max_size=3))
    for bit in bits if data else ():
        data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)
    return f"bits {bits}"


def _cut(draw: Any, file: Path) -> str:
    data = file.read_bytes()
    size = draw(st.integers(0, len(data)))
    file.write_bytes(data[:size])
    return f"cut to {size}"


def _places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value[:5]) if isinstance(value, list) else ()
    return [at, *(place for key, one in inner for place in _places(one, (*at, key)))]


def _json(draw: Any, file: Path) -> str:
    value = json.loads(file.read_text(encoding="utf-8"))
    place = draw(st.sampled_from(_places(value)))
    remove = bool(place) and draw(st.booleans())
    odd = draw(st.sampled_from(ODD))
    if place:
        holder = value
        for key in place[:-1]:
            holder = holder[key]
        if remove:
            del holder[place[-1]]
        else:
            holder[place[-1]] = odd
    else:
        value = odd
    file.write_text(json.dumps(value), encoding="utf-8")
    return f"{place} {'removed' if remove else repr(odd)}"


def _lines(draw: Any, file: Path) -> str:
    entry = {"id": "a", "time": "t", "neuron": 1, "name": "n", "kind": "note", "text": "x"}
    key = draw(st.sampled_from([*entry, "of"]))
    text = json.dumps({**entry, key: draw(st.sampled_from(ODD))})
    for number in ("1e999", "-1e999", "9" * 5000, "9" * 400, "[" * 100_000):
        if draw(st.integers(0, 9)) == 0:
            text = text.replace('"neuron": 1', f'"neuron": {number}')
    file.write_text(file.read_text() + text + "\n")
    return text[:100]


def _table(draw: Any, file: Path) -> str:
    table = pq.read_table(file)
    name = draw(st.sampled_from(table.column_names))
    at = table.schema.get_field_index(name)
    way = draw(st.sampled_from([*COLUMNS, "gone", "no rows", "twice", "upside down", "one row"]))
    if way in COLUMNS:
        made = COLUMNS[way](len(table), table.schema.field(name).type)
        table = table.set_column(at, name, table[name].take([0] * len(table)) if made is None else made)
    elif way == "gone":
        table = table.remove_column(at)
    elif way == "twice":
        table = pa.concat_tables([table, table])
    else:
        rows = {"no rows": [], "one row": [0][: len(table)], "upside down": range(len(table))[::-1]}[way]
        table = table.take(pa.array(rows, pa.int64()))
    pq.write_table(table, file)
    return f"{name} {way}"


def _vectors(draw: Any, file: Path) -> str:
    arrays = load_file(file)
    name, way = (
        draw(st.sampled_from(sorted(arrays))),
        draw(st.sampled_from(["nan", "inf", "gone", "wide", "flat", "0"])),
    )
    if way == "gone":
        del arrays[name]
    else:
        one = arrays[name]
        made: dict[str, Any] = {
            "nan": lambda: np.full_like(one, np.nan), "inf": lambda: np.full_like(one, np.inf), "0": lambda: one[:0],
            "wide": lambda: np.concatenate([one, one], -1), "flat": lambda: one.reshape(-1),
        }  # fmt: skip
        arrays[name] = made[way]()
    save_file({key: np.ascontiguousarray(one) for key, one in arrays.items()}, file)
    return f"{name} {way}"
