"""A run under way: what follows an update, whatever it is that the run learns from."""

from abc import ABC, abstractmethod
from logging.handlers import MemoryHandler
from typing import Any, Generic, TypeVar

from calmgrad.events import Calls
from calmgrad.interrupting import Interrupted
from calmgrad.loop import Course, Report
from calmgrad.saving import Saver
from calmgrad.settings import TrainConfig
from calmgrad.telling import Lines
from calmgrad.trainer import Trainer

E = TypeVar("E")  # an evaluation


class Running(ABC, Generic[E]):
    """Where a run is, and what is due after an update.

    Args:
        calls: to be told what happens.
        early: holds what was logged so far.

    Attributes:
        done: updates made.
        before, best: the first evaluation, and the best one so far.
        misses: evaluations (without validation pairs: epochs) since the best one.
        unvalidated: a signal came before what follows the last update.
        stopped: why the run ends early.
    """

    config: TrainConfig
    course: Course
    trainer: Trainer
    saver: Saver
    lines: Lines

    def __init__(self, calls: Calls[Any, E], early: MemoryHandler) -> None:
        self.calls, self.early = calls, early
        self.done = 0
        self.before: E | None = None
        self.best: E | None = None
        self.best_weights: Any = None
        self.misses = 0
        self.unvalidated = False
        self.stopped: str | None = None

    @abstractmethod
    def _record_step(self, report: Report) -> None:
        """Take in what is known of an update."""

    @abstractmethod
    def _evaluate(self, step: int, epoch: int) -> None:
        """Validate, where there is something to validate on."""

    @abstractmethod
    def _end_epoch(self, epoch: int) -> None:
        """What is due at the end of an epoch."""

    @abstractmethod
    def _save_checkpoint(self) -> None:
        """Write all that the run is after this step."""

    def _after_step(self, report: Report) -> None:
        self.done = report.step
        self._record_step(report)
        self.lines.add(report)
        if self.calls.step is not None:
            self.calls.step(report)
        try:
            self._after_update(report.step, report.epoch)
        except Interrupted:
            self.stopped, self.unvalidated = "signal", True
            return
        behind = report.step < self.trainer.updates  # the device has made more steps since
        if not behind and report.step < self.course.steps and self.saver.due(report.step):
            self._save_checkpoint()

    def _after_update(self, step: int, epoch: int) -> None:
        """Validate, and end the epoch, if it is time."""
        if self.unvalidated or self.course.evaluates_after(step, self.config.eval_every):
            self._evaluate(step, epoch)
        if self.course.ends_epoch(step - 1):
            self._end_epoch(epoch)
        self.unvalidated = False

    def _catch_up(self) -> bool:
        """The first validation, or one that was cut off; whether a checkpoint is now behind."""
        was_unvalidated = self.unvalidated
        try:
            if self.done == 0:
                self._evaluate(0, 0)
            elif self.unvalidated:
                self._after_update(self.done, self.course.update(self.done - 1)[0] + 1)
        except Interrupted:
            self.stopped = "signal"
        return was_unvalidated and not self.unvalidated

    def _count(self, better: bool) -> None:
        """Count what has brought nothing new; patience may end the run."""
        self.misses = 0 if better else self.misses + 1
        self._stop_for_patience()

    def _stop_for_patience(self) -> None:
        if self.config.patience and self.misses >= self.config.patience:
            self.stopped = self.stopped or "patience"
