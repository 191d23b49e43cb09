"""The checkpoints of one training run: revisions of a Hub repository, folders, or weight files."""

from __future__ import annotations

import fnmatch
import importlib
import os
import pickle
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError, reason_of

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint of a series.

    Attributes:
        name: shown in the curve, and names the subfolder of its result.
        load: load settings of this checkpoint; they replace those common to all.
        open: returns the module and its loss_fn, for a plain module; None if `load` identifies the model.
        skipped: why it cannot be a point of the curve; "" if it may be one.
    """

    name: str
    load: dict[str, Any]
    open: Callable[[], tuple[nn.Module, Any]] | None = None
    skipped: str = ""

    @property
    def folder(self) -> str:
        """`name` with characters that file systems may refuse replaced by underscores."""
        return re.sub(r"[^\w.=-]+", "_", self.name)


def revisions(model: str, pattern: str) -> list[Checkpoint]:
    """The branches and tags of a Hub model that match a shell pattern (`step*`), in natural order.

    Raises:
        InputError: no branch or tag matches, there is no such model, or the Hub cannot be reached.
    """
    from huggingface_hub import HfApi

    from hf_llc.loading.hub_errors import model_refusal
    from hf_llc.parallel.processes import Processes

    def names() -> list[str]:
        try:
            refs = HfApi().list_repo_refs(model)
        except Exception as error:  # the client has no common type for: no access, no network, no such model
            raise model_refusal(error, model, LoadConfig(model=model)) from error
        return [ref.name for ref in [*refs.branches, *refs.tags]]

    known = Processes().main_does(names)
    matching = sorted({name for name in known if fnmatch.fnmatchcase(name, pattern)}, key=natural)
    if not matching:
        raise InputError(
            "no branch or tag matches", value=pattern, allowed=", ".join(sorted(known, key=natural)[:20]) or "none"
        )
    return [Checkpoint(name, {"model": model, "revision": name}) for name in matching]


def checkpoint_folders(folder: str | Path) -> list[Checkpoint]:
    """The subfolders (Trainer calls them checkpoint-500 …) in natural order; without a config.json they are skipped.

    Raises:
        InputError: no subfolder holds one.
    """
    folder = Path(folder)
    folders = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    folders = sorted((path for path in folders if not path.name.startswith(".")), key=lambda path: natural(path.name))
    found = {path: (path / "config.json").is_file() for path in folders}
    if not any(found.values()):
        raise InputError("no checkpoints there", value=str(folder), allowed="a folder of folders with config.json")
    return [
        Checkpoint(path.name, {"model": str(path)}, skipped="" if has_config else "no config.json")
        for path, has_config in found.items()
    ]


def weight_files(
    files: Sequence[str | Path], factory: str | Callable[[], Any], *, allow_pickle: bool = False
) -> list[Checkpoint]:
    """One checkpoint for each file of weights of a plain module, in natural order of the names.

    Args:
        files: safetensors files; with `allow_pickle` also files of torch.save, read with weights_only.
        factory: a function without arguments that returns `(module, loss_fn)`, where loss_fn(outputs, labels) gives
            losses `[batch]` in nats; or its name, `module:function`, importable from the current folder.
        allow_pickle: accept files of torch.save.

    Raises:
        InputError: no such file, function or module; from `Checkpoint.open`, weights that do not fit the module.
    """
    if isinstance(factory, str) and not all(factory.partition(":")):
        raise InputError("factory is not the name of a function", value=factory, allowed="module:function")
    paths = sorted(map(Path, files), key=lambda path: natural(path.name))
    for path in paths:
        if not path.is_file():
            raise InputError("no such weights file", value=path.name, remedy="check the path")
        if path.suffix != ".safetensors" and not allow_pickle:
            raise InputError(
                "the weights file is not in safetensors format",
                value=path.name,
                remedy="convert it, or give allow_pickle",
            )

    make = _function(factory) if isinstance(factory, str) else factory

    def opener(path: Path) -> Callable[[], tuple[nn.Module, Any]]:
        return lambda: _with_weights(make, path)

    return [Checkpoint(path.stem, {}, opener(path)) for path in paths]


def _function(name: str) -> Callable[[], Any]:
    """Import the function that `module:function` names, also from the current folder."""
    module, _, function = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError("no such factory", value=name, remedy=reason_of(error)) from error
    except Exception as error:  # whatever the user's module may raise
        raise InputError("the factory's module fails", value=name, remedy=reason_of(error)) from error
    finally:
        sys.path.remove(os.getcwd())


def _with_weights(make: Callable[[], Any], path: Path) -> tuple[nn.Module, Any]:
    """The factory's module with the weights of the file at `path`, and its loss."""
    import torch
    from safetensors.torch import load_file
    from torch import nn

    from hf_llc.loading.damaged_files import check_weight_file
    from hf_llc.parallel.processes import Processes

    try:
        made = make()
    except (InputError, MemoryError):
        raise
    except Exception as error:  # whatever the user's code may raise
        raise InputError(
            "the factory fails", value=reason_of(error), remedy="call it in Python to see where"
        ) from error
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module) and callable(made[1])):
        raise InputError("the factory returns something else", value=type(made).__name__, allowed="(module, loss_fn)")
    module, loss_fn = made
    check_weight_file(path)
    try:
        is_safe = path.suffix == ".safetensors"
        module.load_state_dict(load_file(path) if is_safe else torch.load(path, map_location="cpu", weights_only=True))
    except MemoryError:
        raise
    except pickle.UnpicklingError as error:  # torch's words advise to run it
        raise InputError(
            "the weights file is a pickle of more than tensors", value=path.name, remedy="save module.state_dict()"
        ) from error
    except Exception as error:  # what is no dictionary of tensors has no type of error of its own
        raise InputError(
            "the weights do not fit the factory's module", value=path.name, remedy=reason_of(error)
        ) from error
    return module.to(Processes().device), loss_fn


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key of natural order: step9 comes before step10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def steps_of(names: Sequence[str]) -> list[int] | None:
    """The step of each checkpoint, from its name; None if the names do not tell.

    Of the numbers in the names, the first that differs in all of them: 5 and 7 of v2-step5 and v2-step7.
    """
    numbers = [re.findall(r"\d+", name) for name in names]
    if len({len(row) for row in numbers}) > 1:  # the first number of v2-step5 is not that of step7
        return None
    for column in zip(*numbers, strict=True):
        if len({int(number) for number in column}) == len(names):
            return [int(number) for number in column]
    return None


