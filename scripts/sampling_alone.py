"""Chains of one problem on one process, for a job of an experiment while other processes do other jobs.

`LLCEvaluator` shares out the chains of one estimate over all processes, which must all take part. Experiments share out
whole estimates instead (`experiment.Experiment.run`), and sample each one here with the same kernels.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

from hf_llc.chains.chain_store import ChainStore
from hf_llc.chains.run_chains import run_chains
from hf_llc.posterior.law import Law
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.weights import preserved
from hf_llc.problem import Problem
from hf_llc.records.trace import Trace
from hf_llc.samplers import Kernel
from hf_llc.samplers.walk import Walk


def sample_alone(
    problem: Problem,
    kernel: Kernel,
    *,
    chains: Sequence[int],
    nbeta: float,
    localization: float,
    batch_size: int,
    num_steps: int,
    seed: int,
) -> Trace:
    """Run chains from w* together; the model is left as found.

    Args:
        problem: model at w* and its examples.
        kernel: a fresh one.
        chains: chain numbers: with the seed they give noise and minibatches.
        nbeta: nβ.
        localization: γ.
        batch_size: examples a step; all of them: the full batch.
        num_steps: steps of each chain.
        seed: of noise and batch order.

    Returns:
        The trace, `[chain, step]`; NaN from where a chain's loss was not finite.
    """
    with preserved(problem.model), tempfile.TemporaryDirectory() as folder:
        posterior, law = Posterior(problem), Law(nbeta=nbeta, localization=localization)
        return run_chains(
            lambda: Walk(posterior, law, chains, seed=seed, batch_size=batch_size),
            kernel,
            chains,
            until=num_steps,
            store=ChainStore(folder),
        )
