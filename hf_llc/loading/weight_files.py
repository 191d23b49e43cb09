"""The files of a checkpoint's weights: which of them transformers reads, and whether all are there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence, Set
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache

from hf_llc.errors import InputError
from hf_llc.loading.damaged_files import check_weight_file, refuse_pointers
from hf_llc.loading.hub_files import SMALL_FILES
from hf_llc.loading.names import check_model_folder

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""The names that transformers gives to weights, the first that is there; or with `.index.json`, of shards."""
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_OF_TRAINING = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state)\w*\.")
"""Files that Trainer writes beside the weights."""
_OF_OTHERS = (".gguf", ".h5", ".msgpack", ".onnx", ".ot", ".tflite", ".mlmodel")
"""Weights that torch does not read."""
_SHARD = re.compile(r"-\d+-of-\d+\.")
_MAX_NAMES = 3


def check_folder(folder: Path, *, allow_pickle: bool) -> None:
    """Check that a folder holds a config and all its weights, in files that transformers looks for.

    Raises:
        InputError: it does not, or has pointers of git-lfs in their place.
    """
    check_model_folder(folder)
    files = {path.name for path in folder.iterdir() if path.is_file()}
    small = [*SMALL_FILES, *(f"{name}.index.json" for name in _WEIGHTS)]
    refuse_pointers(folder / name for name in sorted(files) if any(fnmatch(name, each) for each in small))
    if files.isdisjoint({_WEIGHTS[0], f"{_WEIGHTS[0]}.index.json"}):
        refuse_pointers(folder / name for name in sorted(files) if name.endswith((".safetensors", *_PICKLES)))
    _check_names(files, lambda name: folder / name, folder.name, allow_pickle=allow_pickle)


def check_on_hub(name: str, commit: str, *, allow_pickle: bool) -> None:
    """The same of a model on the Hub, before its files are downloaded. Nothing is checked if the Hub does not answer.

    Raises:
        InputError: a file of weights is missing there, or named otherwise.
    """
    if constants.is_offline_mode():
        return
    try:
        info = HfApi().model_info(name, revision=commit)
    except Exception:  # without an answer, what is in the cache decides
        return
    files = {file.rfilename for file in info.siblings or []}
    if any(file.endswith(".safetensors") for file in files) or f"{_WEIGHTS[0]}.index.json" in files:
        # Of a repository without any, transformers asks the Hub for a converted copy.
        _check_names(
            files, lambda file: Path(hf_hub_download(name, file, revision=commit)), name, allow_pickle=allow_pickle
        )


def check_readable(source: str, revision: str | None) -> None:
    """Read the heads of the files of weights, as far as they are on this machine.

    Raises:
        InputError: a file is cut off or is none.
    """
    for path in weight_files(source, revision):
        check_weight_file(path)


def weight_files(source: str, revision: str | None) -> list[Path]:
    """The files of weights that transformers reads, in a folder or in the cache of the Hub's client."""
    for name in _WEIGHTS:
        whole, index = file_of(source, revision, name), file_of(source, revision, f"{name}.index.json")
        if whole is not None:
            return [whole]
        if index is not None:
            paths = [file_of(source, revision, shard) for shard in _shards(index, Path(source).name)]
            return [path for path in paths if path is not None]
    return []


def file_of(source: str, revision: str | None, name: str) -> Path | None:
    """A file of a folder, or of a commit in the cache; None if it is not there."""
    if revision is None:
        path = Path(source) / name
        return path if path.is_file() else None
    cached = try_to_load_from_cache(source, name, revision=revision)
    return Path(cached) if isinstance(cached, str) else None


def listed(names: Sequence[str]) -> str:
    """The first few names."""
    return ", ".join(names[:_MAX_NAMES]) + (", …" if len(names) > _MAX_NAMES else "")


def _check_names(files: Set[str], local: Callable[[str], Path], shown: str, *, allow_pickle: bool) -> None:
    """Refuse weights that transformers would not find, or not all of them.

    Args:
        files: names of all files of the checkpoint.
        local: gives one of them as a file of this machine.
        shown: the checkpoint's name.
        allow_pickle: pickled weights may be read.
    """
    for name in _WEIGHTS if allow_pickle else _WEIGHTS[:1]:
        index = f"{name}.index.json"
        if name in files:
            return
        if index in files:
            _refuse_lost(_shards(local(index), shown), files, index, shown)
            return
    safe = sorted(name for name in files if name.endswith(".safetensors"))
    pickled = sorted(name for name in files if name.endswith(_PICKLES) and not _OF_TRAINING.match(name))
    if not safe and not allow_pickle and (pickled or f"{_WEIGHTS[1]}.index.json" in files):
        raise InputError(
            "the model folder has pickled weights only, which can run code",
            value=shown,
            remedy="convert them to safetensors, or give allow_pickle (--allow-pickle)",
        )
    _refuse_names(safe or pickled, sorted(name for name in files if name.endswith(_OF_OTHERS)), shown)


def _refuse_lost(shards: Iterable[str], files: Set[str], index: str, shown: str) -> None:
    """Refuse shards that are not there."""
    lost = [name for name in shards if name not in files]
    if lost:
        raise InputError(
            f"files of weights are missing ({len(lost)}): {listed(lost)}",
            value=shown,
            remedy=f"download or upload them: {index} names them",
        )


def _refuse_names(names: Sequence[str], others: Sequence[str], shown: str) -> None:
    """Refuse weights of which none has a name that is looked for."""
    if not names:
        raise InputError(
            "the model folder has no weights" + (f" that torch reads, only {listed(others)}" if others else ""),
            value=shown,
            allowed="*.safetensors",
            remedy="convert them with transformers" if others else "",
        )
    expected = _WEIGHTS[0] if names[0].endswith(".safetensors") else _WEIGHTS[1]
    if any(_SHARD.search(name) for name in names):
        raise InputError(
            f"the weights are in several files ({listed(names)}) and the file that lists them is missing",
            value=shown,
            remedy=f"add {expected}.index.json",
        )
    raise InputError(
        f"the weights have a name that hf_llc does not look for: {listed(names)}",
        value=shown,
        allowed=f"{expected}, or shards with {expected}.index.json",
        remedy=f"rename the file to {expected} if these are the weights to measure",
    )


def _shards(index: Path, shown: str) -> list[str]:
    """The files that an index names."""
    try:
        return sorted({str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{index.name} is damaged", value=shown, remedy="download or save it again") from error
