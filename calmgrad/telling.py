"""What a run says: its plan before the first step, then a line every so many steps."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from logging.handlers import MemoryHandler

import numpy as np

from calmgrad import memory
from calmgrad.continual import OnlineEWC
from calmgrad.data import Dataset
from calmgrad.formats.cwgt import Metadata
from calmgrad.formats.files import counted
from calmgrad.loop import Course, Plan, Report
from calmgrad.prompt import prompt
from calmgrad.settings import TrainConfig
from calmgrad.starting import duration
from calmgrad.tokenizer import NAMES, PAD
from calmgrad.trainer import Trainer

log = logging.getLogger("calmgrad.run")
progress = logging.getLogger("calmgrad.progress")


def say_plan(
    c: TrainConfig, plan: Plan, course: Course, trainer: Trainer, online: OnlineEWC | None
) -> None:
    """Log how many steps there will be, of what, and under which rules."""
    batch = f"batches of {plan.batch_size}"
    if plan.batch_tokens:
        batch = f"batches of up to {plan.batch_tokens:,} tokens"
    if plan.accumulation > 1:
        batch += f", {plan.accumulation} to an update"
    steps = f"{counted(course.steps, 'step')} in {counted(plan.epochs, 'epoch')}"
    if course.steps < sum(course.epoch_steps) or len(course.epoch_steps) < plan.epochs:
        epochs = course.steps / course.epoch_steps[0]
        share = f"{epochs:.2g}" if epochs < 10 else f"{epochs:,.0f}"
        steps = f"{counted(course.steps, 'step')}, {share} epoch{'s' * (share != '1')}"
    log.info(
        "run      %s, %s, %s, %s, seed %d", steps, batch, c.optimizer, rate_of(plan), plan.seed
    )
    log.info("rules    %s: mean over the batch's %ss", trainer.rules.name, trainer.reduction)
    if online is not None:
        log.info(
            "ewc      online: every %d steps from %d of the last %d batches, strength %g",
            online.every, online.batches, online.buffer.maxlen, trainer.ewc_lambda,
        )  # fmt: skip
    elif c.ewc_lambda:
        log.info("ewc      strength %g", c.ewc_lambda)
    if plan.warmup_steps >= course.steps:
        log.info("note     the warm-up is as long as the run: the rate never reaches lr")


def rate_of(plan: Plan) -> str:
    """The learning rates in half a line."""
    cosine = f", warm-up {plan.warmup_steps} and cosine to {plan.min_lr:g}"
    return f"lr {plan.lr:g}{cosine if plan.warmup_steps else ''}"


def say_device(c: TrainConfig, trainer: Trainer) -> None:
    """Log where a run computes, unless that is a CPU as was asked for."""
    if trainer.device.index is not None:
        log.info("device   %s, products in %s", trainer.told, c.matmul_precision or "float32")
    elif trainer.device.why:
        log.info("note     the CPU is used: %s", trainer.device.why)


def say_unseen(metadata: Metadata, dataset: Dataset) -> None:
    """Log which tokens the model's template puts into every prompt, but the data never show.

    Looks at 1,000 sequences, evenly spread over the data.
    """
    always: set[int] = set()
    with suppress(ValueError):  # a template that takes no typed text
        always = {token for token in prompt(metadata.template, "x") if token >= PAD}
    for i in np.linspace(0, len(dataset) - 1, min(len(dataset), 1000)).astype(int):
        always.difference_update(dataset[i][0].tolist())
        if not always:
            return
    names = " and ".join(NAMES[token] for token in sorted(always))
    log.info("note     every prompt of the domain %s has %s, the data have none: see --domain and "
             "--template", metadata.domain or "(none)", names)  # fmt: skip


def say_memory(c: TrainConfig, dataset: Dataset, course: Course, trainer: Trainer) -> int:
    """Log where a run computes and about how much memory it takes; bytes of the host's."""
    tokens, sequences = _largest_shard(dataset, course, trainer)
    config = trainer.model.config
    needed = memory.resident()
    say_device(c, trainer)
    if trainer.device.index is not None:
        on_it = memory.device_forecast(config, tokens, sequences)
        log.info("memory   about %.0f MB on it besides CUDA's own, %.0f MB on the host",
                 on_it / 1e6, needed / 1e6)  # fmt: skip
        return needed
    adam = c.optimizer == "adam"
    needed += memory.forecast(config, tokens, sequences, trainer.threads, adam)
    threads = f"{trainer.threads} thread{'s' * (trainer.threads > 1)}"
    log.info("memory   about %.0f MB, %s", needed / 1e6, threads)
    return needed


def _largest_shard(dataset: Dataset, course: Course, trainer: Trainer) -> tuple[int, int]:
    """Most tokens and most sequences of a shard of the first updates."""
    lengths = dataset.lengths - 1
    tokens = sequences = 1
    for step in range(min(course.steps, 20)):
        rows = np.concatenate(course.update(step)[1])
        for shard in trainer.runner.cut([int(n) for n in lengths[rows]], trainer.shard_tokens):
            tokens = max(tokens, int(lengths[rows][shard].sum()))
            sequences = max(sequences, len(shard))
    return tokens, sequences


@contextmanager
def said_early() -> Iterator[MemoryHandler]:
    """What is logged before there is a folder for the log, as long as the block runs."""
    logger = logging.getLogger("calmgrad")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    early = MemoryHandler(1000, flushLevel=logging.CRITICAL)
    logger.addHandler(early)
    try:
        yield early
    finally:
        logger.removeHandler(early)


class Lines:
    """A line of progress every so many steps, with the means since the last.

    Args:
        every: steps; None: about 40 lines a run.
    """

    def __init__(self, every: int | None) -> None:
        self._every = every
        self._begin()

    def _begin(self) -> None:
        self._steps, self._tokens, self._loss, self._seconds = 0, 0, 0.0, 0.0  # since the last

    def every(self, steps: int) -> int:
        """Steps from line to line, in a run of so many."""
        return self._every or max(1, steps // 40)

    def add(self, report: Report) -> None:
        """One more step; the time left, once it can be told."""
        self._steps += 1
        self._tokens += report.tokens
        self._loss += report.loss
        self._seconds += report.seconds  # without validations
        if report.step % self.every(report.steps) and report.step != report.steps:
            return
        speed = self._tokens / self._seconds
        left = (report.steps - report.step) * self._seconds / self._steps
        progress.info(
            "step %*d/%d  loss %.4f  lr %.2e  gradient %.2f  %s tokens/s  %s left",
            len(str(report.steps)), report.step, report.steps,
            self._loss / self._steps, report.lr, report.grad_norm,
            f"{speed:,.0f}", duration(left),
        )  # fmt: skip
        self._begin()
