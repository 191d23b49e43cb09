"""What is measured, in numbers: two runs measure the same thing if these agree, whatever the names."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_llc.config import LoadConfig, SampleConfig, as_dict
from hf_llc.loading.names import public_name
from hf_llc.loading.short_examples import is_costly, shortened
from hf_llc.parallel.sharding import hash_of, is_sharded
from hf_llc.posterior.weights import preserved
from hf_llc.problem import Problem
from hf_llc.progress import watch
from hf_llc.setting_checks import differences
from hf_llc.workflow.fingerprints import loss_fingerprint, module_fingerprint

LOSSES = "losses"
"""Key of ℓ_i in `identity_of`. Other numbers are compared as they are; these agree up to rounding."""

_EXAMPLES, _EXAMPLES_COSTLY = 16, 4
_MOVED = 2**20
"""Weights that are moved for the second half of the losses: small tensors first, one at least."""


def asked_of(load: LoadConfig, sample: SampleConfig) -> dict[str, Any]:
    """The settings as run.json keeps them: without the path of a machine."""
    asked = {**as_dict(load), **as_dict(sample)}
    return asked | {name: public_name(asked[name]) for name in ("model", "data", "tokenizer")}


def identity_of(problem: Problem, loss_fn: Any = None) -> dict[str, Any]:
    """`fingerprint`, a hash that is equal wherever the run goes on, and `losses`, which devices round differently.

    The hash covers weights, buffers, examples, names and shapes of the sampled parameters, and what module and loss
    were made of (`fingerprints`). The losses are ℓ_i(w*) of some examples, and ℓ_i near w* (at an exact minimum two
    losses may both be zero): they tell apart what the hash cannot see, such as other code under the same names.

    Args:
        problem: before its weights are sharded. All processes that hold a shard must ask.
        loss_fn: as the user gave it.
    """
    model = problem.model
    tensors = [x for x in model.state_dict().values() if isinstance(x, Tensor)]
    examples = [x for x in problem.examples.values() if isinstance(x, Tensor)]
    sampled = [(name, list(p.shape)) for name, p in model.named_parameters() if p.requires_grad]
    known = [
        hash_of(tensors),
        problem.provenance.get("data", {}).get("fingerprint") or hash_of(examples),  # loading has hashed them
        [[str(x.dtype), list(x.shape)] for x in (*tensors, *examples)],
        list(problem.examples),
        sampled,
        module_fingerprint(model),
        loss_fingerprint(loss_fn),
    ]
    if problem.part is not None:
        masks = problem.part.masks.items()
        known.append([[name, None if mask is None else hash_of([mask])] for name, mask in masks])
    digest = hashlib.sha256(json.dumps(known).encode()).hexdigest()
    return {"fingerprint": digest[:16], LOSSES: _losses(problem)}


def losses_agree(one: Any, other: Any) -> bool:
    """Whether these are ℓ_i of the same model and loss: equal but for the rounding of another device.

    Args:
        one: what `identity_of` gave, or what a file holds in its place.
        other: the same.
    """
    if not (isinstance(one, list) and isinstance(other, list) and len(one) == len(other)):
        return False
    numbers = [x for x in (*one, *other) if isinstance(x, (int, float))]
    floor = 1e-6 * max(map(abs, numbers), default=0.0)
    return all(
        math.isclose(a, b, rel_tol=1e-3, abs_tol=floor)
        if isinstance(a, (int, float)) and isinstance(b, (int, float))
        else a is b
        for a, b in zip(one, other, strict=True)
    )


def _losses(problem: Problem) -> list[float | None]:
    """ℓ_i at w* and beside it, of examples from the first to the last; None where it is not finite."""
    model, last = problem.model, problem.num_examples - 1
    device = next(model.parameters()).device
    is_long = is_costly(model, problem.examples)
    count = _EXAMPLES_COSTLY if is_long else _EXAMPLES
    indices = sorted({round(k * last / (count - 1)) for k in range(count)})
    examples = shortened(problem.examples) if is_long else problem.examples
    batches = [{name: x[i : i + 1].to(device) for name, x in examples.items()} for i in indices]

    def measured() -> list[Tensor]:
        losses = []
        for batch in batches:
            watch().check()
            losses.append(problem.losses(model, batch).detach().double().flatten())
        return losses

    with preserved(model), torch.no_grad():
        for parameter in model.parameters():
            if parameter.dtype in (torch.bfloat16, torch.float16):
                parameter.data = parameter.data.float()  # as chains have them
        found = measured()
        if not is_sharded(model):
            for parameter in _small_ones(list(model.parameters())):
                parameter.data = parameter.data * 1.1 + 0.01  # `preserved` puts the old ones back
            found += measured()
    return [x if math.isfinite(x) else None for x in torch.cat(found).tolist()]


def _small_ones(parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    chosen, total = [], 0
    for parameter in sorted(parameters, key=lambda parameter: parameter.numel()):
        total += parameter.numel()
        if chosen and total > _MOVED:
            break
        chosen.append(parameter)
    return chosen


def changed_settings(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Settings that differ, as `differences` words them; ℓ_i that agree up to rounding do not."""
    if losses_agree(old.get(LOSSES, []), new.get(LOSSES, [])):
        return differences({**old, LOSSES: None}, {**new, LOSSES: None})
    changed = differences({**old, LOSSES: None}, {**new, LOSSES: None})
    return [*changed, "the model or loss_fn: other losses at the same weights"]
