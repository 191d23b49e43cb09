"""The problems of the efficiency benchmark, with known λ̂: deep linear networks, and a language model by a long run.

The language model is sampled around ŵ, the minimum of its loss on the data at hand. ŵ is found once and kept in the
folder beside the reference, so that every later run and every contender starts at the same point.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from models import Case
from safetensors.torch import load_file, save_file

from hf_llc.backend.versions import package_versions
from hf_llc.calibration.calibrate import calibrate, with_calibration
from hf_llc.calibration.minimize import minimize
from hf_llc.config import LoadConfig, SampleConfig
from hf_llc.errors import InputError
from hf_llc.files import write_atomically, write_json
from hf_llc.loading.problem_loader import load_problem
from hf_llc.models.deep_linear import SIZES, random_network
from hf_llc.parallel.sharding import hash_of
from hf_llc.posterior.law import Law
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.weights import preserved, sampled_parameters
from hf_llc.problem import Problem
from hf_llc.workflow.estimate_model import estimate_problem
from hf_llc.workflow.settings import decide_from_data

STORIES_LOCALIZATION = 35_000.0
"""γ at which stories260K's flat directions relax within a run (README)."""

_MINIMIZE_STEPS = 2000


@dataclass
class Known:
    """A case at its minimum, the posterior that all contenders sample, and what λ̂ they should find.

    Attributes:
        case: model, data, loss and the batch size of all but the contenders at their own defaults.
        llc: the right answer.
        llc_se: its standard error, 0 where it is exact.
        nbeta, localization: of the posterior.
        source: where the answer comes from, for the table.
    """

    case: Case
    llc: float
    llc_se: float
    nbeta: float
    localization: float
    source: str

    @property
    def problem(self) -> Problem:
        """Its problem."""
        return self.case.problem

    @property
    def law(self) -> Law:
        """What its chains sample."""
        return Law(nbeta=self.nbeta, localization=self.localization)


def _mark_of(problem: Problem) -> str:
    """A hash of weights, buffers and examples: references name the point that they are of by it."""
    return hash_of([*problem.model.state_dict().values(), *problem.examples.values()])


def deep_linear(count: int, *, size: str = "1k", n: int | None = None, batch_size: int = 500) -> Iterator[Known]:
    """The first networks of a class whose local coefficient is known and the global one, multiplicity 1.

    Chains at γ = 1 then have no other value to drift to. At this n, λ̂ differs from λ by a hundredth or less.

    Args:
        count: networks.
        size: class of Table 1 (`hf_llc.models.deep_linear`).
        n: inputs; None: Table 1's.
        batch_size: examples a step; 500 is the paper's.
    """
    n = SIZES[size].n if n is None else n
    seed = 0
    while count > 0:
        network = random_network(size, seed)
        exact, local = network.coefficient, network.local_coefficient
        if local.lower == local.upper == exact.learning_coefficient and exact.multiplicity == 1:
            name = f"deep linear {'-'.join(map(str, network.widths))}, batch {batch_size}"
            case = Case(name, network.problem(n), batch_size, False)
            yield Known(case, float(exact.learning_coefficient), 0.0, n / math.log(n), 1.0, "exact")
            count -= 1
        seed += 1


def stories(
    data: Path,
    folder: Path,
    *,
    device: str = "cpu",
    max_examples: int | None = None,
    minimize_steps: int = _MINIMIZE_STEPS,
) -> Case:
    """stories260K on windows of 256 tokens of its validation text, at ŵ.

    Args:
        data: folder that holds stories260K and tinystories_val.
        folder: where ŵ is kept.
        device: of the model.
        max_examples: windows at most.
        minimize_steps: gradient steps to ŵ.

    Raises:
        InputError: no such model or text.
    """
    for name in ("stories260K", "tinystories_val"):
        if not (data / name).is_dir():
            raise InputError(
                "no such data", value=str(data / name), remedy="give --data or set HF_LLC_DATA, or leave the case out"
            )
    text = next(iter(sorted((data / "tinystories_val").glob("*.txt"))))
    config = LoadConfig(max_length=256, max_examples=max_examples, device=device)
    problem = load_problem(str(data / "stories260K"), str(text), config)
    case = Case("stories260K, 8×256 tokens", problem, 8, True)
    at_minimum(case, folder, steps=minimize_steps)
    return case


