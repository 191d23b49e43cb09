"""`Catalog`: the components of a model by name, found from its structure and configuration."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

from torch import nn

from hf_llc.components.attention import Attention, Cut, attention_of, projections
from hf_llc.components.masks import Masks, span, union, without
from hf_llc.errors import InputError

_NUMBER = r"[\d*?\[\]!-]+"
_SHAPE = re.compile(rf"embed|unembed|norms|rest|l({_NUMBER})(?: (attn|cross|mlp|norms|router)|([hgxe])({_NUMBER}))?")
"""What names of components look like, with globs in place of numbers."""

_CROSS = ("cross", "encdec", "encoder_attn")
_ROUTERS = ("gate", "router")
_ALL_OF = {"h": "heads", "g": "groups", "x": "heads of cross-attention", "e": "experts"}


class Catalog:
    """The components of a model.

    `embed`, `unembed`, `norms`; of each layer `l3`, `l3 attn`, `l3 cross` (cross-attention), `l3 mlp`, `l3 norms`,
    `l3 router`; `l3h5`, a query head: its rows of q and columns of o, and of k and v if no other head uses them;
    `l3g1`, a group of heads with their common k and v; `l3x5`, a head of cross-attention; `l3e7`, an expert; `rest`,
    what is in none of the components of `partition`. An encoder's layers come before those of the decoder.

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
        with_attention = [each for each in lists if any(projections(m) for m in each[1].modules())]
        return [
            (f"{path}.{name}", layer) for path, each in with_attention or lists for name, layer in each.named_children()
        ]

    def _attentions(self, layer: int) -> Iterator[tuple[str, nn.Module, bool]]:
        """Path and module of each attention of a layer, outermost first, and whether it is cross-attention."""
        start, module = self.layers[layer]
        found: list[str] = []
        for path, inner in module.named_modules():
            if any(path == each or path.startswith(f"{each}.") for each in found):
                continue
            is_named = any(word in path.lower().rpartition(".")[2] for word in ("attn", "attention"))
            is_norm = "norm" in path.lower().rpartition(".")[2]
            if projections(inner) or (is_named and not is_norm and not any(projections(m) for m in inner.modules())):
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
        return without(without(whole, union(masks for masks, _ in attentions)), self._norms)

    def _router(self, layer: int) -> Masks:
        modules = self.layers[layer][1].named_modules() if self._experts(layer) else ()
        return union(self._of(m.parameters()) for path, m in modules if path.rpartition(".")[2] in _ROUTERS)

    def masks(self, name: str) -> Masks:
        """The weights of the component `name`.

        Raises:
            InputError: the model has none, with what there is.
        """
        match = _SHAPE.fullmatch(name)
        assert match is not None
        number, part, letter, index = match.groups()
        if number is None:
            masks = self._rest() if name == "rest" else self._outer(name)
        else:
            layer = self._layer_number(name, number)
            masks = self._layer(layer, part) if letter is None else self._piece(layer, letter, int(index))
        if not masks:
            raise InputError(f"the model has no {name}", value=type(self.model).__name__, allowed=self.summary())
        return masks

    def _layer_number(self, name: str, number: str) -> int:
        if int(number) >= len(self.layers):
            raise InputError(f"there is no {name}", value=f"layer {int(number)}", allowed=self.summary())
        return int(number)

    def _piece(self, layer: int, letter: str, index: int) -> Masks:
        """A head, a group or an expert."""
        attention = self.attention(layer, cross=letter == "x")
        if letter == "e":
            count = len(self._experts(layer))
        elif attention is None:
            count = 0
        else:
            count = attention.num_groups if letter == "g" else attention.num_heads
        if letter == "g" and attention is not None and not attention.is_grouped:
            raise InputError(f"l{layer} has no groups: each head has its keys", remedy=f"name l{layer}h{index}")
        if index >= count:
            allowed = f"0 … {count - 1}" if count else self.summary()
            there = f"l{layer} has {count} {_ALL_OF[letter]}" if count else f"l{layer} has no {_ALL_OF[letter]}"
            raise InputError(there, value=f"l{layer}{letter}{index}", allowed=allowed)
        if letter == "e":
            return self._experts(layer)[index]
        assert attention is not None
        return self._cut(iter(attention.of_group(index) if letter == "g" else attention.of_head(index)))

    def _rest(self) -> Masks:
        known = union(self.masks(name) for name in self._partition())
        return without(self.everything, known)

    # ---- names ----

    def expand(self, term: str) -> list[str] | None:
        """The names of the components that `term` means: itself, or those that match its globs; None: no such form."""
        match = _SHAPE.fullmatch(term)
        if match is None:
            return None
        if not any(char in term for char in "*?["):
            return [term]
        glob = re.sub(r"\[!", "[^", term).replace("*", r"\d*").replace("?", r"\d")
        try:
            names = [name for name in self.names() if re.fullmatch(glob, name)]
        except re.error:
            names = []
        if not names:
            raise InputError("the model has no such components", value=term, allowed=self.summary())
        return names

    def names(self) -> list[str]:
        """Every component of the model, in its order."""
        layers = [name for i in range(len(self.layers)) for name in (*self._parts(i), *self._pieces(i))]
        outer = [name for name in ("embed", "unembed", "norms") if self._has(name)]
        return [*outer[:1], *layers, *outer[1:]]

    def _has(self, name: str) -> bool:
        """Whether there is an embed, unembed or norms of its own."""
        try:
            return bool(self._outer(name))
        except InputError:
            return False

    def _outer(self, name: str) -> Masks:
        return self._unembed() if name == "unembed" else self._embed if name == "embed" else self._norms

    def _parts(self, layer: int) -> list[str]:
        parts = ("attn", "cross", "mlp", "norms", "router")
        return [f"l{layer}", *(f"l{layer} {part}" for part in parts if self._layer(layer, part))]

    def _pieces(self, layer: int) -> list[str]:
        try:
            own, cross = self.attention(layer), self.attention(layer, cross=True)
        except InputError:  # said where a head is asked for
            own = cross = None
        counts = {
            "h": 0 if own is None else own.num_heads,
            "g": own.num_groups if own is not None and own.is_grouped else 0,
            "x": 0 if cross is None else cross.num_heads,
            "e": len(self._experts(layer)),
        }
        return [f"l{layer}{letter}{i}" for letter, count in counts.items() for i in range(count)]

    def _partition(self) -> list[str]:
        """Components that do not overlap, without `rest`."""
        inner: list[str] = []
        for i in range(len(self.layers)):
            pieces, parts = self._pieces(i), self._parts(i)
            grouped = [name for name in pieces if name.startswith(f"l{i}g")]
            inner += grouped or [name for name in pieces if name.startswith(f"l{i}h")] or _among(f"l{i} attn", parts)
            inner += [name for name in pieces if name.startswith(f"l{i}x")] or _among(f"l{i} cross", parts)
            experts = [name for name in pieces if name.startswith(f"l{i}e")]
            inner += [*_among(f"l{i} router", parts), *experts] if experts else _among(f"l{i} mlp", parts)
        return [name for name in ("embed", *inner, "norms", "unembed") if name in inner or self._has(name)]

    def partition(self) -> list[str]:
        """Components that share no weight and leave none out: heads (or groups), experts or mlp, embeddings, norms."""
        names = self._partition()
        return [*names, "rest"] if self._rest() else names

    def summary(self) -> str:
        """In a few words what there is to name."""
        words = [name for name in ("embed", "unembed", "norms") if self._has(name)]
        if self.layers:
            last = len(self.layers) - 1
            words.append("l0" if last == 0 else f"l0 … l{last}")
            pieces = self._pieces(0)
            for letter in "hgxe":
                mine = [name for name in pieces if name.startswith(f"l0{letter}")]
                words += [f"{mine[0]} … {mine[-1]}"] if mine else []
            words += [name for name in self._parts(0) if " " in name]
        return ", ".join([*words, "names of parameters and globs of them"])


def _among(name: str, names: list[str]) -> list[str]:
    return [name] if name in names else []


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
