"""The experiments of one run: pictures edited, networks run on them, each neuron's result kept."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.data import default_collate

from contralens.data.atomic_files import digest
from contralens.data.pictures import jpeg
from contralens.data.runs import Run
from contralens.data.verifications import EDITS
from contralens.errors import InputError
from contralens.math.experiments import KINDS, Kind, Trial, outcome
from contralens.math.statistics import neuron_statistics
from contralens.models.interventions import shifted
from contralens.run_data.reopened import Reopened
from contralens.settings.finished_run import Verify
from contralens.types import Exemplars, Progress, silent
from contralens.verifying.budget import Budget
from contralens.verifying.class_path import OTHERS, ClassPath, class_path
from contralens.verifying.editors import Bench, Editor, Request, Steered, make_editor, scenes_of
from contralens.verifying.tested import Tested

if TYPE_CHECKING:
    from PIL.Image import Image

Row = dict[str, Any]
"""Of the table of edits."""
EditedRow: TypeAlias = "tuple[Row, Image | None, Image | Steered | None]"
"""A row, the picture, and the changed one, or what changes inside the network, where there is one."""
VERIFYING_VERSION = "1"
"""Raise it when the code changes what an experiment gives: what was tried before is then tried again."""
MOVED = 0.5
"""An edit has to move the concept's similarity by this many of its deviations over the images."""
KEPT = 0.95
"""An edit by a model has to leave the rest more alike than this share of the other images are."""
SHOWN = 2
"""Pairs of pictures kept of each side of a label."""
SIDE = 160


class _Over(Exception):
    """The edits or seconds that were granted are used up."""


