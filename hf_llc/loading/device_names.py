"""Names of devices: what no machine has, and what this one is known not to have without importing torch."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import runpy
import sys
from pathlib import Path
from typing import Any

from hf_llc.errors import InputError

_NAME = re.compile(r"[a-z]+(:\d+)?")

_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


def check_device_name(name: str | None) -> None:
    """Refuse what is known to be no device here; of what is left, torch knows.

    Raises:
        InputError: the name is no type and number, its type is "gpu" or "meta", or this machine has none of that type.
    """
    if name is None:
        return
    kind = name.partition(":")[0]
    if not _NAME.fullmatch(name) or kind in ("gpu", "meta"):
        raise InputError("no such device here", value=name, allowed="cpu, or cuda:0 … where there is a GPU")
    if _is_absent(kind):
        raise InputError("no such device here", value=name, allowed="cpu")


def _is_absent(kind: str) -> bool:
    """Whether this machine has certainly no device of a type: torch was not built for it, or it has no driver."""
    if kind == "mps":
        return sys.platform != "darwin"
    built = _built_for()
    if kind not in ("cuda", "xpu") or kind not in built or built.get("hip") is not None:
        return False
    if built[kind] is None:
        return True
    if kind == "xpu":
        return False
    try:
        ctypes.CDLL(_DRIVER)
    except OSError:
        return True
    return False


def _built_for() -> dict[str, Any]:
    """What torch's file version.py says: `cuda`, `hip`, `xpu` are versions or None. Empty without such a file."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return {}
    try:
        return runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    except OSError:
        return {}
