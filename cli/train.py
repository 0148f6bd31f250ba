"""calmgrad train"""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from calmgrad.cli.common import (
    data_folder,
    load_finite,
    load_kept,
    say,
    size_name,
    threads_option,
    usage_errors,
)
from calmgrad.config import PRESETS, RULES
from calmgrad.errors import DiskError, UsageError

if TYPE_CHECKING:
    from calmgrad.loop import Report
    from calmgrad.model import Model

# `calm train`'s defaults for a model that exists already (FORMATS §9).
FINE_TUNING: dict[str, Any] = {"epochs": 3, "batch_size": 8, "lr": 5e-5, "warmup_steps": 0}
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


_Command = TypeVar("_Command", bound=Callable[..., object])


def _size(name: str) -> Callable[[_Command], _Command]:
    return click.option(f"--{name}", type=click.IntRange(1), help="Of a new model.")


@click.command("train")
@click.option(
    "-m",
    "--model",
    "--init-cwgt",
    "model_path",
    help='CWGT file to go on from, or "new".  [default: the user model; without one, new]',
)
@click.option(
    "-d", "--dataset", "dataset_path", help="CTDS file.  [default: the user's train.ctds]"
)
@click.option("-o", "--output", help="Where the weights go besides the run directory.  "
              "[default: the model's own path; none for a new model]")  # fmt: skip
@click.option("-e", "--epochs", type=click.IntRange(1), help="[default: 10 for a new model, 3]")
@click.option(
    "-b", "--batch-size", type=click.IntRange(1), help="[default: the preset's for a new model, 8]"
)
@click.option("--lr", type=float, help="[default: the preset's for a new model, 5e-5]")
@click.option("--optimizer", type=click.Choice(["adam", "sgd"]), default="adam", show_default=True)
@click.option("--ewc-lambda", type=float, default=0.0, help="EWC strength.  [default: 0, off]")
@click.option("--grad-clip", type=float, default=1.0, show_default=True, help="0 = off.")
@click.option("--weight-decay", type=float, default=0.01, show_default=True)
@click.option("--warmup-steps", type=click.IntRange(0), help="Above 0: warm-up, then cosine.  "
              "[default: the preset's for a new model, 0]")  # fmt: skip
