"""Makes docs/demo.svg, a recording of `calmgrad demo` in a terminal, and docs/loss.svg.

    pip install pyte
    python docs/record.py

The demo runs as it is, in a pseudo-terminal of 80 x 24. From what its screen shows over time a
few frames are taken, as far apart as they are in the run, which the picture plays faster: once,
in about twelve seconds; then the last one stays. It is also what a reader sees who wants no
motion, or whose viewer has none. The loss curve is the one that the same run has drawn.
"""

import argparse
import codecs
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib import import_module
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
COLUMNS, ROWS = 80, 24
FRAMES = 16  # of the run itself
PROMPT, TYPED, PLAYED = 0.7, 0.9, 12.0  # seconds: the empty prompt, the command, all of it
QUIET = 0.04  # seconds without output: the screen is drawn to its end

CELL, LINE, FONT, MARGIN, BAR = 8.4, 16.4, 14, 14, 30  # pixels; at this LINE boxes have no gaps
BACKGROUND, FOREGROUND, BORDER = "#1c1e26", "#d4d7de", "#3a3d49"
COLOURS = {  # by the names that pyte gives them
    "black": "#3a3d49", "red": "#e46876", "green": "#98bb6c", "brown": "#dcb877",
    "blue": "#7e9cd8", "magenta": "#b48ead", "cyan": "#7fb4ca", "white": "#d4d7de",
    "brightblack": "#868b99", "brightred": "#ff8f99", "brightgreen": "#b8d98f",
    "brightbrown": "#f0d399", "brightblue": "#9db8ef", "brightmagenta": "#cfaed0",
    "brightcyan": "#a3d4e0", "brightwhite": "#f4f5f8",
}  # fmt: skip


class Style(NamedTuple):
    """How a character looks; `plain` is Latin text, which every monospaced font has."""

    colour: str
    bold: bool
    dim: bool
    plain: bool


class Run(NamedTuple):
    """Characters of one style, side by side."""

    column: int
    text: str
    style: Style


Screen = tuple[tuple[Run, ...], ...]  # the runs of each row


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the screen showed from this second on."""

    second: float
    screen: Screen


def record(command: Sequence[str], folder: Path) -> list[Snapshot]:
    """Run a command in a pseudo-terminal; return each different state of the screen."""
    pyte = load_pyte()
    terminal = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.Stream(terminal)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    began, found = time.monotonic(), [Snapshot(0.0, ())]
    for chunk in output_of(command, folder):
        if chunk:
            stream.feed(decoder.decode(chunk))
            continue
        screen = tuple(tuple(runs_of(terminal.buffer[row])) for row in range(ROWS))
        if screen != found[-1].screen:
            found.append(Snapshot(time.monotonic() - began, screen))
    return found[1:]


def load_pyte() -> Any:
    """The terminal emulator, which nothing else here needs."""
    try:
        pyte = import_module("pyte")
    except ImportError:
        sys.exit("needs the terminal emulator pyte: pip install pyte")
    # It does not know dim text. Blinking text, which calmgrad does not use, stands for it.
    pyte.graphics.TEXT[2] = "+blink"
    return pyte


def output_of(command: Sequence[str], folder: Path) -> Iterator[bytes]:
    """What a command writes to its terminal; nothing (b"") when it has paused and at its end."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("COLUMNS", "LINES", "NO_COLOR", "COLORTERM")
    }
    environment |= {"TERM": "xterm-256color", "PYTHONPATH": str(HERE.parent)}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        while True:
            if not select.select([ours], [], [], QUIET)[0]:
                yield b""
                select.select([ours], [], [])
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # Linux: the other side is closed
                chunk = b""
            if not chunk:
                break
            yield chunk
    os.close(ours)
    yield b""
    if process.returncode:
        sys.exit(f"{' '.join(command)}: ended with exit code {process.returncode}")


def runs_of(row: Any) -> Iterator[Run]:
    """A row of pyte's screen, cut where the style changes; blank ends are left out."""
    cells = [row[column] for column in range(COLUMNS)]
    used = max((i + 1 for i, cell in enumerate(cells) if cell.data.strip()), default=0)
    styled = [(column, cell.data, style_of(cell)) for column, cell in enumerate(cells[:used])]
    for style, group in groupby(styled, key=lambda one: one[2]):
        characters = list(group)
        text = "".join(character for _, character, _ in characters)
        if text.strip():
            yield Run(characters[0][0], text, style)


def style_of(cell: Any) -> Style:
    """The style of one of pyte's cells. Backgrounds are left out: calmgrad sets none."""
    colour = FOREGROUND if cell.fg == "default" else COLOURS.get(cell.fg) or f"#{cell.fg}"
    return Style(colour, cell.bold, cell.blink, cell.data.isascii())


