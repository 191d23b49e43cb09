"""docs/results: what docs/experiments.md says of the paper's experiments comes from the rows that lie there."""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from hf_llc.publishing.picture import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
RESULTS = sorted(path.name for path in (ROOT / "docs" / "results").iterdir())

Row = dict[str, Any]
Points = list[tuple[float, float]]


def numbers(path: Path) -> list[list[str | float]]:
    """The table, numbers to nine digits: another numpy may round the last ones otherwise."""
    with open(path, newline="", encoding="utf-8") as file:
        return [[_rounded(cell) for cell in row] for row in csv.reader(file)]


def _rounded(cell: str) -> str | float:
    try:
        return float(f"{float(cell):.9g}")
    except ValueError:
        return cell


# What each figure must show, from the committed table and rows alone


def curves(axes: Axes) -> dict[str, Points]:
    """Lines and error bars by label, sorted; artists without one by their number."""
    lines = {line: line.get_label() for line in axes.lines}
    lines |= {container.lines[0]: container.get_label() for container in axes.containers if hasattr(container, "lines")}
    return {str(label): _sorted(zip(*line.get_data(), strict=True)) for line, label in lines.items()}


def bars(axes: Axes, label: str) -> Points:
    """Ends of the error bars of a label."""
    (container,) = (each for each in axes.containers if each.get_label() == label)
    return [tuple(segment[:, 1]) for segment in container.lines[2][0].get_segments()]


def _sorted(points: Any) -> Points:
    return sorted((float(x), float(y)) for x, y in points)


