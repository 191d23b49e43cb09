"""Components by name, family by family: zeroing the slice of a head changes the output of that head and of no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
import transformers as hf
from torch import Tensor, nn

from hf_llc.components import attention
from hf_llc.components.catalog import Catalog
from hf_llc.components.listed import components_named
from hf_llc.components.masks import overlap
from hf_llc.components.part_of import part_of
from hf_llc.errors import InputError
from hf_llc.models.attention_only import AttentionOnlyConfig, AttentionOnlyForCausalLM

WIDTH, HEADS, SIZE = 24, 4, 10  # the heads are not WIDTH // HEADS wide where a family lets us say so
BASE: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": HEADS,
    "max_position_embeddings": 16, "initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
DEEP = {**BASE, "intermediate_size": 32, "pad_token_id": 0}
OWN = {**DEEP, "num_key_value_heads": 2, "head_dim": SIZE}
GPT = {k: v for k, v in BASE.items() if k in ("vocab_size", "bos_token_id", "eos_token_id", "initializer_range")}
GPT |= {"n_embd": WIDTH, "n_layer": 2, "n_head": HEADS, "n_positions": 16}
FALCON = {k: v for k, v in BASE.items() if k != "max_position_embeddings"}
VIT = {k: DEEP[k] for k in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")}

FAMILIES: dict[str, tuple[Callable[[], Any], str, str]] = {
    "llama": (lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**OWN)), "model.layers.0.self_attn.o_proj", "g"),
    "mistral": (lambda: hf.MistralForCausalLM(hf.MistralConfig(**OWN)), "model.layers.0.self_attn.o_proj", "g"),
    "mixtral": (
        lambda: hf.MixtralForCausalLM(hf.MixtralConfig(**OWN, num_local_experts=3)),
        "model.layers.0.self_attn.o_proj",
        "g",
    ),
    "qwen2": (
        lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**DEEP, num_key_value_heads=2)),
        "model.layers.0.self_attn.o_proj",
        "g",
    ),
    "qwen3": (lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**OWN)), "model.layers.0.self_attn.o_proj", "g"),
    "gemma2": (lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**OWN)), "model.layers.0.self_attn.o_proj", "g"),
    "gemma3": (lambda: hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**OWN)), "model.layers.0.self_attn.o_proj", "g"),
    "phi3": (
        lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**DEEP, num_key_value_heads=2)),
        "model.layers.0.self_attn.o_proj",
        "g",
    ),
    "gpt2": (lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT)), "transformer.h.0.attn.c_proj", ""),
    "gpt-j": (lambda: hf.GPTJForCausalLM(hf.GPTJConfig(**GPT, rotary_dim=4)), "transformer.h.0.attn.out_proj", ""),
    "neox": (lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**DEEP)), "gpt_neox.layers.0.attention.dense", ""),
    "bloom": (
        lambda: hf.BloomForCausalLM(hf.BloomConfig(**{**FALCON, "n_layer": 2, "n_head": HEADS})),
        "transformer.h.0.self_attention.dense",
        "",
    ),
    "opt": (
        lambda: hf.OPTForCausalLM(hf.OPTConfig(**BASE, ffn_dim=32, word_embed_proj_dim=WIDTH, init_std=0.3)),
        "model.decoder.layers.0.self_attn.out_proj",
        "",
    ),
    "falcon": (
        lambda: hf.FalconForCausalLM(hf.FalconConfig(**FALCON, multi_query=False, bias=True)),
        "transformer.h.0.self_attention.dense",
        "",
    ),
    "falcon-7b": (
        lambda: hf.FalconForCausalLM(hf.FalconConfig(**FALCON, multi_query=True, bias=True)),
        "transformer.h.0.self_attention.dense",
        "g",
    ),
    "falcon-40b": (
        lambda: hf.FalconForCausalLM(hf.FalconConfig(**FALCON, new_decoder_architecture=True, num_kv_heads=2)),
        "transformer.h.0.self_attention.dense",
        "g",
    ),
    "bert": (lambda: hf.BertForMaskedLM(hf.BertConfig(**DEEP)), "bert.encoder.layer.0.attention.output.dense", ""),
    "distilbert": (
        lambda: hf.DistilBertForMaskedLM(
            hf.DistilBertConfig(vocab_size=40, dim=WIDTH, n_layers=2, n_heads=HEADS, hidden_dim=32)
        ),
        "distilbert.transformer.layer.0.attention.out_lin",
        "",
    ),
    "t5": (
        lambda: hf.T5ForConditionalGeneration(
            hf.T5Config(vocab_size=40, d_model=WIDTH, d_kv=SIZE, d_ff=32, num_layers=1, num_heads=HEADS)
        ),
        "encoder.block.0.layer.0.SelfAttention.o",
        "",
    ),
    "qwen3-moe": (
        lambda: hf.Qwen3MoeForCausalLM(hf.Qwen3MoeConfig(**OWN, num_experts=3, num_experts_per_tok=2)),
        "model.layers.0.self_attn.o_proj",
        "g",
    ),
    "phi": (
        lambda: hf.PhiForCausalLM(hf.PhiConfig(**{**DEEP, "hidden_size": 32}, num_key_value_heads=2)),
        "model.layers.0.self_attn.dense",
        "g",
    ),
    "mpt": (
        lambda: hf.MptForCausalLM(hf.MptConfig(vocab_size=40, d_model=WIDTH, n_heads=HEADS, n_layers=2)),
        "transformer.blocks.0.attn.out_proj",
        "",
    ),
    "modernbert": (
        lambda: hf.ModernBertForMaskedLM(hf.ModernBertConfig(**DEEP, cls_token_id=1, sep_token_id=2)),
        "model.layers.0.attn.Wo",
        "",
    ),
    "deberta": (
        lambda: hf.DebertaV2ForMaskedLM(hf.DebertaV2Config(**DEEP)),
        "deberta.encoder.layer.0.attention.output.dense",
        "",
    ),
    "bart": (
        lambda: hf.BartForConditionalGeneration(
            hf.BartConfig(
                vocab_size=40, d_model=WIDTH, encoder_layers=1, decoder_layers=1, encoder_attention_heads=HEADS,
                decoder_attention_heads=3, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=16,
                bos_token_id=1, eos_token_id=2, forced_eos_token_id=2,
            )
        ),
        "model.encoder.layers.0.self_attn.out_proj",
        "",
    ),
    "vit": (
        lambda: hf.ViTForImageClassification(hf.ViTConfig(**VIT, image_size=8, patch_size=4, initializer_range=0.3)),
        "vit.layers.0.attention.o_proj",
        "",
    ),
    "attention-only": (
        lambda: AttentionOnlyForCausalLM(AttentionOnlyConfig(**BASE, head_dim=SIZE)),
        "layers.0.output",
        "",
    ),
}  # fmt: skip
"""How to make the model, the output projection of its first layer, and g where heads share keys and values."""


def made(family: str) -> Any:
    torch.manual_seed(0)
    model = FAMILIES[family][0]().eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
                p.add_(torch.randn_like(p) / 5)  # biases are zero in a new model, and would hide a slip
    return model


def outputs(model: Any, projection: str) -> tuple[Tensor, Tensor]:
    """What the heads of a layer give to the output projection, `[…, head · size]`, and what that makes of it."""
    seen: list[Tensor] = []
    hook = model.get_submodule(projection).register_forward_hook(
        lambda _, x, y: seen.extend([x[0].detach(), y.detach()])
    )
    ids = torch.tensor([[5, 7, 1, 9, 3, 8]])
    with torch.no_grad():
        if type(model).__name__.startswith("ViT"):
            model(pixel_values=torch.linspace(-1, 1, 192).view(1, 3, 8, 8).sin())
        elif hasattr(model, "decoder"):
            model(input_ids=ids, decoder_input_ids=ids)
        else:
            model(input_ids=ids)
    hook.remove()
    return seen[0].flatten(0, -2), seen[1].flatten(0, -2)


def zeroed(model: Any, name: str) -> None:
    """Set the weights of a component to zero."""
    part = part_of(model, name)
    assert part is not None
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for key, mask in part.masks.items():
            parameters[key][... if mask is None else mask] = 0.0


def moved_heads(model: Any, projection: str, name: str) -> set[int]:
    """The heads whose output changes when a component is set to zero."""
    before, _ = outputs(model, projection)
    zeroed(model, name)
    after, _ = outputs(model, projection)
    changed = (before != after).view(len(before), HEADS, -1).any(dim=-1).any(dim=0)
    return set(changed.nonzero()[:, 0].tolist())


def check_head(family: str, head: int) -> None:
    """The slice of a head moves that head alone, and the output projection no longer reads it."""
    model, projection = made(family), FAMILIES[family][1]
    size = Catalog(model).attention(0)
    assert size is not None and size.num_heads == HEADS
    assert moved_heads(model, projection, f"l0h{head}") == {head}
    module = model.get_submodule(projection)
    wide = outputs(model, projection)[0].shape[-1]
    with torch.no_grad():
        reads = [
            not torch.equal(module(x), module(torch.zeros_like(x)))
            for x in torch.eye(HEADS).repeat_interleave(wide // HEADS, 1)[:, None]
        ]
    assert reads == [h != head for h in range(HEADS)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_is_that_head_and_no_other(family: str) -> None:
    for head in (0, 2):
        check_head(family, head)


@pytest.mark.parametrize("family", [name for name, (_, _, grouped) in FAMILIES.items() if grouped])
def test_a_group_is_its_heads_and_no_other(family: str) -> None:
    model, projection = made(family), FAMILIES[family][1]
    groups = Catalog(model).attention(0)
    assert groups is not None and groups.is_grouped
    each = HEADS // groups.num_groups
    last = groups.num_groups - 1
    assert moved_heads(model, projection, f"l0g{last}") == set(range(last * each, HEADS))
    values = outputs(model, projection)[0].view(-1, HEADS, outputs(model, projection)[0].shape[-1] // HEADS)
    assert (values[:, last * each :] == 0).all()  # the values are zero, biases too
    assert (values[:, : last * each] != 0).any() or last == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_partition_has_every_weight_once(family: str) -> None:
    model = made(family)
    catalog = Catalog(model)
    seen: dict[str, Tensor] = {name: torch.zeros(p.shape, dtype=torch.int64) for name, p in catalog.parameters.items()}
    for name in catalog.partition():
        for key, mask in catalog.masks(name).items():
            seen[key] += 1 if mask is None else mask.long()
    assert all((count == 1).all() for count in seen.values())
    assert all(catalog.masks(name) for name in catalog.names())


def _wrong_size(*_: Any) -> tuple[int, int]:
    return HEADS, WIDTH // HEADS


def _without_output(self: attention.Attention, head: int) -> Any:
    return [*self.queries[head][:-1], *self.keys[head // (self.num_heads // self.num_groups)]]


def test_planted_faults_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads cut by hidden // heads, a head without its columns of o, and a fused qkv cut as if it lay otherwise."""
    with monkeypatch.context() as faulty:
        faulty.setattr(attention, "_heads", _wrong_size)
        for family in ("qwen3", "t5", "attention-only"):
            with pytest.raises((AssertionError, InputError)):
                check_head(family, 2)
    with monkeypatch.context() as faulty:
        faulty.setattr(attention.Attention, "of_head", _without_output)
        for family in ("gpt2", "bert", "neox"):
            with pytest.raises(AssertionError):
                check_head(family, 2)

    def blocks(module: Any, path: str, fused: Any, num_heads: int, size: int) -> Any:
        rows = [[(h * size, (h + 1) * size)] for h in range(num_heads)]
        return rows, [([a], [b]) for (a,), (b,) in zip(_shift(rows, 1), _shift(rows, 2), strict=True)]

    def _shift(rows: Any, times: int) -> Any:
        return [[(a + times * rows[-1][0][1], b + times * rows[-1][0][1]) for a, b in row] for row in rows]

    with monkeypatch.context() as faulty:
        faulty.setattr(attention, "_fused", blocks)
        for family in ("neox", "bloom", "falcon"):
            with pytest.raises(AssertionError):
                check_head(family, 2)


