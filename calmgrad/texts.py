"""Texts out of files: lines, paragraphs, whole files, or the passages of a pair file."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TextIO

from calmgrad.formats import pairs
from calmgrad.formats.lines import MAX_LINE, Line, open_text, read_lines

STDIN = "-"
BY = ("line", "paragraph", "file", "passage")


@dataclass(frozen=True, slots=True)
class Text:
    """A text, the file it is from and the line it begins at, from 1."""

    text: str
    file: str
    line: int


def read_texts(paths: Iterable[str], by: str = "line") -> Iterator[Text]:
    """The texts of files one after another, as they are read.

    Args:
        paths: of UTF-8 files; "-" is standard input.
        by: "line": each line, an empty one too; "paragraph": lines between empty ones, joined by
            newlines; "file": all of it; "passage": what follows each <REF> of a pair file.

    Bytes that are not UTF-8 are kept as they are. Of a text of more than a million characters
    the beginning is read: no sequence could hold more.

    Raises:
        FileError: a file is missing or cannot be read.
        ValueError: `by` is something else.
    """
    if by not in BY:
        raise ValueError(f"by {by!r}: expected {', '.join(BY)}")
    for path in paths:
        with open_text(path) as text:
            yield from _texts(text, "standard input" if path == STDIN else path, by)


def _texts(text: TextIO, name: str, by: str) -> Iterator[Text]:
    if by == "passage":
        for draft in pairs.read_drafts(text, lambda _: None):
            if not draft.left_out:
                yield Text(draft.passage, name, draft.line)
        return
    lines = read_lines(text, lambda _: None)
    if by == "line":
        for line in lines:
            yield Text(line.text, name, line.number)
        return
    ends: Callable[[Line], bool] = (lambda _: False) if by == "file" else _is_blank
    yield from _joined(lines, name, ends)


def _is_blank(line: Line) -> bool:
    return not line.text.strip() and not line.cut


def _joined(lines: Iterable[Line], name: str, ends: Callable[[Line], bool]) -> Iterator[Text]:
    """Texts of several lines; `ends` says of a line that it separates two of them."""
    parts: list[str] = []
    begin, length = 1, 0
    for line in lines:
        if ends(line):
            if parts:
                yield Text("\n".join(parts), name, begin)
            parts, length = [], 0
            continue
        if not parts:
            begin = line.number
        if length < MAX_LINE:
            parts.append(line.text)
            length += len(line.text)
    if parts:
        yield Text("\n".join(parts), name, begin)
