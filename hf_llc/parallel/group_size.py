"""How many processes a group may have. Without torch: commands refuse before they import it."""

from __future__ import annotations

from hf_llc.errors import InputError


def check_group(name: str, size: int, count: int) -> None:
    """Refuse groups that do not divide the processes of a run.

    Args:
        name: of the setting.
        size: processes of a group.
        count: processes of the run.

    Raises:
        InputError: `count` is not a multiple of `size`.
    """
    if count % size:
        raise InputError(
            f"{name} does not divide the {count} processes of this run",
            value=size,
            allowed=", ".join(str(k) for k in range(1, count + 1) if count % k == 0),
            remedy=f"launch as many processes as {name}, or a multiple",
        )
