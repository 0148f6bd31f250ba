"""One contrastive run: its model, pairs and trainer, from the first step or a checkpoint on."""

import logging
import math
import os
import time
from logging.handlers import MemoryHandler
from pathlib import Path

import msgspec
import numpy as np

from calmgrad import settings
from calmgrad.contrastive.events import Evaluated, Prepared, Result
from calmgrad.contrastive.resume import Found, State, find, fingerprint
from calmgrad.contrastive.start import TEMPERATURE, model_and_settings
from calmgrad.errors import CalmgradError, UsageError, usage_errors
from calmgrad.events import Calls
from calmgrad.formats.checkpoint import Checkpoint
from calmgrad.formats.files import counted
from calmgrad.loop import Ahead, Course, Report
from calmgrad.model import Model
from calmgrad.resume import abandon_later, check_end
from calmgrad.retrieval import evaluate_pairs, figures, load_pairs
from calmgrad.rundir import RunDirectory
from calmgrad.running import Running
from calmgrad.saving import Saver
from calmgrad.settings import TrainConfig
from calmgrad.starting import (
    check_output,
    describe,
    is_file,
    plan_of,
    save_weights,
    size_name,
    trainer_of,
)
from calmgrad.telling import Lines, rate_of, say_device

log = logging.getLogger("calmgrad.run")
progress = logging.getLogger("calmgrad.progress")


