"""A whole contrastive run: pairs of texts in, a model that embeds out; `calmgrad contrastive`."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from logging.handlers import MemoryHandler
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from calmgrad import settings
from calmgrad.errors import CalmgradError, UsageError, usage_errors
from calmgrad.loop import Course, Plan, Report
from calmgrad.model import Model
from calmgrad.retrieval import Retrieval, evaluate_pairs, figures, load_pairs
from calmgrad.rundir import RunDirectory
from calmgrad.settings import TrainConfig
from calmgrad.starting import check_output, describe, duration, size_name, start_model
from calmgrad.trainer import Trainer

log = logging.getLogger("calmgrad.run")
progress = logging.getLogger("calmgrad.progress")

DOMAIN = "netref"
# calm-train-contrastive's, where neither a preset nor a file says otherwise (FORMATS §9).
FINE_TUNING = TrainConfig(epochs=5, batch_size=16, lr=1e-4, warmup_steps=0)
PATIENCE = 5
WITHOUT_MEANING = ("batch_tokens", "rules", "continual", "report_to")


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
        weights: every file the weights went to.
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


def train_contrastive(
    config: TrainConfig,
    *,
    temperature: float = 0.07,
    pool: str = "mean",
    strict: bool = False,
    on_start: Callable[[Prepared], object] | None = None,
    on_step: Callable[[Report], object] | None = None,
    on_eval: Callable[[Evaluated], object] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Result:
    """Train a model so that the embedding of a query is near that of its passage.

    Args:
        config: as for `calmgrad.train`; `dataset` and `val_dataset` are pair files (FORMATS §6).
        temperature: of InfoNCE's softmax.
        pool: "mean" over all positions of a sequence, or "last".
        strict: refuse pair files with anything to warn of.
        on_start, on_step, on_eval: called before the first step, after each, after evaluations.
        should_stop: asked after each update; True ends the run there, its weights saved.

    Raises:
        UsageError, FileError, DivergedError, DiskError: with one line that says what and where.
    """
    logger = logging.getLogger("calmgrad")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    early = MemoryHandler(1000, flushLevel=logging.CRITICAL)
    logger.addHandler(early)
    calls = (on_start, on_step, on_eval, should_stop)
    try:
        return _Run(config, temperature, pool, strict, early, *calls).train()
    finally:
        logger.removeHandler(early)


class _Run:
    """One run: its model, pairs, trainer and folder."""

    def __init__(
        self,
        given: TrainConfig,
        temperature: float,
        pool: str,
        strict: bool,
        early: MemoryHandler,
        on_start: Callable[[Prepared], object] | None,
        on_step: Callable[[Report], object] | None,
        on_eval: Callable[[Evaluated], object] | None,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        self.temperature, self.pool = temperature, pool
        self.on_start, self.on_step, self.on_eval = on_start, on_step, on_eval
        self.should_stop = should_stop
        self.early = early
        if not 0 < temperature < float("inf"):
            raise UsageError(f"temperature = {temperature}: expected above 0")
        with usage_errors():
            self.model, self.config = _model_and_settings(given)
            self.plan = _plan(self.config)
        c = self.config
        assert c.dataset is not None
        if c.output is not None:
            check_output(Path(c.output), c.dataset, c.val_dataset)
        l_max = self.model.config.l_max
        self.pairs = load_pairs(c.dataset, l_max, strict)
        self.validation = load_pairs(c.val_dataset, l_max, strict) if c.val_dataset else None
        self.course = Course(self.plan, self.pairs.lengths)
        names = ("lr", "optimizer", "beta1", "beta2", "eps", "weight_decay", "grad_clip",
                 "ewc_lambda", "threads", "device", "shard_tokens")  # fmt: skip
        chosen = {name: getattr(c, name) for name in names if getattr(c, name) is not None}
        with usage_errors():
            self.trainer = Trainer(self.model, **chosen)
        self.before: Evaluated | None = None
        self.best: Evaluated | None = None
        self.best_weights: NDArray[np.float32] | None = None
        self.lowest = float("inf")  # mean loss of an epoch
        self.misses = 0  # evaluations (without validation pairs: epochs) since the best one
        self.losses: list[float] = []
        self.lines: list[Report] = []
        self.stopped: str | None = None

    def train(self) -> Result:
        """Train, save, and say what came of it."""
        c = self.config
        self.directory = RunDirectory(c.save_dir, "contrastive", bool(c.force))
        began = time.perf_counter()
        try:
            kept = msgspec.structs.replace(c, save_dir=None, force=None)
            flags = f"# with --temperature {self.temperature!r} --pool-mode {self.pool}\n"
            self.directory.open(flags + settings.to_toml(kept), self.early.buffer)
            self.early.setLevel(logging.CRITICAL)
            self._say_plan()
            self._evaluate(0, 0)
            done = self._steps()
            if self.best_weights is not None and self.stopped != "signal":
                self.model.weights[...] = self.best_weights
            weights = self._save()
            self.directory.draw(f"{size_name(self.model.config)}: InfoNCE loss")
        except CalmgradError as error:
            self.directory.note(f"ended    {error}")
            raise
        finally:
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

    def _say_plan(self) -> None:
        plan = self.plan
        rate = f"lr {plan.lr:g}"
        if plan.warmup_steps:
            rate += f", warm-up {plan.warmup_steps} and cosine to {plan.min_lr:g}"
        log.info(
            "run      %s steps in %d epochs, batches of %d pairs, %s, %s, seed %d",
            f"{self.course.steps:,}", plan.epochs, plan.batch_size, self.config.optimizer, rate,
            plan.seed,
        )  # fmt: skip
        log.info(
            "loss     symmetric InfoNCE, temperature %g, %s pooling", self.temperature, self.pool
        )
        log.info("folder   %s", self.directory.path)
        if self.on_start is not None:
            described = describe(self.model.config)
            self.on_start(Prepared(self.directory.path, described, self.course.steps))

    def _steps(self) -> int:
        """All updates, or those until somebody or patience ends the run; how many they were."""
        schedule = self.course.schedule(self.trainer.rules)
        for step in range(self.course.steps):
            began = time.perf_counter()
            epoch, [rows] = self.course.update(step)
            queries = [self.pairs.queries[i] for i in rows]
            passages = [self.pairs.passages[i] for i in rows]
            self.trainer.set_lr(schedule.at(step))
            loss = self.trainer.contrastive_step(queries, passages, self.temperature, self.pool)
            tokens = sum(s.size for s in (*queries, *passages))
            report = Report(
                step + 1, self.course.steps, epoch + 1, loss, self.trainer.lr,
                self.trainer.grad_norm, len(rows), tokens, time.perf_counter() - began,
            )  # fmt: skip
            self._after_step(report)
            if self.should_stop is not None and self.should_stop():
                self.stopped = self.stopped or "signal"
            if self.stopped is not None:
                return step + 1
        return self.course.steps

    def _after_step(self, report: Report) -> None:
        self.losses.append(report.loss)
        self.directory.record(
            {"step": report.step, "epoch": report.epoch, "loss": report.loss, "lr": report.lr,
             "grad_norm": report.grad_norm, "pairs": report.sequences, "tokens": report.tokens}
        )  # fmt: skip
        self._line(report)
        if self.on_step is not None:
            self.on_step(report)
        ends_epoch = self.course.ends_epoch(report.step - 1)
        every = self.config.eval_every
        due = report.step % every == 0 if every else ends_epoch
        if due or report.step == self.course.steps:
            self._evaluate(report.step, report.epoch)
        if ends_epoch:
            self._end_epoch(report.epoch)

    def _end_epoch(self, epoch: int) -> None:
        mean = float(np.mean(self.losses[-self.course.epoch_steps[epoch - 1] :]))
        progress.info("epoch %d  mean loss %.4f", epoch, mean)
        if self.validation is None:  # patience looks at the training loss, as calm-mamba's does
            self._judge(mean < self.lowest)
            self.lowest = min(mean, self.lowest)

    def _evaluate(self, step: int, epoch: int) -> None:
        if self.validation is None:
            return
        loss, found = evaluate_pairs(
            self.validation, self.plan.batch_size, self.temperature, self.pool,
            self.trainer.runner,
        )  # fmt: skip
        best = self.best is None or found.mrr > self.best.found.mrr
        evaluated = Evaluated(step, epoch, loss, found, best)
        self.directory.record(
            {"step": step, "epoch": epoch, "val_loss": loss, "val_recall_1": found.recall_1,
             "val_recall_5": found.recall_5, "val_recall_10": found.recall_10,
             "val_mrr": found.mrr}
        )  # fmt: skip
        progress.info("validation after step %d: loss %.4f, %s%s", step, loss, figures(found),
                      " (best so far)" if best and step else "")  # fmt: skip
        if best:
            self.best, self.best_weights = evaluated, self.model.weights.copy()
        self._judge(best)
        self.before = self.before or evaluated
        if self.on_eval is not None:
            self.on_eval(evaluated)

    def _judge(self, better: bool) -> None:
        """Count what has brought nothing; patience may end the run."""
        self.misses = 0 if better else self.misses + 1
        if self.config.patience and self.misses >= self.config.patience:
            self.stopped = self.stopped or "patience"

    def _line(self, report: Report) -> None:
        """A line of progress, every so many steps."""
        self.lines.append(report)
        every = self.config.log_every or max(1, report.steps // 40)
        if report.step % every and report.step != report.steps:
            return
        seconds = sum(r.seconds for r in self.lines)
        left = (report.steps - report.step) * seconds / len(self.lines)
        progress.info(
            "step %*d/%d  loss %.4f  lr %.2e  gradient %.2f  %s tokens/s  %s left",
            len(str(report.steps)), report.step, report.steps,
            np.mean([r.loss for r in self.lines]), report.lr, report.grad_norm,
            f"{sum(r.tokens for r in self.lines) / seconds:,.0f}", duration(left),
        )  # fmt: skip
        self.lines = []

    def _save(self) -> list[Path]:
        targets = [self.directory.weights]
        if self.config.output is not None and self.stopped != "signal":
            targets.append(Path(self.config.output))
        for path in targets:
            self.trainer.save(path)
            log.info("saved    %s", path)
        return targets


# --- from settings to objects ------------------------------------------------------------------


def _model_and_settings(given: TrainConfig) -> tuple[Model, TrainConfig]:
    """The model to begin with, and every setting of the run."""
    if given.dataset is None:
        raise UsageError("no pairs given: expected a pair file (--pairs)")
    for name in WITHOUT_MEANING:
        if getattr(given, name) is not None:
            raise UsageError(f"{name}: not for contrastive training")
    if (given.accumulation or 1) > 1:
        raise UsageError(
            "accumulation: not for contrastive training: take larger batches, which need no more"
            " memory and give each pair more to be told from"
        )
    model_path = given.model or "new"
    given = msgspec.structs.replace(given, model=model_path)
    defaults = TrainConfig(patience=PATIENCE)
    if model_path == "new":
        given = settings.merge(given, TrainConfig(domain=DOMAIN))
    model, source = start_model(given)
    if source is not None:
        defaults = settings.merge(defaults, FINE_TUNING)
        if not model.metadata.domain:
            model.metadata = replace(model.metadata, domain=DOMAIN)
    given = settings.merge(given, defaults)
    resolved = settings.resolve(given, new_model=source is None)
    if resolved.batch_size == 1:
        raise UsageError("batch_size = 1: expected 2 or more: a pair is told from the others")
    return model, resolved


def _plan(c: TrainConfig) -> Plan:
    names = ("epochs", "batch_size", "lr", "warmup_steps", "min_lr", "max_steps", "shuffle",
             "seed")  # fmt: skip
    return Plan(**{name: getattr(c, name) for name in names})
