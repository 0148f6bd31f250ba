"""The folder of one run: its settings, its numbers, its log, its checkpoints and its weights."""

import fcntl
import json
import logging
import os
import shutil
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from calmgrad.errors import DiskError, FileError, UsageError
from calmgrad.formats.files import (
    DISK_ERRNOS,
    UNFINISHED,
    check_writable,
    display,
    read_file,
    sync_folder,
    write_all,
    write_atomic,
    write_reason,
)
from calmgrad.formats.folders import make_folder, remove_unfinished

CONFIG, METRICS, LOG, CURVE, WEIGHTS, RESULT, CHECKPOINTS = (
    "config.toml",
    "metrics.jsonl",
    "train.log",
    "loss.svg",
    "model.cwgt",
    "result.json",
    "checkpoints",
)
# What a run has before its first checkpoint.
FROM_THE_START = {CONFIG, METRICS, LOG, CHECKPOINTS, "tensorboard"}
log = logging.getLogger("calmgrad.run")


class _Log(logging.FileHandler):
    """A log that a full disk may leave incomplete; a run does not end for its talk."""

    def handleError(self, record: logging.LogRecord) -> None: ...


class RunDirectory:
    """`DIR`, or `runs/NAME-1`, `runs/NAME-2`, …: made at once, so no second run takes the same.

    Holds `config.toml` (every setting of the run), `metrics.jsonl` (what the run determines: the
    same bytes again), `train.log` (the log, with times), `checkpoints/`, `loss.svg`, `model.cwgt`
    and, of a finished run, `result.json`.

    Args:
        chosen: the folder; None: the next free one under `runs/`.
        name: what to call that.
        force: use a folder that holds something already; a run's own files in it are replaced.

    Raises:
        UsageError: it holds something, is in use, or cannot be made.
        DiskError: there is no room for it.
    """

    def __init__(self, chosen: str | None, name: str, force: bool) -> None:
        self._made_here = chosen is None or not Path(chosen).exists()
        self._metrics: int | None = None
        self._log: logging.Handler | None = None
        self._lock: int | None = None
        try:
            self.path = self._made(Path(chosen), force) if chosen else self._next_free(name)
            self._take_lock()
        except OSError as error:
            place = chosen or "runs"
            if error.errno in DISK_ERRNOS:
                raise DiskError(f"{place}: {write_reason(error, str(Path.cwd()), 0)}") from error
            reason = error.strerror or str(error)
            raise UsageError(f"{place}: cannot make the run directory: {reason}") from error

    @classmethod
    def existing(cls, path: Path) -> Self:
        """The directory of a run that has begun.

        Raises:
            UsageError: there is none, or another run is writing to it.
        """
        if not path.is_dir():
            raise UsageError(f"{display(path)}: no such run directory")
        return cls(str(path), "", force=True)

    def _take_lock(self) -> None:
        """One run, one writer: the system frees the lock when the process ends, however."""
        self._lock = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            self._lock = None
            raise UsageError(f"{self.path}: another run is writing to this directory") from None
        except OSError:  # a file system that cannot lock a folder, as NFS: go on without
            os.close(self._lock)
            self._lock = None

    @staticmethod
    def _made(path: Path, force: bool) -> Path:
        try:
            make_folder(path.parent)
            path.mkdir()
            sync_folder(str(path.parent))  # or a power cut may take the run with its name
        except FileExistsError:
            if not path.is_dir():
                raise UsageError(f"{path}: a file, expected a folder") from None
            if any(path.iterdir()) and not force:
                wish = "--force uses it all the same"
                if (path / CHECKPOINTS).is_dir():
                    wish = "--resume goes on with the run in it, --force begins a new one"
                raise UsageError(f"{path}: the run directory is not empty; {wish}") from None
        return path

    @staticmethod
    def _next_free(name: str) -> Path:
        number = 1
        while True:
            path = Path("runs") / f"{name}-{number}"
            try:
                make_folder(path.parent)
                path.mkdir()
            except FileExistsError:
                number += 1
            else:
                sync_folder(str(path.parent))
                return path

    @property
    def weights(self) -> Path:
        """Where the finished weights go."""
        return self.path / WEIGHTS

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / CHECKPOINTS

    def open(
        self,
        config: str,
        said: Iterable[logging.LogRecord] = (),
        goes_on_at: int | None = None,
    ) -> None:
        """Write the settings, and begin metrics and log, or go on with them.

        Weights of an earlier run stay, and its checkpoints as `checkpoints.old`.

        Args:
            said: what was logged before there was a folder.
            goes_on_at: bytes of the metrics that count; None: the run begins.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        for name in (METRICS, LOG):
            check_writable(self.path / name)  # to open a FIFO would wait for ever
        try:
            remove_unfinished(self.path)
            for stale in (CURVE, RESULT):
                (self.path / stale).unlink(missing_ok=True)
            write_atomic(self.path / CONFIG, [config.encode()])
            if goes_on_at is None:
                self._set_checkpoints_aside()
                flags |= os.O_TRUNC
            else:
                self._cut_metrics(goes_on_at)
            self._metrics = os.open(self.path / METRICS, flags, 0o666)
            mode = "w" if goes_on_at is None else "a"
            self._log = _Log(self.path / LOG, mode=mode, encoding="utf-8")
        except OSError as error:
            raise DiskError(f"{self.path}: cannot be written: {error.strerror}") from error
        thread = threading.get_ident()  # runs in other threads have logs of their own
        self._log.addFilter(lambda record: record.thread == thread)
        self._log.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        for record in said:
            self._log.handle(record)
        logging.getLogger("calmgrad").addHandler(self._log)

    def _set_checkpoints_aside(self) -> None:
        if any(self.checkpoints.glob("step-*")):
            old = self.path / (CHECKPOINTS + ".old")
            shutil.rmtree(old, ignore_errors=True)
            self.checkpoints.rename(old)
        elif self.checkpoints.exists():  # of a run that was ended before its first checkpoint
            shutil.rmtree(self.checkpoints)

    def _cut_metrics(self, size: int) -> None:
        """Leave out what the run had written after the checkpoint; it will be written again."""
        path = self.path / METRICS
        metrics = read_file(path) if path.exists() else b""
        if len(metrics) < size:
            log.info("note     %s: lines before the checkpoint are missing", path)
            size = metrics.rfind(b"\n") + 1
        if len(metrics) != size:
            write_atomic(path, [metrics[:size]])

    def note(self, text: str) -> None:
        """Add a line to the log alone."""
        if self._log is not None:
            self._log.emit(logging.makeLogRecord({"msg": text, "levelno": logging.INFO}))

    def record(self, values: dict[str, Any]) -> None:
        """Add a line to the metrics."""
        assert self._metrics is not None
        line = memoryview(json.dumps(values).encode() + b"\n")
        try:
            write_all(self._metrics, line)
        except OSError as error:
            reason = write_reason(error, str(self.path / METRICS), len(line))
            raise DiskError(f"{self.path / METRICS}: {reason}") from error

    def sync_metrics(self) -> int:
        """Put the metrics so far on the disk; return their bytes."""
        assert self._metrics is not None
        try:
            os.fsync(self._metrics)
        except OSError as error:
            raise DiskError(f"{self.path / METRICS}: {error.strerror}") from error
        return os.fstat(self._metrics).st_size

    def losses(self) -> list[float]:
        """The loss of each step so far, from the metrics."""
        from calmgrad.plots import read_metrics

        return read_metrics(self.path / METRICS).losses

    def finish(self, values: dict[str, Any]) -> None:
        """Note that the run is over, and what it came to."""
        write_atomic(self.path / RESULT, [json.dumps(values, indent=2).encode() + b"\n"])

    def finished_after(self, steps: int) -> bool:
        """Whether the run in it came to its end after so many, its weights where they belong."""
        try:
            result = json.loads(read_file(self.path / RESULT))
        except (FileError, ValueError):
            return False
        ended = isinstance(result, dict) and result.get("steps") == steps
        return ended and self.weights.exists()

    @property
    def has_only_begun(self) -> bool:
        """Whether it holds what a run has before its first checkpoint, and nothing else."""
        names = {path.name for path in self.path.iterdir()}
        return {name for name in names if not name.startswith(UNFINISHED)} <= FROM_THE_START

    def draw(self, title: str) -> None:
        """Draw the loss curve from the metrics so far."""
        from calmgrad.plots import loss_svg, read_metrics

        curves = read_metrics(self.path / METRICS)
        write_atomic(self.path / CURVE, [loss_svg({self.path.name: curves}, title).encode()])

    def close(self) -> None:
        """Close the files."""
        if self._metrics is not None:
            os.close(self._metrics)
            self._metrics = None
        if self._log is not None:
            logging.getLogger("calmgrad").removeHandler(self._log)
            with suppress(OSError):
                self._log.close()
            self._log = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def discard(self) -> None:
        """Remove the folder, if this run made it: nothing has come of the run."""
        if self._made_here:
            shutil.rmtree(self.path, ignore_errors=True)
