"""What several commands share."""

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from calmgrad.data import Dataset
    from calmgrad.model import Model


def one_line(text: str) -> str:
    """The text, with escapes for all that is no character to print: names may hold anything."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say(message: str = "") -> None:
    """Talk to the user, a line on stderr; nothing that fails when nobody is there any more."""
    with suppress(OSError, ValueError):
        print(one_line(message), file=sys.stderr, flush=True)


def emit(values: dict[str, Any], as_json: bool) -> None:
    """Results, on stdout: one JSON object, or a line each."""
    if as_json:
        print(json.dumps(values))
        return
    width = max(len(name) for name in values)
    for name, value in values.items():
        print(f"{name:<{width}}  {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) >= 1e-3 or value == 0 else f"{value:.3e}"
    if isinstance(value, int):
        return f"{value:,}"
    return "-" if value is None else one_line(str(value))


def data_folder() -> Path:
    """Where the shell keeps its models and data."""
    from calmgrad.settings import data_folder

    return data_folder()


def load_kept(path: str | Path, l_max: int, purpose: str) -> "Dataset":
    """The sequences of a data set a model can take; says how many were left out and why."""
    from calmgrad.starting import load_kept

    return load_kept(path, l_max, purpose)


def size_name(config: Any) -> str:
    """The preset of these sizes, or "custom"."""
    from calmgrad.starting import size_name

    return size_name(config)


def load_finite(path: str | Path) -> "Model":
    """A model from a file, refused if a weight is not finite."""
    from calmgrad.model import load_model

    model = load_model(path)
    model.data().check_finite(path)
    return model


json_option = click.option("--json", "as_json", is_flag=True, help="Results as one JSON object.")
threads_option = click.option(
    "--threads",
    type=click.IntRange(1),
    help="Shards worked on at once; results do not depend on it.  [default: one a core]",
)
