"""Reads files, and writes them whole or not at all, with errors that people can act on."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import stat
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

TO_READ = "check its name and its permissions"
"""The remedy for a file that cannot be read."""
_TO_WRITE = "choose another --out"
_TO_MAKE_ROOM = "free some space and run again"
_LONGEST_NAME = 255
"""The most bytes that file systems allow in a file's name."""
_LOCK_FILE = ".cdmaa.lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_STAGED = re.compile(r"\..+-[0-9a-f]{16}\.part", re.DOTALL)
"""The names of the files that ``stage`` writes."""
_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.ENOENT: "there is no such file or folder",
    errno.ENOTDIR: "a part of its path is a file, not a folder",
    errno.EISDIR: "it is a folder",
    errno.ENAMETOOLONG: "its name is too long",
    errno.ELOOP: "it is a link that leads back to itself",
}

LOCK = threading.RLock()
"""Held while files are created or removed, so that its holder may safely end the process."""
_UNFINISHED: set[Path] = set()


class FileError(Exception):
    """A file cannot be read or written: the file, what is wrong, and what to do about it."""

    def __init__(self, path: str | os.PathLike[str], what: str, remedy: str):
        super().__init__(f"{os.fspath(path)}: {what}; {remedy}")
        self.path, self.what, self.remedy = Path(path), what, remedy

    @property
    def without_folder(self) -> str:
        """The message without the file's folder, which a report that is passed on need not tell."""
        return f"{self.path.name}: {self.what}; {self.remedy}"


@dataclass(frozen=True)
class Staged:
    """A complete file that waits beside its final path."""

    temporary: Path
    path: Path


def read_bytes(path: Path, most: int = -1) -> bytes:
    """The content of a file, or its first ``most`` bytes.

    Raises:
      FileError: it cannot be read.
    """
    with translated(path, TO_READ), path.open("rb") as file:
        return file.read(most)


def refuse_pipes(path: Path, remedy: str = "copy what it gives to a file") -> None:
    """Checks that a path does not lead to a pipe or a device, whose reading may never end.

    Raises:
      FileError: it is, or it cannot be looked at.
    """
    with translated(path, TO_READ):
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise FileError(path, "it is a pipe or a device, not a file", remedy)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits.

    Raises:
      FileError: the file cannot be read.
    """
    refuse_pipes(path)
    with translated(path, TO_READ), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_place(path: Path, remedy: str = _TO_WRITE) -> None:
    """Checks, before long work, that ``write_whole`` can write a file that a user has named.

    Raises:
      FileError: its folder is missing or cannot be written into, or what is there is no file, or a
        link, which would be replaced.
    """
    with translated(path, remedy):
        if not path.parent.is_dir():
            raise FileError(path, f"there is no folder {path.parent}", f"make it, or {remedy}")
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "")
        _check_name(path, remedy)
        if path.is_symlink():
            raise FileError(path, "it is a link", "name the file that it leads to")
        with tempfile.TemporaryFile(dir=path.parent):
            pass


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all; replaces a file or a link that is there.

    Raises:
      FileError: the folder is missing or not writable, the disk is full, or a pipe or a device is
        there.
    """
    write_together({path: data})


def write_together(files: Mapping[Path, bytes]) -> None:
    """Writes files whole, and only if all of them can be; moves them into place in order.

    Raises:
      FileError: as ``write_whole``.
    """
    staged: list[Staged] = []
    try:
        for path, data in files.items():
            staged.append(stage(path, data))
    except BaseException:
        discard(staged)
        raise
    commit(staged)


