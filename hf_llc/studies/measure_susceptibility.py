"""How components of a model answer to single tokens (or examples): susceptibilities, from components + 1 runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hf_llc.components.listed import WHOLE
from hf_llc.config import LoadConfig, SampleConfig, as_dict
from hf_llc.errors import InputError
from hf_llc.files import write_atomically
from hf_llc.judging.susceptibility import Susceptibility, susceptibility
from hf_llc.problem import Problem
from hf_llc.result import LLCResult
from hf_llc.studies.observed_settings import TRAINING, susceptibility_settings
from hf_llc.studies.observing import check_level, pieces_of
from hf_llc.studies.own_folder import own_folder
from hf_llc.studies.parts import Parts
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
from hf_llc.workflow.identity import asked_of
from hf_llc.workflow.opened_run import NOTHING, Given
from hf_llc.workflow.run_folder import RunFolder

Array = np.ndarray

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
        components: see `components.listed.components_named`.
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
    sample = susceptibility_settings(sample, probe, level=level)
    parts = Parts(
        *(load, sample, given),
        components=components,
        output=output,
        overwrite=overwrite,
        progress=progress,
        begun=begun,
        report=report,
        repeats=1 + control,
    )
    check_level(level, parts.problem)
    folder = RunFolder(output, files=SUSCEPTIBILITY_FILES)
    asked = {**asked_of(load, sample), "components": parts.names, "level": level, "control": control}
    with own_folder(folder, asked, processes=parts.processes, resume=resume, overwrite=overwrite):
        whole = parts.estimate(WHOLE, sample)
        shared = shared_settings(sample, whole)
        columns = _columns(whole, ((name, parts.estimate(name, shared)) for name in parts.names))
        if control:
            assert shared.nbeta is not None
            cold = replace(shared, nbeta=_NO_LOSS * shared.nbeta, check_localization=False)
            ball = parts.estimate(WHOLE, cold, within=_CONTROL)
            controls = _columns(ball, ((name, parts.estimate(name, cold, within=_CONTROL)) for name in parts.names))
            columns = [replace(one, control=two.found.chi) for one, two in zip(columns, controls, strict=True)]
        table = _table(parts.problem, whole, columns, shared, level)
        parts.processes.main_does(lambda: folder.finish(lambda: _save(table, folder.folder)))
    return table


def _columns(whole: LLCResult, components: Iterable[tuple[str, LLCResult]]) -> list[Column]:
    """χ of each component, one run in memory at a time."""
    chosen = _predicted(whole)
    full = _contrasts(whole, chosen)[1]
    columns = []
    for name, result in components:
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
