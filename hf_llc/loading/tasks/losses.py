"""One small adapter a task: examples in, tensors and the loss of each example out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.problem import Forward

IGNORED = -100
"""Label of a position that carries no loss, as in transformers."""

Losses = Callable[[Forward, Mapping[str, Tensor]], Tensor]


@dataclass
class Encoded:
    """Tensors of all examples, their loss, and what is known about it; see `Problem` for each."""

    examples: dict[str, Tensor]
    losses: Losses
    n: int
    unit: str
    trivial_loss: float | None
    facts: dict[str, Any] = field(default_factory=dict)


def logits_of(output: Any) -> Tensor:
    """The logits of a transformers output, or the output itself (TransformerLens), in float32 at least."""
    logits = output.logits if hasattr(output, "logits") else output
    return logits if logits.dtype == torch.float64 else logits.float()


def token_sums(logits: Tensor, labels: Tensor) -> Tensor:
    """Σ over predicted tokens of −log p(label), nats, `[batch]`; positions labelled −100 count nothing."""
    flat = F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), reduction="none", ignore_index=IGNORED
    )
    return flat.view(labels.shape).sum(-1)


def entropy(labels: Tensor) -> float:
    """Entropy in nats of the empirical distribution of the labels: the loss of the best constant predictor."""
    counts = torch.bincount(labels.flatten()).double()
    p = counts[counts > 0] / counts.sum()
    return float(-(p * p.log()).sum())


def per_token(
    examples: dict[str, Tensor], predicted: Tensor, sums: Losses, config: LoadConfig, facts: dict[str, Any]
) -> Encoded:
    """Losses of a language model, normalised as `config.loss_normalization` says.

    "token": ℓ_i = (summed loss of example i) / (mean number of predicted tokens an example), so that the mean of ℓ_i is
    the mean over all tokens and n counts tokens. "sequence": ℓ_i is the sum and n counts sequences.

    Args:
        examples: tensors, `[example, …]`.
        predicted: labels of the predicted positions, −100 elsewhere, `[example, position]`.
        sums: summed losses `[batch]`.

    Raises:
        InputError: no example has a predicted token.
    """
    counts = (predicted != IGNORED).sum(1)
    empty = counts == 0
    if bool(empty.all()):
        raise InputError(
            "no example has a token to predict: all rows are padding or too short",
            remedy="check the data, the column and max_length",
        )
    if bool(empty.any()):
        warnings.warn(f"{int(empty.sum())} examples without a token to predict are left out", stacklevel=2)
        examples = {k: x[~empty] for k, x in examples.items()}
        predicted, counts = predicted[~empty], counts[~empty]
    tokens = int(counts.sum())
    mean = tokens / len(counts)
    constant = entropy(predicted[predicted != IGNORED])
    facts = {**facts, "num_tokens": tokens, "loss_normalization": config.loss_normalization}
    if config.loss_normalization == "sequence":
        return Encoded(examples, sums, len(counts), "nats per sequence", constant * mean, facts)
    return Encoded(
        examples, lambda forward, batch: sums(forward, batch) / mean, tokens, "nats per token", constant, facts
    )


def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Rows of different lengths as one int64 tensor, `value` at the end."""
    length = max(map(len, rows))
    out = np.full((len(rows), length), value, dtype=np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return torch.from_numpy(out)


def tokens(rows: Sequence[Sequence[int]], pad_id: int) -> dict[str, Tensor]:
    """`input_ids [example, position]`, and an `attention_mask` where rows differ in length.

    Rows of one length get none: models then take their plain, faster path, and batched chains any attention code.
    """
    examples = {"input_ids": pad(rows, pad_id)}
    if len({len(row) for row in rows}) > 1:
        examples["attention_mask"] = pad([[1] * len(row) for row in rows], 0)
    return examples


def causal_lm(
    rows: Sequence[Sequence[int]],
    config: LoadConfig,
    *,
    labels: Sequence[Sequence[int]] | None = None,
    pad_id: int,
    is_transformers: bool,
    facts: dict[str, Any],
) -> Encoded:
    """Causal language model on rows of token ids; each token but a row's first is predicted from those before it.

    `is_transformers`: the model takes names and gives `.logits`. Otherwise it takes ids alone and gives logits; padding
    then sits at the end, where causal attention never looks. `labels`: the tokens to predict, −100 elsewhere, shaped
    like `rows`; None: all of them.
    """
    examples = tokens(rows, pad_id)
    if labels is not None or "attention_mask" in examples:
        examples["labels"] = pad(rows if labels is None else labels, IGNORED)
    if not is_transformers:
        examples.pop("attention_mask", None)

    def sums(forward: Forward, batch: Mapping[str, Tensor]) -> Tensor:
        ids, labels = batch["input_ids"], batch.get("labels", batch["input_ids"])
        output = forward(**_inputs(batch), use_cache=False) if is_transformers else forward(ids)
        return token_sums(logits_of(output)[:, :-1], labels[:, 1:])

    return per_token(examples, examples.get("labels", examples["input_ids"])[:, 1:], sums, config, facts)


def labelled_tokens(
    rows: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    config: LoadConfig,
    *,
    pad_id: int,
    facts: dict[str, Any],
) -> Encoded:
    """One label a token, −100 where there is none: masked language models, token classification."""
    examples = {**tokens(rows, pad_id), "labels": pad(labels, IGNORED)}

    def sums(forward: Forward, batch: Mapping[str, Tensor]) -> Tensor:
        return token_sums(logits_of(forward(**_inputs(batch))), batch["labels"])

    return per_token(examples, examples["labels"], sums, config, facts)


def seq2seq(
    rows: Sequence[Sequence[int]],
    labels: Tensor,
    decoder_input_ids: Tensor,
    config: LoadConfig,
    *,
    pad_id: int,
    facts: dict[str, Any],
) -> Encoded:
    """Encoder–decoder: `labels [example, position]` (−100 at padding) from the shifted `decoder_input_ids`."""
    examples = {**tokens(rows, pad_id), "decoder_input_ids": decoder_input_ids, "labels": labels}

    def sums(forward: Forward, batch: Mapping[str, Tensor]) -> Tensor:
        return token_sums(logits_of(forward(**_inputs(batch), use_cache=False)), batch["labels"])

    return per_token(examples, labels, sums, config, facts)


def _inputs(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: values for name, values in batch.items() if name != "labels"}


def classification(inputs: dict[str, Tensor], labels: Tensor, *, kind: str, facts: dict[str, Any]) -> Encoded:
    """One label (or vector of labels) an example; the model takes `inputs` by name.

    `kind`: "single_label_classification" (cross-entropy), "multi_label_classification" (Bernoulli log losses, summed
    over labels), "regression" (½‖ŷ − y‖²: −log of a Gaussian density with σ = 1, its constant left out).
    """

    def losses(forward: Forward, batch: Mapping[str, Tensor]) -> Tensor:
        logits = logits_of(forward(**_inputs(batch)))
        target = batch["labels"]
        if kind == "single_label_classification":
            return F.cross_entropy(logits, target, reduction="none")
        if kind == "multi_label_classification":
            # In the logits' type: binary_cross_entropy_with_logits answers in the target's, which may be narrower.
            return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none").sum(-1)
        return 0.5 * ((logits.view(target.shape) - target) ** 2).flatten(1).sum(-1)

    if kind == "single_label_classification":
        trivial = entropy(labels)
    elif kind == "multi_label_classification":
        p = labels.double().mean(0)
        trivial = float(-(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)).sum())
    else:
        trivial = 0.5 * float(labels.double().var(0, correction=0).sum())
    unit = "nats per example" + (" (Gaussian, σ = 1)" if kind == "regression" else "")
    return Encoded({**inputs, "labels": labels}, losses, len(labels), unit, trivial, facts)
