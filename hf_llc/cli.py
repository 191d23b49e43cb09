"""The command line: `hf-llc estimate`, `show` and `doctor`.

Exit codes: 0 estimated and trustworthy, 3 estimated but the verdict is bad, 2 bad input (one line, no traceback),
130 interrupted, 1 anything else.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import json
import os
import re
import shlex
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from hf_llc.arguments import Parser, add_settings, read_settings, setting_names
from hf_llc.config import LoadConfig, SampleConfig, as_dict
from hf_llc.errors import InputError

if TYPE_CHECKING:
    from hf_llc.result import LLCResult

OK, FAULT, BAD_INPUT, BAD_VERDICT, INTERRUPTED = 0, 1, 2, 3, 130


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        args = _parser().parse_all(argv)
        return args.run(args, argv)
    except InputError as error:
        _say(f"hf-llc: error: {error}")
        return BAD_INPUT
    except KeyboardInterrupt:
        _say("hf-llc: interrupted")
        return INTERRUPTED
    except SystemExit as stop:  # argparse, after --help and --version
        return int(stop.code or 0)
    except BrokenPipeError:  # the reader (`head`, say) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        line = _shortage(error)
        if line is None:
            traceback.print_exc()
            return FAULT
        _say(f"hf-llc: error: {line}")
        return FAULT


def _parser() -> Parser:
    from importlib.metadata import PackageNotFoundError, version

    try:
        number = version("hf_llc")
    except PackageNotFoundError:
        number = "not installed"
    parser = Parser(prog="hf-llc", description="The local learning coefficient of Hugging Face models.")
    parser.add_argument("--version", action="version", version=f"hf_llc {number}")
    parser.set_defaults(run=lambda args, argv: parser.print_help() or OK)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_estimate(commands)
    show = commands.add_parser("show", help="print a result that was saved", description="Print a saved result.")
    show.add_argument("folder", metavar="DIR", help="folder of a run, or its result.json")
    show.add_argument("--json", action="store_true", help="as JSON")
    show.set_defaults(run=_show, flags=("--json",))
    doctor = commands.add_parser("doctor", help="what is installed, what works here, and what to do about the rest")
    doctor.set_defaults(run=_doctor)
    return parser


def _add_estimate(commands: argparse._SubParsersAction) -> None:
    text = "Estimate λ̂ of a model on data. Without arguments: a tiny model and text that come with the package."
    codes = "exit codes: 0 trustworthy, 3 estimated but the verdict is bad, 2 bad input, 130 interrupted, 1 a fault"
    parser = commands.add_parser("estimate", help="estimate λ̂ of a model on data", description=text, epilog=codes)
    run = parser.add_argument_group("run")
    run.add_argument("--config", metavar="FILE", help="YAML file of settings, `num_chains: 8`; flags override it")
    run.add_argument("--output", metavar="DIR", help="folder of the run; default: runs/MODEL-DATA-HASH")
    again = run.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with what is in the folder; refuse if nothing is")
    again.add_argument("--overwrite", action="store_true", help="discard what is in the folder")
    run.add_argument("--json", action="store_true", help="print the result alone, as JSON")
    run.add_argument("--quiet", action="store_true", help="no progress, no table")
    add_settings(parser)
    flags = [flag for action in parser._actions for flag in action.option_strings]
    parser.set_defaults(run=_estimate, flags=flags)


def _estimate(args: argparse.Namespace, argv: list[str]) -> int:
    names = setting_names()
    given = {name: value for name, value in vars(args).items() if name in names}
    load, sample, output = read_settings(given, args.config)
    folder = Path(args.output or output or default_folder(load, sample))
    if args.resume and not (folder / "run.json").exists():
        raise InputError("nothing to resume in the output folder", value=str(folder), remedy="drop --resume")
    was_finished = (folder / "result.json").exists() and not args.overwrite
    is_new = not folder.exists()
    if args.quiet or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    try:
        with contextlib.redirect_stdout(sys.stderr):  # whatever other libraries print
            from hf_llc.evaluator import estimate

            resume = True if args.resume else None
            options = {"output": folder, "resume": resume, "overwrite": args.overwrite, "progress": not args.quiet}
            result = estimate(load, sample, **options)
    except InputError:
        if is_new:
            _leave_nothing(folder)
        raise
    except KeyboardInterrupt:
        _say(_interrupted(folder, argv))
        return INTERRUPTED
    if is_main_process():
        _print_result(result, as_json=args.json, quiet=args.quiet)
        if not args.quiet:
            again = " (found there; --overwrite estimates again)" if was_finished else ""
            print(f"picture: {folder / 'trace.png'}{again}", file=sys.stderr if args.json else sys.stdout)
    _leave_processes()
    return OK if result.is_trustworthy else BAD_VERDICT


def default_folder(load: LoadConfig, sample: SampleConfig) -> Path:
    """`runs/<model>-<data>-<hash>`: the same settings, the same folder, so that the same command goes on."""
    settings = json.dumps([as_dict(load), as_dict(sample)], sort_keys=True)
    digest = hashlib.sha256(settings.encode()).hexdigest()[:8]
    return Path("runs") / f"{_slug(load.model)}-{_slug(load.data)}-{digest}"


def _slug(name: str | None) -> str:
    last = Path(name).name if name else "embedded"
    return re.sub(r"[^A-Za-z0-9._]+", "_", last).strip("._")[:40] or "unnamed"


def _show(args: argparse.Namespace, argv: list[str]) -> int:
    from hf_llc.result import LLCResult

    _print_result(LLCResult.load(args.folder), as_json=args.json, quiet=False)
    return OK


def _doctor(args: argparse.Namespace, argv: list[str]) -> int:
    from hf_llc.doctor import examine
    from hf_llc.report import for_encoding

    is_well = True
    for finding in examine():
        print(for_encoding(str(finding)), flush=True)
        is_well &= finding.is_ok or not finding.is_needed
    print("verdict: ready" if is_well else "verdict: something needed is missing (see above)")
    return OK if is_well else FAULT


def _print_result(result: LLCResult, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        # JSON has no word for NaN and infinity: null, as in result.json.
        values = json.loads(json.dumps(result.to_dict()), parse_constant=lambda _: None)
        print(json.dumps(values, indent=2, allow_nan=False))
    elif not quiet:
        print(result)


def is_main_process() -> bool:
    """True in a run of one process and in the first of several, whichever launcher named it."""
    for name in ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"):
        if name in os.environ:
            return os.environ[name] == "0"
    return True


def _say(line: str) -> None:
    """A line on standard error, from one process only."""
    if is_main_process():
        from hf_llc.report import for_encoding

        print(for_encoding(line, getattr(sys.stderr, "encoding", None)), file=sys.stderr, flush=True)


def _interrupted(folder: Path, argv: list[str]) -> str:
    if not (folder / "run.json").exists():
        return "hf-llc: interrupted before anything was done"
    kept = len(list(folder.glob("state/**/chains-*.safetensors")))
    what = f"{kept} unfinished batch{'' if kept == 1 else 'es'} of chains" if kept else "the settings, no chain yet,"
    command = [x for x in argv if x not in ("--resume", "--overwrite")]
    return f"hf-llc: interrupted; {what} kept in {folder}: go on with `hf-llc {shlex.join(command)} --resume`"


def _leave_nothing(folder: Path) -> None:
    """After bad input: no folder that the refused run made, if nothing but its settings is in it."""
    if not is_main_process() or (folder / "state").exists():
        return
    with contextlib.suppress(OSError):
        (folder / "run.json").unlink(missing_ok=True)
        folder.rmdir()


def _leave_processes() -> None:
    """Part from the other processes in good order; without it torch warns at exit."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _shortage(error: Exception) -> str | None:
    """One line for an error that is neither the user's slip nor ours: a full disk, too little memory."""
    text = str(error)
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in text:
        return f"the disk is full ({text.splitlines()[0]}); free some space and give the same command with --resume"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:
        return "out of memory; lower micro_batch_size, chain_batch_size or batch_size, and give the same command again"
    return None
