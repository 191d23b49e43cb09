"""Finished folders that were changed are refused in one line when they are read, shown or published."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from test_run_folder import Killed, compute, copy_of, killed, llc_of

from hf_llc.cli.entry_point import main
from hf_llc.errors import InputError
from hf_llc.publishing.result_folder import CURVE_FILES, read_curve
from hf_llc.result import LLCResult
from hf_llc.studies.calibration import Calibration
from hf_llc.studies.curve import Curve, Point
from hf_llc.workflow import estimate_model, run_folder
from hf_llc.workflow.folder_lock import FolderLock

pytestmark = pytest.mark.pictures


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with observations."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    compute(folder, observe="parameter_norms")
    return folder


def rewritten(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")


def deep(values: dict[str, Any]) -> None:
    """Nested less than the parser bears, and more than a function that calls itself."""
    for _ in range(900):
        values["model"] = {"a": values["model"]}


CHANGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another value, and the seal off": (
        lambda folder: rewritten(folder / "result.json", lambda x: [x.pop("seal"), x.update(llc=1.0)]),
        "has lost its seal",
    ),
    "nested": (lambda folder: rewritten(folder / "result.json", deep), "damaged"),
    "no observations": (lambda folder: (folder / "observations.safetensors").unlink(), "is gone"),
    "observations of fewer steps": (
        lambda folder: save_file(
            {name: x[..., :1].contiguous() for name, x in load_file(folder / "observations.safetensors").items()},
            folder / "observations.safetensors",
        ),
        "is damaged",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("change", "match"), CHANGES.values(), ids=CHANGES.keys())
def test_a_changed_folder_is_not_shown_as_whole(
    change: Callable[[Path], Any], match: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_of(whole, tmp_path)
    change(folder)
    assert main(["show", str(folder)]) == 2
    out, err = capsys.readouterr()
    is_result_whole = "observations" in err  # what is damaged beside a result does not hide it
    assert out.startswith("λ̂") == is_result_whole and bool(out) == is_result_whole
    assert match in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("name", ["trace.png", "card.md"])
def test_a_picture_or_card_that_was_changed_is_refused_by_its_run(name: str, whole: Path, tmp_path: Path) -> None:
    """The run would else say that all is there. A file that is gone is no lie; `show` and `load` read neither."""
    folder = copy_of(whole, tmp_path)
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-30] + data[:30])
    with pytest.raises(InputError, match=f"damaged.*{name}.*give it another name") as caught:
        compute(folder, observe="parameter_norms")
    assert "\n" not in str(caught.value)
    assert llc_of(LLCResult.load(folder)) == llc_of(LLCResult.load(whole))
    (folder / name).unlink()
    compute(folder, observe="parameter_norms")


def test_a_picture_or_trace_of_another_result_is_not_taken_for_its_own(whole: Path, tmp_path: Path) -> None:
    """A result without a trace, saved where those of another lie."""
    result = LLCResult.load(whole).replace(trace=None, folder=None)
    for name in ("trace.safetensors", "trace.png"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    result.save(tmp_path)
    assert LLCResult.load(tmp_path).trace is None
    (tmp_path / "model").mkdir()
    assert main(["publish", str(tmp_path), "--card", str(tmp_path / "model"), "--allow-untrusted"]) == 0
    assert "trace.png" not in {path.name for path in (tmp_path / "model" / "llc").iterdir()}


def curve_of(whole: Path, folder: Path, **changes: Any) -> Path:
    """A curve of two points, of which one is the result; returns the folder of that result."""
    result = LLCResult.load(whole)
    values: dict[str, Any] = {
        **{name: getattr(result, name) for name in ("llc", "llc_se", "init_loss", "mean_loss", "r_hat", "ess")},
        "verdict": result.verdict,
        "loss": result.init_loss,
        "weights": "x",
        **changes,
    }
    points = [Point(step=step, name=f"step{step}", **values) for step in (1, 2)]
    (folder / "curve.png").parent.mkdir(exist_ok=True)
    (folder / "curve.png").write_bytes(b"\x89PNG")
    Curve(points=points, settings={}, calibrated_on="step2", unit="nats", data={}).save(folder)
    return copy_of(whole, folder)


@pytest.mark.parametrize("name", CURVE_FILES)
def test_a_changed_file_of_a_curve_is_not_published(
    name: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, card = curve_of(whole, tmp_path / "curve"), tmp_path / "model"
    card.mkdir()
    command = ["publish", str(folder), "--card", str(card), "--allow-untrusted"]
    assert main(command) == 0 and {*CURVE_FILES} <= {path.name for path in (card / "llc").iterdir()}
    before = (card / "README.md").read_bytes()
    (tmp_path / "curve" / name).write_bytes(b"x")
    capsys.readouterr()
    assert main(command) == 2
    assert "damaged" in capsys.readouterr().err and (card / "README.md").read_bytes() == before


def test_a_curve_of_other_results_is_not_published_with_this_one(whole: Path, tmp_path: Path) -> None:
    assert read_curve(curve_of(whole, tmp_path / "one")) is not None
    assert read_curve(curve_of(whole, tmp_path / "other", llc=1.5)) is None


@pytest.mark.parametrize("name", ["calibrated.yaml", "calibration.json"])
def test_a_changed_calibration_is_refused(name: str, tmp_path: Path) -> None:
    Calibration(settings={"step_size": 1.0}, found=None, moved=None, cells=[], num_gradients=3).save(tmp_path)
    assert Calibration.load(tmp_path).num_gradients == 3
    text = (tmp_path / name).read_text(encoding="utf-8")
    (tmp_path / name).write_text(text.replace("1.0", "2.0"), encoding="utf-8")
    with pytest.raises(InputError, match="damaged"):
        Calibration.load(tmp_path)


# what kills and others leave behind


@pytest.mark.slow
def test_what_a_kill_after_the_result_left_is_swept(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder.RunFolder, "close", killed)
        with pytest.raises(Killed):
            compute(folder)
    (folder / ".card.md.abcdefgh.md").touch()
    assert (folder / "result.json").exists() and (folder / ".hf_llc").exists()
    compute(folder)
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("text", ["[1, 2]", "not JSON", ""])
def test_a_record_of_others_that_cannot_be_parsed_is_theirs(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"run\.json, which hf_llc did not write"):
            compute(tmp_path, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: (folder / ".hf_llc" / "lock").mkdir(parents=True),
        lambda folder: (folder / ".hf_llc").touch(),
        lambda folder: (folder / ".hf_llc").symlink_to("/nowhere/at/all"),
        lambda folder: [(folder / ".hf_llc").mkdir(), (folder / ".hf_llc" / "lock").symlink_to("/nowhere/at/all")],
    ],
    ids=["folder", "file", "link", "link of the lock"],
)
def test_a_private_folder_of_others_is_refused(make: Callable[[Path], Any], tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(InputError, match=r"a \.hf_llc that hf_llc did not make"):
        FolderLock(tmp_path).acquire()


@pytest.mark.slow
def test_a_run_that_was_begun_anew_is_gone_on_with(whole: Path, tmp_path: Path) -> None:
    """A kill inside --overwrite after the first removal; the states of the run before lie there no more."""
    folder = copy_of(whole, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimate_model, "save", killed)
        with pytest.raises(Killed):
            compute(folder, overwrite=True, localization=9.0)
    assert llc_of(compute(folder, localization=9.0)) == llc_of(compute(tmp_path / "fresh", localization=9.0))
