"""Curves are read as they were written, and drawn where they belong."""

import itertools
import json
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calmgrad.errors import FileError
from calmgrad.plots import Curves, loss_png, loss_svg, read_metrics, terminal_plot
from calmgrad.plots.scales import limits, tick_space, ticks
from calmgrad.plots.svg import DARK, LIGHT, thinned

SVG = "{http://www.w3.org/2000/svg}"


def curves(losses: list[float], val: dict[int, float] | None = None) -> Curves:
    """A run with these losses from step 1 on."""
    val = val or {}
    return Curves(list(range(1, len(losses) + 1)), losses, list(val), list(val.values()))


FALLING = [1 + 4 * math.exp(-step / 40) + 0.1 * math.sin(step) for step in range(1, 201)]
RUN = curves(FALLING, {50: 2.25, 100: 1.5, 200: 1.125})


# --- metrics ----------------------------------------------------------------------------------


def test_both_kinds_of_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines: list[dict[str, Any]] = [
        {"step": 10, "epoch": 1, "loss": 3.5, "lr": 1e-4, "grad_norm": 1.1, "tokens": 2900},
        {"step": 10, "epoch": 1, "val_loss": 3.25, "val_bits_per_byte": 4.0},
        {"event": "of another kind", "step": "x"},
        {"step": 20, "loss": 3, "new key": [1]},
        {"step": 30, "loss": 2.5, "val_loss": 2.75},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 40, "lo')
    assert read_metrics(path) == Curves([10, 20, 30], [3.5, 3, 2.5], [10, 30], [3.25, 2.75])


def test_the_later_line_of_a_step_counts(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {n}, "loss": {n}.{i}}}\n' for i, n in enumerate([1, 2, 1])))
    assert read_metrics(path) == Curves([1, 2], [1.2, 2.1])


def test_losses_that_are_not_finite_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    losses = ["1.5", "NaN", "-Infinity", "1e300", "9" * 400]
    path.write_text("".join(f'{{"step": {i}, "loss": {n}}}\n' for i, n in enumerate(losses)))
    assert read_metrics(path) == Curves([0], [1.5], left_out=4)


BROKEN = [
    b"{",
    b"",
    b"[1, 2]",
    b"3",
    b'{"step": 1, "loss": "low"}',
    b'{"step": 1, "loss": true}',
    b'{"step": 1, "loss": null}',
    b'{"loss": 1.0}',
    b'{"step": 1.5, "loss": 1.0}',
    b'{"step": true, "loss": 1.0}',
    b'{"step": -1, "loss": 1.0}',
    b'{"step": 1e999, "loss": 1.0}',
    b'{"step": ' + b"9" * 300 + b', "loss": 1.0}',
    b'{"step": ' + b"9" * 9000 + b', "loss": 1.0}',
    b"\xff\xfe\x00",
    b"[" * 100_000,
]


