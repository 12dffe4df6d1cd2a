"""What the manifests of runs, evaluations, audits, shares and candidates hold, as far as a reader counts on it.

More may be in them: it is kept and not looked at. Imported when a manifest is read, since pydantic takes its time.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=0)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Sealed(_Part):
    format: int
    files: dict[str, Digest] | None = None
    digest: Digest | None = None


class _Target(_Part):
    name: str
    layer: str
    fingerprint: str
    pooling: str
    depth: Annotated[float, Field(ge=0, le=1)] | None = None
    neurons: Count
    notes: list[str] = []
    spec: str | None = None
    options: dict[str, Any] | None = None
    sae: str | dict[str, Any] | None = None
    sae_pooling: str | None = None


class _Encoder(_Part):
    name: str
    fingerprint: str
    width: Count
    notes: list[str] = []
    options: dict[str, Any] | None = None


class _Skipped(_Part):
    id: str
    reason: str


class _Holdout(_Part):
    share: float
    fingerprints: list[str]
    groups: list[str | None] | None = None

    @model_validator(mode="after")
    def _each(self) -> _Holdout:
        if self.groups is not None and len(self.groups) != len(self.fingerprints):
            raise ValueError("the held-out images have another number than their groups")
        return self


class _Groups(_Part):
    source: str
    count: Count
    alone: Count
    per_group: Annotated[int, Field(ge=1)]


class _Images(_Part):
    name: str
    count: Count
    source: str | None = None
    given: Count | None = None
    fingerprint: str | None = None
    skipped: list[_Skipped]
    holdout: _Holdout | None = None
    copies: Count | None = None


class _Vocabulary(_Part):
    source: str
    concepts: Count
    fingerprint: str | None = None
    report: list[str] | dict[str, Any] = []


class _Neurons(_Part):
    selection: str | None = None
    labeled: Count
    skipped: dict[str, Count]


class _Chance(_Part):
    fdr: float
    fakes: Count
    null_share: dict[str, float | None] = {}
    notes: list[str] = []
    no_label: Annotated[dict[str, Count], Field(alias="no label beats chance")]


class _Failed(_Part):
    name: str
    error: str


class _Proposed(_Part):
    proposer: str | None = None
    prompt: str | None = None
    errors: list[_Failed] = []


class _Confidence(_Part):
    labels: dict[str, dict[str, int]]


class _Ranking(_Part):
    method: str
    of: Annotated[str | int | None, Field(alias="class")] = None


class _Crop(_Part):
    by: str


class Run(_Sealed):
    """manifest.json of a run."""

    scorers: Annotated[list[str], Field(min_length=1)]
    primary: str
    target: _Target
    encoder: _Encoder
    images: _Images
    vocabulary: _Vocabulary
    neurons: _Neurons
    templates: Annotated[list[str], Field(min_length=1)]
    normalise_texts: bool = True
    k: Count
    reuse: bool
    exclude: float | None = None
    groups: _Groups | None = None
    neighbours: dict[str, Any] | None = None
    candidates: _Proposed | None = None
    chance: _Chance | None = None
    confidence: _Confidence | None = None
    ranking: _Ranking | None = None
    crop: _Crop | None = None
    notes: list[str] = []
    seed: int = 0
    limit: Count | None = None
    contralens: str
    versions: dict[str, str] = {}

    @model_validator(mode="after")
    def _known(self) -> Run:
        if self.primary not in self.scorers:
            raise ValueError("the primary scorer is not among the scorers")
        return self


class Evaluation(_Sealed):
    """manifest.json of an evaluation."""

    scorers: list[str]
    notes: list[str] = []
    judge: dict[str, Any] | None = None
    sanity: dict[str, dict[str, Any]] = {}


class _AuditTarget(_Part):
    name: str
    layer: str | None
    fingerprint: str


class _Listed(_Part):
    title: str


class Audit(_Sealed):
    """audit.json."""

    mode: str
    target: _AuditTarget
    concepts: _Listed
    warnings: list[str]


class Verification(_Sealed):
    """verification.json."""

    editor: dict[str, Any]
    scorer: str
    target: str
    notes: list[str]


class Share(_Part):
    """share.json."""

    format: str
    version: int
    files: dict[str, Digest]
    digest: Digest | None = None
    thumbnails: bool = False
    names: bool = True


class Candidates(_Part):
    """candidates.json."""

    format: int
    concepts: list[str]
    provenance: list[dict[str, Any]]
    errors: list[dict[str, Any]]
    manifest: dict[str, Any]
    digest: Digest | None = None


class Added(_Part):
    """added.json: what was put into a run folder after it was written."""

    files: dict[str, Digest]
    pending: dict[str, Digest] = {}
    digest: Digest | None = None
