"""Text to token sequences: the generic and the dictionary format (FORMATS §6).

The text is read line by line and one block is held at a time, so a file of any size converts in
little memory. What calm-mamba would lose without a word is lost here too, so that the bytes
agree, but told: each such place is a `Finding`.

A sequence is held as a string whose characters are its tokens, 0 to 319: Python joins, counts
and searches strings fast, and in UTF-16 such a string is the u16 tokens of a CTDS file.
"""

import hashlib
import io
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TextIO

from calmgrad.formats.files import AnyPath, open_source
from calmgrad.tokenizer import (
    ATN,
    BOS,
    BY,
    BY_NAME,
    CMD,
    COMP,
    CWD,
    DEF,
    END,
    ENV,
    EOS,
    EXIT,
    GIT,
    HIST,
    IPA,
    NAMES,
    NEXT,
    NOTE,
    PAD,
    POS,
    QUERY,
    QUOTE,
    REF,
    WORD,
)  # fmt: skip

MAX_LINE = 1 << 20  # characters; a longer line fits into no sequence of 65535 tokens

GENERIC, DICTIONARY = "generic", "dictionary"
NO_DEFINITION = "no <DEF>"

# Tokens that stand alone on a line, and those that begin a frame, with what may stand inside it.
ALONE = (PAD, BOS, EOS, ATN)
FRAMES = {
    CWD: (), GIT: (), HIST: (EXIT,), CMD: (), ENV: (), COMP: (NEXT,), QUERY: (),
    WORD: (POS, NOTE, IPA), DEF: (), QUOTE: (BY,), REF: (NOTE,),
}  # fmt: skip

_TAGS = {f"<{name}>": BY_NAME[name] for name in NAMES.values()}
_FRAME_OF = {tag: token for tag, token in _TAGS.items() if token in FRAMES}
_ALONE_OF = {tag: token for tag, token in _TAGS.items() if token in ALONE}
_REPLACED = {t: [(f"<{NAMES[s]}>", chr(s)) for s in subs] for t, subs in FRAMES.items()}
_TAG = re.compile("<[A-Z]+>")
_KNOWN_TAG = re.compile("|".join(_TAGS))


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


@dataclass(frozen=True, slots=True)
class Block:
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


@dataclass(frozen=True, slots=True)
class Line:
    """A line without its end; `cut` if it is longer than MAX_LINE and its rest was skipped."""

    number: int
    text: str
    cut: bool = False


def read_blocks(text: TextIO, l_max: int, report: Report) -> tuple[str, Iterator[Block]]:
    """The format of a text, and its blocks as they are read.

    Args:
        text: from `open_text`.
        l_max: largest number of tokens of a sequence.
        report: called with what is found, in the order of the lines.
    """
    lines = read_lines(text, report)
    for first in lines:
        if first.text.strip() or first.cut:
            rest = chain([first], lines)
            if first.text.lstrip().startswith("<WORD>"):
                return DICTIONARY, _read_dictionary(rest, l_max, report)
            return GENERIC, _read_generic(rest, l_max, report)
    return GENERIC, iter(())


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
    while line := text.readline(MAX_LINE):
        number += 1
        if number == 1 and line.startswith("\ufeff"):
            report(Finding("byte order mark", 1, "a byte order mark: left out"))
            line = line[1:]
        cut = False
        ended = line.endswith("\n")
        while not ended and (rest := text.readline(MAX_LINE)):
            cut = cut or bool(rest.strip())
            ended = rest.endswith("\n")
        if not line.isascii() and not _is_utf8(line):
            report(Finding("not UTF-8", number, "not UTF-8: the bytes are kept as they are"))
        yield Line(number, line.removesuffix("\n"), cut)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bytes(text: str) -> str:
    """A text as a string of byte tokens."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


class _Sequence:
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


def _md5() -> "hashlib._Hash":
    return hashlib.md5(usedforsecurity=False)


# Generic


def _read_generic(lines: Iterable[Line], l_max: int, report: Report) -> Iterator[Block]:
    block: _GenericBlock | None = None
    for line in lines:
        text = line.text.strip()
        if text or line.cut:
            block = block or _GenericBlock(line.number, l_max, report)
            block.add_line(line, text)
        elif block:
            yield block.block()
            block = None
    if block:
        yield block.block()


class _GenericBlock(_Sequence):
    def __init__(self, line: int, l_max: int, report: Report) -> None:
        super().__init__(line, l_max)
        self.report = report
        self.key = _md5()
        self.has_atn = False
        self.commands: list[int] = []  # which parts are CMD lines
        self.add(chr(BOS))

    def add_line(self, line: Line, text: str) -> None:
        if line.number > self.line:
            self.key.update(b"\n")
        elif text.startswith("<WORD>"):
            message = "a <WORD> block among others: read line by line, not as a dictionary entry"
            self.report(Finding("mixed blocks", line.number, message))
        self.key.update(text.encode("utf-8", "surrogateescape"))
        self.too_long_line = self.too_long_line or line.cut
        match = _TAG.match(text) if text[:1] == "<" else None
        tag = match[0] if match else ""
        content = text[len(tag) :]
        if tag in _FRAME_OF:
            token = _FRAME_OF[tag]
            if token == CMD:
                self.commands.append(len(self.parts))
            self.add(f"{chr(token)}{self.inside(content, line.number, token)}{chr(END)}")
        elif tag in _ALONE_OF:
            self.has_atn = self.has_atn or tag == "<ATN>"
            if content:
                message = f"text after {tag} is lost: {excerpt(content)}"
                self.report(Finding("text after a lone tag", line.number, message))
            self.add(chr(_ALONE_OF[tag]))
        else:
            if tag:
                message = f"{tag} begins no frame: the line stays text"
                self.report(Finding("unknown tag", line.number, message))
            self.add(_bytes(text))

    def inside(self, content: str, line: int, token: int) -> str:
        """The tokens between a frame's token and END."""
        content = _bytes(content)
        if "<" in content:
            for tag, sub in _REPLACED[token]:
                content = content.replace(tag, sub)
            _report_tags(content, line, self.report)
        return content

    def block(self) -> Block:
        parts = self.parts
        if self.commands and not self.has_atn:
            for i in self.commands:
                if i < len(parts):
                    parts[i] = chr(ATN) + parts[i]
        return self.finish("".join([*parts, chr(EOS)]), 3, self.key.digest())