def test_experts_and_router() -> None:
    model = made("mixtral")
    catalog = Catalog(model)
    assert set(catalog.masks("l0e1")) == {
        f"model.layers.0.mlp.experts.{name}" for name in ("gate_up_proj", "down_proj")
    }
    assert all(
        mask is not None and mask[1].all() and mask.sum() == mask[1].numel() for mask in catalog.masks("l0e1").values()
    )
    assert list(catalog.masks("l1 router")) == ["model.layers.1.mlp.gate.weight"]
    whole = catalog.masks("l0 mlp")
    assert overlap(whole, catalog.masks("l0 router")) and overlap(whole, catalog.masks("l0e2"))
    assert overlap(catalog.masks("l0e0"), catalog.masks("l0e1")) is None
    with pytest.raises(InputError, match=r"l0 has 3 experts, got 'l0e3'; allowed: 0 … 2"):
        part_of(model, "l0e3")


def test_names_and_globs() -> None:
    model = made("llama")
    catalog = Catalog(model)
    assert catalog.expand("l*h*") == [f"l{i}h{j}" for i in range(2) for j in range(4)]
    assert catalog.expand("l1h[12]") == ["l1h1", "l1h2"]
    assert catalog.expand("l* mlp") == ["l0 mlp", "l1 mlp"]
    assert catalog.expand("l*") == ["l0", "l1"]
    assert catalog.expand("*.bias") is None

    def size(weights: str) -> int:
        part = part_of(model, weights)
        assert part is not None
        shapes = dict(model.named_parameters())
        return sum(shapes[name].numel() if mask is None else int(mask.sum()) for name, mask in part.masks.items())

    assert size("l0h1") == 2 * SIZE * WIDTH and size("l0g1") == 6 * SIZE * WIDTH
    assert size("l*h*+l0g0") == 2 * 8 * SIZE * WIDTH + 2 * SIZE * WIDTH
    assert size("l0 attn") == size("l0g*") == 12 * SIZE * WIDTH
    assert size("l0") == size("l0 attn+l0 mlp+l0 norms")
    assert size("~embed") + size("embed") == size("~embed+embed") == sum(p.numel() for p in model.parameters())
    assert size("model.layers.*.mlp.*") == size("l* mlp")
    assert size("l1+l1h1") == size("l1")


