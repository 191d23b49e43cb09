"""The time of a command that makes several estimates, shared out among them."""

from __future__ import annotations

import math
import time

_END, _MOST_END = 0.25, 0.1
"""Time kept for the end of a command, pictures and files: a share of that from its beginning until all is loaded, for
both import libraries on the same machine; and a share of the limit at most."""

_LATEST = 0.05
"""Share of the limit by which a part of a command is late at most, as far as the next parts allow for it."""


def kept_for_end(loading: float, max_seconds: float) -> float:
    """Seconds of a limit that are kept for the end of a command, which took `loading` seconds to load all."""
    return min(_END * loading, _MOST_END * max_seconds)


class Budget:
    """The time of a command that makes several estimates.

    Args:
        max_seconds: of the whole command; None: no limit.
        begun: `time.monotonic()` at its beginning; None: now.
    """

    def __init__(self, max_seconds: float | None, begun: float | None = None) -> None:
        self.max_seconds, self.begun = max_seconds, time.monotonic() if begun is None else begun
        self._due, self._late, self._end_takes = math.inf, 0.0, math.nan

    def share(self, parts: float) -> float | None:
        """Seconds for the next of `parts` equal parts of what is left; None: no limit.

        Time is kept for the end of the last part and of the command: each as long as a part before was late, and
        what `kept_for_end` says, for what passed before the first part.
        """
        if self.max_seconds is None:
            return None
        now = time.monotonic()
        if math.isnan(self._end_takes):
            self._end_takes = kept_for_end(now - self.begun, self.max_seconds)
        self._late = min(max(self._late, now - self._due), _LATEST * self.max_seconds)
        left = self.begun + self.max_seconds - now
        share = max(left - 2 * self._late - self._end_takes, 0.0) / max(parts, 1.0)
        self._due = now + share
        return share
