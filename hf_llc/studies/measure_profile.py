"""λ̂ over scales: at many γ by one ladder of chains, beside λ of the Hessian at w* at the same γ.

Chains begin at w* at the strongest γ, where they hardly move, and go down the ladder: at each γ from where they ended
at the one above, with a burn-in of their own. All γ of one nβ together take at most twice the steps of one estimate.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from hf_llc.backend.torch_modes import own_modes
from hf_llc.config import LoadConfig, SampleConfig, as_dict
from hf_llc.files import write_atomically
from hf_llc.judging.quadratic import Quadratic
from hf_llc.parallel.processes import Processes
from hf_llc.posterior.posterior import Posterior
from hf_llc.progress import Watch, watch, watching
from hf_llc.publishing.formatting import for_stderr
from hf_llc.ranges import Range
from hf_llc.records.chain_settings import ChainSettings
from hf_llc.studies.profile_hessian import size_of, spectrum_of
from hf_llc.studies.profile_ladder import Ladder, fewest_and_most
from hf_llc.studies.profile_plot import plot_profile
from hf_llc.studies.profile_settings import HessianSettings, profile_settings
from hf_llc.studies.profile_table import PICTURE, PROFILE_FILES, Profile, Row
from hf_llc.workflow.forecast import Work, work_of_chains
from hf_llc.workflow.opened_run import NOTHING, Given, opened_run
from hf_llc.workflow.run import Run
from hf_llc.workflow.run_folder import RunFolder
from hf_llc.workflow.summary import subject_of


def measure(
    load: LoadConfig,
    sample: SampleConfig,
    given: Given = NOTHING,
    *,
    localizations: Sequence[float],
    nbetas: Sequence[float] | None = None,
    hessian: HessianSettings | None = None,
    output: str | Path,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    begun: float | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Profile:
    """Estimate λ̂ at every γ and λ_Q beside it, on every process; the main one writes the files.

    The same call continues an unfinished profile, and reads a finished one.

    Args:
        load: model and data.
        sample: how to sample; what is "auto" is found at the weakest γ and the largest nβ.
        given: objects in place of names in `load`.
        localizations: γ, above 0, in any order.
        nbetas: nβ, a ladder for each; None: that of `sample`.
        hessian: how the Hessian is looked at.
        output: folder of the table.
        resume: refuse a folder that holds no profile.
        overwrite: compute everything again.
        progress: show progress bars on the main process.
        begun: `time.monotonic()` at the beginning of the command, from which on `max_seconds` counts; None: now.
        report: called with a line of text after each γ.

    Raises:
        InputError: bad input, refused before long work.
    """
    scales, sample = profile_settings(sample, localizations, nbetas)
    ladder, temperatures = scales.localizations, scales.nbetas
    hessian = HessianSettings() if hessian is None else hessian
    folder = RunFolder(output, files=PROFILE_FILES)
    also_asked = {"localizations": ladder, "nbetas": temperatures, "hessian": vars(hessian)}
    sizes = {"hessian": hessian, "rungs": len(ladder), "ladders": len(temperatures or [0])}
    foresee = functools.partial(_foreseen, asked=sample, **sizes)
    common = {"also_asked": also_asked, "resume": resume or None, "overwrite": overwrite, "foresee": foresee}
    opened = opened_run(load, sample, folder, given, **common)
    is_shown = progress and Processes().is_main
    shown = Watch(show=is_shown, begun=begun, max_seconds=sample.max_seconds, spell=for_stderr)
    with own_modes(), watching(shown), opened as run:
        if run is None:
            return Profile.load(output)
        run.prepare()
        used = [run.settings.nbeta] if temperatures is None else temperatures
        spectrum = spectrum_of(run, hessian)
        rows, descents = [], {}
        for number, nbeta in enumerate(used):
            found, descent = Ladder(run, nbeta, number, report).rows(ladder, spectrum)
            rows += found
            descents |= descent
        if not rows:
            raise watch().out_of_time(
                "sample", "before chains at the largest γ had eight steps", "or give fewer values of γ"
            )
        profile = _profile(run, rows, descents, spectrum, hessian)
        run.processes.main_does(lambda: folder.finish(lambda: _save(profile, folder.folder)))
    return profile


def _foreseen(
    posterior: Posterior,
    sample: SampleConfig | ChainSettings,
    processes: Processes,
    *,
    checks: bool,
    asked: SampleConfig,
    hessian: HessianSettings,
    rungs: int,
    ladders: int,
) -> Work:
    """The work of the Hessian, of the chains at all γ and of their heat. `checks` is an estimate's: there are none."""
    one_step = replace(sample, num_burnin_steps=0, num_draws=1, num_steps_between_draws=1)
    found = work_of_chains(posterior, one_step, processes, checks=False)
    steps = fewest_and_most(rungs, asked.steps_allowed)
    guess = math.sqrt(math.prod(steps))  # what the chains find decides between the two
    each = found["sample"]
    chains = Range(steps[0] * each.least, guess * each.guess, steps[1] * each.most).times(ladders)
    decided = replace(asked, batch_size=sample.batch_size)
    products = size_of(posterior, decided, hessian).work(processes) / posterior.group.size
    work = {"hessian": Range(products, products, products), "sample": chains}
    if "measure heat" in found:
        work["measure heat"] = found["measure heat"].times(rungs * ladders)
    return work


def _profile(
    run: Run, rows: list[Row], descents: dict[str, float], spectrum: Quadratic, hessian: HessianSettings
) -> Profile:
    subject = subject_of(run.problem, run.posterior)
    iterations = max((len(probe["nodes"]) for probe in spectrum.probes), default=0)
    return Profile(
        rows=rows,
        negative_share=spectrum.negative_share if len(spectrum.probes) > 1 else math.nan,
        top_curvature=spectrum.top,
        hessian={"probes": len(spectrum.probes), "iterations": iterations, "examples": spectrum.num_examples},
        descent=descents,
        settings={"n": run.problem.n, **as_dict(run.decided)},
        model=subject.model,
        data=subject.data,
    )


def _save(profile: Profile, folder: Path) -> None:
    """Write profile.png, then profile.csv and profile.json."""
    write_atomically(folder / PICTURE, lambda path: plot_profile(profile, path))
    profile.save(folder)
