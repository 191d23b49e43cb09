"""Arrays in safetensors files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from hf_llc.errors import FolderError
from hf_llc.files import remedy_for

_REMEDY = "estimate again, with overwrite"


def load_arrays(path: str | Path, what: str) -> dict[str, np.ndarray]:
    """The arrays of a file, by name.

    Raises:
        FolderError: it cannot be read; `what` names its role.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise FolderError(f"{what} is damaged", value=str(path), remedy=remedy_for(Path(path), _REMEDY)) from error
