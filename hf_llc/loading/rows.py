"""Rows: where one stands, in words, and rows given as dictionaries → a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset, Features, Value
from PIL import Image, ImageOps

from hf_llc.errors import InputError

_UNLIKE = (TypeError, ValueError, OSError, OverflowError)
"""What `datasets` raises for values that are not of one kind; OSError: for a picture that it cannot encode."""


def place(name: str, row: int) -> str:
    """Where a value stands."""
    return f"column {name}, row {row}"


def numbers_in(feature: Any) -> tuple[str, int]:
    """The type of what lists of lists hold, and how deep it lies; depth 0 if they are no lists of values."""
    depth = 0
    while not isinstance(feature, Value):
        if hasattr(feature, "shape"):  # ArrayXD
            return str(feature.dtype), depth + len(feature.shape)
        feature = feature[0] if isinstance(feature, (list, tuple)) else getattr(feature, "feature", None)
        depth += 1
        if feature is None or isinstance(feature, dict):
            return "", 0
    return feature.dtype, depth


def table_of(rows: Sequence[Mapping[str, Any]], features: Features | None = None) -> Dataset:
    """Rows as a data set. What a row lacks is None there, and is refused where it is used.

    Args:
        rows: dictionaries by column name.
        features: of the columns; None: as the values say.

    Raises:
        InputError: the values of a column are not of one kind.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    whole = [{name: storable(row.get(name)) for name in names} for row in rows]
    try:
        return Dataset.from_list(whole, features=features)
    except _UNLIKE as error:
        raise InputError(
            f"the rows do not make columns of one kind: {str(error)[:200]}",
            value=f"row {_first_unlike(whole, features)}",
            remedy="check their values",
        ) from error


def storable(value: Any) -> Any:
    """The value; a picture in memory so that `datasets` stores it as it is seen."""
    if not isinstance(value, Image.Image) or getattr(value, "filename", ""):  # a file is read again
        return value
    if value.mode == "HSV":  # no file format of `datasets` takes it
        return value.convert("RGB")
    # One that was opened from bytes would be compressed again, and would lose its orientation.
    return value if value.format is None else ImageOps.exif_transpose(value).copy()


def _first_unlike(rows: Sequence[dict[str, Any]], features: Features | None) -> int:
    """The first row that makes no table with those before it."""
    good, bad = 0, len(rows)  # the first `good` rows make one, the first `bad` do not
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            Dataset.from_list(list(rows[:middle]), features=features)
            good = middle
        except _UNLIKE:
            bad = middle
    return bad - 1
