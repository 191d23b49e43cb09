"""How an estimate was made: with which settings, at what cost, of which model on which data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Settings:
    """What the chains used; nothing here is "auto" any more.

    Attributes:
        nbeta: inverse temperature times n.
        localization: γ.
        sampler: its name, as in `SampleConfig`.
        step_size: ε.
        friction: of samplers with momentum; None for the others.
        gradient: "plain" or "control-variate".
        num_chains: chains.
        num_draws: draws of each chain.
        num_steps_between_draws: steps averaged into one draw.
        num_burnin_steps: steps dropped at the start of each chain.
        batch_size: examples of a minibatch.
        batch_order: "random", or "in-turn": segments of a chain's shuffled examples one after the other.
        draw_loss: "batch", or "full": draws are L_n of all examples.
        num_leapfrog_steps: of a trajectory of hmc; other samplers have none.
        chain_batch_size: chains stepped together.
        seed: of noise and minibatches.
        mixed_precision: "no", "bf16" or "fp16".
        adapt_step_size: whether each chain may lower its ε further (the trace's `step_size`).
        step_in_backward: whether steps were taken inside the backward pass, to save memory.
        gradient_checkpointing: whether activations were computed twice, to save memory.
        compile: whether gradients were compiled, which changes rounding.
        weights: what was sampled, in words: "all" or a component.
        minimize: what minimization did with w*; None if it was not asked for.
        calibration: what calibration found; None if the step size was given.
    """

    nbeta: float
    localization: float
    sampler: str
    step_size: float
    friction: float | None
    gradient: str
    num_chains: int
    num_draws: int
    num_steps_between_draws: int
    num_burnin_steps: int
    batch_size: int
    chain_batch_size: int
    seed: int
    mixed_precision: str
    adapt_step_size: bool = False
    step_in_backward: bool = False
    gradient_checkpointing: bool = False
    compile: bool = False
    weights: str = "all"
    batch_order: str = "random"
    draw_loss: str = "batch"
    num_leapfrog_steps: int = 10
    minimize: dict[str, Any] | None = None
    calibration: dict[str, Any] | None = None


@dataclass(frozen=True)
class Cost:
    """What the estimate cost. Seconds, speed and memory of a resumed run are those of its last part.

    Attributes:
        num_gradients: gradient evaluations of all chains, calibration and minimization included.
        wall_seconds: from the call to the result.
        steps_per_second: chain-steps of all processes in a second of sampling.
        peak_memory_bytes: of the main process: on its GPU, else in RAM.
        device: "cpu", "cuda" …
        num_processes: number of all processes.
        data_parallel: number of processes that shared each minibatch.
        parameter_parallel: number of processes that shared the weights.
    """

    num_gradients: int
    wall_seconds: float
    steps_per_second: float
    peak_memory_bytes: int
    device: str
    num_processes: int
    data_parallel: int = 1
    parameter_parallel: int = 1


@dataclass(frozen=True)
class Subject:
    """What was measured.

    Attributes:
        n: examples, or predicted tokens, of the data.
        unit: of losses, e.g. "nats per token".
        trivial_loss: L_n of the best constant predictor; None if it is not known.
        num_parameters: sampled parameters.
        num_parameters_total: all parameters of the model.
        task: as in `LoadConfig`.
        mode: "eval": no dropout, BatchNorm frozen.
        dtype: of the weights.
        model: id, revision and the like.
        data: id, split, revision or fingerprint, and how examples were made.
        versions: of Python and the packages.
    """

    n: int
    unit: str
    trivial_loss: float | None
    num_parameters: int
    num_parameters_total: int
    task: str
    mode: str
    dtype: str
    model: dict[str, Any]
    data: dict[str, Any]
    versions: dict[str, str]
