"""Loss curves of runs: read from their metrics, drawn as SVG, as PNG or in a terminal."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from io import BytesIO
from itertools import accumulate, pairwise

from calmgrad.errors import FileError
from calmgrad.formats.files import AnyPath, display, read_file

Point = tuple[float, float]
_Map = Callable[[float], float]

LARGEST_LOSS = 1e30  # what is beyond it is no number to draw
LARGEST_STEP = 2**53
LONGEST_LINE = 1 << 16  # bytes; one of ours has about 200, and a million zeros take 8 MB to read


# --- metrics ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Curves:
    """Losses in nats of one run, in the order of their steps.

    Attributes:
        steps, losses: of training.
        val_steps, val_losses: of the evaluations.
        left_out: losses that are not finite (or beyond 1e30).
    """

    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    val_steps: list[int] = field(default_factory=list)
    val_losses: list[float] = field(default_factory=list)
    left_out: int = 0

    def best_validation(self) -> tuple[int, float] | None:
        """Step and loss of the best evaluation; None without one."""
        pairs = zip(self.val_steps, self.val_losses, strict=True)
        return min(pairs, key=lambda pair: pair[1], default=None)

    def smoothed(self) -> list[float]:
        """The training losses, each averaged with its neighbours: 1/50 of the run on each side.

        At the start the stretch is as long on both sides, so that the curve starts at the first
        loss; at the end it is what there is.
        """
        count = len(self.losses)
        sums = [0.0, *accumulate(self.losses)]
        out = []
        for i in range(count):
            side = min(count // 50, i)
            first, stop = i - side, min(i + side + 1, count)
            out.append((sums[stop] - sums[first]) / (stop - first))
        return out


def read_metrics(path: AnyPath) -> Curves:
    """The curves in a metrics.jsonl; where a step occurs twice, the later line counts.

    A broken last line is ignored: it is being written, or a crash has cut it.

    Raises:
        FileError: the file is missing, or another line is broken.
    """
    content = read_file(path).rstrip()
    last = content.count(b"\n") + 1
    found: dict[str, dict[int, float]] = {"loss": {}, "val_loss": {}}
    left_out = 0
    for number, line in enumerate(BytesIO(content), 1):
        try:
            step, losses = _parse(line)
        except ValueError as error:
            if number == last:
                break
            raise FileError(f"{display(path)}: line {number}: {error}") from error
        for kind, loss in losses.items():
            if abs(loss) < LARGEST_LOSS:  # so not NaN either
                found[kind][step] = loss
            else:
                left_out += 1
    train, val = sorted(found["loss"].items()), sorted(found["val_loss"].items())
    return Curves(
        [step for step, _ in train],
        [loss for _, loss in train],
        [step for step, _ in val],
        [loss for _, loss in val],
        left_out,
    )


def _parse(line: bytes) -> tuple[int, dict[str, float]]:
    """The step of a line, and its losses by kind."""
    if len(line) > LONGEST_LINE:
        raise ValueError(f"{len(line)} bytes: expected at most {LONGEST_LINE}")
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("not JSON: expected one object") from None
    if not isinstance(values, dict):
        raise ValueError("expected a JSON object")
    losses = {kind: values[kind] for kind in ("loss", "val_loss") if kind in values}
    for kind, loss in losses.items():
        if isinstance(loss, bool) or not isinstance(loss, int | float):
            raise ValueError(f"{kind}: expected a number")
        losses[kind] = loss if abs(loss) < LARGEST_LOSS else math.nan
    step = values.get("step")
    if not losses:  # a line of another kind
        return 0, losses
    if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < LARGEST_STEP:
        raise ValueError("step: expected a whole number, 0 or more and below 2^53")
    return step, losses


# --- scales -----------------------------------------------------------------------------------


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


def _tick_label(value: float, space: float) -> str:
    if abs(value) >= 1e6 or space < 1e-6:
        return f"{value:.6g}"
    return f"{value:,.{max(0, -math.floor(math.log10(space) + 1e-9))}f}"


def _step_ticks(last: int, count: float) -> list[tuple[int, str]]:
    space = max(1.0, tick_space(0, last, count))
    return [(round(step), f"{step:,.0f}") for step in ticks(0, last, space)]


def summary(name: str, curves: Curves) -> str:
    """A run in a sentence."""
    parts = []
    if curves.steps:
        first, last = curves.losses[0], curves.smoothed()[-1]
        parts.append(f"training loss from {first:.3f} to {last:.3f} at step {curves.steps[-1]:,}")
    best = curves.best_validation()
    if best is not None:
        parts.append(f"best validation loss {best[1]:.3f} at step {best[0]:,}")
    return f"{name}: {', '.join(parts) or 'no loss'}."


# --- SVG --------------------------------------------------------------------------------------

WIDTH = 720
LEFT, RIGHT = 60, 648  # of the plot, in pixels
PLOT_HEIGHT = 300
MOST_POINTS = 1400  # of a line: two a pixel
MOST_LABELS = 16  # at the ends of the curves; the legend has the values too
TEXT_GAP = 15

NOTE = "lines: training, smoothed and (faint) raw · dots: validation"

# Of the runs: told apart with every kind of colour blindness, at least 3:1 against the page.
# Ink and muted are for text, at least 4.5:1.
LIGHT = {
    "ink": "#1f2328",
    "muted": "#59636e",
    "grid": "#d8dee4",
    "c0": "#1f4fd8",
    "c1": "#d76a00",
    "c2": "#0b9c87",
    "c3": "#ae67d8",
    "c4": "#662900",
    "c5": "#22192d",
}
DARK = {
    "ink": "#f0f3f6",
    "muted": "#9ea7b3",
    "grid": "#30363d",
    "c0": "#4f86ff",
    "c1": "#e0681e",
    "c2": "#00d3a0",
    "c3": "#f090e6",
    "c4": "#ffdc3a",
    "c5": "#ffffff",
}
COLOURS = sum(name.startswith("c") for name in LIGHT)
DASHES = ["", "7 4", "2 4"]  # after the colours have been used up once, twice


def loss_svg(curves_by_name: Mapping[str, Curves], title: str = "Loss") -> str:
    """An SVG of loss against step: raw and smoothed training curve, and the evaluations.

    It stands alone, follows the reader's light or dark scheme, and has no background.

    Raises:
        ValueError: there is no loss at all.
    """
    shown = limits(curves_by_name)
    names = list(curves_by_name)
    top = 52 + 20 * len(names)
    bottom = top + PLOT_HEIGHT
    height = bottom + 48

    def x(step: float) -> float:
        return LEFT + step / shown.step * (RIGHT - LEFT)

    def y(loss: float) -> float:
        return bottom - (loss - shown.low) / (shown.high - shown.low) * PLOT_HEIGHT

    def line(points: Sequence[Point], attributes: str) -> str:
        thin = thinned(points, MOST_POINTS)
        thin = thin * 2 if len(thin) == 1 else thin  # a line of no length has round ends: a dot
        where = " ".join(f"{x(step):.2f},{y(loss):.2f}" for step, loss in thin)
        return f'<polyline {attributes} points="{where}"/>'

    faintness = f'class="raw" opacity="{0.35 if len(names) == 1 else 0.18}"'
    axes = _axes(shown, x, y, top, bottom)
    legend, faint, curves, ends = [], [], [], []
    for i, (name, run) in enumerate(curves_by_name.items()):
        label = _one_line(name)
        train = i % COLOURS
        val = 1 if len(names) == 1 else train  # of one run, the evaluations have their own colour
        dash = DASHES[min(i // COLOURS, len(DASHES) - 1)]
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        legend.append(_legend_row(label, run, 46 + 20 * i, train, val, dashed))
        raw = list(zip(run.steps, run.losses, strict=True))
        smooth = list(zip(run.steps, run.smoothed(), strict=True))
        points = list(zip(run.val_steps, run.val_losses, strict=True))
        curves.append(f'<g data-run="{escape(label)}">')
        if raw:
            faint.append(f'<g class="c{train}">{line(raw, faintness)}</g>')
            curves.append(f'<g class="c{train}">')
            curves.append(line(smooth, f'class="smooth"{dashed}'))
            curves.append("</g>")
            ends.append((y(smooth[-1][1]), smooth[-1][1], train, "line"))
        if points:
            curves.append(f'<g class="c{val}">')
            curves.append(line(points, 'class="link"'))
            curves += [
                f'<circle class="val" cx="{x(step):.2f}" cy="{y(loss):.2f}" r="3.5">'
                f"<title>step {step:,}: {loss:.4f}</title></circle>"
                for step, loss in points
            ]
            curves.append("</g>")
            ends.append((y(points[-1][1]), points[-1][1], val, "dot"))
        curves.append("</g>")
    if shown.above is not None:
        axes.append(
            f'<text class="muted above" x="{LEFT + 44}" y="{top + 14}">{shown.remark()}</text>'
        )
    description = " ".join(summary(_one_line(name), run) for name, run in curves_by_name.items())
    body = [
        f"<title>{escape(_one_line(title))}</title>",
        f"<desc>Loss in nats against training step. {escape(description)}</desc>",
        f"<style>{_stylesheet()}</style>",
        f'<text class="title" x="{LEFT}" y="24">{escape(_short(_one_line(title), 40))}</text>',
        f'<text class="muted" text-anchor="end" x="{WIDTH - 8}" y="24">{NOTE}</text>',
        *legend,
        *axes,
        # A view of its own clips the curves; the margin is for dots on its edges.
        f'<svg x="{LEFT - 5}" y="{top - 5}" width="{RIGHT - LEFT + 10}"'
        f' height="{PLOT_HEIGHT + 10}"'
        f' viewBox="{LEFT - 5} {top - 5} {RIGHT - LEFT + 10} {PLOT_HEIGHT + 10}">',
        *faint,
        *curves,
        "</svg>",
        *(_end_labels(ends, top, bottom) if len(ends) <= MOST_LABELS else []),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="calmgrad-plot" role="img"'
        f' width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """At most about `most` of the points: of each stretch the lowest and the highest."""
    if len(points) <= most:
        return list(points)
    stretches = most // 2
    out = []
    for i in range(stretches):
        part = points[i * len(points) // stretches : (i + 1) * len(points) // stretches]
        both = {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}
        out += sorted(both)
    return sorted({points[0], *out, points[-1]})


def _stylesheet() -> str:
    def variables(colours: Mapping[str, str]) -> str:
        return "".join(f"--{name}:{colour};" for name, colour in colours.items())

    plot = ".calmgrad-plot"
    rules = [
        f"{plot}{{{variables(LIGHT)}}}",
        f"@media (prefers-color-scheme:dark){{{plot}{{{variables(DARK)}}}}}",
        f"{plot}{{max-width:100%;height:auto}}",
        f"{plot} text{{font:13px system-ui,sans-serif;font-variant-numeric:tabular-nums;"
        f"{_both('fill', 'ink')}}}",
        f"{plot} .title{{font-size:16px;font-weight:600}}",
        f"{plot} .name{{font-weight:600}}",
        f"{plot} .muted{{font-size:12px;{_both('fill', 'muted')}}}",
        f"{plot} .grid{{{_both('stroke', 'grid')}}}",
        f"{plot} .axis{{{_both('stroke', 'muted')}}}",
        f"{plot} polyline{{fill:none;stroke:currentColor;stroke-linejoin:round;"
        "stroke-linecap:round}",
        f"{plot} .smooth{{stroke-width:2}}",
        f"{plot} .link{{stroke-width:1.5;stroke-dasharray:1 4}}",
        f"{plot} .val{{fill:currentColor}}",
        *(f"{plot} .c{i}{{{_both('color', f'c{i}')}}}" for i in range(COLOURS)),
    ]
    return "\n".join(rules)


def _both(what: str, name: str) -> str:
    """A property by its variable, and before that for readers that know no variables."""
    return f"{what}:{LIGHT[name]};{what}:var(--{name});"


def _axes(shown: Limits, x: _Map, y: _Map, top: int, bottom: int) -> list[str]:
    out = []
    for loss in ticks(shown.low, shown.high, shown.space):
        out.append(
            f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y(loss):.2f}" y2="{y(loss):.2f}"/>'
        )
        out.append(
            f'<text class="muted y" text-anchor="end" x="{LEFT - 8}" y="{y(loss) + 4:.2f}">'
            f"{_tick_label(loss, shown.space)}</text>"
        )
    for step, label in _step_ticks(shown.step, 7):
        out.append(
            f'<line class="axis" x1="{x(step):.2f}" x2="{x(step):.2f}" y1="{bottom}"'
            f' y2="{bottom + 4}"/>'
        )
        out.append(
            f'<text class="muted x" text-anchor="middle" x="{x(step):.2f}" y="{bottom + 18}">'
            f"{label}</text>"
        )
    out.append(f'<line class="axis" x1="{LEFT}" x2="{RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    middle = (LEFT + RIGHT) // 2
    out.append(
        f'<text class="muted" text-anchor="middle" x="{middle}" y="{bottom + 38}">step</text>'
    )
    height = (top + bottom) // 2
    out.append(
        f'<text class="muted" text-anchor="middle" transform="translate(14 {height}) rotate(-90)">'
        "loss, nats</text>"
    )
    return out


def _legend_row(label: str, run: Curves, y: int, train: int, val: int, dashed: str) -> str:
    """Name, colours and last values of a run."""
    out = []
    if run.steps:
        out.append(
            f'<g class="c{train}"><polyline class="smooth"{dashed}'
            f' points="{LEFT},{y - 4} {LEFT + 20},{y - 4}"/></g>'
        )
    last = f" training {run.smoothed()[-1]:.3f}" if run.steps else ""
    out.append(
        f'<text x="{LEFT + 28}" y="{y}"><tspan class="name">{escape(_short(label, 24))}</tspan>'
        f'<tspan class="muted" dx="4">{last}</tspan></text>'
    )
    best = run.best_validation()
    if best is not None:
        out.append(
            f'<g class="c{val}"><circle class="val" cx="400" cy="{y - 4}" r="3.5"/></g>'
            f'<text class="muted" x="410" y="{y}">validation {run.val_losses[-1]:.3f},'
            f" best {best[1]:.3f} at step {best[0]:,}</text>"
        )
    return "\n".join(out)


def _end_labels(ends: list[tuple[float, float, int, str]], top: int, bottom: int) -> list[str]:
    """The last value of each curve at its height, moved apart where they would overlap."""
    ends = sorted(ends)
    places = [min(max(height, top), bottom) for height, *_ in ends]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + TEXT_GAP)
    if places and places[-1] > bottom:
        places[-1] = bottom
        for i in range(len(places) - 2, -1, -1):
            places[i] = min(places[i], places[i + 1] - TEXT_GAP)
    out = []
    for (height, loss, colour, kind), place in zip(ends, places, strict=True):
        out.append(f'<g class="c{colour}">')
        out.append(
            f'<polyline points="{RIGHT + 4},{height:.2f} {RIGHT + 10},{place:.2f}'
            f' {RIGHT + 18},{place:.2f}"/>'
        )
        if kind == "dot":
            out.append(f'<circle class="val" cx="{RIGHT + 14}" cy="{place:.2f}" r="3.5"/>')
        out.append("</g>")
        out.append(f'<text class="end" x="{RIGHT + 23}" y="{place + 4:.2f}">{loss:.3f}</text>')
    return out


def _short(text: str, most: int) -> str:
    """The text, without its middle if it is long."""
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


def _one_line(text: str) -> str:
    """The text with characters that XML or a line does not allow replaced."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


