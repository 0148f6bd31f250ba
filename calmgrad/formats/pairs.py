"""Pairs of a query and the passage that answers it, for contrastive training (FORMATS §6).

    <QUERY>how does TCP handle retransmission
    <ATN>
    <REF>When a sender detects a lost segment, it sends it again.
    A passage may have more lines.

An empty line ends a pair. Lines are not stripped.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from calmgrad.formats.files import AnyPath
from calmgrad.formats.lines import MAX_LINE, Finding, Line, Report, excerpt, open_text, read_lines
from calmgrad.tokenizer import BOS, EOS, encode

MIN_QUERY, MIN_PASSAGE = 5, 20  # characters


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and its passage; `line` is where the pair begins, from 1."""

    line: int
    query: str
    passage: str


@dataclass(frozen=True, slots=True)
class Pairs:
    """What a pair file holds.

    Attributes:
        pairs: in the order of the file.
        left_out: reason -> number of pairs left out for it, only reasons that occurred.
        findings: what was lost or read otherwise than it was surely meant.
    """

    pairs: list[Pair]
    left_out: dict[str, int]
    findings: list[Finding]


def read(path: AnyPath) -> Pairs:
    """The pairs of a UTF-8 file.

    Raises:
        FileError: the file cannot be read.
    """
    findings: list[Finding] = []
    left_out: Counter[str] = Counter()
    pairs = []
    with open_text(path) as text:
        for draft in read_drafts(text, findings.append):
            if draft.left_out:
                left_out[draft.left_out] += 1
            else:
                pairs.append(Pair(draft.line, draft.query or "", draft.passage))
    return Pairs(pairs, dict(left_out), findings)


def tokens(text: str | bytes, l_max: int) -> NDArray[np.uint16]:
    """(length,) BOS, the bytes, EOS; of a longer text the head, so that l_max tokens hold it.

    Raises:
        ValueError: l_max is under 2.
    """
    if l_max < 2:
        raise ValueError(f"l_max is {l_max}: expected at least 2, for BOS and EOS")
    return np.array([BOS, *encode(text[:l_max])[: l_max - 2], EOS], np.uint16)


@dataclass(slots=True)
class Draft:
    """A pair as its lines come in."""

    line: int
    query: str | None = None
    parts: list[str] = field(default_factory=list)  # lines of the passage; none without <REF>
    length: int = 0
    open: bool = False  # the last tag was <REF>

    @property
    def passage(self) -> str:
        """The lines joined."""
        return "\n".join(self.parts)

    @property
    def left_out(self) -> str:
        """Why this is no pair; empty if it is one."""
        if self.query is None:
            return "without <QUERY>"
        if not self.parts:
            return "without <REF>"
        if len(self.query) < MIN_QUERY:
            return f"query under {MIN_QUERY} characters"
        if len(self.passage) < MIN_PASSAGE:
            return f"passage under {MIN_PASSAGE} characters"
        return ""

    def add(self, line: Line, report: Report) -> None:
        """Take in a line that is not empty."""
        text = line.text
        if text.startswith("<QUERY>"):
            if self.query is not None:
                message = f"a second <QUERY> replaces the first: {excerpt(self.query)}"
                report(Finding("second query", line.number, message))
            self.query, self.open = text[7:], False
        elif text.startswith("<ATN>"):
            if text != "<ATN>":
                message = f"text after <ATN> is lost: {excerpt(text[5:])}"
                report(Finding("text after a lone tag", line.number, message))
        elif text.startswith("<REF>"):
            if self.parts:
                message = f"a second <REF> replaces the first: {excerpt(self.passage)}"
                report(Finding("second passage", line.number, message))
            self.parts, self.length, self.open = [text[5:]], len(text), True
        elif not self.open:
            message = f"a line outside <QUERY> and <REF> is lost: {excerpt(text)}"
            report(Finding("line outside", line.number, message))
        elif self.length < MAX_LINE:  # no sequence could hold more
            self.parts.append(text)
            self.length += len(text)


def read_drafts(text: TextIO, report: Report) -> Iterator[Draft]:
    """Everything between empty lines, whether it is a pair or not, one at a time."""
    draft: Draft | None = None
    for line in read_lines(text, report):
        if line.text or line.cut:
            draft = draft or Draft(line.number)
            draft.add(line, report)
        elif draft:
            yield draft
            draft = None
    if draft:
        yield draft
