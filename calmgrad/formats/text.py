"""Text to token sequences: the generic and the dictionary format (FORMATS §6).

The text is read line by line and one block is held at a time, so a file of any size converts in
little memory. What calm-mamba would lose without a word is lost here too, so that the bytes
agree, but told: each such place is a `Finding`.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TextIO

from calmgrad.formats.blocks import TAG, TAGS, Block, Draft, as_bytes, new_digest, report_tags
from calmgrad.formats.dictionary import read_dictionary
from calmgrad.formats.lines import Finding, Line, Report, excerpt, read_lines
from calmgrad.tokenizer import (
    ATN,
    BOS,
    BY,
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

GENERIC, DICTIONARY = "generic", "dictionary"

# Tokens that stand alone on a line, and those that begin a frame, with what may stand inside it.
ALONE = (PAD, BOS, EOS, ATN)
FRAMES = {
    CWD: (), GIT: (), HIST: (EXIT,), CMD: (), ENV: (), COMP: (NEXT,), QUERY: (),
    WORD: (POS, NOTE, IPA), DEF: (), QUOTE: (BY,), REF: (NOTE,),
}  # fmt: skip

_FRAME_OF = {tag: token for tag, token in TAGS.items() if token in FRAMES}
_ALONE_OF = {tag: token for tag, token in TAGS.items() if token in ALONE}
_REPLACED = {t: [(f"<{NAMES[s]}>", chr(s)) for s in subs] for t, subs in FRAMES.items()}


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
                return DICTIONARY, read_dictionary(rest, l_max, report)
            return GENERIC, _read_generic(rest, l_max, report)
    return GENERIC, iter(())


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


class _GenericBlock(Draft):
    def __init__(self, line: int, l_max: int, report: Report) -> None:
        super().__init__(line, l_max)
        self.report = report
        self.key = new_digest()
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
        match = TAG.match(text) if text[:1] == "<" else None
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
            self.add(as_bytes(text))

    def inside(self, content: str, line: int, token: int) -> str:
        """The tokens between a frame's token and END."""
        content = as_bytes(content)
        if "<" in content:
            for tag, sub in _REPLACED[token]:
                content = content.replace(tag, sub)
            report_tags(content, line, self.report)
        return content

    def block(self) -> Block:
        parts = self.parts
        if self.commands and not self.has_atn:
            for i in self.commands:
                if i < len(parts):
                    parts[i] = chr(ATN) + parts[i]
        return self.finish("".join([*parts, chr(EOS)]), 3, self.key.digest())