def test_layers_of_an_encoder_whose_projections_are_not_known() -> None:
    settings = hf.LEDConfig(
        vocab_size=40, d_model=WIDTH, encoder_layers=2, decoder_layers=1, encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS, encoder_ffn_dim=32, decoder_ffn_dim=32, attention_window=4,
    )  # fmt: skip
    model = hf.LEDForConditionalGeneration(settings)
    assert components_named(model, "layers") == ["l0", "l1", "l2"]
    for name, owner in (("l0", "led.encoder.layers.0."), ("l2", "led.decoder.layers.0.")):
        part = part_of(model, name)
        assert part is not None and all(each.startswith(owner) for each in part.masks)
    heads = components_named(model, "heads")
    assert [head for head in heads if "x" not in head] == [f"l2h{i}" for i in range(HEADS)]


def test_t5_has_heads_of_cross_attention() -> None:
    model = made("t5")
    assert moved_heads(model, "decoder.block.0.layer.1.EncDecAttention.o", "l1x3") == {3}
    assert {"l0h0", "l1h0", "l1x0", "l1 cross"} <= set(Catalog(model).names())
    with pytest.raises(InputError, match="l0 has no heads of cross-attention, got 'l0x0'"):
        part_of(model, "l0x0")


def test_weights_of_adapters_by_name() -> None:
    """An adapter's weights have names of their own; the frozen weights below are no part of `all`, but may be named."""
    model = made("llama")
    for p in model.parameters():
        p.requires_grad_(False)
    q = model.model.layers[0].self_attn.q_proj
    q.register_parameter("lora_A", nn.Parameter(torch.randn(2, WIDTH)))
    q.register_parameter("lora_B", nn.Parameter(torch.zeros(HEADS * SIZE, 2)))
    part = part_of(model, "*lora_*")
    assert part is not None and [name.rpartition(".")[2] for name in part.masks] == ["lora_A", "lora_B"]
    assert list(Catalog(model).everything) == list(part.masks)
    assert part_of(model, "l0h1") is not None