def same(found: Points, expected: Any) -> None:
    expected = _sorted(expected)
    assert expected and np.shape(found) == np.shape(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def dln_benchmark(axes: list[Axes], table: list[Row], rows: list[Row]) -> None:
    titled = {panel.get_title().split("\n")[0]: panel for panel in axes}
    for name, sampler in itertools.product(("Figure 4", "J.1"), ("paper", "auto")):
        panel = titled[f"{name}: {sampler}"]
        assert panel.get_xscale() == ("log" if name == "Figure 4" else "linear")
        for size in ("1k", "10k"):
            for is_trained, label in ((False, size), (True, f"{size}, trained")):
                kind = [
                    r
                    for r in rows
                    if "kind" not in r and (r["sampler"], r["size"], r["trained"]) == (sampler, size, is_trained)
                ]
                same(curves(panel)[label], ((r["exact"], r["llc"]) for r in kind if (r["llc"] or 0) > 0))
    errors_panel = next(panel for title, panel in titled.items() if title.startswith("J.2"))
    names = [text.get_text() for text in errors_panel.get_xticklabels()]
    medians = [line.get_ydata()[0] for line in errors_panel.lines if line.get_color() == "C1"]
    for name, median in zip(names, medians, strict=True):
        size, sampler = name.split("\n")
        mine = [r for r in rows if (r["size"], r.get("sampler")) == (size, sampler) and not r["trained"]]
        errors = [(r["exact"] - r["llc"]) / r["exact"] for r in mine if r["llc"] is not None]
        assert median == pytest.approx(np.median(errors))  # the paper's sign
    accepted = [r for r in rows if r.get("sampler") == "paper" and r["accept_prob"] is not None]
    counts = sum(len(p.patches) for p in [titled["J.3: paper"]])
    assert counts and sum(x.get_label() != "" for x in titled["J.3: paper"].patches) and accepted
    for row in (r for r in rows if "kind" in r):
        panel = next(p for title, p in titled.items() if title.startswith(f"H.1: {row['kind']}"))
        assert f"acceptance {row['accept_prob']:.2f}" in panel.get_title()
        shown = [(x, y) for x, y in zip(row["trace"]["steps"], row["trace"]["llc"], strict=True) if y is not None]
        same([p for p in curves(panel)["_child0"] if not math.isnan(p[1])], shown)


def dln_theory(axes: list[Axes], table: list[Row], rows: list[Row]) -> None:
    one, two, three, four = (next(a for a in axes if start in a.get_title()) for start in (
        "Figure I.1: deep", "Figure I.1: mult", "Figure 2", "λ̂ and what"))  # fmt: skip
    networks = [r for r in rows if r["part"] == "network"]
    same(_sorted(one.collections[0].get_offsets()), ((r["half_d"], r["lambda"]) for r in networks))
    same(_sorted(two.collections[0].get_offsets()), ((r["hidden"], r["multiplicity"]) for r in networks))
    volume = curves(three)["a² + b²:  λ = 1"]
    same(volume, ((x, -math.expm1(-x / 2)) for x, _ in volume))  # half a χ² of two degrees of freedom
    drawn = [_sorted(zip(*container.lines[0].get_data(), strict=True)) for container in four.containers]
    names = list(dict.fromkeys(r["landscape"] for r in rows if r["part"] == "landscape"))
    for points, name in zip(drawn, names, strict=True):
        same(points, ((10 ** r["log10_nbeta"], r["llc"]) for r in rows if r.get("landscape") == name))


def mala_vs_sgld(axes: list[Axes], table: list[Row], rows: list[Row]) -> None:
    left, right = axes
    for sampler, name, shift in (("sgld", "SGLD, batches of 32", 0.97), ("mala", "MALA, all examples", 1.03)):
        label = f"{name}, ±2 standard errors"
        same(curves(left)[label], ((shift * r["n"], r[sampler]) for r in table))
        ends = [(r[sampler] - 2 * r[f"{sampler}_se"], r[sampler] + 2 * r[f"{sampler}_se"]) for r in table]
        np.testing.assert_allclose(bars(left, label), ends)
        authors = dict(curves(left)[f"{name}: the authors"])
        assert all(authors[r["n"]] == r[f"{sampler}_authors"] for r in table)
        same(curves(right)[name], ((r["n"], r[f"{sampler}_seconds"]) for r in table))


def mnist_entropy_sgd(axes: list[Axes], table: list[Row], rows: list[Row]) -> None:
    left, right = axes
    assert [text.get_text() for text in left.get_xticklabels()][:2] == ["sgd", "entropy-sgd"]
    for place, (name, colour) in enumerate((("sgd", COLOURS[0]), ("entropy-sgd", COLOURS[1]))):
        dots, mean = (line for line in left.lines if line.get_color() == colour)
        mine = [r for r in rows if r["optimizer"] == name]
        assert sorted(dots.get_ydata()) == pytest.approx(sorted(r["llc"] for r in mine))
        assert mean.get_ydata()[0] == pytest.approx(np.mean([r["llc"] for r in mine]))
        (bars,) = (each for each in left.containers if each.lines[0] is dots)
        heights = [np.diff(segment[:, 1])[0] for segment in bars.lines[2][0].get_segments()]
        assert sorted(heights) == pytest.approx(sorted(2 * r["llc_se"] for r in mine))
        assert np.mean(dots.get_xdata()) == pytest.approx(place)
        ways = [line for line in right.lines if line.get_color() == colour and line.get_linestyle() == "-"]
        for row, line in zip(mine, [w for w in ways if len(w.get_xdata()) > 1], strict=True):
            points = [r for r in table if (r["optimizer"], r["seed"]) == (name, row["seed"])]
            same(_sorted(zip(*line.get_data(), strict=True)), ((r["train_loss"], r["llc"]) for r in points))


def pile_attention_only(axes: list[Axes], table: list[Row], rows: list[Row]) -> None:
    for way, name in (("paper", "the paper's settings"), ("ours", "hf_llc's settings")):
        (panel,) = (each for each in axes if each.get_title().startswith(name))
        seeds = sorted((r for r in table if r["settings"] == way and r["step"] == 800), key=lambda r: r["seed"])
        points = [each.lines[0].get_data() for each in panel.containers]
        same(_sorted((x[0], y[0]) for x, y in points), ((i, r["llc"]) for i, r in enumerate(seeds)))
        mean = np.mean([r["llc"] for r in seeds])
        assert [line.get_ydata()[0] for line in panel.lines if line.get_linewidth() == 0.8] == [pytest.approx(mean)]
    (panel,) = (each for each in axes if each.get_title().startswith("along the training"))
    (losses,) = (each for each in axes if each.get_ylabel().startswith("held-out loss"))
    along = [r for r in table if r["settings"] == "paper" and r["seed"] == 0]
    same(_sorted(zip(*panel.lines[0].get_data(), strict=True)), ((r["step"], r["llc"]) for r in along))
    same(_sorted(zip(*losses.lines[0].get_data(), strict=True)), ((r["step"], r["init_loss"]) for r in along))


def rescaling_invariance(axes: list[Axes], table: list[Row], rows: list[Row]) -> None:
    left, right = axes
    names = {"known": "A = c²", "none": "none (SGLD)", "adaptive": "adaptive (RMSProp, frozen)",
             "curvature": "curvature at w*"}  # fmt: skip
    for panel, key, labels in (
        (left, "network", {n: n for n in ("10-20-10", "20-30-20", "30-40-30")}), (right, "preconditioner", names)
    ):  # fmt: skip
        for value, label in labels.items():
            fixed = {"network": "10-20-10", "preconditioner": "known", key: value}
            mine = [r for r in table if all(r[k] == v for k, v in fixed.items())]
            same(curves(panel)[label], ((10 ** r["log10_alpha"], r["llc"]) for r in mine))


def resnet_cifar10(axes: list[Axes], table: list[Row], rows: list[Row]) -> None:
    columns = np.array(axes).reshape(-1, 5)  # one sweep after the other
    names = [column[0].get_title().split("\n") for column in columns]
    for column, (varied, held) in zip(columns, names, strict=True):
        key = {"learning rate": "learning_rate", "batch size": "batch_size", "L2": "l2"}.get(varied, varied)
        has_momentum = "momentum 0.9" in held
        mine = [r for r in table if r["sweep"] == key and (key == "momentum" or (r["momentum"] > 0) == has_momentum)]
        values = sorted({r[key] for r in mine})
        kept = [r for r in mine if r["diverged"] == ""]
        steps = sorted({r["step"] for r in kept})
        ends = [r for r in kept if r["step"] == steps[-1]]
        shown = [x for x in column[0].lines if x.get_linestyle() == "None" and x.get_markerfacecolor() != "none"]
        bad = [x for x in shown if x.get_markerfacecolor() == "white" or x.get_marker() == "x"]
        assert sum(len(x.get_xdata()) for x in bad) == sum(r["verdict"] != "trustworthy" for r in ends)
        points = [point for line in shown for point in zip(*line.get_data(), strict=True)]
        same(_sorted(points), ((values.index(r[key]), r["llc"]) for r in ends))
        papers = {"momentum": [6700, 850], "learning_rate": [7900, 7800, 6650, 5350, 3050]}.get(key, [])
        assert not papers or list(column[1].lines[0].get_ydata()) == papers
        for panel, name in zip(column[2:], ("llc", "test_accuracy", "train_loss"), strict=True):
            for value in {r[key] for r in ends}:
                by_step = [[r[name] for r in kept if (r[key], r["step"]) == (value, step)] for step in steps]
                same(curves(panel)[f"{value:g}"], zip(steps, map(np.mean, by_step), strict=True))


def covered(figure: Figure) -> list[str]:
    """Panels in which a point of a line lies under the legend."""
    figure.draw_without_rendering()
    found = []
    for axes in figure.axes:
        legend = axes.get_legend()
        for line in axes.lines if legend is not None else []:
            points = line.get_transform().transform(np.asarray(line.get_xydata(), dtype=float))
            box = legend.get_window_extent()
            inside = [box.contains(x, y) and axes.bbox.contains(x, y) for x, y in points if np.isfinite([x, y]).all()]
            if any(inside):
                found.append(f"{axes.get_title()}: {line.get_label()}")
    return found


def compression(axes: list[Axes], table: list[Row], rows: list[Row]) -> None:
    for panel, measure in zip(axes, ("bits", "kept"), strict=True):
        for row in rows:
            mine = [r for r in table if r["seed"] == row["seed"]]
            good = [r for r in mine if r["verdict"] == "trustworthy"]
            same(curves(panel)[f"seed {row['seed']}"], ((r[measure], r["llc"]) for r in good))
            ends = [(r["llc"] - r["llc_se"], r["llc"] + r["llc_se"]) for r in good]
            np.testing.assert_allclose(bars(panel, f"seed {row['seed']}"), ends)
        whole = [_sorted(zip(*line.get_data(), strict=True)) for line in panel.lines if line.get_linestyle() == "-"]
        for points, row in zip(whole, rows, strict=True):
            same(points, ((r[measure], r["llc"]) for r in table if r["seed"] == row["seed"]))


SHOWN: dict[str, Callable[[list[Axes], list[Row], list[Row]], None]] = {
    each.__name__: each
    for each in (
        compression, dln_benchmark, dln_theory, mala_vs_sgld, mnist_entropy_sgd, pile_attention_only,
        rescaling_invariance, resnet_cifar10,
    )
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", RESULTS)
def test_plot_only_makes_figure_numbers_and_sentence_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: list[Figure]
) -> None:
    """The committed picture, too: blocks of 8 × 8 pixels of the new one have its colours, but for one in 2,000."""
    committed, folder = ROOT / "docs" / "results" / name, tmp_path / name
    folder.mkdir()
    shutil.copy(committed / "rows.jsonl", folder)
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--plot-only", "--output", str(folder)])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(os.fspath(ROOT / "scripts" / f"{name}.py"), run_name="__main__")
    assert (folder / "claim.txt").read_text(encoding="utf-8") == (committed / "claim.txt").read_text(encoding="utf-8")
    table = numbers(committed / "figure.csv")
    assert numbers(folder / "figure.csv") == [
        [pytest.approx(cell, nan_ok=True) if isinstance(cell, float) else cell for cell in row] for row in table
    ]
    assert sorted(path.name for path in folder.iterdir()) == ["claim.txt", "figure.csv", "figure.png", "rows.jsonl"]
    rows = [json.loads(line) for line in (committed / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    (figure,) = drawn
    assert not covered(figure), "a legend lies on a curve"
    SHOWN[name](figure.axes, [dict(zip(table[0], row, strict=True)) for row in table[1:]], rows)
    one, two = (
        np.asarray(Image.open(place / "figure.png").convert("RGB").reduce(8), dtype=float)
        for place in (folder, committed)
    )
    assert one.shape == two.shape
    assert (np.abs(one - two).max(axis=-1) > 30).mean() < 1 / 2000


def test_the_page_of_experiments_shows_each_picture() -> None:
    text = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    assert set(SHOWN) == set(RESULTS) and all(f"(results/{name}/figure.png)" in text for name in RESULTS)
