"""Which processes share the work and the model: settings, launcher and model must agree before anything is loaded."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import torch

from hf_llc.config import LoadConfig, SampleConfig
from hf_llc.errors import InputError
from hf_llc.parallel.processes import Processes, launched_for_fsdp, unheeded
from hf_llc.parallel.sharding import mesh_of, module_of, shard
from hf_llc.problem import Problem


def arrange_processes(sample: SampleConfig, model: Any = None) -> tuple[SampleConfig, Processes]:
    """The settings with `parameter_parallel` as the launcher or the model demands, and the processes in groups.

    Args:
        sample: as asked for.
        model: what is to be measured. A module sharded by `fully_shard` says itself over how many processes.

    Raises:
        InputError: groups of that size cannot be made, or the given module is sharded otherwise, or not at all.
    """
    module = module_of(model)
    mesh = None if module is None else mesh_of(module)
    asked = sample.parameter_parallel
    if mesh is not None:
        if asked not in (1, mesh.size()):
            raise InputError(
                "parameter_parallel is not the number of processes that the model is split over",
                value=asked,
                allowed=str(mesh.size()),
                remedy="leave it out",
            )
        sample = replace(sample, parameter_parallel=mesh.size())
    elif module is None and asked == sample.data_parallel == 1 and launched_for_fsdp():
        sample = replace(sample, parameter_parallel=Processes().count)
    elif module is not None and asked > 1:
        raise InputError(
            "parameter_parallel splits only models that hf_llc loads: it would change your own module",
            value=type(module).__name__,
            remedy="give a Hub id or a folder, or split the module with torch.distributed.fsdp.fully_shard",
        )
    processes = Processes(sample.data_parallel, parameter_parallel=sample.parameter_parallel)
    if module is None and processes.is_main:  # whoever gives a module has prepared it as he wants it
        for what in unheeded(sample.mixed_precision):
            warnings.warn(f"accelerate's launcher was asked for {what}, which has no effect on hf_llc", stacklevel=2)
    if mesh is not None and processes.group.size > 1 and not processes.group.is_mesh(mesh):
        raise InputError(
            "the model is split over processes that are not neighbours",
            value=mesh.mesh.flatten().tolist(),
            remedy="split it over processes that follow one another",
        )
    return sample, processes


def place_for_loading(load: LoadConfig, sample: SampleConfig, model: Any = None) -> LoadConfig:
    """The settings of loading: a model to be sharded is loaded on the host, as it may not fit on one device.

    Raises:
        InputError: a device is given.
    """
    if sample.parameter_parallel == 1 or module_of(model) is not None:
        return load
    if load.device is not None:
        raise InputError(
            "device names one device, but parameter_parallel uses those of all processes",
            value=load.device,
            remedy="give either",
        )
    return replace(load, device="cpu")


def shard_over_group(problem: Problem, sample: SampleConfig, processes: Processes) -> None:
    """Shard the problem's model over the group of this process, unless it is sharded already.

    Raises:
        InputError: it cannot be sharded.
    """
    if sample.parameter_parallel > 1 and mesh_of(problem.model) is None:
        for parameter in problem.model.parameters():  # FSDP keeps chains in the model's weights: float32
            if parameter.dtype in (torch.bfloat16, torch.float16):
                parameter.data = parameter.data.float()
        shard(problem.model, processes.group.mesh())
