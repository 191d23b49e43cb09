"""Curves over checkpoints: the same settings for all, what is there is not done again, and the files."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import huggingface_hub
import pytest
import tiny
import torch
from curve_factory import series
from forked import ROOT, Program
from hub import Hub
from PIL import Image
from safetensors.torch import save_file
from test_hub_client import put_data, put_model
from test_result import make_result
from worker import network, squared_error

from hf_llc import LLCEvaluator, LoadConfig, SampleConfig
from hf_llc.cli.entry_point import main
from hf_llc.errors import InputError
from hf_llc.loading.problem_loader import load_problem
from hf_llc.publishing.picture import BAD, steady_range
from hf_llc.records.findings import Reason
from hf_llc.result import LLCResult
from hf_llc.studies import measure_curve as module
from hf_llc.studies.checkpoint_series import Checkpoint, checkpoint_folders, natural, revisions, steps_of, weight_files
from hf_llc.studies.curve import Curve, Point
from hf_llc.studies.curve_plot import plot_curve
from hf_llc.studies.measure_curve import measure
from hf_llc.studies.series_left import SeriesLeft
from hf_llc.studies.shared_settings import remedy_for
from hf_llc.workflow.opened_run import Given

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLE: dict[str, Any] = {
    "num_chains": 3,
    "num_draws": 60,
    "num_burnin_steps": 40,
    "batch_size": 20,
    "localization": 100.0,
    "nbeta": 500.0,
}
FLAGS = [word for name, value in SAMPLE.items() for word in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hf_llc.cli.console.hush", lambda quiet: None)


def command(files: list[str], *more: str) -> list[str]:
    data = str(Path(files[0]).parent / "data.jsonl")
    given = ["--weight-files", *files, "--factory", "curve_factory:make", "--data", data, "--output", "out"]
    return ["curve", *given, *FLAGS, *more]


def results() -> dict[str, LLCResult]:
    return {path.parent.name: LLCResult.load(path.parent) for path in Path("out").glob("*/result.json")}


def stamps() -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in Path("out").glob("*/result.json")}


@pytest.mark.slow
def test_a_curve_of_a_part_of_the_weights(tmp_path: Path) -> None:
    main(command(series(tmp_path), "--quiet", "--step-size", "1e-4", "--weights", "0.weight"))
    assert [(result.weights, result.num_parameters) for result in results().values()] == [("0.weight", 48)] * 3
    assert json.loads(Path("out/curve.json").read_text())["settings"]["weights"] == "0.weight"


@pytest.mark.slow
@pytest.mark.pictures
def test_the_last_checkpoint_decides_and_all_points_are_those_of_the_evaluator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ε is found on the last; every point equals, bit for bit, an estimate of its own at those settings."""
    files = series(tmp_path)
    code = main(command(files[::-1], "--quiet"))
    found = results()
    assert list(dict.fromkeys(result.step_size for result in found.values())) == [found["step100"].step_size]
    assert found["step100"].calibration is not None and found["step2"].calibration is None
    shared = ("sampler", "step_size", "friction", "gradient", "localization")
    evaluator = LLCEvaluator(**{**SAMPLE, **{name: getattr(found["step100"], name) for name in shared}})
    for name in ("step2", "step10", "step100"):
        model = network()
        shift = {"step2": 0.04, "step10": 0.02, "step100": 0.0}[name]
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(shift * torch.ones_like(parameter))
        alone = evaluator.compute(model, data=str(tmp_path / "data.jsonl"), loss_fn=squared_error)
        assert (found[name].llc, found[name].llc_se) == (alone.llc, alone.llc_se), name
        assert (found[name].init_loss, found[name].verdict) == (alone.init_loss, alone.verdict), name
    rows = list(csv.DictReader(Path("out/curve.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["step"] for row in rows] == ["2", "10", "100"]
    assert [float(row["llc"]) for row in rows] == [found[row["name"]].llc for row in rows]
    values = json.loads(Path("out/curve.json").read_text())
    assert values["calibrated_on"] == "step100" and values["settings"]["step_size"] == found["step100"].step_size
    assert values["settings"]["nbeta"] == found["step2"].nbeta
    assert values["points"][1]["loss"] == found["step10"].init_loss
    assert len({point["weights"] for point in values["points"]}) == 3
    assert not found["step2"].is_trustworthy and code == 3
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[:5]] == ["step", "2", "10", "100", "λ̂"]
    assert found["step2"].verdict in table[1] and f"{found['step2'].verdict} → " in "\n".join(table[5:])
    with Image.open("out/curve.png") as image:
        assert image.size == (1008, 748)


@pytest.mark.slow
def test_only_what_is_missing_is_done(tmp_path: Path) -> None:
    """A second run does nothing; a lost result and a new checkpoint are added, with the ε of the first run."""
    files = series(tmp_path)
    main(command(files, "--quiet"))
    first, before = stamps(), Path("out/curve.json").read_text()
    main(command(files, "--quiet", "--resume"))
    assert stamps() == first and Path("out/curve.json").read_text() == before
    for path in Path("out/step10").iterdir():
        path.unlink()
    main(command(files, "--quiet"))
    assert {name for name in first if stamps()[name] != first[name]} == {"step10"}
    assert Path("out/curve.json").read_text() == before
    second = stamps()
    more = tmp_path / "step300.safetensors"
    more.write_bytes(Path(files[0]).read_bytes())
    main(command([*files, str(more)], "--quiet"))
    assert {name for name in second if stamps()[name] != second[name]} == set()
    assert json.loads(Path("out/curve.json").read_text())["calibrated_on"] == "step100"
    assert results()["step300"].llc == results()["step2"].llc


@pytest.mark.slow
def test_other_settings_in_the_folder_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = series(tmp_path, (1, 2))
    main(command(files, "--quiet", "--step-size", "1e-3"))
    assert main(command(files, "--quiet", "--step-size", "2e-3")) == 2
    assert "step_size: 0.001 → 0.002" in capsys.readouterr().err
    main(command(files, "--quiet", "--step-size", "2e-3", "--overwrite"))
    assert {result.step_size for result in results().values()} == {2e-3}


@pytest.mark.slow
def test_interrupted_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files, real, calls = series(tmp_path), module.estimate_model, []

    def interrupted(*args: Any, **options: Any) -> LLCResult:
        calls.append(options["output"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(module, "estimate_model", interrupted)
    assert main(command(files, "--quiet")) == 130
    assert "run the same command with --resume" in capsys.readouterr().err
    assert list(stamps()) == ["step100"]
    first = stamps()
    main(command(files, "--quiet", "--resume"))
    assert set(stamps()) == {"step2", "step10", "step100"} and stamps()["step100"] == first["step100"]


@pytest.mark.slow
def test_minimized_points_tell_both_losses(tmp_path: Path) -> None:
    """The curve shows the checkpoint's loss; the chains began at the minimum's, which is the same λ̂ for all."""
    more = ["--minimize", "--minimize-steps", "200", "--step-size", "1e-3", "--quiet"]
    main(command(series(tmp_path), *more))
    points = json.loads(Path("out/curve.json").read_text())["points"]
    assert points[0]["init_loss"] < 0.2 * points[0]["loss"]
    assert abs(points[0]["llc"] - points[2]["llc"]) < 4 * math.hypot(points[0]["llc_se"], points[2]["llc_se"])
    minimized = results()["step2"].minimize
    assert minimized is not None and points[0]["loss"] == minimized["loss_before"]


@pytest.mark.slow
def test_all_trustworthy_is_code_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two checkpoints at the same minimum."""
    files = series(tmp_path, (5, 6))
    Path(files[0]).write_bytes(Path(files[1]).read_bytes())
    more = ["--step-size", "4e-4", "--num-draws", "200", "--num-burnin-steps", "100"]
    assert main(command(files, *more, "--json")) == 0
    out, err = capsys.readouterr()
    assert [point["verdict"] for point in json.loads(out)["points"]] == ["trustworthy"] * 2
    assert "step6: trustworthy (1 of 2)" in err


@pytest.mark.slow
def test_folders_of_trainer(tmp_path: Path) -> None:
    """checkpoint-9 comes before checkpoint-10, whatever the file system says; other folders are passed over."""
    runs, model = tmp_path / "runs", tiny.llama()
    (runs / "logs").mkdir(parents=True)
    for step in (10, 9):
        model.save_pretrained(runs / f"checkpoint-{step}")
        tiny.tokenizer().save_pretrained(runs / f"checkpoint-{step}")
        with torch.no_grad():
            model.lm_head.weight.add_(0.1)
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(tiny.SENTENCES * 4))
    flags = ["--max-length", "16", "--step-size", "1e-6", "--num-draws", "10", "--num-burnin-steps", "0"]
    given = ["--checkpoints", str(runs), "--data", str(text), "--output", "out", "--x-scale", "log"]
    assert main(["curve", *given, *flags]) in (0, 3)
    values = json.loads(Path("out/curve.json").read_text())
    assert [(point["step"], point["name"]) for point in values["points"]] == [
        (9, "checkpoint-9"),
        (10, "checkpoint-10"),
    ]
    for point, shift in zip(values["points"], (0.1, 0.0), strict=True):  # checkpoint-9 was saved after the change
        model = tiny.llama()
        with torch.no_grad():
            model.lm_head.weight.add_(shift)
        problem = load_problem(model, str(text), LoadConfig(max_length=16), tokenizer=tiny.tokenizer())
        assert point["loss"] == pytest.approx(float(problem.losses(model, problem.examples).detach().mean()), rel=1e-5)
    assert str(tmp_path) not in json.dumps(values["points"])


def refs(*names: str) -> Any:
    """A stand-in for `HfApi` whose repository has these branches, and the tag v1."""
    known = SimpleNamespace(branches=[SimpleNamespace(name=n) for n in names], tags=[SimpleNamespace(name="v1")])
    return lambda: SimpleNamespace(list_repo_refs=lambda model: known)


@pytest.mark.slow
def test_revisions_of_a_hub_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Matching branches in natural order; each is asked of the estimate by its name."""
    monkeypatch.setattr(huggingface_hub, "HfApi", refs("main", "step1000", "step512", "step64"))
    found = revisions("me/model", "step*")
    assert [checkpoint.name for checkpoint in found] == ["step64", "step512", "step1000"]
    with pytest.raises(InputError, match=r"no branch or tag matches, got 'epoch\*'; allowed: main, step64"):
        revisions("me/model", "epoch*")
    model, asked = network(), []

    def estimate_model(load: LoadConfig, sample: SampleConfig, given: Given, **options: Any) -> LLCResult:
        asked.append((load.model, load.revision))
        x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            y = model(x)
        return LLCEvaluator(sample).compute(model, data=(x, y), loss_fn=squared_error)

    monkeypatch.setattr(module, "estimate_model", estimate_model)
    curve = measure(found, LoadConfig(model="me/model", data="me/data"), SampleConfig(**SAMPLE), output="out")
    assert asked == [("me/model", "step1000"), ("me/model", "step64"), ("me/model", "step512")]
    assert [point.step for point in curve.points] == [64, 512, 1000]


@pytest.mark.slow
def test_revisions_of_a_model_on_the_test_hub(hub: Hub, tmp_path: Path) -> None:
    """Three revisions by the command line: the commit of each, and the first has another loss than the others."""
    shas = [put_model(hub, tmp_path / str(step), revision=f"step{step}", seed=step) for step in (1, 20, 300)]
    put_data(hub, tmp_path)
    argv = [
        "curve",
        "--model",
        "me/tiny",
        "--revisions",
        "step*",
        "--data",
        "me/data",
        "--subset",
        "english",
        "--split",
    ]
    argv += ["train", "--num-chains", "2", "--num-draws", "20", "--num-burnin-steps", "5", "--step-size", "1e-5"]
    done = hub.fork(*argv, "--max-length", "16", "--output", "out", cwd=tmp_path)
    assert done.code in (0, 3), done.err
    curve = json.loads((tmp_path / "out" / "curve.json").read_text())
    assert [point["step"] for point in curve["points"]] == [1, 20, 300]
    results = [LLCResult.load(tmp_path / "out" / f"step{step}") for step in (1, 20, 300)]
    assert [result.model["revision"] for result in results] == shas
    assert len({result.init_loss for result in results}) == 3


def test_revisions_offline() -> None:
    with pytest.raises(InputError, match="the Hub cannot be reached"):
        revisions("me/model", "step*")


@pytest.mark.parametrize(
    ("names", "steps"),
    [
        (["step9", "step10"], [9, 10]),
        (["v2-step5", "v2-step7"], [5, 7]),
        (["epoch_1", "epoch_01x2"], None),
        (["v2-step5", "step7"], None),
        (["early", "late"], None),
        (["5", "best"], None),
    ],
)
def test_steps_come_from_the_names(names: list[str], steps: list[int] | None) -> None:
    assert steps_of(names) == steps
    assert sorted(["b", "a10", "a9", "10", "9²"], key=natural) == ["9²", "10", "a9", "a10", "b"]


PICKLED = (__file__, "--allow-pickle")
"""A file that is there: whether one is, is looked at before the factory is imported."""


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--revisions", "step*", "--model", "m"], "no data given"),
        (["--data", "d"], "one series is needed, got 'none'"),
        (["--data", "d", "--revisions", "a", "--model", "m", "--checkpoints", "c"], "--revisions and --checkpoints"),
        (["--data", "d", "--revisions", "a"], "--model and --revisions go together"),
        (["--data", "d", "--checkpoints", "c", "--model", "m"], "--model and --revisions go together"),
        (["--data", "d", "--checkpoints", "nowhere"], "no checkpoints there"),
        (["--data", "d", "--weight-files", "w"], "--weight-files and --factory go together"),
        (["--data", "d", "--weight-files", "w", "--factory", "make"], "not the name of a function"),
        (["--data", "d", "--weight-files", *PICKLED, "--factory", "no_such_module:make"], "no such factory"),
        (["--data", "d", "--weight-files", *PICKLED, "--factory", "curve_factory:none"], "no such factory"),
        (["--data", "d", "--weight-files", "w", "--factory", "curve_factory:make"], "no such weights file"),
        (["--data", "d", "--checkpoints", "c", "--revision", "a"], "revision is for one model"),
        (["--data", "d", "--checkpoints", "c", "--resume", "--overwrite"], "both given"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["curve", *argv, "--output", "out"]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert list(Path().iterdir()) == []


def test_weights_and_factories_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = series(tmp_path, (1, 2))

    def refused(argv: list[str], message: str) -> None:
        assert main(argv) == 2
        assert message in capsys.readouterr().err
        assert not Path("out").exists()

    wrong = [word.replace(":make", ":wrong") for word in command(files)]
    refused(wrong, "the factory returns something else")
    broken = [word.replace(":make", ":broken") for word in command(files)]
    refused(broken, "the factory fails, got 'ValueError: no width'")
    Path("unsound.py").write_text("1 / 0\n")
    unsound = [word.replace("curve_factory:", "unsound:") for word in command(files)]
    refused(unsound, "the factory's module fails, got 'unsound:make'; ZeroDivisionError")
    refused(command(files[:1]), "two checkpoints or more")
    refused(command(files, "--num-chains", "0"), "num_chains")
    torch.save(network().state_dict(), tmp_path / "step3.pt")
    refused(command([*files, str(tmp_path / "step3.pt")]), "not in safetensors format")
    torch.save(network(), tmp_path / "whole.pt")  # the module, not its weights
    (whole,) = weight_files([tmp_path / "whole.pt"], "curve_factory:make", allow_pickle=True)
    with pytest.raises(InputError, match=r"a pickle of more than tensors, got 'whole\.pt'"):
        whole.open()  # type: ignore[misc]
    Path(files[1]).write_bytes(b"nonsense")
    refused(command(files), "the weights file is damaged")
    save_file({"other": torch.ones(1)}, files[1])
    refused(command(files), "the weights do not fit")
    (checkpoint,) = weight_files([tmp_path / "step3.pt"], lambda: (network(), squared_error), allow_pickle=True)
    assert checkpoint.open is not None
    loaded = checkpoint.open()[0].state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in network().state_dict().items())


def example(verdicts: list[str], steps: list[int]) -> Curve:
    """A curve made up, for pictures."""
    points = [
        Point(
            step=step,
            name=f"step{step}",
            llc=10.0 + 3 * i,
            llc_se=0.5,
            loss=2.0 / (1 + i),
            init_loss=2.0 / (1 + i),
            mean_loss=2.5 / (1 + i),
            r_hat=1.0,
            ess=300.0,
            verdict=verdict,
            weights=f"{i:040x}",
        )
        for i, (step, verdict) in enumerate(zip(steps, verdicts, strict=True))
    ]
    settings = {"n": 1000, "nbeta": 144.8, "localization": 100.0, "step_size": 1e-5, "batch_size": 32}
    more = {"num_chains": 4, "num_draws": 200, "num_burnin_steps": 200, "minimize": False}
    return Curve(points, {**settings, **more}, "step8", "nats per token", {})


def test_picture_of_a_curve(tmp_path: Path, drawn: list[Figure]) -> None:
    """λ̂ above, hollow, joined to none and without an error bar where it is not to be trusted; the loss below."""
    plot_curve(example(["trustworthy"] * 2 + ["drifting", "trustworthy"], [1, 2, 4, 8]), tmp_path / "curve.png")
    left, right = drawn[0].axes
    (bars,) = left.containers
    joined = [line for line in left.lines if line.get_linestyle() == "-" and line.get_marker() == "None"]
    assert [line.get_xydata().tolist() for line in joined] == [[[1, 10], [2, 13]]]
    assert bars.lines[0].get_xydata().tolist() == [[1, 10], [2, 13], [8, 19]]
    assert [segment.tolist() for segment in bars.lines[2][0].get_segments()] == [
        [[1, 9.5], [1, 10.5]], [[2, 12.5], [2, 13.5]], [[8, 18.5], [8, 19.5]]
    ]  # fmt: skip
    hollow = [line for line in left.lines if line.get_markerfacecolor() == "white"]
    assert [line.get_xydata().tolist() for line in hollow] == [[[4, 16]]] and hollow[0].get_color() == BAD
    low, high = left.get_ylim()
    assert high - low >= 20 * 0.5 and left.get_position().y0 > right.get_position().y1
    (loss,) = right.lines
    assert loss.get_xydata().flatten().tolist() == pytest.approx([1, 2, 2, 1, 4, 2 / 3, 8, 0.5])
    assert (left.get_ylabel(), right.get_ylabel(), right.get_xlabel()) == ("λ̂", "loss\n(nats per token)", "step")
    legend = left.get_legend()
    handles = dict(zip([text.get_text() for text in legend.get_texts()], legend.legend_handles, strict=True))
    assert set(handles) == {"λ̂ ± standard error", "λ̂, not trustworthy"}
    assert drawn[0].get_suptitle() == (
        "n 1,000   nβ 144.8   γ 100   ε 1e-5   batch 32   4 × 200 draws after 200 steps\n"
        "λ̂ at nβ 144.8, γ 100: 10 → 19, while the loss went 2 → 0.5"
    )


def test_a_lambda_far_off_stands_at_the_rim_and_does_not_set_the_scale(tmp_path: Path, drawn: list[Figure]) -> None:
    curve = example(["trustworthy", "drifting", "diverged", "trustworthy", "drifting"], [1, 2, 3, 4, 5])
    values = [10.0, 9e4, math.nan, 11.0, -9e4]
    points = [replace(point, llc=value) for point, value in zip(curve.points, values, strict=True)]
    plot_curve(replace(curve, points=points), tmp_path / "curve.png")
    axes = drawn[0].axes[0]
    assert 0 <= axes.get_ylim()[0] < 10 and 11 < axes.get_ylim()[1] < 30
    found = {
        line.get_marker(): line.get_xydata().tolist() for line in axes.lines if line.get_markerfacecolor() == "white"
    }
    assert found == {"^": [[2, axes.get_ylim()[1]]], "v": [[5, axes.get_ylim()[0]]]}


@pytest.mark.parametrize(
    ("values", "errors"),
    [([10.0], [0.1]), ([35.0, 32.4], [0.9, 0.8]), ([1e5, 1.001e5], [5.0, 5.0]), ([0.1, 100.0], [0.1, 1.0]),
     ([-5.0, 5.0], [1.0, math.nan]), ([3.0, 3.0], [0.0, 0.0]), ([0.0], [math.nan]), ([math.nan], [1.0])],
)  # fmt: skip
def test_an_axis_of_lambda_holds_all_and_makes_no_noise_steep(values: list[float], errors: list[float]) -> None:
    low, high = steady_range(values, errors)
    assert low < high
    known = [(v, e) for v, e in zip(values, errors, strict=True) if math.isfinite(v)]
    assert all(
        low <= v - (e if math.isfinite(e) else 0) and v + (e if math.isfinite(e) else 0) <= high for v, e in known
    )
    middle = sorted(e if math.isfinite(e) else 0.0 for _, e in known)[len(known) // 2] if known else 0.0
    assert high - low >= (20 * middle if low < 0 or low > 0 else high)


def test_a_curve_says_what_to_do_about_each_kind_of_bad_verdict() -> None:
    curve = example(["drifting", "trustworthy", "drifting"], [1, 2, 8])
    remedies = ["raise max_steps from 1 to 2", "", "raise max_steps from 1 to 2"]
    points = [replace(point, remedy=remedy) for point, remedy in zip(curve.points, remedies, strict=True)]
    assert "step1, step8: drifting → raise max_steps from 1 to 2" in str(replace(curve, points=points))
    bad = make_result(verdict="diverged", reasons=[Reason("diverged", "x", "leave …", change={"step_size": "auto"})])
    assert remedy_for(SampleConfig(step_size=1e-3), bad) == "leave …"
    assert "measure all like that" in remedy_for(SampleConfig(), bad)
    assert remedy_for(SampleConfig(), make_result()) == ""


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "scale"), [([0, 64, 512], "symlog"), ([1, 64, 512], "log")])
def test_log_axis_with_and_without_a_step_0(tmp_path: Path, steps: list[int], scale: str, drawn: list[Figure]) -> None:
    """A step 0 is a place of its own left of the others, which are as far apart as their logarithms."""
    path = plot_curve(example(["trustworthy"] * 3, steps), tmp_path / "curve.png", x_scale="log")
    with Image.open(path) as image:
        assert image.size == (1008, 748)
    axes = drawn[0].axes[0]
    assert axes.get_xscale() == scale and list(axes.containers[0].lines[0].get_xdata()) == steps
    places = axes.transData.transform([(step, 10.0) for step in (*steps, 4096)])[:, 0]
    assert places[0] < places[1] < places[2] and places[3] - places[2] == pytest.approx(places[2] - places[1])


def test_checkpoint_folders_refuses_a_folder_without(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoints there"):
        checkpoint_folders(tmp_path)


@pytest.mark.slow
def test_two_processes_draw_the_curve_of_one(tmp_path: Path) -> None:
    files = series(tmp_path)
    script = str(ROOT / "tests" / "curve_factory.py")

    def run(processes: int, output: str) -> Any:
        argv = [script, *command(files, "--output", str(tmp_path / output), "--quiet", "--num-chains", "4")]
        _, said = Program(*argv, processes=processes).end()
        assert (tmp_path / output / "curve.json").exists(), said
        curve = json.loads((tmp_path / output / "curve.json").read_text())
        del curve["seal"]  # it has the run's own id
        return curve

    one, two = run(1, "one"), run(2, "two")
    assert one == two
    assert LLCResult.load(tmp_path / "two" / "step2").num_processes == 2


@pytest.mark.slow
def test_fashion_mnist_script(data_folder: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The script's model, data and minimizer, cut short: seven points, losses of the checkpoints as they are."""
    data = data_folder("fashion_mnist").parent
    data_folder("fashion_mnist_cnn_series")
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import fashion_mnist_curve

    short = ["--max-examples", "100", "--num-draws", "4", "--num-burnin-steps", "2", "--minimize-steps", "3"]
    short += ["--step-size", "1e-6", "--localization", "600", "--num-chains", "2", "--no-check-localization"]
    code = main([*fashion_mnist_curve.arguments(data), *short, "--output", "out", "--quiet", "--split", "test"])
    points = json.loads(Path("out/curve.json").read_text())["points"]
    assert code in (0, 3) and [point["step"] for point in points] == list(range(1, 8))
    assert points[0]["loss"] > points[6]["loss"] and 0.1 < points[6]["loss"] < 0.6
    assert sum(p.numel() for p in fashion_mnist_curve.network()[0].parameters()) == 421_642


@pytest.mark.slow
def test_a_limit_is_that_of_the_whole_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first point has twice the share of the others; one without time is not measured, and the curve says so."""
    limits: list[float] = []
    inner = module.estimate_model

    def noted(*args: Any, limit: float, **kwargs: Any) -> LLCResult:
        limits.append(limit)
        return inner(*args, limit=limit if len(limits) < 3 else 0.0, **kwargs)

    monkeypatch.setattr(module, "estimate_model", noted)
    files = series(tmp_path)
    assert main(command(files, "--quiet", "--step-size", "1e-4", "--max-seconds", "600")) == 3
    assert limits[0] == pytest.approx(300, rel=0.2) and limits[1] > 200  # of three; then two are left
    failed = json.loads(Path("out/curve.json").read_text())["failed"]
    assert list(failed) == ["step10"] and failed["step10"].startswith("no draws: max_seconds stopped the run")
    assert len(results()) == 2


@pytest.mark.parametrize(
    ("word", "name"), [("first", "step2"), ("middle", "step10"), ("10", "step10"), ("step2", "step2")]
)
def test_the_checkpoint_to_calibrate_on_is_a_choice(word: str, name: str) -> None:
    left = SeriesLeft([Checkpoint(each, {}) for each in ("step2", "step10", "step100")], print)
    assert left.meant_by(word) == name and left.meant_by("last") == "step100"
    with pytest.raises(InputError, match=r"not a checkpoint .*, got '7'; allowed: first, middle, last, 2, 10, 100"):
        left.meant_by("7")


def test_a_name_without_a_number_is_left_out_and_never_first() -> None:
    names = ("epoch_1", "epoch_2", "epoch_3", "epoch_init")
    left = SeriesLeft([Checkpoint(each, {}) for each in names], print)
    left.skip_without_steps()
    assert left.skipped == {"epoch_init": "no step in its name"} and left.meant_by("last") == "epoch_3"


@pytest.mark.slow
def test_a_curve_calibrated_on_its_first_checkpoint_goes_on_with_it(tmp_path: Path) -> None:
    files = series(tmp_path)
    main(command(files, "--quiet", "--step-size", "1e-4", "--calibrate-on", "first"))
    assert json.loads(Path("out/curve.json").read_text())["calibrated_on"] == "step2"
    before = stamps()
    main(command(files, "--quiet", "--step-size", "1e-4"))
    assert stamps() == before and json.loads(Path("out/curve.json").read_text())["calibrated_on"] == "step2"
    assert main(command(files, "--quiet", "--step-size", "1e-4", "--calibrate-on", "last")) == 2
