"""Two kinds of pictures for the notebooks, as SVG: nothing to install, light or dark."""

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import ArrayLike, NDArray

WIDTH, LEFT, TOP, BOTTOM = 640, 64, 26, 34
COLOURS = ("#2f74c0", "#c4572b", "#2e8b57", "#8a5fbf", "#a07a00")
BLUE, RED = COLOURS[:2]


class Picture:
    """What Jupyter shows of it is `_repr_svg_`."""

    def __init__(self, parts: Sequence[str], height: float, title: str) -> None:
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}"'
            f' width="{WIDTH}" role="img" aria-label="{escape(title, quote=True)}"'
            ' style="max-width:100%;height:auto" font-family="system-ui, sans-serif"'
            f' font-size="12" fill="currentColor">'
        )
        self._svg = "\n".join([head, _text(0, 14, title, weight="bold"), *parts, "</svg>"])

    def _repr_svg_(self) -> str:
        return self._svg


def heat_map(
    values: ArrayLike,
    title: str,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    top: float | None = None,
) -> Picture:
    """A matrix as coloured cells: blue above 0, red below, nothing at 0.

    Args:
        values: (rows, columns).
        rows, columns: what to write beside and below them.
        top: the value of the full colour; the largest if not given.
    """
    array = np.asarray(values, float)
    count, width = array.shape
    cell = (WIDTH - LEFT) / width
    height = min(max(cell, 8), 20)
    full = top or float(np.abs(array).max()) or 1.0
    parts = []
    for i in range(count):
        for j in range(width):
            value = float(np.clip(array[i, j] / full, -1, 1))
            if abs(value) > 0.01:
                parts.append(
                    f'<rect x="{LEFT + j * cell:.2f}" y="{TOP + i * height:.2f}"'
                    f' width="{cell - 0.5:.2f}" height="{height - 0.5:.2f}"'
                    f' fill="{BLUE if value > 0 else RED}" fill-opacity="{abs(value):.2f}"/>'
                )
    for i, label in enumerate(rows):
        parts.append(_text(LEFT - 6, TOP + (i + 0.5) * height + 4, label, anchor="end"))
    for j, label in enumerate(columns):
        place = LEFT + (j + 0.5) * cell
        parts.append(_text(place, TOP + count * height + 15, label, anchor="middle"))
    end = TOP + count * height
    parts.append(_frame(end))
    parts.append(_text(WIDTH, 14, f"full colour: {full:.3g}", anchor="end"))
    return Picture(parts, end + BOTTOM - 10, title)


def lines(
    x: ArrayLike, curves: dict[str, ArrayLike], title: str, below: str = "", height: int = 220
) -> Picture:
    """Curves over one axis, each with its name at its end."""
    across = np.asarray(x, float)
    drawn = {name: np.asarray(y, float) for name, y in curves.items()}
    low = min(float(y.min()) for y in drawn.values())
    high = max(float(y.max()) for y in drawn.values())
    span = (high - low) or 1.0
    end, right = height - BOTTOM, WIDTH - 110

    def place(xs: NDArray[np.float64], ys: NDArray[np.float64]) -> list[tuple[float, float]]:
        px = LEFT + (xs - across.min()) / (np.ptp(across) or 1) * (right - LEFT)
        py = end - (ys - low) / span * (end - TOP)
        return list(zip(px.tolist(), py.tolist(), strict=True))

    parts = [_frame(end, right)]
    labels: list[tuple[float, str, str]] = []
    for colour, (name, y) in zip(COLOURS, drawn.items(), strict=False):
        points = " ".join(f"{px:.1f},{py:.1f}" for px, py in place(across, y))
        look = f'fill="none" stroke="{colour}" stroke-width="2"'
        parts.append(f'<polyline points="{points}" {look}/>')
        labels.append((place(across, y)[-1][1], name, colour))
    previous = -20.0
    for at, name, colour in sorted(labels):
        previous = max(at + 4, previous + 14)
        parts.append(_text(right + 8, previous, name, colour=colour))
    for value in (low, high):
        py = end - (value - low) / span * (end - TOP)
        parts.append(_text(LEFT - 6, py + 4, f"{value:.3g}", anchor="end"))
    for value in (across.min(), across.max()):
        px = LEFT + (value - across.min()) / (np.ptp(across) or 1) * (right - LEFT)
        parts.append(_text(px, end + 16, f"{value:g}", anchor="middle"))
    parts.append(_text((LEFT + right) / 2, end + 28, below, anchor="middle"))
    return Picture(parts, height, title)


def _frame(end: float, right: float = WIDTH) -> str:
    return (
        f'<path d="M{LEFT} {TOP}V{end:.1f}H{right}" fill="none" stroke="currentColor"'
        ' stroke-opacity="0.4"/>'
    )


def _text(
    x: float, y: float, text: str, anchor: str = "start", weight: str = "", colour: str = ""
) -> str:
    extra = f' font-weight="{weight}"' if weight else ""
    extra += f' fill="{colour}"' if colour else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{escape(text)}</text>'
