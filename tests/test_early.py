"""What is refused before torch is imported, which takes seconds: in the words of the code that would meet it later."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from launch import environment

from hf_llc.cli.commands.benchmark import TARGETS
from hf_llc.cli.entry_point import main
from hf_llc.config import LoadConfig
from hf_llc.errors import InputError
from hf_llc.loading import device_names
from hf_llc.loading.names import check_names, check_observed
from hf_llc.observe_setting import OBSERVABLES

STUDIES = {
    "estimate": [],
    "calibrate": [],
    "components": ["--components", "heads", "--output", "out"],
    "influence": ["--output", "out"],
    "curve": ["--checkpoints", "runs", "--output", "out"],
}
COMMON = {
    "--model ./nothing --data text.txt": "no such model folder",
    "--model text.txt --data text.txt": "the model is a file",
    "--model empty --data text.txt": "has no config.json",
    "--model a/b/c --data text.txt": "no such model folder",
    "--data nothing.txt": "no such data file or folder",
    "--data ./nothing": "no such data file or folder",
    "--data zero.csv": "the data file is empty",
    "--data picture.png": "a file of this kind cannot be read",
    "--data text.txt --tokenizer ./nothing": "no such folder of the tokenizer",
    "--data text.txt --observe a=nothing.csv": "observe a: no such data file",
    "--data text.txt --output text.txt": "cannot write to the output folder",
    "--data text.txt --output text.txt/x": "cannot write to the output folder",
    "--data text.txt --device gpu": "no such device here",
    "--data text.txt --device cuda:one": "no such device here",
    "--data text.txt --device mps": "no such device here, got 'mps'; allowed: cpu",
    "--data text.txt --observe nothing": "observe names an unknown observable",
    "--data text.txt --observe parameter_norms,": "observe names an unknown observable",
    "--data text.txt --observe a=@data,nothing": "observe names an unknown observable",
    "--data text.txt --observe a=text.txt:": "observe has no split after the colon of a",
    "--data text.txt --data-parallel 2": "data_parallel does not divide the 1 processes of this run",
    "--data text.txt --weights l0+": "weights has a term without a name",
    "--data text.txt --weights ~": "weights has a term without a name",
    "--config nothing.yaml": "cannot read the config file",
    "--config bad.yaml": "did you mean 'seed'?",
    "--num-chains 0": "num_chains is out of range",
}
OTHERS = {
    "estimate --model some/thing": "no data given",
    "estimate --data text.txt --parameter-parallel 3": "parameter_parallel does not divide the 1 processes of this run",
    "components --components heads --parameter-parallel 2 --output out": "parameter_parallel is not for components",
    "components --components heads --minimize --output out": "minimize would give each component its own w*",
    "susceptibility --components heads --weights l0 --output out": "weights is for one estimate",
    "profile --localizations 1e2:1e4:3 --parameter-parallel 2 --output out": "parameter_parallel is not for a profile",
    "profile --localizations 5,5 --output out": "localizations names a value twice",
    "profile --localizations 0 --output out": "localizations is out of range",
    "profile --localizations 1,2 --nbetas 3,3 --output out": "nbetas names a value twice",
    "profile --localizations 1,2 --nbetas 3 --nbeta 2 --output out": "nbeta and nbetas are both given",
    "profile --localizations 1,2 --localization 3 --output out": "localization is for one estimate",
    "profile --localizations 1,2 --extrapolate --output out": "extrapolate is for one estimate",
    "profile --localizations 1,2 --hessian-probes 1 --output out": "hessian_probes is out of range",
    "profile --localizations 1,2 --like nothing --output out": "no result and no calibration",
    "estimate --like nothing": "the folder has no result and no calibration",
    "curve --checkpoints nothing --data text.txt --output out": "no checkpoints there",
    "curve --checkpoints runs --data text.txt --output out": "no checkpoints there",
    "curve --checkpoints one --data text.txt --output out": "a curve needs two checkpoints or more",
    "curve --checkpoints two --data text.txt --output out --steps a=3": "steps names something that is not",
    "curve --checkpoints two --data text.txt --output out --calibrate-on 3": "calibrate_on is not a checkpoint",
    "curve --checkpoints two --data text.txt --output out --components heads --minimize": "minimize would give each",
    "curve --weight-files no.safetensors --factory a:b --data text.txt --output out": "no such weights file",
    "curve --revisions x --model m --data text.txt --output out --like nothing": "no result and no calibration",
    "influence --queries nothing.csv:test --output out": "observe queries: no such data file or folder",
    "influence --queries text.txt: --output out": "no split after the colon of queries",
    "influence --top 0 --output out": "top is out of range",
    "influence --num-draws 1 --output out": "the chains are too short for errors of influence",
    "influence --observe parameter_norms --output out": "observe is decided by influence",
    "influence --color label --level token --output out": "color is for the picture of the loss kernel",
    "influence --like nothing --output out": "no result and no calibration",
    "influence --resume --output out": "nothing to resume there",
    "influence --resume --overwrite --output out": "resume and overwrite are both given",
    "estimate --resume --output out": "nothing to resume there",
    "curve --revisions x --model m --data text.txt --resume --output out": "nothing to resume there",
    "curve --revisions x --model m --data text.txt --components l0+ --output out": "components has a term without",
    "components --components heads,, --output out": "components has a term without a name",
    "components --components heads --resume --output out": "nothing to resume there",
    "profile --localizations 1e2:1e4:3 --resume --output out": "nothing to resume there",
    "susceptibility --components ~+l0 --output out": "components has a term without a name",
    "susceptibility --components heads --probe a=nothing.csv --output out": "probe a: no such data file or folder",
    "susceptibility --components heads --resume --output out": "nothing to resume there",
    "susceptibility --components heads --probe text.txt --output out": "probe has no name",
    "susceptibility --components heads --probe train=text.txt --output out": "the same name as the data that",
    "susceptibility --components heads --num-draws 1 --output out": "the chains are too short",
    "susceptibility --components heads --like nothing --output out": "no result and no calibration",
    "doctor --device gpu": "no such device here",
    "influence --level tokn --output out": "did you mean token?",
    "doctor --model ./nothing": "no such model folder",
    "compare nothing runs": "no result there",
    "compare runs runs": "a run is given twice",
    "compare runs two/../runs": "a run is given twice",
    "estimate --output ~/x": "the output folder begins with ~, which the shell has left as it is",
    "doctor --model some/thing --weights l0": "without data all weights are counted",
    "compare runs empty --output text.txt": "cannot write to the output folder",
    "benchmark --output text.txt": "cannot write to the output folder",
    "benchmark --targets nothing": "no such choice",
    "benchmark --targets quadratic quadratic": "--targets names a target twice",
    "show nothing": "no result there",
    "publish nothing --card .": "no result there",
    "estimat": "did you mean estimate?",
}
PROGRAM = """
import contextlib, io, json, sys
from hf_llc.cli.entry_point import main
said = []
for argv in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(argv)
    said.append([code, err.getvalue(), sorted({"torch", "transformers", "datasets", "scipy"} & set(sys.modules))])
