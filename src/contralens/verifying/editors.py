"""Editors: what takes a concept out of a picture, or puts it in; made by `editor("scheme:rest", bench)`.

`EDITORS` maps a scheme to what makes an editor from the text after the colon and the `Bench`, the run available. An
edit must depend on its request alone, so that an experiment that was killed continues to the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor
from torch.nn.functional import normalize

from contralens.encoders.registry import embed_texts
from contralens.math.experiments import Kind
from contralens.models.activation_maps import Place, where
from contralens.models.hooked_layer import HookedTarget
from contralens.plugs import Registry, Scheme
from contralens.run_data.reopened import Reopened
from contralens.types import Brief

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Request:
    """One edit that is asked for.

    >>> Request("insert", "striped", neuron=5, image=17, partner=3, seed=0).control
    False
    """

    kind: Kind
    concept: str
    neuron: int
    image: int
    """Row of the run's images that is to be changed."""
    partner: int
    """Row of the image of the pair that is not changed: the contrast of a positive, the positive of a contrast."""
    seed: int
    control: bool = False
    """Whether it is a control: another concept than the label, or for an editor `by_region` another place."""


@dataclass(frozen=True, repr=False)
class Steered(Brief):
    """In place of a changed picture: what is added to an earlier layer's activations of the picture as it is.

    >>> Steered.__name__
    'Steered'
    """

    layer: HookedTarget
    vector: Tensor
    """(N) of that layer."""
    moved: float
    """How far that moves the picture along the concept's direction, in deviations over the images."""

    @property
    def size(self) -> float:
        """Length of `vector`."""
        return float(self.vector.norm())


@runtime_checkable
class Editor(Protocol):
    """Pictures to changed pictures.

    An editor that makes pictures with a model may say so by an attribute `generative = True`. Each of its edits is then
    kept in the cache, controls are only tried as often as they are used, and an edit must also leave the rest of the
    picture as it was: more like the picture than all but 5 % of the run's other images are, without the concept.

    >>> class Grey:
    ...     name, fingerprint, by_region, exact = "grey", "0" * 32, False, False
    ...     def edit(self, request):
    ...         return "nothing grey in it" if request.kind == "insert" else bench.picture(request.image).convert("L")
    >>> isinstance(Grey(), Editor)
    True
    """

    name: str
    fingerprint: str
    """32 hex digits: hash of all that an edit depends on besides its request."""
    by_region: bool
    """Whether it changes the place where the neuron fires, whatever the concept; its controls are other places."""
    exact: bool
    """Whether an edit is known to do what it says, so that the encoder need not check it."""

    def edit(self, request: Request) -> Image | str | int | Steered:
        """The changed picture, RGB; or why there is none, in a few words; or the row of an image of the run that stands
        for the changed one; or what to add inside the network."""
        ...


