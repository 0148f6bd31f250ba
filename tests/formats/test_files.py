"""Reading regular files only, and replacing a file whole or not at all."""

import errno
import os
import resource
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from calmgrad.errors import DiskError, FileError
from calmgrad.formats import files
from calmgrad.formats.files import open_source, read_file, write_atomic

OLD = b"what was there before"
NEW: list[files.Chunk] = [b"first ", memoryview(b"second "), bytearray(b"third")]
WHOLE = b"first second third"
needs_user = pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")


pytestmark = pytest.mark.usefixtures("no_hang")


@contextmanager
def refused(kind: type[Exception], path: object, *words: str) -> Iterator[None]:
    with pytest.raises(kind) as caught:
        yield
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()  # one line
    for word in words:
        assert word in message


# Reading


def test_read_file(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(OLD)
    (tmp_path / "link").symlink_to("data")
    for name in (path, str(path), os.fsencode(path), tmp_path / "link"):
        assert read_file(name) == OLD
    assert read_file(path, limit=len(OLD)) == OLD
    with refused(FileError, path, f"{len(OLD)} bytes", f"at most {len(OLD) - 1}"):
        read_file(path, limit=len(OLD) - 1)
    path.write_bytes(b"")
    assert read_file(path) == b""


def test_what_is_no_regular_file_is_named(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path, words in [
        (tmp_path / "missing", "no such file"),
        (tmp_path, "is a directory"),
        (fifo, "is a FIFO"),
        (Path("/dev/zero"), "is a character device"),
        (fifo / "below", "Not a directory"),
    ]:
        with refused(FileError, path, words):
            read_file(path)


def test_links_that_lead_nowhere(tmp_path: Path) -> None:
    loop, dangling = tmp_path / "loop", tmp_path / "dangling"
    loop.symlink_to("loop")
    dangling.symlink_to("missing")
    with refused(FileError, dangling, "no such file"):
        read_file(dangling)
    with refused(FileError, loop, "symbolic links"):
        read_file(loop)
    with refused(DiskError, loop, "symbolic links"):
        write_atomic(loop, NEW)
    write_atomic(dangling, NEW)
    assert (tmp_path / "missing").read_bytes() == WHOLE
    assert dangling.is_symlink()


def test_odd_names_stay_on_one_line(tmp_path: Path) -> None:
    for name in ("", "two\nlines", "zero\0byte", os.fsdecode(b"\xff"), "\x1b[31m"):
        with refused(FileError, repr(name)):
            read_file(name)
    for name in ("zero\0byte", str(tmp_path / "missing" / "two\nlines")):
        with refused(DiskError, repr(name)):
            write_atomic(name, NEW)


def test_a_file_swapped_for_a_fifo_before_the_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, fifo = tmp_path / "data", tmp_path / "fifo"
    path.write_bytes(OLD)
    os.mkfifo(fifo)
    real = os.stat(path)
    monkeypatch.setattr(os, "stat", lambda *_, **__: real)
    with refused(FileError, fifo, "is a FIFO"):
        read_file(fifo)


def test_a_file_cut_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(100))
    with open_source(path) as source:
        assert source.read(10) == bytes(10)
        os.truncate(path, 60)
        with refused(FileError, path, "cut to 60 bytes"):
            source.read(90)


def test_a_count_is_held_against_the_size_first(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(10))
    with open_source(path) as source:
        source.read(2)
        with refused(
            FileError, path, "ends at byte 10, expected 4611686018427387904 more at byte 2"
        ):
            source.read_array("f4", 1 << 60)
        with refused(FileError, path, "ends at byte 10, expected 9 more at byte 2"):
            source.read(9)
        assert source.read_array("u2", 4).tolist() == [0, 0, 0, 0]


def test_arrays_are_little_endian_on_disk_and_native_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"\x01\x02\x00\x00\x80\x3f")
    with open_source(path) as source:
        short, real = source.read_array("u2", 1), source.read_array("f4", 1)
    assert short.tolist() == [0x0201]
    assert real.tolist() == [1.0]
    assert short.dtype.isnative
    assert real.flags.writeable


def test_a_failing_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data"
    path.write_bytes(OLD)

    class Broken:
        def tell(self) -> int:
            return 0

        def readinto(self, _: memoryview) -> int:
            raise OSError(errno.EIO, "Input/output error")

    source: Any = files.Source(str(path), len(OLD), Broken())  # type: ignore[arg-type]
    with refused(FileError, path, "at byte 0", "Input/output error"):
        source.read(4)


@needs_user
def test_no_permission(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(OLD)
    path.chmod(0)
    with refused(FileError, path, "permission denied"):
        read_file(path)
    path.chmod(0o444)
    with refused(DiskError, path, "write-protected"):
        write_atomic(path, NEW)
    tmp_path.chmod(0o555)
    with refused(DiskError, tmp_path / "new", "Permission denied"):
        write_atomic(tmp_path / "new", NEW)
    tmp_path.chmod(0o755)
    assert read_file(path) == OLD


# Writing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "target"
    path.write_bytes(OLD)
    path.chmod(0o666)  # a mode the usual umask does not give
    return path


def test_a_new_file_gets_what_the_umask_leaves(tmp_path: Path) -> None:
    for mask, expected in [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)]:
        path = tmp_path / f"{mask:o}"
        previous = os.umask(mask)
        write_atomic(path, NEW)
        assert os.umask(previous) == mask
        assert mode(path) == expected
        assert path.read_bytes() == WHOLE


