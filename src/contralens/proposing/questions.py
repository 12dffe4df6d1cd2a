"""The questions of a run of `propose`: which images each shows, under which key, and what was answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from contralens.data.atomic_files import digest
from contralens.data.pictures import PICTURES_VERSION, Layout
from contralens.data.runs import Run
from contralens.proposing.candidates import Replies
from contralens.proposing.preview import write_question
from contralens.proposing.prompts import Prompt, ReplyError, Shown, choose, parse_reply, schema
from contralens.proposing.proposers import Request
from contralens.run_data.stored import RunImages

Posed = tuple[Request, list[dict[str, Any]]]
"""A question, and what its pictures show."""


class Questions:
    """One question for each neuron; neurons with the same pictures share one."""

    def __init__(
        self,
        run: Run,
        prompt: Prompt,
        pictures: RunImages,
        layout: Layout,
        replies: Replies,
        proposer: str,
        max_tokens: int,
        look: Callable[[Any, int], Any] | None = None,
    ) -> None:
        self.run, self.prompt, self.pictures, self.layout, self.replies = run, prompt, pictures, layout, replies
        self.proposer, self.max_tokens, self.look = proposer, max_tokens, look
        self.key_of: dict[int, str] = {}
        """By neuron."""
        self.shown: dict[str, tuple[int, Shown]] = {}
        """By key: a neuron that it is asked for, and the images."""
        self.records: dict[str, dict[str, Any]] = {}
        """What was answered, by key."""
        self.failed: dict[str, str] = {}
        """Why there is no answer, by key."""

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
                self.failed[f"none-{n}"] = "it has no " + ("contrasts" if shown.positives else "exemplars")
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
            PICTURES_VERSION,
            self.proposer,
            self.prompt.text,
            repr((self.prompt.count, self.prompt.words, self.layout, self.max_tokens, self.pictures.kind)),
            where,
            repr(contents),
        )

    def waiting(self) -> list[str]:
        """Keys of the questions that still need an answer or a repair."""
        return [key for key in self.shown if not self.settled(key)]

    def settled(self, key: str) -> bool:
        record = self.records.get(key)
        return record is not None and (len(record["attempts"]) > 1 or self.parsed(record)[0] is not None)

    def parsed(self, record: dict[str, Any]) -> tuple[list[str] | None, str]:
        """The concepts in the last answer, or None and what is wrong with it."""
        try:
            return parse_reply(record["attempts"][-1]["reply"], self.prompt.count, self.prompt.words), ""
        except ReplyError as e:
            if (record["attempts"][-1].get("output_tokens") or 0) >= self.max_tokens:
                return None, f"{e}; it was cut off at {self.max_tokens} tokens (--max-tokens allows more)"
            return None, str(e)

    def estimate(self, key: str) -> tuple[int, int]:
        """Pictures and input tokens of a question."""
        _, shown = self.shown[key]
        sizes = [size for side in (shown.positives, shown.contrasts) for size in self.layout.sizes(len(side))]
        return len(sizes), sum(-(-w // 28) * -(-h // 28) for w, h in sizes) + len(self.prompt.text) // 4 + 20

    def pose(self, key: str, keep: bool = True) -> Posed:
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
        request, told = self.pose(keys[0], keep=False)
        neuron = self.shown[keys[0]][0]
        files = write_question(folder, names[neuron], request.parts, [picture["group"] for picture in told])
        return {"neuron": neuron, "name": names[neuron], **files, "shown": told}

    def keep(
        self, key: str, request: Request, told: list[dict[str, Any]], tried: dict[str, Any], model: str, served: str
    ) -> None:
        """Write a reply to the disk: `tried` is the attempt, `told` what the pictures show."""
        before = self.records.get(key, {"attempts": []})
        record: dict[str, Any] = {
            "model": model,
            "served": served,
            "fingerprint": self.proposer,
            "prompt": self.prompt.name,
            "asked": [part if isinstance(part, str) else None for part in request.parts],
            "pictures": told,
            "attempts": [*before["attempts"], tried],
        }
        concepts, error = self.parsed(record)
        record["concepts"], record["error"] = concepts, error or None
        self.replies.put(key, record)
        self.records[key] = record
        self.failed.pop(key, None)

    def results(self, names: dict[int, str], model: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Proposals and errors by neuron."""
        proposals, errors = [], []
        for n, key in self.key_of.items():
            record = self.records.get(key)
            concepts, problem = self.parsed(record) if record is not None else (None, "")
            if record is None or concepts is None:
                reason = f"the reply cannot be used: {problem}" if record is not None else ""
                reason = "; ".join(filter(None, [reason, self.failed.get(key, "" if reason else "not asked")]))
                reply = key if record is not None else None
                errors.append({"neuron": n, "name": names[n], "error": reason, "reply": reply})
                continue
            for place, concept in enumerate(concepts):
                proposals.append(
                    {"text": concept, "neuron": n, "name": names[n], "place": place, "prompt": self.prompt.name,
                     "model": model, "reply": key, "score": None}
                )  # fmt: skip
        return proposals, errors
