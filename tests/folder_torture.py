"""Runs are killed, raced, starved and lied to; each must end bit-equal to an undisturbed run, or in one line.

python tests/folder_torture.py [--kills 60] [--mutations 60] [--races 10] [--disks 10] [--seed 0]

Prints a row for each trial and a table in the end; the exit code is 1 if anything was silent or a traceback. Each trial
is a few runs of tests/worker.py, some seconds each. Not part of the suite: tests/test_run_folder.py has one of each.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from launch import ROOT, environment, torchrun

SMALL = {"num_draws": 120, "num_burnin_steps": 80, "save_seconds": 0.0, "chain_batch_size": 1}
KINDS: dict[str, dict[str, Any]] = {
    "chains": SMALL,
    "minimize": {**SMALL, "minimize": True, "minimize_steps": 120},
    "γ checks": {**SMALL, "check_localization": True, "num_draws": 400, "localization": 20.0},
    "auto": {**SMALL, "step_size": "auto", "num_burnin_steps": "auto", "max_steps": 800},
}
_HOOK = """
import os, signal, sys, json
sys.path.insert(0, {tests!r})
import hf_llc.files as files
count, error, replace = int(os.environ.get("KILL_AT", -1)), int(os.environ.get("ERROR_AT", -1)), os.replace
done = 0
def counted(*arguments):
    global done
    done += 1
    if done == count and os.environ.get("WHEN") == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    if error >= 0 and done >= error:
        raise OSError(28, "No space left on device")
    replace(*arguments)
    if done == count:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = counted
memory = int(os.environ.get("MEMORY", 0))
import hf_llc, worker
from hf_llc.errors import InputError
if memory:
    import resource
    now = int(open("/proc/self/statm").read().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (now + memory, now + memory))
settings = json.loads(sys.argv[2])
how = settings.pop("how", {{}})
compute = hf_llc.LLCEvaluator.compute
hf_llc.LLCEvaluator.compute = lambda *a, **k: compute(*a, **k, **how)
try:
    worker.run(sys.argv[1], settings)
except InputError as error:
    print("refused:", error, file=sys.stderr)
    sys.exit(2)
except (OSError, MemoryError) as error:
    from hf_llc.cli.entry_point import _foreseen
    line = _foreseen(error, None)
    print("foreseen:" if line else "Traceback", line or error, file=sys.stderr)
    sys.exit(1)
