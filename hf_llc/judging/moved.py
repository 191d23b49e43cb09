"""What minimize made of the model: another one, or one that serves these data alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_MATERIAL = 0.01
"""Share of ‖w*‖, or of the loss at w*, from which on a change is that of another model."""

_SURE = 3.0
"""Standard errors of a rise that is believed."""


def is_moved(minimize: Mapping[str, Any] | None) -> bool:
    """Whether minimize moved w* by more than 1 % of its length, or the loss by more than 1 %."""
    relative, before, after = (of(minimize, name) for name in ("relative_distance", "loss_before", "loss_after"))
    return relative > _MATERIAL or before - after > _MATERIAL * abs(before)


def is_overfitted(minimize: Mapping[str, Any] | None) -> bool:
    """Whether the loss rises, on examples that a minimization does not see (`calibration.held_out`)."""
    before, rise, error = (of(minimize, f"held_out_{name}") for name in ("before", "rise", "se"))
    return is_moved(minimize) and rise > max(_MATERIAL * abs(before), _SURE * error)


def of(minimize: Mapping[str, Any] | None, name: str) -> float:
    """A number of the report of minimize; NaN if it is not there."""
    value = (minimize or {}).get(name)
    return float(value) if isinstance(value, (int, float)) else math.nan
