"""Writes files whole or not at all, and only where they were meant to go.

A regular file, or a new name, gets its content at once by renaming. What is no regular file is never renamed over: devices
and pipes are written to, all else is refused. A symbolic link stays; what it points to is replaced.
"""

import errno
import logging
import os
import re
import reprlib
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vitlens.errors import InputError

with suppress(ImportError):
    # Windows does not have this module, so folders are not locked there.
    import fcntl

LOG = logging.getLogger(__name__)
#: Ends the names of files that are being written; a killed process may leave some, which may be deleted.
PARTIAL = ".partial"
#: The file that a process locks while it works in a folder. The system unlocks it when the process ends for any reason.
LOCK = ".lock"
#: What is no regular file, by what `stat` says.
OTHER_FILES = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
#: Links that lead in a circle end after this many steps, as in the kernel.
MOST_LINKS = 40


def write_whole(path: str | Path, content: bytes) -> None:
    """Writes a file so that it never exists half-written; to a device or pipe, the content is written as to any open file.

    An existing file keeps its permissions, a new one gets the usual ones.

    Raises:
        InputError: the folder does not exist or cannot be written to, the disk is full, the file is write-protected, or the
            name belongs to a folder, a socket or a disk.
    """
    path = as_path(path)
    try:
        descriptor = _open_descriptor(path)
        if descriptor is not None:
            _write_to(os.dup(descriptor), content)
            return
        state = _state(path)
        _refuse_others(path, state)
        if state is not None and _is_stream(state):
            _write_to(_open_stream(path), content)
        else:
            target = Path(os.path.realpath(path))
            _require_folder(target)
            _replace(target, content, state)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from None


def check_writable(path: str | Path) -> None:
    """Raises InputError at the start of long work rather than at its end: what `write_whole` would refuse."""
    path = as_path(path)
    if _open_descriptor(path) is not None:
        return
    try:
        state = _state(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from None
    if state is None or stat.S_ISREG(state.st_mode):
        target = Path(os.path.realpath(path))
        _require_folder(target)
        if not os.access(target.parent, os.W_OK):
            raise InputError(f"{target.parent} is not writable")
    _refuse_others(path, state)


def as_path(path: object, name: str = "path") -> Path:
    """Raises InputError for what is no path: a number would be taken for an open descriptor."""
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"{name} is the path of a file, not {reprlib.repr(path)}")
    return Path(path)


def check_picture_file(path: str | Path) -> None:
    """Raises InputError unless a regular file is there: opening a pipe would wait for its writer."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"there is no file {path}") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{path} is not a picture that Pillow can read ({why})") from None
    if not stat.S_ISREG(mode):
        kind = OTHER_FILES.get(stat.S_IFMT(mode), "no regular file")
        raise InputError(f"{path} is not a picture that Pillow can read (it is {kind})")


def make_folder(path: str | Path) -> Path:
    """The folder, made with those above it where they are missing.

    Raises:
        InputError: a file has its name, or it cannot be made.
    """
    path = as_path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError(f"{path} is no folder: give the name of one, or of one to be made") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"the folder {path} cannot be made: {reason}") from None
    return path


@contextmanager
def only_process_in(folder: str | Path) -> Iterator[None]:
    """Locks a folder: no other process that also locks it works there. A killed process does not keep the lock.

    Raises:
        InputError: another process is there, or the folder cannot be written to.
    """
    descriptor = _lock(Path(folder) / LOCK)
    try:
        yield
    finally:
        if descriptor is not None:
            # The name goes first: another process that opens it again gets a file that nobody holds.
            with suppress(OSError):
                os.unlink(Path(folder) / LOCK)
            os.close(descriptor)


def is_stream(path: str | Path) -> bool:
    """Whether this is a stream, such as a pipe or standard output."""
    try:
        state = _state(Path(path))
    except (OSError, InputError):
        return False
    return _open_descriptor(Path(path)) is not None or (state is not None and _is_stream(state))


def _require_folder(target: Path) -> None:
    if not target.parent.is_dir():
        raise InputError(f"there is no folder {target.parent} to write {target.name} to: make it first")


def _lock(path: Path) -> int | None:
    """The open and locked file; None if the file system has no locks.

    Raises:
        InputError: another process holds it, or it cannot be made.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise InputError(f"{path.parent} cannot be written to: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise InputError(
            f"another process is at work in {path.parent}: wait until it has ended, or choose another folder"
        ) from None
    except (OSError, NameError):
        os.close(descriptor)
        LOG.warning("the file system of %s knows no locks: see to it that one process alone works there", path.parent)
        return None
    # Between the two calls, the process that was here before may have taken the name away.
    held, there = os.fstat(descriptor), _state(path)
    if there is not None and os.path.samestat(held, there):
        return descriptor
    os.close(descriptor)
    return _lock(path)


