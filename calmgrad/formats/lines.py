"""The lines of a text file of any size, and what is told of what is odd in it."""

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, TextIO

from calmgrad.formats.files import AnyPath, open_source

MAX_LINE = 1 << 20  # characters; a longer line fits into no sequence of 65535 tokens


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in the text that is lost, or is not read as it was surely meant.

    Attributes:
        kind: a few words, to count by.
        line: counted from 1.
        message: what was found, and what becomes of it.
    """

    kind: str
    line: int
    message: str


Report = Callable[[Finding], None]


class Line(NamedTuple):
    """A line without its end; `cut` if it is longer than MAX_LINE and its rest was skipped."""

    number: int
    text: str
    cut: bool = False


@contextmanager
def open_text(path: AnyPath) -> Iterator[TextIO]:
    """A UTF-8 text for reading, lines ended by LF, CRLF or CR; other bytes become surrogates.

    Args:
        path: "-" is standard input.

    Raises:
        FileError: the file cannot be opened or read.
    """
    if path == "-":
        text = io.TextIOWrapper(sys.stdin.buffer, "utf-8", "surrogateescape", newline=None)
        try:
            yield text
        finally:
            text.detach()
        return
    with open_source(path) as source, io.BufferedReader(source.file, 1 << 20) as file:
        try:
            yield io.TextIOWrapper(file, "utf-8", "surrogateescape", newline=None)
        except OSError as error:
            raise source.error(f"cannot be read: {error.strerror}") from error


def read_lines(text: TextIO, report: Report) -> Iterator[Line]:
    """The lines of a text from `open_text`; bytes that are not UTF-8 are kept, and told."""
    number = 0
    readline, longest = text.readline, MAX_LINE
    while line := readline(longest):
        number += 1
        if number == 1 and line.startswith("\ufeff"):
            report(Finding("byte order mark", 1, "a byte order mark: left out"))
            line = line[1:]
        cut = False
        if line[-1:] == "\n":
            line = line[:-1]
        elif len(line) == longest:
            cut = _skip_line(text)
        if not line.isascii() and not _is_utf8(line):
            report(Finding("not UTF-8", number, "not UTF-8: the bytes are kept as they are"))
        yield Line(number, line, cut)


def _skip_line(text: TextIO) -> bool:
    """Go to the end of the line; whether there was more than blanks."""
    cut = False
    while rest := text.readline(MAX_LINE):
        cut = cut or bool(rest.strip())
        if rest.endswith("\n"):
            break
    return cut


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def excerpt(text: str) -> str:
    """The beginning of a text, quoted, for a message."""
    return repr(text if len(text) <= 40 else text[:39] + "…")
