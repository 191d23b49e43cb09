"""Tables in a terminal of any width and encoding: nothing is wider than it, no number is broken, nothing is lost."""

from __future__ import annotations

import ast
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_components_command import table_of
from test_curve import example
from test_profile import study_row
from test_result import SHOWN, make_result

import hf_llc
from hf_llc.cli.commands.benchmark import TARGETS
from hf_llc.publishing.card_section import render_section
from hf_llc.publishing.formatting import for_encoding
from hf_llc.publishing.report import render, summary
from hf_llc.publishing.tables import blocks, columns, folded
from hf_llc.studies.comparison import Comparison, compare
from hf_llc.studies.profile_table import Profile
from hf_llc.studies.sampler_benchmark import Row, text_of

VERDICTS = ("trustworthy", "diverged", "drifting", "not a minimum", "left the basin")
FULL_WIDTH = 100  # columns, where nobody says how wide the terminal is
NAME = "runs/with-a-name"


def compared() -> Comparison:
    result = make_result(**SHOWN)
    return compare([result, result.replace(llc=-2 * result.llc)], [NAME, "runs/b"])


def profiled() -> Profile:
    rows = [
        replace(study_row(), localization=10.0**k, llc=1234.5, llc_se=1.25, verdict="not a minimum") for k in (3, 6)
    ]
    empty: dict[str, Any] = {}
    return Profile(rows, 0.01, 2.0, empty, {}, {"n": 100}, empty, empty)


def benched() -> str:
    row = Row("quadratic", "arithmetic", 25.0, 0.0, 24.5, 0.31, -0.02, -1.6, 32_000, "trustworthy", 1.0, {})
    return text_of(row) + "\n" + text_of(row, is_first=False)


TEXTS = {
    "curve": lambda: str(example(["trustworthy", "not a minimum", "left the basin"], [1, 20, 300])),
    "one point": lambda: str(example(["trustworthy"], [1])),
    "compare": lambda: str(compared()),
    "components": lambda: str(table_of(["l0h0", "l0h1", "l1 mlp"])),
    "profile": lambda: str(profiled()),
    "benchmark": benched,
    "show": lambda: summary(make_result(**SHOWN)),
    "details": lambda: render(make_result(**SHOWN)),
}


def visible(line: str) -> int:
    return len(line.replace("\u0302", ""))


