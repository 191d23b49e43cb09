"""`hf-llc calibrate`: the grid around what calibration chose, and the command with its files."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from targets import expected_llc, power_problem, shifted_problem

from hf_llc.calibration.repair import retry_settings
from hf_llc.cli.arguments import read_yaml
from hf_llc.cli.entry_point import main
from hf_llc.config import SampleConfig
from hf_llc.parallel.processes import Processes, alone
from hf_llc.posterior.weights import preserved
from hf_llc.problem import Problem
from hf_llc.records.chain_settings import ChainSettings
from hf_llc.result import LLCResult
from hf_llc.studies.calibration import FILES, UNFIT, Calibration, Cell
from hf_llc.studies.calibration_plot import plot_calibration
from hf_llc.studies.calibration_report import render
from hf_llc.studies.explore_settings import calibrate_run, mark_plateau
from hf_llc.workflow import run as run_module
from hf_llc.workflow.run import Run
from hf_llc.workflow.run_folder import RunFolder
from hf_llc.workflow.settings import decide_from_data

if TYPE_CHECKING:
    from matplotlib.figure import Figure

H = torch.logspace(-1, 0, 8, dtype=torch.float64)


def calibrated(problem: Problem, folder: Path, **settings: Any) -> Calibration:
    sample = decide_from_data(SampleConfig(nbeta=100.0, **settings), problem)
    with alone(), preserved(problem.model):
        return calibrate_run(Run(problem, sample, RunFolder(folder), Processes()), grid=True)


@pytest.mark.slow
def test_grid_finds_the_plateau_of_a_quadratic(tmp_path: Path) -> None:
    """γ is weak beside every direction, so that λ̂ depends on neither setting: both axes are flat throughout."""
    found = calibrated(power_problem(H), tmp_path, localization=0.1, max_steps=4000)
    truth = expected_llc(H.numpy(), sampler="baoab", step_size=0.0, nbeta=100.0, localization=0.1)
    for axis in ("step_size", "localization"):
        cells = found.along(axis)
        assert [cell.factor for cell in cells] == [0.25, 0.5, 1.0, 2.0, 4.0]
        assert sum(cell.is_plateau for cell in cells) >= 4
        for cell in cells:
            assert abs(cell.llc - truth) < 4 * cell.llc_se, cell
    assert found.is_fit and "noise Q" in render(found) and "no plateau" not in render(found)


@pytest.mark.slow
def test_effective_step_follows_the_step_at_the_same_friction(tmp_path: Path) -> None:
    found = calibrated(shifted_problem(H, num_examples=64, spread=1.0), tmp_path, localization=1.0, batch_size=8)
    cells = found.along("step_size")
    friction = found.settings["friction"]
    for cell in cells:
        assert cell.slow_step_size == pytest.approx(cell.step_size / math.tanh(friction / 2))
        assert cell.localization == 1.0


@pytest.mark.slow
def test_cells_beyond_stability_are_marked_lost(tmp_path: Path) -> None:
    """SGLD is stable below 4/a_max = 0.04."""
    found = calibrated(
        power_problem(H), tmp_path, sampler="sgld", step_size=0.016, localization=1.0, max_steps=4000, num_draws=100
    )
    cells = found.along("step_size")
    assert [cell.is_lost for cell in cells] == [False, False, False, False, True]
    assert cells[-1].verdict == "diverged" and math.isnan(cells[-1].llc) and not cells[-1].is_plateau
    assert found.found is None and "step_size was given" in render(found)


@pytest.mark.slow
def test_localization_that_makes_the_answer_has_no_plateau(tmp_path: Path) -> None:
    """γ of the size of nβh: λ̂ moves by a third or so from cell to cell."""
    found = calibrated(power_problem(H), tmp_path, localization=50.0, max_steps=4000)
    llc = [cell.llc for cell in found.along("localization")]
    assert llc == sorted(llc, reverse=True) and not any(cell.is_plateau for cell in found.along("localization"))
    assert "no plateau in γ" in render(found)


@pytest.mark.slow
def test_no_localization_has_no_neighbours(tmp_path: Path) -> None:
    found = calibrated(power_problem(H), tmp_path, localization=0.0)
    assert [cell.factor for cell in found.along("localization")] == [1.0] and len(found.along("step_size")) == 5


@pytest.mark.slow
def test_chosen_settings_that_are_not_fit_are_mended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The pilot misjudges ε, tenfold: the grid is around an ε at which chains say that it is not too large."""
    pilot = run_module.calibrate
    wrong = lambda *given: (found := pilot(*given)) | {"step_size": 10 * found["step_size"]}  # noqa: E731
    monkeypatch.setattr(run_module, "calibrate", wrong)
    given = {"localization": 10.0, "batch_size": 8, "max_steps": 800, "gradient": "plain", "friction": 0.3}
    problem = shifted_problem(H, num_examples=64, spread=0.1)
    found = calibrated(problem, tmp_path / "auto", **given)
    assert found.found is not None and found.is_fit and "not fit" not in render(found)
    assert found.settings["step_size"] == found.along("step_size")[2].step_size < found.found["step_size"] / 2


