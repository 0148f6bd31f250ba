"""What a contrastive run tells whoever called it, while it goes on and at its end."""

from dataclasses import dataclass
from pathlib import Path

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