"""


def launch(output: Path, settings: dict[str, Any], *, processes: int = 1, **extra: object) -> subprocess.Popen[str]:
    """Start a run of its own session."""
    hook = output.parent / "hook.py"
    hook.write_text(_HOOK.format(tests=str(ROOT / "tests")), encoding="utf-8")
    program = [sys.executable] if processes == 1 else torchrun(processes)
    return subprocess.Popen(
        [*program, str(hook), str(output), json.dumps(settings)],
        env={**environment(), **{name: str(value) for name, value in extra.items()}},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str]) -> str:
    """How a run ended: "done", "killed", "refused", "foreseen" or "TRACEBACK"."""
    _, err = process.communicate(timeout=300)
    if process.returncode == 0:
        return "done"
    for word in ("refused:", "foreseen:"):
        if word in err:
            return word[:-1]
    return "killed" if process.returncode == -signal.SIGKILL or "Signal 9" in err else "TRACEBACK"


def llc_of(folder: Path) -> Any:
    """λ̂ of every chain, as it is on disk."""
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))["llc_per_chain"]


class Torture:
    """All trials, in a folder of their own."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.rows: collections.Counter[tuple[str, str]] = collections.Counter()
        self.whole: dict[str, Any] = {}
        for name, settings in KINDS.items():
            assert ended(launch(folder / name, settings)) == "done", name
            self.whole[name] = llc_of(folder / name)
        self.partly = folder / "partly"
        ended(launch(self.partly, KINDS["auto"], KILL_AT=12))

    def fresh(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder)) / "run"

    def row(self, trial: str, how: str, detail: str = "") -> None:
        self.rows[trial, how] += 1
        print(f"{trial:12} {how:12} {detail}", flush=True)

    def verdict(self, output: Path, kind: str, how: str) -> str:
        if how != "done":
            return how
        return "bit-equal" if llc_of(output) == self.whole[kind] else "SILENTLY OTHER"

    def kill(self, number: int) -> None:
        """SIGKILL at a write of a file, before or after it comes to be; then the same command again."""
        kind = list(KINDS)[number % len(KINDS)]
        output, processes, how = self.fresh(), (1, 1, 2)[number // 4 % 3], {}
        settings = KINDS[kind] | ({"data_parallel": 2} if number % 8 == 5 and processes == 2 else {})
        if number % 3 == 0:  # inside overwrite, over another run
            shutil.copytree(self.partly if number % 2 else self.folder / "minimize", output)
            how = {"how": {"overwrite": True}}
        at, when = self.random.randint(1, 14), self.random.choice(["before", "after"])
        first = ended(launch(output, settings | how, processes=processes, KILL_AT=at, WHEN=when))
        again = ended(launch(output, settings, processes=processes))
        if again == "refused" and how:
            again = ended(launch(output, settings | how, processes=processes))
        detail = f"{kind}, write {at} {when}, {processes} process(es){', overwrite' if how else ''}: {first}"
        self.row("kill", self.verdict(output, kind, again), detail)

    def mutate(self, number: int) -> None:
        """A byte, a length, a name or a copy is changed in a folder; then the same command again."""
        kind, source = ("auto", self.partly) if number % 2 else ("minimize", self.folder / "minimize")
        output = self.fresh()
        shutil.copytree(source, output)
        files = sorted(path for path in output.rglob("*") if path.is_file() and path.name != "lock")
        path, other = self.random.choice(files), self.random.choice(files)
        what = self.random.choice(["flip", "cut", "empty", "copy", "remove", "zeros", "grow"])
        data = path.read_bytes()
        if what == "flip":
            at = self.random.randrange(len(data))
            data = data[:at] + bytes([data[at] ^ 1 << self.random.randrange(8)]) + data[at + 1 :]
        changed = {
            "cut": data[: len(data) // 2],
            "empty": b"",
            "copy": other.read_bytes(),
            "zeros": bytes(len(data)),
            "grow": data + b"x",
        }
        path.unlink() if what == "remove" else path.write_bytes(changed.get(what, data))
        how = ended(launch(output, KINDS[kind]))
        self.row("mutation", self.verdict(output, kind, how), f"{what} {path.relative_to(output)}")

    def race(self, number: int) -> None:
        """Two runs at once; each ends with its own numbers or in one line."""
        output = self.fresh()
        kinds = ("chains", list(KINDS)[number % len(KINDS)])
        hows = [{}, {"overwrite": True}] if number % 3 == 0 else [{}, {}]
        runs = []
        for kind, how in zip(kinds, hows, strict=True):
            runs.append((kind, launch(output, KINDS[kind] | {"how": how})))
        ends = [(kind, ended(process)) for kind, process in runs]
        finished = [kind for kind, how in ends if how == "done"]
        is_true = all(how in ("done", "refused") for _, how in ends) and (
            not finished or llc_of(output) in [self.whole[kind] for kind in finished]
        )
        self.row("race", "sound" if is_true else "SILENTLY OTHER", str(ends))

    def starve(self, number: int) -> None:
        """The disk is full from some write on; then there is room again. Every fourth time memory is short instead."""
        kind = list(KINDS)[number % len(KINDS)]
        output = self.fresh()
        extra = {"MEMORY": 2**20 * self.random.randint(1, 30)} if number % 4 == 3 else {"ERROR_AT": 1 + number}
        first = ended(launch(output, KINDS[kind], **extra))
        again = ended(launch(output, KINDS[kind]))
        how = "TRACEBACK" if first == "TRACEBACK" else self.verdict(output, kind, again)
        self.row("starved", how, f"{kind}, {extra}: {first}")


def main() -> int:
    """All trials; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, count in (("kills", 60), ("mutations", 60), ("races", 10), ("disks", 10), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=count)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        torture = Torture(Path(folder), args.seed)
        for count, trial in (
            (args.mutations, torture.mutate),
            (args.kills, torture.kill),
            (args.races, torture.race),
            (args.disks, torture.starve),
        ):
            for number in range(count):
                trial(number)
    print()
    for (trial, how), count in sorted(torture.rows.items()):
        print(f"{trial:12} {how:16} {count}")
    return int(any(how.isupper() for _, how in torture.rows))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
