"""Models of a few thousand parameters and a tokenizer trained on a few words, all made on the spot."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

SENTENCES = [
    "the cat sat on the mat and looked at the dog",
    "a dog ran",
    "one day the little cat and the big dog went to the park to play",
    "she said hello",
    "the sun was warm and the sky was blue over the small house on the hill",
    "they were happy",
    "tom had a red ball and he liked to throw it far",
    "it rained all day so the cat slept in a box",
]


@lru_cache(maxsize=2)
def tokenizer(*, template: bool = False) -> Any:
    """A byte-level BPE of 300 tokens; with `template`, [CLS] and [SEP] around texts and their pairs."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    names = ["[PAD]", "[BOS]", "[EOS]", "[MASK]", "[CLS]", "[SEP]"]
    raw.train_from_iterator(
        SENTENCES,
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=names,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    if template:
        raw.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 4), ("[SEP]", 5)]
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="[PAD]",
        bos_token="[BOS]",
        eos_token="[EOS]",
        mask_token="[MASK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", *(["token_type_ids"] if template else []), "attention_mask"],
    )


def llama(
    kind: str = "LlamaForCausalLM",
    *,
    attn: str = "eager",
    tie: bool = False,
    layers: int = 2,
    seed: int = 1,
    **more: Any,
) -> Any:
    """A decoder of 16 dimensions, context 64."""
    torch.manual_seed(seed)
    settings = transformers.LlamaConfig(
        vocab_size=320,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        tie_word_embeddings=tie,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        attn_implementation=attn,
        **more,
    )
    return getattr(transformers, kind)(settings).eval()


def save_llama(path: Path, *, seed: int = 1, **more: Any) -> Path:
    """`llama` and its tokenizer in a folder."""
    llama(seed=seed, **more).save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


def bert(kind: str, *, initializer_range: float = 0.3, **more: Any) -> Any:
    """An encoder of 16 dimensions, context 64."""
    torch.manual_seed(2)
    settings = transformers.BertConfig(
        vocab_size=320,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=initializer_range,
        pad_token_id=0,
        attn_implementation="eager",
        **more,
    )
    return getattr(transformers, kind)(settings).eval()


def t5() -> Any:
    """An encoder–decoder of 16 dimensions."""
    torch.manual_seed(3)
    settings = transformers.T5Config(
        vocab_size=320,
        d_model=16,
        d_kv=8,
        d_ff=24,
        num_layers=1,
        num_heads=2,
        pad_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=0,
    )
    return transformers.T5ForConditionalGeneration(settings).eval()


def vit(channels: int = 3, *, layers: int = 1) -> tuple[Any, Any]:
    """A vision transformer on 8 × 8 pixels, and its processor."""
    torch.manual_seed(4)
    settings = transformers.ViTConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
        num_channels=channels,
        num_labels=3,
        initializer_range=0.3,
    )
    processor = transformers.ViTImageProcessor(
        size={"height": 8, "width": 8}, image_mean=[0.5] * channels, image_std=[0.5] * channels
    )
    return transformers.ViTForImageClassification(settings).eval(), processor