def sample(snapshots: Sequence[Snapshot], count: int) -> list[Screen]:
    """Up to `count` screens, evenly spread over the time; the first and the last among them."""
    end = snapshots[-1].second
    begin = snapshots[0].second
    chosen: list[Screen] = []
    for k in range(count):
        now = begin + (end - begin) * k / (count - 1)
        screen = [s.screen for s in snapshots if s.second <= now + 1e-9][-1]
        if screen not in chosen[-1:]:
            chosen.append(screen)
    # What stood there just before the end is the finished run: worth a frame.
    if len(snapshots) > 1 and snapshots[-2].screen not in chosen:
        chosen.insert(-1, snapshots[-2].screen)
    return chosen


def draw(screens: Sequence[Screen], command: str) -> str:
    """The picture: an empty prompt, the command, then the screens."""
    frames = [typed("$"), typed(f"$ {command}"), *screens]
    rest = (PLAYED - PROMPT - TYPED) / max(1, len(screens) - 1)
    starts = [0.0, PROMPT] + [PROMPT + TYPED + rest * k for k in range(len(screens))]
    width = round(COLUMNS * CELL + 2 * MARGIN)
    height = round(ROWS * LINE) + 2 * MARGIN + BAR
    words = "".join(run.text for row in screens[-1] for run in row if run.style.plain)
    style = [
        f"text{{font:{FONT}px ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace;"
        f"fill:{FOREGROUND};white-space:pre}}",
        ".b{font-weight:bold}.d{opacity:.6}",
        # A frame is seen while its animation runs; the last one is hidden while its own runs.
        ".f{visibility:hidden}@keyframes on{from,to{visibility:visible}}",
        "@keyframes off{from,to{visibility:hidden}}",
        *(
            f"#f{i}{{animation:on {1000 * (stop - start):.0f}ms {1000 * start:.0f}ms}}"
            for i, (start, stop) in enumerate(pairwise(starts))
        ),
        f"#last{{animation:off {1000 * starts[-1]:.0f}ms}}",
        "@media(prefers-reduced-motion:reduce){.f,#last{animation:none!important}}",
    ]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        f' height="{height}" role="img" aria-labelledby="title desc">',
        f'<title id="title">Recording of a terminal: {escape(command)}</title>',
        f'<desc id="desc">{escape(" ".join(words.split()))}</desc>',
        f"<style>{chr(10).join(style)}</style>",
        f'<rect x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="8"'
        f' fill="{BACKGROUND}" stroke="{BORDER}"/>',
        *(
            f'<circle cx="{20 + 18 * i}" cy="18" r="5.5" fill="{BORDER}"/>'
            for i in range(3)
        ),
    ]  # fmt: skip
    for i, screen in enumerate(frames):
        last = i == len(frames) - 1
        parts.append('<g id="last">' if last else f'<g class="f" id="f{i}">')
        parts += [drawn(run, row) for row, runs in enumerate(screen) for run in runs]
        parts.append("</g>")
    return "\n".join([*parts, "</svg>\n"])


def typed(text: str) -> Screen:
    """A screen with nothing but this line."""
    return ((Run(0, text, Style(FOREGROUND, True, False, True)),),)


def drawn(run: Run, row: int) -> str:
    """A run as SVG: as wide as its cells, whatever font the reader has."""
    name = "b" * run.style.bold + "d" * run.style.dim
    attributes = f' class="{" ".join(name)}"' if name else ""
    if run.style.colour != FOREGROUND:
        attributes += f' style="fill:{run.style.colour}"'
    x, y = MARGIN + run.column * CELL, BAR + MARGIN + (row + 0.75) * LINE
    width = len(run.text) * CELL
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" textLength="{width:.1f}"'
        f' lengthAdjust="spacingAndGlyphs"{attributes}>{escape(run.text, quote=False)}</text>'
    )


def main() -> None:
    """Record, draw and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, help="of the demo, fewer for a try")
    parser.add_argument("-o", "--output", type=Path, default=HERE, help="folder for both files")
    arguments = parser.parse_args()
    words = ["demo"] if arguments.steps is None else ["demo", "--steps", str(arguments.steps)]
    with tempfile.TemporaryDirectory() as folder:
        snapshots = record([sys.executable, "-m", "calmgrad.cli", *words], Path(folder))
        curve = (Path(folder) / "runs" / "demo-1" / "loss.svg").read_text(encoding="utf-8")
    picture = draw(sample(snapshots, FRAMES), " ".join(["calmgrad", *words]))
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, content in (("demo.svg", picture), ("loss.svg", curve)):
        (arguments.output / name).write_text(content, encoding="utf-8")
        print(f"{arguments.output / name}: {len(content.encode()):,} bytes")
    print("\nThe last frame, which README.md shows:\n")
    for row in snapshots[-1].screen:
        line = ""
        for run in row:
            line = line.ljust(run.column) + run.text
        print(line)


if __name__ == "__main__":
    main()
