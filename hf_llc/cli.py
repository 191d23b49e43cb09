"""The command line: `hf-llc estimate`, `show` and `doctor`. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_llc.arguments import Parser, add_settings, parse, settings_from
from hf_llc.commands import benchmark, calibrate, curve, publish, publish_metric, theory
from hf_llc.config import LoadConfig, SampleConfig, as_dict
from hf_llc.errors import InputError

if TYPE_CHECKING:
    from hf_llc.result import LLCResult

OK, FAULT, BAD_INPUT, BAD_VERDICT, INTERRUPTED = 0, 1, 2, 3, 130

_FULL = (errno.ENOSPC, errno.EDQUOT)
_CLOSED = (*_FULL, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG)
_PATIENCE = 3.0
"""Seconds that another process leaves the main one to say what is wrong, before it says so itself."""

_PLANNED = (
    *("model", "revision", "task", "max_length", "dtype", "device", "attn_implementation", "trust_remote_code"),
    *("batch_size", "micro_batch_size", "gradient_checkpointing"),
)
"""Settings on which the memory of a chain depends."""

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


def default_output(load: LoadConfig, sample: SampleConfig) -> Path:
    """`runs/<model>-<data>-<hash of the settings>`: the same settings find the same folder again."""

    def short(name: str | None) -> str:
        last = "embedded" if name is None else Path(name.rstrip("/")).name
        return re.sub(r"[^\w.]+", "_", last).strip("._")[:40] or "local"

    text = json.dumps({**as_dict(load), **as_dict(sample)}, sort_keys=True)
    return Path("runs") / f"{short(load.model)}-{short(load.data)}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _estimate(args: argparse.Namespace, folder: list[Path]) -> int:
    load, sample = settings_from(args)
    if args.resume and args.overwrite:
        raise InputError("resume and overwrite are both given", remedy="give one")
    output = default_output(load, sample) if args.output is None else Path(args.output)
    folder.append(output)
    _hush(args.quiet)
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for the result alone
        from hf_llc import evaluator

        resume = True if args.resume else None
        result = evaluator.estimate(
            load, sample, output=output, resume=resume, overwrite=args.overwrite, progress=not args.quiet
        )
    if not _is_main():
        return OK  # a launcher stops all processes when one fails: the main one must get to print
    _print_result(result, as_json=args.json)
    if not args.json and not args.quiet:
        print(f"files    {output}/result.json, trace.safetensors")
        print(f"picture  {output}/trace.png", flush=True)
    return OK if result.is_trustworthy else BAD_VERDICT


def _show(args: argparse.Namespace, _: list[Path]) -> int:
    from hf_llc.result import LLCResult

    result = LLCResult.load(args.folder)
    _print_result(result, as_json=args.json)
    return OK if result.is_trustworthy else BAD_VERDICT


def _doctor(args: argparse.Namespace, _: list[Path]) -> int:
    from hf_llc.report import for_encoding

    load, sample = settings_from(args)
    if load.model is not None:
        _hush(True)
        with contextlib.redirect_stdout(sys.stderr):
            from hf_llc.plan import plan_without_weights

            plan = plan_without_weights(load, sample)
        print(json.dumps(plan.as_dict(), indent=2) if args.json else for_encoding(plan.render()), flush=True)
        return OK
    from hf_llc.doctor import examine, render

    checks = examine()
    print(
        json.dumps([vars(check) for check in checks], indent=2) if args.json else for_encoding(render(checks)),
        flush=True,
    )
    return OK if all(check.ok or check.is_optional for check in checks) else FAULT


def _print_result(result: LLCResult, *, as_json: bool) -> None:
    if as_json:
        values = json.loads(json.dumps(result.to_dict()), parse_constant=lambda _: None)  # JSON has no NaN
        print(json.dumps(values, indent=2), flush=True)
    else:
        print(result, flush=True)


def _hush(quiet: bool) -> None:
    """Keep other packages' bars and remarks out of the way; they read this when they are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DATASETS_VERBOSITY", "critical")  # its errors are raised as well as logged
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if quiet or not sys.stderr.isatty() or not _is_main():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # on a terminal: why it waits, when it asks the Hub again


def _group() -> Any:
    """Accelerate's state if this run has begun to use it, else None: asking must not import it."""
    module = sys.modules.get("accelerate.state")
    state = None if module is None else module.PartialState
    return state() if state is not None and state._shared_state else None


def _is_main() -> bool:
    """True in the one process that prints, known before and after the processes have met."""
    group = _group()
    if group is not None:
        return group.is_main_process
    names = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
    return next((os.environ[name] for name in names if name in os.environ), "0") == "0"


def end(code: int, line: str, *, name: str = "hf-llc", sleep: Callable[[float], None] = time.sleep) -> int:
    """Say one line, once; returns the exit code.

    Usually all processes meet the same error, and the launcher stops the others as soon as the first has ended.
    """
    if _is_main():
        _print_error(f"{name}: {line}")
    elif code != INTERRUPTED:
        sleep(_PATIENCE)
        _print_error(f"{name}: process {os.environ.get('RANK', '?')}: {line}")
    return code


def _print_error(line: str) -> None:
    from hf_llc.report import for_encoding

    print(for_encoding(line, getattr(sys.stderr, "encoding", None)), file=sys.stderr, flush=True)


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
