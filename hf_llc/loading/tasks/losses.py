"""Losses that several tasks share."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.loading.tasks.task import Encoded, Losses
from hf_llc.loading.tasks.tokenization import pad_rows, token_tensors
from hf_llc.problem import Forward

IGNORED = -100
"""Label of a position without a loss, as in transformers."""


def logits_of(output: Any) -> Tensor:
    """The logits of a transformers output, or the output itself (TransformerLens), in float32 at least.

    Raises:
        InputError: it has none.
    """
    logits = getattr(output, "logits", output)
    if (
        isinstance(output, (tuple, list)) and output and logits is output
    ):  # return_dict=False: no loss comes before them
        logits = output[0]
    if not isinstance(logits, Tensor):
        raise InputError(
            "the model returns no logits",
            value=type(output).__name__,
            remedy="give loss_fn(outputs, labels) → losses [batch], and data as tensors",
        )
    return logits if logits.dtype == torch.float64 else logits.float()


def inputs_of(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The batch without its labels: the model's keyword arguments."""
    return {name: values for name, values in batch.items() if name != "labels"}


def without_cache(model: Any) -> dict[str, Any]:
    """The keyword arguments by which a model keeps no keys and values, if its forward takes them."""
    parameters = inspect.signature(model.forward).parameters
    takes = "use_cache" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {"use_cache": False} if takes else {}


def check_positions(logits: Tensor, tokens: Tensor) -> None:
    """Check that there are logits `[batch, position, token]` at each token `[batch, position]`, and nowhere else.

    Raises:
        InputError: there are not, as in prompt tuning.
    """
    if logits.ndim != 3 or logits.shape[:2] != tokens.shape:
        raise InputError(
            "the model's logits do not stand at its tokens",
            value=tuple(logits.shape),
            allowed=f"({', '.join(map(str, tokens.shape))}, vocabulary)",
            remedy="merge or leave out virtual tokens (prompt tuning), or give a module of your own and loss_fn",
        )


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """−log p(label) of each token, nats, `[batch, position]`; 0 at positions labelled −100."""
    flat = F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), reduction="none", ignore_index=IGNORED
    )
    return flat.view(labels.shape)


def entropy(labels: Tensor) -> float:
    """Entropy in nats of the labels' empirical distribution: the cross-entropy of the best constant predictor."""
    counts = torch.bincount(labels.flatten()).double()
    p = counts[counts > 0] / counts.sum()
    return float(-(p * p.log()).sum())


def per_token(
    examples: dict[str, Tensor], predicted: Tensor, tokens: Losses, config: LoadConfig, facts: dict[str, Any]
) -> Encoded:
    """The losses of a model of tokens, normalised as `config.loss_normalization` says.

    "token": ℓ_i = (summed loss of example i) / (mean number of predicted tokens an example). The mean of ℓ_i is then
    the mean over all tokens, and n counts tokens. "sequence": ℓ_i is the sum, and n counts sequences.

    Args:
        examples: tensors, `[example, …]`.
        predicted: labels of the predicted positions, −100 elsewhere, `[example, position]`.
        tokens: the loss of each position, `[batch, position]`, nats; 0 where none is predicted.
        config: says which normalization.
        facts: provenance so far.

    Raises:
        InputError: no example has a predicted token.
    """

    def sums(forward: Forward, batch: Mapping[str, Tensor]) -> Tensor:
        return tokens(forward, batch).sum(-1)

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
    num_tokens = int(counts.sum())
    mean = num_tokens / len(counts)
    trivial_loss = entropy(predicted[predicted != IGNORED])
    facts = {**facts, "num_tokens": num_tokens, "loss_normalization": config.loss_normalization}
    if config.loss_normalization == "sequence":
        encoded = Encoded(examples, sums, len(counts), "nats per sequence", trivial_loss * mean, facts)
    else:
        losses: Losses = lambda forward, batch: sums(forward, batch) / mean  # noqa: E731
        encoded = Encoded(examples, losses, num_tokens, "nats per token", trivial_loss, facts)
    return replace(encoded, token_losses=tokens)


def token_logits(forward: Forward, batch: Mapping[str, Tensor]) -> Tensor:
    """The logits of each token of a batch."""
    logits = logits_of(forward(**inputs_of(batch)))
    check_positions(logits, batch["labels"])
    return logits


def labelled_tokens(
    rows: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    config: LoadConfig,
    *,
    pad_id: int,
    facts: dict[str, Any],
    token_types: Sequence[Sequence[int]] | None = None,
) -> Encoded:
    """One label a token, −100 where there is none: masked language models, token classification."""
    examples = {**token_tensors(rows, pad_id), "labels": pad_rows(labels, IGNORED)}
    if token_types is not None:
        examples["token_type_ids"] = pad_rows(token_types, 0)

    def tokens(forward: Forward, batch: Mapping[str, Tensor]) -> Tensor:
        return token_losses(token_logits(forward, batch), batch["labels"])

    return per_token(examples, examples["labels"], tokens, config, facts)


def classification(inputs: dict[str, Tensor], labels: Tensor, *, kind: str, facts: dict[str, Any]) -> Encoded:
    """One label, or one vector of labels, an example: classifiers of texts and images.

    Args:
        inputs: the model's keyword arguments, `[example, …]`.
        labels: class numbers `[example]`, or 0/1 or targets `[example, output]`.
        kind: "single_label_classification": cross-entropy. "multi_label_classification": Bernoulli log losses, summed
            over labels. "regression": ½‖ŷ − y‖², which is −log of a Gaussian density with σ = 1 less its constant.
        facts: provenance so far.
    """

    def losses(forward: Forward, batch: Mapping[str, Tensor]) -> Tensor:
        logits = logits_of(forward(**inputs_of(batch)))
        target = batch["labels"]
        if kind == "single_label_classification":
            return F.cross_entropy(logits, target, reduction="none")
        if kind == "multi_label_classification":
            # In the logits' type: binary_cross_entropy_with_logits answers in the target's, which may be narrower.
            return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none").sum(-1)
        return 0.5 * ((logits.view(target.shape) - target) ** 2).flatten(1).sum(-1)

    if kind == "single_label_classification":
        trivial_loss = entropy(labels)
    elif kind == "multi_label_classification":
        p = labels.double().mean(0)
        trivial_loss = float(-(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)).sum())
    else:
        trivial_loss = 0.5 * float(labels.double().var(0, correction=0).sum())
    unit = "nats per example" + (" (Gaussian, σ = 1)" if kind == "regression" else "")
    return Encoded({**inputs, "labels": labels}, losses, len(labels), unit, trivial_loss, facts)
