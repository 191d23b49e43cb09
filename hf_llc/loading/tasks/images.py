"""Rows of a data set → pixels or numbers, and labels: image classifiers and plain modules."""

from __future__ import annotations

import numpy as np
from datasets import Dataset

from hf_llc.errors import InputError

_IMAGES = ("image", "img", "pixel_values")


def numbers(data: Dataset, name: str) -> np.ndarray:
    """A numeric column, `[example, …]`.

    Raises:
        InputError: text, gaps, or rows of different shapes.
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
