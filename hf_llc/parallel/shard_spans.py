"""Where the shards of a long vector lie in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

Spans = Sequence[tuple[int, int]]
"""Where the stretches of a long vector that one process holds begin and end, in order."""


def length(spans: Spans) -> int:
    """Elements that a process with these spans holds."""
    return sum(end - begin for begin, end in spans)


def overlaps(spans: Spans, start: int, stop: int) -> Iterator[tuple[slice, slice]]:
    """The parts of columns `start … stop` of a shard, which is its spans one after the other.

    Yields where each part lies among these columns, and where in the full vector.
    """
    at = 0
    for begin, end in spans:
        low, high = max(at, start), min(at + end - begin, stop)
        if low < high:
            yield slice(low - start, high - start), slice(begin + low - at, begin + high - at)
        at += end - begin
