"""Draws docs/layers.svg, the layers of the source, and docs/batch.svg, the way of a batch.

    python docs/draw.py

The layers are those of tests/test_layers.py, which says when they have changed.
"""

import ast
from collections.abc import Iterator
from html import escape
from pathlib import Path

HERE = Path(__file__).resolve().parent
WIDTH = 760
CHARACTER = 6.9  # pixels of one at 12 px, about
BOX, GAP, ROW = 24, 6, 30  # height of a box, space between boxes, between their rows
LABEL = 150  # width of the left column

# The first room of a layer -> what the layer is.
TITLES = {
    "errors": "sizes, names, order",
    "kernels": "arithmetic on arrays",
    "arena": "memory and shapes",
    "tape": "autograd",
    "ops": "operations",
    "network": "the network",
    "shards": "threads",
    "formats": "files and prompts",
    "decoder": "token by token",
    "model": "a model",
    "optim": "updates",
    "trainer": "training steps",
    "settings": "settings",
    "data": "whole runs and tools",
    "calmgrad": "public names",
    "cli": "commands",
}
FOLDERS = {path.name for path in (HERE.parent / "calmgrad").iterdir() if path.is_dir()}

STYLE = """\
text { font: 12px ui-monospace, "DejaVu Sans Mono", monospace; fill: #1d2430; }
.title, .note { font-family: system-ui, sans-serif; fill: #56606e; }
.page { fill: #ffffff; }
.band { fill: #f3f5f8; }
.box { fill: #ffffff; stroke: #9aa7b8; }
.folder { fill: #e5eefb; stroke: #5b88c9; }
.file { fill: #f8f0dc; stroke: #b3924a; }
.way { fill: none; stroke: #2f74c0; stroke-width: 2; }
.back { fill: none; stroke: #c4572b; stroke-width: 2; }
.thread { fill: none; stroke: #9aa7b8; stroke-dasharray: 5 4; }
.tip { fill: #2f74c0; } .backtip { fill: #c4572b; }
@media (prefers-color-scheme: dark) {
text { fill: #e4e8ee; }
.title, .note { fill: #a3adba; }
.page { fill: #14181e; }
.band { fill: #1c222b; }
.box { fill: #14181e; stroke: #5d6b7d; }
.folder { fill: #1b2c45; stroke: #6ea0e0; }
.file { fill: #332b18; stroke: #c2a25c; }
.way { stroke: #6ea8ea; } .back { stroke: #ec8459; }
.thread { stroke: #5d6b7d; }
.tip { fill: #6ea8ea; } .backtip { fill: #ec8459; }
}"""


def table() -> list[list[str]]:
    """The layers of tests/test_layers.py, from the bottom up."""
    source = (HERE.parent / "tests" / "test_layers.py").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LAYERS":
            return [line.split() for line in ast.literal_eval(node.value)]
    raise AssertionError("tests/test_layers.py has no LAYERS")


def rows_of(rooms: list[str]) -> Iterator[list[tuple[str, float, float]]]:
    """(room, x, width) of each box, row by row."""
    row: list[tuple[str, float, float]] = []
    x = float(LABEL)
    for room in rooms:
        width = len(shown(room)) * CHARACTER + 14
        if x + width > WIDTH - 12 and row:
            yield row
            row, x = [], float(LABEL)
        row.append((room, x, width))
        x += width + GAP
    yield row


def shown(room: str) -> str:
    return f"{room}/" if room in FOLDERS else room


def layers() -> str:
    """The picture of the layers: the top of the table at the top."""
    parts: list[str] = []
    y = 38.0
    for rooms in reversed(table()):
        rows = list(rows_of(rooms))
        height = len(rows) * ROW + GAP
        parts.append(f'<rect class="band" x="8" y="{y:g}" width="{WIDTH - 16}" height="{height}"/>')
        parts.append(text(16, y + 22, TITLES[rooms[0]], "title"))
        for number, row in enumerate(rows):
            for room, x, width in row:
                kind = "folder" if room in FOLDERS else "box"
                parts.append(box(x, y + GAP + number * ROW, width, shown(room), kind))
        y += height + 4
    heading = "Each module imports only what stands below it; folders end with a slash."
    return picture([text(12, 24, heading, "title"), *parts], y + 6, heading)


