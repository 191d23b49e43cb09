"""Files that are there but are not what their names say: found before a library reads them as something else."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path

from hf_llc.errors import InputError
from hf_llc.files import check_room, is_pointer

_AGAIN = "download or save it again"
_HEAD = 4096
_PARQUET = (b"PAR1", b"PARE")
"""A parquet file begins and ends with the first, or ends with the second where its footer is encrypted."""


def refuse_pointers(paths: Iterable[Path]) -> None:
    """Refuse files that a clone without git-lfs has in place of the real ones.

    Raises:
        InputError: the first.
    """
    for path in paths:
        if is_pointer(path):
            raise InputError("the file is only a pointer of git-lfs", value=path.name, remedy="run `git lfs pull`")


def check_data_file(path: Path, *, has_mark: bool) -> None:
    """Check that a data file is whole, as far as its start and its end tell.

    Args:
        path: the file.
        has_mark: it begins with a byte order mark; null characters are then letters of its encoding.

    Raises:
        InputError: it is not.
    """
    refuse_pointers([path])
    with path.open("rb") as file:
        start = file.read(_HEAD)
        file.seek(-min(4, path.stat().st_size), 2)
        end = file.read()
    if path.suffix.lower() == ".parquet":
        if not start.startswith(_PARQUET) or end not in _PARQUET:
            raise InputError("the data file is cut off, or is not parquet", value=path.name, remedy=_AGAIN)
    elif b"\0" in start and not has_mark:
        raise InputError(
            "the data file is not text in UTF-8: it has null characters", value=path.name, remedy="save it as UTF-8"
        )


def refuse_broken_json(paths: Iterable[Path]) -> None:
    """Say where the first broken JSON among these files is broken. They are read whole: call it after a failure.

    Raises:
        InputError: one is broken. A file of another kind is none.
    """
    for path in (each for each in paths if each.suffix.lower() in (".json", ".jsonl")):
        text = path.read_text(encoding="utf-8-sig", errors="replace")
        has_lines = path.suffix.lower() == ".jsonl" or _is_json(text.lstrip().split("\n", 1)[0])
        for number, line in enumerate(text.split("\n"), 1) if has_lines else ((1, text),):
            if not line.strip():
                continue
            try:
                json.loads(line)
            except (ValueError, RecursionError) as error:
                row = number - 1 + (error.lineno if isinstance(error, json.JSONDecodeError) else 1)
                raise InputError(
                    f"the data file is not JSON at line {row}", value=path.name, remedy=f"is it cut off? {_AGAIN}"
                ) from error


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def check_weight_file(path: Path) -> None:
    """Read the head of a file of weights.

    Raises:
        InputError: it is a pointer of git-lfs, is cut off, or is none.
    """
    from safetensors import SafetensorError, safe_open

    refuse_pointers([path])
    try:
        if path.suffix == ".safetensors":
            check_room(path.stat().st_size)
            with safe_open(path, framework="pt"):
                return
    except (SafetensorError, OSError) as error:
        raise InputError("the weights file is damaged", value=path.name, remedy=_AGAIN) from error
    with path.open("rb") as file:
        start = file.read(2)
    if start[:1] != b"\x80" and not zipfile.is_zipfile(path):  # the pickles of before torch 1.6, and those of today
        raise InputError("the weights file is damaged", value=path.name, remedy=_AGAIN)
