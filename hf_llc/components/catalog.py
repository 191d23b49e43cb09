"""`Catalog`: the components of a model by name, found from its structure and configuration."""

from __future__ import annotations

import re

from hf_llc.components.masks import Masks, union, without
from hf_llc.components.structure import Structure
from hf_llc.errors import InputError

_NUMBER = r"[\d*?\[\]!-]+"
_SHAPE = re.compile(rf"embed|unembed|norms|rest|l({_NUMBER})(?: (attn|cross|mlp|norms|router)|([hgxe])({_NUMBER}))?")
"""What names of components look like, with globs in place of numbers."""

_ALL_OF = {"h": "heads", "g": "groups", "x": "heads of cross-attention", "e": "experts"}


class Catalog(Structure):
    """The components of a model.

    `embed`, `unembed`, `norms`; of each layer `l3`, `l3 attn`, `l3 cross` (cross-attention), `l3 mlp`, `l3 norms`,
    `l3 router`; `l3h5`, a query head: its rows of q and columns of o, and of k and v if no other head uses them;
    `l3g1`, a group of heads with their common k and v; `l3x5`, a head of cross-attention; `l3e7`, an expert; `rest`,
    what is in none of the components of `partition`. An encoder's layers come before those of the decoder.
    """

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
        attention = None if letter == "e" else self.attention(layer, cross=letter == "x")
        if letter == "e":
            count = len(self._experts(layer))
        elif attention is None:
            count = 0
        else:
            count = attention.num_groups if letter == "g" else attention.num_heads
        if letter == "g" and attention is not None and not attention.is_grouped:
            raise InputError(f"l{layer} has no groups: each head has its own keys", remedy=f"name l{layer}h{index}")
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
