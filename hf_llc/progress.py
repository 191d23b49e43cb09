"""What a command shows while it works.

One `Watch` stands for one command, and is its `Clock`. The posterior counts to it the gradients that it takes, whatever
they are for; loops ask it whether to end. It is kept in a context variable, so that no function between a command and a
loop passes it on.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
import threading
import time
from collections.abc import Callable, Iterator

from hf_llc.clock import TELLING_SECONDS, Clock
from hf_llc.progress_display import BAR_SECONDS, Stage, display
from hf_llc.ranges import Range, said, total

_MORE_THAN_GRADIENTS = "calibrate"
"""A stage that does so much besides that it tells nothing of the others: 39 ms a gradient where chains took 25."""

_SHORT_SECONDS = 10.0
"""A command that is over by then says no more than its result."""


class Watch(Clock):
    """What a command shows, and until when it may work.

    Args:
        show: draw a bar on a terminal; elsewhere print a line every half minute.
        begun: `time.monotonic()` at the beginning of the command; None: now.
        max_seconds: time for the whole command; None: no limit.
        limit: a part's share of it, if the command has several; None: all of it.
        title: what is measured, if a command measures several things.
        spell: a text → the same as the terminal can show it.
        is_forecast: the command is about the forecast alone, which it prints itself.

    Attributes:
        plan: stage → work that it still takes, in gradients of one example.
        ended: work of the stages that are over, by name: there may be a stage for each of a million draws.
        is_short: no stage takes more than it must.
    """

    def __init__(
        self,
        *,
        show: bool = False,
        begun: float | None = None,
        max_seconds: float | None = None,
        limit: float | None = None,
        title: str = "",
        spell: Callable[[str], str] = str,
        is_forecast: bool = False,
    ) -> None:
        super().__init__(begun=begun, max_seconds=max_seconds, limit=limit, title=title)
        self.is_forecast, self.is_short = is_forecast, False
        self.plan: dict[str, Range] = {}
        self._stage: Stage | None = None
        self.ended: dict[str, float] = {}
        self._told = (0.0, 0.0)
        self._display = display(spell) if show else None

    @property
    def needs_forecast(self) -> bool:
        """Whether anyone sees how long the work takes, or bounds it."""
        return self._display is not None or self.max_seconds is not None or self.is_forecast

    def spend(self, examples: float) -> None:
        """Count gradients of single examples to the stage under way."""
        if self._stage is not None:
            self._stage.done += examples

    @property
    def done(self) -> float:
        """Gradients of single examples that the stage under way has taken."""
        return 0.0 if self._stage is None else self._stage.done

    def take_more(self, work: float) -> None:
        """The stage under way takes so much more work than it was said to, or less, in gradients of one example."""
        if self._stage is not None:
            self._stage.total = max(self._stage.total + work, 0.0)
            if self._stage.name in self.plan:
                self.plan[self._stage.name] = Range(*(max(part + work, 0.0) for part in self.plan[self._stage.name]))

    def time_left(self) -> Range:
        """Seconds that the rest of the plan takes; NaN: not known."""
        if not self.plan:
            return Range(math.nan, math.nan, math.nan)
        work = total(self.plan.values())
        if self._stage is not None and self._stage.name in self.plan:
            here = self.plan[self._stage.name]
            work = Range(*(all_ - min(self._stage.done, part) for all_, part in zip(work, here, strict=True)))
        left = math.inf
        if self.max_seconds is not None:
            left = max(self.begun + self.max_seconds - time.monotonic(), 0.0)
        return Range(*(min(self.seconds_each * each, left) for each in work))

    # ---- the stages ----

    @contextlib.contextmanager
    def stage(self, name: str, total: float = 0.0) -> Iterator[Stage]:
        """Within, `name` is what the command does. A stage within another one counts to that.

        Args:
            name: of the stage, as `plan` calls it.
            total: work that it takes, in gradients of one example; 0: the guess of the plan, or the most if there is
                none.
        """
        if self._stage is not None:
            if name == self._stage.name:
                self._takes_at_least(self._stage, total)
            yield self._stage
            return
        if total and name in self.plan:  # now it is known
            self.plan[name] = Range(total, total, total)
        planned = self.plan.get(name, Range(0.0, 0.0, 0.0))
        known = self.seconds_each
        self._stage = stage = Stage(name, total or planned.guess or planned.most)
        try:
            yield stage
        finally:
            self._stage = None
            stage.seconds_taken = stage.seconds
            self.ended[name] = self.ended.get(name, 0.0) + stage.done
            if name == _MORE_THAN_GRADIENTS and not math.isnan(known):
                self.seconds_each = known
            elif stage.done > 0:
                self._told = (self._told[0] + stage.seconds_taken, self._told[1] + stage.done)
            self.plan.pop(name, None)
            self._learn(None)
            if self._display is not None:
                self._display.end(self.title, stage)

    def _takes_at_least(self, stage: Stage, work: float) -> None:
        """A stage goes on to so much work in all: chains whose draws were not enough double them."""
        stage.total = max(stage.total, work)
        if stage.name in self.plan:
            planned = self.plan[stage.name]
            self.plan[stage.name] = Range(planned.least, max(planned.guess, work), max(planned.most, work))

    def _learn(self, under_way: Stage | None) -> None:
        """Take the time of a gradient from all stages so far: one stage alone may meet a busy machine."""
        seconds, done = self._told
        if under_way is not None and under_way.done > 0 and not under_way.seconds_taken:
            seconds, done = seconds + under_way.seconds, done + under_way.done
        if seconds > TELLING_SECONDS:
            self.seconds_each = seconds / done

    def say(self, text: Callable[[], str]) -> None:
        """Where the stage under way stands. `text` is called only if it is shown now."""
        if self._stage is not None and self._display is not None and self._display.is_due:
            self._stage.text = text()

    def note(self, text: str) -> None:
        """Show a line that stays."""
        if self._display is not None:
            self._display.note(text)

    def conclude(self, text: Callable[[], str]) -> None:
        """Show a line that stays, if the command is not a short one."""
        if self._display is not None and time.monotonic() - self.begun > _SHORT_SECONDS:
            self._display.note(text())

    def tick(self) -> None:
        """Show where the command is; called by a thread now and then, so that no long operation is silent."""
        stage = self._stage
        if self._display is not None and stage is not None:
            self._learn(stage)
            self._display.draw(self.title, stage, said(self.time_left()))

    @contextlib.contextmanager
    def ticking(self) -> Iterator[None]:
        """Within, a thread calls `tick`."""
        if self._display is None:
            yield
            return
        ended = threading.Event()

        def run() -> None:
            while not ended.wait(BAR_SECONDS):
                self.tick()

        thread = threading.Thread(target=run, name="hf_llc progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self._display.close()


_current: contextvars.ContextVar[Watch | None] = contextvars.ContextVar("watch", default=None)
_SILENT = Watch()


def watch() -> Watch:
    """The watch of the command under way; one without a limit that shows nothing, if there is none."""
    return _current.get() or _SILENT


@contextlib.contextmanager
def watching(new: Watch) -> Iterator[Watch]:
    """Within, `watch()` is `new`."""
    token = _current.set(new)
    try:
        with new.ticking():
            yield new
    finally:
        _current.reset(token)