class Laboratory:
    """Does the experiments of one run."""

    def __init__(self, reopened: Reopened, settings: Verify) -> None:
        self.reopened, self.bench = reopened, Bench(reopened)
        self.editor: Editor = make_editor(_chosen(reopened.run, settings.editor), self.bench)
        self.generative = bool(getattr(self.editor, "generative", False))  # by a model, so that each picture costs
        self.budget = Budget(settings.edits, settings.seconds)
        self.notes: list[str] = []
        self.progress: Progress = silent
        """Hears how far one experiment is."""
        self.images, self.controls = settings.images, settings.controls
        self.batch_size, self.seed = settings.batch_size, settings.seed
        self.activations = self.reopened.activations(self.reopened.probe)
        self.floors = neuron_statistics(self.activations).mean
        self.target = self.reopened.target
        found: Exemplars = self.reopened.exemplars
        self.exemplars = found
        self.at = {n: row for row, n in enumerate(found.neurons.tolist())}

    def inside(self, layer: str) -> Laboratory:
        """The same one, with an editor that steers the network at a layer; that costs no picture and has no budget."""
        other = copy(self)
        other.editor, other.budget = make_editor(f"inside:{layer}", self.bench), Budget(None, None)
        other.generative, other.notes = False, []
        return other

    def kept(self, neuron: int, label: str) -> Tested | None:
        """The experiment on one label, from the cache or done now.

        None where the budget does not suffice; pictures that a model made for it are kept.
        """
        if self.budget.over:
            return None
        run = self.reopened.run.manifest
        key = (
            VERIFYING_VERSION, self.editor.fingerprint, run["target"]["fingerprint"], run["encoder"]["fingerprint"],
            digest(*self.reopened.probe), digest(*self.reopened.concepts), repr((neuron, label)),
            repr((self.images, self.controls, self.seed)), digest(*map(str, self._sides(neuron).values())),
        )  # fmt: skip

        def arrays() -> dict[str, Any]:
            return {"edits": np.frombuffer(json.dumps(self._edits(neuron, label)).encode(), np.uint8)}

        try:
            held = self.reopened.store.remember("experiments", *key).get_or_make(arrays)
        except _Over:
            return None
        return self._judged(neuron, label, json.loads(held["edits"].tobytes()))

    def _sides(self, neuron: int) -> dict[Kind, list[tuple[int, int]]]:
        """(image, contrast) pairs to edit: positives with their contrasts, and contrasts with their positives."""
        row = self.at.get(neuron)
        if row is None:
            return {kind: [] for kind in KINDS}
        pairs = [
            (p, c) for p, c in zip(
                self.exemplars.positives[row].tolist(), self.exemplars.contrasts[row].tolist(), strict=True
            ) if p >= 0
        ]  # fmt: skip
        contrasts = {c: p for p, c in reversed(pairs) if c >= 0 and c != p}
        in_order = [c for c in dict.fromkeys(c for _, c in pairs) if c in contrasts]
        return {"remove": pairs, "insert": [(c, contrasts[c]) for c in in_order]}

    def _edits(self, neuron: int, label: str) -> list[dict[str, Any]]:
        """Rows of the table of edits: the label's, on up to `images` images of either side, and their controls."""
        others, sides = self._others(neuron, label), self._sides(neuron)
        out: list[dict[str, Any]] = []
        planned = sum(min(self.images, len(pairs)) for pairs in sides.values()) * (1 + self.controls)
        for kind, pairs in sides.items():
            tried: list[tuple[Row, int]] = []
            while len(tried) < len(pairs) and (lacking := self.images - sum(row["used"] for row, _ in tried)):
                some = pairs[len(tried) : len(tried) + lacking]
                edited = [self._edited(self._request(kind, neuron, *pair, label, 0)) for pair in some]
                self._measure(edited)
                tried += [(found[0], pair[1]) for found, pair in zip(edited, some, strict=True)]
            self.progress("editing pictures", min(len(out) + len(tried), planned), planned)
            controls = [
                control for row, partner in tried if row["used"]
                for control in self._controls(row, kind, neuron, partner, others)
            ]  # fmt: skip
            self._measure(controls)
            out += [row for row, _ in tried] + [found[0] for found in controls]
            self.progress("editing pictures", min(len(out), planned), planned)
        return out

    def _controls(self, row: Row, kind: Kind, neuron: int, partner: int, others: Sequence[str]) -> list[EditedRow]:
        """Edits of the same image for other concepts: those that change the most similar number of pixels."""
        asked = [self._request(kind, neuron, row["image"], partner, c, i) for i, c in enumerate(others, start=1)]
        edited = [found for request in asked if (found := self._edited(request))[2] is not None]
        edited.sort(key=lambda found: (abs(found[0]["pixels"] - row["pixels"]), found[0]["control"]))
        return edited[: self.controls]

    def _request(self, kind: Kind, neuron: int, image: int, partner: int, concept: str, control: int) -> Request:
        return Request(kind, concept, neuron, image, partner, self.seed + control, control > 0)

    def _others(self, neuron: int, label: str) -> list[str]:
        """Control concepts of a neuron: drawn from the vocabulary, four times as many as are used."""
        if self.editor.by_region:
            return [label] * self.controls
        known = [concept for concept in self.reopened.concepts if concept != label]
        order = np.random.default_rng([self.seed, neuron]).permutation(len(known))
        drawn = [known[i] for i in order[: 4 * self.controls]]
        return self._likely(drawn, neuron)[: self.controls] if self.generative else drawn

    def _likely(self, concepts: Sequence[str], neuron: int) -> list[str]:
        """Concepts in the order in which the positives show them more than the contrasts: those can be taken out of
        the ones and put into the others."""
        sides = self._sides(neuron)
        positives, contrasts = ([image for image, _ in sides[kind]] for kind in KINDS)

        def more(concept: str) -> float:
            _, along, spread = self.bench.along(concept)
            return float((along[positives].nanmean() - along[contrasts].nanmean()) / spread)

        return sorted(concepts, key=lambda c: (-more(c), c)) if positives and contrasts else list(concepts)

    def _edited(self, request: Request) -> EditedRow:
        """A row of the table of edits, the picture and the changed one, where there is one."""
        row: Row = dict.fromkeys(EDITS.names)
        row |= {
            "neuron": request.neuron, "kind": request.kind, "image": request.image, "concept": request.concept,
            "control": request.seed - self.seed, "used": False, "why": "the picture is missing",
        }  # fmt: skip
        before = self.bench.picture(request.image)
        made = None if before is None else self._changed(request)
        after = self.bench.picture(made) if isinstance(made, int) else made
        if before is None or after is None or isinstance(after, str):
            return row | {"why": after or row["why"]}, before, None
        if isinstance(after, Steered):
            return row | {"pixels": after.size}, before, after
        row["pixels"] = _pixels(before, after)
        if isinstance(made, int):
            self._known(row, made)
        return row, before, after.convert("RGB")

    def _changed(self, request: Request, granted: bool = False) -> Image | str | int | Steered:
        """What the editor gives; from the cache where pictures cost."""
        if not self.generative:
            return self.editor.edit(request)

        def arrays() -> dict[str, np.ndarray]:
            if not granted and not self.budget.spend():
                raise _Over
            made = self.editor.edit(request)
            assert not isinstance(made, Steered), "steering needs no edits"
            if isinstance(made, int):
                return {"row": np.array(made)}
            if isinstance(made, str):
                return {"why": np.frombuffer(made.encode(), np.uint8)}
            file = io.BytesIO()
            made.save(file, "PNG")
            return {"picture": np.frombuffer(file.getvalue(), np.uint8)}

        pair = [self.reopened.probe[image] for image in (request.image, request.partner)]
        key = (self.editor.fingerprint, *pair, repr(request))
        held = self.reopened.store.remember("edited", *key).get_or_make(arrays)
        if "why" in held:
            return bytes(held["why"].tobytes()).decode()
        if "row" in held:
            return int(held["row"])
        from PIL import Image

        return Image.open(io.BytesIO(held["picture"].tobytes())).convert("RGB")

    def _measure(self, edited: Sequence[EditedRow]) -> None:
        """Fill in what the network and the encoder make of edits."""
        lacking = [edit for edit in edited if edit[2] is not None and edit[0]["after"] is None]
        pictures = [(row, after) for row, _, after in lacking if after is not None and not isinstance(after, Steered)]
        inside = [(row, before, by) for row, before, by in lacking if before is not None and isinstance(by, Steered)]
        for start in range(0, len(pictures), self.batch_size):
            self._forward(pictures[start : start + self.batch_size])
        for start in range(0, len(inside), self.batch_size):
            self._steered(inside[start : start + self.batch_size])

    def _steered(self, done: Sequence[tuple[Row, Image, Steered]]) -> None:
        batch = default_collate([self.target.preprocess(image) for _, image, _ in done])
        with shifted(done[0][2].layer, torch.stack([by.vector for _, _, by in done])):
            after = self.target(batch)
        before = self._activations([(row["image"], row["neuron"]) for row, _, _ in done])
        for i, (row, _, by) in enumerate(done):
            row |= {"before": before[i], "after": float(after[i, row["neuron"]]), "moved": by.moved}
            row["used"], row["why"] = self._counts(row)

    def _forward(self, done: Sequence[tuple[Row, Image]]) -> None:
        eyes = self.reopened.encoder
        after = self.target(default_collate([self.target.preprocess(image) for _, image in done]))
        seen = eyes(default_collate([eyes.preprocess(image) for _, image in done])).float().cpu()
        before = self._activations([(row["image"], row["neuron"]) for row, _ in done])
        for i, (row, _) in enumerate(done):
            self._fill(row, before[i], float(after[i, row["neuron"]]), normalize(seen[i], dim=0))

    def _known(self, row: Row, image: int) -> None:
        """Fill in what is known already: an image of the run stands for the changed one."""
        before, after = self._activations([(row["image"], row["neuron"]), (image, row["neuron"])])
        self._fill(row, before, after, self.bench.embeddings[image])

    def _activations(self, wanted: Sequence[tuple[int, int]]) -> list[float]:
        """Of (image, neuron)."""
        images, neurons = torch.tensor(wanted, dtype=torch.int64).T
        return [float(value) for value in self.activations.lookup(images, neurons)]

    def _fill(self, row: Row, before: float, after: float, seen: Tensor) -> None:
        row["before"], row["after"] = before, after
        row["moved"], row["alike"] = self._moved(self.bench.embeddings[row["image"]], seen, row["concept"])
        row["used"], row["why"] = self._counts(row)

    def _moved(self, before: Tensor, after: Tensor, concept: str) -> tuple[float, float]:
        t, _, spread = self.bench.along(concept)
        rest = [normalize(e - (e @ t) * t, dim=0) for e in (before, after)]
        return float((after - before) @ t / spread), float(rest[0] @ rest[1])

    def _counts(self, row: dict[str, Any]) -> tuple[bool, str]:
        """Whether an edit may be used: the activations are numbers, and it did what it says as far as that is known."""
        if not np.isfinite([row["before"], row["after"]]).all():
            return False, "the activation is not a number"
        if self.editor.exact or (self.editor.by_region and row["control"]):
            return True, ""
        moved = row["moved"] if row["kind"] == "insert" else -row["moved"]
        if not moved >= MOVED:
            return False, f"the concept changed by only {moved:.2f} deviations"
        if self.generative and not row["alike"] >= self._kept_level(row["image"], row["concept"]):
            return False, "according to the encoder the rest of the picture changed too"
        return True, ""

    def _kept_level(self, image: int, concept: str) -> float:
        """How alike, without the concept, an edited picture has to be to the one it was made of."""
        alike = self.bench.alike(image, concept)
        others = torch.cat([alike[:image], alike[image + 1 :]])
        return float(others[others.isfinite()].quantile(KEPT))

    def _judged(self, neuron: int, label: str, edits: list[dict[str, Any]]) -> Tested:
        used = [row for row in edits if row["used"]]
        trials = [Trial(r["kind"], r["image"], r["control"], r["before"], r["after"]) for r in used]
        floor = float(self.floors[neuron])
        levels = getattr(self.editor, "levels", {})
        own = outcome(trials, floor, **levels)
        controls = sorted({t.concept for t in trials} - {0})
        names = {} if self.editor.by_region else {row["control"]: row["concept"] for row in used if row["control"]}
        others = {names[c]: outcome(trials, floor, concept=c, **levels) for c in controls if c in names}
        images = {c: len({(t.kind, t.image) for t in trials if t.concept == c}) for c in controls}
        null = max(images, key=lambda c: (images[c], -c), default=None)
        nulls = [] if null is None or len(controls) < 2 else [outcome(trials, floor, concept=null, **levels).word]
        return Tested(neuron, label, own, nulls, [row | {"label": label} for row in edits], self.editor.name, others)

    def class_path(self, neuron: int, others: Sequence[int]) -> ClassPath | None:
        """The class that a neuron moves on its exemplars, beside a seeded draw of `others`; None where there is none,
        with a note."""
        shown = [self.bench.picture(image) for image, _ in self._sides(neuron)["remove"][: self.images]]
        draw = np.random.default_rng([self.seed, neuron]).permutation(len(others))[:OTHERS]
        try:
            images = [image for image in shown if image is not None]
            return class_path(self.target, images, neuron, [others[i] for i in draw])
        except InputError as e:
            self.notes = [f"no class effect: {e}"]
            return None

    def pictures(self, tested: Tested) -> list[dict[str, Any]]:
        """Before and after of the label's edits that moved the neuron most, made again."""
        out = []
        for kind in KINDS:
            own = [r for r in tested.edits if r["used"] and not r["control"] and r["kind"] == kind]
            own.sort(key=lambda r: (-abs(r["after"] - r["before"]), r["image"]))
            partners = dict(self._sides(tested.neuron)[kind])
            for row in own[:SHOWN]:
                image = row["image"]
                old = self.bench.picture(image)
                made = self._changed(self._request(kind, tested.neuron, image, partners[image], tested.label, 0), True)
                new = self.bench.picture(made) if isinstance(made, int) else made
                if old is not None and new is not None and not isinstance(new, (str, Steered)):
                    out.append({
                        "neuron": tested.neuron, "label": tested.label, "kind": kind, "image": image,
                        "before": _small(old), "after": _small(new), "was": row["before"], "became": row["after"],
                    })  # fmt: skip
        return out


def _chosen(run: Run, editor: str | Editor) -> str | Editor:
    if editor != "auto":
        return editor
    return "retrieve" if scenes_of(Path(str(run.manifest["images"].get("source") or ""))) is None else "world"


def _pixels(before: Image, after: Image) -> float:
    other = after if after.size == before.size else after.resize(before.size)
    return float(np.abs(np.asarray(before, np.float32) - np.asarray(other, np.float32)).mean())


def _small(image: Image) -> bytes:
    small = image.copy()
    small.thumbnail((SIDE, SIDE))
    return jpeg(small)
