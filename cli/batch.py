"""The sequences that dump, parity and their like look at."""

from typing import TYPE_CHECKING

import click

from calmgrad.cli.common import users_file
from calmgrad.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from numpy.typing import NDArray

rows_option = click.option(
    "--rows",
    default="0-3",
    show_default=True,
    metavar="LIST",
    help="Which sequences of the data set, from 0: 0-3 or 0,5,9.",
)
rules_option = click.option(
    "--rules",
    type=click.Choice(["c-engine", "calm-mamba"]),
    default="c-engine",
    show_default=True,
    help="Whose mean counts: of the sequences' means, or over all targets.",
)


def numbers(text: str) -> list[int]:
    """`0-3,7` as [0, 1, 2, 3, 7].

    Raises:
        UsageError: it is no such list.
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.strip().isdecimal() or (dash and not last.strip().isdecimal()):
            raise UsageError(f"--rows {text}: expected numbers as 0-3 or 0,5,9")
        begin, end = int(first), int(last if dash else first)
        if end - begin > 1 << 16:
            raise UsageError(f"--rows {text}: expected fewer sequences")
        found += range(begin, end + 1)
    if not found:
        raise UsageError(f"--rows {text}: names no sequence")
    return found


def batch(path: str | None, rows: str, l_max: int) -> "tuple[list[NDArray[Any]], list[int]]":
    """The named sequences of a data set, and their ATN positions.

    Raises:
        UsageError: a sequence that is not there, or longer than the model takes.
    """
    from calmgrad.data import load_dataset

    path = path or str(users_file("train.ctds"))
    dataset = load_dataset(path)
    chosen = numbers(rows)
    if rows == "0-3":  # the default takes what there is
        chosen = chosen[: len(dataset)]
    if max(chosen) >= len(dataset):
        raise UsageError(f"--rows {rows}: {path} has {len(dataset)} sequences, from 0 on")
    pairs = [dataset[i] for i in chosen]
    for i, (tokens, _) in zip(chosen, pairs, strict=True):
        if len(tokens) > l_max:
            raise UsageError(
                f"{path}: sequence {i} has {len(tokens)} tokens, the model takes {l_max}:"
                " name others with --rows"
            )
    return [tokens for tokens, _ in pairs], [position for _, position in pairs]


def backend_option(**keys: "Any") -> "Callable[[Any], Any]":
    """`--backend`, by the names that there are."""
    return click.option(
        "--backend", metavar="NAME", help="cpu, reference or cuda.  [default: cpu]", **keys
    )


def backend_named(name: str) -> str:
    """A backend's name, if it is one.

    Raises:
        UsageError: it is none.
    """
    from calmgrad import backend

    known = (*backend.NAMES, "cuda")
    if name.partition(":")[0] not in known:
        raise UsageError(f"--backend {name}: expected {', '.join(known)}")
    return name
