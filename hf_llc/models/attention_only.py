"""Attention-only transformer with shortformer positions, as in the language models of arXiv 2308.12108, appendix L.

Each layer adds the position embeddings to what its queries and keys read; they never enter the residual stream (Press,
Smith and Lewis 2021, arXiv 2012.15832). It is the same function of the same parameters as TransformerLens's
`HookedTransformer` with attn_only=True, normalization_type="LN" and positional_embedding_type="shortformer". The
defaults are the paper's sizes: 3,355,016 parameters.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers import initialization as init
from transformers.modeling_outputs import CausalLMOutput


class AttentionOnlyConfig(PretrainedConfig):
    """Sizes of an attention-only transformer; the defaults are the paper's."""

    model_type = "attention_only"

    def __init__(
        self,
        vocab_size: int = 5000,
        hidden_size: int = 256,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 8,
        head_dim: int = 32,
        max_position_embeddings: int = 1024,
        layer_norm_eps: float = 1e-5,
        initializer_range: float = 0.05,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.head_dim = head_dim
        self.max_position_embeddings = max_position_embeddings
        self.layer_norm_eps = layer_norm_eps
        self.initializer_range = initializer_range
        # transformers ties the unembedding to the embedding unless told not to.
        super().__init__(**{"tie_word_embeddings": False, **kwargs})


class AttentionLayer(nn.Module):
    """x + W_O·attention(LN(x) + positions, LN(x) + positions, LN(x))."""

    def __init__(self, config: AttentionOnlyConfig) -> None:
        super().__init__()
        self.config = config
        inner = config.num_attention_heads * config.head_dim
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.query = nn.Linear(config.hidden_size, inner)
        self.key = nn.Linear(config.hidden_size, inner)
        self.value = nn.Linear(config.hidden_size, inner)
        self.output = nn.Linear(inner, config.hidden_size)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """Add the layer's output to the residual stream.

        Args:
            x: residual stream, `[batch, position, hidden]`.
            positions: position embeddings, `[position, hidden]`.

        Returns:
            The residual stream after the layer, of the same shape.
        """
        normed = self.norm(x)
        placed = normed + positions
        shape = (self.config.num_attention_heads, self.config.head_dim)
        query, key, value = (
            heads.unflatten(-1, shape).transpose(-3, -2)
            for heads in (self.query(placed), self.key(placed), self.value(normed))
        )
        mixed = self._attend(query, key, value)
        return x + self.output(mixed.transpose(-3, -2).flatten(-2))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Causal attention; arguments and result are `[batch, head, position, head_dim]`."""
        # "sdpa" is the default. `torch.vmap` (batched chains) needs "eager".
        if self.config._attn_implementation == "sdpa":
            return F.scaled_dot_product_attention(query, key, value, is_causal=True)
        scores = query @ key.transpose(-2, -1) * self.config.head_dim**-0.5
        length = scores.shape[-1]
        future = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1)
        return scores.masked_fill(future, -torch.inf).softmax(-1) @ value


class AttentionOnlyForCausalLM(PreTrainedModel, GenerationMixin):
    """Causal language model: embedding, attention-only layers, final LayerNorm, unembedding with a bias.

    It has no cache and ignores the attention mask: padding belongs at the end, where causal attention never looks.
    """

    config_class = AttentionOnlyConfig
    _supports_sdpa = True
    _no_split_modules = ["AttentionLayer"]  # noqa: RUF012 - the type transformers declares

    def __init__(self, config: AttentionOnlyConfig) -> None:
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList([AttentionLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.unembed = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # transformers' wrappers of nn.init leave alone what a checkpoint has filled.
        if isinstance(module, (nn.Linear, nn.Embedding)):
            init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear):
            init.zeros_(module.bias)
        if isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        return self.embed

    def get_output_embeddings(self) -> nn.Module:
        """The unembedding."""
        return self.unembed

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutput:
        """Next-token logits and, given labels, their loss.

        Args:
            input_ids: `[batch, position]`.
            attention_mask: ignored, see the class; tokenizers give one.
            labels: `[batch, position]`, not shifted; −100 is left out of the loss.
            kwargs: what `Trainer` passes to the loss, such as `num_items_in_batch`.

        Returns:
            `logits`, `[batch, position, vocabulary]`, and `loss`, the mean in nats a predicted token, or None.

        Raises:
            ValueError: more positions than the model has.
        """
        length = input_ids.shape[-1]
        if length > self.config.max_position_embeddings:
            limit = self.config.max_position_embeddings
            raise ValueError(f"{length} tokens an example; the model has {limit} positions: cut the text shorter")
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x, self.position.weight[:length])
        logits = self.unembed(self.norm(x))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(self, input_ids: Tensor, **_: Any) -> dict[str, Tensor]:
        """The last tokens that fit in the context, `[batch, position]`: there is no cache."""
        return {"input_ids": input_ids[:, -self.config.max_position_embeddings :]}


def cut_tokenizer(tokenizer: Any, size: int) -> PreTrainedTokenizerFast:
    """A tokenizer of the first `size` tokens of a byte-level BPE tokenizer, without its special tokens.

    The paper does this to GPT-2's tokenizer, with 5,000 tokens. Any text can still be encoded, and a word of remaining
    tokens is encoded as before, because a merged token comes after its parts.

    Args:
        tokenizer: a fast tokenizer whose first tokens are the 256 bytes.
        size: number of tokens.

    Raises:
        ValueError: `size` is below 256 or above the number of tokens, or the tokenizer is of another kind.
    """
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    model = parts["model"]
    if model["type"] != "BPE" or not 256 <= size <= len(model["vocab"]):
        raise ValueError(f"a BPE tokenizer of {len(model['vocab'])} tokens cannot be cut to {size}: 256 at least")
    model["vocab"] = {token: i for token, i in model["vocab"].items() if i < size}
    model["merges"] = [pair for pair in model["merges"] if "".join(pair) in model["vocab"]]
    parts["added_tokens"] = []
    smaller = Tokenizer.from_str(json.dumps(parts))
    return PreTrainedTokenizerFast(tokenizer_object=smaller, clean_up_tokenization_spaces=False)


def from_transformer_lens(hooked: Any) -> AttentionOnlyForCausalLM:
    """Convert a `HookedTransformer` to a model with the same logits, in eval mode.

    Raises:
        ValueError: the `HookedTransformer` is of another architecture.
    """
    cfg = hooked.cfg
    kind = {name: getattr(cfg, name) for name in _ARCHITECTURE}
    if kind != _ARCHITECTURE:
        raise ValueError(f"only a HookedTransformer with {_ARCHITECTURE} converts; this one has {kind}")
    config = AttentionOnlyConfig(
        vocab_size=cfg.d_vocab,
        hidden_size=cfg.d_model,
        num_hidden_layers=cfg.n_layers,
        num_attention_heads=cfg.n_heads,
        head_dim=cfg.d_head,
        max_position_embeddings=cfg.n_ctx,
        layer_norm_eps=cfg.eps,
    )
    model, theirs = AttentionOnlyForCausalLM(config), hooked.state_dict()
    with torch.no_grad():
        for name, ours in _as_theirs(model).items():
            ours.copy_(theirs[name])
    return model.eval()


def to_transformer_lens(model: AttentionOnlyForCausalLM) -> Any:
    """Convert a model to a `HookedTransformer` with the same logits, in eval mode.

    Raises:
        ImportError: transformer_lens is not installed (`pip install hf_llc[transformer-lens]`).
    """
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = model.config
    cfg = HookedTransformerConfig(
        d_vocab=config.vocab_size,
        d_model=config.hidden_size,
        n_layers=config.num_hidden_layers,
        n_heads=config.num_attention_heads,
        d_head=config.head_dim,
        n_ctx=config.max_position_embeddings,
        eps=config.layer_norm_eps,
        dtype=model.dtype,
        device=str(model.device),
        init_weights=False,
        **_ARCHITECTURE,
    )
    hooked = HookedTransformer(cfg)
    parameters = dict(hooked.named_parameters())
    with torch.no_grad():
        for name, ours in _as_theirs(model).items():
            parameters.pop(name).copy_(ours)
    assert not parameters, f"not filled: {sorted(parameters)}"
    return hooked.eval()


_ARCHITECTURE: dict[str, Any] = {
    "attn_only": True,
    "normalization_type": "LN",
    "positional_embedding_type": "shortformer",
}


def _as_theirs(model: AttentionOnlyForCausalLM) -> dict[str, Tensor]:
    """Views of the model's parameters, with TransformerLens's names and shapes; writing to them changes the model."""
    # TransformerLens has a head axis where `nn.Linear` has heads·head_dim, and multiplies from the left.
    heads = (model.config.num_attention_heads, model.config.head_dim)
    views = {
        "embed.W_E": model.embed.weight,
        "pos_embed.W_pos": model.position.weight,
        "ln_final.w": model.norm.weight,
        "ln_final.b": model.norm.bias,
        "unembed.W_U": model.unembed.weight.T,
        "unembed.b_U": model.unembed.bias,
    }
    for i, layer in enumerate(model.layers):
        assert isinstance(layer, AttentionLayer)
        block = f"blocks.{i}."
        views |= {block + "ln1.w": layer.norm.weight, block + "ln1.b": layer.norm.bias}
        for letter, part in (("Q", layer.query), ("K", layer.key), ("V", layer.value)):
            views[f"{block}attn.W_{letter}"] = part.weight.unflatten(0, heads).transpose(1, 2)
            views[f"{block}attn.b_{letter}"] = part.bias.unflatten(0, heads)
        views[f"{block}attn.W_O"] = layer.output.weight.T.unflatten(0, heads)
        views[f"{block}attn.b_O"] = layer.output.bias
    return views
