"""Whole files or none: everything is written under a temporary name and renamed."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf_llc.errors import InputError


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Call `write(temporary path in the same folder)`, flush it to disk and rename it to `path`.

    Whatever stops it (an error, a full disk, a kill) leaves the old file, if any, whole and no half-written new one
    under the final name.
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
    """Write `value` as indented JSON, atomically. Non-finite numbers become null: JSON has no word for them."""
    text = json.dumps(finite(value), indent=2, allow_nan=False) + "\n"
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def finite(value: Any) -> Any:
    """The value with None for every number in it that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return value


def check_writable(folder: str | Path) -> Path:
    """Can `folder` be made and written? A small file is tried in it, or in the nearest folder that is there already.

    Hours of work must not end at a closed door; nothing is left behind, in case the input is refused after all.

    Raises:
        InputError: the folder cannot be made or written.
    """
    folder = Path(folder)
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".hf_llc-", delete=True) as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(
            "cannot write to the output folder",
            value=str(folder),
            allowed="a folder with write permission and free space",
            remedy=f"the system says: {error.strerror}",
        ) from error
    return folder
