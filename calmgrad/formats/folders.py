"""Making, replacing and removing a folder of files all at once, also when the power goes."""

import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress

from calmgrad.errors import DiskError
from calmgrad.formats.files import (
    UNFINISHED,
    AnyPath,
    Chunk,
    aside_name,
    display,
    sync_folder,
    write_new,
    write_reason,
)

OLD = ".old"  # what a folder is called while it is being replaced


def write_folder(path: AnyPath, files: Mapping[str, Iterable[Chunk]]) -> None:
    """Make a folder of these files, all at once; one that stands there is replaced.

    The files are written aside and flushed, then the folder is renamed. A folder that stands
    there is `PATH.old` for the moment between: at any time one of the two is whole. On return
    the bytes and the names are on the disk.

    Raises:
        DiskError: nothing was written and what was there before is untouched; only when the
            very last step, flushing the parent, fails does the new folder stand already.
    """
    target = os.path.abspath(os.fsdecode(path))
    parent = os.path.dirname(target)
    pieces = {n: [memoryview(chunk).cast("B") for chunk in chunks] for n, chunks in files.items()}
    aside = aside_name(parent)
    try:
        try:
            os.mkdir(aside)
            for name, parts in pieces.items():
                write_new(os.path.join(aside, name), parts, None)
            sync_folder(aside)
            _move_over(aside, target)
            sync_folder(parent)
            shutil.rmtree(target + OLD, ignore_errors=True)
        finally:  # after the rename there is nothing left to remove
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        needed = sum(len(piece) for parts in pieces.values() for piece in parts)
        raise DiskError(f"{display(path)}: {write_reason(error, target, needed)}") from error


def _move_over(folder: str, target: str) -> None:
    old = target + OLD
    if os.path.lexists(target):
        shutil.rmtree(old, ignore_errors=True)
        os.rename(target, old)
    try:
        os.rename(folder, target)
    except OSError:
        if os.path.lexists(old) and not os.path.lexists(target):
            os.rename(old, target)
        raise


def make_folder(path: AnyPath) -> None:
    """Make a folder, and those above it, on the disk; one that is there will do.

    Raises:
        OSError: it cannot be made.
    """
    target = os.path.abspath(os.fsdecode(path))
    if os.path.isdir(target):
        return
    make_folder(os.path.dirname(target))
    with suppress(FileExistsError):
        os.mkdir(target)
    sync_folder(os.path.dirname(target))


def remove_folder(path: AnyPath) -> None:
    """Remove a folder so that nobody takes what is left of it, should this be interrupted."""
    target = os.path.abspath(os.fsdecode(path))
    aside = aside_name(os.path.dirname(target))
    with suppress(OSError):
        os.rename(target, aside)
        shutil.rmtree(aside, ignore_errors=True)


def remove_unfinished(folder: AnyPath) -> None:
    """Remove what interrupted writers have left in a folder that nobody is writing to now."""
    with suppress(OSError):
        for entry in os.scandir(os.fsdecode(folder)):
            if entry.name.startswith(UNFINISHED) and entry.name.endswith(".tmp"):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)
