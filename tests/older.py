"""Runs as contralens 0.1.0 left them: format 1, without digests, so that their content is all that can be looked at."""

from __future__ import annotations

import json
from pathlib import Path

from contralens.data.folder_kinds import ADDED
from contralens.data.seals import DIGEST, FILES


def as_older(run: Path) -> Path:
    """Take the digests out of a run folder and of what was added to it."""
    for name in ("manifest.json", "evaluation/manifest.json", "audit/audit.json"):
        if (run / name).exists():
            content = json.loads((run / name).read_text(encoding="utf-8"))
            kept = {key: value for key, value in content.items() if key not in (FILES, DIGEST)}
            (run / name).write_text(json.dumps({**kept, "format": 1}), encoding="utf-8")
    (run / ADDED).unlink(missing_ok=True)
    return run
