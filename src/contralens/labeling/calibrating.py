"""Neurons whose truth is known beside those of a run: they set the level of its confidence.

Two kinds: the network's own outputs, which have class names and come from the same forward as the layer; and neurons
planted to follow what the images are known to show.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from contralens.checks import counted
from contralens.data.image_tables import Places, read_column
from contralens.data.labeled_images import labeled_images
from contralens.data.synonyms import Wording
from contralens.errors import InputError, KindError
from contralens.math.activation_sources import ActivationSource
from contralens.math.confidence import Weighed, planted
from contralens.math.exemplars import mine
from contralens.math.planted_neurons import LEAST
from contralens.math.statistics import neuron_statistics
from contralens.models.hooked_layer import HookedTarget
from contralens.models.targets import outputs_of
from contralens.specs import part_of
from contralens.types import Images, Target

OUTPUTS, CLASSES = "outputs", "classes"
LEAST_OUTPUTS = 20
"""Fewer outputs set no level: six to eight, whose names a shortcut belies, raised the error in rendered worlds."""
SEPARATOR = "|"
"""What is between the concepts of an image that shows several."""


@dataclass(frozen=True)
class Known:
    """Neurons with labels of the panel's scorers and the concepts that are right for them."""

    source: str
    weighed: Weighed

    def about(self) -> dict[str, Any]:
        """What the manifest says of them."""
        w = self.weighed
        _, right, _ = w.known(w.truth)
        missing = sum(not concepts for concepts in w.truth.values())
        best = w.probabilities[list(w.truth)].max(1).values if len(w.truth) else torch.zeros(0)
        return {
            "from": self.source,
            "neurons": len(right),
            "word missing": missing,
            "any label right": float(right.any(1).double().mean()) if len(right) else None,
            "mean highest confidence before": float(best.mean()) if len(best) else None,
        }


@dataclass(frozen=True)
class Calibration:
    """What is asked for: the network's outputs, what the images show, or both."""

    outputs: HookedTarget | None = None
    """Gives rows beside those of the target."""
    shown: tuple[tuple[str, Mapping[str, Sequence[str]]], ...] = ()
    """(source, name of an image -> concepts that it shows) each."""

    @property
    def extractors(self) -> list[HookedTarget]:
        """What has to run beside the target."""
        return [] if self.outputs is None else [self.outputs]

    @classmethod
    def asked(cls, given: Any, target: Target, images: Any, probe: Images) -> Calibration:
        """Read what a user asks for; see `calibrate` of `contralens.label`.

        Raises:
            InputError: no such kind, images without classes, a table that names none of them, a network whose outputs
                have no names or whose layer is the output itself.
        """
        outputs, shown = None, []
        for one in given if isinstance(given, (list, tuple)) else [] if given is None else [given]:
            if one == OUTPUTS:
                outputs = _outputs(target)
            elif one == CLASSES:
                shown.append(("the images' classes", _classes(images)))
            elif isinstance(one, Mapping):
                shown.append(("what the images were said to show", _of_mapping(one, probe)))
            elif isinstance(one, (str, os.PathLike)):
                shown.append((os.fspath(one), _of_table(os.fspath(one), probe)))
            else:
                raise KindError(
                    f'`calibrate` must be "{OUTPUTS}", "{CLASSES}", "TABLE:COLUMN" or image -> concepts; got '
                    f"{type(one).__name__}"
                )
        return cls(outputs, tuple(shown))

    def known(
        self, rows: ActivationSource | None, names: Sequence[str], embeddings: Tensor, concepts: Sequence[str],
        texts: Tensor, seed: int, **mining: Any,
    ) -> list[Known]:  # fmt: skip
        """The neurons whose truth is known.

        Args:
            rows: (I,classes) of the network's outputs, where they are asked for.
            names: (I) of the images.
            mining: as `contralens.math.exemplars.mine` takes it.

        Raises:
            InputError: no concept of the vocabulary is shown by three images.
        """
        words, found = Wording(concepts), []
        if self.outputs is not None and rows is not None:
            found.append(_of_outputs(self.outputs, rows, words, embeddings, texts, mining))
        if self.shown:
            source = ", ".join(source for source, _ in self.shown)
            shows = torch.zeros(len(names), len(concepts), dtype=torch.bool)
            said = [{one for _, shown in self.shown for one in shown.get(name, ())} for name in names]
            meant = {one: sorted(words.of(one)) for one in set().union(*said)}
            for i, several in enumerate(said):
                shows[i, [concept for one in several for concept in meant[one]]] = True
            if int(shows.sum(0).max()) < LEAST:
                raise InputError(
                    f"`calibrate`: {source}: of {counted(len(meant), 'concept')}, none is in the vocabulary and shown "
                    f"by {LEAST} of the images"
                )
            weighed = planted(shows, embeddings.cpu(), texts.cpu(), mining["k"], seed)
            found.append(Known(f"neurons planted on {source}", weighed))
        return found


def _of_outputs(
    outputs: HookedTarget, rows: ActivationSource, words: Wording, embeddings: Tensor, texts: Tensor,
    mining: Mapping[str, Any],
) -> Known:  # fmt: skip
    alive = [n for n, word in enumerate(neuron_statistics(rows).status()) if word == "ok"]
    if not alive:
        raise InputError(f"`calibrate`: no output of {outputs.name} differs between these images; omit it")
    exemplars = mine(rows, embeddings, neurons=torch.tensor(alive), **mining).exemplars
    weighed = Weighed.by_panel(exemplars, rows, embeddings, texts)
    truth = {row: words.of(outputs.neurons[n]) for row, n in enumerate(alive)}
    return Known("class names of the network's outputs", replace(weighed, truth=truth))


def _outputs(target: Target) -> HookedTarget:
    base = getattr(target, "base", target)
    if not isinstance(base, HookedTarget):
        raise InputError(f"`calibrate`: {target.name} is your own target, so its outputs are unknown")
    outputs = outputs_of(base)
    if outputs.width < LEAST_OUTPUTS:
        raise InputError(
            f"`calibrate`: {target.name} has {outputs.width} outputs, and a level needs at least {LEAST_OUTPUTS}; "
            'plant neurons instead, if you know what the images show ("classes" or TABLE:COLUMN)'
        )
    return outputs


def _classes(images: Any) -> dict[str, list[str]]:
    found = labeled_images(images)
    return {name: [found.classes[at]] for name, at in zip(found.ids, found.targets.tolist(), strict=True)}


def _of_mapping(given: Mapping[str, Any], probe: Images) -> dict[str, list[str]]:
    place = Places(probe.ids)
    found = {}
    for image, said in given.items():
        if (row := place.find(str(image))) is not None:
            found[probe.ids[row]] = [said] if isinstance(said, str) else [str(one) for one in said]
    return found


def _of_table(given: str, probe: Images) -> dict[str, list[str]]:
    table, column = part_of(given)
    if not table or not Path(table).is_file():
        raise InputError(
            f'`calibrate` is "{OUTPUTS}", "{CLASSES}" or TABLE:COLUMN, e.g. shown.csv:concepts; there is no table '
            f"{table or given!r}"
        )
    said, _ = read_column(Path(table), column, Places(probe.ids))
    return {probe.ids[row]: [one.strip() for one in text.split(SEPARATOR) if one.strip()] for row, text in said.items()}
