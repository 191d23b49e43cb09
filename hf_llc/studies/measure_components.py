"""λ̂ of the components of a model: one calibration on the whole, the same nβ and γ for each (arXiv 2410.02984).

Components are measured in turn, and the processes share out the chains of each: one component is then on disk before
the next begins, and what a component needs beside its chains (calibration, descent) is done as in any estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from hf_llc.components.listed import WHOLE, check_partition
from hf_llc.config import LoadConfig, SampleConfig, as_dict
from hf_llc.files import write_atomically
from hf_llc.result import LLCResult
from hf_llc.studies.component_plot import plot_components
from hf_llc.studies.component_table import COMPONENT_FILES, PICTURE, ComponentTable, Row
from hf_llc.studies.own_folder import own_folder
from hf_llc.studies.parts import Parts
from hf_llc.studies.shared_settings import COMPARABLE, shared_settings, with_settings
from hf_llc.studies.whole_settings import check_whole
from hf_llc.workflow.identity import asked_of
from hf_llc.workflow.opened_run import NOTHING, Given
from hf_llc.workflow.run_folder import RunFolder


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
    limit: float | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> ComponentTable:
    """Estimate λ̂ of all weights and of each component, on every process; the main one writes the files.

    All weights come first and decide the settings that are "auto". Each result has a folder of its own in `output`; a
    finished one is read, not computed again.

    Args:
        load: model and data.
        sample: how to sample.
        given: objects in place of names in `load`.
        components: "heads", "layers", "partition", or names and globs separated by commas; see
            `components.listed.components_named`.
        output: folder of the table. It is refused if it holds a table with other settings.
        is_partition: refuse components that overlap, or that leave weights out.
        calibrates_each: find ε, friction and burn-in for each component, at the same nβ and γ; else those of the whole
            model are shared.
        resume: refuse a folder that holds no table.
        overwrite: compute everything again.
        progress: show progress bars on the main process.
        begun: `time.monotonic()` at the beginning of the command, whose time `max_seconds` is; None: now.
        limit: seconds in place of `max_seconds`, where that is for several tables.
        report: called with a line of text after each component.

    Raises:
        InputError: bad input, refused before long work.
    """
    check_whole(sample, "components")
    parts = Parts(
        *(load, sample, given),
        components=components,
        output=output,
        overwrite=overwrite,
        progress=progress,
        begun=begun,
        limit=limit,
        report=report,
    )
    complete = check_partition(parts.problem.model, parts.names, is_asked=is_partition)
    folder = RunFolder(output, files=COMPONENT_FILES)
    asked = {**asked_of(load, sample), "components": parts.names, "calibrates_each": calibrates_each}
    with own_folder(folder, asked, processes=parts.processes, resume=resume, overwrite=overwrite):
        whole = parts.estimate(WHOLE, sample)
        shared = _shared(sample, whole, calibrates_each=calibrates_each)
        results = {name: parts.estimate(name, shared) for name in parts.names}
        table = _table(results, whole, shared, is_partition=complete)
        parts.processes.main_does(lambda: folder.finish(lambda: _save(table, folder.folder)))
    return table


def _shared(sample: SampleConfig, whole: LLCResult, *, calibrates_each: bool) -> SampleConfig:
    if not calibrates_each:
        return shared_settings(sample, whole)
    return with_settings(sample, {name: getattr(whole, name) for name in COMPARABLE})


def _table(
    results: Mapping[str, LLCResult], whole: LLCResult, shared: SampleConfig, *, is_partition: bool
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
    """Write components.png, then the other files, components.json last."""
    write_atomically(folder / PICTURE, lambda path: plot_components(table, path))
    table.save(folder)
