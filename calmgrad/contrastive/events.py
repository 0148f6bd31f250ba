"""What a contrastive run tells whoever called it, while it goes on and at its end."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from calmgrad.events import Ended
from calmgrad.retrieval import Retrieval


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One look at the validation pairs, before or during a run.

    Attributes:
        step, epoch: after how many updates, in which epoch (0: before the first).
        loss: InfoNCE over batches in file order, of the training's size.
        found: how well queries find their passages among all.
        best: whether this is the highest mean reciprocal rank so far.
    """

    step: int
    epoch: int
    loss: float
    found: Retrieval
    best: bool


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is known before the first step: the run's folder, its model in half a line, steps."""

    run_directory: Path
    model: str
    steps: int


class Result(Ended[Evaluated]):
    """What a contrastive run has come to."""

    def summary(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return {
            "run_directory": str(self.run_directory),
            "weights": [str(path) for path in self.weights],
            "steps": self.steps,
            "first_loss": self.first_loss if self.steps else None,
            "last_loss": self.last_loss if self.steps else None,
            "before": self.before and asdict(self.before.found),
            "best": self.best and asdict(self.best.found),
            "best_step": self.best and self.best.step,
            "stopped": self.stopped,
            "seconds": round(self.seconds, 3),
        }
