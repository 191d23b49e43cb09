"""What the experiments share: presets, jobs that resume and are shared out over processes, and the figure's files.

An experiment is a list of jobs, each a small dictionary. Every finished job adds one line to `rows.jsonl` in the output
folder: its settings and what was found. The same command again does what is missing, on however many processes.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import itertools
import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from dry_run import Cost, print_plan

from hf_llc.cli.console import BAD_INPUT, INTERRUPTED, end
from hf_llc.errors import InputError
from hf_llc.files import finite, write_atomically, write_json
from hf_llc.loading.hub_errors import hub_refusal
from hf_llc.parallel.processes import Processes, alone
from hf_llc.publishing.picture import save_picture, styled

Row = dict[str, Any]
T = TypeVar("T")


def start(main: Callable[[], None]) -> None:
    """Run `main()`. Bad input and Ctrl-C end in one line, from one process, with hf-llc's exit codes."""
    name = Path(sys.argv[0]).name
    try:
        with styled():
            main()
    except InputError as error:
        sys.exit(end(BAD_INPUT, str(error), name=name))
    except KeyboardInterrupt:
        sys.exit(end(INTERRUPTED, "interrupted; the same command goes on from the jobs that are done", name=name))


def from_hub(what: str, name: str, load: Callable[[], T]) -> T:
    """Return `load()`; turn a refusal of the Hub, or its absence, into an InputError of one line.

    Args:
        what: "data set" or "tokenizer".
        name: its id.
        load: reads it.

    Raises:
        InputError: the Hub refused it, or cannot be reached.
    """
    try:
        return load()
    except Exception as error:
        refusal = hub_refusal(error, what, name, None)
        if refusal is None:
            raise
        raise refusal from error


