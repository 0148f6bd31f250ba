"""Runs notebooks without Jupyter: each code cell in order, in one namespace.

What a cell prints, and its last expression, become its output; a picture is anything with a
`_repr_svg_`, as in Jupyter. Cells may not use magics or wait for anything.
"""

import ast
import contextlib
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Cell:
    """A cell of a notebook, and what running it gave.

    Attributes:
        kind: "markdown" or "code".
        source: its text.
        printed: what it wrote to standard output, and its value if that is text.
        pictures: its value as SVG, if it is one.
    """

    kind: str
    source: str
    printed: str = ""
    pictures: list[str] = field(default_factory=list)


def read(path: Path) -> list[Cell]:
    """The cells of a notebook (nbformat 4)."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    return [Cell(cell["cell_type"], "".join(cell["source"])) for cell in stored["cells"]]


def run(path: Path) -> list[Cell]:
    """The cells of a notebook after running them, in the folder it stands in.

    Raises:
        Exception: whatever a cell raises; its place is "NOTEBOOK, cell N".
    """
    cells = read(path)
    names: dict[str, Any] = {"__name__": "__main__"}
    with contextlib.chdir(path.parent), _modules_of(path.parent):
        for number, cell in enumerate(cells):
            if cell.kind == "code":
                _run(cell, names, f"{path.name}, cell {number}")
    return cells


@contextlib.contextmanager
def _modules_of(folder: Path) -> Iterator[None]:
    """Let cells import what stands beside the notebook, as in Jupyter."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _run(cell: Cell, names: dict[str, Any], place: str) -> None:
    tree = ast.parse(cell.source, place)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(tree, place, "exec"), names)
        value: Any = None
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), place, "eval"), names)
    cell.printed = out.getvalue()
    if hasattr(value, "_repr_svg_"):
        cell.pictures.append(value._repr_svg_())
    elif value is not None:
        cell.printed += f"{value!r}\n"


def to_markdown(path: Path) -> str:
    """A notebook as a page, with what running it gave."""
    return "\n\n".join(part for cell in run(path) for part in _parts(cell)) + "\n"


def _parts(cell: Cell) -> Iterator[str]:
    if cell.kind == "markdown":
        yield cell.source
        return
    yield f"```python\n{cell.source}\n```"
    if cell.printed:
        yield f"```text\n{cell.printed.rstrip()}\n```"
    for picture in cell.pictures:
        yield f"```{{raw}} html\n{picture}\n```"
