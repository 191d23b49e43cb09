"""The refusal of a limit that is over before L_n(w*) is known."""

from __future__ import annotations

from hf_llc.errors import InputError
from hf_llc.progress import watch


def too_slow(done: int, num_examples: int, seconds: float) -> InputError:
    """The refusal of a number of examples whose losses at w* take too long."""
    return InputError(
        f"max_seconds is too short for L_n(w*): {done:,} of {num_examples:,} examples took {seconds:.0f} s",
        value=watch().max_seconds,
        remedy=f"give more, or max_examples of {max(done // 2, 1):,} at most",
    )
