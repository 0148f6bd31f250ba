"""The folder of one run: its settings, its numbers, its log and its weights."""

import fcntl
import json
import logging
import os
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from calmgrad.errors import DiskError, UsageError
from calmgrad.formats.files import write_atomic

CONFIG, METRICS, LOG, CURVE, WEIGHTS = (
    "config.toml",
    "metrics.jsonl",
    "train.log",
    "loss.svg",
    "model.cwgt",
)


class RunDirectory:
    """`DIR`, or `runs/NAME-1`, `runs/NAME-2`, …: made at once, so no second run takes the same.

    Holds `config.toml` (every setting of the run), `metrics.jsonl` (what the run determines: the
    same bytes again), `train.log` (the log, with times), `loss.svg` and `model.cwgt`.

    Args:
        chosen: the folder; None: the next free one under `runs/`.
        name: what to call that.
        force: use a folder that holds something already; a run's own files in it are replaced.

    Raises:
        UsageError: it holds something, or cannot be made.
    """

    def __init__(self, chosen: str | None, name: str, force: bool) -> None:
        self._lock: int | None = None
        self._made_here = chosen is None or not Path(chosen).exists()
        try:
            self.path = self._made(Path(chosen), force) if chosen else self._next_free(name)
            self._take_lock()
        except OSError as error:
            place = chosen or "runs"
            reason = error.strerror or str(error)
            raise UsageError(f"{place}: cannot make the run directory: {reason}") from error
        self._metrics: TextIO | None = None
        self._log: logging.Handler | None = None

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
            path.mkdir(parents=True)
        except FileExistsError:
            if not path.is_dir():
                raise UsageError(f"{path}: a file, expected a folder") from None
            if any(path.iterdir()) and not force:
                raise UsageError(
                    f"{path}: the run directory is not empty; --force uses it all the same"
                ) from None
        return path

    @staticmethod
    def _next_free(name: str) -> Path:
        number = 1
        while True:
            path = Path("runs") / f"{name}-{number}"
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                number += 1
            else:
                return path

    @property
    def weights(self) -> Path:
        """Where the finished weights go."""
        return self.path / WEIGHTS

    def open(self, config: str, said: Iterable[logging.LogRecord] = ()) -> None:
        """Write the settings, and begin metrics and log; weights of an earlier run stay.

        Args:
            said: what was logged before there was a folder.
        """
        (self.path / CURVE).unlink(missing_ok=True)
        write_atomic(self.path / CONFIG, [config.encode()])
        try:
            self._metrics = (self.path / METRICS).open("w", encoding="utf-8")
            self._log = logging.FileHandler(self.path / LOG, mode="w", encoding="utf-8")
        except OSError as error:
            raise DiskError(f"{self.path}: cannot be written: {error.strerror}") from error
        thread = threading.get_ident()  # runs in other threads have logs of their own
        self._log.addFilter(lambda record: record.thread == thread)
        self._log.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        for record in said:
            self._log.handle(record)
        logging.getLogger("calmgrad").addHandler(self._log)

    def note(self, text: str) -> None:
        """Add a line to the log alone."""
        if self._log is not None:
            self._log.emit(logging.makeLogRecord({"msg": text, "levelno": logging.INFO}))

    def record(self, values: dict[str, Any]) -> None:
        """Add a line to the metrics."""
        assert self._metrics is not None
        try:
            self._metrics.write(json.dumps(values) + "\n")
            self._metrics.flush()
        except OSError as error:
            raise DiskError(f"{self.path / METRICS}: {error.strerror}") from error

    def draw(self, title: str) -> None:
        """Draw the loss curve from the metrics so far."""
        from calmgrad.plots import loss_svg, read_metrics

        curves = read_metrics(self.path / METRICS)
        write_atomic(self.path / CURVE, [loss_svg({self.path.name: curves}, title).encode()])

    def close(self) -> None:
        """Close the files."""
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
        if self._log is not None:
            logging.getLogger("calmgrad").removeHandler(self._log)
            self._log.close()
            self._log = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def discard(self) -> None:
        """Remove the folder, if this run made it: nothing has come of the run."""
        if self._made_here:
            shutil.rmtree(self.path, ignore_errors=True)
