"""Charts of the results, as SVG in calmgrad's own style: lines, and stacked bars."""

import math
from collections.abc import Mapping, Sequence
from html import escape

from calmgrad.plots.svg import DARK, LIGHT

WIDTH = 720
LEFT, RIGHT = 60, 640
HEIGHT = 260  # of the plot
Point = tuple[float, float]


def line_chart(
    title: str,
    x_label: str,
    y_label: str,
    series: Mapping[str, Sequence[Point]],
    dashed: Sequence[str] = (),
) -> str:
    """Lines with dots over a logarithmic x axis (base 2); y begins at 0.

    Args:
        series: name -> points; its colour is that of its first word.
        dashed: names of those that were calculated, not measured.
    """
    xs = sorted({x for points in series.values() for x, _ in points})
    low, high = math.log2(xs[0]), math.log2(xs[-1])
    top_value = max(y for points in series.values() for _, y in points)
    space = _tick_space(top_value)
    most = space * math.ceil(top_value / space)
    top = 44
    bottom = top + HEIGHT

    def x(value: float) -> float:
        return LEFT + (math.log2(value) - low) / (high - low or 1) * (RIGHT - LEFT)

    def y(value: float) -> float:
        return bottom - value / most * HEIGHT

    body = [_text(LEFT, 24, title, "title")]
    for i in range(round(most / space) + 1):
        value = i * space
        body.append(
            f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        )
        body.append(_text(LEFT - 8, y(value) + 4, f"{value:g}", "muted", "end"))
    last_label = -math.inf
    for value in xs:
        if x(value) - last_label > 34:
            body.append(_text(x(value), bottom + 18, f"{value:g}", "muted", "middle"))
            last_label = x(value)
    body.append(_text((LEFT + RIGHT) / 2, bottom + 38, x_label, "muted", "middle"))
    body.append(
        f'<text class="muted" text-anchor="middle"'
        f' transform="translate(14 {(top + bottom) // 2}) rotate(-90)">{escape(y_label)}</text>'
    )
    colours: dict[str, int] = {}
    ends: list[tuple[float, str, int]] = []
    for name, points in series.items():
        colour = colours.setdefault(name.split()[0], len(colours))
        where = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
        dash = ' stroke-dasharray="5 5"' if name in dashed else ""
        body.append(f'<g class="c{colour}"><polyline{dash} points="{where}"/>')
        if name not in dashed:
            body += [
                f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="3.5">'
                f"<title>{escape(name)}, {a:g}: {b:.3g}</title></circle>"
                for a, b in points
            ]
        body.append("</g>")
        if name in dashed or not any(d.split()[0] == name.split()[0] for d in dashed):
            ends.append((y(points[-1][1]), name.split()[0], colour))
    for place, name, colour in _apart(ends):
        body.append(f'<g class="c{colour}">{_text(RIGHT + 8, place + 4, name, "name")}</g>')
    return _svg(title, bottom + 48, body)


def bar_chart(title: str, bars: Mapping[str, Mapping[str, float]], least: float = 0.04) -> str:
    """A stacked bar for each name; parts are shares of 1, those below `least` become `other`."""
    top, thick, gap = 44, 30, 14
    body = [_text(LEFT, 24, title, "title")]
    for row, (name, parts) in enumerate(bars.items()):
        start, y = float(LEFT), top + row * (thick + gap)
        body.append(_text(LEFT - 8, y + thick / 2 + 4, name, "name", "end"))
        shown = {part: share for part, share in parts.items() if share >= least}
        shown["other"] = 1 - sum(shown.values())
        for part, share in shown.items():
            width = share * (WIDTH - 12 - LEFT)
            body.append(
                f'<rect x="{start:.1f}" y="{y}" width="{max(width - 1.5, 0):.1f}" height="{thick}">'
                f"<title>{escape(part)}: {share:.1%}</title></rect>"
            )
            label = part if 6.3 * len(part) < width else ""
            middle = start + width / 2
            body.append(_text(middle, y + 13, label, "inside", "middle"))
            if width > 30:
                body.append(_text(middle, y + 26, f"{share:.0%}", "inside", "middle"))
            start += width
    return _svg(title, top + len(bars) * (thick + gap), body)


def _apart(ends: list[tuple[float, str, int]]) -> list[tuple[float, str, int]]:
    """Labels moved down where they would lie on each other."""
    placed: list[tuple[float, str, int]] = []
    for y, name, colour in sorted(ends):
        if placed:
            y = max(y, placed[-1][0] + 15)
        placed.append((y, name, colour))
    return placed


def _tick_space(most: float) -> float:
    """1, 2 or 5 times a power of ten, for four to nine ticks."""
    power = 10.0 ** math.floor(math.log10(most / 4))
    return next(power * step for step in (1, 2, 5, 10) if most / (power * step) <= 8)


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return (
        f'<text class="{kind}" text-anchor="{anchor}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
        if text
        else ""
    )


def _svg(title: str, height: float, body: list[str]) -> str:
    """Stands alone, follows the reader's light or dark scheme, has no background."""

    def variables(colours: Mapping[str, str]) -> str:
        return "".join(f"--{name}:{colour};" for name, colour in colours.items())

    rules = [
        f"svg{{{variables(LIGHT)}}}",
        f"@media (prefers-color-scheme:dark){{svg{{{variables(DARK)}}}}}",
        "text{font:13px system-ui,sans-serif;fill:var(--ink)}",
        ".title{font-size:16px;font-weight:600}.name{font-weight:600}",
        ".muted{font-size:12px;fill:var(--muted)}.grid{stroke:var(--grid)}",
        ".inside{font-size:11px;fill:#fff}rect{fill:#3b5bb5}",
        "polyline{fill:none;stroke:currentColor;stroke-width:2}circle{fill:currentColor}",
        *(f".c{i}{{color:var(--c{i})}}" for i in range(4)),
        "g .name{fill:currentColor}",
    ]
    lines = "\n".join(line for line in body if line)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{WIDTH}" height="{height:.0f}"'
        f' viewBox="0 0 {WIDTH} {height:.0f}">\n<title>{escape(title)}</title>\n'
        f"<style>{''.join(rules)}</style>\n{lines}\n</svg>\n"
    )
