"""The structure of a model: its layers, their attention, experts and norms, and what stands before and after them."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from torch import nn

from hf_llc.components.attention import Attention, Cut, attention_of, projections
from hf_llc.components.masks import Masks, span, union, without
from hf_llc.errors import InputError

_CROSS = ("cross", "encdec", "encoder_attn")
_ROUTERS = ("gate", "router")
_MIXERS = ("mamba", "mixer", "ssm", "conv")
"""What stands in the place of attention in some layers; it is no mlp."""


class Structure:
    """Sets of weights by what they do in a model.

    Attributes:
        parameters: by name; tied ones once.
        tied: other names of tied parameters, and their names in `parameters`.
        everything: the parameters with `requires_grad`.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.parameters = dict(model.named_parameters())
        self._names = {id(p): name for name, p in self.parameters.items()}
        aliases = dict(model.named_parameters(remove_duplicate=False))
        self.tied = {name: self._names[id(p)] for name, p in aliases.items() if name not in self.parameters}
        self._attention: dict[tuple[int, bool], Attention | None] = {}
        self.everything: Masks = {name: None for name, p in self.parameters.items() if p.requires_grad}

    # ---- the structure ----

    @functools.cached_property
    def layers(self) -> list[tuple[str, nn.Module]]:
        """Path and module of each layer: the members of the outermost module lists, of those with attention if any."""
        lists = list(_outermost_lists(self.model, ""))
        with_attention = [each for each in lists if _has_attention(each[1])]
        return [
            (f"{path}.{name}", layer) for path, each in with_attention or lists for name, layer in each.named_children()
        ]

    def _attentions(self, layer: int) -> Iterator[tuple[str, nn.Module, bool]]:
        """Path and module of each attention of a layer, outermost first, and whether it is cross-attention."""
        start, module = self.layers[layer]
        found: list[str] = []
        for path, inner in module.named_modules():
            if any(f"{path}.".startswith(f"{each}." if each else "") for each in found):
                continue
            if projections(inner) or (_is_attention(path, inner) and not any(projections(m) for m in inner.modules())):
                found.append(path)
                yield f"{start}.{path}".rstrip("."), inner, any(word in path.lower() for word in _CROSS)

    def attention(self, layer: int, *, cross: bool = False) -> Attention | None:
        """The heads of a layer; None if it has no attention, or one whose projections are not known.

        Raises:
            InputError: its heads cannot be told.
        """
        if (layer, cross) not in self._attention:
            self._attention[layer, cross] = self._found_attention(layer, cross)
        return self._attention[layer, cross]

    def _found_attention(self, layer: int, cross: bool) -> Attention | None:
        mine = [(path, m) for path, m, is_cross in self._attentions(layer) if is_cross == cross and projections(m)]
        if len(mine) != 1:
            return None
        path, module = mine[0]
        return attention_of(module, path, getattr(self.model, "config", None))

    def _experts(self, layer: int) -> list[Masks]:
        """The weights of each expert of a layer."""
        for path, module in self.layers[layer][1].named_modules():
            if path.rpartition(".")[2] != "experts":
                continue
            stacked = list(module.parameters(recurse=False))
            if not stacked:
                return [self._of(child.parameters()) for child in module.children()]
            count = len(stacked[0])
            if all(len(p) == count for p in stacked):
                return [self._cut((p, 0, [(i, i + 1)]) for p in stacked) for i in range(count)]
        return []

    def _of(self, parameters: Iterator[nn.Parameter]) -> Masks:
        return {self._names[id(p)]: None for p in parameters}

    def _cut(self, cuts: Iterator[Cut]) -> Masks:
        return union({self._names[id(p)]: span(p.shape, axis, ranges)} for p, axis, ranges in cuts)

    # ---- masks by name ----

    @functools.cached_property
    def _norms(self) -> Masks:
        modules = [m for m in self.model.modules() if "norm" in type(m).__name__.lower()]
        return {self._names[id(p)]: None for m in modules for p in m.parameters(recurse=False)}

    @functools.cached_property
    def _embed(self) -> Masks:
        """Everything that makes vectors of inputs, before the layers: of tokens, positions, patches."""
        getter = getattr(self.model, "get_input_embeddings", None)
        first = None if getter is None else _or_none(getter)
        modules = [
            m for m in self.model.modules() if isinstance(m, nn.Embedding) or "embed" in type(m).__name__.lower()
        ]
        modules = [m for m in modules if "unembed" not in type(m).__name__.lower() and m is not self.model]
        inside = {id(p) for _, layer in self.layers for p in layer.parameters()}
        found = [p for m in [*([first] if isinstance(first, nn.Module) else []), *modules] for p in m.parameters()]
        names = {self._names[id(p)]: None for p in found if id(p) not in inside}
        return without(names, self._norms)

    def _unembed(self) -> Masks:
        getter = getattr(self.model, "get_output_embeddings", None)
        last = None if getter is None else _or_none(getter)
        if last is None:
            last = next((m for m in self.model.modules() if type(m).__name__ == "Unembed"), None)
        if not isinstance(last, nn.Module):
            return {}
        masks = self._of(last.parameters())
        tied = next((name for name in masks if name in self._embed), None)
        if tied is not None:
            raise InputError(f"unembed is tied to embed: both are {tied}", remedy="name embed")
        return masks

    def _layer(self, number: int, part: str | None) -> Masks:
        """A layer, or one of its parts; empty if it has none."""
        whole = self._of(self.layers[number][1].parameters())
        attentions = [(self._of(m.parameters()), cross) for _, m, cross in self._attentions(number)]
        if part is None:
            return whole
        if part == "norms":
            return {name: None for name in whole if name in self._norms}
        if part in ("attn", "cross"):
            return without(union(masks for masks, cross in attentions if cross == (part == "cross")), self._norms)
        if part == "router":
            return self._router(number)
        if len(attentions) == 1 and attentions[0][0].keys() == whole.keys():
            return {}  # the layer is its attention
        mixers = [m for path, m in self.layers[number][1].named_modules() if _is_among(path, _MIXERS)]
        others = union([*(masks for masks, _ in attentions), *(self._of(m.parameters()) for m in mixers)])
        return without(without(whole, others), self._norms)

    def _router(self, layer: int) -> Masks:
        modules = self.layers[layer][1].named_modules() if self._experts(layer) else ()
        return union(self._of(m.parameters()) for path, m in modules if path.rpartition(".")[2] in _ROUTERS)


def _is_attention(path: str, module: nn.Module) -> bool:
    """Whether a module is attention: by its projections or, if they are not known, by its name."""
    name = path.lower().rpartition(".")[2]
    return bool(projections(module)) or (any(word in name for word in ("attn", "attention")) and "norm" not in name)


def _has_attention(module: nn.Module) -> bool:
    """Whether a module holds attention with weights."""
    inner = ((path, m) for path, m in module.named_modules() if next(m.parameters(), None) is not None)
    return any(_is_attention(path, m) for path, m in inner)


def _is_among(path: str, words: tuple[str, ...]) -> bool:
    """Whether the last name of a path has one of the words in it."""
    return any(word in path.lower().rpartition(".")[2] for word in words)


def _or_none(getter: object) -> object:
    """What the model gives; None where it has no such thing."""
    try:
        return getter()  # type: ignore[operator]
    except (NotImplementedError, AttributeError):
        return None


def _outermost_lists(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """Path and module of the module lists (of sequences, if they are all there is) that lie in no other."""
    for name, child in module.named_children():
        here = f"{path}.{name}".lstrip(".")
        if isinstance(child, nn.ModuleList):
            yield here, child
        else:
            yield from _outermost_lists(child, here)
