"""What a result says beside the estimate: the settings used, what it cost, and what was measured."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import torch

from hf_llc.backend.versions import package_versions
from hf_llc.chains.ensemble import Sampling
from hf_llc.config import SampleConfig
from hf_llc.parallel.processes import Processes
from hf_llc.posterior.posterior import Posterior
from hf_llc.posterior.restriction import num_parameters_of
from hf_llc.problem import Problem
from hf_llc.records.chain_settings import ChainSettings
from hf_llc.records.conditions import Cost, Settings, Subject
from hf_llc.weights_setting import weights_name
from hf_llc.workflow.continuations import SampledChains


def chosen_settings(settings: ChainSettings) -> dict[str, Any]:
    """The settings that calibration may have chosen, by name."""
    names = ("step_size", "friction", "gradient", "localization", "adapt_step_size")
    return {name: getattr(settings, name) for name in names}


def settings_of(
    chains: SampledChains,
    asked: SampleConfig,
    *,
    step_in_backward: bool,
    is_compiled: bool,
    minimize: dict[str, Any] | None,
    calibration: dict[str, Any] | None,
) -> Settings:
    """The settings with which the estimate was made.

    Args:
        chains: the chains that gave λ̂.
        asked: what was asked for; it holds what does not concern the chains.
        step_in_backward: the chains took their steps inside the backward pass.
        is_compiled: their gradients were compiled.
        minimize: what minimization found, or None.
        calibration: what calibration found, or None.
    """
    used = chains.settings
    return Settings(
        nbeta=used.nbeta,
        sampler=used.sampler,
        **chosen_settings(used),
        num_chains=used.num_chains,
        num_draws=used.num_draws,
        num_steps_between_draws=chains.num_steps_between_draws,
        num_burnin_steps=chains.num_burnin_steps,
        batch_size=used.batch_size,
        batch_order=used.batch_order,
        draw_loss=used.draw_loss,
        num_leapfrog_steps=used.num_leapfrog_steps,
        chain_batch_size=used.chain_batch_size,
        seed=used.seed,
        weights=weights_name(asked.weights),
        mixed_precision=asked.mixed_precision,
        step_in_backward=step_in_backward,
        compile=is_compiled,
        gradient_checkpointing=asked.gradient_checkpointing,
        minimize=minimize,
        calibration=calibration,
    )


def cost_of(sampling: Sampling, processes: Processes, asked: SampleConfig, *, begun: float, num_gradients: int) -> Cost:
    """Time and memory of this call. A resumed run counts only what it did itself.

    Args:
        sampling: counts the steps of this process and their time.
        processes: all of them must call this together.
        asked: says how the processes shared the work.
        begun: `time.monotonic()` at the start of the call, in seconds.
        num_gradients: gradient evaluations in all.
    """
    new_steps = sum(processes.gather([sampling.new_steps]))
    device = sampling.posterior.device
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(device)
    else:  # in kibibytes, but on macOS in bytes
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Cost(
        num_gradients=num_gradients,
        wall_seconds=time.monotonic() - begun,
        steps_per_second=new_steps / max(sampling.seconds, 1e-9),
        peak_memory_bytes=memory,
        device=device.type,
        num_processes=processes.count,
        data_parallel=asked.data_parallel,
        parameter_parallel=asked.parameter_parallel,
    )


def subject_of(problem: Problem, posterior: Posterior) -> Subject:
    """The model and the data, and what the loss is."""
    return Subject(
        n=problem.n,
        unit=problem.unit,
        trivial_loss=problem.trivial_loss,
        num_parameters=posterior.num_parameters,
        num_parameters_total=num_parameters_of(problem.model),
        task=problem.task,
        mode="eval",
        dtype=str(posterior.dtype).removeprefix("torch."),
        model=problem.provenance.get("model", {}),
        data=problem.provenance.get("data", {}),
        versions=package_versions(),
    )
