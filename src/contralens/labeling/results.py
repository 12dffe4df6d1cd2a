"""What the stages of labeling find: each a value that the next stage takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from torch import Tensor

from contralens.collecting import collect as collecting
from contralens.collecting.networks import Steady
from contralens.collecting.streaming import RecomputedActivations
from contralens.data.runs import LABELS, Run
from contralens.data.store import Store
from contralens.data.vocabulary import Vocabulary
from contralens.labeling.calibrating import Calibration, Known
from contralens.labeling.crops import Crops
from contralens.labeling.manifest import about_mined
from contralens.labeling.near_copies import NearCopies
from contralens.labeling.probe_set import Parts
from contralens.labeling.scoring import Ranked
from contralens.math import exemplars as mining
from contralens.math.activation_sources import ActivationSource
from contralens.math.grouping import Groups
from contralens.math.null_test import Chance
from contralens.math.statistics import NeuronStatistics
from contralens.proposing.candidates import Candidates
from contralens.settings.label import Judge, Mine, Score
from contralens.types import Brief, Encoder, Exemplars, Images, Target


@dataclass(frozen=True, repr=False)
class Collected(Brief):
    """Rows of all images from the target and the encoder.

    >>> from contralens.labeling import stages
    >>> from contralens.settings.label import Mine
    >>> collected = stages.collect(Mine("world:1", "world-1/images", "world", layer="block3", k=5))
    >>> collected.target.width, collected.encoder.width, len(collected.rows.usable)
    (64, 96, 80)
    """

    settings: Mine
    images: Images
    store: Store
    steady: Steady
    calibration: Calibration
    """Neurons whose truth is known, if they are asked for."""
    rows: collecting.Collected
    streamed: RecomputedActivations | None
    """The activations, where they are not stored."""

    @property
    def target(self) -> Target:
        """The network under study."""
        found: Target = self.steady.extractors[0]
        return found

    @property
    def encoder(self) -> Encoder:
        """What embeds images and texts."""
        found: Encoder = self.steady.extractors[1]
        return found


@dataclass(frozen=True, repr=False)
class Mined(Brief):
    """Exemplars of each neuron, and what they were found among.

    >>> from contralens.labeling import stages
    >>> from contralens.settings.label import Mine
    >>> mined = stages.mine(stages.collect(Mine("world:1", "world-1/images", "world", layer="block3", k=5)))
    >>> mined.exemplars.positives.shape, mined.tables["exemplars"].num_rows, mined.run().labels.num_rows
    (torch.Size([64, 5]), 320, 0)
    """

    settings: Mine
    collected: Collected
    parts: Parts
    """What each image is there for."""
    probe: collecting.Collected
    """Of what was collected, the images that exemplars may come from (I)."""
    activations: ActivationSource
    """(I,N)"""
    embeddings: Tensor
    """(I,D)"""
    statistics: NeuronStatistics
    chosen: Tensor
    """Indices of the neurons that are labeled."""
    found: mining.Mined
    tables: Mapping[str, pa.Table]
    """neurons, exemplars, images and thumbnails, as a run holds them."""
    near: NearCopies
    groups: Groups | None
    """Which of these images belong together."""
    identity: list[str]
    """Of the images and networks, for the store."""
    how: tuple[Any, ...]
    """What else the exemplars depend on."""
    in_shards: Mapping[str, Any] | None = None
    """What the manifest says of the images instead, where they are in shards."""

    @property
    def exemplars(self) -> Exemplars:
        """The exemplars as tensors."""
        return self.found.exemplars

    def run(self) -> Run:
        """A run without labels: what proposers look at."""
        none = pa.table({"concept": pa.array([], pa.string()), "source": pa.array([], pa.string())})
        return Run(about_mined(self), labels=LABELS.empty_table(), concepts=none, vectors={}, **self.tables)


@dataclass(frozen=True, repr=False)
class Scored(Brief):
    """The best concepts of each neuron by each scorer.

    >>> from contralens.labeling import stages
    >>> from contralens.settings.label import Mine
    >>> mined = stages.mine(stages.collect(Mine("world:1", "world-1/images", "world", layer="block3", k=5)))
    >>> scored = stages.score(mined, vocabulary=["red", "striped"], scorers="csp")
    >>> scored.concepts, scored.found.best["csp"].concepts.shape
    (['red', 'striped'], torch.Size([64, 2]))
    """

    settings: Score
    mined: Mined
    vocabulary: Vocabulary
    candidates: Candidates | None
    concepts: list[str]
    """The vocabulary, and what was proposed."""
    texts: Tensor
    """(C,D)"""
    found: Ranked
    known: Sequence[Known]
    """Neurons whose truth is known, which set the level of confidence."""
    crops: Crops | None
    """What scorers compared in place of whole pictures, where that was asked for."""
    unjudged: Sequence[str]
    """Why labels have no confidence, although it was asked for."""

    @property
    def seen(self) -> tuple[Exemplars, Tensor]:
        """Exemplars and embeddings that scorers compared, of whole pictures or of crops.

        >>> from contralens.labeling import stages
        >>> from contralens.settings.label import Mine
        >>> mined = stages.mine(stages.collect(Mine("world:1", "world-1/images", "world", layer="block3", k=5)))
        >>> [len(stages.score(mined, vocabulary="world", scorers="csp", crop=c).seen[1]) > 80 for c in (None, "map")]
        [False, True]
        """
        if self.crops is None:
            return self.mined.exemplars, self.mined.embeddings
        return self.crops.exemplars, self.crops.embeddings


@dataclass(frozen=True, repr=False)
class Judged(Brief):
    """Whether labels beat chance, by scorer; nothing where that was not asked for.

    >>> from contralens.labeling import stages
    >>> from contralens.settings.label import Mine
    >>> mined = stages.mine(stages.collect(Mine("world:1", "world-1/images", "world", layer="block3", k=5)))
    >>> judged = stages.judge(stages.score(mined, vocabulary="world", scorers="csp"), fdr=0.1, fakes=50)
    >>> judged.chances["csp"].q.shape
    torch.Size([64])
    """

    settings: Judge
    scored: Scored
    chances: Mapping[str, Chance]
