"""The folder of a result: result.json, card.md, trace.safetensors and trace.png, written whole and read back."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hf_llc.errors import InputError
from hf_llc.files import check_writable, write_atomically, write_json
from hf_llc.publishing.card_section import render_section
from hf_llc.records.observations import Observations
from hf_llc.records.trace import Trace

if TYPE_CHECKING:
    from hf_llc.records.record import Record

    SomeRecord = TypeVar("SomeRecord", bound=Record)

RESULT, TRACE, PICTURE, CARD = "result.json", "trace.safetensors", "trace.png", "card.md"
OBSERVATIONS = "observations.safetensors"

_PUBLISHED = (RESULT, TRACE, PICTURE)
"""Published beside the model's card."""
_PUBLISHED_CURVE = ("curve.json", "curve.csv", "curve.png")
"""λ̂ over checkpoints: published with a result of one of them, if they lie in its folder or the one above."""


def save(result: Record, folder: str | Path) -> Path:
    """Write the result's files into `folder`, each under a temporary name first; return the folder."""
    folder = Path(folder)
    if result.trace is not None:
        from hf_llc.publishing.trace_plot import plot_trace

        result.trace.save(folder / TRACE)
        write_atomically(folder / PICTURE, lambda temporary: plot_trace(result, temporary))
    if result.observations is not None:
        result.observations.save(folder / OBSERVATIONS)
    section = render_section(result)
    write_atomically(folder / CARD, lambda temporary: temporary.write_text(section, encoding="utf-8"))
    write_json(folder / RESULT, result.to_dict())  # last: if it is there, all the others are
    result.folder = folder
    return folder


def load(kind: type[SomeRecord], folder: str | Path) -> SomeRecord:
    """Read a folder written by `save`, or its result.json alone, as a `kind`.

    Raises:
        InputError: there is no result, or a file that is not one.
    """
    path = Path(folder)
    path = path / RESULT if path.is_dir() else path
    if not path.exists():
        raise InputError("no result there", value=str(folder), allowed="a folder with result.json, or that file")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError("not a result file", value=str(path), remedy="estimate again") from error
    if not isinstance(values, dict):
        raise InputError("not a result file", value=str(path), remedy="estimate again")
    result = kind.from_dict(values)
    trace = path.with_name(TRACE)
    result.trace = Trace.load(trace) if trace.exists() else None
    observations = path.with_name(OBSERVATIONS)
    result.observations = Observations.load(observations) if observations.exists() else None
    result.folder = path.parent
    return result


def folder_of(result: Record) -> Path:
    """Return the folder that the result is saved in; if there is none, save it to `runs/<model>-<hash>`."""
    if result.folder is not None and (result.folder / RESULT).exists():
        return result.folder
    name = re.sub(r"[^\w.]+", "_", str(result.model.get("id") or "model").rsplit("/", 1)[-1])
    digest = hashlib.sha256(json.dumps(result.to_dict()).encode()).hexdigest()[:8]
    return save(result, check_writable(Path("runs") / f"{name}-{digest}"))


def published_files(folder: Path) -> list[Path]:
    """The files that are published beside the model's card."""
    paths = [folder / name for name in _PUBLISHED]
    if read_curve(folder) is not None:
        paths += [_curve_folder(folder) / name for name in _PUBLISHED_CURVE]
    return [path for path in paths if path.exists()]


def read_curve(folder: Path) -> dict[str, Any] | None:
    """Return the contents of the curve.json of which the result is a point; None if there is none.

    Raises:
        InputError: the file is damaged.
    """
    path = _curve_folder(folder) / "curve.json"
    if not path.exists():
        return None
    try:
        curve = json.loads(path.read_text(encoding="utf-8"))
        for point in curve["points"]:
            _ = [point[name] for name in ("step", "llc", "llc_se", "loss", "verdict")]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError("the curve's file is damaged", value=str(path), remedy="make the curve again") from error
    return curve


def _curve_folder(folder: Path) -> Path:
    """A published result lies beside its curve; a result of `hf-llc curve` lies in a folder of the curve's folder."""
    return folder if (folder / "curve.json").exists() else folder.resolve().parent
