"""The padding of short examples, and how one of them looks without it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

_BY_TOKEN = ("input_ids", "attention_mask", "token_type_ids")


def most_padded(examples: Mapping[str, Tensor]) -> int | None:
    """The example with the fewest tokens; None if none is padded.

    Args:
        examples: tensors with one leading example axis. Padding is where `attention_mask` `[example, position]` is 0.
    """
    mask = examples.get("attention_mask")
    if mask is None or mask.dim() != 2:
        return None
    lengths = mask.sum(1)
    row = int(lengths.argmin())
    return row if 0 < int(lengths[row]) < mask.shape[1] else None


def without_padding(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A batch of one example without what stands behind its last token.

    Labels are cut too where they stand at the same tokens. Tensors of other names stay whole.
    """
    mask = batch.get("attention_mask")
    if mask is None or mask.dim() != 2:
        return dict(batch)
    names = {*_BY_TOKEN} if "decoder_input_ids" in batch else {*_BY_TOKEN, "labels"}
    length = int(mask.sum())
    return {
        name: x[:, :length] if name in names and x.shape == mask.shape and bool(mask[0, :length].all()) else x
        for name, x in batch.items()
    }
