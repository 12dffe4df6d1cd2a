"""Which images are held out: decided by each image's content, or its group, and a seed, by nothing else.

So the same image always falls on the same side, copies of it stay together, as do images of one group, and adding
images moves none of the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from contralens.errors import InputError

VALIDATION = 0.3
"""Share of the held-out images on which anything that evaluation fits is fitted; the rest is the test part."""


def drawn(fingerprints: Sequence[str], share: float, seed: int = 0, purpose: str = "holdout") -> list[bool]:
    """Whether each image falls into the part that takes `share` of all images, by what identifies it or its group.

    `purpose` makes several splits with one seed independent of each other.

    >>> sum(drawn([str(i) for i in range(1000)], 0.2))
    207
    >>> drawn(["a", "b", "a"], 0.5) == [drawn(["a"], 0.5)[0], drawn(["b"], 0.5)[0], drawn(["a"], 0.5)[0]]
    True
    """
    if not 0.0 < share < 1.0:
        raise InputError(f"a share of held-out images must be between 0 and 1, e.g. 0.2; got {share}")
    limit = int(share * 2**64)
    prefix = f"{purpose}:{seed}:"
    return [int.from_bytes(hashlib.sha256((prefix + f).encode()).digest()[:8], "big") < limit for f in fingerprints]


def split_keys(fingerprints: Sequence[str], names: Sequence[str | None]) -> list[str]:
    """What decides on which side of a split each image falls: its group, or its content where it has none.

    >>> split_keys(["aa", "bb"], ["lesion 7", None])
    ['group lesion 7', 'bb']
    """
    return [f if name is None else f"group {name}" for f, name in zip(fingerprints, names, strict=True)]