class Bench:
    """What editors need of a run: its pictures, where neurons fire, and what the encoder sees.

    >>> import contralens
    >>> bench = Bench(Reopened(contralens.load("run")))
    >>> bench.picture(0).size, bench.embeddings.shape, bench.text("striped").shape
    ((96, 96), torch.Size([65, 96]), torch.Size([96]))
    >>> bench.along("striped")[1].shape, bench.alike(0, "striped").shape
    (torch.Size([65]), torch.Size([65]))
    >>> bench.where(0, neuron=5)[0].ndim
    2
    """

    def __init__(self, reopened: Reopened) -> None:
        self.reopened = reopened
        self._load = reopened.pictures(range(len(reopened.probe)))
        self._pictures: dict[int, Image | None] = {}
        self._places: dict[tuple[int, int], Place | None] = {}
        self._along: dict[str, tuple[Tensor, Tensor, float]] = {}

    def picture(self, image: int) -> Image | None:
        """A picture of the run, RGB; None where it is gone or broken."""
        if image not in self._pictures:
            if len(self._pictures) > 256:
                self._pictures.clear()
            found = self._load(image)
            self._pictures[image] = None if found is None else found.convert("RGB")
        return self._pictures[image]

    def where(self, image: int, neuron: int) -> Place | None:
        """Where a neuron fires on a picture (`contralens.models.activation_maps.where`); None without the picture."""
        if (image, neuron) not in self._places:
            if len(self._places) > 256:
                self._places.clear()
            shown = self.picture(image)
            self._places[image, neuron] = None if shown is None else where(self.reopened.target, [shown], neuron)[0]
        return self._places[image, neuron]

    @cached_property
    def embeddings(self) -> Tensor:
        """(I,D) unit rows of the run's images by the labeling encoder."""
        return normalize(self.reopened.embeddings(self.reopened.probe).float(), dim=1)

    def along(self, concept: str) -> tuple[Tensor, Tensor, float]:
        """The concept's row, the similarity of each image to it (I), and their standard deviation."""
        if concept not in self._along:
            if len(self._along) > 64:
                self._along.clear()
            t = self.text(concept)
            every = self.embeddings @ t
            self._along[concept] = t, every, float(every[every.isfinite()].std())
        return self._along[concept]

    def alike(self, image: int, concept: str) -> Tensor:
        """Cosine of each image (I) with this one in what is left of both without the concept."""
        _, along, _ = self.along(concept)
        e = self.embeddings
        rest = (1 - along.square()).clamp_min(1e-12).sqrt()
        return (e @ e[image] - along * along[image]) / (rest * rest[image])

    def text(self, concept: str) -> Tensor:
        """(D) unit row of a concept of the run, or of another one that the labeling encoder reads."""
        known = self.reopened.concepts
        if concept in known:
            return normalize(self.reopened.texts[known.index(concept)].float(), dim=0)
        templates = self.reopened.run.manifest["templates"]
        return normalize(embed_texts(self.reopened.encoder, [concept], templates)[0].float().cpu(), dim=0)


def scenes_of(place: Path) -> Path | None:
    """The file that describes the scenes of a rendered world, for its folder or that of its images."""
    return next((f for f in (place / "scenes.parquet", place.parent / "scenes.parquet") if f.is_file()), None)


def make_editor(spec: str | Editor, bench: Bench) -> Editor:
    """The editor that a text names.

    Raises:
        InputError: an unknown scheme, or an editor that this run cannot be edited with.

    >>> import contralens
    >>> bench = Bench(Reopened(contralens.load("run")))
    >>> make_editor("retrieve", bench).name, make_editor("world?clumsy=0.3", bench).name
    ('retrieve', 'world, clumsy=0.3')
    """
    if not isinstance(spec, str):
        return spec
    made: Editor = EDITORS.make(spec, bench)
    return made


_IMAGES = "contralens.verifying.image_editors"
EDITORS: Registry[Callable[..., Editor]] = Registry("editors", {
    "diffusers": Scheme(
        "contralens.verifying.diffusers_editor:diffusers", "diffusers:ID_OR_FOLDER[@steps=20,...]",
        "a diffusion model changes the picture: on instruction, by inpainting where the neuron fires, or as a whole",
    ),
    "inside": Scheme(
        "contralens.verifying.steering:inside", "inside[:LAYER]",
        "moves an earlier layer's activations along the concept's direction (default: the layer before)",
    ),
    "retrieve": Scheme(
        f"{_IMAGES}:retrieve", "retrieve",
        "finds another image of the run that differs most along the concept and least elsewhere",
    ),
    "swap": Scheme(
        f"{_IMAGES}:swap", "swap[?fill=inpaint]",
        "exchanges the region where the neuron fires with the contrast's: where it looks, not if a label is right",
    ),
    "world": Scheme(
        "contralens.verifying.world_editor:world", "world[:FOLDER][?clumsy=0.3]",
        "renders a scene of a rendered world again with one factor changed",
    ),
}, one="editor", takes=("rest", "bench"), mark="?")  # fmt: skip
"""What makes an editor, by scheme: functions `(rest, bench, options) -> Editor`."""
