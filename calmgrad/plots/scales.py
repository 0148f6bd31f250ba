"""Which steps and losses a plot shows, and where its ticks are."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from calmgrad.plots.metrics import Curves

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Limits:
    """What of steps and losses is shown.

    Attributes:
        step: the last one; the first is 0.
        low, high: smallest and largest loss; both are ticks.
        space: between the ticks of the losses.
        above: (step, loss): up to this step there are losses above `high`, the largest of them
            this one. None: all is shown.
    """

    step: int
    low: float
    high: float
    space: float
    above: tuple[int, float] | None

    def remark(self) -> str:
        """What is not shown, in words."""
        if self.above is None:
            return ""
        step, loss = self.above
        return f"▲ up to step {step:,} some losses are above the plot, at most {loss:.2f}"


def limits(runs: Mapping[str, Curves]) -> Limits:
    """Limits that show every loss, but for a start that would leave the rest no room.

    The start is cut when the losses after 3 % of the steps fill less than a quarter of the plot.

    Raises:
        ValueError: there is no loss at all.
    """
    points = [point for curves in runs.values() for point in _all_points(curves)]
    if not points:
        raise ValueError("nothing to plot: no run has a loss")
    end = max(step for step, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    later = max(y for step, y in points if step >= 0.03 * end)
    largest = high
    if high - low > 4 * (later - low) > 0:
        high = later
    if high - low < 1e-6 * max(abs(high), 1e-3):
        pad = max(0.1 * abs(high), 1e-3)
        low, high = low - pad, high + pad
    space = tick_space(low, high, 6)
    low, high = math.floor(low / space + 1e-9) * space, math.ceil(high / space - 1e-9) * space
    above = [int(step) for step, y in points if y > high]
    return Limits(max(1, int(end)), low, high, space, (max(above), largest) if above else None)


def _all_points(curves: Curves) -> list[Point]:
    return [
        *zip(curves.steps, curves.losses, strict=True),
        *zip(curves.val_steps, curves.val_losses, strict=True),
    ]


def tick_space(low: float, high: float, count: float) -> float:
    """1, 2 or 5 times a power of ten: the space between at most about `count` + 1 ticks."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * n for n in (1, 2, 5, 10) if power * n >= rough * (1 - 1e-9))


def ticks(low: float, high: float, space: float) -> list[float]:
    """The multiples of `space` from `low` to `high`."""
    first, last = math.ceil(low / space - 1e-9), math.floor(high / space + 1e-9)
    return [i * space for i in range(first, last + 1)]


def tick_label(value: float, space: float) -> str:
    """A tick's value, with the digits that tell it from the next."""
    if abs(value) >= 1e6 or space < 1e-6:
        return f"{value:.6g}"
    return f"{value:,.{max(0, -math.floor(math.log10(space) + 1e-9))}f}"


def step_ticks(last: int, count: float) -> list[tuple[int, str]]:
    """Ticks of the steps from 0 to `last`, with their labels."""
    space = max(1.0, tick_space(0, last, count))
    return [(round(step), f"{step:,.0f}") for step in ticks(0, last, space)]
