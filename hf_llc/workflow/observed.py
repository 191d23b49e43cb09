"""From the setting `observe` to observables, with what they will take of memory and disk."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from hf_llc.backend.memory import available_bytes
from hf_llc.config import LoadConfig, SampleConfig
from hf_llc.errors import InputError
from hf_llc.loading.problem_loader import load_problem
from hf_llc.numerals import number
from hf_llc.observables import Observable, observables_named
from hf_llc.observables.observable import checked
from hf_llc.observables.probe import Probe
from hf_llc.observe_setting import SAMPLED, split_of
from hf_llc.parallel.processes import Processes
from hf_llc.parallel.sharding import hash_of
from hf_llc.posterior.posterior import Posterior
from hf_llc.problem import Problem
from hf_llc.progress import watch
from hf_llc.workflow.fingerprints import loss_fingerprint

_OF_DATA = ("data", "subset", "split", "data_revision", "input_column", "second_input_column", "label_column")
"""What is said of the data that are sampled on, and not of others."""

_COPIES = 3
"""Copies of all records in memory at the end: those read from disk, those of other processes, and their union."""

_ON_DISK = 2
"""Copies on disk at the end: the chains' own files, and the result's."""

_SHARE = 0.5
"""Of the memory and of the disk that are free."""

_MUCH = 2**28
"""Bytes of records from which on a forecast speaks of them."""


def observables_of(
    sample: SampleConfig, problem: Problem, load: LoadConfig, loss_fn: Any = None, tokenizer: Any = None
) -> dict[str, Observable]:
    """The observables that the setting names, their data loaded.

    Args:
        sample: says what to observe.
        problem: what is sampled, its model at w*.
        load: how its data were loaded; other data are loaded alike.
        loss_fn: as the user gave it.
        tokenizer: as the user gave it.

    Raises:
        InputError: a name or data that there is not, data that do not fit the model, or no losses by token.
    """
    if sample.observe is None or isinstance(sample.observe, str):
        return observables_named(sample.observe)
    return {
        name: _observable(name, value, sample, problem, load, loss_fn, tokenizer)
        for name, value in sample.observe.items()
    }


def _observable(
    name: str, value: Any, sample: SampleConfig, problem: Problem, load: LoadConfig, loss_fn: Any, tokenizer: Any
) -> Observable:
    if value is None:
        return observables_named(name)[name]
    if callable(value):
        return cast(Observable, value)
    if sample.observe_loss == "token" and problem.token_losses is None:
        raise InputError(
            "observe_loss is by token, but an example has one loss", value=problem.task, remedy="set it to example"
        )
    if isinstance(value, str) and value == SAMPLED:
        return Probe(problem, level=sample.observe_loss, count=sample.observe_examples)
    data, config = _source(name, value, sample, load)
    processor = problem.processor if tokenizer is None else tokenizer
    try:
        probed = load_problem(problem.model, data, config, loss_fn=loss_fn, tokenizer=processor)
    except InputError as error:
        raise InputError(f"observe {name}: {error}") from error
    return Probe(probed, level=sample.observe_loss, count=sample.observe_examples)


def _source(name: str, value: Any, sample: SampleConfig, load: LoadConfig) -> tuple[Any, LoadConfig]:
    """Data as `load_problem` takes them, and how to load them."""
    more: dict[str, Any] = dict.fromkeys(_OF_DATA)
    data = value
    if isinstance(value, (str, os.PathLike)):
        data, more["split"] = split_of(os.fspath(value))
    elif isinstance(value, Mapping) and isinstance(value.get("data"), (str, os.PathLike)):
        unknown = sorted(set(value) - {item.name for item in fields(LoadConfig)})
        if unknown:
            raise InputError(f"observe {name} has an unknown setting", value=unknown[0], allowed=", ".join(_OF_DATA))
        more |= value
        data = os.fspath(value["data"])
    elif isinstance(value, tuple) and all(isinstance(part, str) for part in value):
        if len(value) != 2:
            raise InputError(f"observe {name} is not data", value=value, allowed="(data, split)")
        data, more["split"] = value
    more |= {"data": data if isinstance(data, str) else None, "max_examples": sample.observe_examples}
    return data, replace(load, **{"model": None, "revision": None, "tokenizer": None, "streaming": False, **more})


def fingerprints_of(observables: Mapping[str, Observable]) -> dict[str, Any]:
    """What tells observables of one run from those of another under the same names."""
    return {
        name: hash_of(list(it.examples.values())) if isinstance(it, Probe) else loss_fingerprint(it)
        for name, it in observables.items()
    }


def start_observables(
    observables: Mapping[str, Observable],
    posterior: Posterior,
    sample: SampleConfig,
    folder: Path,
    processes: Processes,
) -> None:
    """Show the observables the model at w*, and refuse records that will not fit.

    Args:
        observables: of the run.
        posterior: around w*.
        sample: says how many chains, steps and records.
        folder: of the run.
        processes: all of them call this together.

    Raises:
        InputError: the records do not fit into memory or on the disk.
    """
    model, count = posterior.model, processes.count

    def start() -> None:
        start_probes(observables, model)
        check_records_fit(observables, model, sample, folder, processes=count)

    posterior.buffer.release()
    processes.all_do(start)


def start_probes(observables: Mapping[str, Observable], model: torch.nn.Module) -> None:
    """Take the probes' losses at w*, where the model is now."""
    for observable in observables.values():
        if isinstance(observable, Probe):
            observable.start(model)


def check_records_fit(
    observables: Mapping[str, Observable],
    model: torch.nn.Module,
    sample: SampleConfig,
    folder: Path,
    *,
    processes: int,
    free: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
) -> int:
    """The bytes of all records of a run, at most; each observable is looked at once, at w*.

    Args:
        observables: started.
        model: at w*.
        sample: says how many chains, steps and records.
        folder: on the disk that will hold them.
        processes: that share this machine's memory; each gets all records at the end.
        free: folder → bytes that are free there.

    Raises:
        InputError: they do not fit into memory or on the disk.
    """
    with torch.no_grad():
        values = sum(checked(name, observable(model)).numel() for name, observable in observables.items())
    records = len(range(0, sample.steps_allowed, sample.observe_every))
    size = 4 * values * records * sample.num_chains
    if size > _MUCH:
        watch().note(f"records of observe: {size / 2**30:.1f} GiB on disk, and {_ON_DISK} times that while chains run")
    there = next((path for path in (folder, *folder.absolute().parents) if path.exists()), Path.cwd())
    limits = [("memory", _COPIES, available_bytes(torch.device("cpu"), processes=processes))]
    with contextlib.suppress(OSError):
        limits.append(("disk", _ON_DISK, free(there)))
    for what, copies, limit in limits:
        if copies * size > _SHARE * limit:
            raise InputError(
                f"the records of observe are too large for the {what}",
                value=f"{copies} × {number(size / 2**30)} GiB",
                allowed=f"half of the {number(limit / 2**30)} GiB that are free",
                remedy="raise observe_every, lower observe_examples, or observe by example",
            )
    return size


def references_of(observables: Mapping[str, Observable]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """By the probe's name: its losses at w*, and its token ids."""
    probes = {name: it for name, it in observables.items() if isinstance(it, Probe)}
    init = {name: it.init.cpu().numpy() for name, it in probes.items() if it.init is not None}
    return init, {name: it.inputs["input_ids"] for name, it in probes.items() if it.inputs}
