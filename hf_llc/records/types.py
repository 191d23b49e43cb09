"""Whether values read from a file are what the annotations of a dataclass say."""

from __future__ import annotations

import math
from typing import Any

_LARGEST = 2**63


def is_of_type(value: Any, annotation: str) -> bool:
    """Whether a value of a JSON file is of the annotated type. JSON has no NaN: None stands for it.

    Args:
        value: as `json` reads it.
        annotation: as it stands in the source, e.g. `dict[str, float] | None`.
    """
    if annotation.endswith(" | None"):
        return value is None or is_of_type(value, annotation.removesuffix(" | None"))
    if annotation == "float":
        return value is None or (_is_number(value) and math.isfinite(value))
    if annotation == "int":
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST
    if annotation.startswith("list["):
        return isinstance(value, list) and all(is_of_type(item, annotation[5:-1]) for item in value)
    if annotation.startswith("dict[str, "):
        return isinstance(value, dict) and all(is_of_type(item, annotation[10:-1]) for item in value.values())
    plain = {"str": str, "bool": bool}
    return annotation == "Any" or isinstance(value, plain[annotation])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e308
