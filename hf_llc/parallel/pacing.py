"""When a loop of steps is interrupted for checks and checkpoints, how it ends on Ctrl-C, and an alarm."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator

from hf_llc.parallel.group import Group

_FLUSH_STEPS, _FLUSH_SECONDS = 50, 0.5


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Defer Ctrl-C and SIGTERM, so that the step under way ends first. A second one raises KeyboardInterrupt at once.

    Yields a function that says whether one came. Outside the main thread signals are left as they are.
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


@contextlib.contextmanager
def ringing(at: float, ring: Callable[[], None]) -> Iterator[None]:
    """Within, `ring` is called once it is `at`, and every second from then on, wherever the main thread is.

    What it raises comes out of whatever Python code is running then, as a KeyboardInterrupt would: reading of data and
    downloads in other libraries end that way. Nothing is called outside the main thread, where the system has no such
    alarm, or where somebody else has set it.

    Args:
        at: `time.monotonic()`.
        ring: raises what is to be raised, if it is time.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if math.isinf(at) or not is_main or not hasattr(signal, "setitimer") or any(signal.getitimer(signal.ITIMER_REAL)):
        yield
        return
    old = signal.signal(signal.SIGALRM, lambda signum, frame: ring())
    signal.setitimer(signal.ITIMER_REAL, max(at - time.monotonic(), 0.001), 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, old)


class Pacer:
    """When a loop of steps pauses to wait for the device, to report, and to look for Ctrl-C and a due checkpoint.

    A process alone pauses after 50 steps, after half a second, or when it was asked to stop. The clocks of a group's
    processes differ: at each pause they agree on the step of the next, about half a second later.

    Args:
        group: the processes that run this loop together.
        step: steps done before the loop.
    """

    def __init__(self, group: Group, step: int) -> None:
        self.group, self.step, self.time = group, step, time.monotonic()
        self.next = step + 1

    def is_due(self, step: int, is_asked: Callable[[], bool]) -> bool:
        """Whether to pause after this step."""
        if self.group.size > 1:
            return step >= self.next
        late = time.monotonic() - self.time > _FLUSH_SECONDS
        return late or step - self.step >= _FLUSH_STEPS or is_asked()

    def agree(self, step: int, *, stop: bool, save: bool, end: bool = False) -> tuple[bool, bool, bool]:
        """Whether any process of the group wants to stop, to save, and to end early; sets the next pause."""
        now = time.monotonic()
        each = (now - self.time) / max(step - self.step, 1)
        ahead = min(max(int(_FLUSH_SECONDS / max(each, 1e-9)), 1), _FLUSH_STEPS)
        stops, saves, ends, ahead = self.group.max_of(stop, save, end, ahead)
        self.step, self.time, self.next = step, now, step + ahead
        return bool(stops), bool(saves), bool(ends)
