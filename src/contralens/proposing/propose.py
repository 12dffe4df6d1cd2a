"""Candidate labels for the neurons of a run: pictures and a question to a vision-language model, texts back.

Every reply is on the disk before the same worker asks again, so whatever kills a run loses at most the questions then
in progress (as many as there are workers), and the same command continues where it stopped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from contralens.data.pictures import Layout
from contralens.data.runs import Run, load
from contralens.data.store import Store
from contralens.errors import InputError
from contralens.proposing.budget import Purse
from contralens.proposing.candidates import Candidates, Replies, claimed, folder_of
from contralens.proposing.merge import gather
from contralens.proposing.prompts import Prompt, near_copies, read_prompt
from contralens.proposing.proposers import CaptionBank, Proposer
from contralens.proposing.proposers import proposer as load_proposer
from contralens.proposing.questions import Questions
from contralens.proposing.session import Session
from contralens.run_data.stored import RunImages, cached_rows, encoder_of
from contralens.settings.propose import Propose
from contralens.settings.record import job


@job(Propose)
def propose(settings: Propose) -> Candidates:
    """Candidate labels for the neurons of a run, each with its provenance.

    Returns:
        The candidates, saved as FOLDER/candidates.json. Neurons without any are in `.errors`, each with its reason.

    Raises:
        InputError: an argument is invalid. A failing server raises no error; it is recorded for the neuron.

    >>> from contralens.proposing.proposers import Reply
    >>> class Stripes:
    ...     name, fingerprint, batch, workers = "stripes", "stripes-1", 4, 1
    ...     def ask(self, requests):
    ...         return [Reply('{"concepts": ["striped"]}') for _ in requests]
    >>> found = propose("run", Stripes(), neurons=[5], images="world-1/images")
    >>> found.of(5), found.path.name
    (['striped'], 'run.candidates')
    """
    with _claimed(settings):
        run = settings.run if isinstance(settings.run, Run) else load(settings.run)
        home = _home(settings, run.path)
        if home is None and not isinstance(settings.proposer, CaptionBank):
            raise InputError("`folder` is needed for a run that is not on the disk: replies are kept there")
        asked = load_proposer(
            settings.proposer, **{"device": settings.device or "cpu", **(settings.proposer_options or {})}
        )
        labeled = list(dict.fromkeys(run.exemplars["neuron"].to_pylist()))
        chosen = labeled if settings.neurons is None else list(settings.neurons)
        if unknown := [n for n in chosen if n not in set(labeled)]:
            raise InputError(f"the run has no exemplars of neuron {unknown[0]}; it labeled {len(labeled)} neurons")
        if isinstance(asked, CaptionBank):
            return _of_captions(settings, run, asked, chosen, home)
        assert home is not None
        return _of_model(settings, run, asked, chosen, home)


def _home(settings: Propose, path: Any) -> Path | None:
    """The folder of replies and candidates."""
    return Path(settings.folder) if settings.folder is not None else folder_of(Path(path)) if path else None


@contextmanager
def _claimed(settings: Propose) -> Iterator[None]:
    """The folder of candidates is looked at, and locked, before anything is asked."""
    path = getattr(settings.run, "path", settings.run)
    if (home := _home(settings, path)) is None:
        yield
        return
    with claimed(home, [Path(path)] if path is not None and Path(path).is_dir() else []):
        yield


def _names(run: Run) -> dict[int, str]:
    return dict(zip(*(run.neurons[c].to_pylist() for c in ("neuron", "name")), strict=True))


def _of_captions(settings: Propose, run: Run, bank: CaptionBank, chosen: list[int], home: Path | None) -> Candidates:
    """What a caption bank says."""
    from contralens.proposing.captions import caption_candidates, caption_plan

    kind = str(settings.prompt)
    if kind not in ("contrastive", "positives"):
        raise InputError(f'a caption bank knows the prompts "contrastive" and "positives"; got {kind!r}')
    if settings.focus == "mask":
        raise InputError('a caption bank knows the focus "crop" only: its encoder would see what is masked as grey')
    _watched(run, settings.focus, settings.target, settings.images)
    prepared = caption_plan(run, bank, chosen)
    if settings.on_plan is not None:
        settings.on_plan(prepared)
    if settings.dry_run:
        return Candidates([], [], [], {"proposer": bank.name, "plan": asdict(prepared)})
    made = caption_candidates(
        run, bank, chosen, _names(run), contrastive=kind == "contrastive",
        count=8 if settings.count is None else settings.count, merge=settings.merge, images=settings.images,
        encoder=settings.encoder, cache=settings.cache, device=settings.device or "cpu",
        target=settings.target if settings.focus else None, progress=settings.progress,
        **(settings.caption_options or {}),
    )  # fmt: skip
    return made if home is None else made.save(home)


def _of_model(settings: Propose, run: Run, asked: Proposer, chosen: list[int], home: Path) -> Candidates:
    """What a vision-language model says to pictures and a question."""
    session, question, shape = _session(settings, run, asked, chosen, home)
    questions, known = session.questions, _names(run)
    plan = session.plan()
    if settings.on_plan is not None:
        settings.on_plan(plan)
    own = {"show": settings.show, "alike": settings.alike, "source": questions.pictures.kind, "focus": settings.focus}
    manifest: dict[str, Any] = {
        "proposer": asked.name,
        "fingerprint": asked.fingerprint,
        "run": str(run.path) if run.path else None,
        "prompt": question.name,
        "template": question.text,
        "count": question.count,
        **settings.written(),
        "pictures": {**asdict(shape), **own},
        "plan": asdict(plan),
    }
    if settings.dry_run:
        return Candidates([], [], [], {**manifest, "dry_run": questions.example(home / "dry-run", known)})
    eyes = None if settings.merge is None else encoder_of(run, settings.encoder, settings.device or "cpu")
    try:
        session.ask()
    finally:
        answers, errors = questions.results(known, asked.name)
        manifest["usage"] = session.usage()
    return gather(answers, errors, manifest, eyes, settings.merge).save(home)


def _session(
    settings: Propose, run: Run, asked: Proposer, chosen: list[int], home: Path
) -> tuple[Session, Prompt, Layout]:
    """The questions, ready to be asked, and how they look."""
    count, cell, alike = settings.count, settings.cell, settings.alike
    question = read_prompt(
        settings.prompt, count=3 if count is None else count, words=settings.words, domain=settings.domain
    )
    pictures = RunImages(run, settings.images)
    usual = 224 if pictures.kind == "full" else 128
    shape = Layout(settings.layout, usual if cell is None else cell, settings.columns)
    rows = cached_rows(run, Store(settings.cache), "encoder") if alike < 1 else None
    look = _focus(run, settings.focus, settings.target, settings.images)
    questions = Questions(
        run, question, pictures, shape, Replies(home), asked.fingerprint, settings.max_tokens, look
    )  # fmt: skip
    questions.select(chosen, settings.show, near_copies(pictures.fingerprints, rows, alike))
    session = Session(questions, asked, Purse(settings.price, settings.budget), settings.progress)
    if pictures.kind == "thumbnails":
        session.notes.append("shown are the run's thumbnails (128 px); give the images for full size")
    if rows is None and alike < 1:
        session.notes.append("the cache holds no embeddings of this run: only identical images count as near-copies")
    return session, question, shape


def _focus(run: Run, focus: str | None, target: Any, images: Any) -> Callable[[Any, int], Any] | None:
    """What turns an image into the part of it where a neuron fires."""
    _watched(run, focus, target, images)
    if focus is None:
        return None
    from contralens.data.pictures import Heat, crop_to, mask_to
    from contralens.models.activation_maps import where

    act = crop_to if focus == "crop" else mask_to
    lock = threading.Lock()

    def look(image: Any, neuron: int) -> Any:
        with lock:
            return act(image, Heat(*where(target, [image], neuron)[0]))

    look.name = f"{focus} {target.fingerprint}"  # type: ignore[attr-defined]
    return look


def _watched(run: Run, focus: str | None, target: Any, images: Any) -> None:
    """Refuse a focus without what it needs.

    Raises:
        InputError: there is a focus, but no images, no target, or another run's.
    """
    if focus is None:
        return
    if focus not in ("crop", "mask"):
        raise InputError(f'`focus` must be "crop" or "mask"; got {focus!r}')
    if images is None or target is None:
        raise InputError("`focus` needs the images and the target of the run, to see where its neurons fire")
    if target.fingerprint != run.manifest["target"]["fingerprint"]:
        raise InputError(f"{target.name} is not the target of this run: its fingerprint is another one")
