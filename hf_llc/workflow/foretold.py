"""What a run takes, as it is told before it begins."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hf_llc.numerals import duration
from hf_llc.ranges import Range, said, total
from hf_llc.workflow.shortest_run import Work

_MUCH_DISK = 2**28
"""Bytes of the states from which on they are told."""


@dataclass(frozen=True)
class Foretold:
    """Time, memory and disk of a run.

    Attributes:
        work: stage → what it takes, in gradients of one example on this process.
        seconds_each: of such a gradient.
        memory: stage → bytes of the whole process at its peak, on a CPU; of a GPU's memory the stage's own. Empty where
            processes share the weights.
        state_bytes: of the states on disk, from which a killed run goes on.
        advice: what would be shorter, in a line; empty for a run that is not long.
    """

    work: Work
    seconds_each: float
    memory: dict[str, int] = field(default_factory=dict)
    state_bytes: int = 0
    advice: str = ""

    @property
    def seconds(self) -> Range:
        """Of all stages."""
        return total(self.work.values()).times(self.seconds_each)

    def lines(self) -> list[str]:
        """A line a stage, and one for all."""
        lines = [
            f"  {name:<14}{_seconds(amount.times(self.seconds_each))}{_room(self.memory.get(name))}"
            for name, amount in self.work.items()
        ]
        disk = f"; states of {self.state_bytes / 2**30:.1f} GiB on disk" if self.state_bytes > _MUCH_DISK else ""
        whole = f"  {'all':<14}{said(self.seconds)}{_room(max(self.memory.values(), default=None))}{disk}"
        return ["forecast, from the time of one gradient:", *lines, whole]

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values: least, guess and most of the seconds, and bytes."""
        stages = {
            name: {"seconds": list(amount.times(self.seconds_each)), "bytes": self.memory.get(name)}
            for name, amount in self.work.items()
        }
        whole = {"seconds": list(self.seconds), "bytes": max(self.memory.values(), default=None)}
        return {"stages": stages, "all": whole, "state_bytes": self.state_bytes, "advice": self.advice}


def _room(size: int | None) -> str:
    return "" if size is None else f", {size / 2**30:.{2 if size < 2**30 else 1}f} GiB"


def _seconds(seconds: Range) -> str:
    return f"up to {duration(seconds.most)}" if seconds.guess == 0 else said(seconds)
