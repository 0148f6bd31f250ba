"""The training loop: epochs of shuffled batches, a learning rate for each update."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from calmgrad.config import Rules
from calmgrad.data import Dataset
from calmgrad.schedule import Schedule
from calmgrad.trainer import Trainer


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run does: all that decides its batches and learning rates.

    Attributes:
        epochs, batch_size: passes over the data, sequences of one update.
        lr, warmup_steps, min_lr: of the schedule.
        max_steps: the run, and its schedule, end here at the latest; None: no bound.
        shuffle: another order in each epoch, from `seed`.
    """

    epochs: int
    batch_size: int
    lr: float
    warmup_steps: int = 0
    min_lr: float = 1e-6
    max_steps: int | None = None
    shuffle: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in (("epochs", 1), ("batch_size", 1), ("warmup_steps", 0), ("seed", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} = {getattr(self, name)}: expected {low} or more")
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps = {self.max_steps}: expected 1 or more")

    def steps(self, sequences: int) -> int:
        """Updates the run makes on this many sequences."""
        steps = -(-sequences // self.batch_size) * self.epochs
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def schedule(self, sequences: int, rules: Rules) -> Schedule:
        """The learning rates under `rules`."""
        total = self.steps(sequences)
        if rules.floor_total:  # calm-mamba counts whole batches only
            floored = max(1, sequences // self.batch_size) * self.epochs
            total = floored if self.max_steps is None else min(floored, self.max_steps)
        return Schedule(self.lr, self.warmup_steps, total, self.min_lr, rules.first_step)


@dataclass(frozen=True, slots=True)
class Report:
    """One update.

    Attributes:
        step: its number, from 1 to `steps`.
        epoch: its epoch, from 1 on.
        loss: of its batch, before the update, in nats.
        lr, grad_norm: its learning rate, and the gradient's norm before clipping.
        tokens: of its batch.
        seconds: it took.
    """

    step: int
    steps: int
    epoch: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    seconds: float


def fit(
    trainer: Trainer,
    dataset: Dataset,
    plan: Plan,
    rules: Rules,
    on_step: Callable[[Report], object] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> int:
    """Train on every sequence of `dataset` as `plan` says; return the number of updates made.

    Args:
        on_step: called after each update.
        should_stop: asked after each update; True ends the run there.

    Raises:
        ValueError: the data set is empty, or holds a sequence that the model cannot take.
        DivergedError: loss or gradient norm is not finite; the weights are those before that step.
    """
    if len(dataset) == 0:
        raise ValueError("nothing to train on: the data set has no sequence")
    steps, schedule = plan.steps(len(dataset)), plan.schedule(len(dataset), rules)
    step = 0
    for epoch in range(plan.epochs):
        if plan.shuffle:
            dataset.shuffle((plan.seed, epoch))
        for index in range(-(-len(dataset) // plan.batch_size)):
            if step == steps:
                return step
            began = time.perf_counter()
            trainer.set_lr(schedule.at(step))
            sequences, positions = dataset.batch(index, plan.batch_size)
            loss = trainer.step(sequences, positions)
            step += 1
            if on_step is not None:
                seconds = time.perf_counter() - began
                tokens = sum(len(s) for s in sequences)
                on_step(
                    Report(
                        step, steps, epoch + 1, loss, trainer.lr, trainer.grad_norm, tokens, seconds
                    )
                )
            if should_stop is not None and should_stop():
                return step
    return step
