"""What a command prints where it prints to: any encoding, closed streams, readers that left; and what launchers ask."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from launch import environment

from hf_llc.cli import console
from hf_llc.cli.arguments import convert, read_yaml
from hf_llc.cli.entry_point import _COMMANDS, main
from hf_llc.config import SampleConfig
from hf_llc.errors import InputError, is_out_of_memory
from hf_llc.loading.damaged_files import check_weight_file
from hf_llc.parallel import processes as module
from hf_llc.parallel.placement import arrange_processes
from hf_llc.parallel.processes import Processes, outliving_faults
from hf_llc.publishing.picture import drawn, save_picture
from hf_llc.records.trace import Trace
from hf_llc.seals import load_tensors, save_tensors

NAMES = ["", *[command.__name__.rsplit(".", 1)[-1].replace("_", "-") for command in _COMMANDS]]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
@pytest.mark.parametrize("name", NAMES)
def test_help_in_every_encoding(name: str, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """λ̂ and β were a traceback."""
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    assert main([*filter(None, [name]), "--help"]) == 0
    out.flush()
    text = out.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert text.startswith("usage: hf-llc") and ("λ" in text or "llc" in text)


@pytest.mark.parametrize("closing", ["2>&-", "1>&-", "1>&- 2>&-", "0<&-", "0<&- 1>&- 2>&-"])
def test_closed_streams_are_the_null_device(closing: str, tmp_path: Path) -> None:
    """Otherwise the next file gets the number of the closed stream, and libraries write into it."""
    program = (
        "import sys; from hf_llc.cli.console import open_closed_streams as f; f(); "
        "h = open(sys.argv[1], 'w'); assert h.fileno() > 2, h.fileno(); print('out'); print('err', file=sys.stderr)"
    )
    command = f'"{sys.executable}" -S -c "{program}" file {closing}'
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment(), check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").read_bytes() == b""


def test_nobody_reads_the_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit codes stay what they are."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as closed:
        monkeypatch.setattr(sys, "stderr", closed)
        assert main(["show", "nowhere"]) == 2
        console.print_error("a line")
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), writing)  # what is left in the buffer goes there


LONG = "x" * 300


@pytest.mark.parametrize(
    "argv",
    [
        ["show", LONG],
        ["publish", LONG, "--card", "."],
        ["publish", ".", "--card", LONG],
        ["estimate", "--config", LONG],
        ["estimate", "--model", LONG],
        ["estimate", "--output", LONG],
        ["estimate", "--tokenizer", LONG],
        ["curve", "--checkpoints", LONG, "--data", "d", "--output", "out"],
        ["curve", "--weight-files", LONG, "--factory", "a:b", "--data", "d", "--output", "out"],
    ],
    ids=lambda argv: " ".join(argv).replace(LONG, "LONG"),
)
def test_names_of_300_letters_are_one_line(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hf_llc.cli.console.hush", lambda quiet: None)
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "Traceback" not in err, err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nnum_chains: 4\nseed: 2\n", "seed stands twice in .*, again in line 3"),
        ("{seed: 1, seed: 1}", "seed stands twice in .*, again in line 1"),
        ("seed: [1, 2]\n", r"\(line 1\) is not a single value, got '\[1, 2\]'"),
        ("seed:\n  a: 1\n", r"seed in .* is not a single value"),
        ("a: &a\n- *a\n", r"a in .* is not a single value"),
        ("a: " + "[" * 2_000 + "]" * 2_000, "the config file is not YAML"),
        ("".join(" " * i + f"a{i}:\n" for i in range(2_000)), "the config file is not YAML"),
        ("a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n", "is not a single value"),
        ("? [a, b]\n: c\n", "is not a single value"),
        ("- a\n- b\n", "not a list of settings"),
    ],
)
def test_a_config_that_is_no_list_of_settings(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_yaml(tmp_path / "run.yaml")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_values_of_a_config_stay_texts(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("step_size: 1e-6\nmax_seconds: 1:30\nminimize: no\nnbeta:\n")
    assert read_yaml(tmp_path / "run.yaml") == {
        "step_size": "1e-6", "max_seconds": "1:30", "minimize": "no", "nbeta": ""
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text("")
    assert read_yaml(tmp_path / "run.yaml") == {}


@pytest.mark.parametrize(
    ("text", "value"), [("8,000", 8000), ("1,234,567.5", 1234567.5), ("1,5", None), ("12,00", None), ("1,2000", None)]
)
def test_a_number_is_read_as_a_remedy_writes_it(text: str, value: float | None) -> None:
    hint = int | float
    if value is not None:
        assert convert("max_steps", text, hint) == value
        return
    with pytest.raises(InputError, match="max_steps"):
        convert("max_steps", text, hint)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("ACCELERATE_MIXED_PRECISION", "bf16", "mixed precision bf16"),
        ("ACCELERATE_MIXED_PRECISION", "fp16", "mixed precision fp16"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "a dynamo backend"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "DeepSpeed"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "gradient accumulation"),
        ("ACCELERATE_MIXED_PRECISION", "no", None),
        ("ACCELERATE_DYNAMO_BACKEND", "NO", None),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1", None),
    ],
)
@pytest.mark.filterwarnings("always")
def test_what_the_launcher_asks_without_effect_is_said(
    variable: str, value: str, said: str | None, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """accelerate's launcher hands flags and config files on by these variables."""
    monkeypatch.setenv(variable, value)
    arrange_processes(SampleConfig())
    found = [str(warning.message) for warning in recwarn if "launcher" in str(warning.message)]
    assert len(found) == (said is not None) and all(str(said) in line for line in found)
    recwarn.clear()
    arrange_processes(SampleConfig(mixed_precision="bf16"))  # then it is as asked
    assert not any("bf16" in str(warning.message) for warning in recwarn)


