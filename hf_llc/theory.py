"""Exact learning coefficients λ and multiplicities m, as fractions: what samplers are tested against.

The Bayes free energy of a model is n·L_n(w*) + λ ln n − (m − 1) ln ln n + O(1) (Watanabe 2009). λ is a real log
canonical threshold; "λ of an ideal" means that of the sum of its generators' squares.

[A] is Aoyagi 2024, Neural Networks 106132; [AW] Aoyagi and Watanabe 2005, Neural Networks 18(7).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from hf_llc.errors import InputError

Bar = tuple[int, int]
"""First and last layer of activations, 0 … M, that a direction lives through."""

_MAX_PATHS = 2000
"""Chains of bars enumerated at most. Beyond that, λ(w*) gets the bounds that need no chains."""


class Coefficient(NamedTuple):
    """λ, exactly, and its multiplicity m."""

    learning_coefficient: Fraction
    multiplicity: int


class LocalCoefficient(NamedTuple):
    """Two bounds on λ(w*), equal if it is known; and the multiplicity, None if it is not known."""

    lower: Fraction
    upper: Fraction
    multiplicity: int | None

    @property
    def is_exact(self) -> bool:
        """Whether the bounds are equal."""
        return self.lower == self.upper


def regular(d: int) -> Coefficient:
    """λ = d/2, m = 1: a model with a positive definite Fisher information in d parameters.

    Raises:
        InputError: d is negative.
    """
    if d < 0:
        raise InputError("the number of parameters is negative", value=d, allowed="0 or more")
    return Coefficient(Fraction(d, 2), 1)


def normal_crossing(ks: Sequence[int]) -> Coefficient:
    """K(w) = Π w_j^{2k_j}: λ = min 1/(2k_j), m the number of j that attain it (Watanabe 2009, theorem 6.6).

    Raises:
        InputError: a negative exponent, or none above zero.
    """
    if not ks or min(ks) < 0 or max(ks) == 0:
        raise InputError("not the exponents of a normal crossing", value=list(ks), allowed="0 or more, one above 0")
    return Coefficient(Fraction(1, 2 * max(ks)), list(ks).count(max(ks)))


def reduced_rank(inputs: int, hidden: int, outputs: int, rank: int) -> Coefficient:
    """y = W₂W₁x with true product of rank r: the closed form of [AW], in its four cases.

    Raises:
        InputError: a rank that no product of these widths has.
    """
    _check_widths([inputs, hidden, outputs], rank)
    m, h, n, r = inputs, hidden, outputs, rank
    if n + h < m + r:
        return Coefficient(Fraction(h * n - h * r + m * r, 2), 1)
    if m + h < n + r:
        return Coefficient(Fraction(h * m - h * r + n * r, 2), 1)
    if m + n < h + r:
        return Coefficient(Fraction(m * n, 2), 1)
    eighths = -((h + r) ** 2) - m**2 - n**2 + 2 * (h + r) * (m + n) + 2 * m * n
    is_odd = (m + h + n + r) % 2
    return Coefficient(Fraction(eighths + is_odd, 8), 1 + is_odd)


def deep_linear(widths: Sequence[int], rank: int) -> Coefficient:
    """λ and m of y = W_M ⋯ W_1 x with a true product of rank r: global, over all weights ([A], theorem 1).

    With Δ_i = H_i − r sorted, Σ the ℓ + 1 smallest with max Σ < next, s = ΣΔ ≥ ℓ·max Σ and s < ℓ·next, 𝓜 = ⌈s/ℓ⌉ and
    a = s − (𝓜 − 1)ℓ: m = a(ℓ − a) + 1 and λ = ½r(H_0 + H_M − r) + ¼[(ℓ − a)(𝓜 − 1)² + a𝓜² − ΣΔ²]. Exactly one Σ
    qualifies. The inputs' covariance is taken to have full rank.

    Args:
        widths: H_0 … H_M, inputs first.
        rank: of the true product.

    Raises:
        InputError: fewer than two widths, a width below 1, or a rank that no such product has.
    """
    _check_widths(widths, rank)
    excess = sorted(width - rank for width in widths)
    for ell in range(1, len(excess)):
        smallest, rest = excess[: ell + 1], excess[ell + 1 :]
        s = sum(smallest)
        if s >= ell * smallest[-1] and (not rest or (smallest[-1] < rest[0] and s < ell * rest[0])):
            return _aoyagi(widths, rank, smallest)
    raise AssertionError(f"no subset of {widths} at rank {rank} satisfies theorem 1 of [A]")


def _aoyagi(widths: Sequence[int], rank: int, smallest: Sequence[int]) -> Coefficient:
    """λ and m by theorem 1 of [A], given the Δ of the subset Σ."""
    ell, s = len(smallest) - 1, sum(smallest)
    ceiling = -(-s // ell)
    a = s - (ceiling - 1) * ell
    quarters = (ell - a) * (ceiling - 1) ** 2 + a * ceiling**2 - sum(d * d for d in smallest)
    fixed = Fraction(rank * (widths[0] + widths[-1] - rank), 2)
    return Coefficient(fixed + Fraction(quarters, 4), a * (ell - a) + 1)


def deep_linear_local(widths: Sequence[int], ranks: Sequence[int]) -> LocalCoefficient:
    """λ(w*) of a deep linear network at weights whose layers have the given ranks, otherwise in general position.

    Up to a change of coordinates in every layer, w* is a sum of bars: directions born in layer a of the activations
    and lost after layer b, n_ab of each. By general position rank(W_j ⋯ W_{i+1}) = min R, so the bars are the
    connected components of the superlevel sets of H_0, R_1, H_1, …, H_M: nested or disjoint. The normal space to the
    orbit of w* under changes of the hidden coordinates is spanned by free blocks: one, n_ab × n_a'b', wherever a bar
    [a', b'] starts where another ends, a' = b + 1, and one from [0, b] to [c, M] where they overlap or touch,
    c ≤ b + 1. On that slice the product's block from [0, b] to [c, M] is a free block if c ≤ b + 1 (a regular direction
    each entry); otherwise it is the sum, over the chains of bars [0, b] → [b + 1, b'] → ⋯ → [c, M], of the products of
    their free blocks. Hence λ(w*) = ½r(H_0 + H_M − r) + ½ Σ_{c ≤ b+1} n_0b n_cM + λ(J), J the ideal of those sums.

    A chain that shares no block and no pair of ends with another is a deep linear network of its own, at rank 0, and
    such parts add up. Where chains do share, no closed form is known and the answer is a pair of bounds.

    Args:
        widths: H_0 … H_M.
        ranks: R_1 … R_M; the product has rank min R.

    Raises:
        InputError: the number of ranks is wrong, or a layer cannot have its rank.
    """
    _check_ranks(widths, ranks)
    top, rank = len(ranks), min(ranks)
    bars = _bars(widths, ranks)
    fixed = Fraction(rank * (widths[0] + widths[-1] - rank), 2)
    for (a, b), n in bars.items():
        if a == 0 and b < top:
            fixed += Fraction(n * sum(k for (c, d), k in bars.items() if d == top and 1 <= c <= b + 1), 2)
    lowest = deep_linear(widths, rank).learning_coefficient
    chains = _chains(bars, top)
    if chains is None:
        every = Fraction(sum(n * k for (_, b), n in bars.items() for (c, _), k in bars.items() if c == b + 1), 2)
        return LocalCoefficient(max(fixed, lowest), fixed + every, None)
    lower, upper, excess, is_known = fixed, fixed, 0, True
    for part in _parts(chains):
        values = [deep_linear([bars[bar] for bar in chain], 0) for chain in part]
        if len(part) == 1:
            lower += values[0].learning_coefficient
            upper += values[0].learning_coefficient
            excess += values[0].multiplicity - 1
        else:
            is_known = False
            lower += _lower_bound(part, [value.learning_coefficient for value in values])
            upper += min(sum(value.learning_coefficient for value in values), _half_min_cut(part, bars))
    # λ is lower semicontinuous: at w* it is at least its minimum over all factorizations of the product.
    return LocalCoefficient(max(lower, lowest), upper, 1 + excess if is_known else None)


def _bars(widths: Sequence[int], ranks: Sequence[int]) -> dict[Bar, int]:
    """n_ab: the number of directions that live exactly from layer a to layer b, where it is not 0."""
    top = len(ranks)

    def through(i: int, j: int) -> int:
        """rank(W_j ⋯ W_{i+1}): directions that live from layer i to layer j at least."""
        if i < 0 or j > top:
            return 0
        return widths[i] if i == j else min(ranks[i:j])

    counts = {
        (a, b): through(a, b) - through(a - 1, b) - through(a, b + 1) + through(a - 1, b + 1)
        for a in range(top + 1)
        for b in range(a, top + 1)
    }
    return {bar: n for bar, n in counts.items() if n > 0}


def _chains(bars: dict[Bar, int], top: int) -> list[list[Bar]] | None:
    """The chains of three bars or more from input to output, in which a bar starts where the last ended.

    None if there are more than `_MAX_PATHS`.
    """
    complete: list[list[Bar]] = []
    unfinished = [[bar] for bar in bars if bar[0] == 0 and bar[1] < top]
    while unfinished:
        chain = unfinished.pop()
        for bar in bars:
            if bar[0] == chain[-1][1] + 1:
                (complete if bar[1] == top else unfinished).append([*chain, bar])
        if len(complete) + len(unfinished) > _MAX_PATHS:
            return None
    return sorted(chain for chain in complete if len(chain) > 2)


def _blocks(chain: Sequence[Bar]) -> set[tuple[Bar, Bar]]:
    """The free blocks of a chain, one between two successive bars."""
    return set(pairwise(chain))


def _are_tied(one: Sequence[Bar], other: Sequence[Bar]) -> bool:
    """Whether two chains share a free block, or belong to the same block of the product."""
    return bool(_blocks(one) & _blocks(other)) or (one[0], one[-1]) == (other[0], other[-1])


def _parts(chains: Sequence[list[Bar]]) -> list[list[list[Bar]]]:
    """Group the chains so that none is tied to a chain of another group."""
    parts: list[list[list[Bar]]] = []
    for chain in chains:
        tied = [part for part in parts if any(_are_tied(chain, other) for other in part)]
        parts = [part for part in parts if part not in tied]
        parts.append([chain, *(other for part in tied for other in part)])
    return parts


def _lower_bound(part: Sequence[list[Bar]], values: Sequence[Fraction]) -> Fraction:
    """A lower bound on λ of tied chains: the sum over untied ones among them, taken largest first.

    Setting blocks to zero cannot raise λ. Those of the chains taken are kept, and must make up no further chain.

    Args:
        part: chains.
        values: λ of each alone.
    """
    kept: list[list[Bar]] = []
    total = Fraction(0)
    for value, chain in sorted(zip(values, part, strict=True), reverse=True):
        blocks = _blocks(chain).union(*(_blocks(other) for other in kept))
        alive = [other for other in part if _blocks(other) <= blocks]
        if len(alive) == len(kept) + 1 and not any(_are_tied(chain, other) for other in kept):
            kept.append(chain)
            total += value
    return total


def _half_min_cut(part: Sequence[list[Bar]], bars: dict[Bar, int]) -> Fraction:
    """An upper bound on λ(J): half the entries of the smallest set of blocks that cuts all chains.

    J lies in the ideal of any such blocks. The minimum cut is found as a maximum flow, by shortest augmenting paths
    (Edmonds and Karp 1972, Journal of the ACM 19(2)).
    """
    capacity: dict[tuple[object, object], int] = {}
    for chain in part:
        for one, other in _blocks(chain):
            capacity[one, other] = bars[one] * bars[other]
            capacity.setdefault((other, one), 0)
        capacity["in", chain[0]] = capacity[chain[-1], "out"] = sum(bars.values()) ** 2
    flow = 0
    while True:
        previous: dict[object, object] = {"in": "in"}
        queue: list[object] = ["in"]
        for node in queue:
            for (one, other), left in capacity.items():
                if one == node and left > 0 and other not in previous:
                    previous[other] = node
                    queue.append(other)
        if "out" not in previous:
            return Fraction(flow, 2)
        path: list[tuple[object, object]] = []
        node: object = "out"
        while node != "in":
            path.append((previous[node], node))
            node = previous[node]
        amount = min(capacity[edge] for edge in path)
        flow += amount
        for one, other in path:
            capacity[one, other] -= amount
            capacity[other, one] = capacity.get((other, one), 0) + amount


def _check_widths(widths: Sequence[int], rank: int) -> None:
    if len(widths) < 2 or min(widths) < 1:
        raise InputError("not the widths of a network", value=list(widths), allowed="two or more, each 1 or more")
    if not 0 <= rank <= min(widths):
        raise InputError(
            "no product of these layers has this rank", value=rank, allowed=f"0 … {min(widths)}, the smallest width"
        )


def _check_ranks(widths: Sequence[int], ranks: Sequence[int]) -> None:
    _check_widths(widths, 0)
    if len(ranks) != len(widths) - 1:
        raise InputError("there is not one rank for each layer", value=list(ranks), allowed=f"{len(widths) - 1} ranks")
    for layer, (rank, one, other) in enumerate(zip(ranks, widths[:-1], widths[1:], strict=True)):
        if not 0 <= rank <= min(one, other):
            raise InputError(
                f"layer {layer + 1} is {other} × {one} and cannot have this rank",
                value=rank,
                allowed=f"0 … {min(one, other)}",
            )
