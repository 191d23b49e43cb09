"""λ̂ of the components of a model: one calibration on the whole, the same nβ and γ for each (arXiv 2410.02984).

Components are measured in turn, and the processes share out the chains of each: one component is then on disk before
the next begins, and what a component needs beside its chains (calibration, descent) is done as in any estimate.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_llc.components.catalog import Catalog
from hf_llc.components.masks import Masks, overlap, union, without
from hf_llc.components.part_of import part_of
from hf_llc.config import LoadConfig, SampleConfig, as_dict
from hf_llc.errors import InputError
from hf_llc.files import check_writable, write_atomically
from hf_llc.parallel.processes import Processes
from hf_llc.problem import Problem
from hf_llc.progress import Budget
from hf_llc.result import LLCResult
from hf_llc.studies.component_plot import plot_components
from hf_llc.studies.component_table import COMPONENT_FILES, PICTURE, ComponentTable, Row
from hf_llc.studies.load_once import load_once
from hf_llc.studies.shared_settings import COMPARABLE, shared_settings, with_settings
from hf_llc.workflow.estimate_model import estimate_model
from hf_llc.workflow.identity import asked_of
from hf_llc.workflow.opened_run import NOTHING, Given
from hf_llc.workflow.run_folder import RunFolder

WHOLE = "all"

_SETS = {"heads": "l*h*", "layers": "l*"}
"""Words for globs. "partition" is a word too."""


def measure(
    load: LoadConfig,
    sample: SampleConfig,
    given: Given = NOTHING,
    *,
    components: str,
    output: str | Path,
    is_partition: bool = False,
    calibrates_each: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    begun: float | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> ComponentTable:
    """Estimate λ̂ of all weights and of each component, on every process; the main one writes the files.

    All weights come first and decide the settings that are "auto". Each result has a folder of its own in `output`; a
    finished one is read, not computed again.

    Args:
        load: model and data.
        sample: how to sample.
        given: objects in place of names in `load`.
        components: "heads", "layers", "partition", or names and globs separated by commas; see `components_named`.
        output: folder of the table. It is refused if it holds a table with other settings.
        is_partition: refuse components that overlap, or that leave weights out.
        calibrates_each: find ε, friction and burn-in for each component, at the same nβ and γ; else those of the whole
            model are shared.
        resume: refuse a folder that holds no table.
        overwrite: compute everything again.
        progress: show progress bars on the main process.
        begun: `time.monotonic()` at the beginning of the command, whose time `max_seconds` is; None: now.
        report: called with a line of text after each component.

    Raises:
        InputError: bad input, refused before long work.
    """
    if sample.weights != WHOLE:
        raise InputError("weights is for one estimate", value=sample.weights, remedy="name it among the components")
    if sample.minimize:
        raise InputError("minimize would give each component a w* of its own", remedy="leave it out")
    if sample.parameter_parallel > 1:
        raise InputError("parameter_parallel is not for components", remedy="leave it out, or estimate one by one")
    processes, budget = Processes(sample.data_parallel), Budget(sample.max_seconds, begun)
    processes.main_does(lambda: str(check_writable(Path(output))))
    problem, _ = load_once(load, sample, given, processes=processes, progress=progress, begun=begun)
    names = components_named(problem.model, components)
    complete = check_partition(problem.model, names, is_asked=is_partition)
    folder = RunFolder(output, files=COMPONENT_FILES)
    asked = {**asked_of(load, sample), "components": names, "calibrates_each": calibrates_each}

    def measured(name: str, settings: SampleConfig) -> LLCResult:
        result = estimate_model(
            load,
            replace(settings, weights=name),
            replace(given, problem=problem),
            output=folder.folder / folder_of(name),
            overwrite=overwrite,
            progress=progress,
            title=name,
            limit=budget.share((len(names) + 2) / 2 if name == WHOLE else len(names) - len(results) + 1),
        )
        result.trace = None  # the largest part of a result
        report(
            f"{name}: {result.verdict} ({len(results)} of {len(names)})"
            if name != WHOLE
            else f"{name}: {result.verdict}"
        )
        return result

    results: dict[str, LLCResult] = {}
    try:
        processes.main_does(folder.lock)
        processes.main_does(lambda: folder.check(asked, resume=resume or None, overwrite=overwrite))
        processes.main_does(lambda: str(folder.begin(asked, overwrite=overwrite)))
        whole = measured(WHOLE, sample)
        shared = _shared(sample, whole, calibrates_each=calibrates_each)
        for name in names:
            results[name] = whole  # counts it
            results[name] = measured(name, shared)
        table = _table(problem, results, whole, shared, is_partition=complete)
        processes.main_does(lambda: folder.finish(lambda: _save(table, folder.folder)))
    finally:
        folder.unlock()
    return table


def components_named(model: Any, components: str) -> list[str]:
    """The components that a list of words, names and globs means, in order, each once.

    A glob means each of those that match it; a sum `a+b` and a complement `~a` are one component.

    Raises:
        InputError: one of them is not there.
    """
    catalog = Catalog(model)
    names: list[str] = []
    for word in (" ".join(word.split()) for word in components.split(",")):
        term = _SETS.get(word, word)
        if word == "partition":
            names += catalog.partition()
        elif "+" not in term and not term.startswith("~") and (expanded := catalog.expand(term)) is not None:
            names += expanded
        else:
            part = part_of(model, term)
            is_glob = part is not None and term not in catalog.parameters and "+" not in term and "~" not in term
            names += list(part.masks) if part is not None and is_glob else [term]
    names = [name for name in dict.fromkeys(names) if name != WHOLE]  # which is measured anyway
    if not names:
        raise InputError("no component is named", value=components, allowed=catalog.summary())
    for name in names:
        part_of(model, name)
    return names


def check_partition(model: Any, names: Sequence[str], *, is_asked: bool) -> bool:
    """Whether the components share no weight and leave none out; with `is_asked`, refuse them if not.

    Raises:
        InputError: they are no partition.
    """
    catalog, seen, owners = Catalog(model), dict[str, Any](), dict[str, list[tuple[str, Masks]]]()
    for name in names:
        part = part_of(model, name)
        assert part is not None
        where = overlap(part.masks, seen)
        if where is not None:
            if not is_asked:
                return False
            other = next(n for n, masks in owners[where] if overlap({where: part.masks[where]}, masks))
            raise InputError(
                f"{name} overlaps {other}", value=where, remedy="leave one out, or do not ask for a partition"
            )
        seen = union([seen, part.masks])
        for key in part.masks:
            owners.setdefault(key, []).append((name, part.masks))
    left = without(catalog.everything, seen)
    if left and is_asked:
        raise InputError(
            f"the components leave out {len(left)} tensors",
            value=next(iter(left)),
            remedy="take --components partition",
        )
    return not left


def folder_of(name: str) -> str:
    """The folder of a component: its name in characters that every file system takes, apart from other names."""
    return re.sub(r"[^\w.+~-]", lambda match: f"_{ord(match[0]):x}_" if match[0] != " " else "_", name)


def _shared(sample: SampleConfig, whole: LLCResult, *, calibrates_each: bool) -> SampleConfig:
    if not calibrates_each:
        return shared_settings(sample, whole)
    return with_settings(sample, {name: getattr(whole, name) for name in COMPARABLE})


def _table(
    problem: Problem, results: Mapping[str, LLCResult], whole: LLCResult, shared: SampleConfig, *, is_partition: bool
) -> ComponentTable:
    return ComponentTable(
        rows=[_row(name, result) for name, result in results.items()],
        whole=_row(WHOLE, whole),
        is_partition=is_partition,
        settings={"n": whole.n, **as_dict(shared)},
        unit=whole.unit,
        model=whole.model,
        data=whole.data,
    )


def _row(name: str, result: LLCResult) -> Row:
    return Row(
        component=name,
        num_parameters=result.num_parameters,
        llc=result.llc,
        llc_se=result.llc_se,
        llc_per_half_dimension=2 * result.llc / result.num_parameters,
        mean_loss=result.mean_loss,
        step_size=result.step_size,
        r_hat=result.r_hat,
        ess=result.ess,
        verdict=result.verdict,
    )


def _save(table: ComponentTable, folder: Path) -> None:
    """Write components.png, then components.csv and components.json."""
    write_atomically(folder / PICTURE, lambda path: plot_components(table, path))
    table.save(folder)
