"""What questions cost: an estimate before, a cap while asking, the account of a folder afterwards."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

from contralens.proposing.candidates import Replies


class Purse:
    """Money in progress and spent, in the currency of the price. Safe for threads.

    Token counts of pictures differ between models by a factor of ten and more, so estimates are scaled by what the
    replies so far took. Until the first reply of a model the cap can be exceeded by the questions then in progress.
    """

    def __init__(self, price: tuple[float, float] | None, budget: float | None) -> None:
        self.price, self.budget = price, budget
        self.spent = self.under_way = 0.0
        self._estimated = self._real = 0
        self._lock = threading.Lock()

    def cost(self, tokens_in: float, tokens_out: float) -> float:
        """Of so many tokens; 0 without a price."""
        return (tokens_in * self.price[0] + tokens_out * self.price[1]) / 1e6 if self.price else 0.0

    def learn(self, attempt: Mapping[str, Any]) -> None:
        """Take in what a reply really took."""
        if attempt.get("input_tokens") and attempt.get("estimated_input_tokens"):
            with self._lock:
                self._estimated += attempt["estimated_input_tokens"]
                self._real += attempt["input_tokens"]

    def tokens(self, estimated: int) -> int:
        """An estimate of input tokens, scaled by the replies so far."""
        return round(estimated * self._real / self._estimated) if self._estimated else estimated

    def price_of(self, attempt: Mapping[str, Any]) -> float:
        """What a reply cost: by its own token counts, else by the estimate."""
        tokens_in = attempt.get("input_tokens") or attempt.get("estimated_input_tokens") or 0
        return self.cost(tokens_in, attempt.get("output_tokens") or 0)

    def reserve(self, amount: float) -> bool:
        """Set `amount` aside if it fits under the cap."""
        with self._lock:
            if self.budget is not None and self.spent + self.under_way + amount > self.budget:
                return False
            self.under_way += amount
            return True

    def settle(self, amount: float, paid: float) -> None:
        """Take back what was set aside, and pay what it came to."""
        with self._lock:
            self.under_way = max(0.0, self.under_way - amount)
            self.spent += paid

    def account(self, replies: Replies) -> tuple[float, int]:
        """What a folder has cost so far, and how many of its questions were lost on the way.

        A lost question (asked, no reply on the disk, not known to be free) counts with the most that it can have cost.
        """
        records = replies.all()
        paid = sum(self.price_of(a) for record in records.values() for a in record["attempts"])
        asked: Counter[tuple[str, int]] = Counter()
        cost: dict[tuple[str, int], float] = {}
        for line in replies.ledger():
            at = (line["key"], line["attempt"])
            asked[at] += -1 if line.get("free") else 1
            cost[at] = line.get("cost") or cost.get(at, 0.0)
        lost = 0
        for (key, attempt), times in asked.items():
            answered = key in records and len(records[key]["attempts"]) > attempt
            missing = max(0, times - answered)
            lost += missing
            paid += missing * cost[key, attempt]
        return paid, lost
