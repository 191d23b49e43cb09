"""Until when a command may work, and each of its stages: `max_seconds` in shares."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping

from torch.nn.modules.module import register_module_forward_pre_hook

from hf_llc.budget import kept_for_end
from hf_llc.errors import OutOfTime
from hf_llc.numerals import short, typed
from hf_llc.parallel.group import Group

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

TELLING_SECONDS = 3.0
"""A stage that has worked for so long tells how long a gradient takes."""


class TimeIsUp(KeyboardInterrupt):
    """The time is up within a pass of the model, or between two, or while data are read; see `Watch.until`.

    It is no Exception: what catches those of a user's model or loss must not take it for theirs. Libraries tidy up as
    after Ctrl-C.
    """


class Clock:
    """The time of one command.

    Args:
        begun: `time.monotonic()` at the beginning of the command; None: now.
        max_seconds: time for the whole command; None: no limit.
        limit: a part's share of it, if the command has several; None: all of it.
        title: what is measured, if a command measures several things.

    Attributes:
        seconds_each: of a gradient of one example; NaN: not known.
    """

    def __init__(
        self,
        *,
        begun: float | None = None,
        max_seconds: float | None = None,
        limit: float | None = None,
        title: str = "",
    ) -> None:
        self.max_seconds, self._whole = max_seconds if limit is None else limit, max_seconds
        self.begun = time.monotonic() if begun is None else begun
        self._work_begun, self._end_takes = self.begun, math.nan
        self.seconds_each, self.title = math.nan, title
        self._needed_after: dict[str, float] = {}
        self._until = math.inf

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
        return taken > TELLING_SECONDS and taken > 2 * done * (self._until - begun)

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
