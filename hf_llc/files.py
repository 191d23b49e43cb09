"""Atomic writing of files: under a temporary name, which is then renamed."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf_llc.errors import InputError

LONGEST_NAME = 255
"""Bytes of a file's name."""


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Write a file so that it is complete or not there.

    An error, a full disk or a kill leaves the old file, if any, as it was.

    Args:
        path: the final name; its folder is made if need be.
        write: writes to the temporary path that it is given, in the same folder.

    Returns:
        `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def write_json(path: str | Path, value: Any) -> Path:
    """Write `value` as indented JSON, atomically. Numbers that are not finite become null."""
    text = json.dumps(finite(value), indent=2, allow_nan=False) + "\n"
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def finite(value: Any) -> Any:
    """The value, with None for every number in it that is not finite: JSON has no word for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return value


def check_writable(folder: str | Path) -> Path:
    """Check that a folder can be made and written to, before hours of work end there.

    A file of 4 KiB is written to it, or to its nearest parent that exists, and removed again.

    Returns:
        `folder`.

    Raises:
        InputError: the folder cannot be made or written to.
    """
    folder = Path(folder)
    try:
        if any(len(os.fsencode(part)) > LONGEST_NAME for part in folder.parts):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.stat(folder)  # a null character, a path that is too long
        with tempfile.NamedTemporaryFile(dir=existing, prefix=".hf_llc-", delete=True) as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, ValueError) as error:  # ValueError: a null character
        raise InputError(
            "cannot write to the output folder",
            value=str(folder),
            allowed="a folder with write permission and free space",
            remedy=f"the system says: {getattr(error, 'strerror', error)}",
        ) from error
    return folder