def _state(path: Path) -> os.stat_result | None:
    """The status of what is at this path, links followed; None if there is nothing yet.

    Raises:
        InputError: no file can have this name.
    """
    try:
        return path.stat()
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise InputError(f"{path} cannot be written: a part of its path is a file, not a folder") from None
    except ValueError:
        raise InputError(f"{str(path)!r} cannot be written: no file can have this name") from None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        shown = f"{str(path)[:40]}… ({len(str(path))} characters)"
        raise InputError(f"the name {shown} is too long for a file: give a shorter one") from None


def _is_stream(state: os.stat_result) -> bool:
    return stat.S_ISCHR(state.st_mode) or stat.S_ISFIFO(state.st_mode)


def _refuse_others(path: Path, state: os.stat_result | None) -> None:
    """Raises InputError for what is there and is neither a file that may be replaced nor a stream that may be written to."""
    if state is None:
        return
    if stat.S_ISDIR(state.st_mode):
        raise InputError(f"{path} is a folder: give the name of a file")
    if not stat.S_ISREG(state.st_mode) and not _is_stream(state):
        kind = "a socket" if stat.S_ISSOCK(state.st_mode) else "a disk"
        raise InputError(f"{path} is {kind}, not a file: give the name of a file")
    if not os.access(path, os.W_OK):
        raise InputError(f"{path} is write-protected: choose another name, or allow writing")


def _open_descriptor(path: Path) -> int | None:
    """The descriptor of this process that a path such as /dev/stdout, or a link to it, stands for.

    What is written to it must go through it: a file opened again would begin at its start, over what was written before.
    """
    name = os.path.abspath(path)
    for _ in range(MOST_LINKS):
        found = re.fullmatch(rf"/(?:dev|proc/(?:self|thread-self|{os.getpid()}))/fd/(\d+)", name)
        if found:
            return int(found[1])
        try:
            name = os.path.abspath(os.path.join(os.path.dirname(name), os.readlink(name)))
        except (OSError, ValueError):
            return None
    return None


def _open_stream(path: Path) -> int:
    """A device or pipe, open for writing; a pipe that nobody reads from is refused instead of waited for."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise InputError(f"{path} cannot be written: nothing reads from this pipe") from None
        raise
    os.set_blocking(descriptor, True)
    return descriptor


def _write_to(descriptor: int, content: bytes) -> None:
    """Writes all of it after what was printed before, and closes the descriptor."""
    with os.fdopen(descriptor, "wb") as stream:
        if sys.stdout is not None:
            sys.stdout.flush()
        stream.write(content)


def _replace(target: Path, content: bytes, state: os.stat_result | None) -> None:
    """Writes a partial file and renames it to the target; the partial file is deleted if anything fails."""
    partial = target.with_name(f".{secrets.token_hex(8)}{PARTIAL}")
    try:
        with partial.open("xb") as file:
            if state is not None:
                os.chmod(partial, stat.S_IMODE(state.st_mode))
            file.write(content)
            file.flush()
            _settle(file.fileno())
        os.replace(partial, target)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def _settle(descriptor: int) -> None:
    """Brings content to the disk before the file is renamed: after a crash no file must be there without its content."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems do not support it.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
