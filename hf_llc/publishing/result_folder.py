"""The folder of a result: result.json, card.md, trace.safetensors and trace.png, written whole and read back."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hf_llc.errors import FolderError, InputError
from hf_llc.files import check_writable, remedy_for, write_atomically
from hf_llc.our_files import refuse_others
from hf_llc.publishing.card_section import render_section
from hf_llc.records.observations import Observations
from hf_llc.records.trace import Trace
from hf_llc.records.types import is_of_type
from hf_llc.seals import load_sealed_json, run_of, save_sealed_json, sealed_file

if TYPE_CHECKING:
    from hf_llc.records.record import Record

    SomeRecord = TypeVar("SomeRecord", bound=Record)

RESULT, TRACE, PICTURE, CARD = "result.json", "trace.safetensors", "trace.png", "card.md"
OBSERVATIONS = "observations.safetensors"
FILES = (TRACE, OBSERVATIONS, PICTURE, CARD, RESULT)
"""Names of all files of a result, the last one last."""

_REMEDY = "estimate again, with overwrite"

_CURVE_REMEDY = "make the curve again"

CURVE_FILES = ("curve.png", "curve.csv", "curve.json")
"""λ̂ over checkpoints, the last one last: published with a result of one of them, if they lie in its folder or the one
above."""


def save(result: Record, folder: str | Path, *, run: str | None = None) -> Path:
    """Write the result's files into `folder`, each under a temporary name first; return the folder.

    Args:
        result: what to save.
        folder: made if need be.
        run: the id of the run that made the result, if `folder` is that run's.

    Raises:
        FolderError: `folder` is the folder of another run, which would then seem to have ended with this result; or it
            holds a file of one of these names that is not ours.
    """
    folder = Path(folder)
    owner = run_of(folder)
    if owner not in (None, run) and result.folder != folder:
        raise FolderError("the folder is that of another run", value=str(folder), remedy="save to another folder")
    refuse_others(folder, FILES)
    if result.trace is not None:
        from hf_llc.publishing.trace_plot import plot_trace

        result.trace.save(folder / TRACE)
        write_atomically(folder / PICTURE, lambda temporary: plot_trace(result, temporary))
    if result.observations is not None:
        result.observations.save(folder / OBSERVATIONS)
    section = render_section(result)
    write_atomically(folder / CARD, lambda temporary: temporary.write_text(section, encoding="utf-8"))
    files = [CARD, TRACE, PICTURE] if result.trace is not None else [CARD]
    files += [OBSERVATIONS] if result.observations is not None else []
    save_sealed_json(folder / RESULT, result.to_dict(), run=owner, files=files)  # last: the others are there
    result.folder = folder
    return folder


def result_file(folder: str | Path) -> Path:
    """The result.json of a folder, or the one given.

    Raises:
        FolderError: it is not there.
    """
    path = Path(folder)
    path = path / RESULT if path.is_dir() else path
    if not path.exists():
        raise FolderError("no result there", value=str(folder), allowed="a folder with result.json, or that file")
    return path


def load(kind: type[SomeRecord], folder: str | Path, *, damaged: list[str] | None = None) -> SomeRecord:
    """Read a folder written by `save`, or its result.json alone, as a `kind`.

    Args:
        kind: of the result.
        folder: the folder, or its result.json.
        damaged: gets a line for each file beside result.json that cannot be read, and the result goes without it; None:
            that is refused.

    Raises:
        FolderError: there is no result, or a file that is not one.
    """
    path = result_file(folder)
    values, files = load_sealed_json(path, "result file", _REMEDY)
    try:
        result = kind.from_dict(values)
    except InputError as error:
        raise FolderError(f"{path}: {error}") from error
    result.folder = path.parent
    is_whole = Path(folder).is_dir()
    for name, read in (("trace", _read_trace), ("observations", _read_observations)):
        try:
            setattr(result, name, read(path.parent, files, result, is_whole))
        except InputError as error:
            if damaged is None:
                raise
            damaged.append(str(error))
    return result


def check_unread(folder: Path) -> None:
    """Check the picture and the card, which `load` does not read. One that is gone is no lie.

    Raises:
        FolderError: one is not as it was written.
    """
    _, files = load_sealed_json(folder / RESULT, "result file", _REMEDY)
    for name in (PICTURE, CARD):
        sealed_file(folder / name, files, "give it another name, or remove it", is_needed=False)


def _read_trace(folder: Path, files: Mapping[str, str] | None, result: Record, is_whole: bool) -> Trace | None:
    path = sealed_file(folder / TRACE, files, _REMEDY, is_needed=is_whole)
    trace = None if path is None else Trace.load(path)
    if trace is not None and len(trace.loss) != result.num_chains:
        raise FolderError("the trace has another number of chains than the result", value=str(path), remedy=_REMEDY)
    return trace


def _read_observations(
    folder: Path, files: Mapping[str, str] | None, result: Record, is_whole: bool
) -> Observations | None:
    is_runs = is_whole and run_of(folder) is not None  # a published result leaves its observations behind
    path = sealed_file(folder / OBSERVATIONS, files, _REMEDY, is_needed=is_runs)
    return None if path is None else Observations.load(path)


def folder_of(result: Record) -> Path:
    """Return the folder that the result is saved in; if there is none, save it to `runs/<model>-<hash>`."""
    if result.folder is not None and (result.folder / RESULT).exists():
        return result.folder
    name = re.sub(r"[^\w.]+", "_", str(result.model.get("id") or "model").rsplit("/", 1)[-1])
    digest = hashlib.sha256(json.dumps(result.to_dict()).encode()).hexdigest()[:8]
    return save(result, check_writable(Path("runs") / f"{name}-{digest}"))


def published_files(folder: Path) -> list[Path]:
    """The files that are published beside the model's card.

    Raises:
        FolderError: one of them is damaged.
    """
    _, files = load_sealed_json(folder / RESULT, "result file", _REMEDY)
    beside = [sealed_file(folder / name, files, _REMEDY) for name in (TRACE, PICTURE)]
    if read_curve(folder) is not None:
        path = _curve_folder(folder) / CURVE_FILES[-1]
        _, files = load_sealed_json(path, "curve's file", _CURVE_REMEDY)
        beside += [path, *(sealed_file(path.with_name(name), files, _CURVE_REMEDY) for name in CURVE_FILES[:-1])]
    found = [folder / RESULT, *(path for path in beside if path is not None)]
    for path in found:
        if remedy := remedy_for(path, ""):
            raise FolderError("a file of the result is damaged", value=str(path), remedy=remedy)
    return found


def read_curve(folder: Path) -> dict[str, Any] | None:
    """Return the contents of the curve.json of which the result is a point; None if there is none.

    Raises:
        FolderError: the file is damaged.
    """
    path = _curve_folder(folder) / CURVE_FILES[-1]
    if not path.exists():
        return None
    curve, _ = load_sealed_json(path, "curve's file", _CURVE_REMEDY)
    points = curve.get("points")
    if not (isinstance(points, list) and points and all(map(_is_point, points))):
        raise FolderError("the curve's file is damaged", value=str(path), remedy=_CURVE_REMEDY)
    result, _ = load_sealed_json(folder / RESULT, "result file", _REMEDY)
    names = ("llc", "llc_se", "verdict")
    return curve if any(all(point[name] == result.get(name) for name in names) for point in points) else None


def _is_point(point: Any) -> bool:
    """Whether these are the values of a point of which a card tells."""
    if not isinstance(point, dict) or not {"step", "llc", "llc_se", "loss", "verdict"} <= point.keys():
        return False
    numbers = [point[name] for name in ("llc", "llc_se", "loss")]
    return (
        all(is_of_type(value, "float") for value in numbers)
        and is_of_type(point["step"], "int")
        and isinstance(point["verdict"], str)
    )


def _curve_folder(folder: Path) -> Path:
    """A published result lies beside its curve; a result of `hf-llc curve` lies in a folder of the curve's folder."""
    return folder if (folder / "curve.json").exists() else folder.resolve().parent
