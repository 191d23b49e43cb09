"""λ̂ over scales: at many γ by one ladder of chains, beside λ of the Hessian at w* at the same γ.

Chains begin at w* at the strongest γ, where they hardly move, and go down the ladder: at each γ from where they ended
at the one above, with a burn-in of their own. All γ of one nβ together take at most twice the steps of one estimate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hf_llc.backend.torch_modes import own_modes
from hf_llc.config import LoadConfig, SampleConfig, as_dict
from hf_llc.errors import InputError
from hf_llc.files import write_atomically
from hf_llc.judging.quadratic import Quadratic
from hf_llc.parallel.processes import Processes
from hf_llc.posterior.hessian import probe_spectrum, product_cost, slope_spectrum
from hf_llc.progress import Watch, watch, watching
from hf_llc.publishing.formatting import for_stderr
from hf_llc.seals import load_value, save_value
from hf_llc.studies.profile_ladder import Ladder
from hf_llc.studies.profile_plot import plot_profile
from hf_llc.studies.profile_table import PICTURE, PROFILE_FILES, Profile, Row
from hf_llc.workflow.opened_run import NOTHING, Given, opened_run
from hf_llc.workflow.run import Run
from hf_llc.workflow.run_folder import RunFolder
from hf_llc.workflow.summary import subject_of


@dataclass(frozen=True, kw_only=True)
class HessianSettings:
    """How the spectrum of the Hessian is looked at.

    Attributes:
        probes: random vectors.
        iterations: Hessian–vector products for each.
        examples: of each product; None: as many as make all products cost what one estimate's chains do.
    """

    probes: int = 8
    iterations: int = 40
    examples: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("probes", 2), ("iterations", 1), ("examples", 1)):
            value = getattr(self, name)
            if value is not None and not least <= value <= 10**6:
                raise InputError(f"hessian_{name} is out of range", value=value, allowed=f"{least} … 10^6")


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
    ladder = _checked(localizations, "localizations")[::-1]
    temperatures = None if nbetas is None else _checked(nbetas, "nbetas")[::-1]
    hessian = HessianSettings() if hessian is None else hessian
    sample = _one_setting(sample, ladder, temperatures)
    folder = RunFolder(output, files=PROFILE_FILES)
    also_asked = {"localizations": ladder, "nbetas": temperatures, "hessian": vars(hessian)}
    opened = opened_run(load, sample, folder, given, also_asked=also_asked, resume=resume or None, overwrite=overwrite)
    is_shown = progress and Processes().is_main
    shown = Watch(show=is_shown, begun=begun, max_seconds=sample.max_seconds, spell=for_stderr)
    with own_modes(), watching(shown), opened as run:
        if run is None:
            return Profile.load(output)
        run.prepare()
        used = [run.settings.nbeta] if temperatures is None else temperatures
        spectrum = _spectrum(run, hessian)
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


def _checked(values: Sequence[float], name: str) -> list[float]:
    """The values in order, each once.

    Raises:
        InputError: there is none, or one is not allowed.
    """
    found = sorted({float(value) for value in values})
    if not found:
        raise InputError(f"{name} is empty", remedy="give numbers above 0")
    if len(found) < len(values):
        raise InputError(f"{name} names a value twice", value=list(values), remedy="leave one out")
    for value in found:
        if not 1e-18 <= value <= 1e18:
            raise InputError(f"{name} is out of range", value=value, allowed="numbers above 0, 1e-18 … 1e18")
    if len(found) > 100:
        raise InputError(f"{name} has too many values", value=len(found), allowed="100")
    return found


def _one_setting(sample: SampleConfig, ladder: Sequence[float], nbetas: Sequence[float] | None) -> SampleConfig:
    """`sample` at the weakest γ and the largest nβ.

    Raises:
        InputError: it says something that a profile decides.
    """
    if sample.localization != "auto":
        raise InputError("localization is for one estimate", value=sample.localization, remedy="give localizations")
    if nbetas is not None and (sample.nbeta is not None or sample.beta is not None):
        raise InputError("nbeta and nbetas are both given", remedy="give one of them")
    if sample.observe is not None:
        raise InputError("observe is for one estimate", remedy="leave it out")
    if sample.extrapolate:
        raise InputError("extrapolate is for one estimate", remedy="leave it out")
    if sample.parameter_parallel > 1:
        raise InputError("parameter_parallel is not for a profile", remedy="leave it out")
    nbeta = sample.nbeta if nbetas is None else max(nbetas)
    return replace(sample, localization=min(ladder), nbeta=nbeta)


def _spectrum(run: Run, hessian: HessianSettings) -> Quadratic:
    """The spectrum of the Hessian at w*, as random vectors and the slope see it; processes share the vectors out.

    Each vector is kept for a resumed run.
    """
    posterior, group = run.posterior, run.posterior.group
    chains = run.asked.num_chains * run.asked.steps_allowed * run.batch_size
    cost = product_cost(run.problem) * hessian.iterations
    affordable = int(chains / (cost * (hessian.probes + 1)))
    examples = min(hessian.examples or max(affordable, run.batch_size), posterior.num_examples)
    place, seal = run.folder.state / "hessian", f"{run.folder.seal}/hessian"

    def probe(number: int) -> dict[str, Any]:
        path = place / f"{number:04d}.json"
        known = group.all_gather(load_value(path, seal=seal) if group.leads and path.exists() else None)[0]
        if known is not None:
            return known
        size = {"seed": run.asked.seed, "iterations": hessian.iterations, "num_examples": examples}
        is_slope = number == hessian.probes
        found = slope_spectrum(posterior, **size) if is_slope else probe_spectrum(posterior, number=number, **size)
        if group.leads:
            save_value(path, found, seal=seal)
        return found

    def probes() -> list[tuple[int, dict[str, Any]]]:
        found = []
        for number in run.processes.share(range(hessian.probes + 1)):
            if watch().is_over("descend", group):
                break
            found.append((number, probe(number)))
        return found

    work = cost * examples * len(run.processes.share(range(hessian.probes + 1)))
    with watch().stage("hessian", work / group.size):
        mine = run.processes.all_do(probes)
    gathered = sorted(run.processes.gather(mine), key=lambda item: item[0])
    slope = next((found for number, found in gathered if number == hessian.probes), None)
    probes_found = [found for number, found in gathered if number < hessian.probes]
    return Quadratic(posterior.num_parameters, examples, probes_found, slope)


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
