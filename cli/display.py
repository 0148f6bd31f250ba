"""What a training run shows: a live panel on a terminal, plain lines everywhere else."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from calmgrad.cli.common import INDENT, one_line, say

if TYPE_CHECKING:
    from calmgrad.events import Evaluated, Prepared
    from calmgrad.loop import Report

PLOT_ROWS = 9
PLOT_FROM = 10  # steps: before, there is no curve to see
REFRESHES = 4  # a second


class Lines(logging.Handler):
    """Log lines on stderr; the other methods have nothing to add."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())

    def start(self, prepared: "Prepared") -> None: ...

    def step(self, report: "Report") -> None: ...

    def evaluated(self, evaluated: "Evaluated") -> None: ...


class Panel(logging.Handler):
    """A panel that is drawn anew a few times a second; facts scroll by above it."""

    def __init__(self, command: str) -> None:
        super().__init__()
        self.command = command
        self.live: Any = None
        self.losses: list[float] = []
        self.evaluations: list[Evaluated] = []
        self.prepared: Prepared | None = None
        self.report: Report | None = None
        self.speed: list[tuple[int, float]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != "calmgrad.run":
            return
        from rich.table import Table
        from rich.text import Text

        message = one_line(
            record.getMessage()
        )  # "data     train.ctds: …": a word, then what it says
        line = Table.grid()
        line.add_column(width=INDENT)
        line.add_column(overflow="fold")
        line.add_row(Text(message[:INDENT]), Text(message[INDENT:]))
        with suppress(OSError):  # the terminal has gone: the run goes on
            self.live.console.print(line)

    def start(self, prepared: "Prepared") -> None:
        self.prepared = prepared
        self.live.start()

    def step(self, report: "Report") -> None:
        self.report = report
        self.losses.append(report.loss)
        self.speed = [*self.speed[-49:], (report.tokens, report.seconds)]

    def evaluated(self, evaluated: "Evaluated") -> None:
        self.evaluations.append(evaluated)

    def __rich__(self) -> Any:
        from rich import box
        from rich.console import Group
        from rich.panel import Panel as Box
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        report, prepared = self.report, self.prepared
        if report is None or prepared is None:
            return Text("the first step …", style="dim")
        width = min(self.live.console.width, 100) - 4
        seconds = sum(s for _, s in self.speed)
        left = (report.steps - report.step) * seconds / len(self.speed)
        bar = Table.grid(padding=(0, 1))
        position = f"{report.step:,}/{report.steps:,}"
        ahead = f"epoch {report.epoch}, {_duration(left)} left"
        bar.add_row(
            ProgressBar(report.steps, report.step, width=max(8, width - len(position + ahead) - 3)),
            Text(position, style="bold"),
            Text(ahead),
        )
        rows = [bar, *self._numbers(report, seconds)]
        if len(self.losses) >= PLOT_FROM or report.step == report.steps:
            rows.append(Text(self._plot(width), style="cyan"))
        return Box(
            Group(*rows),
            title=Text(f"calmgrad {self.command}: {prepared.run_directory}"),
            box=box.ROUNDED,
            width=width + 4,
        )

    def _numbers(self, report: "Report", seconds: float) -> list[Any]:
        from rich.text import Text

        from calmgrad.memory import resident

        recent = self.losses[-20:]
        losses = [("loss ", f"{sum(recent) / len(recent):.4f}")]
        if self.evaluations:
            best = min(e.loss for e in self.evaluations)
            losses.append(("validation ", f"{self.evaluations[-1].loss:.4f} (best {best:.4f})"))
        others = [
            ("lr ", f"{report.lr:.2e}"),
            ("gradient ", f"{report.grad_norm:.2f}"),
            ("", f"{sum(t for t, _ in self.speed) / seconds:,.0f} tokens/s"),
            ("", f"{resident() / 1e6:,.0f} MB"),
        ]
        lines = []
        for parts in (losses, others):
            line = Text()
            for name, value in parts:
                line.append(name, style="dim").append(value + "   ")
            lines.append(line)
        return lines

    def _plot(self, width: int) -> str:
        assert self.prepared is not None
        assert self.report is not None
        from calmgrad.plots import Curves, terminal_plot

        steps = range(self.report.step + 1 - len(self.losses), self.report.step + 1)
        curves = Curves(
            list(steps),
            self.losses,
            [e.step for e in self.evaluations],
            [e.loss for e in self.evaluations],
        )
        return terminal_plot({"": curves}, width, PLOT_ROWS, self.prepared.steps)


LINES = Lines()


def log_to_stderr() -> None:
    """From now on, what the package's loggers say goes to stderr, a line each."""
    logger = logging.getLogger("calmgrad")
    logger.setLevel(logging.INFO)
    logger.addHandler(LINES)


def _duration(seconds: float) -> str:
    from calmgrad.starting import duration

    return duration(seconds)


def wants_panel() -> bool:
    """Whether stderr is a terminal that can be drawn on."""
    return sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


@contextmanager
def display(command: str = "train") -> Iterator[Lines | Panel]:
    """Show what the loggers of a run say, until the end of the block.

    Args:
        command: which the panel is of.
    """
    if not wants_panel():
        yield LINES
        return
    from rich.console import Console
    from rich.live import Live

    panel = Panel(command)
    panel.live = live = Live(
        console=Console(stderr=True),
        refresh_per_second=REFRESHES,
        get_renderable=lambda: panel,
    )
    logger = logging.getLogger("calmgrad")
    logger.removeHandler(LINES)
    logger.addHandler(panel)
    try:
        yield panel
    finally:
        logger.removeHandler(panel)
        logger.addHandler(LINES)
        if live.is_started:
            with suppress(OSError):
                live.stop()


@contextmanager
def progress(what: str, unit: str) -> Iterator[Callable[[int, int], Any]]:
    """A function to tell (done, total) to: a bar on a terminal, else a line every ten seconds."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > 10:
            last = time.monotonic()
            say(f"         {done:,} of {total:,} {unit}")

    yield report
