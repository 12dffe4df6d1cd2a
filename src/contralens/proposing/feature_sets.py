"""Which neurons a caption bank explains together: groups that are given, or FALCON's own, found and filtered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from contralens.errors import InputError
from contralens.math.feature_groups import coherence, feature_groups
from contralens.run_data.crop_rows import RunCrops


@dataclass(frozen=True, slots=True)
class FeatureSets:
    """Groups of neurons; a neuron in several has the last given, or of those that were found the one on most images."""

    groups: Sequence[Sequence[int]]
    fired: Sequence[Tensor] = ()
    """The images of each group that was found."""
    about: dict[str, Any] = field(default_factory=dict)
    """For the manifest."""

    @classmethod
    def of(
        cls,
        groups: Sequence[Sequence[int]] | Literal["auto"] | None,
        activations: Tensor | None,
        embeddings: Tensor,
        crops: RunCrops | None = None,
        *,
        coherent: float = 0.8,
        limit: float = 5.0,
        least: int = 10,
    ) -> FeatureSets:
        """The groups as given, or "auto": FALCON's, of the activations (I,N).

        Args:
            groups: indices of neurons, or "auto".
            embeddings: (I,D) unit rows.
            crops: with "auto", what crops a group's images to where it fires; the filter then sees the crops.
            coherent: with "auto", the mean cosine of all pairs of a group's images above which it counts.
            limit, least: with "auto", see `contralens.math.feature_groups.feature_groups`.

        Raises:
            InputError: no group of the network is coherent.
        """
        if groups != "auto" or activations is None:
            given = [list(group) for group in groups or ()] if groups != "auto" else []
            return cls(given, about={"groups": given})
        every = feature_groups(activations, limit=float(limit), least=int(least))
        rows, sides = embeddings, [(group.images, group.images) for group in every]
        if crops is not None:
            rows, sides = crops([(group.features, group.images, group.images[:0]) for group in every])
        alike = [coherence(rows, images) for images, _ in sides]
        kept = [(group, value) for group, value in zip(every, alike, strict=True) if value > float(coherent)]
        if not kept:
            near = f"; the best reaches {max(alike):.2f}" if alike else ""
            raise InputError(
                f"{len(every)} groups of neurons fire together on more than {least} images, none of them with a mean "
                f"cosine of its images above {coherent}{near}: lower `limit` or `coherent`, or give `groups`"
            )
        found = [list(group.features) for group, _ in kept]
        images = [{"images": len(group.images), "coherence": round(value, 4)} for group, value in kept]
        about = {"groups": found, "discovered": images, "coherent": float(coherent), "limit": float(limit)}
        return cls(found, [group.images for group, _ in kept], about)

    def at(self, neuron: int) -> tuple[list[int], Tensor | None]:
        """A neuron's group, and the images on which a group fires that was found."""
        places = [place for place, group in enumerate(self.groups) if neuron in group]
        if not places:
            return [neuron], None
        place = places[0] if self.fired else places[-1]
        return list(self.groups[place]), self.fired[place] if self.fired else None
