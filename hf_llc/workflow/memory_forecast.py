"""The memory plan of a checkpoint, before its weights are loaded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from hf_llc.backend.activation_checkpointing import kept_bytes, repeated_layers
from hf_llc.backend.memory import available_bytes
from hf_llc.config import LoadConfig, SampleConfig
from hf_llc.loading.tasks.task import Task
from hf_llc.posterior.minibatches import auto_micro_batch_size, logits_per_token
from hf_llc.problem import Forward, auto_batch_size
from hf_llc.workflow.memory_plan import Plan, _largest, loss_bytes
from hf_llc.workflow.peak_memory import IMPORTED, Passes, peaks


def plan_without_weights(load: LoadConfig, sample: SampleConfig) -> Plan:
    """The plan of a checkpoint whose config alone is read."""
    return forecast_without_weights(load, sample)[0]


def forecast_without_weights(load: LoadConfig, sample: SampleConfig) -> tuple[Plan, dict[str, int]]:
    """The plan of a checkpoint whose config alone is read, and what a whole process takes by stage (`peak_memory`).

    Its forward pass runs on fake tensors, which have shapes but no values, and takes neither memory nor time.

    Raises:
        InputError: no such model, or no layers to checkpoint.
    """
    from hf_llc.loading.devices import device_of
    from hf_llc.loading.model_sources import skeleton
    from hf_llc.loading.tasks.context_length import length_for

    device = device_of(load)
    model, task, kept = skeleton(load)
    length = length_for(model, load) if task.processor == "tokenizer" else 1
    batch = sample.batch_size if isinstance(sample.batch_size, int) else auto_batch_size(length)
    logits = logits_per_token(model)
    examples = min(batch, sample.micro_batch_size or auto_micro_batch_size(length, logits))
    layers = repeated_layers(model) if sample.gradient_checkpointing else []
    try:
        one, what = _activations(model, task, length, layers), f"{examples} examples, a forward pass without values"
    except Exception as error:  # a diagnostic: models may look at values
        one, what = None, f"the forward pass needs values ({type(error).__name__}): add them yourself"
    wide = torch.float64 if load.dtype == "float64" else torch.float32
    sampled = sum(p.numel() for p in model.parameters())
    plan = Plan(
        num_parameters=sampled,
        device=str(device),
        weights=wide.itemsize * sampled,
        anchor=min(wide.itemsize, kept.itemsize) * sampled,
        largest=_largest(model, wide),
        activations=None if one is None else examples * (one + loss_bytes(length, logits)) * wide.itemsize // 4,
        activations_of=what + (f", {length:,} tokens each" if length > 1 and one is not None else ""),
        available=available_bytes(device),
    )
    if sample.sampler == "auto":
        sample = replace(sample, sampler="baoab")
    most = sample.micro_batch_size or auto_micro_batch_size(length, logits)
    passes = Passes((plan.activations or 0) // examples, 4 * length * logits, batch, most, examples=most)
    descends = not plan.step_in_backward(sample.sampler)
    held = plan.anchor if device.type == "cuda" else IMPORTED + plan.anchor
    return plan, {stage: held + size for stage, size in peaks(plan, passes, sample, descends=descends).items()}


def _activations(model: nn.Module, task: Task, length: int, layers: list[nn.Module]) -> int:
    """Bytes of the activations of one example.

    They are counted on fake tensors, which pretend to be on the CPU: some models refuse the device "meta".
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        buffers = {k: torch.empty(x.shape, dtype=x.dtype) for k, x in model.named_buffers()}
        weights = {k: torch.empty(x.shape, dtype=x.dtype, requires_grad=True) for k, x in model.named_parameters()}

        def forward(**inputs: Any) -> Any:
            return torch.func.functional_call(model, {**buffers, **weights}, (), inputs)

        inputs = task.forecast_inputs(model.config, length)
        return kept_bytes(lambda: _some_loss(forward, inputs), weights.values(), layers)


def _some_loss(forward: Forward, inputs: dict[str, Any]) -> Tensor:
    """A loss of one example that fits the model; for its activations the labels do not matter."""
    return torch.log_softmax(forward(**inputs).logits.float(), dim=-1).sum()
