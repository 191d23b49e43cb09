"""How many bytes are free, and how to free those that the C library keeps."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's `mallopt`."""

_KEPT, _PIECE = 2**27, 2**25
"""Bytes of freed memory that glibc keeps, and of a piece up to which it does; it allows no larger pieces."""


def available_bytes(device: torch.device, *, processes: int = 1) -> int:
    """Free bytes of a device's memory; the host's memory is shared by the processes on it."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return min(_of_machine(), _of_group()) // processes


def return_freed_memory() -> None:
    """Give freed memory back to the system: glibc keeps pieces below 32 MiB."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def keep_freed_memory() -> None:
    """Let glibc keep what a pass of the model has freed for the next one, in this process, from now on.

    It gives freed memory back by a limit that follows the largest piece, and where a pass crosses that, the system
    clears all its pages again in each: 2,000 of them a gradient of the embedded model, 13 % of an estimate's time.
    Nothing is done where the environment sets glibc's limits.
    """
    if os.environ.keys() & {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"}:
        return
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
        library = ctypes.CDLL(None)
        library.mallopt(_TRIM_THRESHOLD, _KEPT)
        library.mallopt(_MMAP_THRESHOLD, _PIECE)


def _of_machine() -> int:
    """What Linux says that programs may still take; elsewhere half of the installed memory, a guess."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):  # Windows
        return 2**62


def _of_group(root: Path = Path("/sys/fs/cgroup")) -> int:
    """What a container's limit leaves (cgroup v2); 2⁶² without a limit."""
    try:
        limit, used, stat = (
            (root / f"memory.{name}").read_text(encoding="ascii").strip() for name in ("max", "current", "stat")
        )
        # cached files are dropped when memory runs short
        spare = dict(line.split() for line in stat.splitlines()).get("inactive_file", "0")
        return 2**62 if limit == "max" else max(0, int(limit) - int(used) + int(spare))
    except (OSError, ValueError):
        return 2**62
