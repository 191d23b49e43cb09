"""How many tokens an example may have: from the model's config, whatever it calls that, and its table of positions."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from hf_llc.config import LoadConfig
from hf_llc.errors import InputError

_DEFAULT_LENGTH = 1024
"""Tokens an example at most, if neither the user nor the model's context says less."""

_NAMES = (
    *("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "max_seq_length"),
    *("seq_length", "model_max_length", "context_length"),
)
"""What configs call the context of a model of one text."""

_OF_ENCODER = ("max_encoder_position_embeddings", "max_source_positions")
_OF_DECODER = ("max_decoder_position_embeddings", "max_target_positions")
_OF_SIDE = {"text": (*_NAMES, *_OF_DECODER), "encoder": (*_OF_ENCODER, *_NAMES), "decoder": (*_OF_DECODER, *_NAMES)}

Side = Literal["text", "encoder", "decoder"]
"""Of a model with an encoder and a decoder, one of the two; otherwise the text."""


def is_transformer_lens(model: Any) -> bool:
    """Whether the model is a HookedTransformer or a TransformerBridge: token ids in, logits out."""
    return any(c.__module__.split(".")[0] == "transformer_lens" for c in type(model).__mro__)


def text_config(model: Any) -> Any:
    """The config of a model's text side."""
    config: Any = getattr(model, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def context_of(model: Any, side: Side = "text") -> int | None:
    """The most tokens that the model takes; None if its config does not say, or sets no bound (−1)."""
    is_relative = getattr(text_config(model), "relative_attention_num_buckets", None) and not _tables(model)
    return None if is_relative else _usual_length(model, side)  # T5 and its kin take more than they were trained at


def _usual_length(model: Any, side: Side) -> int | None:
    """The context by the model's config and its tables of positions."""
    if is_transformer_lens(model):
        return _positive(getattr(model.cfg, "n_ctx", None))
    settings = text_config(model)
    found = (_positive(getattr(settings, name, None)) for name in _OF_SIDE[side])
    context = next((n for n in found if n is not None), None)
    # RoBERTa and its kin count positions from the one behind the padding's on.
    left = [m.num_embeddings - m.padding_idx - 1 for m in _tables(model) if m.padding_idx is not None]
    return min((n for n in (context, *left) if n is not None and n > 0), default=None)


def _positive(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _tables(model: Any) -> list[nn.Embedding]:
    """The learned tables of positions."""
    ends = ("position_embeddings", "embed_positions", "wpe")
    modules = model.named_modules() if isinstance(model, nn.Module) else ()
    return [m for name, m in modules if isinstance(m, nn.Embedding) and name.endswith(ends)]


def length_for(model: Any, config: LoadConfig, side: Side = "text") -> int:
    """Tokens an example: `max_length`, or the model's context up to 1024.

    Args:
        model: at any stage.
        config: may say `max_length`.
        side: targets are cut to the decoder's context without a refusal.

    Raises:
        InputError: `max_length` is more than the model's context.
    """
    context = context_of(model, side)
    if config.max_length is None:
        return min(_usual_length(model, side) or _DEFAULT_LENGTH, _DEFAULT_LENGTH)
    if context is not None and config.max_length > context and side != "decoder":
        raise InputError(
            "max_length is more than the model's context", value=config.max_length, allowed=f"at most {context}"
        )
    return min(config.max_length, context or config.max_length)
