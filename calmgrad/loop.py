"""The training loop: which sequences each update sees, and at which learning rate."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calmgrad.config import Rules
from calmgrad.data import Dataset
from calmgrad.errors import DivergedError
from calmgrad.nan_search import Origin
from calmgrad.schedule import Schedule
from calmgrad.trainer import Trainer
from calmgrad.update import AHEAD, Outcome

log = logging.getLogger("calmgrad.run")

SECONDS = 1.0  # after which a device's losses are read, whoever waits for them


@dataclass(frozen=True, slots=True)
class Plan:
    """All that decides a run's batches and learning rates, besides the data.

    Attributes:
        epochs: passes over the data.
        batch_size: sequences of a batch.
        batch_tokens: instead of `batch_size`, the most tokens of a batch (a longer sequence is
            a batch of its own); None: count sequences.
        accumulation: batches of one update.
        lr, warmup_steps, min_lr: of the schedule.
        max_steps: the run, and its schedule, end here at the latest; None: no bound.
        shuffle: another order in each epoch, from `seed`.
    """

    epochs: int
    batch_size: int
    lr: float
    warmup_steps: int = 0
    min_lr: float = 1e-6
    batch_tokens: int | None = None
    accumulation: int = 1
    max_steps: int | None = None
    shuffle: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        least = dict(epochs=1, batch_size=1, accumulation=1, warmup_steps=0, seed=0)
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} = {getattr(self, name)}: expected {low} or more")
        for name in ("max_steps", "batch_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} = {value}: expected 1 or more")
        if not 0 <= self.min_lr < math.inf:
            raise ValueError(f"min_lr = {self.min_lr}: expected 0 or more")
        if self.warmup_steps and self.min_lr > max(self.lr, 1e-6):
            raise ValueError(f"min_lr = {self.min_lr:g}: expected at most lr = {self.lr:g}")


class Course:
    """Which sequences each update of a run sees: a function of plan, seed and lengths alone.

    Args:
        least: sequences of a batch; an epoch's last one is left out if it has fewer.

    Attributes:
        steps: updates of the run.
        epoch_steps: updates of each epoch, were there no `max_steps`.
        accumulation: batches of one update.
    """

    def __init__(
        self, plan: Plan, lengths: Sequence[int] | NDArray[np.int64], least: int = 1
    ) -> None:
        self._plan, self._least = plan, least
        self.accumulation = plan.accumulation
        self._lengths = np.asarray(lengths, np.int64)
        self._epoch = -1
        self._batches: list[NDArray[np.int64]] = []
        epochs = min(plan.epochs, plan.max_steps or plan.epochs)  # an epoch is a step at least
        if plan.batch_tokens is None:
            batches = len(range(0, self._lengths.size - least + 1, plan.batch_size))
            self.epoch_steps = [-(-batches // plan.accumulation)] * epochs
        else:  # the order decides how many sequences fit
            counts = [len(self._epoch_batches(epoch)) for epoch in range(epochs)]
            self.epoch_steps = [-(-n // plan.accumulation) for n in counts]
        self.steps = sum(self.epoch_steps)
        if plan.max_steps is not None:
            self.steps = min(self.steps, plan.max_steps)
        self._first_step = np.cumsum([0, *self.epoch_steps])

    def update(self, step: int) -> tuple[int, list[NDArray[np.int64]]]:
        """Epoch (from 0) and batches of update `step` (from 0), as indices of sequences."""
        epoch = int(np.searchsorted(self._first_step, step, "right")) - 1
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._epoch_batches(epoch)
        first = (step - int(self._first_step[epoch])) * self._plan.accumulation
        return epoch, self._batches[first : first + self._plan.accumulation]

    def ends_epoch(self, step: int) -> bool:
        """Whether update `step` (from 0) is the last of its epoch."""
        return step + 1 in self._first_step

    def evaluates_after(self, step: int, every: int | None) -> bool:
        """Whether validation follows update `step` (from 1).

        Args:
            every: steps from one to the next; None: at the end of each epoch.
        """
        due = step % every == 0 if every else self.ends_epoch(step - 1)
        return due or step == self.steps

    def pauses(self, step: int, intervals: Iterable[int | None]) -> bool:
        """Whether update `step` (from 1) ends an interval, an epoch or the run."""
        at_interval = any(every and step % every == 0 for every in intervals)
        return at_interval or step == self.steps or self.ends_epoch(step - 1)

    def schedule(self, rules: Rules) -> Schedule:
        """The learning rates under `rules`."""
        plan, total = self._plan, self.steps
        if rules.floor_total:  # calm-mamba counts whole batches only
            whole = self._lengths.size // (plan.batch_size * plan.accumulation)
            total = max(1, whole) * plan.epochs
            total = total if plan.max_steps is None else min(total, plan.max_steps)
        return Schedule(plan.lr, plan.warmup_steps, total, plan.min_lr, rules.first_step)

    def _epoch_batches(self, epoch: int) -> list[NDArray[np.int64]]:
        plan, count = self._plan, self._lengths.size
        order = np.arange(count)
        if plan.shuffle:
            order = np.random.default_rng((plan.seed, epoch)).permutation(count)
        if plan.batch_tokens is None:
            starts = range(0, count - self._least + 1, plan.batch_size)
            return [order[i : i + plan.batch_size] for i in starts]
        cuts, tokens = [0], 0
        for i, length in enumerate(self._lengths[order]):
            if tokens and tokens + length > plan.batch_tokens:
                cuts.append(i)
                tokens = 0
            tokens += int(length)
        return np.split(order, cuts[1:])


@dataclass(frozen=True, slots=True)
class Report:
    """One update.

    Attributes:
        step: its number, from 1 to `steps`.
        epoch: its epoch, from 1 on.
        loss: of its batch, before the update, in nats.
        lr, grad_norm: its learning rate, and the gradient's norm before clipping.
        sequences, tokens: of its batch.
        seconds: it took.
    """

    step: int
    steps: int
    epoch: int
    loss: float
    lr: float
    grad_norm: float
    sequences: int
    tokens: int
    seconds: float


class Ahead:
    """Steps that were begun, until it is known what came of them.

    On the host that is at once. A device is asked when somebody needs to know (`pauses`), when
    as many steps wait as it keeps the losses of, or when a second has passed.

    Args:
        pauses: whether something is to be done after the step of this number (from 1), for which
            its outcome must be known; None: after each.
    """

    def __init__(self, trainer: Trainer, pauses: Callable[[int], bool] | None = None) -> None:
        self._trainer, self._pauses = trainer, pauses
        self._begun: list[tuple[Report, Any]] = []
        self._since = time.perf_counter()

    def add(self, report: Report, batch: Any) -> None:
        """A step was begun; its loss, norm and time are not known yet."""
        self._begun.append((report, batch))

    def due(self) -> bool:
        """Whether to ask now."""
        begun, late = self._begun, time.perf_counter() - self._since > SECONDS
        on_host = self._trainer.device.index is None
        if on_host or self._pauses is None or len(begun) >= AHEAD or late:
            return bool(begun)
        return bool(begun) and self._pauses(begun[-1][0].step)

    def told(self) -> Iterator[tuple[Report, Any, Outcome]]:
        """Every step, in order, with what came of it. One that failed is the last."""
        begun, self._begun = self._begun, []
        outcomes = self._trainer.collect()
        seconds = (time.perf_counter() - self._since) / max(len(begun), 1)
        for (report, batch), outcome in zip(begun, outcomes, strict=False):
            known = replace(report, loss=outcome.loss, grad_norm=outcome.norm, seconds=seconds)
            yield known, batch, outcome
        self._since = time.perf_counter()


def _origin(origin: Origin | None, rows: NDArray[np.int64]) -> str:
    """Where a step failed, in words; `rows` are its sequences' numbers in the file."""
    if origin is None:
        return "not found again: the same step was finite"
    for op, scope, largest in origin.trail:
        log.info("before   %s in %s: up to %.3g", op, scope, largest)
    if origin.sequence is None:
        return str(origin)
    return f"{origin} (sequence {rows[origin.sequence]} of the data)"