@pytest.mark.parametrize("line", BROKEN, ids=lambda line: repr(line[:30]))
def test_a_broken_line_is_named_unless_it_is_the_last(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    good = b'{"step": 1, "loss": 2.0}\n'
    path.write_bytes(good * 2 + line + b"\n" + good)
    with pytest.raises(FileError, match=r"metrics\.jsonl: line 3: .*expected") as caught:
        read_metrics(path)
    assert "\n" not in str(caught.value)
    path.write_bytes(good * 2 + line)
    assert read_metrics(path) == Curves([1], [2.0])


def test_a_file_cut_anywhere_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = b"".join(b'{"step": %d, "loss": 2.5, "val_loss": 3.5}\n' % step for step in range(4))
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        read = read_metrics(path)
        complete = whole[:size].count(b"}")
        assert read.steps == read.val_steps == list(range(complete))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such file"):
        read_metrics(tmp_path / "metrics.jsonl")


# --- scales -----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 49, 50, 51, 100, 333])
def test_smoothed_is_the_mean_of_the_neighbours(count: int) -> None:
    losses = [float(n * n % 17) for n in range(count)]
    side = count // 50
    expected = []
    for i in range(count):
        near = min(side, i)
        expected.append(fmean(losses[i - near : i + near + 1]))
    assert curves(losses).smoothed() == pytest.approx(expected)
    assert curves(losses).smoothed()[:1] == losses[:1]


@given(
    st.floats(-1e6, 1e6),
    st.floats(1e-4, 1e6),
    st.integers(2, 12),
)
def test_ticks_are_round_and_evenly_spaced(low: float, length: float, count: int) -> None:
    high = low + length
    space = tick_space(low, high, count)
    assert float(f"{space:.0e}") == pytest.approx(space)
    assert f"{space:e}"[0] in "125"
    marks = ticks(low, high, space)
    assert len(marks) <= count + 1
    assert len(marks) >= count / 2.5 - 1
    assert all(low - 1e-6 * space <= mark <= high + 1e-6 * space for mark in marks)
    assert np.diff(marks) == pytest.approx(space)


def test_all_is_shown_but_a_steep_start() -> None:
    shown = limits({"a": RUN})
    assert (shown.step, shown.above) == (200, None)
    assert shown.low <= min(FALLING)
    assert shown.high >= max(FALLING)
    steep = limits({"a": curves([90.0, 50.0, *[2 + n % 3 / 4 for n in range(200)]])})
    assert steep.above == (2, 90.0)
    assert steep.low <= 2
    assert 2.5 <= steep.high <= 3.5
    rounded = limits({"a": curves([90.0, 2.48, *[2 + n % 3 * 0.22 for n in range(200)]])})
    assert (rounded.high, rounded.above) == (2.5, (1, 90.0))


def test_a_spike_later_on_is_shown() -> None:
    losses = [2.0] * 200
    losses[100] = 90.0
    assert limits({"a": curves(losses)}).above is None
    assert limits({"a": curves(losses)}).high >= 90


@pytest.mark.parametrize("losses", [[2.0], [0.0], [-3.0] * 9, [1e29], [1e-9, 2e-9]])
def test_flat_curves_have_limits(losses: list[float]) -> None:
    shown = limits({"a": curves(losses)})
    assert shown.low <= min(losses) <= max(losses) <= shown.high
    assert shown.low < shown.high
    assert len(ticks(shown.low, shown.high, shown.space)) >= 2


# --- SVG --------------------------------------------------------------------------------------


class Drawing:
    """A plot, read as a reader does: by the labels of its axes."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.root = ET.fromstring(text)
        self.to_step = self._scale("muted x", "x")
        self.to_loss = self._scale("muted y", "y", shift=-4)  # half the height of a digit

    def _scale(self, kind: str, axis: str, shift: float = 0) -> Callable[[float], float]:
        labels = self.elements("text", kind)
        places = [float(label.get(axis, "nan")) + shift for label in labels]
        values = [float((label.text or "").replace(",", "")) for label in labels]
        slope, start = np.polyfit(places, values, 1)
        assert np.polyval([slope, start], places) == pytest.approx(values, abs=1e-2 * max(values))
        return lambda place: float(slope * place + start)

    def elements(self, tag: str, kind: str) -> list[ET.Element]:
        return [e for e in self.root.iter(SVG + tag) if e.get("class") == kind]

    def lines(self, kind: str) -> list[list[tuple[float, float]]]:
        """Steps and losses of each line drawn among the curves."""
        found = []
        for line in self.view.iter(SVG + "polyline"):
            if line.get("class") == kind:
                pairs = [pair.split(",") for pair in line.get("points", "").split()]
                found.append([(self.to_step(float(x)), self.to_loss(float(y))) for x, y in pairs])
        return found

    def dots(self) -> list[tuple[float, float]]:
        found = [e for e in self.view.iter(SVG + "circle")]
        return [
            (self.to_step(float(e.get("cx", "nan"))), self.to_loss(float(e.get("cy", "nan"))))
            for e in found
        ]

    @property
    def view(self) -> ET.Element:
        """The inner view, which clips the curves."""
        (view,) = (e for e in self.root.iter(SVG + "svg") if e is not self.root)
        return view


def close(points: list[tuple[float, float]], steps: list[int], losses: list[float]) -> bool:
    """Whether the points lie there, to a tenth of a pixel or so."""
    width, height = max(steps) / 588, (max(losses) - min(losses)) / 250
    assert len(points) == len(steps)
    return all(
        abs(x - step) < 0.1 * width + 1e-9 and abs(y - loss) < 0.1 * height
        for (x, y), step, loss in zip(points, steps, losses, strict=True)
    )


def test_points_lie_where_the_axes_say() -> None:
    drawing = Drawing(loss_svg({"run": RUN}))
    (raw,), (smooth,), (link,) = (drawing.lines(kind) for kind in ("raw", "smooth", "link"))
    assert close(raw, RUN.steps, RUN.losses)
    assert close(smooth, RUN.steps, RUN.smoothed())
    assert close(link, RUN.val_steps, RUN.val_losses)
    assert close(drawing.dots(), RUN.val_steps, RUN.val_losses)


@given(
    st.lists(st.floats(0.01, 100), min_size=2, max_size=40),
    st.dictionaries(st.integers(0, 60), st.floats(0.01, 100), min_size=2, max_size=5),
)
def test_any_run_lies_where_the_axes_say(losses: list[float], val: dict[int, float]) -> None:
    if max(losses) - min(losses) < 0.1 or max(val.values()) - min(val.values()) < 0.1:
        return  # so flat that two digits on the axis do not tell the points apart
    run = curves(losses, dict(sorted(val.items())))
    drawing = Drawing(loss_svg({"run": run}))
    (raw,) = drawing.lines("raw")
    shown = limits({"run": run})
    for points, steps, values in (
        (raw, run.steps, run.losses),
        (drawing.dots(), run.val_steps, run.val_losses),
    ):
        for (x, y), step, loss in zip(points, steps, values, strict=True):
            assert x == pytest.approx(step, abs=shown.step / 2000 + 1e-9)
            assert y == pytest.approx(loss, abs=(shown.high - shown.low) / 1000)


def test_the_plot_stands_alone_and_can_be_read_aloud() -> None:
    text = loss_svg({"run": RUN}, "Loss of a run")
    root = ET.fromstring(text)
    assert (root.get("role"), root.get("width"), root.get("viewBox", "")[:8]) == (
        "img", "720", "0 0 720 ")  # fmt: skip
    assert [child.tag for child in root][:2] == [SVG + "title", SVG + "desc"]
    assert root[0].text == "Loss of a run"
    assert "best validation loss 1.125 at step 200" in (root[1].text or "")
    outside = text.replace("http://www.w3.org/2000/svg", "")
    for forbidden in ("http", "href", "url(", "<script", "@import", "user-select", "<image"):
        assert forbidden not in outside
    assert "prefers-color-scheme:dark" in text
    assert "background" not in text
    assert not list(root.iter(SVG + "rect"))


def test_the_grid_lies_at_the_labels_and_the_axis_at_the_lowest() -> None:
    drawing = Drawing(loss_svg({"run": RUN}))
    grid = [float(line.get("y1", "nan")) for line in drawing.elements("line", "grid")]
    labels = [float(e.get("y", "nan")) - 4 for e in drawing.elements("text", "muted y")]
    assert grid == pytest.approx(labels)
    axis = drawing.elements("line", "axis")[-1]
    assert float(axis.get("y1", "nan")) == pytest.approx(max(grid))
    assert drawing.to_step(float(axis.get("x1", "nan"))) == pytest.approx(0, abs=0.1)
    assert drawing.to_step(float(axis.get("x2", "nan"))) == pytest.approx(200, abs=0.1)


def test_the_last_values_are_written_beside_the_curves() -> None:
    drawing = Drawing(loss_svg({"run": RUN}))
    labels = {e.text for e in drawing.elements("text", "end")}
    assert labels == {f"{RUN.smoothed()[-1]:.3f}", "1.125"}
    legend = "".join(drawing.root.itertext())
    assert "validation 1.125, best 1.125 at step 200" in legend
    assert f"training {RUN.smoothed()[-1]:.3f}" in legend


@pytest.mark.parametrize("last", [1.0, 1.5, 1.9])
def test_labels_do_not_overlap(last: float) -> None:
    runs = {f"run {i}": curves([2.0, last + i / 1000], {2: last}) for i in range(6)}
    runs["low"] = curves([2.0, 0.5])
    drawing = Drawing(loss_svg(runs))
    heights = sorted(float(e.get("y", "nan")) for e in drawing.elements("text", "end"))
    assert len(heights) == 13
    assert min(np.diff(heights)) >= 14.9
    bottom = max(float(e.get("y1", "nan")) for e in drawing.elements("line", "axis"))
    assert heights[-1] <= bottom + 5


def test_several_runs_have_colours_of_their_own() -> None:
    runs = {f"run {i}": curves([3.0 + i, 2.0 + i], {2: 2.5 + i}) for i in range(8)}
    root = Drawing(loss_svg(runs)).view
    seen = set()
    for group in root.findall(f"{SVG}g[@data-run]"):
        colours = {g.get("class") for g in group.iter(SVG + "g")} - {None}
        (line,) = (e for e in group.iter(SVG + "polyline") if e.get("class") == "smooth")
        assert len(colours) == 1
        seen.add((colours.pop(), line.get("stroke-dasharray")))
    assert len(seen) == 8


def test_training_and_validation_of_one_run_differ_in_colour() -> None:
    view = Drawing(loss_svg({"run": RUN})).view
    assert {g.get("class") for g in view.iter(SVG + "g")} - {None} == {"c0", "c1"}


def test_a_cut_start_is_marked() -> None:
    run = curves([90.0, 50.0, *[2 + n % 3 / 4 for n in range(200)]])
    drawing = Drawing(loss_svg({"run": run}))
    (mark,) = drawing.elements("text", "muted above")
    assert "up to step 2 some losses are above the plot, at most 90.00" in (mark.text or "")
    top = float(drawing.view.get("y", "nan"))
    (line,) = (e for e in drawing.view.iter(SVG + "polyline") if e.get("class") == "raw")
    heights = [float(pair.split(",")[1]) for pair in line.get("points", "").split()]
    assert heights[0] < heights[1] < top < min(heights[2:])
    assert drawing.view.get("viewBox") == " ".join(
        drawing.view.get(name, "") for name in ("x", "y", "width", "height")
    )


@pytest.mark.parametrize("run", [Curves([7], [2.0]), Curves([], [], [7], [2.0])])
def test_one_point_is_drawn(run: Curves) -> None:
    drawing = Drawing(loss_svg({"run": run}))
    points = drawing.dots() or drawing.lines("raw")[0]
    assert all(x == pytest.approx(7) and y == pytest.approx(2.0, abs=0.01) for x, y in points)


def test_names_are_text_and_nothing_else() -> None:
    name = '<b>&amp;"\x1b[31m\x00\ud800' + "x" * 60
    root = ET.fromstring(loss_svg({name: RUN, "other": RUN}, name).encode().decode())
    assert not list(root.iter(SVG + "b"))
    assert "<b>&amp;" in "".join(root.itertext())
    assert "\x1b" not in "".join(root.itertext())


def test_nothing_to_plot() -> None:
    for draw in (loss_svg, terminal_plot, loss_png):
        if draw is loss_png:
            pytest.importorskip("matplotlib")
        with pytest.raises(ValueError, match="no run has a loss"):
            draw({"run": Curves()})


def test_a_long_run_keeps_its_peaks() -> None:
    points = [(float(step), float(step * 7919 % 1000)) for step in range(100_000)]
    points[54_321] = (54_321.0, 1e6)
    points[54_322] = (54_322.0, -1e6)
    thin = thinned(points, 1000)
    assert len(thin) <= 1002
    assert {points[0], points[54_321], points[54_322], points[-1]} <= set(thin)
    assert thin == sorted(thin)
    assert set(thin) <= set(points)
    assert thinned(points[:1000], 1000) == points[:1000]
    run = curves([loss + 2e6 for _, loss in points])
    assert len(loss_svg({"run": run})) < 80_000


def linear(colour: str) -> Any:
    """Linear red, green and blue of #rrggbb, 0 to 1 (sRGB)."""
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def contrast(a: str, b: str) -> float:
    """Contrast ratio of WCAG 2.2."""
    light = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (a, b))
    return (light[1] + 0.05) / (light[0] + 0.05)


