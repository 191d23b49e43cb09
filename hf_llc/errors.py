"""The exception for bad input, and how a lack of memory is told from other faults."""

from __future__ import annotations

_LONGEST = 200
"""Characters of a value that a refusal shows."""
_SHORT_OF_MEMORY = (
    *("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory", "std::bad_alloc"),
    *("failed to map segment", "can't start new thread", "resource temporarily unavailable"),
    "codec configuration error",
)
"""Words of torch, the dynamic linker, Python and Pillow."""


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
            parts.append(f"allowed: {allowed}")
        if remedy:
            parts.append(remedy)
        super().__init__(" ".join("; ".join(parts).split()))


class FolderError(InputError):
    """The folder of a run is damaged, another run's, or cannot be written to: no fault of model, data or settings."""


def _cut(text: str) -> str:
    """The text, or its start and its length if it would fill the screen."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} … ({len(text):,} characters)"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is short: torch has several ways to say so."""
    text = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (
            isinstance(error, (RuntimeError, OSError, ImportError)) and any(words in text for words in _SHORT_OF_MEMORY)
        )
    )