# --- PNG --------------------------------------------------------------------------------------


def loss_png(curves_by_name: Mapping[str, Curves], title: str = "Loss") -> bytes:
    """The same plot as a PNG file, by matplotlib.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there is no loss at all.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = limits(curves_by_name)
    figure = Figure(figsize=(7.2, 4.2), dpi=200, layout="constrained")
    axes = figure.add_subplot()
    for i, (name, run) in enumerate(curves_by_name.items()):
        label = _one_line(name).replace("$", r"\$")  # else matplotlib reads formulas
        train = LIGHT[f"c{i % COLOURS}"]
        val = LIGHT["c1"] if len(curves_by_name) == 1 else train
        if run.steps:
            axes.plot(run.steps, run.losses, color=train, alpha=0.35, linewidth=0.7)
            axes.plot(run.steps, run.smoothed(), color=train, label=f"{label}, training (smoothed)")
        if run.val_steps:
            axes.plot(run.val_steps, run.val_losses, "o:", color=val, markersize=4,
                      label=f"{label}, validation")  # fmt: skip
    if shown.above is not None:
        axes.text(0.07, 0.95, shown.remark(), transform=axes.transAxes, color=LIGHT["muted"])
    axes.set(xlim=(0, 1.01 * shown.step), ylim=(shown.low, shown.high))
    axes.set(xlabel="step", ylabel="loss, nats", title=_one_line(title).replace("$", r"\$"))
    axes.grid(color=LIGHT["grid"])
    axes.legend()
    file = BytesIO()
    FigureCanvasAgg(figure).print_png(file)
    return file.getvalue()


# --- terminal ---------------------------------------------------------------------------------

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
        round((shown.high - loss) / (shown.high - shown.low) * (rows - 1)): _tick_label(loss, space)
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
    for step, label in _step_ticks(last, max(2, columns // 12)):
        column = round(step / last * (2 * columns - 1)) // 2
        line[column] = "┬"
        start = margin + 1 + column - len(label) // 2
        labels[start : start + len(label)] = label
    text = "".join(labels[: margin + 1 + columns + END_WIDTH]).rstrip()
    return [" " * margin + "└" + "".join(line), text + " step"]
