"""Which examples (or tokens) of the data help and harm which queries, from the chains of one estimate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_llc.config import LoadConfig, SampleConfig, as_dict
from hf_llc.errors import InputError
from hf_llc.files import check_writable, write_atomically
from hf_llc.loading.other_column import values_beside
from hf_llc.parallel.processes import Processes
from hf_llc.problem import Problem
from hf_llc.result import LLCResult
from hf_llc.studies.influence_plot import plot_influence
from hf_llc.studies.influence_table import INFLUENCE_FILES, KERNEL, PICTURE, InfluenceTable, strongest
from hf_llc.studies.kernel_plot import plot_kernel
from hf_llc.studies.load_once import load_once
from hf_llc.studies.observed_settings import SOURCES, influence_settings
from hf_llc.studies.observing import check_level, texts_of
from hf_llc.studies.own_folder import own_folder
from hf_llc.studies.shared_settings import SHARED
from hf_llc.workflow.estimate_model import estimate_model
from hf_llc.workflow.identity import asked_of
from hf_llc.workflow.opened_run import NOTHING, Given
from hf_llc.workflow.run_folder import RunFolder

_MOST = 2**24
"""Entries of a matrix; five such matrices are made."""


def measure(
    load: LoadConfig,
    sample: SampleConfig,
    given: Given = NOTHING,
    *,
    queries: Any = None,
    level: str = "example",
    top: int = 5,
    color: str | None = None,
    output: str | Path,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    begun: float | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> InfluenceTable:
    """Sample once, and tell which of the first `observe_examples` examples move with which queries.

    Args:
        load: model and data.
        sample: how to sample; how many examples, and how often they are looked at.
        given: objects in place of names in `load`.
        queries: data of queries, as a value of `observe`; None: the sources themselves (the loss kernel).
        level: "example" or "token".
        top: helpers and harmers of each query in the table.
        color: column of the data by which the picture of the loss kernel is coloured; None: none.
        output: folder of the table, with the chains in `chains`.
        resume: refuse a folder that holds no such table.
        overwrite: compute everything again.
        progress: show progress bars on the main process.
        begun: `time.monotonic()` at the beginning of the command, whose time `max_seconds` is; None: now.
        report: called with a line of text when the chains are done.

    Raises:
        InputError: bad input, refused before long work.
    """
    sample = influence_settings(sample, queries, level=level, top=top, color=color)
    processes = Processes(sample.data_parallel)
    processes.main_does(lambda: str(check_writable(Path(output))))
    problem, decided = load_once(load, sample, given, processes=processes, progress=progress, begun=begun)
    check_level(level, problem)
    _check_size(problem, decided, level)
    colours = [] if color is None else _colours(problem, load, given, decided, color)
    folder = RunFolder(output, files=INFLUENCE_FILES)
    asked = {**asked_of(load, sample), "level": level, "top": top}
    with own_folder(folder, asked, processes=processes, resume=resume, overwrite=overwrite):
        result = estimate_model(
            load,
            sample,
            replace(given, problem=problem),
            output=folder.folder / "chains",
            overwrite=overwrite,
            progress=progress,
            title="influence",
            begun=begun,
        )
        report(f"λ̂ of the chains: {result.verdict}")
        table = _table(problem, result, sample, level=level, top=top)
        processes.main_does(lambda: folder.finish(lambda: _save(table, folder.folder, color, colours)))
    return table


def _check_size(problem: Problem, sample: SampleConfig, level: str) -> None:
    """Refuse a matrix that is too large."""
    positions = problem.num_positions if level == "token" else 1
    count = min(sample.observe_examples, problem.num_examples) * positions
    if count**2 > _MOST:
        raise InputError(
            "the matrix of influence would be too large",
            value=f"{count:,} × {count:,}",
            allowed=f"{math.isqrt(_MOST):,} × {math.isqrt(_MOST):,}",
            remedy="lower observe_examples or max_length, or take the level example",
        )


def _table(problem: Problem, result: LLCResult, sample: SampleConfig, *, level: str, top: int) -> InfluenceTable:
    assert result.observations is not None
    seen = result.observations
    found = result.influence()
    names = list(seen.init)
    sources, queries = (texts_of(problem, seen.init[name], seen.inputs.get(name)) for name in (SOURCES, names[-1]))
    used = {name: getattr(result, name) for name in (*SHARED, "num_chains", "num_draws")}
    settings = {"n": result.n, **as_dict(sample), **used}
    return InfluenceTable(
        rows=strongest(found, sources, queries, top=top),
        found=found,
        level=level,
        settings=settings,
        llc={name: getattr(result, name) for name in ("llc", "llc_se", "verdict")},
        model=result.model,
        data=result.data,
    )


def _colours(
    problem: Problem, load: LoadConfig, given: Given, sample: SampleConfig, color: str
) -> Sequence[str | float]:
    """The column of the examples that are looked at.

    Raises:
        InputError: there is none.
    """
    data = load.data if given.data is None else given.data
    return values_beside(problem, data, load, color)[: sample.observe_examples]


def _save(table: InfluenceTable, folder: Path, color: str | None, colours: Sequence[str | float]) -> None:
    """Write the pictures, then the other files, influence.json last."""
    write_atomically(folder / PICTURE, lambda path: plot_influence(table, path))
    if table.is_kernel:
        write_atomically(folder / KERNEL, lambda path: plot_kernel(table, path, colour=color, values=colours))
    table.save(folder)
