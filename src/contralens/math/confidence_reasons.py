"""Why a label is as likely right as it is, in words."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from contralens.math.scorer_panel import PANEL

NO_LABEL = {
    "ok": "no scorer gives it a label", "dead": "it never fires on these images",
    "constant": "it has the same activation on all images", "nan": "none of its activations is a finite number",
}  # fmt: skip
"""Why a neuron has no label, by status."""


def in_words(row: Mapping[str, float]) -> list[str]:
    """What the signals of one label say, as sentences' parts; those for it first.

    >>> in_words({"votes": 0.8, "nearest (strongest)": 0.6, "other neurons": 2.5})
    ['4 of 5 scorers agree', '3 of its 5 strongest images are close to the label', 'but 11 other neurons have the same']
    """
    good: list[str] = []
    bad: list[str] = []

    def value(name: str, default: float) -> float:
        found = row.get(name, default)
        return default if found != found else found

    votes, of = round(value("votes", 0.0) * len(PANEL)), len(PANEL)
    (good if 2 * votes > of else bad).append(f"{votes} of {of} scorers agree")
    near = round(value("nearest (strongest)", 0.0) * 5)
    some = {0: "none", 1: "only 1"}.get(near, str(near))
    verb = "are" if near > 1 else "is"
    (good if near >= 2 else bad).append(f"{some} of its 5 strongest images {verb} close to the label")
    others = round(float(torch.expm1(torch.tensor(value("other neurons", 0.0)))))
    if others >= 2:
        bad.append(f"{others} other neurons have the same")
    back = value("its images among the exemplars", -1.0)
    if back >= 0.4:
        good.append("the images closest to the label activate the neuron")
    elif 0 <= back < 0.1:
        bad.append("none of the images closest to the label is among its strongest")
    if value("rank in both halves", 0.0) > 0.5:
        bad.append("one half of its images suggests another label than the other half")
    if value("contrasts' cosine", 1.0) < 0.4:
        bad.append("its contrasts are not much like its images")
    return good + [f"but {text}" if good and not i else text for i, text in enumerate(bad)]