@pytest.mark.parametrize(
    ("colours", "pages"), [(LIGHT, ["#ffffff", "#f6f8fa"]), (DARK, ["#0d1117", "#1e1e1e"])]
)
def test_colours_stand_out_from_the_page(colours: dict[str, str], pages: list[str]) -> None:
    for page in pages:
        for name, colour in colours.items():
            needed = {"ink": 7.0, "muted": 4.5, "grid": 1.0}.get(name, 3.0)
            assert contrast(colour, page) >= needed, (name, page)
        assert contrast(colours["grid"], page) < 2  # it must not compete with the curves


# Machado, Oliveira, Fernandes (2009): what is left of a colour at severity 1.0.
VISIONS = {
    "normal": np.eye(3),
    "protanopia": np.array([
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881]]),
    "tritanopia": np.array([
        [1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900]]),
}  # fmt: skip


def lab(rgb: Any) -> Any:
    """CIE L*a*b* of linear sRGB."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    ratio = xyz @ np.clip(rgb, 0, 1) / [0.9505, 1, 1.089]
    f = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_runs_are_told_apart_by_everyone(colours: dict[str, str], vision: str) -> None:
    series = [colour for name, colour in colours.items() if re.fullmatch(r"c\d", name)]
    assert len(series) == 6
    for a, b in itertools.combinations(series, 2):
        seen = [lab(VISIONS[vision] @ linear(colour)) for colour in (a, b)]
        assert np.linalg.norm(seen[0] - seen[1]) >= 20, (a, b)


# --- terminal and PNG -------------------------------------------------------------------------


def dot_rows(lines: list[str], column: int) -> list[float]:
    """Lines, in fractions, in which a column of characters has braille dots."""
    rows = []
    for number, line in enumerate(lines):
        bits = ord(line[column]) - 0x2800 if len(line) > column else -1
        if 0 < bits < 256:
            used = [row for row, mask in enumerate((0x09, 0x12, 0x24, 0xC0)) if bits & mask]
            rows += [number + (row - 1.5) / 4 for row in used]
    return rows


@pytest.mark.parametrize(("width", "height"), [(80, 16), (40, 6), (100, 24), (10, 2)])
def test_the_terminal_plot_shows_the_curve(width: int, height: int) -> None:
    run = curves([5 - 4 * step / 400 for step in range(1, 401)])  # a straight line, 5 to 1
    lines = terminal_plot({"run": run}, width, height).split("\n")
    assert len(lines) == max(height, 6)
    assert max(map(len, lines[:-1])) <= max(width, 40)
    labelled = {float(line.split("┤")[0]): n for n, line in enumerate(lines) if "┤" in line}
    edge = lines[-2].index("└") + 1
    end = len(lines[-2]) - 1
    rows = len(lines) - 3  # between the largest and the smallest loss
    for loss, row in labelled.items():
        assert row == pytest.approx((5 - loss) / 4 * rows, abs=0.5)
    for column in range(edge, end):
        step = (column - edge + 0.5) / (end - edge + 1) * 400
        middle = fmean(dot_rows(lines[:-2], column))
        assert middle == pytest.approx(step / 400 * rows, abs=0.2)
    assert f" {run.smoothed()[-1]:.3f}" in "\n".join(lines)
    assert lines[-1].split()[0] == "0"
    assert lines[-1].endswith("400 step")


def test_a_cut_start_is_marked_in_the_terminal_too() -> None:
    run = curves([90.0, 50.0, *[2 + n % 3 / 4 for n in range(200)]])
    lines = terminal_plot({"run": run}, 80, 12).split("\n")
    assert len(lines) == 12
    assert lines[0].strip() == "▲ up to step 2 some losses are above the plot, at most 90.00"


def test_evaluations_and_several_runs_in_the_terminal() -> None:
    one = terminal_plot({"run": RUN})
    assert one.count("o") == 3
    runs = {"first": RUN, "second": curves([loss + 2 for loss in FALLING])}
    two = terminal_plot(runs)
    assert f" a {RUN.smoothed()[-1]:.3f}" in two
    assert f" b {RUN.smoothed()[-1] + 2:.3f}" in two


def test_a_png_is_a_png() -> None:
    pytest.importorskip("matplotlib")
    image = loss_png({"a $x$": RUN, "b_{": curves([90.0, 50.0, *[2.0] * 200])}, "$Loss_{")
    assert image.startswith(b"\x89PNG\r\n")
    assert int.from_bytes(image[16:20], "big") == 1440
