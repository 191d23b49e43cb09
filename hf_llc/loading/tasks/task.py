"""What a task says about itself: how data become examples with a loss, and which models it is for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from hf_llc.config import LoadConfig
from hf_llc.problem import Forward

Losses = Callable[[Forward, Mapping[str, Tensor]], Tensor]
"""`losses(forward, batch)` → ℓ_i of each example of the batch, `[batch]`, float32 or wider."""


Check = Callable[[Forward, Mapping[str, Tensor], float], None]
"""`check(forward, batch, rounding)`: raises InputError where the model does not compute what the task says. `rounding`
is what an output may move by, relative to the largest."""


@dataclass
class Encoded:
    """The data as a task sees them.

    Attributes:
        examples: tensors with one leading example axis, on the CPU.
        losses: loss of each example; their mean over all examples is L_n.
        n: the n of nβ = n / ln n.
        unit: unit of L_n, such as "nats per token".
        trivial_loss: L_n of the best constant predictor; None if it is not known.
        facts: settings and counts for the result's provenance. `input_column`, `second_input_column` and
            `label_column` are those that were read: another one that the user asks for is refused.
        check: tries on a few examples that the model computes what the task says; None: nothing to try.
        token_losses: the loss of each token, nats, `[batch, position]`; None: an example has one loss.
    """

    examples: dict[str, Tensor]
    losses: Losses
    n: int
    unit: str
    trivial_loss: float | None
    facts: dict[str, Any] = field(default_factory=dict)
    check: Check | None = None
    token_losses: Losses | None = None


def token_inputs(_: Any, length: int) -> dict[str, Any]:
    """One example of `length` token ids, all zero."""
    return {"input_ids": torch.zeros(1, length, dtype=torch.int64)}


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task. Its file defines one of these, and `registry.TASKS` lists it.

    Attributes:
        name: value of the setting `task`.
        encode: `encode(model, data, processor, config)` → `Encoded`. `data` is a `Dataset` or an `IterableDataset`, or
            also tensors if `takes_tensors`; `processor` is the tokenizer or image processor, None, or an
            `InputError` to raise where it is needed.
        auto_class: class of transformers that loads the model by Hub id or folder.
        suffixes: endings of the class names of the models that this task is for. A task without suffixes takes any
            model, and only if the user names the task.
        decoder_task: the task of a model with these suffixes whose config is not an encoder–decoder's.
        model_types: `config.model_type` of checkpoints whose `architectures` do not end in a suffix.
        processor: what turns rows into model inputs.
        label_mapping_columns: usual names of the column that the argument `label_mapping` translates. Empty: the task
            takes no `label_mapping`.
        takes_tensors: `encode` takes pairs and dictionaries of tensors as the user gave them.
        pair_columns: columns that a pair of tensors (inputs, labels) stands for. None: a pair is refused.
        joins_documents: with packing "packed", a local text file is one document. Otherwise a paragraph is one.
        forecast_inputs: `forecast_inputs(model config, tokens)` → model inputs of one example, for the memory forecast.
    """

    name: str
    encode: Callable[[Any, Any, Any, LoadConfig], Encoded]
    auto_class: str = "AutoModel"
    suffixes: tuple[str, ...] = ()
    decoder_task: str | None = None
    model_types: tuple[str, ...] = ()
    processor: Literal["tokenizer", "image_processor"] = "tokenizer"
    label_mapping_columns: tuple[str, ...] = ()
    takes_tensors: bool = False
    pair_columns: tuple[str, str] | None = None
    joins_documents: bool = False
    forecast_inputs: Callable[[Any, int], dict[str, Any]] = token_inputs
