"""Which files in a run's folder are ours, told by what is in them."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any


def is_ours(path: Path) -> bool:
    """Whether a file with one of our names has contents of ours. A damaged file of ours does not count."""
    known = _KINDS.get(path.name)
    try:
        return known is not None and path.is_file() and known(path)
    except (ValueError, OSError, RecursionError, AttributeError, struct.error):
        return False


def our_names() -> list[str]:
    """The names, those that end a run first."""
    return list(_KINDS)


def _json_with(*keys: str) -> Callable[[Path], bool]:
    def known(path: Path) -> bool:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
        return isinstance(values, dict) and all(key in values for key in ("schema_version", *keys))

    return known


def _begins_with(text: str) -> Callable[[Path], bool]:
    def known(path: Path) -> bool:
        with open(path, "rb") as file:
            return file.read(len(text.encode())) == text.encode()

    return known


def _tensors_with(*names: str) -> Callable[[Path], bool]:
    def known(path: Path) -> bool:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, 10**6)))
        return all(name in header for name in names)

    return known


def _is_picture(path: Path) -> bool:
    with open(path, "rb") as file:
        start = file.read(1000)
    return start.startswith(b"\x89PNG") and b"hf_llc" in start


_KINDS: dict[str, Callable[[Path], bool]] = {
    "result.json": _json_with("llc", "llc_se", "verdict"),
    "curve.json": _json_with("points", "calibrated_on"),
    "calibration.json": _json_with("settings", "cells"),
    "components.json": _json_with("rows", "whole"),
    "trace.safetensors": _tensors_with("loss", "init_loss", "sq_distance"),
    "observations.safetensors": _tensors_with("steps"),
    "trace.png": _is_picture,
    "curve.png": _is_picture,
    "calibration.png": _is_picture,
    "components.png": _is_picture,
    "components.csv": _begins_with("component,num_parameters,llc"),
    "card.md": _begins_with("## Local learning coefficient"),
    "curve.csv": _begins_with("step,name,llc,llc_se"),
    "calibrated.yaml": _begins_with("# settings of sampling, for hf-llc"),
}
