"""The command line: what is printed where, and the exit codes. The estimate itself is put in place by each test."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_result import SHOWN, make_result

import hf_llc
from hf_llc.cli import console
from hf_llc.cli.console import default_output
from hf_llc.cli.entry_point import main
from hf_llc.config import LoadConfig, SampleConfig
from hf_llc.errors import InputError
from hf_llc.publishing.explained import EXPLAINED
from hf_llc.publishing.lines import SHOW
from hf_llc.publishing.report import summary
from hf_llc.workflow.opened_run import Given

Fake = Callable[[Callable[..., Any]], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, as the only process, with the environment put back afterwards."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(console, "hush", lambda quiet: None)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """`fake(work)` makes `work(**arguments)` the estimate; returns the list of the calls to come."""

    def install(work: Callable[..., Any]) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []

        def estimate(load: LoadConfig, sample: SampleConfig, _: Given, **options: Any) -> Any:
            calls.append({"load": load, "sample": sample, **options})
            return work(**calls[-1])

        module = SimpleNamespace(estimate_model=estimate)
        monkeypatch.setitem(sys.modules, "hf_llc.evaluator", module)
        monkeypatch.setattr(hf_llc, "evaluator", module, raising=False)
        return calls

    return install


def raising(error: BaseException) -> Callable[..., Any]:
    def work(**_: Any) -> Any:
        raise error

    return work


def test_estimate_prints_the_result_and_where_it_is(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    calls = fake(lambda **_: make_result())
    assert main(["estimate", "--num-chains", "7", "--output", "out"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("λ̂ ")
    assert "trustworthy" in printed
    assert printed.splitlines()[-1].split() == ["picture", "out/trace.png"]
    assert calls[0]["sample"].num_chains == 7
    assert calls[0]["output"] == Path("out")
    assert (calls[0]["resume"], calls[0]["overwrite"], calls[0]["progress"]) == (None, False, True)


def test_run_flags_reach_the_estimate(fake: Fake, tmp_path: Path) -> None:
    calls = fake(lambda **_: make_result())
    (tmp_path / "run.json").touch()  # without it nothing is there to go on with
    assert main(["estimate", "--resume", "--quiet", "--output", str(tmp_path)]) == 0
    assert (calls[0]["resume"], calls[0]["progress"]) == (True, False)
    assert main(["estimate", "--overwrite"]) == 0
    assert calls[1]["overwrite"] is True


def test_bad_verdict_is_code_3(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake(lambda **_: make_result(verdict="left the basin"))
    assert main(["estimate"]) == 3
    assert "left the basin" in capsys.readouterr().out


def test_json_is_alone_on_stdout(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    def noisy(**_: Any) -> Any:
        print("a remark of another package")
        return make_result(r_hat=float("nan"))

    fake(noisy)
    assert main(["estimate", "--json"]) == 0
    out, err = capsys.readouterr()
    values = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert values["verdict"] == "trustworthy"
    assert values["r_hat"] is None
    assert "a remark" in err


def test_default_folder_is_named_after_the_settings(fake: Fake, tmp_path: Path) -> None:
    calls = fake(lambda **_: make_result())
    (tmp_path / "text.txt").write_text("a text")
    main(["estimate", "--model", "me/my model", "--data", str(tmp_path / "text.txt")])
    main(["estimate", "--model", "me/my model", "--data", str(tmp_path / "text.txt"), "--seed", "1"])
    names = [call["output"].name for call in calls]
    assert all(name.startswith("my_model-text.txt-") for name in names)
    assert names[0] != names[1]
    assert calls[0]["output"].parent == Path("runs")
    assert default_output(LoadConfig(), SampleConfig()).name.startswith("embedded-embedded-")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required"),
        (["estimat"], "unknown command"),
        (["estimate", "--num-chains", "0"], "num_chains is out of range"),
        (["estimate", "--config", "no.yaml"], "cannot read the config file"),
        (["estimate", "--resume", "--overwrite"], "both given"),
        (["estimate", "extra"], "unknown argument extra"),
        (["show"], "required"),
        (["show", "nowhere"], "no result there"),
        (["doctor", "--loud"], "unknown argument --loud"),
    ],
)
def test_bad_input_is_one_line_and_code_2(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("hf-llc: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert list(Path().iterdir()) == []


def test_input_error_of_the_estimate(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake(raising(InputError("the data is empty", value="x")))
    assert main(["estimate"]) == 2
    assert capsys.readouterr().err == "hf-llc: error: the data is empty, got 'x'\n"


def test_interrupt_says_what_is_on_disk(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(output: Path, **_: Any) -> Any:
        (output / ".hf_llc" / "step-size-0").mkdir(parents=True)
        (output / ".hf_llc" / "step-size-0" / "chains-00000-00000.safetensors").touch()
        (output / "run.json").touch()
        raise KeyboardInterrupt

    fake(interrupted)
    assert main(["estimate", "--output", "out"]) == 130
    err = capsys.readouterr().err
    assert err == (
        "hf-llc: interrupted: 1 saved state in out; run the same command with --resume to go on from there\n"
    )


def test_an_interrupted_calibration_names_no_option_that_it_has_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    (tmp_path / "run.json").touch()
    monkeypatch.setattr("hf_llc.studies.explore_settings.explore", interrupted)
    assert main(["calibrate", "--output", str(tmp_path)]) == 130
    err = capsys.readouterr().err
    assert "run the same command again, without --overwrite, to go on" in err and "--resume" not in err


def test_interrupt_before_anything(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake(raising(KeyboardInterrupt()))
    assert main(["estimate", "--output", "out"]) == 130
    assert "nothing is on disk" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk of out is full"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk of out is full"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), "out of memory"),
        (ImportError("x.so: failed to map segment from shared object"), "out of memory"),
        (RuntimeError("can't start new thread"), "out of memory"),
        (OSError("codec configuration error when writing image file"), "out of memory"),
        *(
            (RuntimeError(text), "another process of this run has ended")
            for text in (
                "[pair.cc:553] Connection closed by peer [127.0.0.1]:2",
                "Failed to recv, got 0 bytes. Connection was likely closed. Did the remote server shutdown or crash?",
                "Broken pipe",
            )
        ),
        (OSError(errno.EROFS, "Read-only file system", "out/x"), "cannot read or write out/x"),
        (MemoryError(), "out of memory; lower micro_batch_size"),
    ],
)
def test_what_may_befall_a_long_run_is_one_line(
    fake: Fake, capsys: pytest.CaptureFixture[str], error: Exception, message: str
) -> None:
    fake(raising(error))
    assert main(["estimate", "--output", "out"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"hf-llc: error: {message}")
    assert err.count("\n") == 1


def test_a_fault_shows_its_traceback(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake(raising(ZeroDivisionError("oh")))
    assert main(["estimate"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "fault of hf_llc" in err


def test_only_the_main_process_prints(
    fake: Fake, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(console, "_group", lambda: None)
    fake(lambda **_: make_result(verdict="drifting"))
    assert main(["estimate"]) == 0  # the main one ends with 3
    assert capsys.readouterr() == ("", "")


def test_other_processes_wait_before_they_complain(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(console, "_group", lambda: None)
    waited: list[float] = []
    assert console.end(2, "error: x", sleep=waited.append) == 2
    assert waited == [console._PATIENCE]
    assert capsys.readouterr().err == "hf-llc: process 1: error: x\n"


@pytest.mark.slow
def test_show(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")  # a narrower terminal has more lines
    result = make_result()
    result.save(tmp_path / "good")
    make_result(verdict="stuck").save(tmp_path / "bad")
    assert main(["show", "good"]) == 0
    short = capsys.readouterr().out
    assert short == summary(result, folder="good") + "\n" and short.count("\n") <= 9
    assert short.splitlines()[-1].split() == ["details", "hf-llc", "show", "good", "--details"]
    assert main(["show", "good", "--details"]) == 0
    assert capsys.readouterr().out == f"{result.details()}\n"
    assert main(["show", "good/result.json", "--json"]) == 0
    written = json.loads((tmp_path / "good" / "result.json").read_text())
    del written["seal"]
    assert json.loads(capsys.readouterr().out) == written
    assert main(["show", "bad"]) == 3
    capsys.readouterr()
    assert main(["show", "good", "--explain"]) == 0
    report, meaning = capsys.readouterr().out.split("\n\n")
    assert report == result.details() and "The paper takes γ from" in " ".join(meaning.split())
    assert set(EXPLAINED) == {"λ̂", "verdict", *SHOW}  # every line has its words, and no words are left over
    assert main(["show", "good", "--explain", "--json"]) == 2
    assert main(["show", "good", "--details", "--json"]) == 2


@pytest.mark.parametrize("columns", ["30", "40", "80", "200"])
@pytest.mark.parametrize("how", [[], ["--details"], ["--explain"]])
def test_show_fits_the_terminal(
    columns: str, how: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_result(**SHOWN).save(tmp_path / "good")
    capsys.readouterr()
    monkeypatch.setenv("COLUMNS", columns)
    main(["show", "good", *how])
    lines = capsys.readouterr().out.splitlines()
    too_long = [x for x in lines if len(x.replace("\u0302", "")) > min(int(columns), 100) and len(x.split()) > 2]
    assert lines and not too_long


def test_doctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from hf_llc.cli import doctor_checks

    monkeypatch.setattr(
        doctor_checks, "_compile", lambda: doctor_checks.Check("torch.compile", False, "no", "g++", is_optional=True)
    )
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    lines = [line.split(maxsplit=1) for line in out.splitlines()]
    missing = next(i for i, line in enumerate(lines) if line[:1] == ["missing"] and "torch.compile" in line[1])
    assert lines[missing + 1] == ["→", "g++ (optional)"]
    assert main(["doctor", "--json"]) == 0
    text = capsys.readouterr().out
    checks = {check["name"]: check for check in json.loads(text)}
    import platform

    import torch

    expected = {
        "python": f"{platform.python_version()} on {platform.platform()}",
        "torch": torch.__version__,
        "numpy": importlib.metadata.version("numpy"),
        "devices": "; ".join(["cpu", *checks["devices"]["found"].split("; ")[1:]]),
        "hub": "offline (HF_HUB_OFFLINE is set): only what is in the cache",
        "hub token": "yes",
    }
    assert {name: checks[name]["found"] for name in expected} == expected
    assert checks["threads"]["found"].startswith(f"{torch.get_num_threads()} of {os.cpu_count()} cores")
    assert "gloo" in checks["distributed"]["found"].split(", ")
    assert checks["hub cache"]["found"].startswith(f"{os.environ['HF_HOME']}/hub, ")
    assert [check["name"] for check in checks.values() if not check["ok"] and not check["is_optional"]] == []
    assert "secretsecret" not in out + text
    monkeypatch.setattr(
        doctor_checks, "_python", lambda: doctor_checks.Check("python", False, "3.8", "use Python 3.11 or later")
    )
    assert main(["doctor"]) == 1


@pytest.mark.slow
def test_doctor_compiles() -> None:
    from hf_llc.cli import doctor_checks

    check = doctor_checks._compile()
    has_compiler = any(map(shutil.which, ("g++", "clang++", "c++")))
    assert (check.ok, check.found) == (True, "works") or not has_compiler, check


def test_doctor_says_why_nothing_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from hf_llc.cli import doctor_checks

    def refuse(function: Any) -> Any:
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setattr(torch, "compile", refuse)
    check = doctor_checks._compile()
    assert (check.ok, check.is_optional, check.found) == (False, True, "RuntimeError: no compiler")
    assert check.remedy.startswith("install a C++ compiler")
    monkeypatch.setattr(torch, "compile", lambda function: lambda x: x.sum())  # compiles, but to something else
    assert not doctor_checks._compile().ok


def run(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(hf_llc.__file__).parents[1])
    return subprocess.run(
        [sys.executable, *argv],
        env={**os.environ, "PYTHONPATH": root, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
def test_help_and_version_import_nothing_heavy() -> None:
    code = (
        "import sys\nfrom hf_llc.cli.entry_point import main\nassert main(sys.argv[1:]) == 0\n"
        "heavy = {'torch', 'numpy', 'transformers', 'datasets', 'matplotlib', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    for argv in (["--help"], ["estimate", "--help"], ["--version"]):
        done = run("-W", "error", "-c", code, *argv)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"hf-llc {hf_llc.__version__}" if argv == ["--version"] else "usage: hf-llc ")


@pytest.mark.parametrize(
    ("words", "value"),
    [([], None), (["X"], True), (["no-X"], False), (["X", "auto"], "auto"), (["X", "true"], True), (["X=no"], False),
     (["X", "no"], False)],
)  # fmt: skip
@pytest.mark.parametrize("name", ["compile", "step_in_backward"])
def test_a_switch_stands_alone_or_before_its_word(name: str, words: list[str], value: bool | str, fake: Fake) -> None:
    flag = name.replace("_", "-")
    calls = fake(lambda **_: make_result())
    assert main(["estimate", *["--" + w.replace("X", flag) if "X" in w else w for w in words], "--seed", "3"]) == 0
    assert calls[0]["sample"].seed == 3
    asked = getattr(calls[0]["sample"], name)
    assert asked == (getattr(SampleConfig(), name) if value is None else value)


@pytest.mark.slow
def test_module_and_script_take_the_same_flags() -> None:
    script = str(Path(__file__).parents[1] / "scripts" / "estimate_llc.py")
    for argv in (["-m", "hf_llc", "estimate"], [script]):
        done = run(*argv, "--num-draws", "0")
        assert done.returncode == 2
        assert done.stderr == "hf-llc: error: num_draws is out of range, got 0; allowed: 1 or more\n"


def test_package_exports() -> None:
    assert hf_llc.SampleConfig is SampleConfig
    assert set(hf_llc.__all__) <= set(dir(hf_llc))
    with pytest.raises(AttributeError, match="nothing"):
        _ = hf_llc.nothing


def test_ctrl_c_while_the_program_is_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hf_llc.__main__ import run

    class Interrupted:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "hf_llc.cli.entry_point":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "hf_llc.cli.entry_point")
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    assert run() == 130
    assert capsys.readouterr() == ("", "hf-llc: interrupted: nothing had begun, nothing is on disk\n")