def sequences_of(dataset: Dataset, batches: list[NDArray[np.int64]]) -> tuple[list[Any], list[int]]:
    """The sequences of batches, and their ATN positions."""
    items = [dataset[int(i)] for batch in batches for i in batch]
    return [s for s, _ in items], [p for _, p in items]


def fit(
    trainer: Trainer,
    dataset: Dataset,
    course: Course,
    on_step: Callable[[Report], object] | None = None,
    should_stop: Callable[[], bool] | None = None,
    after_update: Callable[[int, list[Any], list[int]], object] | None = None,
    done: int = 0,
    debug_nan: bool = False,
    pauses: Callable[[int], bool] | None = None,
) -> int:
    """Train on every sequence of `dataset` as `course` says; return the updates made in all.

    Args:
        dataset: in file order.
        on_step: called after each update.
        should_stop: asked after each update; True ends the run there.
        after_update: called with the number of each update (from 1), its sequences and positions.
        done: updates that were made before.
        debug_nan: when a step fails, run it again to name the op and token where it began.
        pauses: whether the caller has something to do after the step of this number, for which
            he must have been told of it; None: after each. On a device, other steps are told of
            together, later; `trainer.updates` says how far it is.

    Raises:
        ValueError: the data set is empty, or holds a sequence that the model cannot take.
        DivergedError: loss or gradient norm is not finite; the weights are those before that step.
    """
    if len(dataset) == 0:
        raise ValueError("nothing to train on: the data set has no sequence")
    schedule = course.schedule(trainer.rules)
    ahead = Ahead(trainer, pauses)

    def tell() -> None:
        for report, (batches, sequences, positions, parts), outcome in ahead.told():
            try:
                outcome.check()
            except DivergedError as error:
                hint = "--debug-nan finds where it began"
                if debug_nan:
                    rows = dataset.rows[np.concatenate(batches)]
                    hint = _origin(trainer.find_nan(sequences, positions, parts), rows)
                raise DivergedError(f"step {report.step}: {error}; {hint}") from error
            began = time.perf_counter()
            if after_update is not None:
                after_update(report.step, sequences, positions)
            if on_step is not None:
                on_step(replace(report, seconds=report.seconds + time.perf_counter() - began))

    for step in range(done, course.steps):
        epoch, batches = course.update(step)
        sequences, positions = sequences_of(dataset, batches)
        trainer.set_lr(schedule.at(step))
        missing = course.accumulation - len(batches)  # at the end of an epoch
        parts = [*map(len, batches), *[0] * missing]
        trainer.step_later(sequences, positions, parts)
        tokens = sum(s.size for s in sequences)
        report = Report(
            step + 1, course.steps, epoch + 1, math.nan, trainer.lr, math.nan, len(sequences),
            tokens, 0.0,
        )  # fmt: skip
        ahead.add(report, (batches, sequences, positions, parts))
        if ahead.due():
            tell()
        if should_stop is not None and should_stop():
            tell()
            return step + 1
    return course.steps
