"""Names of models and data as they are given: which are paths, and whether something is there. Without torch.

Loading calls these checks; the command line calls them first, since importing torch and transformers takes seconds.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.files import LONGEST_NAME
from hf_llc.loading.damaged_files import refuse_pointers
from hf_llc.observe_setting import OBSERVABLES, SAMPLED, registered_names, split_of, unknown_observable

BUILDERS = {".txt": "text", ".json": "json", ".jsonl": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
"""What reads a file of data, by its ending."""

AS_TABLE = "give texts as a table: {'text': [one, two]}"


def check_names(load: LoadConfig) -> None:
    """Refuse names of model, data and tokenizer behind which there is nothing.

    Raises:
        InputError: there is one.
    """
    if load.model is not None:
        check_model_name(load.model)
    if load.data is not None:
        check_data_name(load.data)
    if load.tokenizer is not None:
        check_tokenizer_name(load.tokenizer)


def check_observed(
    observe: str | Mapping[str, Any] | None, *, known: Collection[str] = OBSERVABLES, setting: str = "observe"
) -> None:
    """Refuse names in the setting `observe` behind which there is nothing.

    Args:
        observe: the setting.
        known: names of registered observables; none: any name may be registered later.
        setting: what refusals call it.

    Raises:
        InputError: there is one.
    """
    for name in registered_names(observe):
        if known and name not in known:
            raise unknown_observable(name, known)
    for name, value in observe.items() if isinstance(observe, Mapping) else ():
        if isinstance(value, str) and value != SAMPLED:
            try:
                check_data_name(split_of(value)[0])
            except InputError as error:
                raise InputError(f"{setting} {name}: {error}") from error


def check_data_given(model: Any, data: Any) -> None:
    """Refuse a model without data: the embedded text is for the embedded model.

    Raises:
        InputError: there are no data.
    """
    if data is None and model is not None:
        raise InputError("no data given", remedy="give data: a Hub id, a folder or a file")


def public_name(name: Any) -> str | None:
    """A name for the result: a Hub id as it is, a folder by its last part, so that no path leaves this machine."""
    if not isinstance(name, (str, os.PathLike)) or not str(name):
        return None
    path = Path(name)
    is_local = path.is_absolute() or str(name).startswith(("~", ".")) or path.exists()
    return (path.resolve().name if path.exists() else path.name) if is_local else str(name)


def _is_path(name: str) -> bool:
    """Whether a name can only be a path: no repository of the Hub is called so."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def check_model_name(name: str) -> None:
    """Check that this may be a model: a Hub id, or a folder that is there and has a config.

    Raises:
        InputError: it is empty, no file system would take it, or it is a path to something else or to nothing.
    """
    if not name.strip() or "\0" in name or any(len(os.fsencode(part)) > LONGEST_NAME for part in Path(name).parts):
        raise InputError("this is not the name of a model", value=name, allowed="a Hub id or a folder")
    path = Path(name)
    if path.is_file():
        raise InputError(
            "the model is a file",
            value=path.name,
            allowed="a Hub id or a folder",
            remedy="give the folder that holds config.json; weights of a plain module go to estimate or curve, with "
            "--factory",
        )
    if path.is_dir():
        check_model_folder(path)
    elif _is_path(name):
        raise InputError("no such model folder", value=name, remedy="check the path")


def check_model_folder(folder: Path) -> None:
    """Check that a folder has a config: a model's, or an adapter's (which is refused by its name).

    Raises:
        InputError: it has none.
    """
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise InputError(
            "the model folder has no config.json", value=folder.name, remedy="is it a transformers folder?"
        )


def check_tokenizer_name(name: str, kind: str = "tokenizer") -> None:
    """Check that this may be a tokenizer or image processor: a Hub id, or a path to something that is there.

    Raises:
        InputError: it is a path to nothing.
    """
    if _is_path(name) and not Path(name).exists():
        raise InputError(f"no such folder of the {kind}", value=name, remedy="check the path")


def check_data_name(name: str) -> None:
    """Check that this may be data: a Hub id, or a path to something that is there and looks like data.

    Raises:
        InputError: it is none.
    """
    paths = data_paths(name)
    if paths[0].is_dir():
        return
    if paths[0].exists():
        check_data_files(paths)
    else:
        check_data_id(name)


def check_data_id(name: str) -> None:
    """Check that data that are not here may be on the Hub.

    Raises:
        InputError: the name is one of a file or folder.
    """
    if _is_path(name) or Path(name).suffix.lower() in BUILDERS:
        raise InputError("no such data file or folder", value=name, remedy="check the path")


def data_paths(data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The paths that a name or a list of names stands for.

    Raises:
        InputError: a name is a text: no file system and no Hub would take it.
    """
    names = [data] if isinstance(data, (str, os.PathLike)) else data
    for name in map(str, names):
        if not name.strip():
            raise InputError("the name of data is empty", value=name, remedy="is a shell variable unset?")
        if "\n" in name or "\0" in name or any(len(os.fsencode(part)) > LONGEST_NAME for part in name.split("/")):
            raise InputError("this is a text, not the name of a data set", value=f"{name[:40]} …", remedy=AS_TABLE)
    return [Path(each) for each in names]


def check_data_files(paths: Sequence[Path]) -> None:
    """Check that files of data are there, not empty, and of one kind that can be read.

    Raises:
        InputError: they are not.
    """
    for each in paths:
        if not each.is_file():
            remedy = "check the path" if len(paths) == 1 else f"check the path; or {AS_TABLE}"
            raise InputError("no such data file", value=each.name, remedy=remedy)
        refuse_pointers([each])
        if each.suffix.lower() not in BUILDERS:
            raise InputError("a file of this kind cannot be read", value=each.name, allowed=", ".join(BUILDERS))
        if each.stat().st_size == 0:
            raise InputError("the data file is empty", value=each.name)
    kinds = {each.suffix.lower() for each in paths}
    if len({BUILDERS[kind] for kind in kinds}) > 1 or kinds == {".csv", ".tsv"}:
        raise InputError("the data files are of several kinds", value=", ".join(sorted(kinds)), allowed="one kind")
