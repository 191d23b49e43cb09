"""How a command shows where it is: one bar on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable

from tqdm.auto import tqdm

_LINE_SECONDS = 30.0
"""Where no terminal shows a bar: seconds between two lines."""

BAR_SECONDS = 1.0
"""Between two pictures of a bar."""

_NOTED_SECONDS, _LONG_SECONDS = 2.0, 10.0
"""A stage that took longer leaves a line behind, on a terminal and elsewhere."""


_NEARLY = 0.99


class Stage:
    """A part of the work, such as "calibrate".

    Attributes:
        name: of the stage.
        total: work that it takes as far as one can guess, in gradients of one example; 0: not known.
        done: work done.
        text: where it stands.
        seconds_taken: of a stage that is over.
    """

    def __init__(self, name: str, total: float) -> None:
        self.name, self.total, self.done, self.text = name, total, 0.0, ""
        self._begun = time.monotonic()
        self.seconds_taken = 0.0

    @property
    def share(self) -> float:
        """Of the work that is done; never all of it, for it is a guess."""
        return min(self.done / self.total, _NEARLY) if self.total else 0.0

    @property
    def seconds(self) -> float:
        """Time since the stage began."""
        return time.monotonic() - self._begun


class Lines:
    """Lines on a stream that is no terminal."""

    def __init__(self, spell: Callable[[str], str]) -> None:
        self._spell, self._next = spell, time.monotonic() + _LINE_SECONDS

    @property
    def is_due(self) -> bool:
        return time.monotonic() > self._next - 2 * BAR_SECONDS

    def draw(self, title: str, stage: Stage, left: str) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _LINE_SECONDS
        share = f"{stage.share:.0%}" if stage.total else f"{stage.seconds:.0f} s"
        self.note(f"{_name(title, stage)} {_state(share, stage, left)}")

    def note(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody reads: the work goes on
            print(self._spell(f"hf_llc: {text}"), file=sys.stderr, flush=True)

    def end(self, title: str, stage: Stage) -> None:
        if stage.seconds > _LONG_SECONDS:
            self.note(f"{_name(title, stage)}: {_state(f'{stage.seconds:.0f} s', stage)}")

    def close(self) -> None:
        pass


class Bar:
    """One bar on a terminal, for all stages."""

    def __init__(self, spell: Callable[[str], str]) -> None:
        self._spell = spell
        # the state goes where tqdm shows a unit: it puts a comma in front of a postfix
        self._bar = tqdm(
            total=1, unit="", file=sys.stderr, bar_format="{desc} {percentage:3.0f}%|{bar:20}| {unit}", leave=False
        )
        self._shown = 0.0

    @property
    def is_due(self) -> bool:
        return time.monotonic() > self._shown + BAR_SECONDS

    def draw(self, title: str, stage: Stage, left: str) -> None:
        self._shown = time.monotonic()
        with self._bar.get_lock():
            self._bar.n = stage.share
            self._bar.desc = self._spell(_name(title, stage))
            self._bar.unit = self._spell(_state(f"{stage.seconds:.0f} s", stage, left))
        self._bar.refresh()

    def note(self, text: str) -> None:
        self._bar.write(self._spell(text), file=sys.stderr)

    def end(self, title: str, stage: Stage) -> None:
        if stage.seconds > _NOTED_SECONDS:
            self.note(f"{_name(title, stage)}: {_state(f'{stage.seconds:.0f} s', stage)}")

    def close(self) -> None:
        self._bar.close()


def _name(title: str, stage: Stage) -> str:
    return f"{title}: {stage.name}" if title else stage.name


def _state(first: str, stage: Stage, left: str = "") -> str:
    return ", ".join(part for part in (first, stage.text, left and f"{left} left") if part)


def display(spell: Callable[[str], str]) -> Bar | Lines:
    return Bar(spell) if sys.stderr is not None and sys.stderr.isatty() else Lines(spell)
