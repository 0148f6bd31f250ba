"""What a run tells whoever called `calmgrad.train`, while it goes on and at its end."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from calmgrad.loop import Report
from calmgrad.model import Model

P = TypeVar("P")  # what is known before the first step
E = TypeVar("E")  # an evaluation


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One evaluation on the validation data, before or during a run.

    Attributes:
        step, epoch: after how many updates, in which epoch (0: before the first).
        loss: mean over all targets, in nats.
        bits_per_byte: over the targets that are bytes; None without any.
        best: whether this is the lowest loss so far.
    """

    step: int
    epoch: int
    loss: float
    bits_per_byte: float | None
    best: bool


@dataclass(frozen=True, slots=True)
class EpochEnd:
    """The end of an epoch: its number from 1 on, the mean loss of its steps, its seconds."""

    epoch: int
    loss: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is known before the first step.

    Attributes:
        run_directory: where the run's files go.
        model: half a line about it.
        steps: updates of the run.
        memory: bytes that it is expected to take.
    """

    run_directory: Path
    model: str
    steps: int
    memory: int


@dataclass(frozen=True, slots=True)
class Ended(Generic[E]):
    """What a run has come to, whatever its evaluations are.

    Attributes:
        model: trained, with the weights that were saved.
        run_directory: its files.
        weights: every file the weights went to; none where the run was ended before its first
            step: then its directory is gone too.
        steps: updates made.
        first_loss, last_loss: mean loss of the first and the last tenth of the steps.
        before, best: first and best evaluation, if there was validation data.
        stopped: "signal" or "patience" if the run ended early.
        seconds: it took.
    """

    model: Model
    run_directory: Path
    weights: list[Path]
    steps: int
    first_loss: float
    last_loss: float
    before: E | None
    best: E | None
    stopped: str | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Result(Ended[Evaluated]):
    """What a run of `calmgrad.train` has come to: all that `Ended` tells, and one thing more.

    Attributes:
        checkpoint: the last one, to go on from; None: the run had ended before.
    """

    checkpoint: Path | None

    def summary(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return {
            "run_directory": str(self.run_directory),
            "weights": [str(path) for path in self.weights],
            "checkpoint": self.checkpoint and str(self.checkpoint),
            "steps": self.steps,
            "first_loss": self.first_loss if self.steps else None,
            "last_loss": self.last_loss if self.steps else None,
            "val_loss_before": self.before and self.before.loss,
            "val_loss": self.best and self.best.loss,
            "best_step": self.best and self.best.step,
            "stopped": self.stopped,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, slots=True)
class Calls(Generic[P, E]):
    """The caller's functions; None where he gave none."""

    start: Callable[[P], object] | None
    step: Callable[[Report], object] | None
    epoch: Callable[[EpochEnd], object] | None
    eval: Callable[[E], object] | None
    checkpoint: Callable[[Path], object] | None
    stop: Callable[[], bool] | None