def batch() -> str:
    """The picture of a training step, from the data set to the weights and their files."""
    parts = [
        text(12, 24, "One training step. Blue: forward; orange: gradients.", "title"),
        box(20, 46, 120, "train.ctds", "file", "the data set"),
        box(200, 46, 120, "data", "box", "order, batches"),
        box(380, 46, 120, "shards", "box", "cut and packed"),
        arrow("M140 66H196"), arrow("M320 66H376"),
        '<rect class="thread" x="12" y="116" width="736" height="202" rx="6"/>',
        text(24, 136, "each worker thread, a shard at a time", "note"),
        arrow("M440 86V148H94V166"),
        box(28, 170, 132, "embedding", "folder", "tokens to rows"),
        box(196, 170, 264, "n layers", "folder", "norm, conv, scan, products, gelu"),
        box(496, 170, 100, "linear", "folder", "logits"),
        box(624, 170, 116, "cross_entropy", "folder", "loss a token"),
        arrow("M160 182H192"), arrow("M460 182H492"), arrow("M596 182H620"),
        arrow("M620 204H600", back=True), arrow("M492 204H464", back=True),
        arrow("M192 204H164", back=True),
        text(28, 236, "tape: every operation writes down its way back; the backward pass begins"
             " with the weights of the mean", "note"),
        box(28, 250, 200, "kernels/", "folder", "a folder for each backend"),
        box(262, 250, 200, "arena, pool", "box", "memory, asked for once"),
        box(496, 250, 244, "gradient of the shard", "box", "flat, in file order"),
        arrow("M618 290V346", back=True),
        box(496, 350, 244, "gradient of the batch", "box", "summed in the order of the shards"),
        box(340, 350, 120, "ewc, clip", "box", "pull, then shorten"),
        box(200, 350, 104, "optim", "box", "AdamW, SGD"),
        box(20, 350, 144, "weights", "box", "flat, in file order"),
        arrow("M496 370H464", back=True), arrow("M340 370H308", back=True),
        arrow("M200 370H168", back=True),
        box(20, 424, 144, "model.cwgt", "file", "C engine's format"),
        box(200, 424, 144, "checkpoints/", "file", "all of the run"),
        arrow("M92 390V420"), arrow("M164 380H182V444H196"),
    ]  # fmt: skip
    return picture(parts, 480, "The way of a batch, from the data set to the weights")


def box(x: float, y: float, width: float, label: str, kind: str, note: str = "") -> str:
    size = f'width="{width:.1f}" height="{40 if note else BOX}"'
    middle = x + width / 2
    parts = [
        f'<rect class="{kind}" x="{x:.1f}" y="{y:g}" {size} rx="4"/>',
        text(middle, y + 16, label, anchor="middle"),
    ]
    if note:
        parts.append(text(middle, y + 32, note, "note", anchor="middle"))
    return "".join(parts)


def arrow(path: str, back: bool = False) -> str:
    kind, tip = ("back", "backtip") if back else ("way", "tip")
    return f'<path class="{kind}" d="{path}" marker-end="url(#{tip})"/>'


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "") -> str:
    extra = f' class="{kind}"' if kind else ""
    extra += f' text-anchor="{anchor}"' if anchor else ""
    return f'<text x="{x:.1f}" y="{y:g}"{extra}>{escape(words)}</text>'


def picture(parts: list[str], height: float, title: str) -> str:
    tips = "".join(
        f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="5" markerHeight="5"'
        f' orient="auto"><path class="{name}" d="M0 0L8 4L0 8z"/></marker>'
        for name in ("tip", "backtip")
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}"'
        f' width="{WIDTH}" height="{height:g}" role="img">'
    )
    page = f'<rect class="page" width="{WIDTH}" height="{height:g}" rx="6"/>'
    inside = [f"<title>{escape(title)}</title>", f"<style>{STYLE}</style>", f"<defs>{tips}</defs>"]
    return "\n".join([head, *inside, page, *parts, "</svg>", ""])


PICTURES = {"layers.svg": layers, "batch.svg": batch}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (HERE / name).write_text(draw(), encoding="utf-8")