def result_folders(folders: Sequence[str]) -> list[Path]:
    """The folders given, with those of its checkpoints, by step, in place of a curve's.

    Raises:
        InputError: a folder holds no result, or one is given twice.
    """
    from hf_llc.publishing.result_folder import RESULT, result_file

    paths: list[Path] = []
    for folder in map(Path, folders):
        if (folder / "curve.json").exists() and not (folder / RESULT).exists():
            inside = {path.parent.name: path.parent for path in folder.glob(f"*/{RESULT}")}
            steps = steps_of(sorted(inside)) or range(len(inside))
            paths += [inside[name] for _, name in sorted(zip(steps, sorted(inside), strict=True))]
        else:
            paths.append(folder)
    places = [(path.parent if path.name == RESULT else path).resolve() for path in paths]
    twice = sorted({str(path) for path, place in zip(paths, places, strict=True) if places.count(place) > 1})
    if twice:
        raise InputError("a run is given twice", value=", ".join(twice), remedy="leave one out")
    for path in paths:
        result_file(path)
    return paths


def look_at(checkpoint: Checkpoint, load: LoadConfig) -> None:
    """Refuse a checkpoint that cannot be loaded, before the first of its series is measured.

    Raises:
        InputError: it cannot be.
    """
    from hf_llc.loading.model_sources import look_at_named

    if checkpoint.open is not None:
        checkpoint.open()
    else:
        look_at_named(replace(load, **checkpoint.load))
