"""Real model types of transformers, tiny and random: a short estimate each, and L_n(w*) against a few lines apart."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
import transformers
from datasets import Dataset
from torch import Tensor

from hf_llc import LLCEvaluator
from hf_llc.loading.tasks.fill_mask import mask_tokens

SHORT: dict[str, Any] = {
    "num_chains": 1,
    "num_draws": 4,
    "num_burnin_steps": 1,
    "batch_size": 4,
    "step_size": 1e-7,
    "localization": 100.0,
    "check_localization": False,
}
USUAL: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 66,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "num_local_experts": 4, "moe_intermediate_size": 8}
SEQ2SEQ: dict[str, Any] = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}

CAUSAL: dict[str, dict[str, Any]] = {
    "GPT2LMHeadModel": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "LlamaForCausalLM": {"num_key_value_heads": 1},
    "GPTNeoXForCausalLM": {},
    "OPTForCausalLM": {"ffn_dim": 24, "word_embed_proj_dim": 16},
    "BloomForCausalLM": {"n_layer": 2, "n_head": 2},
    "MambaForCausalLM": {"state_size": 4},
    "GPTNeoForCausalLM": {"num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]},
    "GPTJForCausalLM": {"n_embd": 16, "n_layer": 2, "n_head": 2, "rotary_dim": 4, "n_positions": 64},
    "CodeGenForCausalLM": {"num_attention_heads": 4, "rotary_dim": 4},
    "MistralForCausalLM": {"num_key_value_heads": 1, "sliding_window": 4},
    "MixtralForCausalLM": {"num_key_value_heads": 1, **MOE},
    "Qwen2ForCausalLM": {"num_key_value_heads": 1},
    "Qwen3ForCausalLM": {"num_key_value_heads": 1, "head_dim": 8},
    "Qwen2MoeForCausalLM": {"num_key_value_heads": 1, **MOE, "shared_expert_intermediate_size": 8},
    "GemmaForCausalLM": {"num_key_value_heads": 1, "head_dim": 8},
    "Gemma2ForCausalLM": {"num_key_value_heads": 1, "head_dim": 8, "sliding_window": 4},
    "PhiForCausalLM": {},
    "Phi3ForCausalLM": {"num_key_value_heads": 1},
    "FalconForCausalLM": {},
    "OlmoForCausalLM": {},
    "StableLmForCausalLM": {"num_key_value_heads": 2},
    "CohereForCausalLM": {"num_key_value_heads": 1},
    "GraniteForCausalLM": {"num_key_value_heads": 1},
    "MptForCausalLM": {"d_model": 16, "n_heads": 2, "n_layers": 2, "max_seq_len": 64},
    "Starcoder2ForCausalLM": {"num_key_value_heads": 1},
    "XGLMForCausalLM": {"d_model": 16, "ffn_dim": 24, "num_layers": 2, "attention_heads": 2},
    "RwkvForCausalLM": {"attention_hidden_size": 16},
    "BertLMHeadModel": {"is_decoder": True},
    "RobertaForCausalLM": {"is_decoder": True},
}
MASKED: dict[str, dict[str, Any]] = {
    "BertForMaskedLM": {},
    "RobertaForMaskedLM": {},
    "DistilBertForMaskedLM": {"dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2},
    "AlbertForMaskedLM": {"embedding_size": 8},
    "ElectraForMaskedLM": {"embedding_size": 8},
    "DebertaV2ForMaskedLM": {},
    "MPNetForMaskedLM": {},
    "XLMRobertaForMaskedLM": {},
    "ModernBertForMaskedLM": {"cls_token_id": 4, "sep_token_id": 5},
    "ConvBertForMaskedLM": {"embedding_size": 16, "head_ratio": 1, "conv_kernel_size": 3},
}
PAIRS: dict[str, dict[str, Any]] = {
    "T5ForConditionalGeneration": {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2},
    "BartForConditionalGeneration": SEQ2SEQ,
    "MBartForConditionalGeneration": SEQ2SEQ,
    "PegasusForConditionalGeneration": SEQ2SEQ,
    "BlenderbotForConditionalGeneration": SEQ2SEQ,
    "BlenderbotSmallForConditionalGeneration": SEQ2SEQ,
    "M2M100ForConditionalGeneration": SEQ2SEQ,
    "MarianMTModel": SEQ2SEQ,
}
FAST = {"GPT2LMHeadModel", "MambaForCausalLM", "BertForMaskedLM", "T5ForConditionalGeneration"}


def names_of(table: dict[str, Any]) -> list[Any]:
    return [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in table]


def model_of(name: str, more: dict[str, Any]) -> Any:
    """Random weights, large enough for every token to matter."""
    torch.manual_seed(0)
    kind = getattr(transformers, name)
    settings = {"decoder_start_token_id": 0} if name.startswith("T5") else {}
    model = kind(kind.config_class(**{**USUAL, **settings, **more})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    return model


def nats(logits: Tensor, targets: Tensor) -> tuple[float, int]:
    """Σ −log p(target) and the number of targets, by hand."""
    p = logits.detach().double().log_softmax(-1)
    return -sum(float(p[i, t]) for i, t in enumerate(targets.tolist())), len(targets)


def mean(parts: list[tuple[float, int]]) -> float:
    return sum(total for total, _ in parts) / sum(count for _, count in parts)


def init_loss(model: Any, data: Dataset, **more: Any) -> float:
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    result = LLCEvaluator(**SHORT).compute(model, data=data, progress=False, **more)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    return result.init_loss


@pytest.mark.slow
@pytest.mark.parametrize("name", names_of(CAUSAL))
def test_causal(name: str) -> None:
    model = model_of(name, CAUSAL[name])
    ids = torch.randint(3, 300, (12, 16), generator=torch.Generator().manual_seed(1))
    expected = mean([nats(model(input_ids=row[None]).logits[0, :-1], row[1:]) for row in ids])
    found = init_loss(model, Dataset.from_dict({"input_ids": ids.tolist()}))
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", names_of(MASKED))
def test_masked(name: str) -> None:
    model, tokenizer = model_of(name, MASKED[name]), tiny.tokenizer(template=True)
    rows = [tokenizer(text)["input_ids"] for text in tiny.SENTENCES]
    inputs, labels = mask_tokens(rows, mask_id=tokenizer.mask_token_id, special=set(tokenizer.all_special_ids))
    parts = []
    for row, target in zip(inputs, labels, strict=True):
        keep = torch.tensor(target) != -100
        parts.append(nats(model(input_ids=torch.tensor([row])).logits[0][keep], torch.tensor(target)[keep]))
    found = init_loss(model, Dataset.from_dict({"text": tiny.SENTENCES}), tokenizer=tokenizer)
    assert found == pytest.approx(mean(parts), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", names_of(PAIRS))
def test_sequence_to_sequence(name: str) -> None:
    model, tokenizer = model_of(name, PAIRS[name]), tiny.tokenizer()
    targets = tiny.SENTENCES[::-1]
    parts = []
    for source, target in zip(tiny.SENTENCES, targets, strict=True):
        ids, wanted = (torch.tensor([tokenizer(text)["input_ids"]]) for text in (source, target))
        output = model(input_ids=ids, labels=wanted)
        parts.append((float(output.loss.detach()) * wanted.shape[1], wanted.shape[1]))
    data = Dataset.from_dict({"source": tiny.SENTENCES, "target": targets})
    assert init_loss(model, data, tokenizer=tokenizer) == pytest.approx(mean(parts), rel=1e-4)