class Run(Running[Evaluated]):
    """One run: its model, pairs, trainer and folder."""

    def __init__(
        self,
        given: TrainConfig,
        temperature: float | None,
        pool: str | None,
        strict: bool,
        early: MemoryHandler,
        calls: Calls[Prepared, Evaluated],
    ) -> None:
        super().__init__(calls, early)
        self.found = found = None if given.resume is None else find(given.resume)
        try:
            self._prepare(given, temperature, pool, strict)
        except BaseException:
            if found is not None:
                found.directory.close()
            raise

    def _prepare(
        self, given: TrainConfig, temperature: float | None, pool: str | None, strict: bool
    ) -> None:
        """All that is known before there is a folder."""
        self.temperature, self.pool = self._loss_of(temperature, pool)
        found = self.found
        with usage_errors():
            if found is None:
                self.model, self.config = model_and_settings(given)
            else:
                self.model, self.config = Model(found.checkpoint.model), found.config(given)
            self.plan = plan_of(self.config)
        c = self.config
        assert c.dataset is not None
        if c.output is not None:
            check_output(Path(c.output), c.dataset, c.val_dataset)
        l_max = self.model.config.l_max
        self.pairs = load_pairs(c.dataset, l_max, strict)
        self.validation = load_pairs(c.val_dataset, l_max, strict) if c.val_dataset else None
        with usage_errors():
            self.trainer = trainer_of(self.model, c)
        # calm-mamba makes no update of a single pair, which is told from no other.
        least = 2 if self.trainer.rules.name == "calm-mamba" else 1
        self.course = Course(self.plan, self.pairs.lengths, least)
        self.lowest = float("inf")  # mean loss of an epoch
        self.losses: list[float] = []
        self.lines = Lines(c.log_every)
        if found is not None:
            self._restore(found)

    def _loss_of(self, temperature: float | None, pool: str | None) -> tuple[float, str]:
        """Temperature and pooling: those given, those of the run that goes on, or the defaults."""
        then = None if self.found is None else self.found.state
        for name, given in (("temperature", temperature), ("pool", pool)):
            if then is not None and given is not None and given != getattr(then, name):
                was = getattr(then, name)
                raise UsageError(f"{name} = {given}: the run has {was}, and cannot go on otherwise")
        if then is not None:
            return then.temperature, then.pool
        temperature = TEMPERATURE if temperature is None else temperature
        if not 0 < temperature < float("inf"):
            raise UsageError(f"temperature = {temperature}: expected above 0")
        return temperature, pool or "mean"

    def train(self) -> Result:
        """Train, save, and say what came of it."""
        c, found = self.config, self.found
        if found is None:
            self.directory = RunDirectory(c.save_dir, "contrastive", bool(c.force))
        else:
            self.directory = found.directory
        self.saver = Saver(self.directory.checkpoints, c.checkpoint_every)
        began = time.perf_counter()
        try:
            self._open()
            self._say_plan()
            caught_up = self._catch_up()
            if self.done == 0 and self.stopped == "signal":
                return self._result([], began)
            self._steps()
            if caught_up or not self.saver.has(self.done):
                self._save_checkpoint()
            if self.best_weights is not None and self.stopped != "signal":
                self.model.weights[...] = self.best_weights
            weights = self._save()
            self.directory.draw(f"{size_name(self.model.config)}: InfoNCE loss")
            result = self._result(weights, began)
            if self.stopped != "signal":
                self.directory.finish(result.summary())
        except CalmgradError as error:
            self.directory.note(f"ended    {error}")
            raise
        finally:
            if self.done == 0:  # it ended before its first step
                self.directory.discard()
            self.directory.close()  # frees the lock: another run may take the name from here on
            self.trainer.close()
        return result

    def _result(self, weights: list[Path], began: float) -> Result:
        losses = self.losses or [math.nan]
        tenth = max(1, len(losses) // 10)
        return Result(
            model=self.model,
            run_directory=self.directory.path,
            weights=weights,
            steps=self.done,
            first_loss=float(np.mean(losses[:tenth])),
            last_loss=float(np.mean(losses[-tenth:])),
            before=self.before,
            best=self.best,
            stopped=self.stopped,
            seconds=time.perf_counter() - began,
        )

    def _open(self) -> None:
        """Open the run's files; of a run that goes on, up to its checkpoint."""
        self.saver.clean()
        goes_on_at = None
        if self.found is not None:
            abandon_later(self.directory.checkpoints, self.done)
            self.saver.newest = self.found.path
            goes_on_at = self.found.state.metrics_bytes
        flags = f"# with --temperature {self.temperature!r} --pool-mode {self.pool}\n"
        text = flags + settings.to_toml(self._kept_settings())
        self.directory.open(text, self.early.buffer, goes_on_at)
        self.early.setLevel(logging.CRITICAL)
        self.losses = self.directory.losses() if self.found is not None else []

    def _kept_settings(self) -> TrainConfig:
        """Where and how the run was started is no setting of it."""
        return msgspec.structs.replace(self.config, save_dir=None, force=None, resume=None)

    def _say_plan(self) -> None:
        plan = self.plan
        log.info(
            "run      %s in %s, batches of %d pairs, %s, %s, seed %d",
            counted(self.course.steps, "step"), counted(plan.epochs, "epoch"), plan.batch_size,
            self.config.optimizer, rate_of(plan), plan.seed,
        )  # fmt: skip
        log.info(
            "loss     symmetric InfoNCE, temperature %g, %s pooling", self.temperature, self.pool
        )
        if self.trainer.rules.name == "calm-mamba":
            log.info("rules    calm-mamba: a batch of one pair is left out; warm-up from step 0")
        say_device(self.config, self.trainer)
        log.info("folder   %s", self.directory.path)
        if self.calls.start is not None:
            described = describe(self.model.config)
            self.calls.start(Prepared(self.directory.path, described, self.course.steps))

    def _steps(self) -> None:
        """All updates that are left, or those until somebody or patience ends the run."""
        schedule = self.course.schedule(self.trainer.rules)
        self._stop_for_patience()
        ahead = Ahead(self.trainer, self._pauses)
        for step in range(self.done, self.course.steps):
            if self.stopped is not None:
                break
            epoch, [rows] = self.course.update(step)
            queries = [self.pairs.queries[i] for i in rows]
            passages = [self.pairs.passages[i] for i in rows]
            self.trainer.set_lr(schedule.at(step))
            self.trainer.contrastive_step_later(queries, passages, self.temperature, self.pool)
            tokens = sum(s.size for s in (*queries, *passages))
            report = Report(
                step + 1, self.course.steps, epoch + 1, math.nan, self.trainer.lr, math.nan,
                len(rows), tokens, 0.0,
            )  # fmt: skip
            ahead.add(report, None)
            if ahead.due():
                self._tell(ahead)
            if self.calls.stop is not None and self.calls.stop():
                self._tell(ahead)
                self.stopped = self.stopped or "signal"

    def _tell(self, ahead: Ahead) -> None:
        for report, _, outcome in ahead.told():
            outcome.check()
            self._after_step(report)

    def _pauses(self, step: int) -> bool:
        """Whether something may be done after this update, for which it must be known."""
        c = self.config
        every = self.lines.every(self.course.steps)
        return self.course.pauses(step, [c.eval_every, c.checkpoint_every, every])

    def _record_step(self, report: Report) -> None:
        self.losses.append(report.loss)
        self.directory.record(
            {"step": report.step, "epoch": report.epoch, "loss": report.loss, "lr": report.lr,
             "grad_norm": report.grad_norm, "pairs": report.sequences, "tokens": report.tokens}
        )  # fmt: skip

    def _end_epoch(self, epoch: int) -> None:
        mean = float(np.mean(self.losses[-self.course.epoch_steps[epoch - 1] :]))
        progress.info("epoch %d  mean loss %.4f", epoch, mean)
        if self.validation is None:  # patience looks at the training loss, as calm-mamba's does
            self._count(mean < self.lowest)
            self.lowest = min(mean, self.lowest)

    def _evaluate(self, step: int, epoch: int) -> None:
        if self.validation is None:
            return
        loss, found = evaluate_pairs(
            self.validation, self.plan.batch_size, self.temperature, self.pool,
            self.trainer.runner, self.calls.stop,
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
            if 0 < step < self.course.steps and not is_file(self.directory.weights, self._source):
                self.trainer.save(self.directory.weights)  # should the machine stop, it is safe
        self._count(best)
        self.before = self.before or evaluated
        if self.calls.eval is not None:
            self.calls.eval(evaluated)

    # --- the state of the run -----------------------------------------------------------------

    def _save_checkpoint(self) -> None:
        self.saver.save(self.done, self._state, self.best.step if self.best else None)

    def _state(self) -> Checkpoint:
        state = State(
            settings=settings.to_dict(self._kept_settings()),
            folder=os.getcwd(),
            temperature=self.temperature,
            pool=self.pool,
            pairs=fingerprint(self.pairs),
            validation=fingerprint(self.validation) if self.validation else None,
            step=self.done,
            metrics_bytes=self.directory.sync_metrics(),
            misses=self.misses,
            lowest=self.lowest if self.lowest < float("inf") else None,
            before=self.before,
            best=self.best,
            unvalidated=self.unvalidated,
        )
        held = {} if self.best_weights is None else {"best_weights": self.best_weights}
        return self.trainer.checkpoint(held, msgspec.to_builtins(state))

    def _restore(self, found: Found) -> None:
        """Be where the checkpoint was written; `_state` in reverse."""
        then, c = found.state, self.config
        found.check_pairs(self.pairs, c.dataset or "", then.pairs)
        if self.validation is not None:
            found.check_pairs(self.validation, c.val_dataset or "", then.validation)
        check_end(found.directory, then.step, self.course.steps)
        self.trainer.restore(found.checkpoint)
        self.done, self.misses = then.step, then.misses
        self.unvalidated = then.unvalidated
        self.lowest = float("inf") if then.lowest is None else then.lowest
        self.before, self.best = then.before, then.best
        self.best_weights = found.checkpoint.buffers.get("best_weights")

    def _save(self) -> list[Path]:
        targets = [self.directory.weights]
        if self.config.output is not None and self.stopped != "signal":
            targets.append(Path(self.config.output))
        save_weights(self.trainer, targets, self._source)
        return targets

    @property
    def _source(self) -> str | None:
        """The file of the model that the run began with."""
        return None if self.config.model == "new" else self.config.model
