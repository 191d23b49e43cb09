"""Hub ids, files and objects → a `datasets.Dataset` or a stream; and the choice of its split and columns."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError, reason_of
from hf_llc.loading.hub_errors import data_refusal, is_of_reading
from hf_llc.loading.hub_files import commit_of, verified
from hf_llc.loading.local_files import open_local, refuse_parts
from hf_llc.loading.names import check_data_id, data_paths
from hf_llc.loading.rows import table_of

_PEEK = 100
"""Rows that are read to learn what a column holds."""


def all_are(data: Any, *kinds: type) -> bool:
    """Whether the data are a list, not empty, of objects of these kinds."""
    return isinstance(data, (tuple, list)) and len(data) > 0 and all(isinstance(x, kinds) for x in data)


def open_data(
    data: Any, config: LoadConfig, *, sample_by: str = "document"
) -> tuple[Dataset | IterableDataset, dict[str, Any]]:
    """Open one split of a data set.

    Args:
        data: Hub id, folder, file or files, rows, or a data set of `datasets`.
        config: says which subset, split and revision.
        sample_by: what one row of a local text file is: "document" (the file) or "paragraph" (up to a blank line).

    Returns:
        The split, and where it came from: id, subset, split, revision.

    Raises:
        InputError: the data are not found or not readable, have no such subset or split, or are a stream without a
            bound.
    """
    facts: dict[str, Any] = {"id": None, "subset": config.subset, "split": config.split, "revision": None}
    if all_are(data, dict):
        data = table_of(data)
    if isinstance(data, (str, os.PathLike)) or all_are(data, str, os.PathLike):
        paths = data_paths(data)
        if isinstance(data, (tuple, list)) or paths[0].exists():
            facts["id"] = ", ".join(p.resolve().name for p in paths)
            opened = open_local(paths, config, sample_by)
        else:
            facts["id"] = str(data)
            opened, facts["revision"] = _from_hub(str(data), config)
    else:
        opened = data
    if facts["revision"] is None and config.data_revision is not None:
        raise InputError("data_revision is for data of the Hub", value=config.data_revision, remedy="leave it out")
    if isinstance(opened, (DatasetDict, IterableDatasetDict)):
        facts["split"] = pick_split([str(name) for name in opened], config.split)
        opened = opened[facts["split"]]
    elif opened is data:
        refuse_parts(
            config,
            split=getattr(data, "split", None),
            subset=data.info.config_name if isinstance(data, (Dataset, IterableDataset)) else None,
        )
    if isinstance(opened, (list, tuple)) and not opened:
        raise InputError("the data set is empty", value=opened)
    if not isinstance(opened, (Dataset, IterableDataset)):
        raise InputError(
            "data of this kind cannot be used",
            value=type(data).__name__,
            allowed="Hub id, folder, file, datasets.Dataset or IterableDataset, rows, tensors, torch dataset",
        )
    if isinstance(opened, IterableDataset) and config.max_examples is None:
        raise InputError("a streamed data set needs a bound", remedy="give max_examples")
    facts["split"] = facts["split"] or (str(opened.split) if opened.split is not None else None)
    subset = opened.info.config_name
    if subset is not None and not subset.startswith("default"):
        facts["subset"] = facts["subset"] or subset
    opened = _unformatted(opened, config.max_examples)
    if isinstance(opened, Dataset) and len(opened) == 0:
        raise InputError("the data set is empty", value=facts["id"] or "Dataset", remedy="check split and files")
    return opened, facts


def _unformatted(data: Dataset | IterableDataset, max_examples: int | None) -> Dataset | IterableDataset:
    """The data as plain Python rows: without an output format (torch, numpy …), and with its transform carried out."""
    if isinstance(data, IterableDataset):
        return data.with_format(None)
    if data.format["type"] is None:
        return data
    if data.format["type"] != "custom":
        return data.with_format(None, columns=data.column_names)
    count = len(data) if max_examples is None else min(len(data), max_examples)
    return table_of([data[i] for i in range(count)])


def pick_split(splits: list[str], asked: str | None) -> str:
    """The split asked for; else the only one, validation, or test.

    Raises:
        InputError: there is no such split, or none was asked for and none of these is there.
    """
    if asked is not None:
        if asked not in splits:
            raise InputError("no such split", value=asked, allowed=", ".join(splits))
        return asked
    for name in (splits[0] if len(splits) == 1 else "", "validation", "test"):
        if name in splits:
            return name
    raise InputError("the data set has several splits", value=None, allowed=", ".join(splits), remedy="give split")


def _from_hub(name: str, config: LoadConfig) -> tuple[Any, str]:
    """A data set of the Hub, and its commit."""
    check_data_id(name)
    builder = None
    try:
        commit = commit_of(name, "dataset", config.data_revision)
        with verified(name, "dataset", commit):
            builder = datasets.load_dataset_builder(name, config.subset, revision=commit)
            if builder.hash != commit:  # without the Hub, `datasets` takes what this machine prepared last
                builder = _prepared(builder, commit)
            if config.streaming:
                return builder.as_streaming_dataset(split=config.split), commit
            builder.download_and_prepare()
            return builder.as_dataset(split=config.split), commit
    except InputError:  # damaged files: remove what was prepared from them, too
        if builder is not None:
            shutil.rmtree(builder.cache_dir, ignore_errors=True)
        raise
    except Exception as error:
        raise data_refusal(error, name, config) from error


def _prepared(builder: Any, commit: str) -> Any:
    """The builder for what this machine prepared from `commit`; `builder` is the one for another commit.

    Raises:
        ConnectionError: this machine has prepared nothing from that commit.
    """
    prepared = type(builder)(
        repo_id=builder.repo_id,
        dataset_name=builder.dataset_name,
        config_name=builder.config_id,
        version=str(builder.config.version),
        hash=commit,
    )
    if not Path(prepared.cache_dir).is_dir():
        raise ConnectionError(f"{commit} is not in the cache")
    return prepared


def _names_of(data: Dataset | IterableDataset) -> list[str]:
    """Names of the columns, those of dictionaries with their keys, for a refusal."""
    names = []
    for name in columns(data):
        feature = None if data.features is None else data.features[name]
        names += [f"{name}.{key}" for key in feature] if isinstance(feature, dict) else [name]
    return names


def materialize(data: Dataset | IterableDataset, config: LoadConfig) -> Dataset:
    """The first `max_examples` rows as a `Dataset`; a stream is read.

    Raises:
        InputError: a stream has no rows, or its rows make no columns.
    """
    if isinstance(data, Dataset):
        if config.max_examples is None or len(data) <= config.max_examples:
            return data
        return data.select(range(config.max_examples))
    features = data.features
    for name, feature in (features or {}).items():
        if isinstance(feature, datasets.Image):  # they are decoded where a fault can name its row
            data = data.cast_column(name, datasets.Image(decode=False))
    rows = list(itertools.islice(rows_of(data), config.max_examples))
    if not rows:
        raise InputError("the streamed data set is empty")
    return table_of(rows, features)


def rows_of(data: Dataset | IterableDataset) -> Iterator[dict[str, Any]]:
    """The rows of a data set, one after the other.

    Raises:
        InputError: the user's own stream fails, or gives something else than rows.
    """
    rows, number = iter(data), 0
    while True:
        try:
            row: Any = next(rows)
        except StopIteration:
            return
        except Exception as error:  # whatever the code behind a stream may raise
            if isinstance(data, Dataset) or isinstance(error, InputError) or is_of_reading(error):
                raise
            raise InputError(f"the stream fails: {reason_of(error)}", value=f"row {number}") from error
        if not isinstance(row, dict):
            raise InputError("a row is not a dictionary by column name", value=f"row {number}: {type(row).__name__}")
        yield row
        number += 1


def batches(data: Dataset | IterableDataset, size: int) -> Iterator[list[dict[str, Any]]]:
    """Rows in lists of at most `size`; each list is read when it is asked for."""
    rows = rows_of(data)
    while part := list(itertools.islice(rows, size)):
        yield part


def first_values(data: Dataset | IterableDataset, name: str) -> Iterator[Any]:
    """The first values of a column, as many as tell what it holds; None where a row has none."""
    rows = data.select_columns([name]) if isinstance(data, Dataset) else data
    return (row.get(name) for row in itertools.islice(rows_of(rows), _PEEK))


def columns(data: Dataset | IterableDataset) -> list[str]:
    """Names of the columns; if a stream does not say, its first row is read.

    Raises:
        InputError: a stream has no rows.
    """
    if data.column_names is not None:
        return list(data.column_names)
    first = next(rows_of(data), None)
    if first is None:
        raise InputError("the streamed data set is empty")
    return list(first)


def column(
    data: Dataset | IterableDataset | Sequence[str], asked: str | None, usual: tuple[str, ...], name: str
) -> str:
    """The column asked for, else the first of the usual names that the data have.

    Args:
        data: the data, or the names of their columns.
        asked: the user's choice.
        usual: names to look for without one.
        name: the setting, "input_column" say, for the message.

    Raises:
        InputError: there is no such column; the message lists those that there are.
    """
    is_data = isinstance(data, (Dataset, IterableDataset))
    names = columns(data) if is_data else list(data)
    result = asked if asked is not None else next((u for u in usual if u in names), None)
    if result is None or result not in names:
        raise InputError(
            "no such column" if asked else f"no column that could be the {name.replace('_', ' ')}",
            value=asked,
            allowed=", ".join(_names_of(data) if is_data else names),
            remedy=f"give {name}",
        )
    return result
