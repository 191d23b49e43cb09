"""Which tasks there are, by name, and how each turns data into examples and losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hf_llc.loading.tasks.fill_mask import masked_lm
from hf_llc.loading.tasks.image_classification import image_classification
from hf_llc.loading.tasks.losses import Encoded
from hf_llc.loading.tasks.text2text_generation import seq2seq
from hf_llc.loading.tasks.text_classification import sequence_classification
from hf_llc.loading.tasks.text_generation import causal_lm
from hf_llc.loading.tasks.token_classification import token_classification

ENCODERS: dict[str, Callable[..., Encoded]] = {
    "text-generation": causal_lm,
    "fill-mask": masked_lm,
    "text2text-generation": seq2seq,
    "text-classification": sequence_classification,
    "token-classification": token_classification,
    "image-classification": image_classification,
}


AUTO_CLASSES = {
    "text-generation": "AutoModelForCausalLM",
    "fill-mask": "AutoModelForMaskedLM",
    "text2text-generation": "AutoModelForSeq2SeqLM",
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "image-classification": "AutoModelForImageClassification",
}


_SUFFIXES = {
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForMaskedLM": "fill-mask",
    "ForConditionalGeneration": "text2text-generation",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForImageClassification": "image-classification",
}


def task_from(names: list[str], settings: Any) -> str | None:
    """The task that all of these class names stand for; decoders that see images too are language models."""
    found = {task for name in names for suffix, task in _SUFFIXES.items() if name.endswith(suffix)}
    task = found.pop() if len(found) == 1 else None
    if task == "text2text-generation" and not getattr(settings, "is_encoder_decoder", False):
        return "text-generation"
    return task
