"""EWC data of a model: computed from data sets, or following the data while a run goes on."""

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from calmgrad.data import Dataset
from calmgrad.errors import DivergedError
from calmgrad.loop import Course, sequences_of
from calmgrad.sequences import Tokens
from calmgrad.settings import Continual
from calmgrad.trainer import Trainer

Batch = tuple[Sequence[Tokens], Sequence[int]]
AT_ONCE = 256  # sequences between two reports of progress


def set_fisher(
    trainer: Trainer,
    datasets: Sequence[Dataset],
    on_progress: Callable[[int, int], object] | None = None,
) -> int:
    """Set the model's Fisher diagonal to the mean over all sequences, its anchor to the weights.

    The Fisher diagonal is the mean squared gradient of each sequence's mean loss (FORMATS §7).

    Args:
        datasets: their sequences count alike, in whichever of them they are.
        on_progress: called with the sequences done and their total, every 256.

    Returns:
        The number of sequences.

    Raises:
        ValueError: there is no sequence, or one that the model cannot take.
        DivergedError: a squared gradient is not finite; the model's data are as before.
    """
    model, done, total = trainer.model, 0, sum(len(dataset) for dataset in datasets)
    squares = np.zeros(model.weights.size)
    for dataset in datasets:
        for index in range(-(-len(dataset) // AT_ONCE)):
            sequences, positions = dataset.batch(index, AT_ONCE)
            squares += trainer.squared_gradients(sequences, positions) * len(sequences)
            done += len(sequences)
            if on_progress is not None:
                on_progress(done, total)
    if done == 0:
        raise ValueError("set_fisher: no sequence, expected at least one")
    with np.errstate(over="ignore", invalid="ignore"):
        fisher = (squares / done).astype(np.float32)
    if not np.isfinite(fisher).all():
        raise DivergedError("Fisher diagonal: a squared gradient is not finite")
    model.fisher, model.anchor = fisher, model.weights.copy()
    return done


class OnlineEWC:
    """Keeps recent batches, and every so many updates takes the Fisher diagonal of some of them.

    With decay γ (FORMATS §7), from F = 0 on::

        F = γ F + (1 - γ) F_new           anchor = the weights at that moment

    F_new is the mean squared gradient of the sequences of `fisher_batches` batches, drawn from
    the last `buffer_batches`; under calm-mamba's rules, the mean squared gradient of the batches.
    A model that brings Fisher data along starts from these.

    Args:
        trainer: its `ewc_lambda` is set to the strength.
        settings: the `continual` section of the settings; what is None takes calm-mamba's value.
        seed: of the draws.
    """

    def __init__(self, trainer: Trainer, settings: Continual, seed: int) -> None:
        self._trainer = trainer
        self._seed = seed
        self.decay = 0.99 if settings.decay is None else settings.decay
        self.every = settings.fisher_update_interval_steps or 1000
        self.batches = settings.fisher_batches or 16
        self.buffer: deque[Batch] = deque(maxlen=settings.buffer_batches or 1024)
        trainer.ewc_lambda = 10.0 if settings.strength is None else settings.strength

    def after_update(
        self, step: int, sequences: Sequence[Tokens], positions: Sequence[int]
    ) -> bool:
        """Take note of the batch of update `step` (from 1); return whether F was renewed."""
        self.buffer.append((sequences, positions))
        if step % self.every or len(self.buffer) < self.batches:
            return False
        rng = np.random.default_rng((self._seed, step))
        drawn = [self.buffer[i] for i in rng.choice(len(self.buffer), self.batches, replace=False)]
        model = self._trainer.model
        new = self._fisher(drawn)
        old = np.zeros_like(new) if model.fisher is None else model.fisher
        model.fisher = (self.decay * old + (1 - self.decay) * new).astype(np.float32)
        model.anchor = model.weights.copy()
        return True

    def recall(self, course: Course, dataset: Dataset, done: int) -> None:
        """Fill the buffer with the batches of the updates before, of which `done` were made."""
        for step in range(max(0, done - (self.buffer.maxlen or 0)), done):
            self.buffer.append(sequences_of(dataset, course.update(step)[1]))

    def _fisher(self, drawn: list[Batch]) -> NDArray[np.float64]:
        take = self._trainer.squared_gradients
        if self._trainer.rules.batch_fisher:
            return np.asarray(np.mean([take(*batch) for batch in drawn], axis=0))
        sequences = [s for batch, _ in drawn for s in batch]
        return take(sequences, [p for _, positions in drawn for p in positions])
