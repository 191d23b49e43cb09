"""What a command shows while it works, and when its time is up.

One `Watch` stands for one command. The posterior counts to it the gradients that it takes, whatever they are for; loops
ask it whether to end. It is kept in a context variable, so that no function between a command and a loop passes it on.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping

from torch.nn.modules.module import register_module_forward_pre_hook

from hf_llc.budget import kept_for_end
from hf_llc.errors import OutOfTime
from hf_llc.numerals import short, typed
from hf_llc.parallel.group import Group
from hf_llc.progress_display import BAR_SECONDS, Stage, display
from hf_llc.ranges import Range, said, total

ENDS = {
    "load": 0.9,
    "L_n(w*)": 0.3,
    "minimize": 0.4,
    "calibrate": 0.5,
    "descend": 0.55,
    "descended": 0.65,
    "sample": 0.92,
    "measure heat": 0.95,
    "check γ": 0.96,
    "attempt": 0.75,
}
"""Share of the time after loading, and again after L_n(w*), by which each stage ends ("load": of `max_seconds`);
"descended": the last pass of a descent; "attempt": after which no chains begin again at other settings. What the stages
after it need at least (`Watch.keep_time`) may end a stage earlier, and L_n(w*), without which there is nothing, later.
"""

_TELLING_SECONDS = 3.0
"""A stage that has worked for so long tells how long a gradient takes."""

_MORE_THAN_GRADIENTS = "calibrate"
"""A stage that does so much besides that it tells nothing of the others: 39 ms a gradient where chains took 25."""

_SHORT_SECONDS = 10.0
"""A command that is over by then says no more than its result."""


class TimeIsUp(KeyboardInterrupt):
    """The time is up within a pass of the model, or between two, or while data are read; see `Watch.until`.

    It is no Exception: what catches those of a user's model or loss must not take it for theirs. Libraries tidy up as
    after Ctrl-C.
    """


class Watch:
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
        seconds_each: of one such gradient; NaN: not known.
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
        self.is_forecast = is_forecast
        self.max_seconds, self._whole = max_seconds if limit is None else limit, max_seconds
        self.begun = time.monotonic() if begun is None else begun
        self._work_begun, self._end_takes = self.begun, math.nan
        self.plan: dict[str, Range] = {}
        self.seconds_each, self.title, self.is_short = math.nan, title, False
        self._needed_after: dict[str, float] = {}
        self._stage: Stage | None = None
        self._until = math.inf
        self.ended: dict[str, float] = {}
        self._told = (0.0, 0.0)
        self._display = display(spell) if show else None

    @property
    def needs_forecast(self) -> bool:
        """Whether anyone sees how long the work takes, or bounds it."""
        return self._display is not None or self.max_seconds is not None or self.is_forecast

    # ---- the clock ----

    def ends_at(self, stage: str) -> float:
        """`time.monotonic()` at which a stage of `ENDS` must end; infinite without a limit."""
        if self.max_seconds is None:
            return math.inf
        begun, end = self.begun if stage == "load" else self._work_begun, self.begun + self.max_seconds
        end -= 0.0 if stage == "load" or math.isnan(self._end_takes) else self._end_takes
        by_share, sampled = (begun + ENDS[each] * max(end - begun, 0.0) for each in (stage, "sample"))
        needed = self._needed_after.get(stage, math.nan) * self.seconds_each
        if math.isnan(needed):
            return by_share
        return (max if stage == "L_n(w*)" else min)(by_share, sampled - needed)

    def seconds_until(self, stage: str) -> float:
        """Seconds until a stage of `ENDS` must end; infinite without a limit."""
        return self.ends_at(stage) - time.monotonic()

    def begin_work(self) -> None:
        """All is loaded, or L_n(w*) is known: the stages that follow share the time that is left."""
        self._work_begun = time.monotonic()
        if math.isnan(self._end_takes) and self.max_seconds is not None:
            self._end_takes = kept_for_end(self._work_begun - self.begun, self.max_seconds)

    def keep_time(self, needed_after: Mapping[str, float]) -> None:
        """Keep time for the shortest run.

        Args:
            needed_after: stage → what those after it need at least, in gradients of one example.
        """
        self._needed_after = dict(needed_after)

    def is_over(self, stage: str, group: Group | None = None) -> bool:
        """Whether a stage must end now. The processes of a group ask together and get one answer."""
        if self.max_seconds is None:
            return False
        late = time.monotonic() > self.ends_at(stage)
        return late if group is None else bool(group.max_of(late)[0])

    @contextlib.contextmanager
    def until(self, stage: str, *, within_passes: bool = False) -> Iterator[None]:
        """Within, `check` raises TimeIsUp once the time of a stage of `ENDS` is up.

        Args:
            stage: of `ENDS`.
            within_passes: every module calls `check` before it runs, so that a long pass ends midway. Not where other
                processes wait for this one.
        """
        before, self._until = self._until, min(self._until, self.ends_at(stage))
        try:
            if not within_passes or math.isinf(self._until):
                yield
                return
            with register_module_forward_pre_hook(lambda module, inputs: self.check()):
                yield
        finally:
            self._until = before

    def check(self) -> None:
        """Say whether the time is up, between two passes of the model.

        Raises:
            TimeIsUp: it is.
        """
        if time.monotonic() > self._until:
            raise TimeIsUp

    def is_hopeless(self, begun: float, done: float) -> bool:
        """Whether work begun at `begun`, of which a share `done` is over, would take twice the time that there is."""
        taken = time.monotonic() - begun
        return taken > _TELLING_SECONDS and taken > 2 * done * (self._until - begun)

    @property
    def limit_said(self) -> float | str | None:
        """`max_seconds` as the user knows it, with the share of a part."""
        if self._whole is None or self.max_seconds is None or self._whole == self.max_seconds:
            return self.max_seconds
        part = f"{self.title}: " if self.title else ""
        return f"{typed(self._whole)} s for all of it ({part}{short(self.max_seconds)} s)"

    def out_of_time(self, stage: str, how_far: str, remedy: str = "") -> OutOfTime:
        """The end of a run that can say nothing within its limit."""
        again = "run the same command with a larger max_seconds to go on"
        return OutOfTime(stage, how_far, limit=self.limit_said, remedy=f"{again}, {remedy}" if remedy else again)

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
        if seconds > _TELLING_SECONDS:
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
