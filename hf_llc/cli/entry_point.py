"""The command line `hf-llc`: pick a command, run it, turn every foreseeable error into one line and an exit code.

Heavy packages (torch, transformers, numpy) are imported by the commands when they run, not here.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import errno
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from hf_llc.cli.arguments import parse
from hf_llc.cli.commands import (
    benchmark,
    calibrate,
    collect,
    compare,
    completion,
    components,
    curve,
    doctor,
    estimate,
    influence,
    profile,
    publish,
    publish_metric,
    show,
    susceptibility,
    theory,
)
from hf_llc.cli.console import (
    BAD_INPUT,
    BAD_VERDICT,
    EXIT_CODES,
    FAULT,
    INTERRUPTED,
    OK,
    end,
    open_closed_streams,
    share_cores,
)
from hf_llc.cli.help_screen import Parser
from hf_llc.errors import InputError, OutOfTime, is_out_of_memory

_COMMANDS = (
    estimate,
    show,
    doctor,
    calibrate,
    curve,
    components,
    influence,
    susceptibility,
    profile,
    compare,
    collect,
    publish,
    publish_metric,
    theory,
    benchmark,
    completion,
)
"""In the order of `hf-llc --help`. Each module has `add(commands)`, which registers its arguments and `run(args)`."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "Connection was likely closed", "Broken pipe")
"""Words of gloo, and of torch's store where processes meet."""
_CLOSED = (*_FULL, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG, errno.ESTALE, errno.EBUSY)


def run() -> int:
    """`main` as a program, which ends at once: to take torch and transformers apart takes Python two seconds.

    What is registered for the end of a program is done before. Not where other processes or threads are under way.
    """
    code = main()
    if os.environ.get("WORLD_SIZE", "1") == "1" and threading.active_count() == 1:
        with contextlib.suppress(OSError, AttributeError):  # a stream that is closed or full ends as usual
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return code


def main(argv: list[str] | None = None) -> int:
    """Run a command; return the exit code. An error that can be foreseen ends in one line, without a traceback."""
    open_closed_streams()
    begun, args = time.monotonic(), argparse.Namespace()
    try:
        args = parse(_parser(), sys.argv[1:] if argv is None else argv)
        args.begun = begun
        share_cores()
        return args.run(args)
    except SystemExit as stop:  # --help, --version
        return stop.code if isinstance(stop.code, int) else OK
    except OutOfTime as error:
        return end(BAD_VERDICT, f"{error}{_kept(args)}")
    except InputError as error:
        return end(BAD_INPUT, f"error: {error}")
    except KeyboardInterrupt:
        return end(INTERRUPTED, "interrupted: " + _on_disk(args))
    except BrokenPipeError:  # `hf-llc show … | head`
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            name = str(error.filename)
            return end(BAD_INPUT, f"error: a name is too long for this machine: {name[:80]} … ({len(name)} characters)")
        line = _foreseen(error, args)
        if line is None:
            traceback.print_exc()
            line = "this is a fault of hf_llc; please report it with the lines above"
        return end(FAULT, f"error: {line}")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="hf-llc",
        description="The local learning coefficient of Hugging Face models.",
        epilog=EXIT_CODES,
        examples=(
            "hf-llc estimate                # the embedded model, without network",
            "hf-llc estimate --model ID --data ID --split test --output runs/a",
            "hf-llc show runs/a",
            "hf-llc COMMAND --help          # what a command takes",
        ),
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, prog="hf-llc")
    for command in _COMMANDS:
        command.add(commands)
    parser.set_defaults(root=parser)
    return parser


class _Version(argparse.Action):
    """Print the version. It is looked up only when asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from hf_llc import __version__

        print(f"hf-llc {__version__}")
        parser.exit()


def _run_folder(args: argparse.Namespace) -> Path | None:
    """Return the folder from which the command can be resumed: `args.run_folder`, if the command has set it."""
    return getattr(args, "run_folder", None)


def _again(args: argparse.Namespace) -> str:
    """Say how to go on with a command."""
    if _run_folder(args) is None:
        return "run it again"
    how = "with --resume" if hasattr(args, "resume") else "again, without --overwrite,"
    return f"run the same command {how} to go on"


def _kept(args: argparse.Namespace) -> str:
    """Say where a run whose time was up has left what it found."""
    folder = _run_folder(args)
    return f" (what is done is in {folder}: give it as --output)" if folder and (folder / "run.json").exists() else ""


def _on_disk(args: argparse.Namespace) -> str:
    """Say what an interrupted run has left on disk, and how to go on."""
    folder = _run_folder(args)
    if folder is None or not (folder / "run.json").exists():
        return "nothing had begun, nothing is on disk"
    if (folder / "result.json").exists():
        return f"the result is in {folder}"
    saved = len(list(folder.rglob(".hf_llc/**/*.safetensors")))
    states = f"{saved} saved state{'s' * (saved != 1)} in {folder}"
    return f"{states}; {_again(args)} from there"


def _foreseen(error: Exception, args: argparse.Namespace) -> str | None:
    """Return one line for an error that any long run may meet (disk, access, memory); None for a fault of hf_llc."""
    code = error.errno if isinstance(error, OSError) else None
    where, again = _run_folder(args) or "this folder", _again(args)
    if code in _FULL or "No space left on device" in str(error):
        return f"the disk of {where} is full; make room and {again}"
    if code in _CLOSED and isinstance(error, OSError):
        return f"cannot read or write {error.filename or where} ({error.strerror}); put it right and {again}"
    if any(words in str(error) for words in _LOST_PEER):
        return f"another process of this run has ended, and says why; {again}"
    if is_out_of_memory(error):
        remedy = "lower micro_batch_size, chain_batch_size or max_length, or set gradient_checkpointing"
        return f"out of memory; {remedy}, and {again}"
    return None
