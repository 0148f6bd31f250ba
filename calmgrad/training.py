"""A whole run from its settings: `calmgrad.train`, and what the command `train` calls."""

import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from calmgrad import memory, settings
from calmgrad.continual import OnlineEWC
from calmgrad.errors import CalmgradError, DivergedError, UsageError, usage_errors
from calmgrad.evaluation import evaluate
from calmgrad.loop import Course, Plan, Report, fit
from calmgrad.model import Model
from calmgrad.rundir import RunDirectory
from calmgrad.settings import TrainConfig
from calmgrad.shards import cut
from calmgrad.starting import (
    check_output,
    describe,
    duration,
    keep_old,
    kernels_are_compiled,
    load_kept,
    size_name,
    start_model,
)
from calmgrad.tokenizer import BOS, EOS
from calmgrad.trainer import Trainer

log = logging.getLogger("calmgrad.run")  # facts, in plain words
progress = logging.getLogger("calmgrad.progress")  # a line every so many steps


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
class Result:
    """What a run has come to.

    Attributes:
        model: trained, with the weights that were saved.
        run_directory: its files.
        weights: every file the weights went to.
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
    before: Evaluated | None
    best: Evaluated | None
    stopped: str | None
    seconds: float


def train(
    config: TrainConfig | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    *,
    on_start: Callable[[Prepared], object] | None = None,
    on_step: Callable[[Report], object] | None = None,
    on_epoch: Callable[[EpochEnd], object] | None = None,
    on_eval: Callable[[Evaluated], object] | None = None,
    on_checkpoint: Callable[[Path], object] | None = None,
    should_stop: Callable[[], bool] | None = None,
    **keys: Any,
) -> Result:
    """Train as `calmgrad train` does: `calmgrad.train(dataset="train.ctds", size="nano")`.

    Args:
        config: the settings (docs/configuration.md), a mapping of them, or a file that holds
            them; `keys` go before it.
        on_start: called before the first step.
        on_step: called after each update.
        on_epoch: called at the end of each epoch.
        on_eval: called after each evaluation on `val_dataset`.
        on_checkpoint: called with the path when weights were saved.
        should_stop: asked after each update; True ends the run there, its weights saved.

    Returns:
        The result; the model in it is ready to use.

    Raises:
        UsageError, FileError, DivergedError, DiskError: with one line that says what and where.

    Says what it does through the loggers "calmgrad.run" and "calmgrad.progress".
    """
    calls = _Calls(on_start, on_step, on_epoch, on_eval, on_checkpoint, should_stop)
    logger = logging.getLogger("calmgrad")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    early = MemoryHandler(1000, flushLevel=logging.CRITICAL)
    logger.addHandler(early)
    try:
        return _Run(_given(config, keys), calls, early).train()
    finally:
        logger.removeHandler(early)


def _given(
    config: TrainConfig | Mapping[str, Any] | str | os.PathLike[str] | None, keys: dict[str, Any]
) -> TrainConfig:
    """What keys, config and environment say, the first of them first."""
    notes: list[str] = []
    if isinstance(config, str | os.PathLike):
        given, notes = settings.read_config(config)
    elif isinstance(config, TrainConfig):
        given = config
    else:
        given = settings.from_mapping(_plain(config or {}))
    given = settings.merge(settings.from_mapping(_plain(keys)), given, settings.environment())
    for note in notes:
        log.info("note     %s", note)
    return given


@dataclass(frozen=True, slots=True)
class _Calls:
    """The caller's functions; None where he gave none."""

    start: Callable[[Prepared], object] | None
    step: Callable[[Report], object] | None
    epoch: Callable[[EpochEnd], object] | None
    eval: Callable[[Evaluated], object] | None
    checkpoint: Callable[[Path], object] | None
    stop: Callable[[], bool] | None