def make_folder(path: Path, mode: int = 0o777) -> None:
    """Creates a folder to write into, with its parents; one that is there keeps its permissions.

    Args:
      path: of the folder.
      mode: its permissions, less those that the process's mask takes away.

    Raises:
      FileError: it cannot be made, is a file, or cannot be written into.
    """
    with translated(path, _TO_WRITE):
        if path.exists() and not path.is_dir():
            raise FileError(path, "it is a file, not a folder", _TO_WRITE)
        if path.is_symlink() and not path.exists():
            raise FileError(path, "it is a link that leads nowhere", _TO_WRITE)
        path.mkdir(mode, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Keeps other processes that also lock a folder from writing into it meanwhile.

    Removes what killed ones left in it. If the file system does not support locks, nothing is
    locked and nothing removed. Yields whether the folder is locked.

    Raises:
      FileError: another has it, it is another user's, or a link or a folder is in its place.
    """
    path = folder / _LOCK_FILE
    if path.is_symlink() or path.is_dir():
        kind = "link" if path.is_symlink() else "folder"
        raise FileError(path, f"it is a {kind}, not the lock of a run", "remove it and run again")
    lock = FileLock(path, blocking=False)
    with translated(folder, _TO_WRITE):
        try:
            lock.acquire()
            while not path.exists():  # another process removed it before we locked it
                lock.release()
                lock.acquire()
            _UNFINISHED.add(path)
        except Timeout:
            what = "another run is writing into this folder"
            raise FileError(folder, what, "wait for it, or choose another --out") from None
        except PermissionError as error:
            if not path.exists():
                raise
            what = "it is the lock of another user's run"
            remedy = "wait for that, or choose another --out; remove the lock if the run was killed"
            raise FileError(path, what, remedy) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            path.unlink(missing_ok=True)
    try:
        if lock.is_locked:
            remove_leftovers(folder)
        yield lock.is_locked
    finally:
        if lock.is_locked:
            discard([Staged(path, path)])
            lock.release()


def remove_leftovers(folder: Path) -> None:
    """Removes the staged files of processes that were killed, if there are any.

    Only for the holder of the lock: those of a process that still runs look the same.
    """
    with LOCK, suppress(OSError):  # there may be no such folder
        ours = {path.name for path in _UNFINISHED}
        for name in os.listdir(folder):
            if _STAGED.fullmatch(name) and name not in ours:
                with suppress(OSError):
                    (folder / name).unlink()


def real_path(path: Path) -> Path:
    """A path with all links resolved; the absolute path if a link leads back to itself."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # RuntimeError: before Python 3.13
        return path.absolute()


def file_name(stem: str, ending: str) -> str:
    """``stem + ending`` as a file's name, the stem shortened if that would be too long."""
    while stem and is_too_long(stem + ending):
        stem = stem[:-1]
    return stem + ending


def too_large(path: Path) -> FileError:
    """The error of a file that does not fit into memory."""
    return FileError(path, "it does not fit into memory", "shrink it")


def is_of_no_room(error: FileError) -> bool:
    """Whether the error says that the disk accepts no more data."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in _NO_ROOM


def is_too_long(name: str) -> bool:
    """Whether a name is too long for a file."""
    return len(os.fsencode(name)) > _LONGEST_NAME


def stage(path: Path, data: bytes) -> Staged:
    """Writes ``data`` to a file beside ``path``, synced to disk, for ``commit`` to move into place.

    Raises:
      FileError: it cannot be written, or a pipe or a device is there; nothing is left behind.
    """
    _check_name(path, _TO_WRITE)  # fail before long work, not when moved into place
    with translated(path, _TO_WRITE), LOCK:
        temporary = path.parent / f".{path.stem[:40]}-{secrets.token_hex(8)}.part"
        staged, file = Staged(temporary, path), temporary.open("xb")
        _UNFINISHED.add(temporary)
        try:
            with file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            discard([staged])
            raise
    return staged


def _check_name(path: Path, remedy: str) -> None:
    """Raises FileError if a file's name is too long, or has been given to a pipe or a device."""
    with translated(path, remedy):
        if is_too_long(path.name):
            raise OSError(errno.ENAMETOOLONG, "")
        if path.exists():
            refuse_pipes(path, remedy)


def commit(files: Sequence[Staged]) -> None:
    """Moves staged files into place, in order; on an error, only those before it.

    Raises:
      FileError: a place is taken by a folder, or the folder is gone.
    """
    with LOCK:
        try:
            for staged in files:
                with translated(staged.path, _TO_WRITE):
                    os.replace(staged.temporary, staged.path)
                _UNFINISHED.discard(staged.temporary)
        except BaseException:
            discard(files)
            raise


def discard(files: Sequence[Staged]) -> None:
    """Removes staged files that were not moved into place."""
    with LOCK:
        for staged in files:
            with suppress(OSError):
                staged.temporary.unlink(missing_ok=True)
            _UNFINISHED.discard(staged.temporary)


def discard_unfinished() -> None:
    """Removes every staged file of this process; call with ``LOCK`` held, before ending it."""
    discard([Staged(path, path) for path in list(_UNFINISHED)])


@contextmanager
def translated(path: Path, remedy: str) -> Iterator[None]:
    """Raises errors of the operating system, and a lack of memory, as ``FileError``."""
    try:
        yield
    except FileError:
        raise
    except MemoryError as error:
        raise too_large(path) from error
    except OSError as error:
        what = _REASONS.get(error.errno or 0, (error.strerror or str(error)).lower())
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise FileError(path, what, _TO_MAKE_ROOM if full else remedy) from error
