"""Runs are killed, raced, starved and lied to; each must end bit-equal to an undisturbed run, or in one line.

python tests/folder_torture.py [--kills 60] [--mutations 60] [--read 60] [--races 10] [--disks 10] [--memory 6]

Prints a row for each trial and a table in the end; the exit code is 1 if anything was silent or a traceback. About
twenty minutes on one core; small disks need root. Not part of the suite: tests/test_run_folder.py has one of each.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

import torch
import transformers.pipelines  # noqa: F401 (children shall not import these again, each by itself)
from curve_factory import series
from forked_runs import Ended, Fate, Forked, small_disk
from matplotlib import pyplot  # noqa: F401
from test_calibrate_command import SMALL as TINY_TEXT
from worker import SETTINGS, examples, network, squared_error

from hf_llc import LLCEvaluator
from hf_llc.cli.entry_point import main as command_line
from hf_llc.publishing import trace_plot  # noqa: F401

SMALL = {**SETTINGS, "num_draws": 60, "num_burnin_steps": 40, "save_seconds": 0.0, "chain_batch_size": 1}
FIXED = {**SMALL, "nbeta": 500.0, "localization": 100.0}
KINDS: dict[str, dict[str, Any]] = {
    "chains": SMALL,
    "minimize": {**SMALL, "minimize": True, "minimize_steps": 60},
    "γ checks": {**FIXED, "check_localization": True, "extrapolate": True, "observe": "parameter_norms"},
    "auto": {**SMALL, "step_size": "auto", "num_burnin_steps": "auto", "max_steps": 400},
    "two ranks": SMALL,
    "data-parallel 2": {**SMALL, "data_parallel": 2},
    "curve": {},
    "calibrate": {},
}
PROCESSES = {"two ranks": 2, "data-parallel 2": 2}
ESTIMATES = list(KINDS)[:6]


def estimate(kind: str, output: Path, *, overwrite: bool = False) -> int:
    """λ̂ of the small network, or another command, into a folder; returns the exit code of a command."""
    torch.set_num_threads(1)
    if kind in ESTIMATES:
        model = network()
        evaluator = LLCEvaluator(**KINDS[kind])
        evaluator.compute(model, data=examples(model), loss_fn=squared_error, output=output, overwrite=overwrite)
        return 0
    more = ["--quiet", "--output", str(output), *(["--overwrite"] if overwrite else [])]
    if kind == "calibrate":
        return command_line(["calibrate", *TINY_TEXT, *more])
    place = Path(os.environ["SERIES"])
    flags = [w for name, x in FIXED.items() for w in (f"--{name.replace('_', '-')}", str(x)) if name != "save_seconds"]
    files = sorted(map(str, place.glob("*.safetensors")))
    given = ["--factory", "curve_factory:make", "--weights", *files, "--data", f"{place}/data.jsonl"]
    return command_line(["curve", *given, *flags, *more])


def numbers(folder: Path) -> Any:
    """λ̂ of every chain, as it is on disk: of a result, a curve or a calibration."""
    names = ("result.json", "curve.json", "calibration.json")
    values = json.loads(next(folder / name for name in names if (folder / name).exists()).read_text(encoding="utf-8"))
    return values.get("llc_per_chain") or values.get("points") or [values["settings"], values["cells"]]


class Torture:
    """All trials, in a folder of their own."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.rows: collections.Counter[tuple[str, str]] = collections.Counter()
        self.operations: dict[str, list[str]] = {}
        os.environ["SERIES"] = str(folder / "series")
        (folder / "series").mkdir()
        Forked(lambda: series(folder / "series", (2, 10)) and None, Fate(watched=folder)).end()
        for kind in KINDS:
            place = self.whole(kind)
            place.parent.mkdir(parents=True)
            log = folder / "log.json"
            ended = self.run(kind, place, Fate(watched=place, log=log))
            assert ended.how == "done", (kind, ended)
            self.operations[kind] = json.loads(log.read_text())
        self.partly = folder / "partly" / "run"
        self.run("auto", self.partly, Fate(watched=self.partly, kill_at=len(self.operations["auto"]) - 20))
        assert list(self.partly.rglob("chains-*.safetensors")), "killed too early"

    def whole(self, kind: str) -> Path:
        """The folder of an undisturbed run."""
        return self.folder / kind.replace(" ", "-") / "run"

    def fresh(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder)) / "run"

    def start(self, kind: str, output: Path, fate: Fate, *, overwrite: bool = False) -> Forked:
        work = functools.partial(estimate, kind, output, overwrite=overwrite)
        return Forked(work, fate, processes=PROCESSES.get(kind, 1))

    def run(self, kind: str, output: Path, fate: Fate | None = None, *, overwrite: bool = False) -> Ended:
        return self.start(kind, output, fate or Fate(watched=output), overwrite=overwrite).end()

    def row(self, trial: str, how: str, detail: str, text: str = "") -> None:
        self.rows[trial, how] += 1
        print(f"{trial:10} {how:28} {detail}", flush=True)
        if how.isupper():
            print(text[-3000:], flush=True)

    def verdict(self, kind: str, output: Path, ended: Ended) -> str:
        if ended.how != "done":
            return ended.how
        hidden = [path.name for path in output.glob(".*")]
        if numbers(output) != numbers(self.whole(kind)):
            return "SILENTLY OTHER"
        return f"LEFT {hidden}".upper() if hidden else "bit-equal"

    def again(self, kind: str, output: Path) -> tuple[str, str]:
        """How the same command ends; if it is refused, then with --overwrite."""
        ended = self.run(kind, output)
        how = self.verdict(kind, output, ended)
        if how != "refused":
            return how, ended.text
        forced = self.run(kind, output, overwrite=True)
        how = self.verdict(kind, output, forced)
        return f"refused, then {how}" if how == "bit-equal" else how, ended.text + forced.text

    def kill(self, number: int) -> None:
        """SIGKILL before an operation on the folder; then the same command again, without --overwrite."""
        kind, output = list(KINDS)[number % len(KINDS)], self.fresh()
        output.parent.mkdir(exist_ok=True)
        overwrite, at, rank = number % 3 == 0, 0, 0
        if overwrite:  # over the unfinished or the finished run of other settings
            other = "calibrate" if kind == "curve" else "chains" if kind == "minimize" else "minimize"
            shutil.copytree(self.partly if number % 2 else self.whole(other), output)
            at = self.random.randint(1, 30)
        else:  # every kind of operation has its turn
            names = self.operations[kind]
            name = list(dict.fromkeys(names))[(number // len(KINDS) * 7) % len(set(names))]
            at = self.random.choice([place for place, each in enumerate(names, start=1) if each == name])
            rank = number % 2 if kind == "two ranks" else 0
        fate = Fate(watched=output, kill_at=max(at // (1 + rank), 1), rank=rank)
        if number % 10 == 9:
            fate = Fate(watched=output, seconds=self.random.uniform(0.3, 2.5))
        first = self.run(kind, output, fate, overwrite=overwrite)
        how, text = self.again(kind, output)
        where = f"operation {fate.kill_at} of rank {rank}" if fate.kill_at else f"after {fate.seconds:.1f} s"
        self.row("kill", how, f"{kind}, {where}{', --overwrite' if overwrite else ''}: {first.how}", text)

    def mutate(self, number: int) -> None:
        """A byte, a length, a name or a copy is changed in a folder; then the same command again."""
        kind = ("auto", "minimize", "auto", "curve", "auto", "calibrate")[number % 6]
        output = self.fresh()
        shutil.copytree(self.partly if kind == "auto" else self.whole(kind), output)
        detail = self.change(output)
        how, text = self.again(kind, output)
        self.row("mutation", how, f"{kind}: {detail}", text)

    def change(self, folder: Path, name: str = "*") -> str:
        """Change one file of a folder; returns which and how."""
        files = sorted(path for path in folder.rglob(name) if path.is_file() and path.name != "lock")
        path, other = self.random.choice(files), self.random.choice(files)
        what = self.random.choice(["flip", "cut", "empty", "copy", "remove", "zeros", "grow", "folder", "edit"])
        data = path.read_bytes()
        at = self.random.randrange(max(len(data), 1))
        changed = {
            "flip": data[:at] + bytes([data[at] ^ 1 << self.random.randrange(8)]) + data[at + 1 :] if data else b"x",
            "cut": data[: len(data) // 2],
            "empty": b"",
            "copy": other.read_bytes(),
            "zeros": bytes(len(data)),
            "grow": data + b"x",
            "edit": edited(data, self.random),
        }
        path.unlink()
        if what == "folder":
            path.mkdir()
        elif what != "remove":
            path.write_bytes(changed[what])
        return f"{what} {path.relative_to(folder)}"

    def read(self, number: int) -> None:
        """A finished folder is changed, then shown, published, or both after its seal was taken off."""
        kind = ("chains", "minimize", "γ checks", "curve")[number % 4]
        output = self.fresh()
        shutil.copytree(self.whole(kind), output)
        point = output / "step10" if kind == "curve" else output
        detail = self.change(output, "*" if number % 2 else "result.json")
        for how, said in self.readings(output, point, self.whole(kind) / point.relative_to(output)):
            self.row("read", how, f"{kind}: {detail}", said)

    def readings(self, output: Path, point: Path, whole: Path) -> list[tuple[str, str]]:
        found = []
        for name, work in (("show", show), ("publish", publish)):
            true = Forked(lambda work=work: work(whole, output / "card0"), Fate(watched=output)).end()
            ended = Forked(lambda work=work: work(point, output / "card1"), Fate(watched=output)).end()
            same = ended.text == true.text and contents(output / "card0") == contents(output / "card1")
            how = ended.how if ended.how != "done" else "as it was" if same else "SILENTLY OTHER"
            found.append((f"{name.upper()} {how}" if how.isupper() else f"{name}: {how}", ended.text))
            for card in ("card0", "card1"):
                shutil.rmtree(output / card, ignore_errors=True)
        return found

    def race(self, number: int) -> None:
        """Two runs at once; each ends with its own numbers or in one line."""
        output = self.fresh()
        kinds = (ESTIMATES[0], ESTIMATES[number % len(ESTIMATES)])
        forced = (False, number % 3 == 0)
        runs = [
            self.start(kind, output, Fate(watched=output), overwrite=how)
            for kind, how in zip(kinds, forced, strict=True)
        ]
        ends = [run.end() for run in runs]
        finished = [kind for kind, ended in zip(kinds, ends, strict=True) if ended.how == "done"]
        is_true = all(ended.how in ("done", "refused") for ended in ends) and (
            not finished or numbers(output) in [numbers(self.whole(kind)) for kind in finished]
        )
        detail = ", ".join(f"{kind}: {ended.how}" for kind, ended in zip(kinds, ends, strict=True))
        self.row("race", "sound" if is_true else "SILENTLY OTHER", detail, "".join(ended.text for ended in ends))

    def full_disk(self, number: int) -> None:
        """The disk has room for a part of the run; then there is room again."""
        kind = list(KINDS)[number % len(KINDS)]
        with small_disk(4096 * self.random.randint(6, 40)) as disk:
            first = self.run(kind, disk / "run")
            output = self.fresh()
            output.parent.mkdir(exist_ok=True)
            if (disk / "run").exists():
                shutil.copytree(disk / "run", output)
        how, text = self.again(kind, output)
        how = "TRACEBACK" if first.how == "TRACEBACK" else how
        self.row("full disk", how, f"{kind}: {first.how}", first.text + text)

    def memory(self, number: int) -> None:
        """Memory is short; then there is enough."""
        kind, output = ESTIMATES[number % len(ESTIMATES)], self.fresh()
        fate = Fate(watched=output, memory=2**20 * self.random.randint(1, 60))
        first = self.run(kind, output, fate)
        how, text = self.again(kind, output)
        how = "TRACEBACK" if first.how == "TRACEBACK" else how
        self.row("memory", how, f"{kind}, {fate.memory >> 20} MiB more: {first.how}", first.text + text)


def edited(data: bytes, chance: random.Random) -> bytes:
    """JSON with one value of another kind, or without a key; other bytes with some in another order."""
    try:
        values = json.loads(data)
        key = chance.choice([key for key in values if key != "seal"])
    except (ValueError, IndexError, TypeError):
        middle = len(data) // 2
        return data[middle:] + data[:middle]
    if chance.random() < 0.3:
        del values[key]
    else:
        values[key] = chance.choice([None, "x", -1, 1e300, [], {}, [[1]], {"a": {"b": 3}}, True, 10**30])
    if chance.random() < 0.5:
        values.pop("seal", None)
    return json.dumps(values).encode()


def show(folder: Path, _: Path) -> int:
    """`hf-llc show`, as a table and as JSON."""
    return max(command_line(["show", str(folder)]), command_line(["show", "--json", str(folder)]))


def publish(folder: Path, card: Path) -> int:
    """`hf-llc publish` to a local card."""
    card.mkdir()
    with contextlib.redirect_stdout(io.StringIO()):
        return command_line(["publish", str(folder), "--card", str(card), "--allow-untrusted"])


def contents(folder: Path) -> dict[str, bytes]:
    """What a folder holds."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def main() -> int:
    """All trials; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    trials: dict[str, tuple[int, Callable[[Torture, int], None]]] = {
        "mutations": (60, Torture.mutate),
        "read": (60, Torture.read),
        "kills": (60, Torture.kill),
        "races": (10, Torture.race),
        "disks": (10, Torture.full_disk),
        "memory": (6, Torture.memory),
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
    return int(any(how.isupper() for _, how in torture.rows))


if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    sys.exit(main())