@click.option("--min-lr", type=float, default=1e-6, show_default=True, help="End of the cosine.")
@click.option(
    "-s", "--size", "--preset", "size", type=click.Choice(list(PRESETS)), help="Of a new model."
)
@_size("d-model")
@_size("n-layers")
@_size("ffn-expand")
@_size("expand")
@_size("d-state")
@_size("d-conv")
@_size("l-max")
@click.option("--domain", help="shell, dictionary, prose or netref.  [default: shell, if new]")
@click.option("--template", help="In place of the domain's or the model's.")
@click.option("--stop-conditions", help="In place of the domain's or the model's.")
@click.option("--save-dir", help="Run directory.  [default: runs/SIZE-N]")
@click.option("--force", is_flag=True, help="Use a run directory that exists already.")
@click.option("--max-steps", type=click.IntRange(1), help="End the run, and its schedule, here.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--shuffle/--no-shuffle", default=True, show_default=True)
@threads_option
@click.option(
    "--rules",
    type=click.Choice(list(RULES)),
    default="c-engine",
    show_default=True,
    help="Whose answer counts where the existing trainers differ.",
)
@click.option("--log-every", type=click.IntRange(1), help="Steps.  [default: about 40 lines a run]")
def command(**options: Any) -> None:
    """Train a model on a CTDS data set.

    A new model takes batch size, learning rate, warm-up and epochs of its size; an existing one
    is fine-tuned, and replaced at the end (its old file is kept once as .bak).
    """
    from calmgrad.loop import Plan, fit
    from calmgrad.trainer import Trainer

    rules = RULES[options["rules"]]
    with usage_errors():
        start = _model(options)
        plan = Plan(
            epochs=_default(options, start, "epochs"),
            batch_size=_default(options, start, "batch_size"),
            lr=_default(options, start, "lr"),
            warmup_steps=_default(options, start, "warmup_steps"),
            min_lr=options["min_lr"],
            max_steps=options["max_steps"],
            shuffle=options["shuffle"],
            seed=options["seed"],
        )
        trainer = Trainer(
            start.model,
            lr=plan.lr,
            optimizer=options["optimizer"],
            weight_decay=options["weight_decay"],
            grad_clip=options["grad_clip"],
            ewc_lambda=options["ewc_lambda"],
            rules=rules.name,
            threads=options["threads"],
        )
    output = options["output"] or start.path
    if output:
        check_folder(Path(output))
    path = options["dataset_path"] or data_folder() / "train.ctds"
    dataset = load_kept(path, start.model.config.l_max, "train on")
    steps = plan.steps(len(dataset))
    say(
        f"run      {steps:,} steps of {plan.batch_size}, {plan.epochs} epochs,"
        f" {options['optimizer']}, lr {plan.lr:g}"
        f"{f', warm-up {plan.warmup_steps} and cosine' if plan.warmup_steps else ''},"
        f" seed {plan.seed}, rules {rules.name}"
    )
    run = RunDirectory(options["save_dir"], size_name(start.model.config), options["force"])
    stop = StopSignal()
    try:
        with stop:
            progress = Progress(options["log_every"] or max(1, steps // 40))
            done = fit(trainer, dataset, plan, rules, progress, lambda: stop.caught is not None)
        written = run.path / "model.cwgt"
        trainer.save(written)
    finally:
        run.discard_if_empty()
    stop.leave_if_caught(f"step {done:,}: the weights so far are in {written}")
    say(f"saved    {written}")
    if output:
        if start.path is not None and Path(output) == start.path:
            keep_old(start.path)
        trainer.save(output)
        say(f"saved    {output}")
    trainer.close()
    say(f"next     calmgrad evaluate -m {written} -d {path}")


@dataclass(slots=True)
class Start:
    """The model a run begins with."""

    model: "Model"
    path: Path | None  # of the file it came from
    defaults: dict[str, Any]  # epochs, batch size, lr and warm-up that go with it


def _default(options: dict[str, Any], start: Start, name: str) -> Any:
    return options[name] if options[name] is not None else start.defaults[name]


def _model(options: dict[str, Any]) -> Start:
    """The model that `-m`, or its absence, means."""
    chosen = options["model_path"]
    if chosen is None:
        user = data_folder() / "user.cwgt"
        chosen = str(user) if user.exists() else "new"
        note = "" if chosen != "new" else f" (no model given, and none at {user})"
    else:
        note = ""
    sizes = ["d_model", "n_layers", "ffn_expand", "expand", "d_state", "d_conv", "l_max"]
    given = {name: options[name] for name in sizes if options[name] is not None}
    if chosen == "new":
        return _new_model(options, given, note)
    if given or options["size"]:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given) or "--size"
        raise UsageError(f"{flags}: only for a new model (-m new); {chosen} has its sizes")
    path = Path(chosen)
    model = load_finite(path)
    old = model.metadata
    model.metadata = replace(
        old,
        domain=old.domain if options["domain"] is None else options["domain"],
        template=old.template if options["template"] is None else options["template"],
        stop_conditions=old.stop_conditions
        if options["stop_conditions"] is None
        else options["stop_conditions"],
    )
    say(f"model    {path}: {describe(model)}")
    return Start(model, path, FINE_TUNING)


def _new_model(options: dict[str, Any], sizes: dict[str, Any], note: str) -> Start:
    from calmgrad.model import new_model

    model = new_model(
        options["size"],
        **sizes,
        seed=options["seed"],
        domain=options["domain"] or "shell",
        template=options["template"],
        stop_conditions=options["stop_conditions"],
    )
    preset = PRESETS[options["size"] or "nano"]
    say(f"model    new{note}: {describe(model)}")
    names = ("epochs", "batch_size", "lr", "warmup_steps")
    return Start(model, None, {name: getattr(preset, name) for name in names})


def describe(model: "Model") -> str:
    """A model in half a line."""
    c = model.config
    return (
        f"{size_name(c)}, {c.param_count:,} parameters"
        f" (d_model {c.d_model}, {c.n_layers} layers, d_inner {c.d_inner}, ffn {c.d_ffn})"
    )


def check_folder(output: Path) -> None:
    """Refuse a place for the finished weights before training, not after."""
    folder = output.resolve().parent
    if output.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise DiskError(f"{output}: cannot be written: expected a file in a writable folder")


def keep_old(path: Path) -> None:
    """Keep a model that is about to be replaced, unless an older one is kept already."""
    from calmgrad.formats.files import read_file, write_atomic

    backup = path.with_name(path.name + ".bak")
    if path.exists() and not backup.exists():
        write_atomic(backup, [read_file(path)])
        say(f"kept     the model as it was: {backup}")


class RunDirectory:
    """The folder of one run, made at once so that no second run takes the same."""

    def __init__(self, chosen: str | None, size: str, force: bool) -> None:
        self._made = True
        try:
            if chosen is None:
                self.path = self._next_free(size)
                return
            self.path = Path(chosen)
            try:
                self.path.mkdir(parents=True)
            except FileExistsError:
                self._made = False
                if not self.path.is_dir():
                    raise UsageError(f"{chosen}: a file, expected a folder") from None
                if any(self.path.iterdir()) and not force:
                    raise UsageError(
                        f"{chosen}: the run directory is not empty; --force uses it all the same"
                    ) from None
        except OSError as error:
            raise UsageError(
                f"{chosen or 'runs'}: cannot make the run directory: {error.strerror}"
            ) from error

    @staticmethod
    def _next_free(size: str) -> Path:
        number = 1
        while True:
            path = Path("runs") / f"{size}-{number}"
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                number += 1
            else:
                return path

    def discard_if_empty(self) -> None:
        """Remove the folder if this run made it and left nothing in it."""
        if self._made and self.path.is_dir() and not any(self.path.iterdir()):
            self.path.rmdir()


class StopSignal:
    """Inside, the first INT, TERM or HUP lets the step finish; a second one ends at once."""

    def __init__(self) -> None:
        self.caught: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignal":
        self._before = {number: signal.signal(number, self._catch) for number in SIGNALS}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def leave_if_caught(self, message: str) -> None:
        """End the process with the signal's exit code, if one has come."""
        if self.caught is not None:
            say(f"stopped  {message}")
            raise SystemExit(SIGNALS[self.caught])

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self.caught is not None:
            raise SystemExit(SIGNALS[signal.Signals(number)])
        self.caught = signal.Signals(number)
        say(f"stopping after this step ({self.caught.name}; once more to leave at once)")


class Progress:
    """A line every so many steps."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._tokens = 0
        self._loss = 0.0
        self._count = 0
        self._since = time.perf_counter()

    def __call__(self, report: "Report") -> None:
        self._tokens += report.tokens
        self._loss += report.loss
        self._count += 1
        if report.step % self._every and report.step != report.steps:
            return
        now = time.perf_counter()
        speed = self._tokens / (now - self._since)
        say(
            f"step {report.step:>6,}/{report.steps:,}  loss {self._loss / self._count:.4f}"
            f"  lr {report.lr:.2e}  gradient {report.grad_norm:.2f}  {speed:,.0f} tokens/s"
        )
        self._tokens, self._loss, self._count, self._since = 0, 0.0, 0, now
