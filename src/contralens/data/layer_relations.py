"""Matches and edges between the layers of a network, kept in the runs that they start from: RUN/atlas.parquet.

`contralens.atlas` with links or edges adds it; the explorer's page of all layers reads it. Labels are not in it: they
are those that the runs have when it is read. No torch.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from contralens.checks import first_line
from contralens.data.added_files import add_to_run
from contralens.data.atlases import Atlas
from contralens.data.checked_reading import Checked
from contralens.data.folder_kinds import ADDED, RELATIONS
from contralens.data.runs import Run
from contralens.errors import ContralensError, RunError

MATCH = "match"
SCHEMA = pa.schema([
    ("neuron", pa.int32()), ("other_layer", pa.string()), ("other_fingerprint", pa.string()), ("other", pa.int32()),
    ("kind", pa.string()), ("value", pa.float64()), ("null", pa.float64()), ("p", pa.float64()), ("holds", pa.bool_()),
])  # fmt: skip
"""Of a neuron of the run: the other layer, fingerprint of its target, and its neuron; `kind` is "match" (the neuron
that correlates most), "weights" or "ablation" (the other, of the next layer, is fed). `value` is the correlation or
effect, `null` the threshold from null neurons or null edges, `p` that of an edge; `holds`: value above threshold."""
COPY = {b"shared": b"true"}
"""Metadata of the file in a run that was pulled."""
P = 0.05
"""Edges hold up to this p."""


def keep(found: Atlas, runs: Sequence[Run]) -> list[str]:
    """Add the links and edges of an atlas to the folders of its runs; why a folder did not take them.

    What a folder holds of a kind that this atlas did not look for stays.

    >>> from contralens.data.atlases import atlas_of, opened
    >>> runs = opened("run")
    >>> keep(atlas_of(runs), runs)
    []
    """
    by_key = dict(zip(found.layers["run"].to_pylist(), runs, strict=True))
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in found.links.to_pylist():
        rows.setdefault(row["run"], []).append({
            **_place(row, by_key), "kind": MATCH, "value": row["correlation"], "null": row["threshold"], "p": None,
            "holds": row["matches"],
        })  # fmt: skip
    for row in found.edges.to_pylist():
        rows.setdefault(row["run"], []).append({
            **_place(row, by_key), "kind": row["by"], "value": row["effect"], "null": row["threshold"], "p": row["p"],
            "holds": row["p"] <= P,
        })  # fmt: skip
    notes = []
    for key, own in rows.items():
        path = by_key[key].path
        if path is None:
            continue
        try:
            new = {(row["kind"], row["other_layer"]) for row in own}
            kept = [row for row in read(path).to_pylist() if (row["kind"], row["other_layer"]) not in new]
        except RunError:  # damaged: made anew
            kept = []
        try:
            _add(path, pa.Table.from_pylist([*kept, *own], schema=SCHEMA))
        except ContralensError as e:
            notes.append(f"{key}: links and edges were not added to its folder ({e})")
    return notes


def _add(run: Path, table: pa.Table) -> None:
    out = io.BytesIO()
    pq.write_table(table, out, write_page_checksum=True)
    add_to_run(run, {RELATIONS: out.getvalue()})


def send(run: Path, to: Path) -> None:
    """Add the links and edges of a run to a copy of it, marked as a copy; nothing where the run has none.

    Raises:
        RunError: the run's file is damaged.

    >>> send(Path("run"), Path("copy"))
    """
    if (run / RELATIONS).is_file():
        _add(to, read(run).replace_schema_metadata(COPY))


def copied(run: Path) -> bool:
    """Whether the links and edges in a run came with it, and no `contralens atlas` added to them since.

    >>> copied(Path("run"))
    False
    """
    try:
        return dict(pq.read_schema(run / RELATIONS).metadata or {}).items() >= COPY.items()
    except (OSError, pa.ArrowException):
        return False


def _place(row: Mapping[str, Any], by_key: Mapping[str, Run]) -> dict[str, Any]:
    target = by_key[row["other_run"]].manifest["target"]
    return {
        "neuron": row["neuron"], "other_layer": target["layer"], "other_fingerprint": target["fingerprint"],
        "other": row["other"],
    }  # fmt: skip


def read(run: Path) -> pa.Table:
    """As `SCHEMA`; empty where the run has none.

    Raises:
        RunError: the file is damaged.

    >>> len(read(Path("run")))
    0
    """
    if not (run / RELATIONS).is_file():
        return SCHEMA.empty_table()
    try:
        file = Checked.of(run, ADDED, "Added", (1,)).file(RELATIONS)
        found = pq.read_table(file, page_checksum_verification=True).replace_schema_metadata(None)
        return found.select(SCHEMA.names).cast(SCHEMA)
    except (RunError, OSError, KeyError, ValueError, pa.ArrowException) as e:
        raise RunError(f"{run / RELATIONS} cannot be read: {first_line(e)}; run `contralens atlas` again") from e
