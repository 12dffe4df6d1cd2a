"""Asking: which images each neuron's question shows, what is on the disk already, workers, budget, repairs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contralens.checks import ImageError, counted
from contralens.data.candidates import Replies
from contralens.data.files import digest
from contralens.data.pictures import RULE, Layout
from contralens.data.prompts import Prompt, ReplyError, Shown, choose, parse_reply, schema
from contralens.data.runs import Run
from contralens.evidence import RunImages
from contralens.models.proposers import Proposer, Reply, Request
from contralens.proposing.budget import Purse
from contralens.proposing.preview import write_question
from contralens.types import Progress

ASSUMED_SECONDS = 5.0
"""For one question, before any was answered."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run of `propose` is going to do."""

    neurons: int
    requests: int
    """Questions still to be asked; repairs come on top."""
    answered: int
    """Neurons whose reply is on the disk already."""
    pictures: int
    """Pictures sent in all, and the images that they show."""
    images: int
    input_tokens: int
    """Estimated: a token for 4 characters and for 28 x 28 px, scaled by what earlier replies took."""
    output_tokens: int
    """At most."""
    cost: float | None
    """At most, without repairs; None without a price."""
    spent: float
    """Already, in this folder: replies by their tokens, lost questions at the most that they can have cost."""
    budget: float | None
    lost: int
    """Questions that were under way when an earlier run was killed; a server may have charged for them."""
    seconds: float
    measured: bool
    """Whether `seconds` comes from earlier replies of this proposer; else `ASSUMED_SECONDS` for each are assumed."""
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The plan for people."""
        minutes = f"{self.seconds / 60:.1f} min" if self.seconds >= 90 else f"{self.seconds:.0f} s"
        basis = "at the pace so far" if self.measured else f"if each takes {ASSUMED_SECONDS:g} s"
        shared = " (neurons with the same pictures share one)" if self.requests + self.answered < self.neurons else ""
        out = [
            f"{counted(self.neurons, 'neuron')}: {self.answered} answered already, "
            f"{counted(self.requests, 'question')} to ask{shared}",
            f"{counted(self.pictures, 'picture')} of {counted(self.images, 'image')}, about {self.input_tokens:,} "
            f"tokens in, at most {self.output_tokens:,} out; about {minutes} {basis}",
        ]
        if self.cost is not None:
            cap = "no cap" if self.budget is None else f"cap {self.budget:.2f}"
            out.append(f"at most {self.cost:.2f} for these (repairs on top), {self.spent:.2f} spent before; {cap}")
        if self.lost:
            out.append(
                f"{counted(self.lost, 'question')} under way when an earlier run stopped, perhaps charged all the same"
            )
        return out + [f"note: {note}" for note in self.notes]


class Session:
    """One call of `propose` to a model: who is asked what, and what came of it."""

    def __init__(
        self,
        run: Run,
        proposer: Proposer,
        prompt: Prompt,
        pictures: RunImages,
        layout: Layout,
        replies: Replies,
        purse: Purse,
        max_tokens: int,
        progress: Progress,
    ) -> None:
        self.run, self.proposer, self.prompt, self.pictures, self.layout = run, proposer, prompt, pictures, layout
        self.replies, self.purse, self.max_tokens = replies, purse, max_tokens
        self.progress = progress
        self.look: Callable[[Any, int], Any] | None = None
        self.notes: list[str] = []
        self.shown: dict[str, tuple[int, Shown]] = {}
        self.key_of: dict[int, str] = {}
        self.failed: dict[str, str] = {}
        self.records: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._stop: str | None = None

    # --- before ---

    def select(self, neurons: Sequence[int], show: int, same: Callable[[int, int], bool]) -> None:
        """Choose the images of every neuron, give each question its key, and read what was answered before."""
        by_neuron: dict[int, list[tuple[int, int]]] = {n: [] for n in neurons}
        columns = (self.run.exemplars[c].to_pylist() for c in ("neuron", "rank", "positive", "contrast"))
        for n, _, positive, contrast in sorted(zip(*columns, strict=True)):
            if n in by_neuron:
                by_neuron[n].append((positive, contrast))
        for n, pairs in by_neuron.items():
            partners = [c for _, c in pairs] if self.prompt.contrastive else []
            shown = choose([p for p, _ in pairs], partners, show, same)
            if not shown.positives or (self.prompt.contrastive and not shown.contrasts):
                self.key_of[n] = f"none-{n}"
                self.failed[f"none-{n}"] = "it has no " + ("contrastive partners" if shown.positives else "exemplars")
                continue
            key = self._key(n, shown)
            self.key_of[n] = key
            self.shown.setdefault(key, (n, shown))
        for key in self.shown:
            record = self.replies.get(key)
            if record is not None:
                self.records[key] = record

    def _key(self, neuron: int, shown: Shown) -> str:
        contents = [[self.pictures.fingerprints[i] for i in side] for side in (shown.positives, shown.contrasts)]
        where = f"{self.look.name} {neuron}" if self.look is not None else ""  # type: ignore[attr-defined]
        return digest(
            RULE,
            self.proposer.fingerprint,
            self.prompt.text,
            repr((self.prompt.count, self.prompt.words, self.layout, self.max_tokens, self.pictures.kind)),
            where,
            repr(contents),
        )

    def waiting(self) -> list[str]:
        """Keys of the questions that still need an answer or a repair."""
        return [key for key in self.shown if not self._settled(key)]

    def _settled(self, key: str) -> bool:
        record = self.records.get(key)
        return record is not None and (len(record["attempts"]) > 1 or self._parsed(record)[0] is not None)

    def _parsed(self, record: dict[str, Any]) -> tuple[list[str] | None, str]:
        """The concepts in the last answer, or None and what is wrong with it."""
        try:
            return parse_reply(record["attempts"][-1]["reply"], self.prompt.count, self.prompt.words), ""
        except ReplyError as e:
            if (record["attempts"][-1].get("output_tokens") or 0) >= self.max_tokens:
                return None, f"{e}; it was cut off at {self.max_tokens} tokens (--max-tokens allows more)"
            return None, str(e)

    def _estimate(self, key: str) -> tuple[int, int]:
        """Pictures and input tokens of a question."""
        _, shown = self.shown[key]
        sizes = [size for side in (shown.positives, shown.contrasts) for size in self.layout.sizes(len(side))]
        return len(sizes), sum(-(-w // 28) * -(-h // 28) for w, h in sizes) + len(self.prompt.text) // 4 + 20

    def plan(self) -> Plan:
        """What is going to happen."""
        waiting = self.waiting()
        estimates = [self._estimate(key) for key in waiting]
        shown = [self.shown[key][1] for key in waiting]
        for record in self.records.values():
            for attempt in record["attempts"]:
                self.purse.learn(attempt)
        tokens = self.purse.tokens(sum(e[1] for e in estimates))
        at_most = len(waiting) * self.max_tokens
        spent, lost = self.purse.account(self.replies)
        self.purse.spent = spent
        own = [r for r in self.replies.all().values() if r.get("fingerprint") == self.proposer.fingerprint]
        took = [a["seconds"] for r in own for a in r["attempts"] if isinstance(a.get("seconds"), (int, float))]
        each = sum(took) / len(took) if took else ASSUMED_SECONDS
        return Plan(
            neurons=len(self.key_of),
            requests=len(waiting),
            answered=sum(self._settled(key) for key in self.key_of.values() if key in self.shown),
            pictures=sum(e[0] for e in estimates),
            images=sum(len(s.positives) + len(s.contrasts) for s in shown),
            input_tokens=tokens,
            output_tokens=at_most,
            cost=self.purse.cost(tokens, at_most) if self.purse.price else None,
            spent=spent,
            budget=self.purse.budget,
            lost=lost,
            seconds=len(waiting) * each / self.proposer.workers,
            measured=bool(took),
            notes=self.notes,
        )

    # --- asking ---

    def _question(self, key: str, keep: bool = True) -> tuple[Request, list[dict[str, Any]]]:
        """A question and what its pictures show; the pictures are on the disk when this returns, if they are to be
        kept."""
        neuron, shown = self.shown[key]
        groups: list[list[bytes]] = []
        told: list[dict[str, Any]] = []
        for name, side in (("positives", shown.positives), ("contrasts", shown.contrasts)):
            loaded = [self.pictures.load(i) for i in side]
            if self.look is not None:
                loaded = [self.look(image, neuron) for image in loaded]
            made = self.layout.render(loaded)
            groups.append(made)
            for at, data in enumerate(made):
                rows = side if self.layout.kind == "grids" else [side[at]]
                kept = self.replies.picture(data) if keep else None
                told.append({"file": kept, "group": name, "images": [self.pictures.ids[i] for i in rows]})
        about = [self.layout.about(len(side)) for side in (shown.positives, shown.contrasts)]
        parts = tuple(self.prompt.parts(groups[0], groups[1], about))
        return Request(parts, schema(self.prompt.count), self.max_tokens, key), told

    def example(self, folder: Path, names: dict[int, str]) -> dict[str, Any]:
        """One rendered question with its pictures, written to `folder`; nothing is asked."""
        keys = self.waiting() or list(self.shown)
        if not keys:
            return {}
        request, told = self._question(keys[0], keep=False)
        neuron = self.shown[keys[0]][0]
        files = write_question(folder, names[neuron], request.parts, [picture["group"] for picture in told])
        return {"neuron": neuron, "name": names[neuron], **files, "shown": told}

    def ask(self) -> None:
        """Put all questions that wait, until each is answered or has failed, or the budget or the server stops it."""
        queue = self.waiting()
        total, size = len(queue), max(1, self.proposer.batch)
        self.progress("proposing", 0, total)
        done = 0

        def next_batch() -> dict[str, float]:
            """Keys, and what is set aside for each. A worker for whom nothing fits ends; the last one stops it all."""
            with self._lock:
                taken: dict[str, float] = {}
                while queue and len(taken) < size and self._stop is None:
                    most = self._most(queue[0])
                    if not self.purse.reserve(most):
                        if self.purse.under_way == 0.0:
                            self._stop = self._over
                        break
                    taken[queue.pop(0)] = most
                return taken

        def work() -> None:
            nonlocal done
            try:
                while batch := next_batch():
                    self._put(batch)
                    with self._lock:
                        done += len(batch)
                        self.progress("proposing", done, total)
            except BaseException:
                self._stop = self._stop or "not asked: stopped by an error"
                raise

        with ThreadPoolExecutor(max(1, self.proposer.workers)) as pool:
            futures = [pool.submit(work) for _ in range(max(1, min(self.proposer.workers, total)))]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                self._stop = self._stop or "not asked: interrupted"  # workers finish what is under way
                raise
        for key in queue:
            self.failed[key] = self._stop or self._over
        self.progress("proposing", total, total)

    @property
    def _over(self) -> str:
        return f"not asked: the budget of {self.purse.budget or 0:g} would be exceeded"

    def _most(self, key: str, repair: bool = False) -> float:
        """What a question, or its repair with the bad answer in it, can cost at most."""
        more = 600 if repair else 0
        return self.purse.cost(self.purse.tokens(self._estimate(key)[1]) + more, self.max_tokens)

    def _put(self, batch: dict[str, float]) -> None:
        """Ask a batch, then once more what was answered badly; each answer is on the disk before the next question."""
        questions: dict[str, tuple[Request, list[dict[str, Any]]]] = {}
        for key in batch:
            try:
                questions[key] = self._question(key)
            except ImageError as e:
                self.failed[key] = str(e)
                self.purse.settle(batch[key], 0.0)
        fresh = {key: question for key, (question, _) in questions.items() if key not in self.records}
        for key in questions.keys() - fresh.keys():
            self.purse.settle(batch[key], 0.0)
        self._round(fresh, questions, batch, 0)
        repairs, aside = {}, {}
        for key in [key for key in questions if key in self.records and not self._settled(key)]:
            aside[key] = self._most(key, repair=True)
            if not self.purse.reserve(aside[key]):
                self._stop = self._stop or self._over
                self.failed[key] = f"no repair: {self._over}"
                continue
            bad = self.records[key]["attempts"][0]["reply"]
            repairs[key] = questions[key][0].repair(bad, self.prompt.repair(self._parsed(self.records[key])[1]))
        self._round(repairs, questions, aside, 1)

    def _round(
        self,
        requests: dict[str, Request],
        questions: dict[str, tuple[Request, list[dict[str, Any]]]],
        aside: dict[str, float],
        attempt: int,
    ) -> None:
        """Ask once, and keep or note what comes back."""
        if not requests:
            return
        for key in requests:
            self.replies.asking(key, attempt, aside[key])
        begun = time.monotonic()
        answers = self.proposer.ask(list(requests.values()))
        seconds = (time.monotonic() - begun) / len(requests)
        for key, answer in zip(requests, answers, strict=True):
            if isinstance(answer, Reply):
                paid = self._keep(key, answer, questions[key], seconds)
            else:
                paid = aside[key] if answer.charged else 0.0
                self.failed[key] = str(answer)
                if not answer.charged:
                    self.replies.asking(key, attempt, None, free=True)
                if answer.fatal:
                    self._stop = self._stop or f"not asked: {answer}"
            self.purse.settle(aside[key], paid)

    def _keep(self, key: str, answer: Reply, question: tuple[Request, list[dict[str, Any]]], seconds: float) -> float:
        """Write a reply to the disk; what it cost."""
        tried = {
            "reply": answer.text[:20_000],
            "input_tokens": answer.input_tokens,
            "output_tokens": answer.output_tokens,
            "estimated_input_tokens": self._estimate(key)[1],
            "seconds": round(seconds, 3),
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        request, told = question
        before = self.records.get(key, {"attempts": []})
        record: dict[str, Any] = {
            "model": self.proposer.name,
            "served": answer.model,
            "fingerprint": self.proposer.fingerprint,
            "prompt": self.prompt.name,
            "asked": [part if isinstance(part, str) else None for part in request.parts],
            "pictures": told,
            "attempts": [*before["attempts"], tried],
        }
        concepts, error = self._parsed(record)
        record["concepts"], record["error"] = concepts, error or None
        self.replies.put(key, record)
        with self._lock:
            self.records[key] = record
            self.failed.pop(key, None)
        self.purse.learn(tried)
        return self.purse.price_of(tried)

    # --- after ---

    def results(self, names: dict[int, str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
        """Proposals and errors by neuron, and what all replies that were used took."""
        proposals, errors = [], []
        for n, key in self.key_of.items():
            record = self.records.get(key)
            concepts, problem = self._parsed(record) if record is not None else (None, "")
            if record is None or concepts is None:
                reason = f"the reply cannot be used: {problem}" if record is not None else ""
                reason = "; ".join(filter(None, [reason, self.failed.get(key, "" if reason else "not asked")]))
                reply = key if record is not None else None
                errors.append({"neuron": n, "name": names[n], "error": reason, "reply": reply})
                continue
            for place, concept in enumerate(concepts):
                proposals.append(
                    {"text": concept, "neuron": n, "name": names[n], "place": place, "prompt": self.prompt.name,
                     "model": self.proposer.name, "reply": key, "score": None}
                )  # fmt: skip
        tried = [a for r in self.records.values() for a in r["attempts"]]
        usage = {
            "replies": len(self.records),
            "repairs": len(tried) - len(self.records),
            "input_tokens": sum(a["input_tokens"] or 0 for a in tried),
            "output_tokens": sum(a["output_tokens"] or 0 for a in tried),
            "spent": self.purse.account(self.replies)[0] if self.purse.price else None,
            "price": list(self.purse.price) if self.purse.price else None,
        }
        return proposals, errors, usage