def at_minimum(case: Case, folder: Path, *, steps: int = _MINIMIZE_STEPS) -> None:
    """Move the model to the minimum kept in the folder, for good; where there is none yet, find it first.

    Raises:
        InputError: the folder's minimum is that of another model or other data.
    """
    problem, path = case.problem, folder / "minimum.safetensors"
    mark = _mark_of(problem)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with preserved(problem.model):
            posterior = Posterior(problem)
            w, done = minimize(
                posterior, steps=steps, batch_size=case.batch_size, state=folder / "minimize.safetensors"
            )
        write_json(folder / "minimum.json", {"start": mark, **done})
        write_atomically(path, lambda temporary: save_file({"w": w.cpu()}, temporary))
    elif json.loads((folder / "minimum.json").read_text(encoding="utf-8"))["start"] != mark:
        raise InputError("the folder holds the minimum of another problem", value=str(path), remedy="another --output")
    w, start = load_file(path)["w"][0], 0
    for parameter in sampled_parameters(problem.model).values():
        values = w[start : start + parameter.numel()].to(parameter.device)
        parameter.data = values.view(parameter.shape).clone()
        start += parameter.numel()


def make_reference(case: Case, folder: Path, *, localization: float, steps: int, chains: int = 4) -> None:
    """A long run at a quarter of the calibrated ε with control-variate gradients, a quarter burnt; kept as JSON.

    The friction is halved, as the time step is, so that flat directions need twice the steps, not four times.

    Args:
        case: at its minimum.
        folder: where `reference.json` goes.
        localization: γ.
        steps: of each chain.
        chains: of the run.
    """
    begun, problem = time.monotonic(), case.problem
    asked = SampleConfig(
        localization=localization, batch_size=case.batch_size, gradient="control-variate", num_chains=chains,
        num_burnin_steps=steps // 4, num_draws=(steps - steps // 4) // 10, num_steps_between_draws=10,
        check_localization=False, seed=1000,
    )  # fmt: skip
    sample = decide_from_data(asked, problem)
    with preserved(problem.model):
        sample = with_calibration(sample, calibrate(Posterior(problem), sample))
    assert sample.step_size != "auto" and sample.friction != "auto"
    sample = replace(sample, step_size=sample.step_size / 4, friction=sample.friction / 2)
    result = estimate_problem(problem, sample)
    record = {
        "llc": result.llc, "llc_se": result.llc_se, "verdict": result.verdict, "r_hat": result.r_hat,
        "nbeta": result.nbeta, "localization": localization, "settings": asdict(sample),
        "seconds": time.monotonic() - begun, "point": _mark_of(problem),
        "versions": package_versions(),
    }  # fmt: skip
    write_json(folder / "reference.json", record)


def referred(case: Case, folder: Path, *, localization: float, given: tuple[float, float] | None = None) -> Known:
    """The case with its reference: the one given (λ̂ and its error), or the one that `make_reference` left.

    Raises:
        InputError: none was made, or that of another point or γ.
    """
    nbeta = case.problem.n / math.log(case.problem.n)
    if given is not None:
        return Known(case, given[0], given[1], nbeta, localization, "given")
    path = folder / "reference.json"
    if not path.exists():
        raise InputError(
            "no reference for this case",
            value=str(path),
            remedy="make it once with --reference, or give --llc and --se",
        )
    found = json.loads(path.read_text(encoding="utf-8"))
    mark = _mark_of(case.problem)
    if found["point"] != mark or found["localization"] != localization:
        raise InputError("the reference is that of another point or γ", value=str(path), remedy="make it again")
    return Known(case, found["llc"], found["llc_se"], nbeta, localization, f"reference run, {found['verdict']}")


def on_device(known: Known, device: str) -> Known:
    """The same with the model on `device`; examples stay where contenders expect them, on the CPU."""
    known.problem.model.to(device)
    return known
