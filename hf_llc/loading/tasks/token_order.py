"""What a model of tokens sees, found by changing tokens: a causal one nothing later, a masked one both sides."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from hf_llc.errors import InputError
from hf_llc.loading.tasks.losses import IGNORED
from hf_llc.loading.tasks.task import Check
from hf_llc.problem import Forward

Logits = Callable[[Forward, Mapping[str, Tensor]], Tensor]
"""The logits `[example, position, token]` of a batch."""

_ROWS = 2
"""Examples that are tried."""


def causal_check(logits: Logits, ids: str = "input_ids") -> Check:
    """The check that no logit moves when later tokens change: the last one, the last half, all but the first.

    Args:
        logits: of a batch.
        ids: name of the ids that the model predicts, each from those before it.
    """
    return functools.partial(_check_causal, logits, ids)


def _check_causal(logits: Logits, name: str, forward: Forward, batch: Mapping[str, Tensor], rounding: float) -> None:
    """See `causal_check`.

    Raises:
        InputError: a logit moves.
    """
    ends = _ends(batch, name)
    for row in ends.argsort(descending=True)[:_ROWS].tolist():
        end = int(ends[row])
        cuts = sorted({1, end // 2, end - 1} - {0})
        if end < 2:
            continue
        trial = {k: x[[row] * (1 + len(cuts))].clone() for k, x in batch.items()}
        other = _others(trial[name][0])
        for i, cut in enumerate(cuts):
            trial[name][1 + i, cut:end] = other[cut:end]
        with torch.no_grad():
            found = logits(forward, trial).double()
        for i, cut in enumerate(cuts):
            if not _is_moved(found[0, :cut], found[1 + i, :cut], rounding):
                continue
            raise InputError(
                f"the model sees later tokens: {end - cut} changed at the end of {end}, and logits before them move",
                allowed="models that predict each token from those before it",
                remedy="set is_decoder true in its config if it was trained as a decoder; else load it by its class "
                "for masked language modelling (task fill-mask), or give a module of your own and loss_fn",
            )


def masked_check(logits: Logits) -> Check:
    """The check that a masked token's logits move with unmasked tokens, those before it and those after it."""
    return functools.partial(_check_masked, logits)


def _check_masked(logits: Logits, forward: Forward, batch: Mapping[str, Tensor], rounding: float) -> None:
    """See `masked_check`.

    Raises:
        InputError: no logit of a masked token moves.
    """
    del rounding  # any movement will do
    ends, tried = _ends(batch, "input_ids"), 0
    for row, end in enumerate(ends.tolist()):
        masked = batch["labels"][row] != IGNORED
        place = torch.arange(len(masked), device=masked.device)
        inner = (place > 0) & (place < end - 1) & ~masked  # the first and the last may be [CLS] and [SEP]
        for side, is_there in (("before", "left"), ("after", "right")):
            at = next(
                (p for p in masked.nonzero()[:, 0].tolist() if bool((inner & _side(place, p, is_there)).any())), None
            )
            if at is None:
                continue
            changed = inner & _side(place, at, is_there)
            trial = {k: x[[row, row]].clone() for k, x in batch.items()}
            trial["input_ids"][1] = torch.where(changed, _others(trial["input_ids"][0]), trial["input_ids"][0])
            with torch.no_grad():
                found = logits(forward, trial).double()[:, at]
            tried += 1
            if not _is_moved(found[0], found[1], 0.0):
                raise InputError(
                    f"the model does not see the tokens {side} a masked one",
                    allowed="models that see both sides, for fill-mask",
                    remedy="load a causal model by its class for text generation; set is_decoder false in its config",
                )
        if tried >= 2 * _ROWS:
            return


def _side(place: Tensor, at: int, which: str) -> Tensor:
    return place < at if which == "left" else place > at


def _ends(batch: Mapping[str, Tensor], name: str) -> Tensor:
    """The length of each row without its padding, `[example]`."""
    ids = batch[name]
    if name == "input_ids" and "attention_mask" in batch:
        return batch["attention_mask"].sum(1)
    labels = batch.get("labels")
    if labels is None or labels.shape != ids.shape:
        return torch.full((len(ids),), ids.shape[1], device=ids.device)
    counted = (labels != IGNORED).long() * torch.arange(1, ids.shape[1] + 1, device=ids.device)
    return counted.amax(1)


def _others(ids: Tensor) -> Tensor:
    """Another token in each place, from those of the row where it has several; never beyond its largest id."""
    rolled = ids.roll(1)
    return torch.where(rolled != ids, rolled, torch.where(ids > 0, ids - 1, ids + 1))


def _is_moved(one: Tensor, other: Tensor, rounding: float) -> bool:
    """Whether logits differ by more than rounding."""
    largest = float(one.nan_to_num(0, 0, 0).abs().max())
    return float((one - other).nan_to_num(0, 0, 0).abs().max()) > rounding * largest
