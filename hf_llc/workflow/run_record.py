"""`run.json`, the record of a run: what was asked, the random id of the run, and how far it got."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_llc.errors import FolderError
from hf_llc.files import write_json
from hf_llc.seals import RUN_FILE, json_hash

SCHEMA = 1
"""Of run.json. It rises when unfinished work of an older version must not be gone on with."""

ID = re.compile(r"[0-9a-f]{16}")
"""The form of a run's id."""

OVERWRITE = "use another folder, or overwrite"
"""Remedy for a folder that holds another run."""

_OLD_KEYS = {"sampler", "num_chains", "seed"}
"""Among the settings of which run.json consisted before it had a schema."""

_FREE = ("max_seconds", "save_seconds")
"""Settings that may change while a run is unfinished."""


def new_record(run: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a run that begins: its id, what was asked, and a digest of both."""
    record = {"hf_llc": SCHEMA, "id": run, "asked": json.loads(json.dumps(asked))}
    return record | {"digest": json_hash(record)}


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record in `folder`; None if there is none.

    Raises:
        FolderError: it is damaged, of an older version, or not ours.
    """
    path = folder / RUN_FILE
    if not os.path.lexists(path):
        return None
    record = json_object(path)
    if record is None:
        raise FolderError("the run's record is damaged", value=str(path), remedy="use overwrite")
    is_old = "hf_llc" not in record and is_without_schema(record)
    if is_old or record.get("hf_llc", SCHEMA) != SCHEMA:
        what = "the output folder holds another run, of another version of hf_llc"
        raise FolderError(what, value=str(folder), remedy=OVERWRITE)
    said = {name: value for name, value in record.items() if name not in ("digest", "clearing", "ending")}
    if record.get("digest") != json_hash(said) or not ID.fullmatch(str(record.get("id"))):
        raise FolderError("the run's record is damaged", value=str(path), remedy="use overwrite")
    return record


def write_record(folder: Path, record: Mapping[str, Any], **how_far: bool) -> None:
    """Write the record; `how_far` is `clearing=True` or `ending=True` while that is under way."""
    write_json(folder / RUN_FILE, {**record, **how_far})


def is_without_schema(record: Mapping[str, Any]) -> bool:
    """Whether it has the settings of which run.json consisted before it had a schema."""
    return record.keys() >= _OLD_KEYS


def names_of(record: Mapping[str, Any]) -> tuple[str, str]:
    """Id and seal of the run of a record."""
    return record["id"], f"{record['id']}-{record['digest'][:16]}"


def without_free(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked, without the settings that may change while a run is unfinished."""
    return {name: value for name, value in asked.items() if name not in _FREE}


def json_object(path: Path) -> dict[str, Any] | None:
    """A JSON object; None if the file holds none."""
    with contextlib.suppress(ValueError, RecursionError, OSError):
        value = json.loads(path.read_text(encoding="utf-8"))
        return value if isinstance(value, dict) else None
    return None