print(json.dumps(said))
"""


def _lines() -> dict[str, str]:
    lines = dict(OTHERS)
    for command, needed in STUDIES.items():
        for arguments, message in COMMON.items():
            if command != "curve" or not arguments.startswith("--model"):  # the series names the models
                lines[" ".join([command, *needed, arguments])] = message
    return lines


@pytest.mark.slow
def test_bad_arguments_are_refused_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a text\n")
    (tmp_path / "zero.csv").touch()
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "bad.yaml").write_text("seedd: 3\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "runs").mkdir()
    for place in ("one/step1", "two/step1", "two/step2"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "config.json").write_text("{}")
    before, lines = sorted(tmp_path.rglob("*")), _lines()
    command = [sys.executable, "-c", PROGRAM, json.dumps([line.split() for line in lines])]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True)
    for (line, message), (code, said, heavy) in zip(lines.items(), json.loads(done.stdout), strict=True):
        assert (code, heavy) == (2, []) and message in said and said.count("\n") == 1, (line, said, heavy)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_names_of_the_targets_are_those_of_the_targets() -> None:
    from hf_llc.studies import known_targets

    assert list(TARGETS) == list(known_targets.TARGETS)


def test_the_names_of_the_observables_are_those_of_the_observables() -> None:
    from hf_llc import observables

    assert set(OBSERVABLES) == set(observables._LIBRARY)


@pytest.mark.parametrize(
    ("kind", "built", "driver", "is_absent"),
    [
        ("cuda", {"cuda": None, "hip": None}, "libc.so.6", True),
        ("cuda", {"cuda": None, "hip": "6.2"}, "no-such-driver.so", False),  # AMD's devices have this name too
        ("cuda", {"cuda": "12.8", "hip": None}, "no-such-driver.so", True),
        ("cuda", {"cuda": "12.8"}, "libc.so.6", False),  # there is a driver: whether there is a GPU, torch knows
        ("cuda", {}, "no-such-driver.so", False),
        ("xpu", {"cuda": None, "xpu": None}, "libc.so.6", True),
        ("xpu", {"cuda": None, "xpu": "2025"}, "libc.so.6", False),
        ("npu", {"cuda": None}, "libc.so.6", False),  # a plugin may have it
    ],
)
def test_what_torch_is_known_not_to_have(
    kind: str, built: dict[str, Any], driver: str, is_absent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_names, "_built_for", lambda: built)
    monkeypatch.setattr(device_names, "_DRIVER", driver)
    if is_absent:
        with pytest.raises(InputError, match=f"no such device here, got '{kind}:0'; allowed: cpu"):
            device_names.check_device_name(f"{kind}:0")
    else:
        device_names.check_device_name(f"{kind}:0")


def test_torch_s_file_is_read_without_torch() -> None:
    import torch

    assert device_names._built_for()["cuda"] == torch.version.cuda


def test_a_factory_may_register_observables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its module is imported later: what `observe` names may be there then."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("a text")
    given = ["--weight-files", "no.safetensors", "--factory", "a:b", "--data", "text.txt", "--output", "out"]
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert main(["curve", *given, "--observe", "mine"]) == 2
    assert "no such weights file" in said.getvalue()


@pytest.mark.parametrize("name", ["me/model", "gpt2", "."])
def test_what_may_be_on_the_hub_or_is_here_is_left_to_loading(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    check_names(LoadConfig(model=name, data=name, tokenizer=name))
    check_observed({"a": "me/data:test[:10%]", "parameter_norms": None, "c": "@data"})


def test_loading_uses_the_same_check(tmp_path: Path) -> None:
    from hf_llc.loading.data_sources import open_data
    from hf_llc.loading.model_sources import open_model

    for name, work in (("./no", lambda name: open_model(name, LoadConfig(), None)),
                       ("no.csv", lambda name: open_data(name, LoadConfig()))):  # fmt: skip
        with pytest.raises(InputError) as later:
            work(name)
        with pytest.raises(InputError) as early:
            check_names(LoadConfig(model=name) if name == "./no" else LoadConfig(data=name))
        assert str(early.value) == str(later.value)


@pytest.mark.parametrize(
    ("given", "spins"), [({}, "1000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None), ({"GOMP_SPINCOUNT": "5"}, "5")]
)
def test_threads_that_wait_leave_the_cores_to_others(
    given: dict[str, str], spins: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Said before a command imports torch, whose threads read it then; what the user's environment says stays."""
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert main(["show", str(tmp_path / "nowhere")]) == 2
    assert os.environ.get("GOMP_SPINCOUNT") == spins


ENDING = """
import atexit, sys, threading
from hf_llc.cli import entry_point
atexit.register(lambda: print("registered"))
entry_point.main = lambda: print("worked") or {code}
{more}
sys.exit(entry_point.run())
"""
WAITS = "threading.Thread(target=lambda: __import__('time').sleep(0.5) or print('thread')).start()"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "said"), [("", ["worked", "registered"]), (WAITS, ["worked", "thread", "registered"])]
)
def test_a_program_ends_with_its_code_after_what_was_registered(more: str, said: list[str]) -> None:
    """Nothing that is printed is lost in a pipe, and a thread is waited for."""
    done = subprocess.run([sys.executable, "-c", ENDING.format(code=3, more=more)], capture_output=True, text=True)
    assert done.returncode == 3 and done.stdout.split() == said, done.stderr
