"""The Hessian's side of a profile: how many vectors, products and examples, what they take, and what they find."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from typing import Any

from hf_llc.clock import TimeIsUp
from hf_llc.config import SampleConfig
from hf_llc.judging.quadratic import Quadratic
from hf_llc.parallel.processes import Processes
from hf_llc.posterior.hessian import probe_spectrum, product_cost, slope_spectrum
from hf_llc.posterior.posterior import Posterior
from hf_llc.progress import watch
from hf_llc.seals import load_value, save_value
from hf_llc.studies.profile_settings import HessianSettings
from hf_llc.workflow.run import Run

_LABELS = 256
"""Labels (positions of sequences) that a product sees, at least, whatever it costs: over 42 pictures of 2,000 λ_Q was
seven times that over 420."""


@dataclass(frozen=True)
class Size:
    """What is looked at.

    Attributes:
        examples: of each product.
        halves: vectors that see half of them too: what that changes tells the error of the choice.
        cost: of all products of one vector, in gradients of an example, for each example.
        vectors: those of the spectrum, and the slope.
        num_examples: of the data, which the slope is taken of.
    """

    examples: int
    halves: int
    cost: float
    vectors: int
    num_examples: int

    def work(self, processes: Processes) -> float:
        """Of this process, in gradients of an example."""
        shared = processes.share(range(self.vectors + self.halves))
        products = sum(1.0 if number < self.vectors else 0.5 for number in shared) * self.cost * self.examples
        return products + (self.num_examples if self.vectors - 1 in shared else 0)


def size_of(posterior: Posterior, sample: SampleConfig, hessian: HessianSettings) -> Size:
    """What is looked at, on this model and data.

    Args:
        posterior: model at w* and examples.
        sample: how to sample, which says what one estimate costs.
        hessian: what was asked for.
    """
    assert isinstance(sample.batch_size, int)
    vectors = hessian.probes + 1
    cost = product_cost(posterior.problem) * hessian.iterations
    affordable = sample.num_chains * sample.steps_allowed * sample.batch_size / (cost * (vectors + hessian.probes / 2))
    enough = -(-_LABELS // posterior.problem.num_positions)
    examples = min(hessian.examples or max(int(affordable), enough, sample.batch_size), posterior.num_examples)
    halves = hessian.probes if 2 <= examples < posterior.num_examples else 0
    return Size(examples, halves, cost, vectors, posterior.num_examples)


def spectrum_of(run: Run, hessian: HessianSettings) -> Quadratic:
    """The spectrum of the Hessian at w*, as random vectors and the slope see it; processes share the vectors out.

    Each vector is kept for a resumed run, and what is known of one under way.
    """
    posterior, group = run.posterior, run.posterior.group
    size = size_of(posterior, run.asked, hessian)
    place, seal = run.folder.state / "hessian", f"{run.folder.seal}/hessian"

    def probe(number: int) -> dict[str, Any]:
        path = place / f"{number:04d}.json"
        known = group.all_gather(load_value(path, seal=seal) if group.leads and path.exists() else None)[0]
        if known is not None:
            return known
        common: dict[str, Any] = {"seed": run.asked.seed, "iterations": hessian.iterations}
        common |= {"num_examples": size.examples, "folder": run.findings.stage_folder(f"hessian/{number:04d}")}
        if number == hessian.probes:
            found = slope_spectrum(posterior, **common)
        elif number < hessian.probes:
            found = probe_spectrum(posterior, number=number, **common)
        else:
            common["num_examples"] //= 2
            found = probe_spectrum(posterior, number=number - size.vectors, **common)
        if group.leads:
            save_value(path, found, seal=seal)
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)
        return found

    def probes() -> list[tuple[int, dict[str, Any]]]:
        found = []
        with contextlib.suppress(TimeIsUp), watch().until("descend"):
            for number in run.processes.share(range(size.vectors + size.halves)):
                if watch().is_over("descend", group):
                    break
                found.append((number, probe(number)))
        return found

    with watch().stage("hessian", size.work(run.processes) / group.size):
        mine = run.processes.all_do(probes)
    found = dict(run.processes.gather(mine))
    count = size.vectors + size.halves
    if len(found) < count:
        watch().note(f"time was up: {len(found)} of {count} vectors have seen the Hessian; raise max_seconds")
    halves = {k: found[k + size.vectors] for k in range(size.halves) if k in found and k + size.vectors in found}
    return Quadratic(
        posterior.num_parameters,
        size.examples,
        [found[number] for number in range(hessian.probes) if number in found],
        found.get(hessian.probes),
        [(found[k], half) for k, half in halves.items()],
    )
