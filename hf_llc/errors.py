"""The exception for bad input, and how a lack of memory is told from other faults."""

from __future__ import annotations

import re
from typing import Any

_LONGEST = 200
"""Characters of a value that a refusal shows."""
_LONGEST_LIST = 1000
"""Characters of what is allowed: names of columns, say."""
_SHORT_OF_MEMORY = (
    *("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory", "std::bad_alloc"),
    *("failed to map segment", "can't start new thread", "resource temporarily unavailable"),
    *("codec configuration error", "returned null without setting an exception"),
)
"""Words of torch, the dynamic linker, Python and Pillow; the last are CPython's, of an extension that got no memory."""

_PATHS = (
    re.compile(r"""(['"])(?:/|[A-Za-z]:\\)[^'"\n]*[\\/]([^'"\\/\n]*)\1"""),
    re.compile(r"""(?<![\w:/.~])()(?:/|[A-Za-z]:\\)(?:[^\s'",;()\[\]]*[\\/])([^\s'",;()\[\]\\/]*)"""),
)
"""Absolute paths, in quotes or between blanks; the last group is the file's name."""


class InputError(ValueError):
    """Bad input from the user, refused before any long work starts.

    The message is one line: what is wrong, the value, what is allowed, and what to do. The command line prints it
    without a traceback and exits with code 2.

    Args:
        what: what is wrong.
        value: the value that is wrong.
        allowed: what is allowed instead.
        remedy: what the user can do.
    """

    def __init__(self, what: str, *, value: object = None, allowed: str = "", remedy: str = "") -> None:
        parts = [what if value is None else f"{what}, got {_cut(repr(value))}"]
        if allowed:
            parts.append(f"allowed: {_cut(allowed, _LONGEST_LIST)}")
        if remedy:
            parts.append(remedy)
        super().__init__(" ".join("; ".join(parts).split()))


class OutOfTime(InputError):
    """`max_seconds` was over before anything could be said of λ̂: no bad input, but no result either (exit code 3).

    Args:
        stage: in which the time was up.
        how_far: it got, in words.
        limit: `max_seconds`, or what is said of it.
        remedy: what the user can do.
    """

    def __init__(self, stage: str, how_far: str, *, limit: float | str | None, remedy: str) -> None:
        super().__init__(f"no draws: max_seconds stopped the run in {stage}, {how_far}", value=limit, remedy=remedy)

    def __reduce__(self) -> tuple[Any, ...]:  # another process raises it too
        return _same, (OutOfTime, str(self))


class LimitTooShort(InputError):
    """`max_seconds` is too short for the shortest run, as the forecast says: refused before long work."""


def _same(kind: type[InputError], text: str) -> InputError:
    """An error of this kind with this text."""
    error = kind.__new__(kind)
    ValueError.__init__(error, text)
    return error


class FolderError(InputError):
    """The folder of a run is damaged, another run's, or cannot be written to: no fault of model, data or settings."""


def _cut(text: str, longest: int = _LONGEST) -> str:
    """The text, or its start and its length if it would fill the screen."""
    return text if len(text) <= longest else f"{text[:longest]} … ({len(text):,} characters)"


def reason_of(error: BaseException, length: int = 300) -> str:
    """What an error of a library says, on one line and without the folders of this machine."""
    text = " ".join(str(error).split())
    for pattern in _PATHS:
        text = pattern.sub(lambda found: found[1] + found[2] + found[1], text)
    return f"{type(error).__name__}: {text[:length]}" if text else type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is short, or was caused by one that does: torch has several ways to say so."""
    text = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or (error.__cause__ is not None and is_out_of_memory(error.__cause__))
        or type(error).__name__ == "OutOfMemoryError"
        or (
            isinstance(error, (RuntimeError, OSError, ImportError, SystemError))
            and any(words in text for words in _SHORT_OF_MEMORY)
        )
    )
