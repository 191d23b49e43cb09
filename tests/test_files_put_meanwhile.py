"""Files that a user puts into a run's folder while the run works, or before it goes on, are never overwritten."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from curve_factory import series
from test_calibrate_command import SMALL as TINY_TEXT
from test_components_command import measured as components
from test_curve import command as curve_command
from test_run_folder import Killed, compute, copy_of, killed, killed_before_its_result, llc_of, one_line, states

from hf_llc import LLCResult
from hf_llc.cli.console import remove_empty
from hf_llc.cli.entry_point import main
from hf_llc.config import SampleConfig, as_dict
from hf_llc.errors import InputError
from hf_llc.files import write_atomically, write_json
from hf_llc.our_files import is_ours
from hf_llc.publishing.hub import publish_to_folder
from hf_llc.publishing.options import PublishOptions
from hf_llc.studies import explore_settings, measure_components, measure_curve
from hf_llc.studies.calibration import Calibration
from hf_llc.studies.curve import Curve, Point
from hf_llc.workflow.run import Run
from hf_llc.workflow.run_folder import RunFolder

pytestmark = pytest.mark.pictures

MINE = b'{"mine": 1}'
NAMES = ("result.json", "card.md", "trace.png", "trace.safetensors", "observations.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    compute(folder, observe="parameter_norms")
    return folder


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed before the files that end it."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "finish", killed)
        with pytest.raises(Killed):
            compute(folder)
    return folder


def at_the_end(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], Any]) -> None:
    """When the chains have ended, and before their result is written."""
    original = Run.result

    def result(run: Run, begun: float) -> LLCResult:
        found = original(run, begun)
        happens()
        return found

    monkeypatch.setattr(Run, "result", result)


def foreign(name: str, whole: Path) -> bytes:
    return MINE


def of_another_run(name: str, whole: Path) -> bytes:
    return (whole / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("contents", [foreign, of_another_run])
@pytest.mark.parametrize("name", NAMES)
def test_a_file_put_there_while_the_run_works_stays(
    name: str,
    contents: Callable[[str, Path], bytes],
    whole: Path,
    begun: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, data = copy_of(begun, tmp_path), contents(name, whole)
    with monkeypatch.context() as patch:
        at_the_end(patch, lambda: (folder / name).write_bytes(data))
        with pytest.raises(InputError, match=f"{name}, which hf_llc did not write.*move it away") as caught:
            compute(folder)
    assert one_line(caught.value) and (folder / name).read_bytes() == data and states(folder)
    with pytest.raises(InputError, match=f"{name}, which hf_llc did not write"):
        compute(folder)
    (folder / name).rename(tmp_path / name)
    assert llc_of(compute(folder)) == llc_of(LLCResult.load(whole))


def test_what_was_overwritten_before_the_work_says_nothing_of_what_comes_meanwhile(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_of(whole, tmp_path)
    at_the_end(monkeypatch, lambda: (folder / "card.md").write_bytes(MINE))
    with pytest.raises(InputError, match=r"card\.md, which hf_llc did not write"):
        compute(folder, overwrite=True)
    assert (folder / "card.md").read_bytes() == MINE


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["result.json", "card.md"])
def test_a_file_put_there_before_the_run_goes_on_stays(name: str, overwrite: bool, begun: Path, tmp_path: Path) -> None:
    folder = copy_of(begun, tmp_path)
    (folder / name).write_bytes(MINE)
    with pytest.raises(InputError, match=f"{name}, which hf_llc did not write"):
        compute(folder, overwrite=overwrite)
    assert (folder / name).read_bytes() == MINE and states(folder)


@pytest.fixture(scope="module")
def ending(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed when it began to write the files that end it."""
    return killed_before_its_result(tmp_path_factory.mktemp("ending") / "run")


@pytest.mark.parametrize(
    ("name", "contents"), [("result.json", foreign), ("result.json", of_another_run), ("trace.png", foreign)]
)
def test_what_the_run_was_writing_when_it_was_killed_is_its_own(
    name: str, contents: Callable[[str, Path], bytes], whole: Path, ending: Path, tmp_path: Path
) -> None:
    """A file of another program or run that lies there then is not."""
    folder, data = copy_of(ending, tmp_path), contents(name, whole)
    (folder / "trace.png").write_bytes((whole / "trace.png").read_bytes())
    (folder / name).write_bytes(data)
    with pytest.raises(InputError, match=f"{name}, which hf_llc did not write"):
        compute(folder)
    assert (folder / name).read_bytes() == data and states(folder)
    (folder / name).unlink()
    assert llc_of(compute(folder)) == llc_of(LLCResult.load(whole))


