"""What is measured once before the chains: how many to step together, and whether to compile their gradients."""

from __future__ import annotations

from hf_llc.calibration.chain_batching import fastest_chain_batch
from hf_llc.calibration.step_compilation import compile_if_faster
from hf_llc.config import SampleConfig
from hf_llc.numerals import short
from hf_llc.parallel.processes import Processes
from hf_llc.posterior.posterior import Posterior
from hf_llc.progress import watch
from hf_llc.ranges import total
from hf_llc.records.chain_settings import ChainSettings
from hf_llc.workflow.findings import Findings
from hf_llc.workflow.shortest_run import Work


def fastest_batch(posterior: Posterior, asked: SampleConfig, findings: Findings, processes: Processes) -> int:
    """How many chains to step together."""
    assert isinstance(asked.batch_size, int)
    size = {"num_chains": asked.num_chains, "batch_size": asked.batch_size, "seed": asked.seed}
    groups = processes.count // processes.group.size
    found = findings.once("batching", lambda _: fastest_chain_batch(posterior, num_groups=groups, **size))
    return found["chain_batch_size"]


def compile_chains(posterior: Posterior, settings: ChainSettings, findings: Findings, work: Work) -> None:
    """Compile the chains' gradients if a measurement, made once a run, finds that it pays.

    Args:
        posterior: losses and gradients, not compiled.
        settings: of the chains.
        findings: keep the answer.
        work: of the chains and of what follows them, in gradients of one example on this process.
    """
    shape = {"num_chains": settings.chain_batch_size, "batch_size": settings.batch_size}
    if posterior.steps_in_backward(**shape):
        return
    count = total(work.values()).least / (shape["num_chains"] * shape["batch_size"])
    with watch().stage("compile"):
        found = findings.once("compile", lambda _: compile_if_faster(posterior, num_gradients=count, **shape))
    if found["compile"]:
        posterior.one_pass.compile_for(**shape)
        watch().note(f"compiled: a gradient takes {short(found['compiled'])} ms, not {short(found['eager'])}")
