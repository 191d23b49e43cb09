"""The folder of a run: what it was asked to do, how far it got, and whether it may go on.

`run.json` says what was asked and has a random id. `.hf_llc/<id>/` holds the unfinished work of that id alone; every
file in it is sealed (`hf_llc.seals`). `result.json` carries the id, and comes last. So a kill between any two writes
leaves a folder in which nothing of one run can be taken for another's. `run.json` also says when the files that end the
run are about to be written: any that lies there before is not this run's, and is not overwritten.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hf_llc.errors import FolderError, InputError
from hf_llc.our_files import foreign, is_ours, our_names, refuse_others
from hf_llc.publishing.result_folder import FILES
from hf_llc.seals import RUN_FILE, SEAL, broken, load_tensors, load_value, save_value
from hf_llc.workflow.folder_lock import PRIVATE, FolderLock
from hf_llc.workflow.identity import changed_settings
from hf_llc.workflow.run_record import (
    ID,
    OVERWRITE,
    is_without_schema,
    json_object,
    names_of,
    new_record,
    read_record,
    without_free,
    write_record,
)

T = TypeVar("T")

_OTHER = "use another folder"


class RunFolder:
    """`run.json` says what was asked; `.hf_llc/` holds unfinished work; the last of `files` ends it.

    Args:
        folder: of the run.
        files: names of the files that the run ends with, the last one last.
    """

    def __init__(self, folder: str | Path, *, files: Sequence[str] = FILES) -> None:
        if not isinstance(folder, (str, os.PathLike)) or not str(folder).strip():
            raise InputError("output is not a folder", value=folder, allowed="a path", remedy="is a variable unset?")
        self.folder, self.files = Path(folder), files
        self.id = secrets.token_hex(8)
        self.seal = self.id
        self._begun: dict[str, Any] = {}
        self._lock = FolderLock(self.folder)

    @property
    def state(self) -> Path:
        """The folder of unfinished work of this run."""
        return self.folder / PRIVATE / self.id

    @property
    def is_finished(self) -> bool:
        """A result is there (whether it is this run's is checked when it is read)."""
        record = read_record(self.folder)
        return (self.folder / self.files[-1]).exists() and (record is None or self._may_hold(record))

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
            FolderError: run.json is damaged, of an older version, or not ours; or a file of our names is not its run's.
        """
        self.refuse_foreign_files()
        record = read_record(self.folder)
        if record is None:
            return None
        if record.get("clearing"):
            refuse_others(self.folder, self.files)
        elif (self.folder / PRIVATE / record["id"]).exists() or not self._may_hold(record):
            self._refuse_additions(record)
        return record["asked"]

    def check(self, asked: dict[str, Any], *, resume: bool | None, overwrite: bool) -> None:
        """May the run described by `asked` begin or go on here? Nothing is written.

        Raises:
            FolderError: another run is there, or files that no run wrote, or nothing is and `resume` demands it, or a
                saved state of the run that would go on is damaged.
        """
        self.refuse_foreign_files()
        if overwrite:
            return
        old = self.recorded()
        if old is not None:
            asked = json.loads(json.dumps(asked))
            if not self.is_finished:  # a run whose time was up goes on with more
                old, asked = map(without_free, (old, asked))
            changed = changed_settings(old, asked)
            if changed or resume is False:
                more = f"; and {len(changed) - 3} more" if len(changed) > 3 else ""
                what = f"another run ({'; '.join(changed[:3])}{more})" if changed else "this run already"
                if changed and not changed_settings(*map(without_free, (old, asked))):
                    what = f"this run, which has ended ({'; '.join(changed)}): its chains are gone"
                raise FolderError(f"the output folder holds {what}", value=str(self.folder), remedy=OVERWRITE)
            self._check_states()
        elif resume:
            raise FolderError("nothing to resume there", value=str(self.folder), remedy="drop resume")
        elif any((self.folder / name).exists() for name in self.files):
            raise FolderError("the output folder holds a result", value=str(self.folder), remedy=OVERWRITE)

    def begin(self, asked: dict[str, Any], *, overwrite: bool) -> tuple[str, str]:
        """Say what is being done here, or go on with what was begun; returns the run's id and seal for `join`.

        First run.json gets the new id: from then on nothing that lies here is taken for this run's. Then the old files
        go. A kill in between is known by `clearing`, and the next run goes on with that.

        Raises:
            FolderError: a file of our names was put there meanwhile.
        """
        old = None if overwrite else read_record(self.folder)
        if old is not None and not old.get("clearing"):
            self._refuse_additions(old)
        else:
            record = new_record(self.id, asked)
            write_record(self.folder, record, clearing=True)
            for path in map(self.folder.joinpath, our_names()):
                if path.is_file() and (path.name in self.files or is_ours(path)):
                    path.unlink()
            self.sweep()
            write_record(self.folder, record)
            old = record
        self._begun = old
        self.join(*names_of(old))
        self.sweep()
        return self.id, self.seal

    @property
    def has_nothing(self) -> bool:
        """No run has begun here."""
        return not os.path.lexists(self.folder / RUN_FILE)

    def retract(self) -> None:
        """Take back `begin` in a folder that had nothing: the run is refused."""
        self.close()
        (self.folder / RUN_FILE).unlink(missing_ok=True)

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
        """Keep what a stage found for a resumed run, in place of what it had found so far; returns it."""
        save_value(self.state / f"{name}.json", value, seal=self.seal)
        if value is not None:
            shutil.rmtree(self.state / name, ignore_errors=True)
        return value

    def finish(self, write: Callable[[], T]) -> T:
        """Let `write` write the files that end the run, if the folder is still this run's; returns what that returns.

        The main process's alone. Unfinished work stays where it is.

        Raises:
            FolderError: the folder is another run's by now, or a file of our names was put there meanwhile.
        """
        record = read_record(self.folder) or self._begun  # a run whose folder was removed ends as any other
        if record["id"] != self.id:
            raise FolderError("the folder is that of another run", value=str(self.folder), remedy=_OTHER)
        self._refuse_additions(record)
        if not record.get("ending"):
            write_record(self.folder, record, ending=True)
        return write()

    def close(self) -> None:
        """Remove unfinished work: the result is on disk."""
        shutil.rmtree(self.state, ignore_errors=True)

    def refuse_foreign_files(self) -> None:
        """Refuse a folder with files of our names that no run of ours wrote: they are not ours to overwrite.

        A file's contents say whose it is. Those of a damaged file do not; it is ours if a run of ours got as far as
        that file: began, for run.json; ended, for the others.

        Raises:
            FolderError: there is one.
        """
        record, end = self.folder / RUN_FILE, self.folder / self.files[-1]
        began, may_end = self._has_begun()
        ended = is_ours(end) or (may_end and end.is_file())
        known = {RUN_FILE: began or ended}
        known |= {name: ended or may_end or is_ours(self.folder / name) for name in self.files}
        for path in (record, *map(self.folder.joinpath, self.files)):
            if os.path.lexists(path) and not (path.is_file() and known[path.name]):
                raise foreign(path)

    def _refuse_additions(self, record: dict[str, Any]) -> None:
        """Refuse files of our names that the run of this record, which is about to write them, did not write.

        Raises:
            FolderError: there is one.
        """
        for path in map(self.folder.joinpath, self.files):
            is_own = self._may_hold(record) and is_ours(path) and (path.name != self.files[-1] or self._ends(record))
            if os.path.lexists(path) and not is_own:
                raise foreign(path)

    def _may_hold(self, record: dict[str, Any]) -> bool:
        """Whether the run of this record got as far as the files that end it."""
        return not record.get("clearing") and (bool(record.get("ending")) or self._ends(record))

    def _ends(self, record: dict[str, Any]) -> bool:
        """Whether the last file says that it is this run's."""
        seal = (json_object(self.folder / self.files[-1]) or {}).get(SEAL)
        return isinstance(seal, dict) and seal.get("run") == record.get("id", "")

    def _has_begun(self) -> tuple[bool, bool]:
        """Whether run.json is ours, even if it is damaged; and whether files of its end are, whatever they hold."""
        path = self.folder / RUN_FILE
        if not path.is_file():
            return False, False
        record = json_object(path)
        if record is not None:
            is_old = is_without_schema(record)
            return "hf_llc" in record or is_old, is_old or bool(record.get("clearing")) or self._may_hold(record)
        began = b'"hf_llc"' in path.read_bytes()[:200] or any(self._work())
        return began, began and (self.folder / self.files[-1]).is_file()

    def _work(self) -> Iterator[Path]:
        """The folders of unfinished work of all ids."""
        private = self.folder / PRIVATE
        yield from (path for path in (private.iterdir() if private.is_dir() else ()) if ID.fullmatch(path.name))

    def sweep(self) -> None:
        """Remove what kills left behind: temporary files, and the unfinished work of other ids."""
        places = [self.folder.glob(f".{name}.????????{Path(name).suffix}") for name in (RUN_FILE, *self.files)]
        places += [self.folder.glob(".hf_llc-????????"), self.state.rglob(".*.????????.*")]
        places += [self.state.rglob(".tmp??????")]  # of safetensors
        for path in itertools.chain(*places):
            if not path.is_dir():
                path.unlink(missing_ok=True)
        for path in list(self._work()):
            if path.name != self.id:
                shutil.rmtree(path, ignore_errors=True)

    def _check_states(self) -> None:
        """Read every saved state of the run that began here once, before long work that would end at a damaged one.

        Raises:
            FolderError: one is damaged, or another run's.
        """
        record = read_record(self.folder)
        if record is None or record.get("clearing") or self.is_finished:
            return  # nothing that lies there will be read
        self.join(*names_of(record))
        if os.path.lexists(self.state) and not self.state.is_dir():
            raise broken(self.state)
        for path in sorted(self.state.rglob("*")):
            if path.name.startswith("."):
                continue  # what a kill left half-written
            place = path.parent.relative_to(self.state).as_posix()
            seal = self.seal if place == "." else f"{self.seal}/{place}"
            if path.suffix == ".safetensors":
                load_tensors(path, seal=seal)
            elif path.suffix == ".json":
                load_value(path, seal=seal)
            elif not path.is_dir():  # where a folder of states should be
                raise broken(path)
