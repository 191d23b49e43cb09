"""The command line: `hf-llc estimate`, `show` and `doctor`. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from hf_llc.cli.arguments import Parser, add_settings, parse
from hf_llc.cli.commands import benchmark, calibrate, curve, publish, publish_metric, theory
from hf_llc.cli.commands.doctor import _PLANNED, _doctor
from hf_llc.cli.commands.estimate import _estimate
from hf_llc.cli.commands.show import _show
from hf_llc.cli.console import BAD_INPUT, FAULT, INTERRUPTED, OK, end
from hf_llc.errors import InputError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_CLOSED = (*_FULL, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG)


_EXIT_CODES = """exit codes: 0 every check passed; 3 estimated, but the verdict is bad (the files are saved);
2 bad input; 130 interrupted; 1 anything else."""


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit code. Whatever can be foreseen ends in one line."""
    folder: list[Path] = []
    try:
        args = parse(_parser(), sys.argv[1:] if argv is None else argv)
        return args.run(args, folder)
    except SystemExit as stop:  # --help, --version
        return stop.code if isinstance(stop.code, int) else OK
    except InputError as error:
        return end(BAD_INPUT, f"error: {error}")
    except KeyboardInterrupt:
        return end(INTERRUPTED, "interrupted: " + _left(folder))
    except BrokenPipeError:  # `hf-llc show … | head`
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        line = _foreseen(error, folder)
        if line is None:
            traceback.print_exc()
            line = "this is a fault of hf_llc; please report it with the lines above"
        return end(FAULT, f"error: {line}")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="hf-llc",
        description="The local learning coefficient of Hugging Face models.",
        epilog=_EXIT_CODES,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    estimate = commands.add_parser(
        "estimate",
        help="estimate λ̂ of a model on data",
        allow_abbrev=False,
        description="Estimate λ̂ of a model on data; with no arguments, of the embedded "
        "tiny model on the embedded text, without network.",
        epilog=_EXIT_CODES,
    )
    add_settings(estimate)
    run = estimate.add_argument_group("run")
    run.add_argument("--config", metavar="FILE", help="YAML file of settings, `name: value`; flags override it")
    run.add_argument(
        "--output",
        metavar="DIR",
        help="folder of the result (default: runs/MODEL-DATA-HASH); the same command again goes on where it stopped",
    )
    run.add_argument("--resume", action="store_true", help="insist that there is a run to go on with")
    run.add_argument("--overwrite", action="store_true", help="discard what is in the output folder")
    run.add_argument("--json", action="store_true", help="print the result as JSON, and nothing else, on stdout")
    run.add_argument("--quiet", action="store_true", help="no progress bars and no remarks")
    estimate.set_defaults(run=_estimate, parser=estimate)
    show = commands.add_parser(
        "show",
        help="print a saved result",
        allow_abbrev=False,
        description="Print a saved result; the exit code is that of its verdict.",
    )
    show.add_argument("folder", metavar="DIR", help="folder of a result, or its result.json")
    show.add_argument("--json", action="store_true", help="print it as JSON")
    show.set_defaults(run=_show, parser=show)
    doctor = commands.add_parser(
        "doctor",
        help="say what is installed, what works here, and whether a model fits",
        allow_abbrev=False,
        description="Say what is installed and what works here. With --model: the bytes that its chains need, by "
        "sampler, whether they fit this machine's memory, and how steps would then be taken; no weights are loaded.",
    )
    add_settings(doctor, only=_PLANNED)
    doctor.add_argument("--json", action="store_true", help="print it as JSON")
    doctor.set_defaults(run=_doctor, parser=doctor, config=None)
    calibrate.add(commands)
    curve.add(commands)
    publish.add(commands)
    publish_metric.add(commands)
    theory.add(commands)
    benchmark.add(commands)
    return parser


class _Version(argparse.Action):
    """Print the version, looked up only when asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from hf_llc import __version__

        print(f"hf-llc {__version__}")
        parser.exit()


def _left(folder: list[Path]) -> str:
    """What an interrupted run has left behind, and how to go on."""
    saved = len(list(folder[0].rglob("state/**/*.safetensors"))) if folder else 0
    if not folder or not (folder[0] / "run.json").exists():
        return "nothing had begun, nothing is on disk"
    if (folder[0] / "result.json").exists():
        return f"the result is in {folder[0]}"
    states = f"{saved} saved state{'s' * (saved != 1)} in {folder[0]}"
    return f"{states}; run the same command with --resume to go on from there"


def _foreseen(error: Exception, folder: list[Path]) -> str | None:
    """One line for what may befall any long run; None for a fault."""
    code = error.errno if isinstance(error, OSError) else None
    where = str(folder[0]) if folder else "this folder"
    again = "run the same command with --resume to go on" if folder else "run it again"
    if code in _FULL or "No space left on device" in str(error):
        return f"the disk of {where} is full; make room and {again}"
    if code in _CLOSED and isinstance(error, OSError):
        return f"cannot read or write {error.filename or where} ({error.strerror}); put it right and {again}"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        remedy = "lower micro_batch_size, chain_batch_size or max_length, or set gradient_checkpointing"
        return f"out of memory; {remedy}, and {again}"
    return None
