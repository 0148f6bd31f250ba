"""What Sphinx would misread in docstrings: attributes as `a, b: text`, and colons of properties."""

import re
from collections.abc import Iterator
from typing import Any

from sphinx.application import Sphinx

HELD = "\0"  # stands for a colon while napoleon looks for types


def before_napoleon(app: Sphinx, what: str, name: str, of: Any, options: Any, lines: Any) -> None:
    lines[:] = list(with_attributes(lines))
    if what in ("property", "attribute", "data") and lines:
        lines[0] = lines[0].replace(":", HELD)


def after_napoleon(app: Sphinx, what: str, name: str, of: Any, options: Any, lines: Any) -> None:
    lines[:] = [line.replace(HELD, ":") for line in lines]


def with_attributes(lines: list[str]) -> Iterator[str]:
    """The section `Attributes:` as a list of definitions."""
    inside = False
    for line in lines:
        if line == "Attributes:":
            inside = True
            yield "**Attributes**"
            yield ""
        elif inside and line and not line.startswith(" "):
            inside = False
            yield line
        elif inside and (found := re.fullmatch(r"    (\w+(?:, \w+)*): (.*)", line)):
            yield found[1]
            yield f"    {found[2]}"
        elif inside and line:
            yield f"    {line.lstrip()}"
        else:
            yield line


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", after_napoleon, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