@pytest.mark.slow
def test_settings_that_are_not_fit_say_so(tmp_path: Path) -> None:
    """ε is given, so that nothing can be mended: the text and the file of settings begin with what is wrong."""
    given = {"localization": 10.0, "batch_size": 8, "max_steps": 400, "gradient": "plain", "friction": 0.3}
    found = calibrated(shifted_problem(H, num_examples=64, spread=0.1), tmp_path, step_size=0.023, **given)
    cell = found.along("step_size")[2]
    assert not found.is_fit and cell.verdict in UNFIT and cell.remedy
    assert f"not fit       λ̂ of a short run at the chosen settings: {cell.verdict}\n" in render(found)
    found.save(tmp_path)
    line = (tmp_path / FILES[2]).read_text().splitlines()[1]
    assert line.startswith(f'# NOT FIT: λ̂ of a short run at these settings is "{cell.verdict}"')


@pytest.mark.parametrize(("axis", "says"), [("step_size", "lower step_size"), ("localization", "only at one γ")])
def test_large_errors_make_no_plateau(axis: str, says: str) -> None:
    """Errors that agree with anything: no plateau, and more steps are the advice; else the advice is about λ̂."""
    cells = [replace(cell, axis=axis) for cell in cells_of(9, 10, 11, 10, 9, llc_se=1.2)]
    assert not any(cell.is_plateau for cell in mark_plateau(cells))
    assert "raise max_steps, of which" in render(Calibration(SETTINGS, None, None, mark_plateau(cells), 0))
    moving = [replace(cell, axis=axis) for cell in cells_of(10, 20, 30, 40, 50, llc_se=0.5)]
    assert says in render(Calibration(SETTINGS, None, None, mark_plateau(moving), 0))


def test_a_sampler_without_friction_starts_again_at_a_smaller_step() -> None:
    asked = SampleConfig(sampler="sgld", nbeta=100.0, batch_size=4)
    settings = ChainSettings.of(replace(asked, step_size=1e-3, localization=1.0, gradient="plain"))
    found: Any = SimpleNamespace(
        verdict="step size too large", llc=10.0, llc_uncorrected=10.0, llc_se=0.1, step_size_bias=2.0
    )
    better = retry_settings(settings, asked, found)
    assert better is not None and better.step_size == pytest.approx(2.5e-4)


def cells_of(*llc: float, llc_se: float = 1.0) -> list[Cell]:
    return [
        Cell("step_size", 2.0**i, 2.0**i, 1.0, 2.0**i, x, llc_se, "diverged" if math.isnan(x) else "trustworthy")
        for i, x in enumerate(llc)
    ]


@pytest.mark.parametrize(
    ("llc", "plateau"),
    [
        ([11, 12, 13, 12, 11], "11111"),
        ([11, 19, 19, 19, 11], "01110"),
        ([11, 12, 19, 19, math.nan], "00000"),
        ([11, 11, 11, 19, 19], "11100"),
        ([math.nan, 11, 11, 11, math.nan], "01110"),
        ([], ""),
    ],
)
def test_plateau_is_the_longest_stretch_of_neighbours_that_agree(llc: list[float], plateau: str) -> None:
    assert "".join(str(int(cell.is_plateau)) for cell in mark_plateau(cells_of(*llc))) == plateau


SETTINGS = {"sampler": "baoab", "step_size": 1.0, "friction": 0.25, "gradient": "plain", "localization": 20.0,
            "nbeta": 9.0, "batch_size": 16}  # fmt: skip


