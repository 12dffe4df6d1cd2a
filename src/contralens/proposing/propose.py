"""Candidate labels for the neurons of a run: pictures and a question to a vision-language model, texts back.

Every reply is on the disk before the same worker asks again, so whatever kills a run loses at most the questions then
under way (as many as there are workers), and the same command goes on where it stopped.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from inspect import signature
from pathlib import Path
from typing import Any, Literal, ParamSpec

from contralens.checks import as_path, as_share, as_text, distinct, real, shown, whole
from contralens.data.candidates import Candidates, Replies, claimed, folder_of
from contralens.data.pictures import Layout
from contralens.data.prompts import near_copies, read_prompt
from contralens.data.runs import Run, load
from contralens.data.store import Store
from contralens.errors import InputError
from contralens.evidence import RunImages, cached_rows, encoder_of
from contralens.models.proposers import CaptionBank, Proposer
from contralens.models.proposers import proposer as load_proposer
from contralens.proposing.budget import Purse
from contralens.proposing.merge import gather
from contralens.proposing.questions import Questions
from contralens.proposing.session import Session
from contralens.types import Progress, silent

P = ParamSpec("P")
MERGE_COSINE = 0.97
"""Cosine of two texts from which they count as one concept. CLIP-like text embeddings lie close together: lower values
soon merge what differs in one telling word."""


def claiming(make: Callable[P, Candidates]) -> Callable[P, Candidates]:
    """The folder of candidates is looked at, and locked, before anything is asked."""

    @functools.wraps(make)
    def inner(*args: P.args, **kwargs: P.kwargs) -> Candidates:
        given: dict[str, Any] = signature(make).bind(*args, **kwargs).arguments
        path = getattr(given["run"], "path", given["run"])
        if given.get("folder") is None and path is None:
            return make(*args, **kwargs)
        home = Path(given["folder"]) if given.get("folder") is not None else folder_of(Path(path))
        with claimed(home, [Path(path)] if path is not None and Path(path).is_dir() else []):
            return make(*args, **kwargs)

    return inner


@claiming
def propose(
    run: Run | str | Path,
    proposer: str | Proposer | CaptionBank,
    *,
    prompt: str | Path = "contrastive",
    images: Any = None,
    neurons: Sequence[int] | None = None,
    show: int = 9,
    layout: Literal["grids", "separate"] = "grids",
    cell: int | None = None,
    columns: int = 0,
    alike: float = 0.95,
    focus: Literal["crop", "mask"] | None = None,
    target: Any = None,
    count: int | None = None,
    words: int = 4,
    domain: str = "",
    max_tokens: int = 256,
    merge: float | None = MERGE_COSINE,
    encoder: Any = None,
    price: tuple[float, float] | None = None,
    budget: float | None = None,
    folder: str | Path | None = None,
    cache: str | Path | None = None,
    device: str = "cpu",
    dry_run: bool = False,
    on_plan: Callable[[Any], None] | None = None,
    progress: Progress = silent,
    proposer_options: dict[str, Any] | None = None,
    caption_options: dict[str, Any] | None = None,
) -> Candidates:
    """Candidate labels for the neurons of a run, each with its provenance.

    Args:
        run: a finished run, or its folder.
        proposer: "hf:MODEL", "openai:MODEL@URL", "captions:FILE", or a `Proposer`.
        prompt: "contrastive", "positives", or a file with a template (see `read_prompt`).
        images: the probe set again, for pictures at full size; without it the run's thumbnails (128 px) are shown.
        neurons: indices; by default all that the run labeled.
        show: images of each group. Near-copies of one shown already are passed over.
        alike: what counts as a near-copy: the same content, or at least this cosine (where the cache still holds the
            embeddings).
        layout: "grids", one picture for each group, or "separate" images; see `Layout`.
        cell: side of an image in px; 224, or 128 from thumbnails.
        columns: of a grid; 0 makes it as square as it can be.
        focus: "crop" images to where the neuron fires, or "mask" the rest; needs `images` and the run's `target`.
            Where that is says the neuron's own map (conv maps and patch tokens), else occlusion.
        count: concepts asked for; 3, or 8 of a caption bank.
        words: words of a concept, at most.
        domain: a hint, e.g. "dermoscopy".
        max_tokens: of an answer; raise it for models that think first.
        merge: cosine of text embeddings from which two candidates count as one; None keeps all apart.
        encoder: the run's encoder; by default loaded by its name.
        price: (per million tokens in, per million out), in any currency.
        budget: asking stops before this is exceeded.
        folder: where replies and candidates are kept, by default RUN.candidates beside the run folder.
        dry_run: only plan, and write one rendered question with its pictures to FOLDER/dry-run.
        on_plan: hears the plan (`Plan`, or `CaptionPlan` of a caption bank) before anything is asked.
        target: the run's network; for `focus` alone.
        cache: the cache that `label` used.
        device: where models run.
        progress: called with stage, done and total.
        proposer_options: of the backend, see `contralens.models.proposers.proposer`.
        caption_options: of a caption bank, see `caption_candidates`.

    Returns:
        The candidates, saved as FOLDER/candidates.json. Neurons without any are in `.errors`, each with its reason.

    Raises:
        InputError: something given is wrong. A server that fails is not: that is recorded for the neuron.

    >>> from contralens.models.proposers import Reply
    >>> class Stripes:
    ...     name, fingerprint, batch, workers = "stripes", "stripes-1", 4, 1
    ...     def ask(self, requests):
    ...         return [Reply('{"concepts": ["striped"]}') for _ in requests]
    >>> found = propose("run", Stripes(), neurons=[5], images="world-1/images")
    >>> found.of(5), found.path.name
    (['striped'], 'run.candidates')
    """
    _check(show=show, cell=cell, columns=columns, count=count, words=words, max_tokens=max_tokens)
    as_path("prompt", prompt)
    as_text("domain", domain)
    as_share("alike", alike, one=True)
    if merge is not None:
        as_share("merge", merge, one=True)
    if price is not None and (not isinstance(price, Sequence) or isinstance(price, str) or len(price) != 2):
        raise InputError(f"`price` must be two numbers, tokens in and out per million; got {shown(price)}")
    for name, one in (*(("price", p) for p in price or ()), ("budget", 0 if budget is None else budget)):
        real(name, one)
    neurons = None if neurons is None else distinct("neurons", neurons)
    run = run if isinstance(run, Run) else load(run)
    if folder is None and run.path is None and not isinstance(proposer, CaptionBank):
        raise InputError("`folder` is needed for a run that is not on the disk: replies are kept there")
    home = Path(folder) if folder is not None else folder_of(run.path) if run.path else None
    asked = load_proposer(proposer, **{"device": device, **(proposer_options or {})})
    if budget is not None and price is None:
        raise InputError("a budget needs a price: tokens in and out, per million, e.g. --price 2.5/10")
    if price is not None and (min(price) < 0 or (budget is not None and budget < 0)):
        raise InputError(f"`price` and `budget` cannot be negative; got {price} and {budget}")
    known = dict(zip(*(run.neurons[c].to_pylist() for c in ("neuron", "name")), strict=True))
    labeled = list(dict.fromkeys(run.exemplars["neuron"].to_pylist()))
    chosen = labeled if neurons is None else list(dict.fromkeys(neurons))
    if unknown := [n for n in chosen if n not in set(labeled)]:
        raise InputError(f"the run has no exemplars of neuron {unknown[0]}; it labeled {len(labeled)} neurons")
    if isinstance(asked, CaptionBank):
        from contralens.proposing.captions import caption_candidates, caption_plan

        kind = str(prompt)
        if kind not in ("contrastive", "positives"):
            raise InputError(f'a caption bank knows the prompts "contrastive" and "positives"; got {kind!r}')
        prepared = caption_plan(run, asked, chosen)
        if on_plan is not None:
            on_plan(prepared)
        if dry_run:
            return Candidates([], [], [], {"proposer": asked.name, "plan": asdict(prepared)})
        made = caption_candidates(
            run, asked, chosen, known, contrastive=kind == "contrastive", count=8 if count is None else count,
            merge=merge, images=images, encoder=encoder, cache=cache, device=device, progress=progress,
            **(caption_options or {}),
        )  # fmt: skip
        return made if home is None else made.save(home)
    assert home is not None
    question = read_prompt(prompt, count=3 if count is None else count, words=words, domain=domain)
    pictures = RunImages(run, images)
    shape = Layout(layout, cell if cell is not None else 224 if pictures.kind == "full" else 128, columns)
    rows = cached_rows(run, Store(cache), "encoder") if alike < 1 else None
    questions = Questions(
        run, question, pictures, shape, Replies(home), asked.fingerprint, max_tokens, _focus(run, focus, target, images)
    )
    questions.select(chosen, show, near_copies(pictures.fingerprints, rows, alike))
    session = Session(questions, asked, Purse(price, budget), progress)
    if pictures.kind == "thumbnails":
        session.notes.append("shown are the run's thumbnails (128 px); give the images for full size")
    if rows is None and alike < 1:
        session.notes.append("the cache holds no embeddings of this run: only identical images count as near-copies")
    plan = session.plan()
    if on_plan is not None:
        on_plan(plan)
    manifest = {
        "proposer": asked.name,
        "fingerprint": asked.fingerprint,
        "run": str(run.path) if run.path else None,
        "prompt": question.name,
        "template": question.text,
        "count": question.count,
        "words": words,
        "domain": domain,
        "pictures": {**asdict(shape), "show": show, "alike": alike, "source": pictures.kind, "focus": focus},
        "plan": asdict(plan),
    }
    if dry_run:
        return Candidates([], [], [], {**manifest, "dry_run": questions.example(home / "dry-run", known)})
    eyes = encoder_of(run, encoder, device) if merge is not None else None
    try:
        session.ask()
    finally:
        answers, errors = questions.results(known, asked.name)
        manifest["usage"] = session.usage()
    return gather(answers, errors, manifest, eyes, merge).save(home)


def _focus(run: Run, focus: str | None, target: Any, images: Any) -> Callable[[Any, int], Any] | None:
    """What turns an image into the part of it where a neuron fires."""
    if focus is None:
        return None
    if focus not in ("crop", "mask"):
        raise InputError(f'`focus` must be "crop" or "mask"; got {focus!r}')
    if images is None or target is None:
        raise InputError("`focus` needs the images and the target of the run, to see where its neurons fire")
    from contralens.data.pictures import Heat, crop_to, mask_to
    from contralens.models.where import where

    if target.fingerprint != run.manifest["target"]["fingerprint"]:
        raise InputError(f"{target.name} is not the target of this run: its fingerprint is another one")
    act = crop_to if focus == "crop" else mask_to
    lock = threading.Lock()

    def look(image: Any, neuron: int) -> Any:
        with lock:
            return act(image, Heat(*where(target, [image], neuron)[0]))

    look.name = f"{focus} {target.fingerprint}"  # type: ignore[attr-defined]
    return look


def _check(**counts: int | None) -> None:
    """Refuse what is no whole number within its limits; None stands for what was not given."""
    limits = {"columns": (0, 1000), "cell": (1, 4096), "show": (1, 10_000), "count": (1, 1000), "words": (1, 1000)}
    for name, value in counts.items():
        if value is not None:
            whole(name, value, *limits.get(name, (1,)))