@pytest.mark.parametrize("plain", [False, True], ids=["utf-8", "ascii"])
@pytest.mark.parametrize("width", [30, 40, 80])
@pytest.mark.parametrize("name", TEXTS)
def test_every_table_fits(name: str, width: int, plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    whole = TEXTS[name]()
    monkeypatch.setenv("COLUMNS", str(width))
    if plain:
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    text = TEXTS[name]()
    assert not [line for line in text.splitlines() if visible(line) > width and len(line.split()) > 2]
    assert not re.search(r"(?m)(±|\+-)$|^ *(±|\+-) \d", text)  # a number stays with its error
    assert "?" not in text and "\u00a0" not in text
    numbers = set(re.findall(r"[−\d.,]*\d(?: ± [\d.,]*\d)?", whole))
    if plain:
        assert text.isascii()
        numbers = {for_encoding(number, "ascii") for number in numbers}
    assert not {number for number in numbers if number not in text}  # nothing is dropped


@pytest.mark.parametrize("verdict", ["gradient noise dominates", "localization dominates", "trustworthy"])
@pytest.mark.parametrize("target", TARGETS)
def test_rows_of_the_benchmark_stand_below_their_head(target: str, verdict: str) -> None:
    """They come one at a time, in columns of fixed width. These were 101 wide once: each row came as a block."""
    number = dict.fromkeys(("llc", "exact"), -12_345.678) | {"llc_se": 12.3, "exact_se": 12.3}
    row = Row(target, "closed form", error=-0.123, z=-12.3, gradients=132_000, verdict=verdict, seconds=1.0,
              settings={}, **number)  # fmt: skip
    head, first, *more = text_of(row).splitlines()
    assert [first, *more] == text_of(row, is_first=False).splitlines()  # so that every row has the columns of the first
    assert max(map(visible, (head, first, *more))) <= FULL_WIDTH
    flat = [line.replace("\u0302", "") for line in (head, first)]
    starts = [flat[0].index(word) for word in ("known", "exact", "λ", "error", "z ", "gradients", "verdict")]
    assert all(flat[1][start - 2 : start] == "  " and flat[1][start] != " " for start in starts)
    assert flat[1][starts[-1] :].split()[0] == verdict.split()[0]


@pytest.mark.parametrize("name", ["curve", "compare", "components", "profile", "benchmark"])
def test_every_table_is_one_where_nobody_says_how_wide(name: str) -> None:
    """No command's table is so wide that its rows become blocks of text, or its numbers are wrapped."""
    lines = TEXTS[name]().replace("\u0302", "").splitlines()
    head = next(line for line in lines if line.endswith("verdict"))
    start = head.index("verdict")
    rows = [line for line in lines if line[start - 2 : start] == "  " and line[start:] in VERDICTS]
    assert len(rows) >= 2 and max(map(len, lines)) <= FULL_WIDTH


def test_a_table_that_fits_is_lined_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    rows = [("run", "λ̂", "verdict"), ("a", "1.5 ± 0.5", "good"), ("bb", "10.5 ± 0.5", "left the basin")]
    assert columns(rows).splitlines() == [
        "run  λ̂           verdict", "a    1.5 ± 0.5   good", "bb   10.5 ± 0.5  left the basin"
    ]  # fmt: skip
    monkeypatch.setenv("COLUMNS", "30")
    assert columns(rows).splitlines()[2:] == ["bb   10.5 ± 0.5  left the", "                 basin"]
    more = [(f"{'name' if row is rows[0] else NAME}", *row, "") for row in rows]
    assert columns(more).splitlines()[-3:] == [
        f"name: {NAME}", "  run: bb   λ̂: 10.5 ± 0.5", "  verdict: left the basin"
    ]  # fmt: skip
    assert folded("one\ntwo words " * 2).splitlines() == ["one", "two words one", "two words"]


@pytest.mark.parametrize("word", ["/a" * 40, "two-part-" * 10 + "word"])
def test_paths_and_words_with_hyphens_stay_whole(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are copied from the terminal."""
    monkeypatch.setenv("COLUMNS", "40")
    assert folded(f"it is {word} that").splitlines() == ["it is", f"  {word}", "  that"]


def test_a_block_leaves_out_empty_cells_and_colons_without_a_name() -> None:
    assert blocks([("a", "", "b", "c"), ("1", "two", "", "3")]) == "a: 1   two   c: 3"


def test_one_minus_for_people_and_python_s_for_programs(tmp_path: Path) -> None:
    result = make_result(**{**SHOWN, "llc": -350.0, "llc_per_chain": [-340.0, -360.0, -350.0, -351.0]})
    pair = compare([result, result.replace(llc=-20.0)], ["a", "b"])
    pair.save(tmp_path)
    for text in (
        render(result, encoding="utf-8"),
        summary(result, encoding="utf-8"),
        str(pair),
        render_section(result),
    ):
        prose = re.sub(r"(?s)```.*?```|<!--.*?-->", "", text)
        assert "−350" in prose and not re.search(r"(?<![\w-])-\d", prose), text
    assert "-350" in (tmp_path / "compare.csv").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "compare.json").read_text(encoding="utf-8"))["rows"][0]["llc"] == -350


def texts_of(tree: ast.AST) -> set[str]:
    """All texts but docstrings."""
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return {node.value for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs}  # fmt: skip


def test_every_sign_has_an_ascii_form() -> None:
    """`χ` was "?" where standard output has no Unicode."""
    root = Path(hf_llc.__file__).parent
    files = [path.read_text(encoding="utf-8") for path in root.rglob("*.py") if path.name != "formatting.py"]
    kept = set("⚠\ufe0f\ufeff\u0302\u00a0")  # of Markdown alone; a mark of files; the hat, which goes with its λ

    def lost(text: str) -> set[str]:
        return {sign for sign in set(text) - kept if not sign.isascii() and "?" in for_encoding(sign, "ascii")}

    assert {sign for text in files if lost(text) for part in texts_of(ast.parse(text)) for sign in lost(part)} == set()
