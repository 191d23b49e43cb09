"""Models of the paper in the format of transformers. Importing this registers them with the Auto classes."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from hf_llc.models.attention_only import (
    AttentionOnlyConfig,
    AttentionOnlyForCausalLM,
    cut_tokenizer,
    from_transformer_lens,
    to_transformer_lens,
)
from hf_llc.models.deep_linear import DeepLinearConfig, DeepLinearModel

__all__ = [
    "AttentionOnlyConfig",
    "AttentionOnlyForCausalLM",
    "DeepLinearConfig",
    "DeepLinearModel",
    "cut_tokenizer",
    "from_transformer_lens",
    "to_transformer_lens",
]

AutoConfig.register(AttentionOnlyConfig.model_type, AttentionOnlyConfig, exist_ok=True)
AutoModelForCausalLM.register(AttentionOnlyConfig, AttentionOnlyForCausalLM, exist_ok=True)
AutoConfig.register(DeepLinearConfig.model_type, DeepLinearConfig, exist_ok=True)
AutoModel.register(DeepLinearConfig, DeepLinearModel, exist_ok=True)
