"""How many pictures a generator may make, and for how long experiments may continue."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class Budget:
    """How many pictures may be made, and for how long; None for no limit.

    >>> budget = Budget(edits=1)
    >>> budget.spend(), budget.over
    (True, 'the budget of 1 edits was used up')
    """

    edits: int | None = None
    seconds: float | None = None
    made: int = 0
    begun: float = field(default_factory=time.monotonic)

    @property
    def over(self) -> str:
        """What is used up, or nothing."""
        if self.edits is not None and self.made >= self.edits:
            return f"the budget of {self.edits} edits was used up"
        if self.seconds is not None and time.monotonic() - self.begun > self.seconds:
            return f"the {self.seconds:g} seconds were over"
        return ""

    def spend(self) -> bool:
        """Whether one edit more may be made; it is then counted.

        >>> budget = Budget(edits=1)
        >>> budget.spend(), budget.spend()
        (True, False)
        """
        if self.over:
            return False
        self.made += 1
        return True