def parse(description: str | None, presets: Mapping[str, Any], *, more: Callable[[Any], None] | None = None) -> Any:
    """Parse the flags that every experiment has, and those that `more` adds.

    Args:
        description: the script's docstring.
        presets: settings by name, among them "smoke", "cpu" and "paper".
        more: adds the script's own flags to the parser.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(presets), default="cpu")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: runs/SCRIPT-PRESET")
    parser.add_argument("--overwrite", action="store_true", help="discard what is in the output folder")
    parser.add_argument("--dry-run", action="store_true", help="only print the jobs, a JSON line each, and their cost")
    parser.add_argument("--operations-a-second", type=float, metavar="X", help="for --dry-run: of another machine")
    parser.add_argument("--plot-only", action="store_true", help="only draw the figure of the rows that are there")
    if more is not None:
        more(parser)
    args = parser.parse_args()
    if args.output is None:
        args.output = Path("runs") / f"{Path(parser.prog).stem}-{args.preset}"
    return args


def carry_out(
    args: argparse.Namespace,
    jobs: Sequence[Row],
    settings: Mapping[str, Any],
    work: Callable[[Row], Row],
    *,
    cost: Callable[[Row], Cost],
    shown: Callable[[list[Row]], tuple[Any, Sequence[Row], str]],
) -> None:
    """Run what is missing and write the figure's files; with --dry-run, print what that would take.

    Args:
        args: from `parse`.
        jobs: of the experiment, as in `Experiment.run`.
        settings: what the rows depend on.
        work: job → what was found.
        cost: job → what it takes.
        shown: rows, in the order of the jobs → figure, numbers and sentence, as in `Experiment.finish`.
    """
    if args.dry_run:
        print_plan(jobs, settings, cost, rate=args.operations_a_second)
        return
    experiment = Experiment(args.output, settings, overwrite=args.overwrite, plot_only=args.plot_only)
    rows = experiment.run(jobs, work)
    if experiment.processes.is_main:
        experiment.finish(*shown(rows))


class Experiment:
    """The output folder of an experiment: which jobs are done, and what they found.

    Args:
        folder: where everything goes.
        settings: what the rows depend on; the folder of other settings is refused.
        overwrite: begin anew.
        plot_only: nothing is to be run; the rows are taken as they are, whatever their settings.

    Raises:
        InputError: the folder holds rows of other settings, or none where they are only to be drawn.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], *, overwrite: bool = False, plot_only: bool = False
    ) -> None:
        self.folder, self.path, self.plot_only = folder, folder / "rows.jsonl", plot_only
        self.processes = Processes()
        if not plot_only:
            self.processes.main_does(lambda: self._begin(json.loads(json.dumps(settings)), overwrite))
        elif not self.path.exists():
            raise InputError("there are no rows to draw", value=str(self.path), remedy="run without --plot-only")

    def _begin(self, settings: Row, overwrite: bool) -> None:
        kept = self.folder / "settings.json"
        if overwrite:
            self.path.unlink(missing_ok=True)
        elif kept.exists() and self.path.exists() and json.loads(kept.read_text(encoding="utf-8")) != settings:
            raise InputError(
                "the output folder holds rows of other settings", value=str(self.folder), remedy="overwrite, or another"
            )
        write_json(kept, settings)

    def rows(self) -> list[Row]:
        """All rows so far. A line that a kill cut short does not count."""
        if not self.path.exists():
            return []
        found = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return found

    def run(
        self,
        jobs: Sequence[Row],
        work: Callable[[Row], Row],
        *,
        together: bool = False,
        unit: Sequence[str] | None = None,
    ) -> list[Row]:
        """Do this process's share of the jobs that are not done; return all rows in the order of the jobs.

        Args:
            jobs: settings of each, JSON values, all different.
            work: job → what was found. The row is the job, what was found, and `seconds`. While it runs, hf_llc takes
                this process to be the only one.
            together: all processes do every job together, for work that is itself shared out over processes, such as
                the chains of `LLCEvaluator.compute`.
            unit: jobs that agree in these settings go to one process, one after the other, so that `work` may keep
                what they share.
        """

        def key(row: Row, only: Sequence[str] | None = None) -> str:
            return json.dumps({name: row[name] for name in only or names if name in row}, sort_keys=True)

        names = sorted({name for job in jobs for name in job})
        done = self.processes.main_does(lambda: {key(row) for row in self.rows()})
        missing = [job for job in jobs if key(job) not in done]
        if self.plot_only and missing:
            raise InputError("rows of some jobs are not there", value=missing[0], remedy="run without --plot-only")
        units: dict[str, list[Row]] = {}
        for job in missing:
            units.setdefault(key(job, unit), []).append(job)
        mine = missing if together else itertools.chain.from_iterable(self.processes.share(list(units.values())))
        for job in mine:
            begun = time.monotonic()
            with contextlib.nullcontext() if together else alone():
                found = work(job)
            if self.processes.is_main or not together:
                self._add({**job, **found, "seconds": round(time.monotonic() - begun, 3)})
        self.processes.gather([None])  # all have written
        by_key = self.processes.main_does(lambda: {key(row): row for row in self.rows()})
        return [by_key[key(job)] for job in jobs]

    def _add(self, row: Row) -> None:
        """Add a line in a single write, so that processes may share the file; begin a new line after a cut one."""
        text = json.dumps(finite(row), allow_nan=False) + "\n"
        if self.path.exists() and self.path.stat().st_size and not self.path.read_bytes().endswith(b"\n"):
            text = "\n" + text
        with open(self.path, "ab", buffering=0) as file:
            file.write(text.encode())
        shown = [f"{name} {_short(value)}" for name, value in row.items() if _is_short(value)]
        print(", ".join([*shown[:-1][:12], shown[-1]]), flush=True)

    def finish(self, figure: Any, numbers: Sequence[Row], sentence: str) -> None:
        """Write figure.png, figure.csv (its numbers) and claim.txt, and print the sentence, on the main process.

        Args:
            figure: a matplotlib figure.
            numbers: rows of the table, all with the same keys.
            sentence: whether the paper's claim is seen, with its statistic; hyphens before numbers become minus signs.
        """
        sentence = re.sub(r"(?<![\w-])-(?=\d)", "−", sentence)
        if not self.processes.is_main:
            return
        save_picture(figure, self.folder / "figure.png")

        def write(temporary: Path) -> None:
            with open(temporary, "w", newline="", encoding="utf-8") as file:
                table = csv.DictWriter(file, fieldnames=list(numbers[0]))
                table.writeheader()
                table.writerows(numbers)

        write_atomically(self.folder / "figure.csv", write)
        write_atomically(self.folder / "claim.txt", lambda path: path.write_text(sentence + "\n", encoding="utf-8"))
        print(f"\n{sentence}\nfigure   {self.folder / 'figure.png'}\nnumbers  {self.folder / 'figure.csv'}", flush=True)


def _is_short(value: Any) -> bool:
    return value is None or isinstance(value, (int, float)) or (isinstance(value, str) and len(value) < 30)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