def grid(*llc: float) -> list[Cell]:
    """Five cells a quarter of the chosen ε = 1 to four times it, at γ = 20; and three around that γ, at half the λ̂."""
    factors = (0.25, 0.5, 1.0, 2.0, 4.0)
    steps = [
        Cell("step_size", f, f, 20.0, 8 * f, x, 0.5, "diverged" if math.isnan(x) else "trustworthy")
        for f, x in zip(factors, llc, strict=True)
    ]
    around = zip(factors[1:4], llc[1:4], strict=True)
    return [*steps, *(Cell("localization", f, 1.0, 20 * f, 8.0, x / 2, 0.25, "trustworthy") for f, x in around)]


def test_picture_with_every_kind_of_cell(tmp_path: Path, drawn: list[Figure]) -> None:
    calibration = Calibration(SETTINGS, None, None, mark_plateau(grid(10.0, 11.0, 12.0, 90.0, math.nan)), 0)
    plot_calibration(calibration, tmp_path / "picture.png")
    left, right = drawn[0].axes
    assert (left.get_xlabel(), right.get_xlabel(), left.get_ylabel()) == ("ε  (at γ = 20)", "γ  (at ε = 1)", "λ̂")
    expected = (
        (left, [0.25, 0.5, 1.0, 2.0], [10.0, 11.0, 12.0, 90.0], 0.5),
        (right, [10, 20, 40], [5.5, 6.0, 45.0], 0.25),
    )
    for axes, x, y, error in expected:
        (bars,) = axes.containers
        assert bars.lines[0].get_xydata().tolist() == [list(point) for point in zip(x, y, strict=True)]
        ends = [segment[:, 1].tolist() for segment in bars.lines[2][0].get_segments()]
        assert ends == [[value - error, value + error] for value in y]
        (chosen,) = (line for line in axes.lines if line.get_label() == "chosen")
        assert set(chosen.get_xdata()) == {1.0 if axes is left else 20.0}
        assert axes.get_xscale() == "log"
    crosses = {axes: [line for line in axes.lines if line.get_marker() == "x"] for axes in (left, right)}
    assert [list(line.get_xdata()) for line in crosses[left]] == [[4.0]] and not crosses[right]
    (span,) = left.patches  # the plateau: the first three
    assert span.get_x() == pytest.approx(0.25 / 1.19) and span.get_x() + span.get_width() == pytest.approx(1.19)
    assert not right.patches
    assert drawn[0].get_suptitle() == "baoab, friction 0.25, plain gradients   nβ 9   batch 16"


def test_a_point_that_is_not_trustworthy_is_hollow(tmp_path: Path, drawn: list[Figure]) -> None:
    cells = [
        replace(cell, verdict="not a minimum") if cell.llc == 11.0 else cell
        for cell in grid(10.0, 11.0, 12.0, 90.0, 95.0)
    ]
    plot_calibration(Calibration(SETTINGS, None, None, mark_plateau(cells), 0), tmp_path / "picture.png")
    left, right = drawn[0].axes
    (hollow,) = (line for line in left.lines if line.get_markerfacecolor() == "white")
    (bars,) = left.containers
    assert hollow.get_xydata().tolist() == [[0.5, 11.0]] and hollow.get_zorder() > bars.lines[0].get_zorder()
    assert not [line for line in right.lines if line.get_markerfacecolor() == "white"]


def test_picture_of_cells_that_are_all_lost(tmp_path: Path, drawn: list[Figure]) -> None:
    cells = [cell for cell in grid(*[math.nan] * 5) if cell.axis == "step_size"]
    plot_calibration(Calibration(SETTINGS, None, None, mark_plateau(cells), 0), tmp_path / "picture.png")
    left, right = drawn[0].axes
    (crosses,) = (line for line in left.lines if line.get_marker() == "x")
    assert list(crosses.get_xdata()) == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert not left.patches and not right.patches and len(right.containers[0].lines[0].get_xdata()) == 0