class _Run:
    """One run: its model, data, trainer and folder."""

    def __init__(self, given: TrainConfig, calls: _Calls, early: MemoryHandler) -> None:
        self.calls = calls
        self.early = early
        with usage_errors():
            self.model, self.source = start_model(given)
            self.config = c = settings.resolve(given, new_model=self.source is None)
            self.plan = _plan(c)
        self.output = c.output or self.source
        assert c.dataset is not None
        if self.output is not None:
            check_output(Path(self.output), c.dataset, c.val_dataset)
        self.dataset = load_kept(c.dataset, self.model.config.l_max, "train on")
        self.validation = None
        if c.val_dataset:
            self.validation = load_kept(c.val_dataset, self.model.config.l_max, "validate on")
        self.course = Course(self.plan, self.dataset.lengths)
        with usage_errors():
            # Online EWC sets the strength itself.
            self.trainer = _trainer(self.model, msgspec.structs.replace(c, ewc_lambda=0.0)
                                    if c.continual else c)  # fmt: skip
        self.online = OnlineEWC(self.trainer, c.continual, self.plan.seed) if c.continual else None
        self.before: Evaluated | None = None
        self.best: Evaluated | None = None
        self.best_weights: Any = None
        self.misses = 0  # evaluations since the best one
        self.losses: list[float] = []
        self.reporters: list[Any] = []
        self.stopped: str | None = None
        self.epoch_began = time.perf_counter()

    def train(self) -> Result:
        """Train, save, and say what came of it."""
        self.directory = RunDirectory(
            self.config.save_dir, size_name(self.model.config), bool(self.config.force)
        )
        began = time.perf_counter()
        try:
            # Where the run stands is no setting of it: the file may serve another run.
            kept = msgspec.structs.replace(self.config, save_dir=None, force=None)
            self.directory.open(settings.to_toml(kept), self.early.buffer)
            self.early.setLevel(logging.CRITICAL)
            self.reporters = _reporters(self.config, self.directory.path)
            self._load_kernels()
            self._say_plan()
            self._evaluate(0, 0)
            self.epoch_began = time.perf_counter()
            self.lines: list[Report] = []
            renew = None if self.online is None else self.online.after_update
            done = fit(self.trainer, self.dataset, self.course, self._after_step, self._stop, renew,
                       debug_nan=bool(self.config.debug_nan))  # fmt: skip
            if self.best_weights is not None and self.stopped != "signal":
                self.model.weights[...] = self.best_weights
            weights = self._save()
            self.directory.note(f"memory   {memory.resident() / 1e6:.0f} MB in use at the end")
            self.directory.draw(f"{size_name(self.model.config)}: loss")
        except CalmgradError as error:
            self.directory.note(f"ended    {error}")
            raise
        finally:
            for reporter in self.reporters:
                reporter.close()
            self.directory.close()
            self.trainer.close()
            if not self.losses:  # it ended before its first step
                self.directory.discard()
        tenth = max(1, len(self.losses) // 10)
        return Result(
            model=self.model,
            run_directory=self.directory.path,
            weights=weights,
            steps=done,
            first_loss=float(np.mean(self.losses[:tenth])),
            last_loss=float(np.mean(self.losses[-tenth:])),
            before=self.before,
            best=self.best,
            stopped=self.stopped,
            seconds=time.perf_counter() - began,
        )

    def _load_kernels(self) -> None:
        """Load every kernel, or compile it; so the memory in use can be told, and the speed."""
        if not kernels_are_compiled():
            log.info("kernels  compiling for this CPU, once (about 10 s)")
        with suppress(DivergedError):  # the first step will tell
            self.trainer.accumulate([BOS, *b"calmgrad", EOS])
        self.trainer.zero_grad()

    def _say_plan(self) -> None:
        c, plan, trainer = self.config, self.plan, self.trainer
        batch = f"batches of {plan.batch_size}"
        if plan.batch_tokens:
            batch = f"batches of up to {plan.batch_tokens:,} tokens"
        if plan.accumulation > 1:
            batch += f", {plan.accumulation} to an update"
        rate = f"lr {plan.lr:g}"
        if plan.warmup_steps:
            rate += f", warm-up {plan.warmup_steps} and cosine to {plan.min_lr:g}"
        steps = f"{self.course.steps:,} steps in {plan.epochs} epochs"
        if self.course.steps < sum(self.course.epoch_steps):
            share = self.course.steps / self.course.epoch_steps[0]
            steps = f"{self.course.steps:,} steps, {share:.2g} epochs"
        log.info("run      %s, %s, %s, %s, seed %d", steps, batch, c.optimizer, rate, plan.seed)
        log.info("rules    %s: mean over the batch's %ss", trainer.rules.name, trainer.reduction)
        if self.online is not None:
            log.info(
                "ewc      online: every %d steps from %d of the last %d batches, strength %g",
                self.online.every, self.online.batches, self.online.buffer.maxlen,
                self.trainer.ewc_lambda,
            )  # fmt: skip
        elif c.ewc_lambda:
            log.info("ewc      strength %g", c.ewc_lambda)
        if self.validation is None and (c.eval_every or c.patience):
            log.info("note     eval_every and patience have no effect without a val_dataset")
        if plan.warmup_steps >= self.course.steps:
            log.info("note     the warm-up is as long as the run: the rate never reaches lr")
        needed = memory.resident() + self._forecast()
        threads = f"{trainer.threads} thread{'s' * (trainer.threads > 1)}"
        log.info("memory   about %.0f MB, %s", needed / 1e6, threads)
        log.info("folder   %s", self.directory.path)
        if self.calls.start is not None:
            described = describe(self.model.config)
            self.calls.start(Prepared(self.directory.path, described, self.course.steps, needed))

    def _forecast(self) -> int:
        """Bytes that training will add, by the largest shard of the first updates."""
        lengths = self.dataset.lengths - 1
        tokens = sequences = 1
        for step in range(min(self.course.steps, 20)):
            rows = np.concatenate(self.course.update(step)[1])
            for shard in cut([int(n) for n in lengths[rows]], self.trainer.shard_tokens):
                tokens = max(tokens, int(lengths[rows][shard].sum()))
                sequences = max(sequences, len(shard))
        adam = self.config.optimizer == "adam"
        return memory.forecast(self.model.config, tokens, sequences, self.trainer.threads, adam)

    def _stop(self) -> bool:
        if self.stopped is None and self.calls.stop is not None and self.calls.stop():
            self.stopped = "signal"
        return self.stopped is not None

    def _after_step(self, report: Report) -> None:
        self.losses.append(report.loss)
        values = asdict(report)
        self._record({k: values[k] for k in values if k not in ("steps", "seconds")})
        self._line(report)
        if self.calls.step is not None:
            self.calls.step(report)
        ends_epoch = self.course.ends_epoch(report.step - 1)
        every = self.config.eval_every
        due = report.step % every == 0 if every else ends_epoch
        if due or report.step == self.course.steps:
            self._evaluate(report.step, report.epoch)
        if ends_epoch:
            self._end_epoch(report)

    def _end_epoch(self, report: Report) -> None:
        now = time.perf_counter()
        steps = self.course.epoch_steps[report.epoch - 1]
        end = EpochEnd(report.epoch, float(np.mean(self.losses[-steps:])), now - self.epoch_began)
        self.epoch_began = now
        progress.info("epoch %d  mean loss %.4f  %.0f s", end.epoch, end.loss, end.seconds)
        if self.calls.epoch is not None:
            self.calls.epoch(end)

    def _line(self, report: Report) -> None:
        """A line of progress, every so many steps; the time left, once it can be told."""
        self.lines.append(report)
        every = self.config.log_every or max(1, report.steps // 40)
        if report.step % every and report.step != report.steps:
            return
        seconds = sum(r.seconds for r in self.lines)  # without validations
        speed = sum(r.tokens for r in self.lines) / seconds
        left = (report.steps - report.step) * seconds / len(self.lines)
        progress.info(
            "step %*d/%d  loss %.4f  lr %.2e  gradient %.2f  %s tokens/s  %s left",
            len(str(report.steps)), report.step, report.steps,
            np.mean([r.loss for r in self.lines]), report.lr, report.grad_norm,
            f"{speed:,.0f}", duration(left),
        )  # fmt: skip
        self.lines = []

    def _evaluate(self, step: int, epoch: int) -> None:
        if self.validation is None:
            return
        result = evaluate(self.model, self.validation, runner=self.trainer.runner)
        best = self.best is None or result.token_mean < self.best.loss
        evaluated = Evaluated(step, epoch, result.token_mean, result.bits_per_byte, best)
        self._record(
            {"step": step, "epoch": epoch, "val_loss": evaluated.loss,
             "val_bits_per_byte": evaluated.bits_per_byte}
        )  # fmt: skip
        progress.info("validation after step %d: loss %.4f%s", step, evaluated.loss,
                      " (best so far)" if best and step else "")  # fmt: skip
        if best:
            self.best, self.best_weights, self.misses = evaluated, self.model.weights.copy(), 0
            if step and step < self.course.steps:  # should the machine stop, this much is safe
                self._save_best()
        else:
            self.misses += 1
            if self.config.patience and self.misses >= self.config.patience:
                self.stopped = self.stopped or "patience"
        self.before = self.before or evaluated
        if self.calls.eval is not None:
            self.calls.eval(evaluated)

    def _record(self, values: dict[str, Any]) -> None:
        self.directory.record(values)
        for reporter in self.reporters:
            for name, value in values.items():
                if name not in ("step", "epoch") and value is not None:
                    reporter.add_scalar(name, value, values["step"])

    def _save_best(self) -> None:
        path = self.directory.weights
        if self.source is None or path.resolve() != Path(self.source).resolve():
            self.trainer.save(path)
            if self.calls.checkpoint is not None:
                self.calls.checkpoint(path)

    def _save(self) -> list[Path]:
        targets = [self.directory.weights]
        if self.output is not None and self.stopped != "signal":
            targets.append(Path(self.output))
        for path in targets:
            if self.source is not None and path.resolve() == Path(self.source).resolve():
                keep_old(path)
            self.trainer.save(path)
            log.info("saved    %s", path)
            if self.calls.checkpoint is not None:
                self.calls.checkpoint(path)
        return targets


# --- from settings to objects ------------------------------------------------------------------


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """NumPy's numbers as Python's own."""
    return {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}


def _plan(c: TrainConfig) -> Plan:
    names = ("epochs", "batch_size", "lr", "warmup_steps", "min_lr", "batch_tokens",
             "accumulation", "max_steps", "shuffle", "seed")  # fmt: skip
    return Plan(**{name: getattr(c, name) for name in names})


def _trainer(model: Model, c: TrainConfig) -> Trainer:
    names = ("lr", "optimizer", "beta1", "beta2", "eps", "weight_decay", "grad_clip",
             "ewc_lambda", "rules", "threads", "device", "shard_tokens")  # fmt: skip
    chosen = {name: getattr(c, name) for name in names}
    return Trainer(model, **{name: value for name, value in chosen.items() if value is not None})


def _reporters(c: TrainConfig, folder: Path) -> list[Any]:
    if "tensorboard" not in (c.report_to or []):
        return []
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise UsageError(
            "report_to tensorboard: tensorboardX is not installed:"
            " pip install 'calmgrad[tensorboard]'"
        ) from error
    return [SummaryWriter(str(folder / "tensorboard"))]