def _report_tags(text: str, line: int, report: Report) -> None:
    if match := _KNOWN_TAG.search(text):
        message = f"{match[0]} inside a line where it means nothing: it stays text"
        report(Finding("tag inside a line", line, message))


def excerpt(text: str) -> str:
    """The beginning of a text, quoted, for a message."""
    return repr(text if len(text) <= 40 else text[:39] + "…")


# Dictionary


def _read_dictionary(lines: Iterable[Line], l_max: int, report: Report) -> Iterator[Block]:
    entry: _Entry | None = None
    skipping = False  # inside a block that is no entry
    for line in lines:
        if not line.text and not line.cut:  # only an empty line ends an entry
            if entry:
                yield entry.block()
            entry, skipping = None, False
        elif entry:
            entry.add_line(line)
        elif skipping or not (line.text.strip() or line.cut):
            continue
        elif line.text.lstrip().startswith("<WORD>"):
            entry = _Entry(line, l_max, report)
        else:
            skipping = True
            message = f"a block without <WORD> in a dictionary is lost: {excerpt(line.text)}"
            report(Finding("mixed blocks", line.number, message))
    if entry:
        yield entry.block()


class _Entry(_Sequence):
    """BOS WORD head ATN [POS p] [NOTE n] [IPA i] END {DEF text END {QUOTE …}} EOS."""

    def __init__(self, line: Line, l_max: int, report: Report) -> None:
        super().__init__(line.number, l_max)
        self.report = report
        self.too_long_line = line.cut
        self.has_definition = False
        self.after_blanks = False
        values = self.head(line.text.lstrip())
        self.word = values["<WORD>"]
        self.add(f"{chr(BOS)}{chr(WORD)}{_bytes(self.word)}{chr(ATN)}")
        for token in (POS, NOTE, IPA):
            if value := values.get(f"<{NAMES[token]}>"):
                self.add(chr(token) + _bytes(value))
        self.add(chr(END))

    def head(self, line: str) -> dict[str, str]:
        """The values of the head line: each tag's first place counts, up to the next such tag."""
        places = [(line.find(tag), tag) for tag in ("<WORD>", "<ATN>", "<POS>", "<NOTE>", "<IPA>")]
        found = sorted(place for place in places if place[0] >= 0)
        ends = [*(start for start, _ in found[1:]), len(line)]
        values = {}
        for (start, tag), end in zip(found, ends, strict=True):
            values[tag] = line[start + len(tag) : end].strip()
            if tag != "<ATN>":
                _report_tags(values[tag], self.line, self.report)
        if values.get("<ATN>"):
            message = f"text after <ATN> is lost: {excerpt(values['<ATN>'])}"
            self.report(Finding("text after a lone tag", self.line, message))
        return values

    def add_line(self, line: Line) -> None:
        text = line.text.strip()
        self.too_long_line = self.too_long_line or line.cut
        if not text:
            self.after_blanks = True
        elif text.startswith("<DEF>"):
            self.has_definition = True
            _report_tags(text[5:], line.number, self.report)
            self.add(f"{chr(DEF)}{_bytes(text[5:])}{chr(END)}")
        elif text.startswith("<QUOTE>") and self.has_definition:
            quote, _, author = text[7:].partition("<BY>")
            _report_tags(quote + author, line.number, self.report)
            by = chr(BY) + _bytes(author) if author else ""
            self.add(f"{chr(QUOTE)}{_bytes(quote)}{by}{chr(END)}")
        else:
            self.lost(line.number, text)

    def lost(self, number: int, text: str) -> None:
        """Report a line that nothing is made of."""
        if text.startswith("<WORD>") and self.after_blanks:
            kind = "merged entries"
            message = "a line of blanks ends no entry: what follows joins the one of line"
            message = f"{message} {self.line}, and this head line is lost: {excerpt(text)}"
        elif text.startswith("<WORD>"):
            kind, message = "second head line", f"a second head line is lost: {excerpt(text)}"
        elif text.startswith("<QUOTE>"):
            kind, message = "early quote", f"a quote before any <DEF> is lost: {excerpt(text)}"
        elif match := _TAG.match(text):
            kind = "unknown tag"
            message = f"{match[0]} means nothing here, the line is lost: {excerpt(text)}"
        else:
            kind = "continuation line"
            message = f"a line without a tag is lost: {excerpt(text)}"
        self.report(Finding(kind, number, message))

    def block(self) -> Block:
        key = _md5()
        key.update(self.word.lower().encode("utf-8", "surrogateescape"))
        if not self.has_definition:
            return Block(self.line, "", 0, key.digest(), NO_DEFINITION)
        return self.finish("".join([*self.parts, chr(EOS)]), 4, key.digest())