class Two(Processes):
    """This process as the first of two; what the other one sends is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, others: Any) -> None:
        self.state: Any = SimpleNamespace(num_processes=2, process_index=0, is_main_process=True, device="cpu")
        self._is_alone, self.group = False, SimpleNamespace(size=1, leads=True)  # type: ignore[assignment]
        self.sent: list[Any] = []
        monkeypatch.setattr(module, "gather_object", lambda mine: self.sent.append(mine) or [*mine, *others])


def test_a_fault_of_another_process_is_ours_too(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = Two(monkeypatch, [RuntimeError("theirs")])
    with pytest.raises(RuntimeError, match="theirs"):
        processes.all_do(lambda: 1)
    assert processes.sent == [[None]]
    assert processes.all_do(lambda: 1, is_long=True) == 1 and len(processes.sent) == 1  # the launcher ends the rest
    with outliving_faults(), pytest.raises(RuntimeError, match="theirs"):
        processes.all_do(lambda: 1, is_long=True)


def test_our_fault_is_told_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    class Answer(Exception):
        def __init__(self, response: object, *, code: int) -> None:
            super().__init__(f"code {code}")

    processes = Two(monkeypatch, [None])

    def fails() -> None:
        raise Answer(None, code=7)

    with pytest.raises(Answer):  # our own, with its traceback
        processes.all_do(fails)
    (sent,) = processes.sent[0]
    assert type(sent) is RuntimeError and str(sent) == "Answer: code 7"  # pickle cannot make an Answer again
    assert Two(monkeypatch, [None]).all_do(lambda: 3) == 3


def _caused(error: Exception, cause: Exception) -> Exception:
    """As `raise error from cause` leaves it."""
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (SystemError("<function f> returned NULL without setting an exception"), True),
        (SystemError("bad argument to internal function"), False),
        (_caused(ImportError("initialization failed"), MemoryError("interning an attribute name")), True),
        (_caused(ImportError("initialization failed"), KeyError("x")), False),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory lane"), False),
    ],
)
def test_a_lack_of_memory_is_known(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_a_lack_of_memory_is_said_before_a_library_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Safetensors aborts where memory is short: no exception, no line."""
    trace, tensors = Trace(*[np.zeros((2, 3)) for _ in range(5)]), {"w": torch.zeros(9)}
    trace.save(tmp_path / "trace")
    save_tensors(tmp_path / "state", tensors, seal="")

    def none(number: int, size: int) -> Any:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("hf_llc.files.mmap.mmap", none)
    for name in ("save", "load_file"):
        monkeypatch.setattr(f"hf_llc.records.arrays.{name}", lambda *_: pytest.fail("asked without memory"))
    for name in ("save_file", "load_file"):
        monkeypatch.setattr(f"safetensors.torch.{name}", lambda *_, **__: pytest.fail("asked without memory"))
    monkeypatch.setattr("safetensors.safe_open", lambda *_, **__: pytest.fail("asked without memory"))
    (tmp_path / "weights.safetensors").write_bytes(b"\0" * 99)
    for work in (
        lambda: trace.save(tmp_path / "other"),
        lambda: Trace.load(tmp_path / "trace"),
        lambda: save_tensors(tmp_path / "other", tensors, seal=""),
        lambda: load_tensors(tmp_path / "state", seal=""),
        lambda: check_weight_file(tmp_path / "weights.safetensors"),
        lambda: save_picture(SimpleNamespace(savefig=lambda *_, **__: pytest.fail("drawn")), tmp_path / "x"),  # type: ignore[arg-type]
    ):
        with pytest.raises(MemoryError) as caught:
            work()
        assert is_out_of_memory(caught.value)


def test_a_name_in_a_script_that_the_font_lacks_is_drawn_in_silence(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with drawn(tmp_path / "picture.png", height=1.0) as figure:
            figure.suptitle("数据")
    assert (tmp_path / "picture.png").exists()
