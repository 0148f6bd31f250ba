"""What the examinations of `calmgrad doctor` have in common."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class Check:
    """What was found at one place.

    Attributes:
        state: "ok"; "note": works, but could be better; "problem".
        fix: a command, or what to do; empty if there is nothing to do.
        stops: nothing can be trained on the CPU until this is fixed.
    """

    name: str
    state: Literal["ok", "note", "problem"]
    text: str
    fix: str = ""
    stops: bool = False


def one_line(error: BaseException) -> str:
    """An error as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def first_line(path: str) -> str | None:
    """The first line of a small system file; None if there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip()
    except OSError:
        return None
