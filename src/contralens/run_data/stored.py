"""What a finished run was made from, got back: exemplars from its tables, rows of numbers from the cache."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from contralens.data.images import images as image_set
from contralens.data.runs import Run
from contralens.data.store import Store
from contralens.data.trust import check_named
from contralens.errors import ImageError, InputError, RunError
from contralens.math.grouping import Groups
from contralens.types import Encoder, Exemplars, Images

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


def exemplars_of(run: Run, neurons: list[int] | None = None) -> Exemplars:
    """The exemplars of a run as tensors, of all its labeled neurons or of those given."""
    import torch

    table = run.exemplars.to_pydict()
    numbers = np.asarray(table["neuron"], np.int64)
    own = list(dict.fromkeys(numbers.tolist()))
    unknown = [n for n in neurons or [] if n not in set(own)]
    if unknown:
        raise InputError(f"the run holds no exemplars of neuron {unknown[0]} (it has {len(own)} labeled neurons)")
    k = len(numbers) // max(1, len(own))
    place = {n: i for i, n in enumerate(own)}
    rows = torch.tensor([place[n] for n in (own if neurons is None else neurons)], dtype=torch.int64)

    def column(name: str, kind: Any) -> Tensor:
        return torch.tensor(np.asarray(table[name]), dtype=kind).reshape(len(own), k)[rows]

    return Exemplars(
        torch.tensor(own, dtype=torch.int64)[rows],
        column("positive", torch.int64),
        column("activation", torch.float32),
        column("contrast", torch.int64),
        column("similarity", torch.float32),
    )


def mining_of(run: Run) -> dict[str, Any]:
    """Arguments of `find_exemplars` as in the run."""
    found = {name: run.manifest[name] for name in ("k", "reuse", "exclude")}
    neighbours = (run.manifest.get("neighbours") or {}).get("neighbours", "exact")
    if recorded := run.manifest.get("groups"):
        if "group" not in run.images.column_names:
            raise RunError("the run was labeled with groups, and its table of images has no column group")
        names = [name or i for i, name in enumerate(run.images["group"].to_pylist())]
        known = Groups.of(names, len(names))
        found["groups"] = None if known is None else replace(known, most=int(recorded["per_group"]))
    return found if neighbours == "exact" else {**found, "neighbours": neighbours}


def cached_rows(run: Run, store: Store, kind: str) -> NDArray[np.float32] | None:
    """Rows of all images of the run, (I,D) of its "encoder" or (I,N) of its "target", if the cache still holds them."""
    table = store.table("rows", run.manifest[kind]["fingerprint"])
    fingerprints = run.images["fingerprint"].to_pylist()
    if not all(table.has_row(f) for f in fingerprints):
        return None
    return np.asarray(table.rows(fingerprints), np.float32)


def encoder_of(run: Run, encoder: Any = None, device: str = "cpu", store: Store | None = None) -> Encoder:
    """The run's encoder, loaded by its name or given; refused if it is another one."""
    from contralens.encoders.registry import encoder as load_encoder

    recorded = run.manifest["encoder"]
    given = encoder if encoder is not None else encoder_named(run)
    options = recorded.get("options") or {}
    made: Encoder = load_encoder(given, device=device, **options)
    if made.fingerprint != recorded["fingerprint"] and store is not None:
        from contralens.collecting.probe_check import proved

        allow = bool(run.manifest.get("allow_nondeterministic"))
        plain = load_encoder(given, device=device)
        fitting, _ = proved([plain], None, store, allow_nondeterministic=allow, expected=recorded["fingerprint"])
        made = load_encoder(fitting[0], device=device, **options)
    if made.fingerprint != run.manifest["encoder"]["fingerprint"]:
        raise InputError(
            f"the run was made with another encoder than {made.name}: its fingerprint is "
            f"{run.manifest['encoder']['fingerprint']}, this one's {made.fingerprint}"
        )
    return made


def encoder_named(run: Run) -> str:
    """The name of the run's encoder, once it is sure that it may be loaded."""
    recorded = run.manifest["encoder"]
    check_named(run, "encoder", recorded["name"], "give the encoder as encoder=", **(recorded.get("options") or {}))
    return str(recorded["name"])


class RunImages:
    """The pictures of a run's images: of the image set, where it is given, else the thumbnails that the run holds."""

    def __init__(self, run: Run, images: Any = None) -> None:
        self.run = run
        self.fingerprints: list[str] = run.images["fingerprint"].to_pylist()
        self.ids: list[str] = run.images["id"].to_pylist()
        self.images: Images | None = None if images is None else image_set(images)
        if self.images is not None:
            self._at = {f: i for i, f in reversed(list(enumerate(self.images.fingerprints())))}
            lacks = [i for f, i in zip(self.fingerprints, self.ids, strict=True) if f not in self._at]
            if len(lacks) == len(self.ids):
                raise InputError(
                    f"{self.images.name} holds none of the run's images; give the set that was labeled with"
                )
            self.lacks = len(lacks)

    @property
    def kind(self) -> str:
        """ "full" or "thumbnails"."""
        return "thumbnails" if self.images is None else "full"

    def load(self, row: int) -> Image:
        """The RGB picture of the image in that row of the run.

        Raises:
            ImageError: the set no longer holds it, or it cannot be decoded.
        """
        from PIL import Image

        if self.images is not None:
            at = self._at.get(self.fingerprints[row])
            if at is None:
                raise ImageError(f"{self.ids[row]} of the run is not among the images given")
            return self.images.load(at)
        small = self.run.thumbnail(row)
        if small is None:
            raise ImageError(f"the run holds no thumbnail of {self.ids[row]}; give its images")
        return Image.open(io.BytesIO(small)).convert("RGB")
