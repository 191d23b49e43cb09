"""What others do to a run's folder while the run is under way, or between a kill and the next run."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_run_folder import Killed, compute, copy_of, killed, killed_before_its_result, llc_of, one_line, states

from hf_llc.errors import InputError
from hf_llc.files import check_writable
from hf_llc.observables.observable import Observer
from hf_llc.seals import json_hash
from hf_llc.workflow import estimate_model, folder_lock, run
from hf_llc.workflow.folder_lock import FolderLock
from hf_llc.workflow.run_folder import RunFolder

CHECKED: dict[str, Any] = {"nbeta": 500.0, "localization": 100.0, "step_size": 1e-4, "observe": "parameter_norms"}
"""Settings at which λ̂ is trustworthy, so that γ is checked by chains that continue."""


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed when its chains had ended, and before its result was written."""
    return killed_before_its_result(tmp_path_factory.mktemp("begun") / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chains-00001-00001.safetensors", "*"], ids=["a state", "all"])
def test_chains_do_not_continue_from_a_state_that_is_gone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would begin at w*, and λ̂ at the other γ would be that of short chains from there."""
    original = run.extrapolate

    def after_loss(*arguments: Any) -> Any:
        for path in states(tmp_path):
            if path.match(name):
                path.unlink()
        return original(*arguments)

    monkeypatch.setattr(run, "extrapolate", after_loss)
    with pytest.raises(InputError, match=r"a saved state is gone.*attempt-\d/chains") as caught:
        compute(tmp_path / "run", extrapolate=True)
    assert one_line(caught.value)
    monkeypatch.undo()
    assert llc_of(compute(tmp_path / "run", extrapolate=True)) == llc_of(compute(tmp_path / "fresh", extrapolate=True))


@pytest.mark.parametrize("number", [0, -1])
def test_records_that_go_while_the_chains_run_are_missed(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would be NaN, as those of a chain that has diverged."""
    original = Observer.observations

    def after_loss(observer: Observer, until: int) -> Any:
        sorted(tmp_path.rglob("observables-*"))[number].unlink()
        return original(observer, until)

    monkeypatch.setattr(Observer, "observations", after_loss)
    with pytest.raises(InputError, match=r"records of step \d+ are gone"):
        compute(tmp_path / "run", observe="parameter_norms", save_seconds=0.0)


def in_place_of(folder: Path, make: Callable[[Path], Any]) -> None:
    """Something else where the folder was."""
    shutil.rmtree(folder)
    make(folder)


OTHERS: dict[str, Callable[[Path], Any]] = {
    "a file": lambda attempt: in_place_of(attempt, Path.touch),
    "a link": lambda attempt: in_place_of(attempt, lambda path: path.symlink_to("/nowhere/at/all")),
    "a file, one up": lambda attempt: in_place_of(attempt.parent, Path.touch),
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS.keys())
def test_something_else_where_a_folder_of_states_was_is_refused(
    make: Callable[[Path], Any], begun: Path, tmp_path: Path
) -> None:
    folder = copy_of(begun, tmp_path)
    make(states(folder)[0].parent)
    with pytest.raises(InputError, match="a saved state is damaged") as caught:
        compute(folder)
    assert one_line(caught.value)


def test_a_state_of_another_run_is_refused(begun: Path, tmp_path: Path) -> None:
    """Of the same chain, from the same place in its folder."""
    folder = copy_of(begun, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimate_model, "save", killed)
        with pytest.raises(Killed):
            compute(tmp_path / "other", localization=9.0)
    states(folder)[0].write_bytes(states(tmp_path / "other")[0].read_bytes())
    with pytest.raises(InputError, match="a saved state is damaged, or of another run"):
        compute(folder)


def test_states_of_what_was_asked_before_are_refused(begun: Path, tmp_path: Path) -> None:
    """run.json is another request, well formed, with the same id."""
    folder = copy_of(begun, tmp_path)
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    record["asked"]["localization"] = 9.0
    del record["digest"], record["ending"]
    (folder / "run.json").write_text(json.dumps({**record, "digest": json_hash(record)}), encoding="utf-8")
    with pytest.raises(InputError, match="a saved state is damaged, or of another run"):
        compute(folder, localization=9.0)


@pytest.mark.slow
def test_what_desktops_leave_in_folders_is_no_fault(begun: Path, tmp_path: Path) -> None:
    folder = copy_of(begun, tmp_path)
    for place in (folder, states(folder)[0].parent, states(folder)[0].parents[1]):
        (place / ".ipynb_checkpoints").mkdir()
        (place / ".DS_Store").touch()
    (folder / ".card.md.abcdefgh.md").mkdir()
    (states(folder)[0].parent / ".chains.abcdefgh.safetensors").touch()  # what a kill leaves half-written
    assert llc_of(compute(folder)) == llc_of(compute(tmp_path / "fresh"))


def test_a_folder_in_which_no_state_would_fit_is_refused(tmp_path: Path) -> None:
    """The system's longest path has 4096 bytes; run.json would fit here."""
    left = 4096 - 60 - len(str(tmp_path))
    deep = tmp_path.joinpath(*["x" * 99] * (left // 100))
    with pytest.raises(InputError, match=r"cannot write to the output folder.*too long"):
        check_writable(deep / ("y" * (left % 100)))


def test_a_file_system_without_locks_is_no_hindrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folder_lock.fcntl, "flock", none)
    FolderLock(tmp_path / "run").acquire()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_second_run_after_the_private_folder_was_removed_does_not_end_the_first(
    begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its lock two runs are at work; the first sees whose the folder is by then, and writes no result."""
    folder = copy_of(begun, tmp_path)
    original = estimate_model.save

    def raced(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(estimate_model, "save", original)
        shutil.rmtree(folder / ".hf_llc")
        compute(folder, overwrite=True, localization=9.0)
        return original(*arguments, **options)

    monkeypatch.setattr(estimate_model, "save", raced)
    with pytest.raises(InputError, match="the folder is that of another run"):
        compute(folder)
    assert RunFolder(folder).recorded()["localization"] == 9.0  # type: ignore[index]
    assert llc_of(compute(folder, localization=9.0)) == llc_of(compute(tmp_path / "fresh", localization=9.0))
