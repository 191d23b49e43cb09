"""Runs are killed, raced, starved and lied to; each must end bit-equal to an undisturbed run, or in one line.

python tests/folder_torture.py [--kills 60] [--mutations 60] [--read 60] [--races 14] [--disks 10] [--memory 12]

Prints a row for each trial and a table in the end; the exit code is 1 if anything was silent or a traceback: such rows
are in capitals. About fifteen minutes on one core; small disks need root. Not part of the suite:
tests/test_run_folder.py has one of each. "Equal" means every file of the folder (`torture_runs.contents`), and what the
call returned.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import io
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import transformers.pipelines  # noqa: F401 (children shall not import these again, each by itself)
from curve_factory import series
from folder_damage import WAYS, damage
from forked_runs import Ended, Fate, Forked, small_disk
from matplotlib import pyplot  # noqa: F401
from torture_runs import ENDS, ESTIMATES, KINDS, PROCESSES, contents, differences, estimate, returned

from hf_llc.cli.entry_point import main as command_line
from hf_llc.publishing import trace_plot  # noqa: F401
from hf_llc.studies import explore_settings, measure_components, measure_curve  # noqa: F401

DAMAGED = (*KINDS, *(f"{kind}, unfinished" for kind in KINDS if kind != "data-parallel 2"))
"""Folders that are changed before the same command comes again."""

READ = ("chains", "minimize", "γ checks", "curve", "components")
"""Folders that are changed before they are shown and published."""

RACES: tuple[tuple[str, str, bool, float], ...] = (
    ("chains", "chains", False, 0.0),
    ("chains", "minimize", False, 0.0),
    ("minimize", "chains", True, 0.0),
    ("auto", "auto", True, 0.5),
    ("two ranks", "chains", False, 0.3),
    ("two ranks", "two ranks", True, 0.0),
    ("data-parallel 2", "chains", True, 0.5),
    ("curve", "curve", False, 0.4),
    ("curve", "calibrate", True, 0.2),
    ("calibrate", "calibrate", False, 0.6),
    ("chains", "chains", False, 0.97),
    ("γ checks", "auto", True, 0.97),
    ("components", "components", False, 0.5),
    ("components", "curve", True, 0.3),
)
"""Two runs in one folder: the kinds, whether the second overwrites, and when it comes, as a share of the first."""


class Torture:
    """All trials, in a folder of their own."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.rows: collections.Counter[tuple[str, str]] = collections.Counter()
        self.operations: dict[tuple[str, int], list[str]] = {}
        self.seconds: dict[str, float] = {}
        os.environ["SERIES"] = str(folder / "series")
        (folder / "series").mkdir()
        Forked(lambda: series(folder / "series", (2, 10)) and None, Fate(watched=folder)).end()
        for kind in KINDS:
            for rank in range(PROCESSES.get(kind, 1)):
                self._undisturbed(kind, rank)
        for kind in DAMAGED[len(KINDS) :]:
            self._unfinished(kind.partition(",")[0], self.whole(kind))

    def _undisturbed(self, kind: str, rank: int) -> None:
        place, log = self.whole(kind) if rank == 0 else self.fresh(), self.folder / "log.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        begun = time.monotonic()
        ended = self.run(kind, place, Fate(watched=place, rank=rank, log=log))
        self.seconds[kind] = time.monotonic() - begun
        assert ended.how == "done", (kind, ended)
        assert not differences(contents(place), contents(self.whole(kind))), kind
        self.operations[kind, rank] = json.loads(log.read_text())

    def _unfinished(self, kind: str, place: Path) -> None:
        """A run that is killed before its last states are written; for a curve, inside the second point."""
        names = self.operations[kind, 0]
        states = [number for number, name in enumerate(names, start=1) if ".hf_llc/" in name and "rename" in name]
        self.run(kind, place, Fate(watched=place, kill_at=states[-2]))
        assert list(place.rglob("*.safetensors")), (kind, "killed too early")

    def whole(self, kind: str) -> Path:
        """The folder of an undisturbed run, or of an unfinished one."""
        return self.folder / kind.replace(" ", "-") / "run"

    def truth(self, kind: str) -> Path:
        return self.whole(kind.partition(",")[0])

    def fresh(self, copied: Path | None = None) -> Path:
        """A path for a folder, or a copy of one."""
        place = Path(tempfile.mkdtemp(dir=self.folder)) / "run"
        return place if copied is None else Path(shutil.copytree(copied, place))

    def start(self, kind: str, output: Path, fate: Fate, *, overwrite: bool = False) -> Forked:
        work = functools.partial(estimate, kind, output, overwrite=overwrite)
        return Forked(work, fate, processes=PROCESSES.get(kind, 1))

    def run(self, kind: str, output: Path, fate: Fate | None = None, *, overwrite: bool = False) -> Ended:
        return self.start(kind, output, fate or Fate(watched=output), overwrite=overwrite).end()

    def row(self, trial: str, how: str, detail: str, text: str = "") -> None:
        self.rows[trial, how] += 1
        print(f"{trial:10} {how:28} {detail}", flush=True)
        if _is_fault(how):
            print(text[-3000:], flush=True)

    def verdict(self, kind: str, output: Path, ended: Ended, *, but: tuple[str, ...] = ()) -> str:
        """How a run ended that was not disturbed: "bit-equal", "refused", or a fault in capitals."""
        if ended.how == "refused":
            return ended.how if len(ended.text.strip().splitlines()) <= PROCESSES.get(kind, 1) else "REFUSED IN LINES"
        if ended.how != "done":
            return ended.how.upper()
        truth = contents(self.truth(kind))
        lists = [truth[name].get("llc_per_chain") for name in ENDS if name in truth]
        if any(each not in lists for each in returned(ended.text)):
            return "SILENTLY RETURNED OTHER"
        found = contents(output)  # points of a curve and components that were here before are runs of their own
        other = differences({n: x for n, x in found.items() if n in truth or "/" not in n}, truth, but=but)
        return f"SILENTLY OTHER {other[:3]}" if other else "bit-equal"

    def again(self, kind: str, output: Path, *, but: tuple[str, ...] = ()) -> tuple[str, str]:
        """How the same command ends; if it is refused, then with --overwrite."""
        ended = self.run(kind, output)
        how = self.verdict(kind, output, ended, but=but)
        if how != "refused":
            return how, ended.text
        forced = self.run(kind, output, overwrite=True)
        how = self.verdict(kind, output, forced)
        return f"refused, then {how}" if how != "refused" else how, ended.text + forced.text

    def kill(self, number: int) -> None:
        """SIGKILL before an operation on the folder or at a time; then the same command again, without --overwrite."""
        if number % 3 == 0:
            self._kill_overwriting(number // 3)
            return
        kind, turn = list(KINDS)[number % len(KINDS)], number // len(KINDS)
        rank = turn % PROCESSES.get(kind, 1)
        output, names = self.fresh(), self.operations[kind, rank]
        if names and number % 10 != 9:  # every kind of operation has its turn
            name = list(dict.fromkeys(names))[(turn * 7 + number) % len(set(names))]
            at = self.random.choice([place for place, each in enumerate(names, start=1) if each == name])
            fate, where = Fate(watched=output, kill_at=at, rank=rank), f"rank {rank} before {name}"
        else:
            fate = Fate(watched=output, seconds=self.random.uniform(0.1, self.seconds[kind]), rank=rank)
            where = f"after {fate.seconds:.1f} s"
        first = self.run(kind, output, fate)
        if number % 5 == 4:  # killed again as it goes on
            at = self.random.randint(1, max(len(names) // 2, 2))
            where += f", and again: {self.run(kind, output, Fate(watched=output, kill_at=at)).how}"
        how, text = self.again(kind, output)
        how = "REFUSED AFTER A KILL" if how.startswith("refused") else how
        self.row("kill", _worst(first, how), f"{kind}, {where}: {first.how}", first.text + text)

    def _kill_overwriting(self, at: int) -> None:
        """A kill at every operation of clearing; then the command of the old run, or the new one, without it."""
        kind = list(KINDS)[at % len(KINDS)]
        old = [other for other in DAMAGED if not other.startswith(kind)][(at * 5) % (len(DAMAGED) - 2)]
        output = self.fresh(self.whole(old))
        first = self.run(kind, output, Fate(watched=output, kill_at=at + 1), overwrite=True)
        how = "refused"
        if at % 2:
            ended = self.run(old.partition(",")[0], output)
            how = self.verdict(old, output, ended)
            first = Ended(first.how, first.text + ended.text)
        if how == "bit-equal":  # the kill came before the folder was touched
            how = "the old run, bit-equal"
            text = ""
        elif how == "refused":
            how, text = self.again(kind, output)
        else:
            text = first.text
        detail = f"{kind} --overwrite over {old}, operation {at + 1}: {first.how}"
        self.row("kill", _worst(first, how), detail, first.text + text)

    def mutate(self, number: int) -> None:
        """A byte, a length, a name or a copy is changed in a folder; then the same command again."""
        kind = DAMAGED[number % len(DAMAGED)]
        output = self.fresh(self.whole(kind))
        other = self.whole(DAMAGED[(number + 1) % len(DAMAGED)])
        detail = damage(output, other, self.random, WAYS[number * 3 % len(WAYS)])
        # a card or a picture that is gone from a finished folder is no lie, and is not made again
        is_gone = detail.startswith(("remove", "link")) and detail.endswith((".md", ".png"))
        how, text = self.again(kind.partition(",")[0], output, but=(detail.split("/")[-1].split(" ")[-1],) * is_gone)
        self.row("mutation", how, f"{kind}: {detail}", text)

    def read(self, number: int) -> None:
        """A finished folder is changed, then shown and published."""
        kind = READ[number % len(READ)]
        output = self.fresh(self.whole(kind))
        point = output / {"curve": "step10", "components": "all"}.get(kind, "")
        other = self.whole(READ[(number + 1) % len(READ)])
        ways = WAYS[:-1]  # a folder of another name is whole
        detail = damage(output, other, self.random, ways[number * 3 % len(ways)], "*" if number % 2 else "result.json")
        for how, said in self._readings(output, point, self.whole(kind) / point.relative_to(output)):
            self.row("read", how, f"{kind}: {detail}", said)

    def _readings(self, output: Path, point: Path, whole: Path) -> list[tuple[str, str]]:
        found = []
        for name, work in (("show", show), ("publish", publish)):
            cards = [self.fresh(), self.fresh()]
            true = Forked(lambda work=work, card=cards[0]: work(whole, card), Fate(watched=output)).end()
            ended = Forked(lambda work=work, card=cards[1]: work(point, card), Fate(watched=output)).end()
            same = ended.text == true.text and contents(cards[0]) == contents(cards[1])
            how = ended.how if ended.how != "done" else "as it was" if same else "SILENTLY OTHER"
            if how.isupper() and not (output / "curve.json").exists():
                how = "without the curve" if output != point and (output / "run.json").exists() else how
            found.append((f"{name.upper()} {how}" if how.isupper() else f"{name}: {how}", ended.text))
        return found

    def race(self, number: int) -> None:
        """Two runs at once; each ends with its own numbers or in one line, and the folder is that of the last."""
        *kinds, forced, share = RACES[number % len(RACES)]
        output = self.fresh()
        output.parent.mkdir(exist_ok=True)
        first = self.start(kinds[0], output, Fate(watched=output))
        time.sleep(share * self.seconds[kinds[0]])
        second = self.start(kinds[1], output, Fate(watched=output), overwrite=forced)
        ends = [first.end(), second.end()]
        hows = ["refused" if e.how == "refused" else "?" for e in ends]
        for place, (kind, ended) in enumerate(zip(kinds, ends, strict=True)):
            if ended.how == "done":
                is_replaced = place == 0 and forced and ends[1].how == "done"
                hows[place] = "done, then replaced" if is_replaced else self.verdict(kind, output, ended)
            elif ended.how != "refused":
                hows[place] = ended.how.upper()
        how = next(filter(_is_fault, hows), "NONE RAN" if hows == ["refused"] * 2 else "sound")
        detail = f"{kinds[0]} and at {share:.0%} {kinds[1]}{' --overwrite' * forced}: {', '.join(hows)}"
        self.row("race", how, detail, "".join(ended.text for ended in ends))

    def full_disk(self, number: int) -> None:
        """The disk has room for a part of the run; then there is room again, in the same folder."""
        kind = list(KINDS)[number % len(KINDS)]
        with small_disk(4096 * self.random.randint(6, 40)) as (disk, grow):
            first = self.run(kind, disk / "run")
            grow()
            how, text = self.again(kind, disk / "run")
        how = "REFUSED AFTER A FULL DISK" if how.startswith("refused") else how
        self.row("full disk", _worst(first, how), f"{kind}: {first.how}", first.text + text)

    def memory(self, number: int) -> None:
        """Memory is short; then there is enough."""
        kind, output = ESTIMATES[number % len(ESTIMATES)], self.fresh()
        fate = Fate(watched=output, memory=2**17 * self.random.randint(1, 240))
        first = self.run(kind, output, fate)
        how, text = self.again(kind, output)
        self.row("memory", _worst(first, how), f"{kind}, {fate.memory >> 10} KiB more: {first.how}", first.text + text)


def _is_fault(how: str) -> bool:
    """Whether a row is one of those in capitals."""
    return how.split(" ")[0].isupper() or how.partition("then ")[2].split(" ")[0].isupper()


def _worst(first: Ended, how: str) -> str:
    return "TRACEBACK" if first.how == "TRACEBACK" else how


def show(folder: Path, _: Path) -> int:
    """`hf-llc show`, as a table and as JSON."""
    return max(command_line(["show", str(folder)]), command_line(["show", "--json", str(folder)]))


def publish(folder: Path, card: Path) -> int:
    """`hf-llc publish` to a local card."""
    card.mkdir()
    with contextlib.redirect_stdout(io.StringIO()):
        return command_line(["publish", str(folder), "--card", str(card), "--allow-untrusted"])


def main() -> int:
    """All trials; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    trials: dict[str, tuple[int, Callable[[Torture, int], None]]] = {
        "mutations": (60, Torture.mutate),
        "read": (60, Torture.read),
        "kills": (60, Torture.kill),
        "races": (len(RACES), Torture.race),
        "disks": (10, Torture.full_disk),
        "memory": (12, Torture.memory),
    }
    for name, (count, _) in trials.items():
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        torture = Torture(Path(folder), args.seed)
        for name, (_, trial) in trials.items():
            for number in range(getattr(args, name)):
                trial(torture, number)
    print()
    for (name, how), count in sorted(torture.rows.items()):
        print(f"{name:12} {how:28} {count}")
    return int(any(_is_fault(how) for _, how in torture.rows))


if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    sys.exit(main())
