"""Chains of one problem on one process: what an experiment's job samples with while other processes do other jobs.

`LLCEvaluator` shares the chains of one estimate out over all processes, which must then all be there. Experiments share
out whole estimates instead (`experiment.Experiment.run`), and each runs its chains here, by the same kernels and walks.
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
    """All steps of some chains from w*, stepped together; the model is left as found.

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
