"""Asking: workers, budget, repairs; every answer is on the disk before the next question."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from contralens.errors import ImageError
from contralens.proposing.budget import Purse
from contralens.proposing.plan import ASSUMED_SECONDS, Plan
from contralens.proposing.proposers import Proposer, Reply, Request
from contralens.proposing.questions import Posed, Questions
from contralens.types import Progress


class Session:
    """One call of `propose` to a model: its questions asked, and what came of it."""

    def __init__(self, questions: Questions, proposer: Proposer, purse: Purse, progress: Progress) -> None:
        self.questions, self.proposer, self.purse, self.progress = questions, proposer, purse, progress
        self.notes: list[str] = []
        self._lock = threading.Lock()
        self._stop: str | None = None

    def plan(self) -> Plan:
        """What is going to happen."""
        questions = self.questions
        waiting = questions.waiting()
        estimates = [questions.estimate(key) for key in waiting]
        shown = [questions.shown[key][1] for key in waiting]
        for record in questions.records.values():
            for attempt in record["attempts"]:
                self.purse.learn(attempt)
        tokens = self.purse.tokens(sum(e[1] for e in estimates))
        at_most = len(waiting) * questions.max_tokens
        spent, lost = self.purse.account(questions.replies)
        self.purse.spent = spent
        own = [r for r in questions.replies.all().values() if r.get("fingerprint") == self.proposer.fingerprint]
        took = [a["seconds"] for r in own for a in r["attempts"] if isinstance(a.get("seconds"), (int, float))]
        each = sum(took) / len(took) if took else ASSUMED_SECONDS
        return Plan(
            neurons=len(questions.key_of),
            requests=len(waiting),
            answered=sum(questions.settled(key) for key in questions.key_of.values() if key in questions.shown),
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

    def ask(self) -> None:
        """Put all questions that wait, until each is answered or has failed, or the budget or the server stops it."""
        queue = self.questions.waiting()
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
                self._stop = self._stop or "not asked: stopped after an error"
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
            self.questions.failed[key] = self._stop or self._over
        self.progress("proposing", total, total)

    @property
    def _over(self) -> str:
        return f"not asked: the budget of {self.purse.budget or 0:g} would be exceeded"

    def _most(self, key: str, repair: bool = False) -> float:
        """What a question, or its repair with the bad answer in it, can cost at most."""
        more = 600 if repair else 0
        return self.purse.cost(self.purse.tokens(self.questions.estimate(key)[1]) + more, self.questions.max_tokens)

    def _put(self, batch: dict[str, float]) -> None:
        """Ask a batch, then again what was answered badly; each answer is on the disk before the next question."""
        questions, posed = self.questions, dict[str, Posed]()
        for key in batch:
            try:
                posed[key] = questions.pose(key)
            except ImageError as e:
                questions.failed[key] = str(e)
                self.purse.settle(batch[key], 0.0)
        fresh = {key: request for key, (request, _) in posed.items() if key not in questions.records}
        for key in posed.keys() - fresh.keys():
            self.purse.settle(batch[key], 0.0)
        self._round(fresh, posed, batch, 0)
        repairs, aside = {}, {}
        for key in [key for key in posed if key in questions.records and not questions.settled(key)]:
            aside[key] = self._most(key, repair=True)
            if not self.purse.reserve(aside[key]):
                self._stop = self._stop or self._over
                questions.failed[key] = f"no repair: {self._over}"
                continue
            record = questions.records[key]
            again = questions.prompt.repair(questions.parsed(record)[1])
            repairs[key] = posed[key][0].repair(record["attempts"][0]["reply"], again)
        self._round(repairs, posed, aside, 1)

    def _round(
        self, requests: dict[str, Request], posed: dict[str, Posed], aside: dict[str, float], attempt: int
    ) -> None:
        """Ask once, and keep or note what comes back."""
        if not requests:
            return
        for key in requests:
            self.questions.replies.asking(key, attempt, aside[key])
        begun = time.monotonic()
        answers = self.proposer.ask(list(requests.values()))
        seconds = (time.monotonic() - begun) / len(requests)
        for key, answer in zip(requests, answers, strict=True):
            if isinstance(answer, Reply):
                paid = self._keep(key, answer, posed[key], seconds)
            else:
                paid = aside[key] if answer.charged else 0.0
                self.questions.failed[key] = str(answer)
                if not answer.charged:
                    self.questions.replies.asking(key, attempt, None, free=True)
                if answer.fatal:
                    self._stop = self._stop or f"not asked: {answer}"
            self.purse.settle(aside[key], paid)

    def _keep(self, key: str, answer: Reply, posed: Posed, seconds: float) -> float:
        """Write a reply to the disk; what it cost."""
        tried = {
            "reply": answer.text[:20_000],
            "input_tokens": answer.input_tokens,
            "output_tokens": answer.output_tokens,
            "estimated_input_tokens": self.questions.estimate(key)[1],
            "seconds": round(seconds, 3),
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        self.questions.keep(key, *posed, tried, self.proposer.name, answer.model)
        self.purse.learn(tried)
        return self.purse.price_of(tried)

    def usage(self) -> dict[str, Any]:
        """What all replies that were used took."""
        records = self.questions.records
        tried = [attempt for record in records.values() for attempt in record["attempts"]]
        return {
            "replies": len(records),
            "repairs": len(tried) - len(records),
            "input_tokens": sum(a["input_tokens"] or 0 for a in tried),
            "output_tokens": sum(a["output_tokens"] or 0 for a in tried),
            "spent": self.purse.account(self.questions.replies)[0] if self.purse.price else None,
            "price": list(self.purse.price) if self.purse.price else None,
        }
