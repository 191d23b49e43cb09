"""When a loop looks up from its steps, and how it ends on Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator

from hf_llc.parallel.group import Group

_FLUSH_STEPS, _FLUSH_SECONDS = 50, 0.5


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Ctrl-C (or a polite kill) asks; the step under way ends first. A second one is not deferred.

    Yields a function that says whether it was asked. Outside the main thread signals are left as they are.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(signum: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    old = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


class Pacer:
    """When a loop looks up from its steps, for the clock, for Ctrl-C, for what the device has done.

    A process by itself looks after 50 steps or half a second, or when it was asked to stop. Processes of a group cannot
    each go by their own clock: at each look they agree on the next, some half a second later.
    """

    def __init__(self, group: Group, step: int) -> None:
        self.group, self.step, self.time = group, step, time.monotonic()
        self.next = step + 1

    def is_due(self, step: int, is_asked: Callable[[], bool]) -> bool:
        """Whether to look after this step."""
        if self.group.size > 1:
            return step >= self.next
        late = time.monotonic() - self.time > _FLUSH_SECONDS
        return late or step - self.step >= _FLUSH_STEPS or is_asked()

    def agree(self, step: int, *, stop: bool, save: bool) -> tuple[bool, bool]:
        """Whether to stop and to save, as any of the group wants; and begin to wait for the next look."""
        now = time.monotonic()
        each = (now - self.time) / max(step - self.step, 1)
        ahead = min(max(int(_FLUSH_SECONDS / max(each, 1e-9)), 1), _FLUSH_STEPS)
        stops, saves, ahead = self.group.max_of(stop, save, ahead)
        self.step, self.time, self.next = step, now, step + ahead
        return bool(stops), bool(saves)
