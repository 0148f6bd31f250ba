"""One run: a model, data and a trainer, from the first step or from a checkpoint to the end."""

import logging
import os
import time
from contextlib import suppress
from dataclasses import asdict, replace
from logging.handlers import MemoryHandler
from pathlib import Path
from shlex import quote
from typing import Any

import msgspec
import numpy as np

from calmgrad import memory, settings
from calmgrad.continual import OnlineEWC
from calmgrad.errors import CalmgradError, DiskError, DivergedError, usage_errors
from calmgrad.evaluation import evaluate
from calmgrad.events import Calls, EpochEnd, Evaluated, Prepared, Result
from calmgrad.formats import cwgt
from calmgrad.formats.checkpoint import Checkpoint
from calmgrad.loop import Course, Report, fit
from calmgrad.model import Model
from calmgrad.resume import Found, abandon_later, check_end, may_begin_in
from calmgrad.run_state import Fingerprint, Progress, RunState, Validation, made_with
from calmgrad.rundir import RunDirectory
from calmgrad.running import Running
from calmgrad.saving import Saver
from calmgrad.settings import TrainConfig, users_file
from calmgrad.starting import (
    check_output,
    describe,
    is_file,
    kernels_are_compiled,
    load_kept,
    plan_of,
    reporters_of,
    save_weights,
    size_name,
    start_model,
    trainer_of,
)
from calmgrad.telling import Lines, say_memory, say_plan, say_unseen
from calmgrad.tokenizer import BOS, EOS

log = logging.getLogger("calmgrad.run")  # facts, in plain words
progress = logging.getLogger("calmgrad.progress")  # a line every so many steps


