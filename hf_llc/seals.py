"""Files that say whose they are: a checksum over their contents, their place and the run that wrote them.

A disk that loses a bit, a file copied from elsewhere, two files swapped: each is found when the file is read, and is
refused in one line. A seal is no signature: who wants to forge a result can.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hf_llc.errors import FolderError
from hf_llc.files import check_room, finite, remedy_for, write_atomically, write_json

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

SEAL = "seal"
"""Key of the seal in a JSON file, and in the metadata of a safetensors file."""


RUN_FILE = "run.json"


def run_of(folder: Path) -> str | None:
    """The id of the run whose folder this is; None if no run of ours began there."""
    try:
        record = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        return record["id"] if "hf_llc" in record else None
    except (ValueError, RecursionError, OSError, KeyError, TypeError):
        return None


def save_sealed_json(path: Path, values: Mapping[str, Any], *, run: str | None, files: Sequence[str] = ()) -> None:
    """Write a dictionary with a seal: the run that made it, a checksum, and those of `files` beside it."""
    seal: dict[str, Any] = {"run": run}
    seal["files"] = {name: file_hash(path.with_name(name)) for name in files}
    seal["sha256"] = json_hash({**values, SEAL: seal})
    write_json(path, {**values, SEAL: seal})


def load_sealed_json(path: Path, what: str, remedy: str) -> tuple[dict[str, Any], dict[str, str] | None]:
    """Read what `save_sealed_json` wrote, or a file of an older version, which has no seal.

    Returns:
        The dictionary without its seal, and the checksums of the files beside it, by name; None if there is no seal.

    Raises:
        FolderError: the file is damaged, changed, or of another run than its folder; `what` names its role.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(values, dict)
        seal = values.pop(SEAL, None)
        written = None if seal is None else seal.pop("sha256")
        run, files = (None, None) if seal is None else (seal["run"], dict(seal["files"]))
        found = json_hash(values if seal is None else {**values, SEAL: seal})  # too deep a nesting shows here
    except (ValueError, RecursionError, OSError, AssertionError, KeyError, TypeError, AttributeError) as error:
        what = f"not a {what}, or the {what} is damaged"
        raise FolderError(what, value=str(path), remedy=remedy_for(path, remedy)) from error
    if seal is not None and written != found:
        raise FolderError(f"the {what} is damaged: it is not as it was written", value=str(path), remedy=remedy)
    if run_of(path.parent) not in (None, run):
        fault = "has lost its seal" if seal is None else "is of another run than its folder"
        raise FolderError(f"the {what} {fault}", value=str(path), remedy=remedy)
    return values, files


def load_study(path: Path, what: str, *, version: int, read: Callable[[dict[str, Any]], T]) -> T:
    """What `read` makes of a sealed JSON file, if all files that it seals are as they were.

    Args:
        path: of the file.
        what: its role, for refusals.
        version: the schema_version that it must have.
        read: makes an object of its other values.

    Raises:
        InputError: it is damaged or of another version, or a file beside it is not as it was.
    """
    remedy = "use overwrite"
    values, files = load_sealed_json(path, what, remedy)
    for name in files or ():
        sealed_file(path.with_name(name), files, remedy)
    if values.pop("schema_version", None) != version:
        raise FolderError(f"the {what} is of another version of hf_llc", value=str(path), remedy=remedy)
    try:
        return read(values)
    except (KeyError, TypeError, AttributeError) as error:
        raise FolderError(f"the {what} is damaged", value=str(path), remedy=remedy) from error


def sealed_file(path: Path, files: Mapping[str, str] | None, remedy: str, *, is_needed: bool = True) -> Path | None:
    """The path of a file that belongs to a sealed JSON file beside it; None if it does not, or is not there.

    Args:
        path: of the file.
        files: as `load_sealed_json` returned them. Without a seal (None) what lies there is believed.
        remedy: what to do if the file is damaged.
        is_needed: refuse a file that is gone, too.

    Raises:
        FolderError: the file is not as it was written.
    """
    if files is None:
        return path if path.exists() else None
    if path.name not in files or not (is_needed or path.exists()):
        return None
    if not path.is_file():
        raise FolderError("a file of the result is gone", value=str(path), remedy=remedy)
    if file_hash(path) != files[path.name]:
        raise FolderError("a file of the result is damaged", value=str(path), remedy=remedy_for(path, remedy))
    return path


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_hash(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    text = json.dumps(finite(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, Tensor], *, seal: str) -> None:
    """Write tensors (on the host, contiguous) and their seal to a safetensors file, atomically.

    Args:
        path: of the file; its name is part of the seal.
        tensors: by name.
        seal: the run, and the folder's place in it.
    """
    from safetensors.torch import save_file

    metadata = {SEAL: _tensors_hash(tensors, seal, path)}
    check_room(0)  # of the tensors there is no copy
    write_atomically(path, lambda temporary: save_file(dict(tensors), temporary, metadata=metadata))


def load_tensors(path: Path, *, seal: str) -> dict[str, Tensor]:
    """Read what `save_tensors` wrote.

    Raises:
        FolderError: the file is damaged, or it was written by another run or for another place.
    """
    from safetensors import SafetensorError, safe_open

    try:
        check_room(2 * path.stat().st_size)  # mapped, and copied
        with safe_open(path, framework="pt") as file:
            written = (file.metadata() or {}).get(SEAL)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
    except (SafetensorError, OSError, ValueError) as error:
        raise broken(path) from error
    if written != _tensors_hash(tensors, seal, path):
        raise broken(path)
    return tensors


def save_value(path: Path, value: Any, *, seal: str) -> None:
    """Write a JSON value and its seal, atomically."""
    write_json(path, {SEAL: json_hash([seal, path.name, value]), "value": value})


def load_value(path: Path, *, seal: str) -> Any:
    """Read what `save_value` wrote.

    Raises:
        FolderError: as `load_tensors`.
    """
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        value, written = read["value"], read[SEAL]
    except (ValueError, RecursionError, OSError, KeyError, TypeError) as error:
        raise broken(path) from error
    if written != json_hash([seal, path.name, value]):
        raise broken(path)
    return value


def broken(path: Path) -> FolderError:
    """The refusal of a state that is not as this run wrote it."""
    return FolderError("a saved state is damaged, or of another run", value=str(path), remedy="use overwrite")


def _tensors_hash(tensors: Mapping[str, Tensor], seal: str, path: Path) -> str:
    import torch

    digest = hashlib.sha256(json.dumps([seal, path.name]).encode())
    for name in sorted(tensors):
        x = tensors[name]
        digest.update(json.dumps([name, str(x.dtype), list(x.shape)]).encode())
        digest.update(x.detach().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
