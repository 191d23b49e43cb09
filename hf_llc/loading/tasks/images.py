"""Columns of images and numbers: what image classification and plain modules share."""

from __future__ import annotations

import numpy as np
from datasets import Dataset

from hf_llc.errors import InputError

IMAGE_COLUMNS = ("image", "img", "pixel_values")
"""Usual names of a column of images."""


def numbers_of(data: Dataset, name: str) -> np.ndarray:
    """A numeric column, `[example, …]`.

    Raises:
        InputError: the column holds text, gaps, or rows of different shapes.
    """
    try:
        values = np.asarray(data[name][:])
    except ValueError:
        values = np.empty(0, dtype=object)
    if values.dtype.kind not in "biuf":
        raise InputError(
            "the column does not hold numbers of one shape",
            value=name,
            remedy="choose columns with input_column and label_column, or convert it",
        )
    return values
