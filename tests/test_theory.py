"""Exact learning coefficients: published values, other closed forms, a search of all subsets, and the command."""

from __future__ import annotations

import itertools
import json
import os
import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from hf_llc import theory
from hf_llc.cli.console import BAD_INPUT, OK
from hf_llc.cli.entry_point import main
from hf_llc.errors import InputError
from hf_llc.theory import deep_linear, deep_linear_local, normal_crossing, reduced_rank, regular


def _vectors(name: str) -> list[dict[str, Any]]:
    path = Path(os.environ["HF_LLC_DATA"]).parent / "vectors" / name
    if not path.is_file():
        pytest.skip(f"no file {path}")
    return json.loads(path.read_text(encoding="utf-8"))


def _random_network(
    rng: random.Random, *, most_layers: int = 6, widest: int = 12, cut: float = 0.5
) -> tuple[list[int], list[int]]:
    """Widths, and layer ranks of which about a share `cut` is lowered."""
    widths = [rng.randint(1, widest) for _ in range(rng.randint(2, most_layers + 1))]
    full = [min(pair) for pair in itertools.pairwise(widths)]
    return widths, [rng.randint(1, k) if rng.random() < cut else k for k in full]


def test_global_vectors() -> None:
    for case in _vectors("dln_global.json"):
        assert deep_linear(case["widths"], case["rank"]) == (case["lambda"], case["multiplicity"]), case


def test_local_vectors() -> None:
    for case in _vectors("dln_local.json"):
        found = deep_linear_local(case["widths"], case["ranks"])
        assert found == (case["local_lambda"], case["local_lambda"], case["local_multiplicity"]), case
        assert found.is_exact
        everywhere = deep_linear(case["widths"], min(case["ranks"]))
        assert everywhere == (case["global_lambda"], case["global_multiplicity"])


@pytest.mark.parametrize(
    ("widths", "rank", "value"),
    [
        ([7, 4], 2, (Fraction(14), 1)),  # one layer is regular: 7·4/2
        ([1, 1, 1], 0, (Fraction(1, 2), 2)),  # w1²w2²
        ([1, 1, 1, 1], 0, (Fraction(1, 2), 3)),  # w1²w2²w3²
        ([1, 1, 1], 1, (Fraction(1, 2), 1)),  # w1·w2 = 1 is a smooth curve
        ([2, 1, 3], 1, (Fraction(2), 1)),  # the rank-one matrices of 2 × 3 are a manifold of dimension 4
        ([1, 4, 1], 0, (Fraction(1, 2), 1)),  # ⟨u, v⟩² with u, v in R⁴: one smooth equation away from 0, λ there 1/2
    ],
)
def test_by_hand(widths: list[int], rank: int, value: tuple[Fraction, int]) -> None:
    found = deep_linear(widths, rank)
    assert found == value
    assert isinstance(found.learning_coefficient, Fraction)


def test_against_reduced_rank() -> None:
    """Three widths: the closed form of Aoyagi and Watanabe in its four cases, each met often."""
    rng, cases = random.Random(0), [0, 0, 0, 0]
    for _ in range(5000):
        inputs, hidden, outputs = (rng.randint(1, 30) for _ in range(3))
        rank = rng.randint(0, min(inputs, hidden, outputs))
        assert deep_linear([inputs, hidden, outputs], rank) == reduced_rank(inputs, hidden, outputs, rank)
        sides = (outputs + hidden < inputs + rank, inputs + hidden < outputs + rank, inputs + outputs < hidden + rank)
        cases[sides.index(True) if any(sides) else 3] += 1
    assert min(cases) > 50, cases


def test_against_a_search_of_all_subsets() -> None:
    """Theorem 1 of [A] as printed: over all subsets of layers, exactly one (as a multiset of widths) qualifies."""
    rng = random.Random(1)
    for _ in range(1500):
        widths, _ = _random_network(rng, most_layers=7)
        rank = rng.randint(0, min(widths))
        excess = [width - rank for width in widths]
        qualified = set()
        for size in range(2, len(widths) + 1):
            for chosen in itertools.combinations(range(len(widths)), size):
                inside = [excess[i] for i in chosen]
                outside = [excess[i] for i in range(len(widths)) if i not in chosen]
                s, ell = sum(inside), size - 1
                if s >= ell * max(inside) and all(max(inside) < x and s < ell * x for x in outside):
                    qualified.add(tuple(sorted(inside)))
        assert len(qualified) == 1, (widths, rank)
        assert theory._aoyagi(widths, rank, list(qualified.pop())) == deep_linear(widths, rank)


def test_symmetry_of_layers() -> None:
    """Transposing the network changes nothing, and nor does permuting its hidden widths."""
    rng = random.Random(2)
    for _ in range(500):
        widths, ranks = _random_network(rng)
        rank = rng.randint(0, min(widths))
        value = deep_linear(widths, rank)
        assert deep_linear(widths[::-1], rank) == value
        hidden = widths[1:-1]
        rng.shuffle(hidden)
        assert deep_linear([widths[0], *hidden, widths[-1]], rank) == value
        assert deep_linear_local(widths[::-1], ranks[::-1]) == deep_linear_local(widths, ranks)


