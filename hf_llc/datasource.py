"""Whatever a user calls data → a `datasets.Dataset`, or tensors; and its columns, checked."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import datasets
import torch
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from torch import Tensor

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError

_BUILDERS = {".txt": "text", ".json": "json", ".jsonl": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}

_CHARACTERS_A_TOKEN = 8
"""Streamed text is read until it surely holds the tokens asked for."""


def is_tensors(data: Any) -> bool:
    """Tensors already: a pair (x, y), a dictionary of tensors, or a torch dataset of pairs."""
    if isinstance(data, (Dataset, DatasetDict, IterableDataset, IterableDatasetDict, str, os.PathLike)):
        return False
    return isinstance(data, (tuple, dict, torch.utils.data.Dataset))


def tensors_of(data: Any, config: LoadConfig) -> tuple[Tensor, Tensor]:
    """Inputs and labels of tensor data, `[example, …]` each.

    Raises:
        InputError: not pairs of tensors, or of different lengths.
    """
    if isinstance(data, dict):
        data = (column(data, config.input_column, ("inputs", "x", "input"), "input_column"),
                column(data, config.label_column, ("labels", "y", "label", "targets"), "label_column"))
    elif isinstance(data, torch.utils.data.Dataset):
        if not hasattr(data, "__len__"):
            raise InputError("the torch dataset has no length", remedy="give tensors, or a datasets.IterableDataset")
        size = len(data) if config.max_examples is None else min(len(data), config.max_examples)  # type: ignore[arg-type]
        pairs = [data[i] for i in range(size)]
        if not pairs or not isinstance(pairs[0], (tuple, list)) or len(pairs[0]) != 2:
            raise InputError("the torch dataset does not hold pairs (input, label)", value=type(data).__name__)
        data = tuple(torch.stack([torch.as_tensor(pair[i]) for pair in pairs]) for i in (0, 1))
    if len(data) != 2 or not all(isinstance(x, Tensor) for x in data):
        raise InputError("data is not a pair of tensors (inputs, labels)", value=type(data).__name__)
    inputs, labels = (x[: config.max_examples].detach().cpu() for x in data)
    if len(inputs) != len(labels):
        raise InputError("inputs and labels differ in length", value=(len(inputs), len(labels)))
    return inputs, labels


def open_data(data: Any, config: LoadConfig) -> tuple[Dataset | IterableDataset, dict[str, Any]]:
    """A data set by id, path or object, one split of it, and where it came from.

    Raises:
        InputError: not found, not readable, no such subset or split, or unbounded.
    """
    facts: dict[str, Any] = {"id": None, "subset": config.subset, "split": config.split, "revision": None}
    if isinstance(data, (str, os.PathLike)):
        name = str(data)
        local = Path(name).exists()
        facts["id"] = Path(name).resolve().name if local else name
        opened = _local(Path(name), config) if local else _from_hub(name, config, facts)
    else:
        opened = data
    if isinstance(opened, (DatasetDict, IterableDatasetDict)):
        facts["split"] = pick_split(list(opened), config.split)
        opened = opened[facts["split"]]
    if not isinstance(opened, (Dataset, IterableDataset)):
        raise InputError("data of this kind cannot be used", value=type(data).__name__,
                         allowed="Hub id, folder, file, datasets.Dataset or IterableDataset, tensors, torch dataset")
    if isinstance(opened, IterableDataset) and config.max_examples is None:
        raise InputError("a streamed data set needs a bound", remedy="give max_examples")
    if isinstance(opened, Dataset):
        facts["fingerprint"] = opened._fingerprint
        facts["split"] = facts["split"] or (str(opened.split) if opened.split is not None else None)
        if len(opened) == 0:
            raise InputError("the data set is empty", value=facts["id"] or "Dataset", remedy="check split and files")
    return opened, facts


def pick_split(splits: list[str], asked: str | None) -> str:
    """The split asked for, or the only one, or validation, or test.

    Raises:
        InputError: not there, or no obvious choice.
    """
    if asked is not None:
        if asked not in splits:
            raise InputError("no such split", value=asked, allowed=", ".join(splits))
        return asked
    for name in (splits[0] if len(splits) == 1 else "", "validation", "test"):
        if name in splits:
            return name
    raise InputError("the data set has several splits", allowed=", ".join(splits), remedy="give split")


def _local(path: Path, config: LoadConfig) -> Any:
    """A file, a folder written by `save_to_disk`, or a folder of files."""
    if path.is_dir() and ((path / "state.json").exists() or (path / "dataset_dict.json").exists()):
        return datasets.load_from_disk(str(path))
    options: dict[str, Any] = {"streaming": config.streaming}
    if path.is_file():
        kind = _BUILDERS.get(path.suffix.lower())
        if kind is None:
            raise InputError("a file of this kind cannot be read", value=path.name, allowed=", ".join(_BUILDERS))
        if path.stat().st_size == 0:
            raise InputError("the data file is empty", value=path.name)
        options["data_files"] = str(path)
        if kind == "text":
            options["sample_by"] = "document"
        elif path.suffix.lower() == ".tsv":
            options["sep"] = "\t"
        source = kind
    else:
        if not any(path.iterdir()):
            raise InputError("the data folder is empty", value=path.name)
        source = str(path)
    return _load(source, config, name=path.name, **options)


def _from_hub(name: str, config: LoadConfig, facts: dict[str, Any]) -> Any:
    """A data set of the Hub at a revision; its commit goes into `facts`."""
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).suffix.lower() in _BUILDERS:
        raise InputError("no such data file or folder", value=name, remedy="check the path")
    opened = _load(name, config, name=name, revision=config.data_revision, streaming=config.streaming)
    facts["revision"] = _commit(name, config) or config.data_revision
    return opened


def _commit(name: str, config: LoadConfig) -> str | None:
    """The commit that a revision of a data set means now; None where the Hub cannot be asked."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(name, revision=config.data_revision, timeout=10).sha
    except Exception:  # offline: the fingerprint still identifies the data
        return None