@pytest.mark.parametrize("bits", [0o600, 0o640, 0o666, 0o755])
def test_an_existing_file_keeps_its_mode(target: Path, bits: int) -> None:
    target.chmod(bits)
    write_atomic(target, NEW)
    assert mode(target) == bits
    assert target.read_bytes() == WHOLE
    assert names(target.parent) == ["target"]


def test_a_private_file_is_never_readable_by_others(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target.chmod(0o600)
    seen = []
    write = os.write

    def watch(file: int, data: memoryview) -> int:
        seen.append(stat.S_IMODE(os.fstat(file).st_mode))
        return write(file, data)

    monkeypatch.setattr(os, "write", watch)
    write_atomic(target, NEW)
    assert set(seen) == {0o600}


def test_the_link_stays_and_its_target_is_replaced(target: Path) -> None:
    folder = target.parent / "elsewhere"
    folder.mkdir()
    link = folder / "link"
    link.symlink_to("../target")
    write_atomic(link, NEW)
    assert link.is_symlink()
    assert target.read_bytes() == WHOLE
    assert names(folder) == ["link"]


def test_targets_that_cannot_be_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "null").symlink_to("/dev/null")
    before = names(tmp_path)
    for path, words in [
        (tmp_path, "is a directory"),
        (tmp_path / "fifo", "is a FIFO"),
        (tmp_path / "null", "is a character device"),
        (tmp_path / "missing" / "out", f"there is no folder {tmp_path / 'missing'}"),
        (tmp_path / ("x" * 300), "File name too long"),
    ]:
        with refused(DiskError, path, words):
            write_atomic(path, NEW)
    assert names(tmp_path) == before


def test_order_of_the_flushes(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes are on the disk before the name points to them, the name before the return."""
    events = []
    fsync, replace = os.fsync, os.replace

    def watch_fsync(file: int) -> None:
        events.append("folder" if stat.S_ISDIR(os.fstat(file).st_mode) else os.fstat(file).st_size)
        fsync(file)

    def watch_replace(source: str, destination: str) -> None:
        events.append("rename")
        replace(source, destination)

    monkeypatch.setattr(os, "fsync", watch_fsync)
    monkeypatch.setattr(os, "replace", watch_replace)
    write_atomic(target, NEW)
    assert events == [len(WHOLE), "rename", "folder"]


def failing(monkeypatch: pytest.MonkeyPatch, name: str, nth: int, error: BaseException) -> None:
    """Let the nth call of os.NAME fail; what a failed close was given is closed all the same."""
    real: Callable[..., Any] = getattr(os, name)
    calls = iter(range(1, 100))

    def call(*arguments: Any) -> Any:
        if next(calls) != nth:
            return real(*arguments)
        if name == "close":
            real(*arguments)
        raise error

    monkeypatch.setattr(os, name, call)


STEPS = [  # every system call of a save, in order; the last three come after the rename
    *[("open", 1), ("write", 1), ("write", 2), ("write", 3), ("chmod", 1)],
    *[("fsync", 1), ("close", 1), ("replace", 1), ("open", 2), ("fsync", 2), ("close", 2)],
]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize(("name", "nth"), STEPS)
def test_any_step_may_fail(
    target: Path, monkeypatch: pytest.MonkeyPatch, name: str, nth: int, code: int
) -> None:
    descriptors = len(os.listdir("/dev/fd"))
    words = [os.strerror(code)]
    if code != errno.EROFS:
        words += [f"{len(WHOLE)} bytes", "free)"]
    with monkeypatch.context() as patch:
        failing(patch, name, nth, OSError(code, os.strerror(code)))
        with refused(DiskError, target, *words):
            write_atomic(target, NEW)
    after_rename = STEPS.index((name, nth)) >= STEPS.index(("open", 2))
    assert target.read_bytes() == (WHOLE if after_rename else OLD)
    assert names(target.parent) == ["target"]
    assert len(os.listdir("/dev/fd")) == descriptors


def test_interrupted_halfway(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        failing(patch, "write", 2, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            write_atomic(target, NEW)
    assert target.read_bytes() == OLD
    assert names(target.parent) == ["target"]


def test_short_writes_are_carried_on(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:2]))
    write_atomic(target, NEW)
    assert target.read_bytes() == WHOLE


@pytest.mark.parametrize(("code", "fails"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_folders_that_cannot_be_flushed(
    target: Path, monkeypatch: pytest.MonkeyPatch, code: int, fails: bool
) -> None:
    """Some network file systems refuse; a failing disk is told."""
    failing(monkeypatch, "fsync", 2, OSError(code, os.strerror(code)))
    if fails:
        with refused(DiskError, target, os.strerror(code)):
            write_atomic(target, NEW)
    else:
        write_atomic(target, NEW)
    assert target.read_bytes() == WHOLE


def test_a_real_size_limit(target: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with refused(DiskError, target, "10000 bytes", os.strerror(errno.EFBIG)):
            write_atomic(target, [bytes(5000), bytes(5000)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert target.read_bytes() == OLD
    assert names(target.parent) == ["target"]
