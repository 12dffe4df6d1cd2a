"""Asking: which images each neuron's question shows, what is on the disk already, workers, budget, repairs."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contralens.checks import ImageError
from contralens.data.candidates import Replies
from contralens.data.files import digest, write_whole
from contralens.data.pictures import RULE, Layout
from contralens.data.prompts import Prompt, ReplyError, Shown, choose, parse_reply, schema
from contralens.data.runs import Run
from contralens.evidence import RunImages
from contralens.models.proposers import Proposer, ProposerError, Reply, Request
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
    """Estimated: a token for 4 characters and for 28 x 28 px."""
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
        out = [
            f"{self.neurons} neurons: {self.answered} answered already, {self.requests} questions to ask",
            f"{self.pictures} pictures of {self.images} images, about {self.input_tokens:,} tokens in, "
            f"at most {self.output_tokens:,} out; about {minutes} {basis}",
        ]
        if self.cost is not None:
            cap = "no cap" if self.budget is None else f"cap {self.budget:.2f}"
            out.append(f"at most {self.cost:.2f} for these (repairs on top), {self.spent:.2f} spent before; {cap}")
        if self.lost:
            out.append(f"{self.lost} questions were under way when an earlier run stopped; they may have been charged")
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
        price: tuple[float, float] | None,
        budget: float | None,
        max_tokens: int,
        progress: Progress,
    ) -> None:
        self.run, self.proposer, self.prompt, self.pictures, self.layout = run, proposer, prompt, pictures, layout
        self.replies, self.price, self.budget, self.max_tokens = replies, price, budget, max_tokens
        self.progress = progress
        self.look: Callable[[Any, int], Any] | None = None
        self.notes: list[str] = []
        self.shown: dict[str, tuple[int, Shown]] = {}
        self.key_of: dict[int, str] = {}
        self.failed: dict[str, str] = {}
        self.records: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._stop: str | None = None
        self._under_way = 0.0

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
            return None, str(e)

    def _estimate(self, key: str) -> tuple[int, int]:
        """Pictures and input tokens of a question."""
        _, shown = self.shown[key]
        sizes = [size for side in (shown.positives, shown.contrasts) for size in self.layout.sizes(len(side))]
        return len(sizes), sum(-(-w // 28) * -(-h // 28) for w, h in sizes) + len(self.prompt.text) // 4 + 20

    def _cost(self, tokens_in: float, tokens_out: float) -> float:
        return (tokens_in * self.price[0] + tokens_out * self.price[1]) / 1e6 if self.price else 0.0

    def plan(self) -> Plan:
        """What is going to happen."""
        waiting = self.waiting()
        estimates = [self._estimate(key) for key in waiting]
        shown = [self.shown[key][1] for key in waiting]
        tokens = sum(e[1] for e in estimates)
        at_most = len(waiting) * self.max_tokens
        spent, lost = self._spent()
        self._paid = spent
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
            cost=self._cost(tokens, at_most) if self.price else None,
            spent=spent,
            budget=self.budget,
            lost=lost,
            seconds=len(waiting) * each / self.proposer.workers,
            measured=bool(took),
            notes=self.notes,
        )

    def _spent(self) -> tuple[float, int]:
        """What this folder has cost, and how many questions were lost on the way."""
        records = self.replies.all()
        paid = sum(self._price_of(a) for record in records.values() for a in record["attempts"])
        asked: Counter[tuple[str, int]] = Counter()
        cost: dict[tuple[str, int], float] = {}
        for line in self.replies.ledger():
            at = (line["key"], line["attempt"])
            asked[at] += -1 if line.get("free") else 1
            cost[at] = line.get("cost") or cost.get(at, 0.0)
        lost = 0
        for (key, attempt), times in asked.items():
            missing = times - (1 if key in records and len(records[key]["attempts"]) > attempt else 0)
            lost += max(0, missing)
            paid += max(0, missing) * cost[key, attempt]
        return paid, lost

    def _price_of(self, attempt: dict[str, Any]) -> float:
        return self._cost(
            attempt.get("input_tokens") or attempt["estimated_input_tokens"], attempt.get("output_tokens") or 0
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

    def example(self, folder: Path) -> dict[str, Any]:
        """One rendered question with its pictures, written to `folder`; nothing is asked."""
        keys = self.waiting() or list(self.shown)
        if not keys:
            return {}
        request, told = self._question(keys[0], keep=False)
        text: list[str] = []
        files: list[str] = []
        for part in request.parts:
            if isinstance(part, str):
                text.append(part)
            else:
                path = folder / f"{len(files)}-{told[len(files)]['group']}.jpg"
                write_whole(path, part)
                text.append(f"[{path.name}]")
                files.append(str(path))
        write_whole(folder / "prompt.txt", ("\n\n".join(text) + "\n").encode())
        return {"neuron": self.shown[keys[0]][0], "text": "\n\n".join(text), "pictures": files, "shown": told}

    def ask(self) -> None:
        """Put all questions that wait; ends when each is answered or has failed, or the budget or the server stops
        it."""
        queue = self.waiting()
        total, size = len(queue), max(1, self.proposer.batch)
        self.progress("proposing", 0, total)
        done = 0

        def next_batch() -> list[str]:
            with self._lock:
                taken: list[str] = []
                while queue and len(taken) < size and self._stop is None:
                    cost = self._most(queue[0])
                    if self.budget is not None and self._paid + self._under_way + cost > self.budget:
                        self._stop = f"not asked: the budget of {self.budget:g} would be exceeded"
                        break
                    self._under_way += cost
                    taken.append(queue.pop(0))
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
            self.failed[key] = self._stop or "not asked"
        self.progress("proposing", total, total)

    def _most(self, key: str) -> float:
        """What a question can cost at most: with its repair, where that may come."""
        tokens = self._estimate(key)[1]
        return self._cost(tokens, self.max_tokens)

    def _put(self, keys: list[str]) -> None:
        """Ask a batch, then once more what was answered badly; each answer is on the disk before anything else is
        asked."""
        questions: dict[str, tuple[Request, list[dict[str, Any]]]] = {}
        for key in keys:
            try:
                questions[key] = self._question(key)
            except ImageError as e:
                self.failed[key] = str(e)
        fresh = [key for key in questions if key not in self.records]
        self._round(fresh, [questions[key][0] for key in fresh], questions, 0)
        bad = [key for key in questions if key in self.records and not self._settled(key)]
        repairs = [
            questions[key][0].repair(
                self.records[key]["attempts"][0]["reply"], self.prompt.repair(self._parsed(self.records[key])[1])
            )
            for key in bad
        ]
        with self._lock:
            self._under_way -= sum(self._most(key) for key in keys)
            more = sum(self._most(key) for key in bad)
            if bad and self.budget is not None and self._paid + self._under_way + more > self.budget:
                self._stop = self._stop or f"not asked: the budget of {self.budget:g} would be exceeded"
                return
        self._round(bad, repairs, questions, 1)

    def _round(
        self,
        keys: list[str],
        requests: list[Request],
        questions: dict[str, tuple[Request, list[dict[str, Any]]]],
        attempt: int,
    ) -> None:
        if not keys:
            return
        for key in keys:
            self.replies.asking(key, attempt, self._most(key))
        begun = time.monotonic()
        answers = self.proposer.ask(requests)
        seconds = (time.monotonic() - begun) / len(keys)
        for key, answer in zip(keys, answers, strict=True):
            if isinstance(answer, ProposerError):
                self.failed[key] = str(answer)
                if not answer.charged:
                    self.replies.asking(key, attempt, None, free=True)
                else:
                    with self._lock:
                        self._paid += self._most(key)
                if answer.fatal:
                    self._stop = self._stop or f"not asked: {answer}"
                continue
            self._keep(key, answer, questions[key], seconds)

    def _keep(self, key: str, answer: Reply, question: tuple[Request, list[dict[str, Any]]], seconds: float) -> None:
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
            self._paid += self._price_of(tried)

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
            "spent": self._spent()[0] if self.price else None,
            "price": list(self.price) if self.price else None,
        }
        return proposals, errors, usage
