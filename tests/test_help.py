"""Help of one screen, nearest names, and completion."""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

import pytest

from hf_llc.cli.commands.completion import SCRIPTS, words_after
from hf_llc.cli.entry_point import _COMMANDS, _parser, main
from hf_llc.cli.help_screen import COMMON, PURPOSES, SETTINGS, Parser, nearest

NAMES = ["", *[command.__name__.rsplit(".", 1)[-1].replace("_", "-") for command in _COMMANDS]]


def text(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main([*filter(None, argv)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def parser_of(name: str) -> Parser:
    commands = next(a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))
    return commands.choices[name]


@pytest.mark.parametrize("name", NAMES)
def test_the_help_of_a_command_is_one_screen(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = text(capsys, name, "--help").splitlines()
    assert len(lines) <= 45
    assert max(len(line.replace("\u0302", "")) for line in lines) <= 80
    assert any(line.startswith("  hf-llc ") for line in lines), "no example"


@pytest.mark.parametrize("columns", ["20", "40"])
def test_the_help_is_readable_on_a_narrow_terminal(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    lines = [line for line in text(capsys, "estimate", "--help-all").splitlines() if "hf-llc" not in line]
    words = [word for line in lines for word in line.split()]
    too_long = [line for line in lines if len(line) > 42 and len(line.split()) > 1 and not line.startswith("  --")]
    assert not too_long and "localization" in "".join(words)


def test_every_setting_stands_in_the_whole_help_once(capsys: pytest.CaptureFixture[str]) -> None:
    whole, screen = text(capsys, "estimate", "--help-all"), text(capsys, "estimate", "--help")
    firsts = [line.split()[0].rstrip(",") for line in whole.splitlines() if line.startswith("  --")]
    flags = ["--" + name.replace("_", "-") for name in SETTINGS]
    assert [flag for flag in flags if firsts.count(flag) != 1] == []
    shown = [flag for flag in flags if f"  {flag} " in screen]
    assert shown == ["--" + name.replace("_", "-") for name in SETTINGS if name in COMMON] and len(shown) >= 10
    hidden = len(flags) - len(shown) + 2  # --resume, --preset
    assert f"{hidden} more: hf-llc estimate --help-all" in screen and "more:" not in whole


def test_the_tables_of_the_help_name_settings_that_there_are() -> None:
    placed = [name for group in PURPOSES.values() for name in group]
    assert sorted(placed) == sorted(set(placed)) and set(placed) <= set(SETTINGS)
    assert set(COMMON) <= {*SETTINGS, "like"}
    defaults = {action.dest: str(action.help) for action in parser_of("estimate")._actions}
    for name, words in COMMON.items():  # a default that is said is the true one
        said = words.partition("(default: ")[2].rstrip(")")
        if said and said[0].isdigit():
            assert f"(default: {said})" in defaults[name]


@pytest.mark.parametrize(
    ("argv", "remedy"),
    [
        (["estimat"], "did you mean estimate?"),
        (["Estimate"], "did you mean estimate?"),
        (["publish_metric"], "did you mean publish-metric?"),
        (["component"], "did you mean components?"),
        (["help"], "did you mean --help?"),
        (["version"], "did you mean --version?"),
        (["theory", "dnl"], "did you mean dln?"),
        (["completion", "bsh"], "did you mean bash?"),
        (["xyzzy"], "allowed: estimate, show"),
        (["estimate", "--num_chains", "3"], "did you mean --num-chains?"),
        (["estimate", "--NumChains", "3"], "did you mean --num-chains?"),
        (["--json", "show", "x"], "write it after hf-llc show"),
        (["curve", "--x-scale", "lin"], "did you mean linear?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_nearest_name_is_said(argv: list[str], remedy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert remedy in err and err.count("\n") == 1


def test_nearest_names_nothing_that_is_far() -> None:
    assert nearest("xyzzy", ["estimate", "show"]) is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("hf-llc est", ["estimate"]),
        ("hf-llc publish", ["publish", "publish-metric"]),
        ("hf-llc estimate --num-c", ["--num-chains"]),
        ("hf-llc estimate --sampler sgl", ["sgld"]),
        ("hf-llc estimate --sampler bao", ["baoab"]),
        ("hf-llc estimate --batch-size ", ["auto", "full"]),
        ("hf-llc estimate --model ", []),  # files
        ("hf-llc estimate --json --num-d", ["--num-draws"]),
        ("hf-llc curve --x-scale l", ["linear", "log"]),
        ("hf-llc completion ", list(SCRIPTS)),
        ("hf-llc theory ", ["dln"]),
        ("hf-llc show runs/", []),
        ("hf-llc  ", NAMES[1:]),
    ],
)
def test_completion(line: str, words: list[str]) -> None:
    found = words_after(_parser(), line)
    assert found == words


def test_bash_completes(tmp_path: Path) -> None:
    """The script as bash runs it; the program is a stand-in that repeats the line it is asked about."""
    program = tmp_path / "hf-llc"
    program.write_text('#!/bin/sh\n[ "$3" = "hf-llc estimate --num" ] && printf -- "--num-chains\\n--num-draws\\n"\n')
    program.chmod(0o755)
    script = (
        f'PATH={tmp_path}:$PATH\n{SCRIPTS["bash"]}\nCOMP_LINE="hf-llc estimate --num"; COMP_POINT=${{#COMP_LINE}}\n'
    )
    script += '_hf_llc hf-llc --num estimate; echo "${COMPREPLY[@]}"; complete -p hf-llc'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["--num-chains --num-draws", "complete -o default -F _hf_llc hf-llc"]


@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_script_is_printed_for_each_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert text(capsys, "completion", shell) == SCRIPTS[shell] + "\n"
    assert "hf-llc completion --line" in SCRIPTS[shell]


def test_completion_is_for_one_shell(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion"]) == 2
    assert main(["completion", "bash", "--line", "x"]) == 2
