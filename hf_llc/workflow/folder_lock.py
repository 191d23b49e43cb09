"""One run at a time in a folder."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from hf_llc.errors import FolderError

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are not kept apart (README says so)
    fcntl = None

PRIVATE = ".hf_llc"
"""Folder of what is ours alone inside a run's folder."""


_NOT_OURS = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
"""A file or a link where our folder should be, a folder or a link where our file should be."""


class FolderLock:
    """A lock on a folder. The system lets it go when the process ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / PRIVATE / "lock"
        self._file: int | None = None
        self._made: list[Path] = []

    def acquire(self) -> None:
        """Take the lock, at once or not at all.

        Raises:
            FolderError: another run holds it.
        """
        if fcntl is None:
            return
        parents = [self.path.parent, *self.path.parent.parents]
        self._made = [path for path in parents if not path.exists()]
        while self._file is None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            except FileNotFoundError:  # the run before has just removed the folder
                continue
            except OSError as error:
                if error.errno not in _NOT_OURS:
                    raise
                what = f"the output folder holds a {PRIVATE} that hf_llc did not make"
                raise FolderError(what, value=str(self.folder), remedy="use another folder") from error
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(file)
                raise FolderError(
                    "another run is at work in the output folder",
                    value=str(self.folder),
                    remedy="wait for it to end, or use another folder",
                ) from error
            except OSError:  # a file system without locks
                self._file = file
                self.release()
                return
            if self._is_there(file):
                self._file = file
            else:
                os.close(file)  # the run before removed it after we had opened it

    def _is_there(self, file: int) -> bool:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return os.stat(self.path).st_ino == os.fstat(file).st_ino
        return False

    def release(self) -> None:
        """Let the lock go, and remove its file and the empty folders that were made for it."""
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            if self._is_there(file):  # or it is another run's by now
                self.path.unlink(missing_ok=True)
            for path in dict.fromkeys([self.path.parent, *self._made]):
                with contextlib.suppress(OSError):  # not empty
                    path.rmdir()
        finally:
            os.close(file)
