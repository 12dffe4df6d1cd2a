"""A finished audit, kept inside the run folder that it judges. Needs no torch.

RUN/audit/ holds audit.json (how the numbers were got) and

- neurons.parquet: neuron, verdict ("expected", "spurious", "undecided" or "unexplained"), concept (null if undecided or
  unexplained), side (of the list that the best concept is from, "expected", "spurious" or "other", of all neurons),
  best (that concept), score (the scorer's, of its best wording), empty (the same for a template with nothing in it), z
  (score in deviations of the null), expected, spurious (the largest z on each side), noise (deviation of their
  difference), p, fdr, confidence (that best is the right concept of the list, 0 to 1), reason (why there is no verdict,
  "" where there is one), clarity, redundancy, polysemanticity
- influence.parquet: neuron, class, head, gradient, ablation: three measures of what the neuron adds to the class score,
  mean over the images that activate it, in units of that score; NaN where one was not computed
- pruning.parquet: group ("all", "balanced", "class=NAME", "COLUMN=VALUE"), images, before, after, difference, low,
  high: accuracy with 95 % paired bootstrap interval of the difference; mode ("hard", "soft", or "random", the control)
- mask.safetensors: keep (N) float32 in [0,1], what each neuron of the layer is multiplied by
- head.safetensors, where a new head was asked for: see `contralens.data.new_heads`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from contralens.data.checked_reading import Checked
from contralens.data.folder_kinds import AUDIT
from contralens.data.new_heads import NewHead, load_head
from contralens.data.seals import seal
from contralens.data.showing import Tabled
from contralens.data.table_folders import part_of_run, plain, reading, with_newer_columns, write_tables
from contralens.errors import InputError

FORMAT = 3
READABLE = (1, 2, FORMAT)
"""Formats that can be read; format 1 has no digests, 1 and 2 know no undecided neurons."""
VERDICTS = ("expected", "spurious", "undecided", "unexplained")
TABLES = ("neurons", "influence", "pruning")

NEURONS = pa.schema([
    ("neuron", pa.int32()), ("verdict", pa.string()), ("concept", pa.string()), ("side", pa.string()),
    ("best", pa.string()), ("score", pa.float64()), ("empty", pa.float64()), ("z", pa.float64()),
    ("expected", pa.float64()), ("spurious", pa.float64()), ("noise", pa.float64()), ("p", pa.float64()),
    ("fdr", pa.float64()), ("confidence", pa.float64()), ("reason", pa.string()),
    ("clarity", pa.float64()), ("redundancy", pa.float64()), ("polysemanticity", pa.float64()),
])  # fmt: skip
INFLUENCE = pa.schema([
    ("neuron", pa.int32()), ("class", pa.string()), ("head", pa.float64()), ("gradient", pa.float64()),
    ("ablation", pa.float64()),
])  # fmt: skip
PRUNING = pa.schema([
    ("group", pa.string()), ("images", pa.int64()), ("before", pa.float64()), ("after", pa.float64()),
    ("difference", pa.float64()), ("low", pa.float64()), ("high", pa.float64()), ("mode", pa.string()),
])  # fmt: skip
SCHEMAS = dict(zip(TABLES, (NEURONS, INFLUENCE, PRUNING), strict=True))
NEW = ("noise", "confidence", "reason")
"""Columns of neurons.parquet that formats 1 and 2 miss."""


@dataclass(frozen=True, repr=False)
class Audit(Tabled):
    """Neurons that represent expected and spurious concepts, their effect on the classes, and the effect of pruning.

    >>> import contralens
    >>> found = contralens.audit("run", {"expected": ["striped"], "spurious": ["red"]}, fakes=50, sample=0)
    >>> sum(found.counts.values()), len(found.rows()), found.mask.shape, found.path.name
    (64, 64, (64,), 'audit')
    >>> all(row["concept"] == "red" for row in found.rows("spurious")), len(found.warnings) > 0
    (True, True)
    >>> found.conclusion.endswith("."), found.explanation
    (True, [...])
    """

    manifest: dict[str, Any]
    """audit.json: concept list, scorer, encoder, thresholds, seed, labeled set, agreement, warnings."""
    neurons: pa.Table
    influence: pa.Table
    pruning: pa.Table
    mask: NDArray[np.float32]
    """(N): what `contralens.pruned` multiplies each neuron of the layer by; 0 is pruned, 1 left alone."""
    new_head: NewHead | None = None
    """The head that `new_head=True` fitted."""
    path: Path | None = field(default=None, compare=False)

    @property
    def counts(self) -> dict[str, int]:
        """Verdict -> neurons."""
        found = self.neurons["verdict"].to_pylist()
        return {verdict: found.count(verdict) for verdict in VERDICTS}

    @property
    def conclusion(self) -> str:
        """The conclusion in one line; "" in an audit of an older version."""
        return str(self.manifest.get("conclusion", ""))

    @property
    def explanation(self) -> list[str]:
        """Details of the conclusion: where verdicts and pruning disagree, and what verdicts mean."""
        return [str(line) for line in self.manifest.get("explanation", [])]

    @property
    def warnings(self) -> list[str]:
        """Caveats."""
        return list(self.manifest["warnings"])

    def rows(self, verdict: str | None = None) -> list[dict[str, Any]]:
        """Rows of `neurons`, by default of all in order; of one verdict those with the largest `margin` first.

        Raises:
            InputError: no such verdict.
        """
        if verdict is None:
            return list(self.neurons.to_pylist())
        if verdict not in VERDICTS:
            raise InputError(f"a verdict is one of {', '.join(VERDICTS)}; got {verdict!r}")
        rows = self.neurons.filter(pc.field("verdict") == verdict).to_pylist()
        return sorted(rows, key=lambda row: (-m if (m := margin(row)) == m else np.inf, row["neuron"]))

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {verdict}" for verdict, n in self.counts.items())
        return f"Audit({counts})"

    def _repr_html_(self) -> str:
        from contralens.data.views import audit_view

        return audit_view(self)._repr_html_()

    def save(self, run: str | Path) -> Audit:
        """Write the audit into a run folder, atomically; replaces an older audit.

        Raises:
            InputError: the folder is not a run.

        >>> import contralens
        >>> listed = {"expected": ["striped"], "spurious": ["red"]}
        >>> found = contralens.audit("run", listed, fakes=50, sample=0, save=False)
        >>> found.save("run").path.as_posix()
        'run/audit'
        """
        told = self.manifest
        about = {
            "format": "contralens mask 1", "mode": told["mode"], "target": told["target"]["name"],
            "layer": told["target"]["layer"], "fingerprint": told["target"]["fingerprint"],
            "concepts": told["concepts"]["title"],
        }  # fmt: skip
        with part_of_run(run := Path(run), AUDIT) as folder:
            write_tables(folder, {name: getattr(self, name) for name in TABLES})
            (folder / "mask.safetensors").write_bytes(save({"keep": self.mask}, {k: str(v) for k, v in about.items()}))
            if self.new_head is not None:
                self.new_head.save(folder / "head.safetensors")
            manifest = seal(folder, "audit.json", plain({**told, "format": FORMAT}))
        return replace(self, manifest=manifest, path=run / "audit")


def margin(row: Mapping[str, Any]) -> float:
    """How much more a neuron stands out in its side of the list than in the other, in deviations of chance.

    >>> margin({"side": "spurious", "expected": 1.0, "spurious": 3.5})
    2.5
    """
    ends = row["expected"], row["spurious"]
    return float(ends[0] - ends[1] if row["side"] == "expected" else ends[1] - ends[0])


def load_audit(run: str | Path) -> Audit:
    """The audit inside a run folder.

    Args:
        run: the run's folder.

    Raises:
        InputError: there is none.
        RunError: it cannot be read.

    >>> import contralens
    >>> made = contralens.audit("run", {"expected": ["striped"], "spurious": ["red"]}, fakes=50, sample=0)
    >>> load_audit("run").counts == made.counts
    True
    """
    folder = Path(run) / "audit"
    with reading(folder, f"{run} holds no audit; make one with: contralens audit {run} --concepts LIST"):
        held = Checked.of(folder, "audit.json", "Audit", READABLE)
        tables = held.tables({name: [c for c in schema.names if c not in NEW] for name, schema in SCHEMAS.items()})
        mask = read_mask(held.file("mask.safetensors"))
        head = load_head(held.file("head.safetensors")) if held.has("head.safetensors") else None
    tables["neurons"] = with_newer_columns(tables["neurons"], NEURONS, NEW).select(NEURONS.names)
    return Audit(held.manifest, **tables, mask=mask, new_head=head, path=folder)


def read_mask(file: str | Path) -> NDArray[np.float32]:
    """The mask (N) in a mask.safetensors.

    Raises:
        InputError: it is no such file.
    """
    try:
        with safe_open(file, "np") as f:
            return np.asarray(f.get_tensor("keep"), np.float32)
    except (SafetensorError, OSError) as e:
        if isinstance(e, FileNotFoundError):
            raise
        raise InputError(f"{file} is not a mask (a safetensors file that holds `keep`): {e}") from e
