"""Atomic writing of files, under a temporary name, which is then renamed; and values as files take them."""

from __future__ import annotations

import contextlib
import csv
import enum
import errno
import json
import math
import mmap
import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from hf_llc.errors import FolderError

LONGEST_NAME = 255
"""Bytes of a file's name."""

_LOST = (errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, None)
"""What the system says where a folder was taken away. Errors of safetensors have no number."""

_SLACK = 2**20
"""Bytes that a library takes beside its data."""

_LONG_PLACE = "x" * 120
"""As long as the path of any file of a run below its folder."""

_POINTER = b"version https://git-lfs"


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Write a file so that it is complete or not there.

    An error, a full disk or a kill leaves the old file, if any, as it was. A new file has the access rights that `open`
    would give it; one that is replaced keeps those it had.

    Args:
        path: the final name; its folder is made if need be.
        write: writes to the temporary path that it is given, in the same folder.

    Returns:
        `path`.

    Raises:
        FolderError: the folder is none, or is taken away meanwhile; or a folder has the file's name.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
        rights = stat.S_IMODE((path if path.is_file() else temporary).stat().st_mode)
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, rights)  # safetensors replaces the file by one that is its owner's alone
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        is_lost = not path.parent.is_dir() or path.is_dir()
        if is_lost and isinstance(error, Exception) and getattr(error, "errno", None) in _LOST:
            raise FolderError(
                "cannot write: something else is where the folder or the file was",
                value=str(path),
                remedy="put it right, and run the same command again",
            ) from error
        raise
    return path


def check_room(num_bytes: int) -> None:
    """Check that this process may still take so much memory, before a library that would end the process if it may not.

    Safetensors, written in Rust, does that. The memory is asked for and given back; none of it is touched.

    Raises:
        MemoryError: it may not.
    """
    try:
        mmap.mmap(-1, num_bytes + _SLACK).close()
    except OSError as error:
        raise MemoryError(f"cannot allocate memory: {num_bytes:,} bytes") from error


def write_json(path: str | Path, value: Any) -> Path:
    """Write `value` as indented JSON, atomically. Numbers that are not finite become null."""
    text = json.dumps(finite(value), indent=2, allow_nan=False) + "\n"
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_csv(path: str | Path, header: Sequence[str], rows: Iterable[Iterable[Any]]) -> Path:
    """Write a table, UTF-8, a line a row, so that it is complete or not there."""

    def write(temporary: Path) -> None:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(rows)

    return write_atomically(path, write)


def write_parquet(path: str | Path, header: Sequence[str], rows: Sequence[Sequence[Any]], *, unit: str = "") -> Path:
    """Write a table that `datasets` loads, marked as ours (`hf_llc.our_files`), so that it is complete or not there."""
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({name: [row[place] for row in rows] for place, name in enumerate(header)})
    marked = table.replace_schema_metadata({"made_by": "hf_llc", **({"unit": unit} if unit else {})})
    return write_atomically(path, lambda temporary: parquet.write_table(marked, temporary))


def plain_value(value: Any) -> Any:
    """The plain Python value of a number of numpy or torch, of a path, or of a member of an enumeration.

    So `nbeta=n / np.log(n)` is written and read back like any other number. Other values stay as they are.
    """
    if isinstance(value, enum.Enum):
        return plain_value(value.value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    for kind in (str, int, float):  # np.float64 is a float, too
        if isinstance(value, kind) and type(value) not in (kind, bool):
            return kind(value)
    item = getattr(value, "item", None)
    if item is not None and getattr(value, "shape", None) == ():
        with contextlib.suppress(RuntimeError, ValueError, TypeError):  # no value (device meta)
            return item()
    return value


def finite(value: Any) -> Any:
    """The value in plain numbers, with None for every one that is not finite: JSON has no word for them."""
    value = plain_value(value)
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
        FolderError: the folder cannot be made or written to, or it would be called "~".
    """
    folder = Path(folder)
    if folder.parts[:1] == ("~",):
        raise FolderError(
            "the output folder begins with ~, which the shell has left as it is",
            value=str(folder),
            remedy="write the path out, or put a space in place of the = before it",
        )
    try:
        if any(len(os.fsencode(part)) > LONGEST_NAME for part in folder.parts):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.stat(folder / _LONG_PLACE)  # a null character, a path that is too long
        with tempfile.NamedTemporaryFile(dir=existing, prefix=".hf_llc-", delete=True) as file:
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, ValueError) as error:  # ValueError: a null character
        raise FolderError(
            "cannot write to the output folder",
            value=str(folder),
            allowed="a folder with write permission and free space",
            remedy=f"the system says: {getattr(error, 'strerror', error)}",
        ) from error
    return folder


def is_pointer(path: Path) -> bool:
    """Whether a file is a pointer of git-lfs, which a clone without it has in place of the real one."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_POINTER)) == _POINTER
    except OSError:
        return False


def remedy_for(path: Path, otherwise: str) -> str:
    """What to do about a damaged file: fetch it if it is what a clone without git-lfs has in its place."""
    return "the clone has a pointer of git-lfs in its place: run `git lfs pull`" if is_pointer(path) else otherwise
