"""Arrays in safetensors files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from hf_llc.errors import FolderError
from hf_llc.files import check_room, remedy_for, write_atomically

_REMEDY = "estimate again, with overwrite"


def save_arrays(path: str | Path, arrays: Mapping[str, np.ndarray], *, metadata: dict[str, str] | None = None) -> Path:
    """Write arrays and what is said of them to a file, atomically; returns its path.

    They are bytes first: `save_file` makes a temporary file of its own, which a kill would leave behind.
    """
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    check_room(3 * sum(array.nbytes for array in contiguous.values()))
    data = save(contiguous, metadata)
    return write_atomically(path, lambda temporary: temporary.write_bytes(data))


def load_arrays(path: str | Path, what: str) -> dict[str, np.ndarray]:
    """The arrays of a file, by name.

    Raises:
        FolderError: it cannot be read; `what` names its role.
    """
    try:
        check_room(3 * Path(path).stat().st_size)
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise FolderError(f"{what} is damaged", value=str(path), remedy=remedy_for(Path(path), _REMEDY)) from error
