"""The folder of a run: what it was asked to do, how far it got, and whether it may go on.

`run.json` says what was asked and has a random id. `.hf_llc/<id>/` holds the unfinished work of that id alone; every
file in it is sealed (`hf_llc.seals`). `result.json` carries the id, and comes last. So a kill between any two writes
leaves a folder in which nothing of one run can be taken for another's.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hf_llc.errors import FolderError, InputError
from hf_llc.files import write_json
from hf_llc.publishing.result_folder import FILES
from hf_llc.seals import RUN_FILE, broken, json_hash, load_tensors, load_value, save_value
from hf_llc.setting_checks import differences
from hf_llc.workflow.folder_lock import PRIVATE, FolderLock
from hf_llc.workflow.identity import LOSSES, losses_agree
from hf_llc.workflow.our_files import is_ours, our_names

SCHEMA = 1
"""Of run.json. It rises when unfinished work of an older version must not be gone on with."""

_ID = re.compile(r"[0-9a-f]{16}")
_OLD_KEYS = {"sampler", "num_chains", "seed"}
"""Among the settings of which run.json consisted before it had a schema."""
_OTHER = "use another folder"
_OVERWRITE = "use another folder, or overwrite"


class RunFolder:
    """`run.json` says what was asked; `.hf_llc/` holds unfinished work; the last of `files` ends it.

    Args:
        folder: of the run.
        files: names of the files that the run ends with, the last one last.
    """

    def __init__(self, folder: str | Path, *, files: Sequence[str] = FILES) -> None:
        if not isinstance(folder, (str, os.PathLike)) or not str(folder).strip():
            raise InputError("output is no folder", value=folder, allowed="a path", remedy="is a variable unset?")
        self.folder, self.files = Path(folder), files
        self.id = secrets.token_hex(8)
        self.seal = self.id
        self._lock = FolderLock(self.folder)

    @property
    def state(self) -> Path:
        """The folder of unfinished work of this run."""
        return self.folder / PRIVATE / self.id

    @property
    def is_finished(self) -> bool:
        """A result is there (whether it is this run's is checked when it is read)."""
        return (self.folder / self.files[-1]).exists() and not (self._record() or {}).get("clearing")

    def lock(self) -> None:
        """Keep every other run out of this folder until `unlock` or the end of the process.

        Raises:
            FolderError: another run is at work here.
        """
        self._lock.acquire()

    def unlock(self) -> None:
        """Let others in; leaves nothing of the lock behind."""
        self._lock.release()

    def recorded(self) -> dict[str, Any] | None:
        """What run.json says was asked of the run that began here; None if none did.

        Raises:
            FolderError: run.json is damaged, of an older version, or not ours.
        """
        self.refuse_foreign_files()
        record = self._record()
        return None if record is None else record["asked"]

    def check(self, asked: dict[str, Any], *, resume: bool | None, overwrite: bool) -> None:
        """May the run described by `asked` begin or go on here? Nothing is written.

        Raises:
            FolderError: another run is there, or files that no run wrote, or nothing is and `resume` demands it.
        """
        self.refuse_foreign_files()
        if overwrite:
            return
        old = self.recorded()
        if old is not None:
            changed = _changed(old, json.loads(json.dumps(asked)))
            if changed or resume is False:
                more = f"; and {len(changed) - 3} more" if len(changed) > 3 else ""
                what = f"another run ({'; '.join(changed[:3])}{more})" if changed else "this run already"
                raise FolderError(f"the output folder holds {what}", value=str(self.folder), remedy=_OVERWRITE)
        elif resume:
            raise FolderError("nothing to resume there", value=str(self.folder), remedy="drop resume")
        elif any((self.folder / name).exists() for name in self.files):
            raise FolderError("the output folder holds a result", value=str(self.folder), remedy=_OVERWRITE)

    def begin(self, asked: dict[str, Any], *, overwrite: bool) -> tuple[str, str]:
        """Say what is being done here, or go on with what was begun; returns the run's id and seal for `join`.

        First run.json gets the new id: from then on nothing that lies here is taken for this run's. Then the old files
        go. A kill in between is known by `clearing`, and the next run goes on with that.

        Raises:
            FolderError: a saved state is damaged.
        """
        old = None if overwrite else self._record()
        if old is None or old.get("clearing"):
            record = {"hf_llc": SCHEMA, "id": self.id, "asked": json.loads(json.dumps(asked))}
            record["digest"] = json_hash(record)
            write_json(self.folder / RUN_FILE, record | {"clearing": True})
            for path in map(self.folder.joinpath, our_names()):
                if path.is_file() and (path.name in self.files or is_ours(path)):
                    path.unlink()
            self.sweep()
            write_json(self.folder / RUN_FILE, record)
            old = record
        self.join(old["id"], f"{old['id']}-{old['digest'][:16]}")
        self.sweep()
        self._check_states()
        return self.id, self.seal

    def join(self, run: str, seal: str) -> None:
        """Take the id and the seal that the main process's `begin` returned."""
        self.id, self.seal = run, seal

    def decided(self, name: str) -> Any:
        """What an earlier stage found (a step size, say), or None.

        Raises:
            FolderError: the file is damaged.
        """
        path = self.state / f"{name}.json"
        return load_value(path, seal=self.seal) if path.exists() else None

    def decide(self, name: str, value: Any) -> Any:
        """Keep what a stage found for a resumed run; returns it."""
        save_value(self.state / f"{name}.json", value, seal=self.seal)
        return value

    def close(self) -> None:
        """Remove unfinished work: the result is on disk."""
        shutil.rmtree(self.state, ignore_errors=True)

    def _record(self) -> dict[str, Any] | None:
        """run.json; None if there is none.

        Raises:
            FolderError: it is damaged, of an older version, or not ours.
        """
        path = self.folder / RUN_FILE
        if not os.path.lexists(path):
            return None
        record = _parsed(path)
        if record is None:
            raise FolderError("the run's record is damaged", value=str(path), remedy="use overwrite")
        is_old = "hf_llc" not in record and record.keys() >= _OLD_KEYS
        if is_old or record.get("hf_llc", SCHEMA) != SCHEMA:
            what = "the output folder holds another run, of another version of hf_llc"
            raise FolderError(what, value=str(self.folder), remedy=_OVERWRITE)
        said = {name: value for name, value in record.items() if name not in ("digest", "clearing")}
        if record.get("digest") != json_hash(said) or not _ID.fullmatch(str(record.get("id"))):
            raise FolderError("the run's record is damaged", value=str(path), remedy="use overwrite")
        return record

    def refuse_foreign_files(self) -> None:
        """Refuse a folder with files of our names that no run of ours wrote: they are not ours to overwrite.

        A file's contents say whose it is. Those of a damaged file do not; it is ours if a run of ours got as far as
        that file: began, for run.json; ended, for the others.

        Raises:
            FolderError: there is one.
        """
        record, end = self.folder / RUN_FILE, self.folder / self.files[-1]
        began, is_clearing = self._has_begun()
        ended = is_ours(end) or (began and end.is_file())
        known = {RUN_FILE: began or ended}
        known |= {name: ended or is_clearing or is_ours(self.folder / name) for name in self.files}
        for path in (record, *map(self.folder.joinpath, self.files)):
            if os.path.lexists(path) and not (path.is_file() and known[path.name]):
                raise FolderError(
                    f"the output folder holds another run's or program's {path.name}, which hf_llc did not write",
                    value=str(self.folder),
                    remedy=_OTHER,
                )

    def _has_begun(self) -> tuple[bool, bool]:
        """Whether run.json is ours, even if it is damaged; and whether it says that a run was clearing the folder."""
        path = self.folder / RUN_FILE
        if not path.is_file():
            return False, False
        record = _parsed(path)
        if record is not None:
            return "hf_llc" in record or record.keys() >= _OLD_KEYS, bool(record.get("clearing"))
        return _is_marked(path) or any(self._work()), False

    def _work(self) -> Iterator[Path]:
        """The folders of unfinished work of all ids."""
        private = self.folder / PRIVATE
        yield from (path for path in (private.iterdir() if private.is_dir() else ()) if _ID.fullmatch(path.name))

    def sweep(self) -> None:
        """Remove what kills left behind: temporary files, and the unfinished work of other ids."""
        places = [self.folder.glob(f".{name}.????????{Path(name).suffix}") for name in (RUN_FILE, *self.files)]
        places += [self.folder.glob(".hf_llc-????????"), self.state.rglob(".*.????????.*")]
        for path in itertools.chain(*places):
            if not path.is_dir():
                path.unlink(missing_ok=True)
        for path in list(self._work()):
            if path.name != self.id:
                shutil.rmtree(path, ignore_errors=True)

    def _check_states(self) -> None:
        """Read every saved state once, before long work that would end at a damaged one.

        Raises:
            FolderError: one is damaged, or another run's.
        """
        if os.path.lexists(self.state) and not self.state.is_dir():
            raise broken(self.state)
        for path in sorted(self.state.rglob("*")):
            place = path.parent.relative_to(self.state).as_posix()
            seal = self.seal if place == "." else f"{self.seal}/{place}"
            if path.suffix == ".safetensors":
                load_tensors(path, seal=seal)
            elif path.suffix == ".json":
                load_value(path, seal=seal)
            elif not path.is_dir() and not path.name.startswith("."):  # where a folder of states should be
                raise broken(path)


def _parsed(path: Path) -> dict[str, Any] | None:
    """A JSON object; None if the file holds none."""
    with contextlib.suppress(ValueError, RecursionError, OSError):
        value = json.loads(path.read_text(encoding="utf-8"))
        return value if isinstance(value, dict) else None
    return None


def _is_marked(path: Path) -> bool:
    """Whether a damaged run.json was ours."""
    return b'"hf_llc"' in path.read_bytes()[:200]


def _changed(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Settings that differ, as `differences` words them; ℓ_i that agree up to rounding do not."""
    if losses_agree(old.get(LOSSES, []), new.get(LOSSES, [])):
        return differences({**old, LOSSES: None}, {**new, LOSSES: None})
    changed = differences({**old, LOSSES: None}, {**new, LOSSES: None})
    return [*changed, "the model or loss_fn: other losses at the same weights"]
