"""Numbers as people read them: of every magnitude, in report, card, reasons, curve and comparison."""

from __future__ import annotations

import ast
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_curve import example
from test_remedies import GOOD, found, heated
from test_result import SHOWN, make_result

import hf_llc
from hf_llc.numerals import number, short, signed, with_error
from hf_llc.publishing.card_section import render_section
from hf_llc.publishing.report import render
from hf_llc.studies.comparison import compare

EXPONENT = re.compile(r"\de\+?\d")
"""3e+02, but not 3e-5."""

MAGNITUDES = [3.0 * 10.0**k * factor for k in range(-3, 18) for factor in (1.0, 1.0 / 3 - 1e-7, 1.111)]


@pytest.mark.parametrize("write", [number, short, signed, lambda x: with_error(x, x / 7), lambda x: with_error(x, 0.0)])
def test_no_exponent_above_one(write: object) -> None:
    for value in MAGNITUDES:
        for text in (write(value), write(-value)):  # type: ignore[operator]
            assert not EXPONENT.search(text), (value, text)


@pytest.mark.parametrize(
    ("value", "text"),
    [(9999.6, "10,000"), (9999.4, "9999"), (300.0, "300"), (-0.0, "0"), (1.5e7, "15,000,000"), (2.5e-5, "2.5e-5"),
     (1.25e16, "1.25·10^16"), (12345.6, "12,346"), (float("inf"), "inf"), (None, "–"),
     (-350.0, "−350"), (-0.5, "−0.5"), (-2.5e-6, "−2.5e-6"), (-1e16, "−1·10^16"),
     (float("-inf"), "−inf")],
)  # fmt: skip
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


def _formats_of(tree: ast.AST) -> list[int]:
    """Lines of f-strings that write a number by the rule of `g`, if it is not read back as a number at once."""
    read = {id(node.args[0]) for node in ast.walk(tree)
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "float" and node.args}  # fmt: skip
    return [
        node.lineno
        for text in ast.walk(tree)
        if isinstance(text, ast.JoinedStr) and id(text) not in read
        for node in text.values
        if isinstance(node, ast.FormattedValue) and node.format_spec is not None
        and ast.unparse(node.format_spec).rstrip("'\"").endswith(("g", "e"))
    ]  # fmt: skip


@pytest.mark.slow
def test_no_text_for_people_has_a_format_of_its_own() -> None:
    """`:.3g` writes 35000 as 3.5e+04. numerals.py alone knows how to write a number."""
    root = Path(hf_llc.__file__).parent
    found = {
        str(path.relative_to(root)): lines
        for path in sorted(root.rglob("*.py"))
        if path.name != "numerals.py" and (lines := _formats_of(ast.parse(path.read_text(encoding="utf-8"))))
    }
    # Nine digits, which tell two losses apart; a key of profile.json; a file's name.
    kept = {"loading/probe.py": 2, "studies/profile_ladder.py": 1, "workflow/findings.py": 1}
    assert {name: len(lines) for name, lines in found.items()} == kept


def test_no_hyphen_is_a_minus() -> None:
    texts = {
        (-24.69, 0.57): "−24.69 ± 0.57", (-3.0, 0.0): "−3 ± 0", (-3.0, math.nan): "−3 (standard error unknown)",
        (-0.01, 1.0): "0.0 ± 1.0", (-2e8, 1e6): "(−2.000 ± 0.010)·10^8",
    }  # fmt: skip
    assert {pair: with_error(*pair) for pair in texts} == texts


def test_signed() -> None:
    assert [signed(x) for x in (312.0, -312.0, 0.0)] == ["+310", "−310", "+0"]


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e3, 1e5, 1e8, 1e12])
def test_report_card_and_comparison(scale: float) -> None:
    names = ("llc", "llc_se", "llc_uncorrected", "llc_plain", "llc_plain_se", "init_loss", "mean_loss", "heat_capacity")
    names += ("heat_capacity_se", "nbeta", "localization", "trivial_loss", "step_size_bias")
    values = {name: scale * SHOWN[name] if name in SHOWN else scale for name in names}
    result = make_result(**{**SHOWN, **values, "llc_per_chain": [scale * 1.2345] * 4})
    pair = compare([result, result.replace(llc=2 * result.llc)], ["a", "b"])
    texts = [render(result, encoding="utf-8"), render_section(result), str(pair)]
    curve = example(["trustworthy"] * 2, [1, 2])
    points = [
        replace(p, llc=scale * p.llc, llc_se=scale, loss=scale, change=scale, change_se=scale) for p in curve.points
    ]
    texts.append(str(replace(curve, points=points)))
    for text in texts:
        assert not EXPONENT.search(re.sub(r"[0-9a-f]{8,}", "", text)), text


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e3, 1e6])
def test_reasons(scale: float) -> None:
    """Of estimates with all kinds of findings, in units of `scale`."""
    climbing = scale * (GOOD + np.linspace(0, 40, GOOD.shape[1]))
    for estimate in (
        found(climbing, descent={"loss_drop": 300 * scale, "loss_drop_se": 0.0}),
        found(scale * (GOOD - 60)),
        found(GOOD, trace=heated(400.0 * scale)),
        found(scale * GOOD, localization=300.0 * scale, trivial_loss=1.0 + scale * 0.6),
    ):
        for reason in estimate.reasons:
            assert not EXPONENT.search(reason.text + reason.remedy), reason


@pytest.mark.parametrize("value", [1e-300, 1e-9, 0.37, 1.0, -3.0, 12345.0, 1e12, 1e300])
@pytest.mark.parametrize("share", [1e-300, 1e-16, 1e-7, 1e-6, 1e-3, 1.0, 1e6, 1e300])
def test_any_error_beside_any_value_ends_in_a_short_text(value: float, share: float) -> None:
    error = abs(value) * share
    if error == 0 or not math.isfinite(error):
        pytest.skip("not an error of a float")
    text = with_error(value, error)
    assert len(text) < 40 and (" ± " in text) and text.count("±") == 1
