"""A plot as an SVG that stands alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from calmgrad.plots.metrics import Curves
from calmgrad.plots.scales import Limits, Point, limits, step_ticks, tick_label, ticks

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
_End = tuple[float, float, int, str]  # of a curve: height, loss, colour, "line" or "dot"
DASHES = ["", "7 4", "2 4"]  # after the colours have been used up once, twice


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where losses and steps are in the picture, whose plot begins `top` pixels down."""

    shown: Limits
    top: int

    @property
    def bottom(self) -> int:
        return self.top + PLOT_HEIGHT

    def x(self, step: float) -> float:
        return LEFT + step / self.shown.step * (RIGHT - LEFT)

    def y(self, loss: float) -> float:
        share = (loss - self.shown.low) / (self.shown.high - self.shown.low)
        return self.bottom - share * PLOT_HEIGHT

    def line(self, points: Sequence[Point], attributes: str) -> str:
        thin = thinned(points, MOST_POINTS)
        thin = thin * 2 if len(thin) == 1 else thin  # a line of no length has round ends: a dot
        where = " ".join(f"{self.x(step):.2f},{self.y(loss):.2f}" for step, loss in thin)
        return f'<polyline {attributes} points="{where}"/>'


def loss_svg(curves_by_name: Mapping[str, Curves], title: str = "Loss") -> str:
    """An SVG of loss against step: raw and smoothed training curve, and the evaluations.

    It stands alone, follows the reader's light or dark scheme, and has no background.

    Raises:
        ValueError: there is no loss at all.
    """
    count = len(curves_by_name)
    frame = _Frame(limits(curves_by_name), 52 + 20 * count)
    top, height = frame.top, frame.bottom + 48
    faintness = f'class="raw" opacity="{0.35 if count == 1 else 0.18}"'
    axes = _axes(frame)
    legend, faint, curves, described = [], [], [], []
    ends: list[_End] = []
    for i, (name, run) in enumerate(curves_by_name.items()):
        label = one_line(name)
        described.append(f"{label}: {run.summary()}.")
        train = i % COLOURS
        val = 1 if count == 1 else train  # of one run, the evaluations have their own colour
        dash = DASHES[min(i // COLOURS, len(DASHES) - 1)]
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        legend.append(_legend_row(label, run, 46 + 20 * i, train, val, dashed))
        if run.steps:
            raw = list(zip(run.steps, run.losses, strict=True))
            faint.append(f'<g class="c{train}">{frame.line(raw, faintness)}</g>')
        curves.append(f'<g data-run="{escape(label)}">')
        curves += _curves(frame, run, train, val, dashed, ends)
        curves.append("</g>")
    if frame.shown.above is not None:
        remark = frame.shown.remark()
        axes.append(f'<text class="muted above" x="{LEFT + 44}" y="{top + 14}">{remark}</text>')
    body = [
        f"<title>{escape(one_line(title))}</title>",
        f"<desc>Loss in nats against training step. {escape(' '.join(described))}</desc>",
        f"<style>{_stylesheet()}</style>",
        f'<text class="title" x="{LEFT}" y="24">{escape(_short(one_line(title), 40))}</text>',
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
        *(_end_labels(frame, ends) if len(ends) <= MOST_LABELS else []),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="calmgrad-plot" role="img"'
        f' width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def _curves(
    frame: _Frame, run: Curves, train: int, val: int, dashed: str, ends: list[_End]
) -> list[str]:
    """The smoothed training curve and the evaluations of a run; adds where they end."""
    out = []
    if run.steps:
        smooth = list(zip(run.steps, run.smoothed(), strict=True))
        attributes = f'class="smooth"{dashed}'
        out += [f'<g class="c{train}">', frame.line(smooth, attributes), "</g>"]
        ends.append((frame.y(smooth[-1][1]), smooth[-1][1], train, "line"))
    if run.val_steps:
        points = list(zip(run.val_steps, run.val_losses, strict=True))
        out += [f'<g class="c{val}">', frame.line(points, 'class="link"')]
        out += [
            f'<circle class="val" cx="{frame.x(step):.2f}" cy="{frame.y(loss):.2f}" r="3.5">'
            f"<title>step {step:,}: {loss:.4f}</title></circle>"
            for step, loss in points
        ]
        out.append("</g>")
        ends.append((frame.y(points[-1][1]), points[-1][1], val, "dot"))
    return out


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


def _axes(frame: _Frame) -> list[str]:
    out = []
    shown, bottom, x, y = frame.shown, frame.bottom, frame.x, frame.y
    for loss in ticks(shown.low, shown.high, shown.space):
        out.append(
            f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y(loss):.2f}" y2="{y(loss):.2f}"/>'
        )
        out.append(
            f'<text class="muted y" text-anchor="end" x="{LEFT - 8}" y="{y(loss) + 4:.2f}">'
            f"{tick_label(loss, shown.space)}</text>"
        )
    for step, label in step_ticks(shown.step, 7):
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
    height = (frame.top + bottom) // 2
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


def _end_labels(frame: _Frame, ends: list[_End]) -> list[str]:
    """The last value of each curve at its height, moved apart where they would overlap."""
    ends = sorted(ends)
    places = [min(max(height, frame.top), frame.bottom) for height, *_ in ends]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + TEXT_GAP)
    if places and places[-1] > frame.bottom:
        places[-1] = frame.bottom
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


def one_line(text: str) -> str:
    """The text with characters that XML or a line does not allow replaced."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
