"""Whether labels are right, where that is known: output neurons with class names, the rendered world, given names."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from contralens.checks import first_line
from contralens.data.evaluations import values_table
from contralens.data.runs import Run
from contralens.data.synonyms import plain, synonyms, words_of
from contralens.errors import InputError
from contralens.evaluation.measuring import Session
from contralens.math.metric_sanity import Sanity

RIGHT = "right"
"""Name of the metric: 1 for a right label, 0 for a wrong one, NaN where the truth is not known."""
HALF = 0.5
"""A metric that ranks fewer than this share of the wrong labels below the true name prefers the wrong ones."""
Names = Mapping[int | str, str | Iterable[str]]
"""A neuron, by number or name, to its true name or names."""


@dataclass(frozen=True)
class Truth:
    """What some neurons of a run respond to."""

    source: str
    """Where it is from, in words."""
    known: NDArray[np.bool_]
    """(N) whether the truth of the neuron is known."""
    is_right: Callable[[int, str], bool]
    """Whether a label is right for a neuron that is known."""
    names: Mapping[int, str]
    """Neuron -> its true name as one would write it, where there is one."""

    def right(self, rows: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
        """(len(rows)) of rows with neuron and label: 1.0, 0.0, or NaN."""
        told = [
            float(row["label"] is not None and self.is_right(row["neuron"], row["label"]))
            if self.known[row["neuron"]] else float("nan")
            for row in rows
        ]  # fmt: skip
        return np.array(told, np.float64)


def truth_of(run: Run, given: Names | str | Path | None = None) -> Truth | None:
    """The truth about a run's neurons: `given`, else the rendered world's, else the class names of an output layer.

    Args:
        given: neuron -> true name or names; or a JSON file with that, or a CSV file with columns neuron and label.

    Raises:
        InputError: a file that cannot be read, or neurons that the run does not have.
    """
    if given is not None:
        return _named(run, _read(given) if isinstance(given, str | Path) else given, "names that were given")
    target = run.manifest["target"]
    spec = str(target.get("spec") or "")
    if spec.startswith("world:") and target.get("sae") is None:
        return _rendered(run, spec.removeprefix("world:"))
    neurons = run.neurons["name"].to_pylist()
    numbered = all(str(name).rpartition("/")[2].isdigit() for name in neurons)
    if target["layer"] == "." and target.get("sae") is None and not numbered:
        return _named(run, dict(enumerate(map(str, neurons))), "class names of the output layer")
    return None


def against_truth(
    session: Session, truth: Truth, scorers: Sequence[str], tables: Sequence[pa.Table]
) -> tuple[list[pa.Table], dict[str, Any]]:
    """The metric `RIGHT` of each scorer's labels, and how the other metrics rank true names and wrong labels.

    A metric that prefers general or merely plausible words gives a wrong label a higher value than the true name of
    the same neuron. "ranked below the true name" is the share of wrong labels for which it does not; ties count half.
    """
    rights = [values_table(session.rows(s), s, {RIGHT: truth.right(session.rows(s))}) for s in scorers]
    details: dict[str, Any] = {"source": truth.source, "neurons": int(truth.known.sum())}
    if session.judge is None or session.made is not None or not truth.names:
        return rights, details
    own = session.true_names(truth.names)
    wrong = {
        (row["neuron"], row["scorer"]) for table in rights for row in table.to_pylist() if row["value"] == 0.0
    }  # fmt: skip
    wins: dict[str, list[float]] = {}
    for row in (row for table in tables for row in table.to_pylist()):
        true = own.get(row["metric"], {}).get(row["neuron"], float("nan"))
        if (row["neuron"], row["scorer"]) in wrong and true == true and row["value"] == row["value"]:
            wins.setdefault(row["metric"], []).append(float(true > row["value"]) + 0.5 * float(true == row["value"]))
    details["ranked below the true name"] = {metric: float(np.mean(won)) for metric, won in wins.items()}
    return rights, details


def sanity_record(tests: Mapping[str, Sanity], below: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """The sanity tests as an evaluation keeps them; "truth" is the third, where true names are known."""
    out = {}
    for name, test in tests.items():
        fails = below.get(name, 1.0) < HALF
        out[name] = asdict(test) | {
            "truth": below.get(name), "passes": False if fails else test.passes,
            "misses": [*test.misses, *(["truth"] if fails else [])],
        }  # fmt: skip
    return out


def _named(run: Run, names: Names, source: str) -> Truth:
    at = {str(name): n for n, name in enumerate(run.neurons["name"].to_pylist())}
    wordnet = synonyms()
    accepted: dict[int, set[str]] = {}
    written: dict[int, str] = {}
    for neuron, some in names.items():
        n = neuron if isinstance(neuron, int) else at.get(neuron, int(neuron) if neuron.isdigit() else -1)
        if not 0 <= n < run.neurons.num_rows:
            raise InputError(f"the truth names neuron {neuron!r}, which the run does not have")
        each = [some] if isinstance(some, str) else list(some)
        written[n] = each[0].partition(",")[0].strip()
        accepted[n] = {word for name in each for word in words_of(name, wordnet)}
    known = np.zeros(run.neurons.num_rows, bool)
    known[list(accepted)] = True
    also = "" if wordnet is None else "; synonyms by WordNet count"
    return Truth(source + also, known, lambda n, label: plain(label) in accepted[n], written)


def _rendered(run: Run, name: str) -> Truth | None:
    """What the shipped networks of the rendered world were measured to respond to."""
    from contralens.bench.world_images import score_labels
    from contralens.world.captions import concept_text
    from contralens.world.scenes import FACTORS
    from contralens.world.truth import known, load_truth

    try:
        truths = load_truth(name, run.manifest["target"]["layer"])
    except (InputError, KeyError):  # no network of the rendered world, or a layer that was not measured
        return None
    if len(truths) != run.neurons.num_rows:
        return None
    there = known(truths)
    return Truth(
        "measured in the rendered world", there,
        lambda n, label: bool(score_labels([label], [truths[n]])[0]),
        {n: concept_text(f, FACTORS[f][i]) for n in np.flatnonzero(there).tolist() for f, i in truths[n].levels[:1]},
    )  # fmt: skip


def _read(file: str | Path) -> Names:
    path = Path(file)
    try:
        if path.suffix.lower() == ".json":
            told = json.loads(path.read_text(encoding="utf-8"))
        else:
            table = pyarrow.csv.read_csv(path)
            if not {"neuron", "label"} <= set(table.column_names):
                raise InputError(f"{path} needs the columns neuron and label; it has {', '.join(table.column_names)}")
            told = {}
            for neuron, label in zip(table["neuron"].to_pylist(), table["label"].to_pylist(), strict=True):
                told.setdefault(neuron if isinstance(neuron, int) else str(neuron), []).append(str(label))
    except (OSError, ValueError, pyarrow.ArrowInvalid) as e:
        raise InputError(f"the truth {path} cannot be read: {first_line(e)}") from e
    usable = isinstance(told, dict) and all(
        isinstance(v, str) or (isinstance(v, list) and v and all(isinstance(x, str) for x in v)) for v in told.values()
    )
    if not usable or not told:
        raise InputError(f"the truth {path} must give each neuron a name, or a list of names")
    return {int(k) if isinstance(k, str) and k.isdigit() else k: v for k, v in told.items()}
