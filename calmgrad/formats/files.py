"""Reading a file of known size, and replacing a file all at once.

Inputs are regular files whose size is known before anything is allocated, and are never mapped
into memory: a file cut short under a mapping kills the process. Outputs are written aside and
renamed, so a reader sees the old file or the new one, never half of one.
"""

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calmgrad.errors import DiskError, FileError, OutOfMemoryError, UsageError

AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Chunk = bytes | bytearray | memoryview

UNFINISHED = ".calmgrad-"  # begins the name of what is being written

# Failures of the disk rather than of the name: worth telling how much room there is.
DISK_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def counted(count: int, noun: str) -> str:
    """ "1 step", "2,000 steps"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def display(path: AnyPath) -> str:
    """The path as it stands in a message: always one line that any terminal can print."""
    name = os.fsdecode(path)
    return name if name and name.isprintable() else repr(name)


@dataclass(frozen=True, slots=True)
class Source:
    """A regular file opened for reading, `size` bytes long; `path` is its name in messages."""

    path: str
    size: int
    file: FileIO

    def error(self, what: str) -> FileError:
        """The error `PATH: what`."""
        return FileError(f"{self.path}: {what}")

    def read(self, count: int) -> bytes:
        """The next `count` bytes.

        Raises:
            FileError: fewer are left, or the disk fails.
        """
        return self.read_array("u1", count).tobytes()

    def read_array(self, dtype: str, count: int) -> NDArray[Any]:
        """The next `count` little-endian elements of `dtype`, as a (count,) array of the machine.

        Raises:
            FileError: fewer are left, or the disk fails.
            OutOfMemoryError: there is no room for them.
        """
        stored = np.dtype(dtype).newbyteorder("<")
        needed = count * stored.itemsize
        start = self.file.tell()
        if needed > self.size - start:  # before the allocation: a count may be a lie
            raise self.error(f"ends at byte {self.size}, expected {needed} more at byte {start}")
        try:
            array = np.empty(count, stored)
            self._fill(array.view(np.uint8).data, start)
            return array.astype(stored.newbyteorder("="), copy=False)
        except MemoryError:
            raise OutOfMemoryError(f"{self.path}: no memory for {needed} bytes") from None

    def _fill(self, view: memoryview, start: int) -> None:
        done = 0
        while done < len(view):
            try:
                got = self.file.readinto(view[done:])
            except OSError as error:
                where = f"at byte {start + done}"
                raise self.error(f"cannot be read {where}: {error.strerror}") from error
            if not got:
                raise self.error(f"was cut to {start + done} bytes while being read")
            done += got


@contextmanager
def open_source(path: AnyPath) -> Iterator[Source]:
    """Open a regular file, following symbolic links.

    Raises:
        FileError: it is missing, may not be read, or is a directory, FIFO, device or socket.
    """
    name = display(path)
    try:
        status = os.stat(path)
        weights = os.path.join(os.fsdecode(path), "model.cwgt")
        if stat.S_ISDIR(status.st_mode) and os.path.isfile(weights):
            raise FileError(f"{name}: is a directory: is {display(weights)} meant?")
        _check_kind(name, status)  # opening a FIFO could wait for ever, a device act
        file = open(path, "rb", buffering=0, opener=_open_nonblocking)
    except OSError as error:
        raise FileError(f"{name}: {_reason(error)}") from error
    except ValueError as error:  # a zero byte in the name
        raise FileError(f"{name}: is not a file name: {error}") from error
    with file:
        status = os.fstat(file.fileno())
        _check_kind(name, status)  # again: the name may point elsewhere by now
        yield Source(name, status.st_size, file)


def _open_nonblocking(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _check_kind(name: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise FileError(f"{name}: {_kind(status.st_mode)}: expected a regular file")


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "is a directory",
        stat.S_IFIFO: "is a FIFO",
        stat.S_IFCHR: "is a character device",
        stat.S_IFBLK: "is a block device",
        stat.S_IFSOCK: "is a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "is a special file")


def _reason(error: OSError) -> str:
    reasons = {errno.ENOENT: "no such file", errno.EACCES: "permission denied"}
    return reasons.get(error.errno or 0, f"cannot be opened: {error.strerror}")


def read_file(path: AnyPath, limit: int | None = None) -> bytes:
    """The whole of a regular file of at most `limit` bytes.

    Raises:
        FileError: as in `open_source`, or the file is larger.
        OutOfMemoryError: it does not fit into memory.
    """
    with open_source(path) as source:
        if limit is not None and source.size > limit:
            raise source.error(f"{source.size} bytes: expected at most {limit}")
        return source.read(source.size)


def refuse_dash(name: str) -> None:
    """An output named `-` would be a file that is hard to find and to remove.

    Raises:
        UsageError: it is named so.
    """
    if name == "-":
        raise UsageError("-: the output is a file, not standard output: expected its name")


def check_writable(path: AnyPath) -> None:
    """Refuse, before any work is done, a target that `write_atomic` would refuse.

    Raises:
        UsageError: it is named `-`.
        DiskError: it is no regular file, it is write-protected, or its folder is missing.
    """
    name = display(path)
    try:
        target = os.path.realpath(os.fsdecode(path))
        _writable_mode(name, target)
        if not os.path.isdir(os.path.dirname(target)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    except ValueError as error:  # a zero byte in the name
        raise DiskError(f"{name}: is not a file name: {error}") from error
    except OSError as error:
        raise DiskError(f"{name}: {write_reason(error, target, 0)}") from error


def write_atomic(path: AnyPath, chunks: Iterable[Chunk], size: int | None = None) -> None:
    """Replace the file at `path`, or make it, with the chunks one after another.

    With `size`, their bytes taken together, the chunks are taken one at a time, so they may be
    more than memory holds.

    A symbolic link stays and its target is replaced. An existing file keeps its mode, a new one
    gets what the umask leaves of 0666. On return the bytes and the name are on the disk.

    Raises:
        UsageError: it is named `-`.
        DiskError: nothing was written and what was there before is untouched; only when the
            very last step, flushing the folder, fails does the new file stand already.
    """
    name = display(path)
    target = os.fsdecode(path)
    pieces: Iterable[memoryview] = (memoryview(chunk).cast("B") for chunk in chunks)
    if size is None:
        pieces = list(pieces)
        size = sum(len(piece) for piece in pieces)
    try:
        target = os.path.realpath(target)
        _replace(target, pieces, _writable_mode(name, target))
    except ValueError as error:  # a zero byte in the name
        raise DiskError(f"{name}: is not a file name: {error}") from error
    except OSError as error:
        raise DiskError(f"{name}: {write_reason(error, target, size)}") from error


def _writable_mode(name: str, target: str) -> int | None:
    """The permission bits of an existing target; None when there is none."""
    refuse_dash(name)
    try:
        status = os.stat(target)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):  # a rename would put a file in place of a device
        raise DiskError(f"{name}: {_kind(status.st_mode)}: expected a regular file or a new name")
    if not os.access(target, os.W_OK):  # a rename would not mind, but the owner does
        raise DiskError(f"{name}: is write-protected")
    return stat.S_IMODE(status.st_mode)


def _replace(target: str, pieces: Iterable[memoryview], mode: int | None) -> None:
    folder = os.path.dirname(target)
    aside = aside_name(folder)
    try:
        write_new(aside, pieces, mode)
        os.replace(aside, target)
        sync_folder(folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(aside)
        raise


def aside_name(folder: str) -> str:
    """A name for what is not whole yet."""
    return os.path.join(folder, f"{UNFINISHED}{os.getpid()}-{secrets.token_hex(4)}.tmp")


def write_new(path: str, pieces: Iterable[memoryview], mode: int | None) -> None:
    """Make a file that is on the disk when this returns; its name is not yet."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    file = os.open(path, flags, 0o666 if mode is None else mode & 0o777)
    try:
        for piece in pieces:
            write_all(file, piece)
        if mode is not None and mode != stat.S_IMODE(os.fstat(file).st_mode):
            os.chmod(path, mode)  # the bits the umask took
        os.fsync(file)
    finally:
        os.close(file)


def write_all(file: int, piece: memoryview) -> None:
    """Write every byte to an open file, however few the system takes at a time.

    Raises:
        OSError: the disk failed.
    """
    while piece:
        piece = piece[os.write(file, piece) :]


def sync_folder(folder: str) -> None:
    """Put the names in a folder on the disk, where the system can do that.

    Raises:
        OSError: the disk failed.
    """
    try:
        file = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows, or a folder that may be written but not listed
        return
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
            raise
    finally:
        os.close(file)


def write_reason(error: OSError, target: str, needed: int) -> str:
    """Why `needed` bytes could not be written, and how much room there is."""
    folder = os.path.dirname(target) or "."
    if error.errno in DISK_ERRNOS:
        free = "unknown"
        with suppress(OSError):
            free = str(shutil.disk_usage(folder).free)
        return f"cannot write {needed} bytes ({free} free): {error.strerror}"
    if error.errno == errno.ENOENT:
        return f"cannot be written: there is no folder {display(folder)}"
    return f"cannot be written: {error.strerror}"
