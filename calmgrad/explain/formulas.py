"""The formulas of an op, read out of its docstring: there they stand beside the code."""

import inspect
import re
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any


@dataclass(frozen=True, slots=True)
class Direction:
    """One way through an op: what is assumed (one line of text), and its formulas, a line each."""

    given: str = ""
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Formula:
    """What the docstring of an op says.

    Attributes:
        op: its name; `file`, where it stands.
        summary: its first line.
        forward, backward: the formulas.
        arguments: name -> shape and meaning.
        returns: name and shape of the output.
        source: where the op is from; "" where nothing is said.
    """

    op: str
    file: str
    summary: str = ""
    forward: Direction = Direction()
    backward: Direction = Direction()
    arguments: dict[str, str] = field(default_factory=dict)
    returns: str = ""
    source: str = ""


def formula_of(op: str) -> Formula:
    """The formula of an op by the name it has on the tape; an empty one if it cannot be found.

    (An op of somebody's own has no file in `calmgrad.ops`, and `python -OO` has no docstrings.)
    """
    function, file = _function(op)
    if function is None or not function.__doc__:
        return Formula(op, file)
    text = inspect.cleandoc(function.__doc__)
    summary, _, rest = text.partition("\n")
    if not rest and ";  " in summary:  # ops/basic.py: `y = a + b;  da = dy,  db = dy.`
        forward, _, backward = summary.partition(";  ")
        directions = {
            "Forward": Direction("", (forward,)),
            "Backward": Direction("", (backward.rstrip("."),)),
        }
    else:
        directions = {name: direction_in(name, text) for name in ("Forward", "Backward")}
    source = re.search(r"Source: (.+?)\.?(?:\n\n|$)", text, re.DOTALL)
    return Formula(
        op,
        file,
        summary=summary if rest else "",
        forward=directions["Forward"],
        backward=directions["Backward"],
        arguments=_arguments(text),
        returns=_joined(_section(text, "Returns")).rstrip("."),
        source=_joined(source[1].splitlines()) if source else "",
    )


def _function(op: str) -> tuple[Any, str]:
    for module in (f"calmgrad.ops.{op}", "calmgrad.ops.basic"):
        try:
            function = getattr(import_module(module), op, None)
        except ModuleNotFoundError:
            continue
        if function is not None:
            return function, module.replace(".", "/") + ".py"
    return None, ""


def direction_in(name: str, text: str) -> Direction:
    """The paragraph that begins with `name` and ends with `::`, and the block below it."""
    block = r"((?: +[^\n]*\n|\n)+)"
    found = re.search(rf"^(?:{name})\b(.*?)::\n\n{block}", text + "\n", re.DOTALL | re.M)
    if not found:
        return Direction()
    given = _joined(found[1].strip(" ,\n").splitlines())
    lines = inspect.cleandoc(found[2]).splitlines()
    return Direction(given, tuple(line.rstrip() for line in lines if line.strip()))


def _section(text: str, name: str) -> list[str]:
    """The indented lines below `name:`."""
    found = re.search(rf"^{name}:\n((?: +.*\n)+)", text + "\n", re.M)
    return inspect.cleandoc(found[1]).splitlines() if found else []


def _arguments(text: str) -> dict[str, str]:
    arguments: dict[str, str] = {}
    names: list[str] = []
    for line in _section(text, "Args"):
        if match := re.match(r"([A-Za-z_][\w, ]*): (.*)", line):
            names = match[1].split(", ")
            arguments.update(dict.fromkeys(names, match[2]))
        else:
            arguments.update({name: f"{arguments[name]} {line.strip()}" for name in names})
    return {name: meaning.rstrip(".") for name, meaning in arguments.items()}


def _joined(lines: list[str]) -> str:
    return " ".join(line.strip() for line in lines)