def test_local_is_global_at_full_ranks() -> None:
    """Generic weights of full rank are generic weights of their product."""
    rng = random.Random(3)
    for _ in range(1000):
        widths, ranks = _random_network(rng, cut=0.0)
        value, multiplicity = deep_linear(widths, min(ranks))
        assert deep_linear_local(widths, ranks) == (value, value, multiplicity)


def test_all_ranks_zero_is_the_origin() -> None:
    """At w* = 0 the whole network is one chain of bars: the global value at rank 0, which is attained there."""
    rng = random.Random(4)
    for _ in range(500):
        widths, ranks = _random_network(rng)
        value, multiplicity = deep_linear(widths, 0)
        assert deep_linear_local(widths, [0] * len(ranks)) == (value, value, multiplicity)


def test_local_bounds() -> None:
    """Global ≤ lower ≤ upper ≤ d/2; layers of lower rank are more singular, so λ cannot rise where ranks fall.

    Lower semicontinuity: weights with the same product and lower ranks are limits of weights with higher ones.
    """
    rng = random.Random(5)
    inexact = 0
    for _ in range(2000):
        widths, ranks = _random_network(rng, most_layers=8)
        found = deep_linear_local(widths, ranks)
        inexact += not found.is_exact
        everywhere = deep_linear(widths, min(ranks)).learning_coefficient
        d = sum(a * b for a, b in itertools.pairwise(widths))
        assert everywhere <= found.lower <= found.upper <= Fraction(d, 2)
        layer = rng.randrange(len(ranks))
        if ranks[layer] > min(ranks):
            fewer = [*ranks[:layer], ranks[layer] - 1, *ranks[layer + 1 :]]
            if min(fewer) == min(ranks):
                assert deep_linear_local(widths, fewer).lower <= found.upper
    assert 50 < inexact < 1000, "the bounds are not tested"


def test_local_of_two_layers_by_hand() -> None:
    """W₂W₁ with 1 × 1 layers: at (0, 0) w₁²w₂², at (0, 1) and (1, 0) regular."""
    assert deep_linear_local([1, 1, 1], [0, 0]) == (Fraction(1, 2), Fraction(1, 2), 2)
    assert deep_linear_local([1, 1, 1], [0, 1]) == (Fraction(1, 2), Fraction(1, 2), 1)
    assert deep_linear_local([1, 1, 1, 1], [0, 1, 0]) == (Fraction(1, 2), Fraction(1, 2), 2)


def test_regular_and_normal_crossings() -> None:
    assert regular(7) == (Fraction(7, 2), 1)
    assert normal_crossing([1, 3, 3]) == (Fraction(1, 6), 2)
    assert normal_crossing([2, 0]) == (Fraction(1, 4), 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: regular(-1), "negative"),
        (lambda: normal_crossing([0, 0]), "not the exponents"),
        (lambda: normal_crossing([]), "not the exponents"),
        (lambda: deep_linear([3], 1), "two or more"),
        (lambda: deep_linear([3, 0], 0), "two or more"),
        (lambda: deep_linear([3, 2, 4], 3), "got 3; allowed: 0 … 2"),
        (lambda: reduced_rank(3, 2, 4, -1), "got -1"),
        (lambda: deep_linear_local([3, 2, 4], [2]), "2 ranks"),
        (lambda: deep_linear_local([3, 2, 4], [2, 3]), "layer 2 is 4 × 2"),
    ],
)
def test_refusals(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def _hf_llc(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(["theory", "dln", *argv])
    return code, *capsys.readouterr()


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _hf_llc(capsys, "--widths", "48,17,13,14", "--rank", "8")
    assert (code, err) == (OK, "") and out.split() == ["global", "λ", "=", "461/2", "multiplicity", "1"]
    code, out, _ = _hf_llc(capsys, "--widths", "48,17,13,14", "--layer-ranks", "8,13,13", "--json")
    found = json.loads(out)
    assert (found["rank"], found["learning_coefficient"], found["multiplicity"]) == (8, 230.5, 1)
    assert found["local"] == {"layer_ranks": [8, 13, 13], "lower": 316.0, "upper": 316.0, "multiplicity": 1}
    bounds = _inexact()
    code, out, _ = _hf_llc(capsys, "--widths", bounds[0], "--layer-ranks", bounds[1])
    assert code == OK and "≤ λ ≤" in out.splitlines()[1] and "multiplicity" not in out.splitlines()[1]


def _inexact() -> tuple[str, str]:
    """The first random network without a closed form, as flags."""
    rng = random.Random(6)
    while True:
        widths, ranks = _random_network(rng)
        if not deep_linear_local(widths, ranks).is_exact:
            return ",".join(map(str, widths)), ",".join(map(str, ranks))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--widths", "3,x", "--rank", "1"],
            "--widths has a value of the wrong kind, got 'x'; allowed: a whole number",
        ),
        (["--widths", "3,2", "--rank", "3"], "got 3; allowed: 0 … 2"),
        (["--widths", "3,2"], "give --rank, or --layer-ranks"),
        (["--widths", "3,2,3", "--layer-ranks", "2,1", "--rank", "2"], "another rank, got 2; allowed: 1"),
        (["--rank", "3"], "--widths"),
        (["--width", "3,2", "--rank", "3"], "--widths"),
    ],
)
def test_command_refusals(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _hf_llc(capsys, *argv)
    assert code == BAD_INPUT and out == "" and message in err and err.count("\n") == 1
