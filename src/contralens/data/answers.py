"""Words for what a run answers of a neuron: its label, or why it has none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from contralens.checks import counted
from contralens.data.final_labels import CORRECTED
from contralens.data.runs import Run
from contralens.data.verifications import OUTCOMES
from contralens.types import SUPPORTED, UNCERTAIN, word_of

NO_LABEL = "no label beats random images"
"""Said of a status `chance`: what the null test rejected (`contralens.math.null_test`)."""


def answer(row: Mapping[str, Any]) -> str:
    """The label in a row of a run's labels, or why there is none.

    >>> answer({"label": None, "status": "chance"}), answer({"label": None, "status": "dead"})
    ('no label beats random images', 'no label (dead)')
    """
    if row["label"] is not None:
        return str(row["label"])
    return NO_LABEL if row["status"] == "chance" else f"no label ({row['status']})"


def corrected(row: Mapping[str, Any]) -> str:
    """That a person gave the label, in a row of the labels as finally judged; empty where nobody did.

    >>> why = "corrected by a person, 2026-01-02T03:04:05Z"
    >>> corrected({"scorer": "csp", "status": "corrected", "label": "a dog", "best": "a cat", "why": why})
    'corrected by a person, 2026-01-02T03:04:05Z; csp said a cat'
    >>> corrected({"scorer": "csp", "status": "ok", "label": "a dog", "best": "a dog", "why": None})
    ''
    """
    return f"{row['why']}; {row['scorer']} said {row['best'] or 'nothing'}" if row["status"] == CORRECTED else ""


def rates(row: Mapping[str, Any]) -> str:
    """The null test of the label, where that was asked for; with the label rejected, if it was.

    >>> rates({"label": None, "status": "chance", "p": 0.21, "fdr": 0.5, "concepts": ["striped"]})
    'null test: striped rejected; p 0.21, false-discovery rate 0.5'
    >>> rates({"label": "red", "status": "ok", "p": None, "fdr": None, "concepts": ["red"]})
    ''
    """
    if row.get("fdr") is None or row["status"] == CORRECTED:
        return ""
    outcome = f"{row['concepts'][0]} rejected" if row["status"] == "chance" else "passed"
    return f"null test: {outcome}; p {row['p']:.2g}, false-discovery rate {row['fdr']:.2g}"


def tested(row: Mapping[str, Any]) -> str:
    """What an experiment on the label came to; empty where there was none.

    >>> said = "removing it, the neuron loses only 10% (editor world)"
    >>> tested({"verified": "refuted", "experiment": said}), tested({"label": "red"})
    ('refuted by experiment: removing it, the neuron loses only 10% (editor world)', '')
    """
    if row.get("verified") is None:
        return ""
    head = "not decided by experiment" if row["verified"] == "untested" else f"{row['verified']} by experiment"
    return f"{head}: {row['experiment']}"


def trust(row: Mapping[str, Any]) -> str:
    """How likely the label is right, with the word for it; empty where that was not asked for.

    >>> trust({"confidence": 0.934}), trust({"confidence": 0.898}), trust({"label": None})
    ('0.93 supported', '0.89 uncertain', '')
    """
    sure = row.get("confidence")
    if sure is None:
        return ""
    return f"{int(100 * sure) / 100:.2f} {word_of(sure)}"


def sure_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """How sure a label is, as `sure` of pages/parts.html shows it."""
    sure, tested_as = row.get("confidence"), row.get("verified")
    return {
        "trust": trust(row),
        "word": word_of(sure),
        "percent": 0 if sure is None else round(100 * sure),
        "verified": tested_as if tested_as in ("verified", "refuted") else None,
    }


def several(row: Mapping[str, Any]) -> str:
    """The meanings of a polysemantic neuron with shares and confidences; empty where there is one only.

    >>> several({"meanings": ["red", "striped"], "meaning_shares": [0.62, 0.38], "meaning_confidences": [0.95, None]})
    '2 meanings: red (62 %, 0.95 supported), striped (38 %)'
    >>> several({"meanings": ["red"], "meaning_shares": [1.0]}), several({})
    ('', '')
    """
    said = row.get("meanings") or []
    if len(said) < 2:
        return ""
    sure = row.get("meaning_confidences") or [None] * len(said)
    each = []
    for label, share, confidence in zip(said, row["meaning_shares"], sure, strict=True):
        inside = ", ".join(filter(None, [f"{share:.0%}".replace("%", " %"), trust({"confidence": confidence})]))
        each.append(f"{label} ({inside})")
    return f"{len(said)} meanings: {', '.join(each)}"


def because(row: Mapping[str, Any]) -> str:
    """Why the label is as likely right as it is, in one sentence.

    >>> because({"reasons": ["4 of 5 scorers agree", "but its contrasts are not much like its images"]})
    '4 of 5 scorers agree, but its contrasts are not much like its images'
    """
    return ", ".join(row.get("reasons") or [])


def supported(run: Run) -> str:
    """A line that counts the primary scorer's labels by confidence; empty where that was not asked for."""
    confidence = run.manifest.get("confidence") or {}
    told = Counter(word_of(row["confidence"]) for row in run.rows() if row.get("confidence") is not None)
    if not told:
        return ""
    by = [f"{counted(one['neurons'], 'known neuron')} ({one['from']})" for one in confidence.get("level set by", [])]
    level = f"; level set by {' and '.join(by)}" if by else ""
    counts = ", ".join(f"{told[word]} {word}" for word in ("supported", "uncertain", "unsupported"))
    words = f"confidence from {SUPPORTED}, from {UNCERTAIN}, below"
    return f"labels of {run.manifest['primary']}: {counts} ({words}){level}"


def experiments(run: Run) -> str:
    """A line that counts the primary scorer's labels by the experiments on them; empty where there were none."""
    told = Counter(row["verified"] for row in run.rows() if row.get("verified") is not None)
    if not told:
        return ""
    counts = ", ".join(f"{told[word]} {word}" for word in OUTCOMES)
    return f"labels of {run.manifest['primary']} tested: {counts} (contralens verify)"


def notes(manifest: Mapping[str, Any]) -> list[str]:
    """What the reader of a run's labels should know: of its exemplars, network, encoder and null test."""
    parts = (manifest, manifest["target"], manifest["encoder"], manifest.get("chance") or {})
    return [note for part in parts for note in part.get("notes", [])]


def abstentions(run: Run) -> list[str]:
    """A line per scorer: on how many neurons the null test turned every label down."""
    told = run.manifest.get("chance")
    if not told:
        return []
    lines = []
    for scorer, count in told["no label beats chance"].items():
        asked = sum(1 for row in run.rows(scorer) if row.get("fdr") is not None)
        lines.append(
            f"null test of {scorer}: {NO_LABEL} on {count} of {asked} neurons (false-discovery rate {told['fdr']:g}, "
            f"{told['fakes']:,} null neurons; does not say whether a label is right)"
        )
    return lines