def test_a_folder_that_ended_before_ends_were_announced_is_read(whole: Path, tmp_path: Path) -> None:
    folder = copy_of(whole, tmp_path)
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    del record["ending"]
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    stamp = (folder / "result.json").stat().st_mtime_ns
    assert llc_of(compute(folder, observe="parameter_norms")) == llc_of(LLCResult.load(whole))
    assert (folder / "result.json").stat().st_mtime_ns == stamp


def test_what_a_kill_inside_safetensors_leaves_is_swept(begun: Path, tmp_path: Path) -> None:
    """It writes under a name of its own first."""
    folder = copy_of(begun, tmp_path)
    left = states(folder)[0].with_name(".tmpAb1xYz")
    left.write_bytes(b"half")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "result", killed)
        with pytest.raises(Killed):
            compute(folder)
    assert states(folder) and not left.exists()


def test_a_kill_while_clearing_gives_no_leave_to_overwrite(whole: Path, tmp_path: Path) -> None:
    folder = copy_of(whole, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(Killed):
            compute(folder, overwrite=True)
    (folder / "card.md").write_bytes(MINE)
    with pytest.raises(InputError, match=r"card\.md, which hf_llc did not write"):
        compute(folder)
    assert (folder / "card.md").read_bytes() == MINE


def in_place_of(folder: Path, make: Callable[[Path], Any]) -> None:
    shutil.rmtree(folder)
    make(folder)


def other_folder(path: Path) -> None:
    path.mkdir()
    (path / "result.json").write_bytes(MINE)


LOST: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a file": (lambda path: path.write_bytes(MINE), "something else is where the folder"),
    "a link": (lambda path: path.symlink_to("/nowhere/at/all"), "something else is where the folder"),
    "a folder of others": (other_folder, r"result\.json, which hf_llc did not write"),
}


