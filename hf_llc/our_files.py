"""Which files in a folder are ours, told by what is in them; those of others are never overwritten."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hf_llc.errors import FolderError


def is_ours(path: Path, *, like: str | None = None) -> bool:
    """Whether a file with one of our names has contents of ours. A damaged file of ours does not count.

    Args:
        path: of the file.
        like: one of our names, if the user has chosen another one for a file of that kind.
    """
    known = {**_RUNS, **_REPORTS}.get(like or path.name)
    try:
        return known is not None and path.is_file() and known(path)
    except (ValueError, OSError, RecursionError, AttributeError, struct.error):
        return False


def our_names() -> list[str]:
    """The names in folders of runs, those that end a run first."""
    return list(_RUNS)


def refuse_others(folder: Path, names: Iterable[str]) -> None:
    """Refuse to write files of these names where one lies that is not ours.

    Raises:
        FolderError: one does.
    """
    for path in map(folder.joinpath, names):
        if os.path.lexists(path) and not is_ours(path):
            raise foreign(path)


def foreign(path: Path) -> FolderError:
    """The refusal of a file with one of our names that is another's."""
    return FolderError(
        f"the output folder holds another run's or program's {path.name}, which hf_llc did not write",
        value=str(path.parent),
        remedy="move it away, or use another folder",
    )


def _json_with(*keys: str) -> Callable[[Path], bool]:
    def known(path: Path) -> bool:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
        return isinstance(values, dict) and all(key in values for key in keys)

    return known


def _begins_with(*texts: str) -> Callable[[Path], bool]:
    def known(path: Path) -> bool:
        with open(path, "rb") as file:
            return file.read(1000).startswith(tuple(text.encode() for text in texts))

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


def _is_parquet(path: Path) -> bool:
    with open(path, "rb") as file:
        start = file.read(4)
        file.seek(max(0, path.stat().st_size - 2**16))
        return start == b"PAR1" and b"hf_llc" in file.read()


_SCHEMA = "schema_version"

_RUNS: dict[str, Callable[[Path], bool]] = {
    "result.json": _json_with(_SCHEMA, "llc", "llc_se", "verdict"),
    "curve.json": _json_with(_SCHEMA, "points", "calibrated_on"),
    "calibration.json": _json_with(_SCHEMA, "settings", "cells"),
    "components.json": _json_with(_SCHEMA, "rows", "whole"),
    "component_curve.json": _json_with(_SCHEMA, "points", "components"),
    "influence.json": _json_with(_SCHEMA, "level", "reliability"),
    "susceptibility.json": _json_with(_SCHEMA, "rows", "tokens"),
    "profile.json": _json_with(_SCHEMA, "rows", "negative_share"),
    "trace.safetensors": _tensors_with("loss", "init_loss", "sq_distance"),
    "observations.safetensors": _tensors_with("steps"),
    "trace.png": _is_picture,
    "curve.png": _is_picture,
    "calibration.png": _is_picture,
    "components.png": _is_picture,
    "influence.png": _is_picture,
    "kernel.png": _is_picture,
    "susceptibility.png": _is_picture,
    "susceptibility.html": _begins_with("<!doctype html><!-- hf_llc susceptibility"),
    "susceptibility.parquet": _is_parquet,
    "susceptibility.csv": _begins_with("component,num_parameters,llc,llc_se,mean"),
    "profile.png": _is_picture,
    "profile.csv": _begins_with("nbeta,localization,llc,llc_se"),
    "influence.html": _begins_with("<!doctype html><!-- hf_llc influence"),
    "influence.parquet": _is_parquet,
    "influence.safetensors": _tensors_with("bif", "bif_se"),
    "influence.csv": _begins_with("query,rank,effect,source,bif"),
    "components.parquet": _is_parquet,
    "components.csv": _begins_with("component,num_parameters,llc"),
    "component_curve.png": _is_picture,
    "component_curve.parquet": _is_parquet,
    "component_curve.csv": _begins_with("step,name,component,", "position,name,component,"),
    "card.md": _begins_with("## Local learning coefficient"),
    "curve.csv": _begins_with("step,name,llc,llc_se", "position,name,llc,llc_se"),
    "calibrated.yaml": _begins_with("# settings of sampling, for hf-llc"),
}

_REPORTS: dict[str, Callable[[Path], bool]] = {
    "compare.json": _json_with(_SCHEMA, "rows", "remarks", "data"),
    "compare.png": _is_picture,
    "compare.csv": _begins_with("name,llc,llc_se,change"),
    "benchmark.json": _json_with("asked", "rows"),
}
"""Beside runs: --overwrite of a run leaves them."""
