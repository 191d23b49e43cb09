"""scripts/experiment.py: jobs resume, rows survive a cut line, other settings are refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hf_llc.errors import InputError

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from experiment import Experiment, from_hub, start

JOBS = [{"size": size, "seed": seed} for size in ("small", "large") for seed in range(2)]


def test_done_jobs_are_not_done_again_and_rows_come_in_the_order_of_the_jobs(tmp_path: Path) -> None:
    seen: list[dict[str, object]] = []

    def work(job: dict[str, object]) -> dict[str, object]:
        seen.append(job)
        return {"llc": float(len(seen)), "lost": float("nan")}

    Experiment(tmp_path, {"steps": 3}).run(JOBS[2:3], work)
    rows = Experiment(tmp_path, {"steps": 3}).run(JOBS, work)
    assert seen == [JOBS[2], JOBS[0], JOBS[1], JOBS[3]]
    assert [row["llc"] for row in rows] == [2.0, 3.0, 1.0, 4.0]
    assert rows[0]["lost"] is None


def test_a_line_cut_by_a_kill_is_done_again(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path, {})
    experiment.run(JOBS[:2], lambda job: {"llc": 1.0})
    text = experiment.path.read_text()
    experiment.path.write_text(text[:-5])
    rows = Experiment(tmp_path, {}).run(JOBS[:2], lambda job: {"llc": 2.0})
    assert [row["llc"] for row in rows] == [1.0, 2.0]


def test_rows_of_other_settings_are_refused_unless_overwritten(tmp_path: Path) -> None:
    Experiment(tmp_path, {"steps": 3}).run(JOBS[:1], lambda job: {"llc": 1.0})
    with pytest.raises(InputError, match="other settings"):
        Experiment(tmp_path, {"steps": 4})
    rows = Experiment(tmp_path, {"steps": 4}, overwrite=True).run(JOBS[:1], lambda job: {"llc": 2.0})
    assert rows[0]["llc"] == 2.0


def test_plot_only_does_no_job_and_writes_no_settings(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no rows to draw"):
        Experiment(tmp_path / "none", {}, plot_only=True)
    Experiment(tmp_path, {"steps": 3}).run(JOBS[:2], lambda job: {"llc": 1.0})
    other = Experiment(tmp_path, {"steps": 4}, plot_only=True)
    never = pytest.fail
    assert [row["llc"] for row in other.run(JOBS[:2], lambda job: never("a job was done"))] == [1.0, 1.0]
    with pytest.raises(InputError, match="rows of some jobs are not there"):
        other.run(JOBS[:3], lambda job: never("a job was done"))
    assert '"steps": 3' in (tmp_path / "settings.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (InputError("no rows", value=3, remedy="run it first"), 2, "no rows, got 3; run it first"),
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on from the jobs that are done"),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    raised: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        raise raised

    with pytest.raises(SystemExit) as ended:
        start(main)
    assert ended.value.code == code
    (said,) = capsys.readouterr().err.splitlines()
    assert said.endswith(f": {line}")


def test_a_hub_out_of_reach_is_one_line() -> None:
    def load() -> None:
        raise ConnectionError("Couldn't reach 'some/data' on the Hub (OfflineModeIsEnabled)")

    with pytest.raises(InputError, match=r"data set is neither a local path nor in the cache.*got 'some/data'"):
        from_hub("data set", "some/data", load)
    with pytest.raises(ZeroDivisionError):
        from_hub("data set", "some/data", lambda: 1 / 0)
