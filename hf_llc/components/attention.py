"""Where the heads of an attention layer are: a table of names, and sizes from module, config and shapes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from hf_llc.errors import InputError

SEPARATE = (
    ("q_proj", "k_proj", "v_proj", "o_proj"),  # Llama, Mistral, Mixtral, Qwen, Gemma, ViT
    ("q_proj", "k_proj", "v_proj", "out_proj"),  # OPT, BART, GPT-J, CLIP
    ("q_proj", "k_proj", "v_proj", "dense"),  # Phi
    ("self.query", "self.key", "self.value", "output.dense"),  # BERT, RoBERTa
    ("attention.query", "attention.key", "attention.value", "output.dense"),  # ViT of transformers 4
    ("q", "k", "v", "o"),  # T5
    ("q_lin", "k_lin", "v_lin", "out_lin"),  # DistilBERT
    ("self.query_proj", "self.key_proj", "self.value_proj", "output.dense"),  # DeBERTa
    ("query", "key", "value", "dense"),  # ALBERT
    ("query", "key", "value", "output"),  # hf_llc's attention-only transformer
)
"""Modules of queries, keys, values and output, by their paths in the attention module."""

FUSED = (
    ("c_attn", "c_proj", "GPT2|ImageGPT"),
    ("qkv_proj", "o_proj", "Phi3|Phi4"),
    ("query_key_value", "dense", "GPTNeoX|Bloom|Falcon|Persimmon"),
    ("Wqkv", "out_proj", "Mpt"),
    ("Wqkv", "Wo", "ModernBert"),
    ("qkv", "proj", "^Attention$"),  # timm
)
"""One module of queries, keys and values, the module of the output, and the classes that lay them out as `_fused` says:
others with the same names may not."""

LENS = (("W_Q", "W_K", "W_V", "W_O"), ("W_Q", "_W_K", "_W_V", "W_O"))
"""TransformerLens: parameters with a head axis in front."""

_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head")
_HEAD_SIZES = ("head_dim", "attention_head_size", "head_size", "key_value_proj_dim")

Cut = tuple[nn.Parameter, int, list[tuple[int, int]]]
"""A parameter, an axis of it, and ranges along that axis."""


@dataclass(frozen=True)
class Attention:
    """Heads of one attention module.

    Attributes:
        path: of the module in the model.
        num_heads: query heads.
        num_groups: heads of keys and values; as many as query heads, or a divisor.
        queries: cuts of one head, `queries[head]`: its rows of q, and its columns of o.
        keys: cuts of one group's keys and values.
    """

    path: str
    num_heads: int
    num_groups: int
    queries: Sequence[list[Cut]]
    keys: Sequence[list[Cut]]

    @property
    def is_grouped(self) -> bool:
        """Heads share their keys and values."""
        return self.num_groups < self.num_heads

    def of_head(self, head: int) -> list[Cut]:
        """The cuts of a query head, with its keys and values if it shares them with none."""
        return [*self.queries[head], *([] if self.is_grouped else self.keys[head])]

    def of_group(self, group: int) -> list[Cut]:
        """The cuts of keys and values, and of the query heads that use them."""
        each = self.num_heads // self.num_groups
        mine = range(group * each, (group + 1) * each)
        return [*self.keys[group], *(cut for head in mine for cut in self.queries[head])]


def projections(module: nn.Module) -> tuple[str, ...] | None:
    """The row of the tables that describes this module; None if it is no attention module that they know."""
    for row in SEPARATE:
        if all(isinstance(getattr(_at(module, path), "weight", None), nn.Parameter) for path in row):
            return row
    for row in FUSED:
        is_of_class = re.search(row[2], type(module).__name__)
        if is_of_class and _at(module, row[0]) is not None and _at(module, row[1]) is not None:
            return row
    for row in LENS:
        if all(isinstance(getattr(module, name, None), nn.Parameter) for name in row):
            return row
    return None


def attention_of(module: nn.Module, path: str, config: Any) -> Attention:
    """The heads of an attention module that `projections` knows.

    Raises:
        InputError: its shapes are not those of heads, as the module and its config describe them.
    """
    row = projections(module)
    assert row is not None
    if row in LENS:
        return _lens(module, path, row)
    output = _at(module, row[1 if row in FUSED else 3])
    inner = output.weight.shape[_in_axis(output)]
    num_heads, size = _heads(module, path, config, inner)
    outputs = [[(output.weight, _in_axis(output), [_range(h, size)])] for h in range(num_heads)]
    if row in FUSED:
        rows_of_q, rows_of_kv = _fused(module, path, _at(module, row[0]), num_heads, size)
        at: Any = [_at(module, row[0])] * 3
    else:
        at = [_at(module, name) for name in row[:3]]
        _check(at[0].weight.shape[_out_axis(at[0])] == inner, path, "queries", at[0].weight.shape)
        wide = at[1].weight.shape[_out_axis(at[1])]
        _check(at[2].weight.shape[_out_axis(at[2])] == wide and wide % size == 0, path, "values", at[2].weight.shape)
        rows_of_q = [[_range(h, size)] for h in range(num_heads)]
        rows_of_kv = [([_range(g, size)], [_range(g, size)]) for g in range(wide // size)]
    _check(num_heads % len(rows_of_kv) == 0, path, "keys", at[1].weight.shape)
    queries = [[*_rows(at[0], rows), *outputs[h]] for h, rows in enumerate(rows_of_q)]
    keys = [[*_rows(at[1], k), *_rows(at[2], v)] for k, v in rows_of_kv]
    return Attention(path, num_heads, len(keys), queries, keys)


def _heads(module: nn.Module, path: str, config: Any, inner: int) -> tuple[int, int]:
    """Number and size of the heads: what the module says, else its config; checked against the output's columns."""
    inside = [child for name, child in module.named_children() if name in ("self", "attention")]
    said = [module, *inside, getattr(module, "config", None), config]
    size = next((x for x in _values(said[: 1 + len(inside)], _HEAD_SIZES)), None)
    number = next((x for x in _values(said, _HEADS)), None)
    if size is None and number is not None:
        size = inner // number
    _check(size is not None and size > 0 and inner % size == 0, path, "heads", (inner,))
    assert size is not None
    _check(number in (None, inner // size), path, f"{number} heads of {size}", (inner,))
    return inner // size, size


def _values(objects: Sequence[Any], names: Sequence[str]) -> Iterator[int]:
    for each in objects:
        for name in names:
            value = getattr(each, name, None)
            if isinstance(value, int) and not isinstance(value, bool):
                yield value


def _fused(module: Any, path: str, fused: Any, num_heads: int, size: int) -> tuple[list[Any], list[Any]]:
    """Ranges of each head's queries, and of each group's keys and values, in a fused projection.

    Falcon, GPT-NeoX and BLOOM put a group's queries, keys and values one after the other. The others, and Falcon with
    one group, put all queries first, then all keys, then all values.
    """
    total = fused.weight.shape[_out_axis(fused)]
    _check(
        total % size == 0 and (total // size - num_heads) % 2 == 0, path, "queries, keys, values", fused.weight.shape
    )
    num_groups = (total // size - num_heads) // 2
    _check(num_groups > 0 and num_heads % num_groups == 0, path, "queries, keys, values", fused.weight.shape)
    is_one_group = getattr(module, "multi_query", False) and not getattr(module, "new_decoder_architecture", False)
    if not hasattr(module, "query_key_value") or is_one_group:
        blocks = range(num_heads, num_heads + num_groups)
        queries = [[_range(h, size)] for h in range(num_heads)]
        return queries, [([_range(b, size)], [_range(b + num_groups, size)]) for b in blocks]
    each = num_heads // num_groups
    starts = [group * (each + 2) for group in range(num_groups)]
    queries = [[_range(start + h, size)] for start in starts for h in range(each)]
    return queries, [([_range(s + each, size)], [_range(s + each + 1, size)]) for s in starts]


def _lens(module: nn.Module, path: str, row: tuple[str, ...]) -> Attention:
    """Heads of TransformerLens: the first axis."""

    def cut(name: str, head: int) -> list[Cut]:
        weights = [getattr(module, name), getattr(module, name.replace("W", "b"), None)]
        return [(w, 0, [(head, head + 1)]) for w in weights if isinstance(w, nn.Parameter)]

    q, k, v, o = row
    num_heads, num_groups = getattr(module, q).shape[0], getattr(module, k).shape[0]
    _check(num_heads % num_groups == 0, path, "keys", getattr(module, k).shape)
    queries = [[*cut(q, h), (getattr(module, o), 0, [(h, h + 1)])] for h in range(num_heads)]
    return Attention(path, num_heads, num_groups, queries, [[*cut(k, g), *cut(v, g)] for g in range(num_groups)])


def _rows(module: Any, ranges: list[tuple[int, int]]) -> list[Cut]:
    """Cuts of a linear module's outputs: of its weight and of its bias."""
    bias = getattr(module, "bias", None)
    of_bias: list[Cut] = [(bias, 0, ranges)] if isinstance(bias, nn.Parameter) else []
    return [(module.weight, _out_axis(module), ranges), *of_bias]


def _range(number: int, size: int) -> tuple[int, int]:
    return number * size, (number + 1) * size


def _out_axis(module: nn.Module) -> int:
    """The axis of outputs in the weight: the first, but for GPT-2's Conv1D."""
    return int(type(module).__name__ == "Conv1D")


def _in_axis(module: nn.Module) -> int:
    return 1 - _out_axis(module)


def _at(module: nn.Module, path: str) -> Any:
    """The submodule at a path; None if there is none."""
    found: Any = module
    for name in path.split("."):
        found = getattr(found, "_modules", {}).get(name)
    return found


def _check(is_right: bool, path: str, what: str, shape: Sequence[int]) -> None:
    """Refuse to cut a tensor whose shape is not that of heads.

    Raises:
        InputError: `is_right` is false.
    """
    if not is_right:
        raise InputError(
            f"the heads of {path} cannot be told: {what} do not fit its shapes",
            value=tuple(shape),
            remedy="name parameters, or give masks",
        )