@pytest.mark.parametrize(
    ("family", "weights", "message"),
    [
        ("gpt2", "unembed", r"unembed is tied to embed: both are transformer\.wte\.weight; name embed"),
        ("gpt2", "lm_head.weight", r"lm_head\.weight is the same tensor as transformer\.wte\.weight"),
        ("vit", "unembed", "the model has no unembed, got 'ViTForImageClassification'; allowed: embed, norms, l0"),
        ("llama", "l2", r"there is no l2, got 'layer 2'; allowed: embed, unembed, norms, l0 … l1, l0h0 … l0h3, l0g0 …"),
        ("llama", "l0h4", r"l0 has 4 heads, got 'l0h4'; allowed: 0 … 3"),
        ("llama", "l0g2", r"l0 has 2 groups, got 'l0g2'; allowed: 0 … 1"),
        ("gpt2", "l0g0", "l0 has no groups: each head has its own keys; name l0h0"),
        ("llama", "l0e0", "l0 has no experts, got 'l0e0'"),
        ("llama", "l0 router", "the model has no l0 router"),
        ("attention-only", "l0 mlp", "the model has no l0 mlp"),
        ("llama", "l0 mpl", "no such weights, got 'l0 mpl'.*did you mean 'l0 mlp'"),
        ("llama", "l9h*", r"no such components, got 'l9h\*'"),
        ("llama", "l0h[", "no such components"),
        ("llama", "rest", "the model has no rest"),
        ("llama", "heads", "no such weights, got 'heads'"),
    ],
)
def test_refusals_say_what_there_is(family: str, weights: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        part_of(made(family), weights)
    assert "\n" not in str(caught.value)


def test_heads_that_cannot_be_told_are_refused() -> None:
    model = made("llama")
    model.model.layers[0].self_attn.q_proj = nn.Linear(WIDTH, 2 * HEADS * SIZE)  # a gate beside each query, say
    with pytest.raises(InputError, match=r"heads of model\.layers\.0\.self_attn cannot be told: queries do not fit"):
        part_of(model, "l0h0")
    assert part_of(model, "l0 attn") is not None and "l0 attn" in Catalog(model).partition()
    plain = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    with pytest.raises(InputError, match=r"there is no l0, got 'layer 0'; allowed: names of parameters"):
        part_of(plain, "l0")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_transformer_lens() -> None:
    lens = pytest.importorskip("transformer_lens")
    config = lens.HookedTransformerConfig(
        n_layers=2, d_model=WIDTH, n_ctx=16, d_head=SIZE, n_heads=HEADS, n_key_value_heads=2, d_vocab=40, d_mlp=32,
        act_fn="gelu", normalization_type="LN", seed=0,
    )  # fmt: skip
    check_lens(lens.HookedTransformer(config), grouped=True)


class Lens(nn.Module):
    """A layer with the parameters of TransformerLens's attention."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Module()])
        self.blocks[0].add_module("attn", nn.Module())
        shapes = {"W_Q": (HEADS, WIDTH, SIZE), "W_K": (HEADS, WIDTH, SIZE), "W_V": (HEADS, WIDTH, SIZE)}
        shapes |= {"W_O": (HEADS, SIZE, WIDTH), "b_Q": (HEADS, SIZE), "b_V": (HEADS, SIZE), "b_O": (WIDTH,)}
        for name, shape in shapes.items():
            self.blocks[0].get_submodule("attn").register_parameter(name, nn.Parameter(torch.randn(shape)))


def test_parameters_named_as_in_transformer_lens() -> None:
    check_lens(Lens(), grouped=False)


def check_lens(model: nn.Module, *, grouped: bool) -> None:
    masks = Catalog(model).masks("l0h1")
    with_head = {name.rpartition(".")[2]: mask for name, mask in masks.items()}
    assert with_head.keys() == ({"W_Q", "b_Q", "W_O"} if grouped else {"W_Q", "W_K", "W_V", "W_O", "b_Q", "b_V"})
    assert all(mask is not None and mask[1].all() and int(mask.sum()) == mask[1].numel() for mask in with_head.values())
    if grouped:
        group = {name.rpartition(".")[2]: mask for name, mask in Catalog(model).masks("l1g1").items()}
        assert {"_W_K", "_W_V", "W_Q", "W_O"} <= group.keys()
        assert group["W_Q"] is not None and group["W_Q"][2:].all() and not group["W_Q"][:2].any()
        assert {"embed", "unembed", "norms", "l0 mlp"} <= set(Catalog(model).names())


def test_stories_shapes() -> None:
    """The partition of a model with the shapes of stories260K has 27 parts of the sizes known."""
    config = hf.LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=172, num_hidden_layers=5, num_attention_heads=8,
        num_key_value_heads=4, tie_word_embeddings=True,
    )  # fmt: skip
    catalog = Catalog(hf.LlamaForCausalLM(config))
    sizes = {
        name: sum(catalog.parameters[key].numel() if mask is None else int(mask.sum()) for key, mask in masks.items())
        for name, masks in ((name, catalog.masks(name)) for name in catalog.partition())
    }
    assert len(sizes) == 27 and sum(sizes.values()) == 260_032
    assert sizes["l4g3"] == 3_072 and sizes["l4 mlp"] == 33_024


def test_a_run_of_a_head(tmp_path: Any) -> None:
    """λ̂ of a grouped head by the command's names, on a language model."""
    from hf_llc import LLCEvaluator

    folder = tiny.save_llama(tmp_path / "llama")
    settings = {"sampler": "sgld", "step_size": 1e-5, "num_chains": 1, "num_draws": 3, "num_burnin_steps": 1}
    result = LLCEvaluator(weights="l0h1", **settings).compute(
        str(folder), {"text": tiny.SENTENCES}, max_length=16, progress=False
    )
    assert result.num_parameters == 2 * 8 * 16 and "of l0h1" in str(result)