@pytest.mark.parametrize(
    ("up", "kind"), [(0, "a file"), (0, "a link"), (0, "a folder of others"), (1, "a file"), (1, "a link")]
)
def test_something_else_in_place_of_the_folder(
    up: int, kind: str, begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, match = LOST[kind]
    folder = copy_of(begun, tmp_path / "parent")
    place = [folder, folder.parent][up]
    at_the_end(monkeypatch, lambda: in_place_of(place, make))
    with pytest.raises(InputError, match=match) as caught:
        compute(folder)
    assert one_line(caught.value)
    assert place.is_symlink() or (place if place.is_file() else place / "result.json").read_bytes() == MINE


def test_a_file_in_place_of_the_folder_while_states_are_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, original = tmp_path / "run", Run.sample

    def sample(run: Run, *arguments: Any) -> Any:
        in_place_of(folder, lambda path: path.write_bytes(MINE))
        return original(run, *arguments)

    monkeypatch.setattr(Run, "sample", sample)
    with pytest.raises(InputError, match="something else is where the folder") as caught:
        compute(folder, save_seconds=0.0)
    assert one_line(caught.value) and folder.read_bytes() == MINE


def test_a_run_whose_folder_was_removed_ends_as_any_other(
    begun: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_of(begun, tmp_path)
    with monkeypatch.context() as patch:
        at_the_end(patch, lambda: shutil.rmtree(folder))
        compute(folder)
    assert llc_of(compute(folder)) == llc_of(LLCResult.load(folder)) == llc_of(LLCResult.load(whole))


# the other commands


def _curve(tmp_path: Path) -> Any:
    files = sorted(map(str, tmp_path.glob("step*")))
    return main(curve_command(files, "--quiet", "--step-size", "1e-4"))


def _components(tmp_path: Path) -> Any:
    return components(tmp_path / "out")


def _calibrate(tmp_path: Path) -> Any:
    return main(["calibrate", *TINY_TEXT, "--quiet", "--no-grid", "--output", "out"])


COMMANDS: dict[str, tuple[Callable[[Path], Any], Any, str, tuple[str, ...]]] = {
    "curve": (_curve, measure_curve, "_curve", ("curve.png", "curve.csv", "curve.json")),
    "components": (_components, measure_components, "_table", ("components.csv", "components.json")),
    "calibrate": (_calibrate, explore_settings, "calibrate_run", ("calibrated.yaml",)),
}


@pytest.mark.slow
@pytest.mark.parametrize(("run", "module", "last", "names"), COMMANDS.values(), ids=COMMANDS.keys())
def test_files_put_there_while_other_commands_work_stay(
    run: Callable[[Path], Any],
    module: Any,
    last: str,
    names: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hf_llc.cli.console.hush", lambda quiet: None)
    chosen = as_dict(SampleConfig(step_size=1.0, localization=1.0, nbeta=1.0))
    del chosen["friction"]
    found = Calibration(settings=chosen, found=None, moved=None, cells=[], num_gradients=0)
    monkeypatch.setattr(explore_settings, "calibrate_run", lambda run, grid: found)  # which takes seconds
    original = getattr(module, last)
    series(tmp_path, (2, 10))
    capsys.readouterr()
    for name in names:
        path = tmp_path / "out" / name

        def put(*arguments: Any, path: Path = path, **options: Any) -> Any:
            path.write_bytes(MINE)
            return original(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(module, last, put)
            for _ in range(2):  # and again, before the work
                try:
                    code, said = run(tmp_path), capsys.readouterr().err
                except InputError as error:
                    code, said = 2, f"{error}\n"
                assert code == 2 and f"{name}, which hf_llc did not write" in said and said.count("\n") == 1
        assert path.read_bytes() == MINE
        path.unlink()
    run(tmp_path)
    assert all(is_ours(tmp_path / "out" / name) for name in names)
    code = run(tmp_path)  # what is finished is no hindrance
    assert code not in (1, 2) and not capsys.readouterr().err


@pytest.mark.slow
def test_a_file_beside_a_finished_curve_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A curve that goes on writes its files again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hf_llc.cli.console.hush", lambda quiet: None)
    series(tmp_path, (2, 10))
    _curve(tmp_path)
    (tmp_path / "out" / "curve.csv").write_bytes(MINE)
    monkeypatch.setattr(measure_curve, "estimate_model", lambda *_, **__: pytest.fail("work"))
    assert _curve(tmp_path) == 2 and "curve.csv, which hf_llc did not write" in capsys.readouterr().err
    assert (tmp_path / "out" / "curve.csv").read_bytes() == MINE


def test_a_curve_over_positions_is_ours(tmp_path: Path) -> None:
    point = Point(0, "a", 1.0, 0.1, 1.0, 1.0, 1.0, 1.0, 9.0, "trustworthy", "x")
    Curve([point], {"n": 3}, "a", "nats", {}, axis="position").save(tmp_path)
    assert is_ours(tmp_path / "curve.csv") and is_ours(tmp_path / "curve.json")


@pytest.mark.parametrize("name", ["compare.png", "compare.csv", "compare.json"])
def test_compare_overwrites_what_is_its_own(name: str, whole: Path, tmp_path: Path) -> None:
    folders = [str(copy_of(whole, tmp_path / place)) for place in ("one", "two")]
    command = ["compare", *folders, "--output", str(tmp_path)]
    assert main(command) != 2 and main(command) != 2
    (tmp_path / name).write_bytes(MINE)
    assert main(command) == 2 and (tmp_path / name).read_bytes() == MINE


def test_benchmark_overwrites_what_is_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "benchmark.json").write_bytes(MINE)
    assert main(["benchmark", "--targets", "quadratic", "--output", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert "which hf_llc did not write" in said.err and not said.out
    write_json(tmp_path / "benchmark.json", {"asked": {}, "rows": []})
    assert is_ours(tmp_path / "benchmark.json")


@pytest.mark.parametrize("name", NAMES)
def test_a_result_is_not_saved_over_the_files_of_others(name: str, whole: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(MINE)
    with pytest.raises(InputError, match="which hf_llc did not write"):
        LLCResult.load(whole).save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_bytes() == MINE


def test_publishing_to_a_card_leaves_the_files_of_others(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "llc").mkdir()
    (tmp_path / "llc" / "trace.png").write_bytes(MINE)
    result, options = LLCResult.load(whole), PublishOptions(allow_untrusted=True)
    with pytest.raises(InputError, match=r"trace\.png, which hf_llc did not write"):
        publish_to_folder(result, tmp_path, options)
    assert [path.name for path in tmp_path.rglob("*.*")] == ["trace.png"]
    (tmp_path / "llc" / "trace.png").unlink()
    for _ in range(2):
        publish_to_folder(result, tmp_path, options)


def test_a_file_in_place_of_the_folder_of_a_refused_command_stays(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(MINE)
    remove_empty(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == MINE


# access rights


def rights(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.skipif(os.name == "nt", reason="no umask there")
@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077, 0o027])
def test_files_have_the_access_rights_that_open_gives(
    mask: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = os.umask(mask)
    try:
        (tmp_path / "opened").touch()
        LLCResult.load(whole).save(tmp_path / "saved")
        write_json(tmp_path / "kept", 1)
        (tmp_path / "kept").chmod(0o640)
        write_json(tmp_path / "kept", 2)
    finally:
        os.umask(old)
    assert {rights(path) for path in (tmp_path / "saved").iterdir()} == {rights(tmp_path / "opened")} == {0o666 & ~mask}
    assert rights(tmp_path / "kept") == 0o640


def test_a_folder_with_the_name_of_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "card.md").mkdir()
    with pytest.raises(InputError, match="cannot write") as caught:
        write_atomically(tmp_path / "card.md", lambda path: path.write_text("x"))
    assert one_line(caught.value) and [path.name for path in tmp_path.iterdir()] == ["card.md"]
