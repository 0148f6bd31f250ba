"""One block of a text as a token sequence, and what both text formats do alike.

A sequence is held as a string whose characters are its tokens, 0 to 319: Python joins, counts
and searches strings fast, and in UTF-16 such a string is the u16 tokens of a CTDS file.
"""

import hashlib
import re
from typing import NamedTuple

from calmgrad.formats.lines import MAX_LINE, Finding, Report
from calmgrad.tokenizer import ATN, BY_NAME, NAMES

TAGS = {f"<{name}>": BY_NAME[name] for name in NAMES.values()}
TAG = re.compile("<[A-Z]+>")
_KNOWN_TAG = re.compile("|".join(TAGS))


class Block(NamedTuple):
    """One block of the text as a sequence, or why it is none.

    Attributes:
        line: where it begins, counted from 1.
        tokens: a character for each token; empty where the block is left out.
        atn: position of the first ATN, else 0.
        digest: MD5 of what decides between training and validation.
        left_out: the reason; empty for a sequence.
    """

    line: int
    tokens: str
    atn: int
    digest: bytes
    left_out: str = ""

    @property
    def data(self) -> bytes:
        """The tokens as they stand in a CTDS file."""
        return self.tokens.encode("utf-16-le")

    def is_validation(self, fraction: float) -> bool:
        """Whether the block belongs to a validation part of this size."""
        return int.from_bytes(self.digest, "big") % 1000 < fraction * 1000


def as_bytes(text: str) -> str:
    """A text as a string of byte tokens."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


class Draft:
    """A sequence that grows until it is over l_max; from then on only its digest is kept up."""

    def __init__(self, line: int, l_max: int) -> None:
        self.line = line
        self.l_max = l_max
        self.parts: list[str] = []
        self.length = 0
        self.too_long_line = False

    def add(self, part: str) -> None:
        self.length += len(part)
        if self.length <= self.l_max:
            self.parts.append(part)
        else:
            self.parts.clear()

    def finish(self, tokens: str, shortest: int, digest: bytes) -> Block:
        """The block, whose sequence `tokens` is unless it grew too long before."""
        reason = ""
        if self.too_long_line:
            reason = f"a line over {MAX_LINE:,} characters"
        elif max(self.length, len(tokens)) > self.l_max:
            reason = f"over {self.l_max} tokens"
        elif len(tokens) < shortest:
            reason = f"under {shortest} tokens"
        if reason:
            return Block(self.line, "", 0, digest, reason)
        return Block(self.line, tokens, max(tokens.find(chr(ATN)), 0), digest)


def new_digest() -> "hashlib._Hash":
    return hashlib.md5(usedforsecurity=False)


def report_tags(text: str, line: int, report: Report) -> None:
    if "<" in text and (match := _KNOWN_TAG.search(text)):
        message = f"{match[0]} inside a line where it means nothing: it stays text"
        report(Finding("tag inside a line", line, message))
