"""The exception for bad input."""

from __future__ import annotations


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
        parts = [what if value is None else f"{what}, got {value!r}"]
        if allowed:
            parts.append(f"allowed: {allowed}")
        if remedy:
            parts.append(remedy)
        super().__init__(" ".join("; ".join(parts).split()))