def test_text_of_a_calibration() -> None:
    """Every number beside its own name."""
    row = {"steps": 50, "curvature": 53.0, "llc": 2.25, "noise": 7.5, "controlled_noise": 0.125, "step_size": 0.004,
           "friction": 0.35, "gradient": "control-variate"}  # fmt: skip
    found = {"path": [row], "curvature": 53.0}
    moved = {"loss_before": 2.5, "loss_after": 1.75}
    calibration = Calibration(SETTINGS, found, moved, mark_plateau(grid(10.0, 11.0, 12.0, 90.0, math.nan)), 24_680)
    assert [" ".join(line.split()) for line in render(calibration).splitlines() if line] == [
        "steps κ λ̂ so far noise Q controlled ε friction gradient",
        "50 53 2.25 7.5 0.125 0.004 0.35 control-variate",
        "chosen baoab, ε 1, friction 0.25, plain gradients, γ 20",
        "at nβ 9, batch 16, κ 53",
        "cost 24,680 gradients",
        "minimize loss 2.5 → 1.75",
        "ε ε_eff λ̂ plateau verdict of the short run",
        "0.25 ×0.25 2 10.00 ± 0.50 yes trustworthy",
        "0.5 ×0.5 4 11.00 ± 0.50 yes trustworthy",
        "1 chosen 8 12.00 ± 0.50 yes trustworthy",
        "2 ×2 16 90.00 ± 0.50 trustworthy",
        "4 ×4 32 × diverged",
        "γ ε_eff λ̂ plateau verdict of the short run",
        "10 ×0.5 8 5.50 ± 0.25 trustworthy",
        "20 chosen 8 6.00 ± 0.25 trustworthy",
        "40 ×2 8 45.00 ± 0.25 trustworthy",
        "no plateau in γ: λ̂ is that of its γ; compare results only at one γ, or look further down with a",
        "smaller localization",
    ]


SMALL = ["--max-examples", "12", "--max-length", "16", "--max-steps", "200", "--num-draws", "20", "--quiet"]


@pytest.fixture
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("_here")
def test_estimate_takes_the_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From end to end on the embedded model: the tables, the files, and an estimate at just these settings."""
    assert main(["calibrate", *SMALL, "--num-chains", "3", "--output", "c"]) in (0, 3)
    text = capsys.readouterr().out
    for word in ("noise Q", "chosen", "plateau", "γ"):
        assert word in text
    assert {path.name for path in (tmp_path / "c").iterdir()} == {*FILES, "run.json"}
    saved = json.loads((tmp_path / "c" / "calibration.json").read_text())
    assert len(saved["cells"]) == 10 and saved["num_gradients"] > 0 and saved["found"]["path"]
    yaml = read_yaml("c/calibrated.yaml")
    left = {name for name, value in yaml.items() if value == "auto"}
    assert left <= {"num_burnin_steps", "step_in_backward"}  # the second asks each machine how much memory it has
    assert main(["estimate", *SMALL, "--config", "c/calibrated.yaml", "--output", "e"]) in (0, 3)
    result = LLCResult.load("e")
    assert result.calibration is None and result.num_chains == 3
    for name in ("sampler", "step_size", "friction", "gradient", "localization", "nbeta", "batch_size"):
        assert str(getattr(result, name)) == str(saved["settings"][name]), name
    capsys.readouterr()
    assert main(["calibrate", *SMALL, "--num-chains", "3", "--output", "c", "--json"]) in (0, 3)  # read, not done again
    assert json.loads(capsys.readouterr().out) == saved


@pytest.mark.slow
@pytest.mark.usefixtures("_here")
def test_without_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["calibrate", *SMALL, "--sampler", "sgld", "--localization", "100", "--no-grid", "--output", "c"]
    assert main(arguments) == 0
    assert "acceptance" in capsys.readouterr().out
    assert not (tmp_path / "c" / "calibration.png").exists()
    assert "friction" not in read_yaml("c/calibrated.yaml")
    assert main([*arguments[:-3], "--output", "c"]) == 2  # the same folder for another task
    assert "the output folder holds another run" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("_here")
def test_damaged_calibration_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["calibrate", *SMALL, "--step-size", "1e-6", "--no-grid", "--output", "c"]
    assert main(arguments) == 0
    (tmp_path / "c" / "calibration.json").write_text("{")
    capsys.readouterr()
    assert main(arguments) == 2
    assert "the calibration is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--step-sise", "1"], "unknown argument --step-sise; did you mean --step-size?"),
        (["--sampler", "x"], "sampler has a value of the wrong kind, got 'x'"),
        (["--config", "nowhere.yaml"], "cannot read the config file, got 'nowhere.yaml'"),
        (["--output", "/proc/nowhere"], "cannot write to the output folder"),
        (["--model", "nowhere/at-all", "--data", "some/data"], "nowhere/at-all"),
    ],
)
@pytest.mark.usefixtures("_here")
def test_bad_input_ends_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and len(err.splitlines()) == 1
    assert not list(tmp_path.rglob("*.json"))
