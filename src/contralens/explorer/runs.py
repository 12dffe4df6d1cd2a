"""One run folder, opened for reading: tables in DuckDB, pictures and vectors left on the disk until asked for."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from contralens.checks import first_line, nearest
from contralens.data import audits, evaluations, verifications
from contralens.data.checked_reading import Checked, read_manifest
from contralens.data.final_labels import Judgements, final_labels, meanings_of, standing, tests_of
from contralens.data.folder_kinds import ADDED, RELATIONS
from contralens.data.notes import Note
from contralens.data.runs import READABLE
from contralens.data.table_folders import plain
from contralens.data.trust import SIGNATURE, made_here
from contralens.errors import InputError, RunError
from contralens.explorer.columns import NEEDED, OF_AUDIT, OPTIONAL, QUIET, WHY, checked, schema_of
from contralens.explorer.pictures import Pictures, inside
from contralens.explorer.vectors import Vectors
from contralens.specs import gamma_of

LARGEST = 64 << 20
"""Bytes of the largest JSON file that is read."""


MANIFESTS: dict[str, tuple[str, str, Sequence[int]]] = {
    "": ("manifest.json", "Run", READABLE),
    "evaluation": ("manifest.json", "Evaluation", evaluations.READABLE),
    "audit": ("audit.json", "Audit", audits.READABLE),
    "verification": ("verification.json", "Verification", verifications.READABLE),
    ADDED: (ADDED, "Added", (1,)),
}
NONE: Mapping[int, Note] = {}
OF_LABELS = ("overview", "index", "index.gz", "named", "summary")
"""What is remembered of a run that hangs on its labels."""
ADDED_FILES = ("maps.parquet", "classes.parquet", "layout.parquet")


class OpenRun:
    """A run folder, read as it was when opened; `fresh` shows whether the folder still holds the same run."""

    def __init__(self, key: str, path: Path, trust_code: bool = False, corrections: Mapping[int, Note] = NONE) -> None:
        self.key, self.path = key, path
        self.stamp = stamp(path)
        self._held: dict[str, Checked] = {}
        self._file("labels.parquet")
        self.manifest = plain(self._folder("").manifest)
        self.trusted = trust_code or made_here(self.manifest)
        self.manifest.pop(SIGNATURE, None)  # it goes to no browser and no exported page
        self.pictures = Pictures(self._file("thumbnails.parquet"))
        self.db = duckdb.connect(
            ":memory:", config={"enable_external_access": "false", "threads": 2, "python_enable_replacements": "false"}
        )
        self.missing: list[dict[str, str]] = []
        self._columns: dict[str, dict[str, str]] = {}
        self.tables: set[str] = set()
        for name in NEEDED:
            if name != "labels":
                self._load(name)
        for name, (file, _, what) in OPTIONAL.items():
            try:
                if (path / file).exists():
                    self._load(name, file)
                elif name == "candidates" and beside(path).is_file():
                    self._candidates()
                elif name not in QUIET or (name in OF_AUDIT and "audit" in self.tables):
                    self.missing.append({"what": what, "why": WHY.get(name, f"this run has no {file}")})
            except RunError as e:
                self.missing.append({"what": what, "why": str(e)})
        self.cache: dict[str, Any] = {}
        self.lock = threading.RLock()
        self._tested()
        self.judge(corrections)
        self.audit = self._audited()
        self.scorers: list[str] = [s for s in self.manifest.get("scorers", []) if isinstance(s, str)]
        found = [s for (s,) in self.query("SELECT DISTINCT scorer FROM labels")]
        self.scorers = [s for s in self.scorers if s in found] or sorted(found)
        if not self.scorers:
            raise RunError(f"{path} cannot be read as a run: it has no labels")
        primary = self.manifest.get("primary")
        self.primary: str = primary if primary in self.scorers else self.scorers[-1]
        self.neurons: list[int] = [n for (n,) in self.query("SELECT neuron FROM neurons ORDER BY neuron")]
        self.vectors: Vectors | None = None
        try:
            labeled = [n for (n,) in self.query("SELECT DISTINCT neuron FROM exemplars ORDER BY neuron")]
            concepts = self._concepts()
            self.vectors = Vectors(self._file("vectors.safetensors"), labeled, concepts)
        except RunError as e:
            self.missing.append({"what": "the gamma slider, neighbours, the map and search", "why": str(e)})
        self.gamma = gamma_of(self.primary) or 0.0

    def close(self) -> None:
        self.db.close()

    @property
    def title(self) -> str:
        target = self.manifest.get("target")
        if isinstance(target, dict) and target.get("name"):
            layer = target.get("layer")
            return f"{target['name']} · {layer}" if layer else str(target["name"])
        return self.path.name

    def fresh(self) -> bool:
        try:
            return stamp(self.path) == self.stamp
        except RunError:
            return False

    def judge(self, corrections: Mapping[int, Note]) -> None:
        """Load the labels as finally judged: by the run, its evaluation, and people's corrections.

        Raises:
            RunError: they cannot be read.
        """
        with self.lock:
            neurons = self._table("SELECT neuron, name FROM neurons")
            verdicts = self._table("SELECT * FROM verdicts") if "verdicts" in self.tables else None
            level = None
            if verdicts is not None:
                level = _fdr_of(self._folder("evaluation").manifest)
            noted = standing(corrections, neurons)
            self.noted = _digest(noted)
            tested = self._table("SELECT * FROM experiments") if "experiments" in self.tables else None
            steered = self._table("SELECT * FROM steered") if "steered" in self.tables else None
            judged = Judgements(
                tests_of(verdicts),
                level,
                noted,
                verifications.outcomes_of(tested, steered),
                verifications.editors_of(tested),
                meanings_of(verdicts),
            )
            primary = str(self.manifest.get("primary"))
            level = _fdr_of(self.manifest)
            self._load("labels", judged=lambda labels: final_labels(labels, primary, judged, level))
            for name in OF_LABELS:
                self.cache.pop(name, None)

    def _table(self, sql: str) -> pa.Table:
        with self.db.cursor() as cursor:
            return cursor.sql(sql).to_arrow_table()

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of one statement; each call has a cursor of its own, so threads do not meet."""
        with self.db.cursor() as cursor:
            return cursor.execute(sql, list(values)).fetchall()

    def records(self, sql: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        with self.db.cursor() as cursor:
            rows = cursor.execute(sql, list(values)).fetchall()
            names = [d[0] for d in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in rows]

    def arrays(self, sql: str, values: Sequence[Any] = ()) -> dict[str, Any]:
        """Columns of one statement as numpy arrays, masked where there are nulls."""
        with self.db.cursor() as cursor:
            return dict(cursor.execute(sql, list(values)).fetchnumpy())

    def columns(self, table: str) -> dict[str, str]:
        """Name and SQL type of each column of a table."""
        if table not in self._columns:
            self._columns[table] = {name: kind for name, kind, *_ in self.query(f'DESCRIBE "{table}"')}
        return self._columns[table]

    def scorer(self, name: str | None) -> str:
        """The scorer asked for, by default the primary."""
        if name is None:
            return self.primary
        if name not in self.scorers:
            raise InputError(
                f"this run has no scorer {name!r}{nearest(name, self.scorers)} (it has: {', '.join(self.scorers)})"
            )
        return name

    def _concepts(self) -> list[str]:
        if "concepts" not in self.tables:
            raise RunError(f"{self.path.name} has no concepts.parquet, written by `contralens label` since 0.1")
        return [c for (c,) in self.query("SELECT concept FROM concepts ORDER BY rowid")]

    def _candidates(self) -> None:
        """What `contralens propose` left beside the run."""
        file = beside(self.path)
        try:
            if file.is_symlink() or file.parent.is_symlink() or file.stat().st_size > LARGEST:
                raise ValueError("a link, or too large")
            given = read_manifest(file, "Candidates", (1,))["provenance"]
            kinds = {"neuron": pa.int64(), "concept": pa.string(), "text": pa.string(), "model": pa.string(),
                     "prompt": pa.string(), "place": pa.int64(), "score": pa.float64()}  # fmt: skip
            table = pa.table({k: pa.array([p.get(k) for p in given], t) for k, t in kinds.items()})
        except (RunError, OSError, ValueError, KeyError, TypeError, OverflowError, pa.ArrowException) as e:
            raise RunError(f"{file} cannot be read: {first_line(e)}") from e
        self._put("candidates", table)

    def _tested(self) -> None:
        """Drop experiments on another network, and those with outcomes that nobody knows."""
        if "experiments" not in self.tables:
            return
        marks = ",".join("?" * len(verifications.OUTCOMES))
        wrong = self.query(
            f"SELECT count(*) FROM experiments WHERE label IS NULL OR outcome IS NULL OR outcome NOT IN ({marks})",
            verifications.OUTCOMES,
        )[0][0]
        target = self.manifest.get("target")
        is_own = (
            isinstance(target, dict) and target.get("fingerprint") == self._folder("verification").manifest["target"]
        )
        if wrong or not is_own:
            why = f"{wrong} labels have no known outcome" if wrong else "they were made on another network"
            self.missing.append({"what": OPTIONAL["experiments"][2], "why": why})
            self.tables -= {"experiments", "edited", "steered"}

    def _audited(self) -> dict[str, Any] | None:
        """audit.json, where the audit can be reported whole; else none of its tables is shown."""
        if "audit" in self.tables:
            try:
                told: dict[str, Any] = plain(self._folder("audit").manifest)
                marks = ",".join("?" * len(audits.VERDICTS))
                wrong = self.query(
                    f"SELECT count(*) FILTER (verdict IS NULL OR verdict NOT IN ({marks})), "
                    "count(*) - count(DISTINCT neuron) FROM audit",
                    audits.VERDICTS,
                )[0]
                if any(wrong):
                    raise RunError(
                        f"{self.path / 'audit/neurons.parquet'} cannot be read: {wrong[0]} of its rows have no known "
                        f"verdict and {wrong[1]} no single neuron"
                    )
                return told
            except RunError as e:
                self.missing.append({"what": OPTIONAL["audit"][2], "why": str(e)})
        self.tables -= set(OF_AUDIT)
        return None

    def _load(self, name: str, path: str | None = None, judged: Callable[[pa.Table], pa.Table] | None = None) -> None:
        file = self._file(path or f"{name}.parquet")
        try:
            with file.open("rb") as opened:
                table = pq.ParquetFile(opened, page_checksum_verification=True)
                schema = schema_of(name, table.schema_arrow)
                batches = (checked(batch, schema) for batch in table.iter_batches(8192, columns=schema.names))
                if judged is not None:
                    self._put(name, judged(pa.Table.from_batches(batches, schema)))
                else:
                    self._put(name, pa.RecordBatchReader.from_batches(schema, batches))
        except (RunError, pa.ArrowException, duckdb.Error, OSError) as e:
            partial = "" if isinstance(e, RunError) else ", it may be truncated or still being written"
            raise RunError(f"{file} cannot be read{partial}: {first_line(e)}") from e

    def _file(self, name: str) -> Path:
        """A file of the run that is as it was written, as far as the run can tell."""
        part, _, own = name.rpartition("/")
        if not part and own in ADDED_FILES:
            part = ADDED
            if not (self.path / ADDED).exists():  # of a version without digests
                return inside(self.path, name)
        try:
            return self._folder(part).file(own)
        except FileNotFoundError as e:
            raise RunError(f"{e.filename} is missing") from None
        except OSError as e:
            raise RunError(f"{self.path / name} cannot be read: {first_line(e)}") from e

    def _folder(self, part: str) -> Checked:
        """The run ("") or a part of it, once its manifest has been looked at."""
        if part not in self._held:
            name, model, formats = MANIFESTS[part]
            folder = self.path if part in ("", ADDED) else self.path / part
            file = inside(folder, name)
            if file.stat().st_size > LARGEST:
                raise RunError(f"{folder / name} cannot be read: it is larger than {LARGEST >> 20} MB")
            self._held[part] = Checked.of(folder, name, model, formats)
        return self._held[part]

    def _put(self, name: str, rows: Any) -> None:
        self.db.register("incoming", rows)
        self.db.execute(f'CREATE OR REPLACE TABLE "{name}" AS SELECT * FROM incoming')
        self.db.unregister("incoming")
        self.tables.add(name)
        self._columns.pop(name, None)


def _digest(corrections: Mapping[int, Note]) -> str:
    """Hex digits that change with the corrections; nothing without any."""
    told = "\n".join(f"{n} {note['time']} {note['text']}" for n, note in sorted(corrections.items()))
    return hashlib.sha256(told.encode(errors="replace")).hexdigest()[:16] if told else ""


def _fdr_of(manifest: Any) -> Any:
    """The false-discovery rate that a null test went by, as the manifest of a run or an evaluation has it."""
    told = manifest.get("chance") if isinstance(manifest, dict) else None
    return told.get("fdr") if isinstance(told, dict) else None


def keys(paths: Sequence[Path]) -> dict[str, Path]:
    """A name for URLs for each run folder: its own name, made plain and unique."""
    out: dict[str, Path] = {}
    for path in paths:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", path.resolve().name).strip("-.") or "run"
        key, n = plain, 2
        while key in out:
            key, n = f"{plain}-{n}", n + 1
        out[key] = path
    return out


def stamp(path: Path) -> str:
    """16 hex digits that change when the run is written again."""
    try:
        parts = []
        for name in ("manifest.json", *(f"{t}.parquet" for t in (*NEEDED, "thumbnails"))):
            status = os.stat(path / name)
            parts.append(f"{status.st_ino} {status.st_size} {status.st_mtime_ns}")
        for name in (
            "vectors.safetensors",
            "audit/audit.json",
            "verification/verification.json",
            RELATIONS,
            *(file for file, _, _ in OPTIONAL.values()),
            str(beside(path)),
        ):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                status = os.stat(path / name)
                parts.append(f"{name} {status.st_ino} {status.st_size} {status.st_mtime_ns}")
    except OSError as e:
        if not path.is_dir():
            raise RunError(f"there is no run folder {path}") from e
        raise RunError(
            f"{path} is not a whole run folder: {Path(e.filename).name} is missing; if the run is being written, wait"
        ) from e
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def beside(path: Path) -> Path:
    """Where candidates of a run are kept: in a folder of their own beside it."""
    path = path.resolve()
    return path.parent / f"{path.name}.candidates" / "candidates.json"
