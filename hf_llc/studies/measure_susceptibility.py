"""How components of a model answer to single tokens (or examples): susceptibilities, from components + 1 runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hf_llc.config import LoadConfig, SampleConfig, as_dict
from hf_llc.errors import InputError
from hf_llc.files import check_writable, write_atomically
from hf_llc.judging.susceptibility import Susceptibility, susceptibility
from hf_llc.observe_setting import SAMPLED, checked_observe
from hf_llc.parallel.processes import Processes
from hf_llc.problem import Problem
from hf_llc.progress import Budget
from hf_llc.result import LLCResult
from hf_llc.studies.load_once import load_once
from hf_llc.studies.measure_components import WHOLE, components_named, folder_of
from hf_llc.studies.observing import observing, pieces_of
from hf_llc.studies.shared_settings import shared_settings
from hf_llc.studies.susceptibility_page import render_html
from hf_llc.studies.susceptibility_plot import plot_susceptibility
from hf_llc.studies.susceptibility_table import (
    PICTURE,
    REPORT,
    SUSCEPTIBILITY_FILES,
    Column,
    SusceptibilityTable,
    Tokens,
)
from hf_llc.workflow.estimate_model import estimate_model
from hf_llc.workflow.identity import asked_of
from hf_llc.workflow.opened_run import NOTHING, Given
from hf_llc.workflow.run_folder import RunFolder

Array = np.ndarray

TRAINING = "train"
"""Name of the data that are sampled on, among what is observed."""

_CONTROL = "control"
_NO_LOSS = 1e-9
"""Share of nβ in the control: the loss moves nothing, and the law is that of γ alone."""


def measure(
    load: LoadConfig,
    sample: SampleConfig,
    given: Given = NOTHING,
    *,
    components: str,
    probe: str | Mapping[str, Any] | None = None,
    level: str = "token",
    control: bool = False,
    output: str | Path,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    begun: float | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> SusceptibilityTable:
    """χ of each component to each token of the first `observe_examples` examples of the data, and of probes.

    All weights are sampled first and decide the settings that are "auto"; then each component, at the same. Each run
    has a folder of its own in `output`; a finished one is read, not computed again.

    Args:
        load: model and data.
        sample: how to sample; how many examples, and how often they are looked at.
        given: objects in place of names in `load`.
        components: see `measure_components.components_named`.
        probe: other data, as a value of the setting `observe`: "code=hub/id:split", or a mapping; None: none.
        level: "token" or "example".
        control: run all of it at nβ ≈ 0 too, where the law is a ball around w* and knows nothing of the loss.
        output: folder of the table.
        resume: refuse a folder that holds no such table.
        overwrite: compute everything again.
        progress: show progress bars on the main process.
        begun: `time.monotonic()` at the beginning of the command, whose time `max_seconds` is; None: now.
        report: called with a line of text after each run.

    Raises:
        InputError: bad input, refused before long work.
    """
    sample = _observing(sample, probe, level)
    processes, budget = Processes(sample.data_parallel), Budget(sample.max_seconds, begun)
    processes.main_does(lambda: str(check_writable(Path(output))))
    problem, _ = load_once(load, sample, given, processes=processes, progress=progress, begun=begun)
    names = components_named(problem.model, components)
    folder = RunFolder(output, files=SUSCEPTIBILITY_FILES)
    asked = {**asked_of(load, sample), "components": names, "level": level, "control": control}
    left = [(1 + control) * (len(names) + 1)]

    def measured(name: str, settings: SampleConfig, place: Path) -> LLCResult:
        result = estimate_model(
            load,
            replace(settings, weights=name),
            replace(given, problem=problem),
            output=place / folder_of(name),
            overwrite=overwrite,
            progress=progress,
            title=name,
            limit=budget.share(left[0]),
        )
        left[0] -= 1
        report(f"{place.name if place.name == _CONTROL else 'chains'}, {name}: {result.verdict} ({left[0]} left)")
        result.trace = None  # the largest part of a result
        return result

    try:
        processes.main_does(folder.lock)
        processes.main_does(lambda: folder.check(asked, resume=resume or None, overwrite=overwrite))
        processes.main_does(lambda: str(folder.begin(asked, overwrite=overwrite)))
        whole = measured(WHOLE, sample, folder.folder)
        shared = shared_settings(sample, whole)
        columns = _columns(whole, {name: (lambda n=name: measured(n, shared, folder.folder)) for name in names})
        if control:
            assert shared.nbeta is not None
            cold = replace(shared, nbeta=_NO_LOSS * shared.nbeta, check_localization=False)
            place = folder.folder / _CONTROL
            ball = measured(WHOLE, cold, place)
            controls = _columns(ball, {name: (lambda n=name: measured(n, cold, place)) for name in names})
            columns = [replace(one, control=two.found.chi) for one, two in zip(columns, controls, strict=True)]
        table = _table(problem, whole, columns, shared, level)
        processes.main_does(lambda: folder.finish(lambda: _save(table, folder.folder)))
    finally:
        folder.unlock()
    return table


def _observing(sample: SampleConfig, probe: str | Mapping[str, Any] | None, level: str) -> SampleConfig:
    """The settings with what is to be observed.

    Raises:
        InputError: a probe is none, or a setting is not for susceptibilities.
    """
    if sample.weights != WHOLE:
        raise InputError("weights is for one estimate", value=sample.weights, remedy="name it among the components")
    if sample.minimize:
        raise InputError("minimize would give each component a w* of its own", remedy="leave it out")
    if sample.parameter_parallel > 1:
        raise InputError("parameter_parallel is not for susceptibilities", remedy="leave it out")
    probes = checked_observe(probe)
    if isinstance(probes, str):
        raise InputError("probe has no name", value=probes, allowed="NAME=DATA:SPLIT, separated by commas")
    for name, value in (probes or {}).items():
        if name == TRAINING:
            raise InputError("probe has the name of the data that are sampled on", value=name, remedy="name it else")
        if value is None or callable(value):
            raise InputError(f"probe {name} is no data", remedy="write NAME=DATA:SPLIT")
    names = {TRAINING: SAMPLED, **(probes or {})}
    return observing(sample, names, level=level, study="susceptibility", instead="probe")


def _columns(whole: LLCResult, components: Mapping[str, Callable[[], LLCResult]]) -> list[Column]:
    """χ of each component, one run in memory at a time."""
    chosen = _predicted(whole)
    full = _contrasts(whole, chosen)[1]
    columns = []
    for name, run in components.items():
        result = run()
        phi, component = _contrasts(result, chosen)
        columns.append(_column(name, result, susceptibility(phi, component, full)))
    return columns


def _predicted(result: LLCResult) -> dict[str, Array]:
    """Which positions of each probe have a loss: at the others it is 0, at w* and everywhere."""
    seen = result.observations
    assert seen is not None
    return {name: (init != 0) | (seen.values[name] != 0).any(axis=(0, 1)) for name, init in seen.init.items()}


def _contrasts(result: LLCResult, chosen: Mapping[str, Array]) -> tuple[Array, Array]:
    """φ `[chain, draw]`, and Δ of all chosen tokens `[chain, draw, m]`, less its value at w*; after burn-in.

    L is the mean over the tokens of the training data that are observed, so that their Δ sum to zero.
    """
    seen = result.observations
    assert seen is not None
    kept = seen.steps >= result.num_burnin_steps
    losses = [seen.values[name][:, kept].astype(np.float64)[:, :, where] for name, where in chosen.items()]
    for found in losses:
        if not np.isfinite(found).all():
            raise InputError("losses along the chains are not finite", value=result.weights, remedy="lower step_size")
    phi = losses[list(chosen).index(TRAINING)].mean(axis=2)
    return phi, np.concatenate(losses, axis=2) - phi[..., None]


def _column(name: str, result: LLCResult, found: Susceptibility) -> Column:
    names = ("num_parameters", "llc", "llc_se", "verdict")
    return Column(component=name, found=found, **{each: getattr(result, each) for each in names})


def _table(
    problem: Problem, whole: LLCResult, columns: list[Column], shared: SampleConfig, level: str
) -> SusceptibilityTable:
    seen, chosen = whole.observations, _predicted(whole)
    assert seen is not None
    tokens = []
    for name, where in chosen.items():
        pieces = np.array(pieces_of(problem, seen.init[name], seen.inputs.get(name)), dtype=object).reshape(where.shape)
        places = np.argwhere(where)
        positions = places[:, 1] if where.ndim == 2 else np.zeros(len(places), np.int64)
        tokens.append(Tokens(name, places[:, 0], positions, [str(piece) for piece in pieces[where]]))
    return SusceptibilityTable(
        columns=columns,
        tokens=tokens,
        level=level,
        settings={"n": whole.n, **as_dict(shared)},
        llc={name: getattr(whole, name) for name in ("llc", "llc_se", "verdict")},
        model=whole.model,
        data=whole.data,
    )


def _save(table: SusceptibilityTable, folder: Path) -> None:
    """Write susceptibility.png, then the other files, susceptibility.json last."""
    write_atomically(folder / PICTURE, lambda path: plot_susceptibility(table, path))
    write_atomically(folder / REPORT, lambda path: path.write_text(render_html(table), encoding="utf-8"))
    table.save(folder)
