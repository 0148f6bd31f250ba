"""What a contrastive run tells whoever called it, while it goes on and at its end."""

from dataclasses import dataclass
from pathlib import Path

from calmgrad.model import Model
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


@dataclass(frozen=True, slots=True)
class Result:
    """What a run has come to.

    Attributes:
        model: trained, with the weights that were saved.
        run_directory: its files.
        weights: every file the weights went to; none where the run was ended before its first
            step: then its directory is gone too.
        steps: updates made.
        first_loss, last_loss: mean loss of the first and the last tenth of the steps.
        before, best: first and best evaluation, if there were validation pairs.
        stopped: "signal" or "patience" if the run ended early.
        seconds: it took.
    """

    model: Model
    run_directory: Path
    weights: list[Path]
    steps: int
    first_loss: float
    last_loss: float
    before: Evaluated | None
    best: Evaluated | None
    stopped: str | None
    seconds: float
