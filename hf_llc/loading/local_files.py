"""Data files and folders of this machine → a data set; and the choice of a part."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError, reason_of
from hf_llc.loading.damaged_files import check_data_file, refuse_broken_json, refuse_pointers
from hf_llc.loading.hub_errors import data_refusal, is_of_content
from hf_llc.loading.names import BUILDERS, check_data_files

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks at the start of a file, and the encodings that they mean."""


def refuse_parts(config: LoadConfig, *, split: object = None, subset: object = None) -> None:
    """Refuse a split or subset asked of data that have one part only.

    Args:
        config: may ask for a split and a subset.
        split: the split that the data say they are.
        subset: the subset that the data say they are.

    Raises:
        InputError: `config` asks for another one. The result would name what was not used.
    """
    for name, asked, actual in (("split", config.split, split), ("subset", config.subset, subset)):
        if asked is not None and asked != (None if actual is None else str(actual)):
            raise InputError(
                f"{name} cannot be chosen: the data are a single data set",
                value=asked,
                remedy=f"leave {name} out, or give a DatasetDict, an id or a folder of files",
            )


def open_local(paths: Sequence[Path], config: LoadConfig, sample_by: str) -> Any:
    """Open files, a folder written by `save_to_disk`, or a folder of files.

    Args:
        paths: one folder, or files of one kind.
        config: says which split, and whether to stream.
        sample_by: what one row of a text file is: "document" (the file) or "paragraph" (up to a blank line).

    Raises:
        InputError: they are not there, of a kind that cannot be read, or damaged.
    """
    path = paths[0]
    if path.is_dir():
        return _open_folder(path, config, sample_by)
    check_data_files(paths)
    refuse_parts(config, split=config.split)  # files have no subsets; `datasets` would take any name
    _check_files(paths)
    builder = BUILDERS[path.suffix.lower()]
    options: dict[str, Any] = _encoding(paths, builder)
    if builder == "text":
        options["sample_by"] = sample_by
    elif path.suffix.lower() == ".tsv":
        options["sep"] = "\t"
    return _load(builder, config, files=paths, name=path.name, data_files=[str(each) for each in paths], **options)


def _open_folder(path: Path, config: LoadConfig, sample_by: str) -> Any:
    """See `open_local`."""
    files = [p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")]
    refuse_pointers(sorted(files))
    if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
        saved = _saved(path)
        if isinstance(saved, Dataset):
            refuse_parts(config, split=saved.split, subset=saved.info.config_name)
        return saved
    kinds = {p.suffix.lower() for p in files}
    if not kinds:
        raise InputError("the data folder is empty", value=path.name)
    if kinds & {".safetensors", ".bin"} and not kinds & set(BUILDERS) - {".json", ".txt"}:
        raise InputError("the data folder holds a model, not data", value=path.name, remedy="check data")
    tables = [p for p in files if p.suffix.lower() in BUILDERS]
    _check_files(tables)
    options: dict[str, Any] = {}
    if kinds & set(BUILDERS) == {".txt"} and kinds <= {".txt", ".md", ""}:
        options["sample_by"] = sample_by
    builders = {BUILDERS[kind] for kind in kinds if kind in BUILDERS}
    if len(builders) == 1 and kinds <= {*BUILDERS, ".md", ""}:  # with a README.md, say
        options |= _encoding(tables, *builders)
    return _load(str(path), config, files=tables, name=path.name, **options)


def _saved(path: Path) -> Any:
    """A folder written by `save_to_disk`."""
    try:
        return datasets.load_from_disk(str(path))
    except Exception as error:  # pyarrow, json and datasets have no common type for a damaged file
        raise InputError("the saved data set is damaged", value=path.name, remedy=reason_of(error)) from error


def _check_files(paths: Iterable[Path]) -> None:
    """Check that data files are whole.

    Raises:
        InputError: the first that is not.
    """
    for path in paths:
        check_data_file(path, has_mark=_mark_of(path) is not None)


def _encoding(paths: Iterable[Path], builder: str) -> dict[str, str]:
    """The option for files that begin with a byte order mark; nothing for UTF-8 without one.

    Raises:
        InputError: the files are of several encodings, or of one that is not read.
    """
    if builder == "parquet":
        return {}
    found = {path.name: _mark_of(path) for path in paths}
    encodings = set(found.values())
    if encodings == {None}:
        return {}
    if encodings <= {None, "utf-8-sig"}:  # which reads files without a mark, too
        return {"encoding": "utf-8-sig"}
    odd = next(name for name, encoding in found.items() if encoding not in (None, "utf-8-sig"))
    if len(encodings) > 1 or builder == "json":
        raise InputError("a data file is not in UTF-8", value=f"{odd}: {found[odd]}", remedy="save it as UTF-8")
    return {"encoding": str(found[odd])}


def _mark_of(path: Path) -> str | None:
    """The encoding that a file's byte order mark means; None without a mark."""
    with path.open("rb") as file:
        start = file.read(4)
    return next((encoding for mark, encoding in _MARKS if start.startswith(mark)), None)


def _load(source: str, config: LoadConfig, *, files: Iterable[Path], name: str, **options: Any) -> Any:
    """What `datasets` makes of files of this machine."""
    try:
        return datasets.load_dataset(source, config.subset, split=config.split, streaming=config.streaming, **options)
    except Exception as error:
        refusal = data_refusal(error, name, config, is_local=True)
        if is_of_content(error):
            refuse_broken_json(files)
        raise refusal from error