class Run(Running[Evaluated]):
    """One run.

    Args:
        given: what the user has set.
        calls: to be told what happens.
        early: holds what was logged so far.
        found: the run to go on with; None: a new one.
    """

    def __init__(
        self,
        given: TrainConfig,
        calls: Calls[Prepared, Evaluated],
        early: MemoryHandler,
        found: Found | None,
    ) -> None:
        super().__init__(calls, early)
        self.found = found
        with usage_errors():
            if found is None:
                self.model, self.source = start_model(given)
                self.config = c = settings.resolve(given, new_model=self.source is None)
            else:
                found.say()
                self.config = c = found.config(given)
                self.model, self.source = Model(found.checkpoint.model), found.source
            self.plan = plan_of(c)
        self.output = c.output or self.source
        assert c.dataset is not None
        if self.output is not None:
            check_output(Path(self.output), c.dataset, c.val_dataset)
        if given.dataset is None and found is None:
            users_file("train.ctds")
        self.dataset = load_kept(c.dataset, self.model.config.l_max, "train on")
        self.validation = None
        if c.val_dataset:
            self.validation = load_kept(c.val_dataset, self.model.config.l_max, "validate on")
        self.course = Course(self.plan, self.dataset.lengths)
        with usage_errors():
            # Online EWC sets the strength itself.
            self.trainer = trainer_of(self.model, msgspec.structs.replace(c, ewc_lambda=0.0)
                                      if c.continual else c)  # fmt: skip
        self.online = OnlineEWC(self.trainer, c.continual, self.plan.seed) if c.continual else None
        self.epoch_steps, self.epoch_loss = 0, 0.0  # of the epoch so far
        if found is not None:
            self._restore(found)
        self.fingerprints: dict[str, Fingerprint] = {}
        self.saved_best: Evaluated | None = self.best  # what the weights on the disk are
        self.lines = Lines(c.log_every)
        self.reporters: list[Any] = []
        self.began = self.epoch_began = time.perf_counter()

    def train(self) -> Result:
        """Train, save, and say what came of it."""
        directory = self._new_directory() if self.found is None else self.found.directory
        self.directory = directory
        self.saver = Saver(directory.checkpoints, self.config.checkpoint_every)
        self._stop_for_patience()
        try:
            if self._is_over() and directory.finished_after(self.done) and self._ends_as_before():
                return self._finished_before()
            self._open()
            self._load_kernels()
            self._say_plan()
            self._catch_up()
            if self.done == 0 and self.stopped == "signal":
                return self._result([])
            self.epoch_began = time.perf_counter()
            if not self._is_over() and self.stopped is None:
                renew = None if self.online is None else self.online.after_update
                fit(self.trainer, self.dataset, self.course,
                    self._after_step, self._stop, renew, self.done,
                    bool(self.config.debug_nan), self._pauses)  # fmt: skip
            return self._finish()
        except CalmgradError as error:
            directory.note(f"ended    {error}")
            if isinstance(error, DiskError) and self.saver.newest is not None:
                again = f"calmgrad train --resume {quote(str(directory.path))}"
                raise DiskError(f"{error}; with more room, go on: {again}") from error
            raise
        finally:
            for reporter in self.reporters:
                reporter.close()
            if self.done == 0:
                directory.discard()
            directory.close()  # which frees the lock: another run may take the name from here on
            self.trainer.close()

    # --- beginning ----------------------------------------------------------------------------

    def _new_directory(self) -> RunDirectory:
        c = self.config
        force = bool(c.force)
        if c.resume == "auto" and c.save_dir is not None:
            force = force or may_begin_in(Path(c.save_dir))
        return RunDirectory(c.save_dir, size_name(self.model.config), force)

    def _open(self) -> None:
        """Open the run's files, the checkpoints after ours and leftovers out of the way."""
        self.saver.clean()
        goes_on_at = None
        if self.found is not None:
            abandon_later(self.directory.checkpoints, self.done)
            self.saver.newest = self.found.path
            goes_on_at = self.found.state.progress.metrics_bytes
        text = settings.to_toml(self._kept_settings())
        self.directory.open(text, self.early.buffer, goes_on_at)
        self.early.setLevel(logging.CRITICAL)
        self.reporters = reporters_of(self.config, self.directory.path)

    def _kept_settings(self) -> TrainConfig:
        """Where and how the run was started is no setting of it: the file may serve another."""
        how = dict.fromkeys(("save_dir", "force", "resume", "debug_nan"))
        return msgspec.structs.replace(self.config, **how)

    def _load_kernels(self) -> None:
        """Load every kernel, or compile it; so the memory in use can be told, and the speed."""
        if self.trainer.device.index is not None:
            log.info("kernels  compiling for the GPU what is not in CuPy's cache yet")
        elif not kernels_are_compiled():
            log.info("kernels  compiling for this CPU, once (about 10 s)")
        with suppress(DivergedError):  # the first step will tell
            self.trainer.accumulate([BOS, *b"calmgrad", EOS])
        self.trainer.zero_grad()

    def _say_plan(self) -> None:
        c, trainer = self.config, self.trainer
        say_plan(c, self.plan, self.course, trainer, self.online)
        say_unseen(self.model.metadata, self.dataset)
        if self.validation is None and (c.eval_every or c.patience):
            log.info("note     eval_every and patience have no effect without a val_dataset")
        needed = say_memory(c, self.dataset, self.course, trainer)
        log.info("folder   %s", self.directory.path)
        if self.calls.start is not None:
            described = describe(self.model.config)
            self.calls.start(Prepared(self.directory.path, described, self.course.steps, needed))

    def _pauses(self, step: int) -> bool:
        """Whether something may be done after this update, for which it must be known."""
        c = self.config
        intervals = [c.eval_every, c.checkpoint_every, self.lines.every(self.course.steps)]
        if self.online is not None:
            intervals.append(self.online.every)
        return self.course.pauses(step, intervals)

    # --- steps --------------------------------------------------------------------------------

    def _is_over(self) -> bool:
        if self.unvalidated:
            return False
        return self.done == self.course.steps or self.stopped == "patience"

    def _stop(self) -> bool:
        if self.stopped is None and self.calls.stop is not None and self.calls.stop():
            self.stopped = "signal"
        return self.stopped is not None

    def _record_step(self, report: Report) -> None:
        self.epoch_steps += 1
        self.epoch_loss += report.loss
        values = asdict(report)
        self._record({k: values[k] for k in values if k not in ("steps", "seconds")})

    def _end_epoch(self, epoch: int) -> None:
        now = time.perf_counter()
        end = EpochEnd(epoch, self.epoch_loss / self.epoch_steps, now - self.epoch_began)
        self.epoch_began = now
        self.epoch_steps, self.epoch_loss = 0, 0.0
        progress.info("epoch %d  mean loss %.4f  %.0f s", end.epoch, end.loss, end.seconds)
        if self.calls.epoch is not None:
            self.calls.epoch(end)

    def _evaluate(self, step: int, epoch: int) -> None:
        if self.validation is None:
            return
        result = evaluate(
            self.model, self.validation, runner=self.trainer.runner, should_stop=self.calls.stop
        )
        best = self.best is None or _rank(result.token_mean) < _rank(self.best.loss)
        evaluated = Evaluated(step, epoch, result.token_mean, result.bits_per_byte, best)
        self._record(
            {"step": step, "epoch": epoch, "val_loss": evaluated.loss,
             "val_bits_per_byte": evaluated.bits_per_byte}
        )  # fmt: skip
        progress.info("validation after step %d: loss %.4f%s", step, evaluated.loss,
                      " (best so far)" if best and step else "")  # fmt: skip
        if best:
            self.best, self.best_weights = evaluated, self.model.weights.copy()
            if step:
                self.saver.wish()
        self._count(best)
        self.before = self.before or evaluated
        if self.calls.eval is not None:
            self.calls.eval(evaluated)

    def _record(self, values: dict[str, Any]) -> None:
        self.directory.record(values)
        for reporter in self.reporters:
            for name, value in values.items():
                if name not in ("step", "epoch") and value is not None:
                    reporter.add_scalar(name, value, values["step"])

    # --- the state of the run -----------------------------------------------------------------

    def _save_checkpoint(self) -> None:
        """Write all that the run is after this step, and the best weights if they are new."""
        path = self.saver.save(self.done, self._state, self.best.step if self.best else None)
        if self.calls.checkpoint is not None:
            self.calls.checkpoint(path)
        if self.best is not None and self.best != self.saved_best and self.best.step > 0:
            best = replace(self.model.data(), weights=self.best_weights)
            if not is_file(self.directory.weights, self.source):
                cwgt.write(self.directory.weights, best)
            self.saved_best = self.best

    def _state(self) -> Checkpoint:
        step = self.done
        now = Progress(
            step=step,
            epoch=self.course.update(step - 1)[0] + 1 if step else 0,
            steps_of_epoch=self.epoch_steps,
            loss_of_epoch=self.epoch_loss,
            metrics_bytes=self.directory.sync_metrics(),
            misses=self.misses,
            before=Validation.of(self.before),
            best=Validation.of(self.best),
            unvalidated=self.unvalidated,
        )
        run = RunState(
            progress=now,
            settings=settings.to_dict(self._kept_settings()),
            folder=os.getcwd(),
            data=self._fingerprint("data"),
            validation=None if self.validation is None else self._fingerprint("validation"),
            random={"seed": self.plan.seed},
            made_with=made_with(),
        )
        held = {} if self.best_weights is None else {"best_weights": self.best_weights}
        return self.trainer.checkpoint(held, msgspec.to_builtins(run))

    def _fingerprint(self, which: str) -> Fingerprint:
        """That of "data" or "validation": the same all the time, so it is taken once."""
        if which not in self.fingerprints:
            dataset = self.dataset if which == "data" else self.validation
            assert dataset is not None
            self.fingerprints[which] = Fingerprint.of(dataset)
        return self.fingerprints[which]

    def _restore(self, found: Found) -> None:
        """Be where the checkpoint was written; `_state` in reverse."""
        c, then = self.config, found.state.progress
        assert c.dataset is not None
        found.check_data(self.dataset, c.dataset, "data")
        if self.validation is not None:
            assert c.val_dataset is not None
            found.check_data(self.validation, c.val_dataset, "validation")
        check_end(found.directory, then.step, self.course.steps)
        self.trainer.restore(found.checkpoint)
        self.done, self.misses = then.step, then.misses
        self.unvalidated = then.unvalidated
        self.epoch_steps, self.epoch_loss = then.steps_of_epoch, then.loss_of_epoch
        self.before = then.before.evaluated() if then.before else None
        self.best = then.best.evaluated() if then.best else None
        self.best_weights = found.checkpoint.buffers.get("best_weights")
        if self.online is not None:
            self.online.recall(self.course, self.dataset, self.done)

    # --- the end ------------------------------------------------------------------------------

    def _finish(self) -> Result:
        """Write the last checkpoint, then the weights, then what it came to."""
        if not (self.saver.has(self.done) and self._ends_as_before()):
            self._save_checkpoint()
        if self.best_weights is not None and self.stopped != "signal":
            if self.config.export != "last":
                self.model.weights[...] = self.best_weights
        weights = self._export()
        seconds = time.perf_counter() - self.began
        self.directory.note(f"memory   {memory.resident() / 1e6:.0f} MB in use at the end")
        self.directory.note(
            f"saved    {self.saver.count} checkpoints in {self.saver.seconds:.1f} s,"
            f" {self.saver.seconds / seconds:.1%} of the time"
        )
        self.directory.draw(f"{size_name(self.model.config)}: loss")
        result = self._result(weights)
        if self.stopped != "signal":
            self.directory.finish(result.summary())
        return result

    def _ends_as_before(self) -> bool:
        """Whether what is to come of the run is what its checkpoint says."""
        if self.found is None:
            return True
        was_unvalidated = self.found.state.progress.unvalidated
        return self.found.ends_as(self.config) and was_unvalidated == self.unvalidated

    def _finished_before(self) -> Result:
        """Nothing is left to do, and nothing is written."""
        log.info(
            "done     the run in %s ended after step %d; more --epochs or --max-steps would"
            " prolong it", self.directory.path, self.done,
        )  # fmt: skip
        if self.best_weights is not None and self.config.export != "last":
            self.model.weights[...] = self.best_weights
        return self._result([self.directory.weights])

    def _result(self, weights: list[Path]) -> Result:
        losses = self.directory.losses() or [np.nan]  # somebody may have removed the metrics
        tenth = max(1, len(losses) // 10)
        return Result(
            model=self.model,
            run_directory=self.directory.path,
            weights=weights,
            checkpoint=self.saver.newest,
            steps=self.done,
            first_loss=float(np.mean(losses[:tenth])),
            last_loss=float(np.mean(losses[-tenth:])),
            before=self.before,
            best=self.best,
            stopped=self.stopped,
            seconds=time.perf_counter() - self.began,
        )

    def _export(self) -> list[Path]:
        targets = [self.directory.weights]
        if self.output is not None and self.stopped != "signal":
            targets.append(Path(self.output))
        save_weights(self.trainer, targets, self.source, self.calls.checkpoint)
        return targets


def _rank(loss: float) -> float:
    """Losses in order, NaN the worst."""
    return float("inf") if np.isnan(loss) else loss
