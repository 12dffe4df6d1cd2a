"""Content fingerprints that are worked out once for a folder, however many processes and runs need them.

A file is taken for unchanged while its path, size, inode and times of change (mtime and ctime, in nanoseconds) are the
same; ctime changes with whatever happens to a file and no program can set it. What changed within `SETTLED_SECONDS` of
the look is not remembered, since a clock may be too coarse to tell two changes apart (git's "racy" files).
"""

from __future__ import annotations

import time

import numpy as np

from contralens.data.image_sets import ImageSet
from contralens.data.store import Store
from contralens.types import Images

KEPT_TOGETHER = 4096
"""Images whose fingerprints are kept together."""
SETTLED_SECONDS = 2.0
"""Seconds that a file must have been left alone."""


def known_fingerprints(images: Images, store: Store, first: int = 0) -> list[str]:
    """The fingerprints of a set, from the store where it has them, else computed and left there for others.

    Parts are gone through from the one with image `first` on, so that shards that start together each hash another
    part and find those of the others when they come to them. Nobody waits for anybody.
    """
    if not isinstance(images, ImageSet) or images.hashed or not images.stamped:
        return list(images.fingerprints())
    starts = list(range(0, len(images), KEPT_TOGETHER))
    at = first // KEPT_TOGETHER % max(1, len(starts))
    found: dict[int, list[str]] = {}
    for start in [*starts[at:], *starts[:at]]:
        indices = range(start, min(start + KEPT_TOGETHER, len(images)))
        stamps, newest = images.stamps(indices)
        kept = store.remember("fingerprints", "1", *stamps)
        arrays = kept.get()
        if arrays is not None:
            found[start] = [row.tobytes().hex() for row in arrays["fingerprints"]]
            continue
        settled = newest < time.time() - SETTLED_SECONDS
        hashes = images.hash_some(indices)
        if settled and None not in hashes:
            raw = bytes.fromhex("".join(h for h in hashes if h is not None))
            kept.put({"fingerprints": np.frombuffer(raw, np.uint8).reshape(len(hashes), -1)})
        found[start] = images.named(indices, hashes)
    return images.settle([one for start in starts for one in found[start]])
