"""What a run of `propose` is going to do, reported before anything is asked."""

from __future__ import annotations

from dataclasses import dataclass, field

from contralens.checks import counted

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
    """Questions that were in progress when an earlier run was killed; a server may have charged for them."""
    seconds: float
    measured: bool
    """Whether `seconds` comes from earlier replies of this proposer; else `ASSUMED_SECONDS` for each are assumed."""
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The plan for people."""
        minutes = f"{self.seconds / 60:.1f} min" if self.seconds >= 90 else f"{self.seconds:.0f} s"
        basis = "at the rate so far" if self.measured else f"if each takes {ASSUMED_SECONDS:g} s"
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
            out.append(f"{counted(self.lost, 'question')} in flight when an earlier run stopped, perhaps charged")
        return out + [f"note: {note}" for note in self.notes]
