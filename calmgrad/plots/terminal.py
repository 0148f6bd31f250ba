"""A plot in a terminal, of braille dots."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from calmgrad.plots.metrics import Curves
from calmgrad.plots.scales import limits, step_ticks, tick_label, tick_space, ticks

# Bits of the eight dots of a braille character, by row and column.
DOTS = [[1, 8], [2, 16], [4, 32], [64, 128]]
END_WIDTH = 8  # columns for the last values


def terminal_plot(
    curves_by_name: Mapping[str, Curves], width: int = 80, height: int = 16, steps: int = 0
) -> str:
    """Lines of braille: smoothed training curves, and `o` for evaluations.

    Args:
        width, height: columns and lines of the plot, axes included; at least 40 and 6 are used.
        steps: where the axis of steps ends, if the runs do not go beyond.

    At its end each curve has its last value, with several runs preceded by a, b, c … in order.

    Raises:
        ValueError: there is no loss at all.
    """
    shown = limits(curves_by_name)
    shown = replace(shown, step=max(shown.step, steps))
    rows = max(height, 6) - (2 if shown.above is None else 3)
    space = max(shown.space, tick_space(shown.low, shown.high, rows / 2))
    labels = {
        round((shown.high - loss) / (shown.high - shown.low) * (rows - 1)): tick_label(loss, space)
        for loss in ticks(shown.low, shown.high, space)
    }
    margin = max(map(len, labels.values())) + 1
    columns = max(width, 40) - margin - 1 - END_WIDTH
    cells: dict[tuple[int, int], str] = {}

    def at(step: float, loss: float) -> tuple[float, float]:
        """Column and row, in dots."""
        share = (shown.high - loss) / (shown.high - shown.low)
        # Half a line up and down from the ticks, which stand in the middle of theirs.
        return step / shown.step * (2 * columns - 1), share * 4 * (rows - 1) + 1.5

    ends: dict[int, str] = {}
    for letter, run in zip(_letters(len(curves_by_name)), curves_by_name.values(), strict=True):
        smooth = [at(*point) for point in zip(run.steps, run.smoothed(), strict=True)]
        for column, row in _dots_between(smooth):
            if 0 <= row < 4 * rows:
                cell = (row // 4, column // 2)
                bits = ord(cells.get(cell, "\u2800")) | DOTS[row % 4][column % 2]
                cells[cell] = chr(bits)
        if smooth:
            row = min(rows - 1, max(0, round(smooth[-1][1]) // 4))
            while row in ends and row + 1 < rows:
                row += 1
            ends[row] = f" {letter}{run.smoothed()[-1]:.3f}"
    for run in curves_by_name.values():
        for point in zip(run.val_steps, run.val_losses, strict=True):
            column, row = (round(n) for n in at(*point))
            if row >= 0:
                cells[row // 4, column // 2] = "o"
    lines = [] if shown.above is None else [" " * (margin + 3) + shown.remark()]
    for row in range(rows):
        edge = "┤" if row in labels else "│"
        drawn = "".join(cells.get((row, column), " ") for column in range(columns))
        line = f"{labels.get(row, ''):>{margin - 1}} {edge}{drawn}{ends.get(row, '')}"
        lines.append(line.rstrip())
    return "\n".join([*lines, *_step_axis(shown.step, margin, columns)])


def _letters(count: int) -> list[str]:
    return [""] if count == 1 else [f"{chr(ord('a') + i % 26)} " for i in range(count)]


def _dots_between(points: Sequence[tuple[float, float]]) -> set[tuple[int, int]]:
    """The dots of the line through the points, without gaps."""
    dots = {(round(x), round(y)) for x, y in points}
    for (x0, y0), (x1, y1) in pairwise(points):
        pieces = math.ceil(max(abs(x1 - x0), abs(y1 - y0)))
        for i in range(1, pieces):
            share = i / pieces
            dots.add((round(x0 + (x1 - x0) * share), round(y0 + (y1 - y0) * share)))
    return dots


def _step_axis(last: int, margin: int, columns: int) -> list[str]:
    line, labels = ["─"] * columns, [" "] * (margin + 1 + columns + END_WIDTH)
    for step, label in step_ticks(last, max(2, columns // 12)):
        column = round(step / last * (2 * columns - 1)) // 2
        line[column] = "┬"
        start = margin + 1 + column - len(label) // 2
        labels[start : start + len(label)] = label
    text = "".join(labels[: margin + 1 + columns + END_WIDTH]).rstrip()
    return [" " * margin + "└" + "".join(line), text + " step"]