def _load(source: str, config: LoadConfig, *, name: str, **options: Any) -> Any:
    try:
        return datasets.load_dataset(source, config.subset, split=config.split, **options)
    except Exception as error:
        raise _explained(error, name, config) from error


def _explained(error: Exception, name: str, config: LoadConfig) -> InputError:
    """One line for what `load_dataset` raises."""
    text = " ".join(str(error).split())
    low = text.lower()
    if "unknown split" in low or "bad split" in low:
        return InputError("no such split", value=config.split, allowed=text.split("Should be one of")[-1].strip(" .[]")
                          if "Should be one of" in text else "see the data set's page")
    if "builderconfig" in low or "config name is missing" in low:
        return InputError("no such subset" if config.subset else "the data set needs a subset", value=config.subset,
                          remedy=text[:300])
    if "gated" in low or "401" in low or "403" in low:
        return InputError("no access to the data set", value=name, remedy="log in with `hf auth login`, and accept its "
                          "terms on its page if it has any")
    if "offline" in low or "couldn't reach" in low or "connect" in low or "localentrynotfound" in low:
        return InputError("the data set is neither a local path nor in the cache, and the Hub cannot be reached",
                          value=name, remedy="check the spelling and the network")
    if "doesn't exist" in low or "not found" in low or "404" in low:
        return InputError("no such data set", value=name, remedy="check the spelling; private ones need `hf auth login`")
    if "script" in low or "trust_remote_code" in low:
        return InputError("the data set needs code of its own, which is not run", value=name,
                          remedy="use a version in parquet, or convert it")
    return InputError("the data set cannot be read", value=name, remedy=f"{type(error).__name__}: {text[:300]}")


def materialize(data: Dataset | IterableDataset, config: LoadConfig, *, characters: bool = False) -> Dataset:
    """A `Dataset` of at most `max_examples` rows.

    With `characters`, rows are taken from a stream until they hold text for `max_examples` windows instead.
    """
    if isinstance(data, Dataset):
        if config.max_examples is None or characters or len(data) <= config.max_examples:
            return data
        return data.select(range(config.max_examples))
    assert config.max_examples is not None
    rows = []
    if not characters:
        rows = list(itertools.islice(data, config.max_examples))
    else:
        wanted = config.max_examples * (config.max_length or 1024) * _CHARACTERS_A_TOKEN
        for row in data:
            rows.append(row)
            wanted -= sum(len(value) for value in row.values() if isinstance(value, str))
            if wanted <= 0:
                break
    if not rows:
        raise InputError("the streamed data set is empty")
    return Dataset.from_list(rows)


def column(data: Any, asked: str | None, usual: tuple[str, ...], name: str) -> Any:
    """The column called `asked`, or the first of the usual names that is there.

    Raises:
        InputError: there is none; the message lists the columns.
    """
    names = list(data.column_names if hasattr(data, "column_names") else data)
    chosen = asked if asked is not None else next((u for u in usual if u in names), None)
    if chosen is None or chosen not in names:
        raise InputError("no such column" if asked else f"no column that could be the {name.replace('_', ' ')}",
                         value=asked, allowed=", ".join(names), remedy=f"give {name}")
    return chosen if hasattr(data, "column_names") else data[chosen]
