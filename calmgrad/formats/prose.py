"""Plain prose to token sequences: a paragraph each, with the empty line that ends it.

The model of the domain prose is to stop at an empty line (`\\n\\n`), and the generic format, which
joins lines with nothing between them, has none it could learn that from.
"""

import re
from collections.abc import Iterable, Iterator
from hashlib import md5

from calmgrad.formats.blocks import Block
from calmgrad.formats.lines import MAX_LINE, Line
from calmgrad.tokenizer import ATN, BOS, EOS

PROSE = "prose"
END_OF_PARAGRAPH = b"\n\n"
SHORTEST = 32  # smallest l_max there is prose for
_AROUND = 3 + len(END_OF_PARAGRAPH)  # tokens of a sequence besides its text: BOS, ATN, EOS
_SENTENCE_ENDS = re.compile(rb"[.?!][\"')\]]*(?:\xe2\x80[\x99\x9d])* ")  # with closing quotes


def read_prose(lines: Iterable[Line], l_max: int) -> Iterator[Block]:
    """A block for each paragraph: BOS, ATN, its lines joined by blanks, an empty line, EOS.

    Paragraphs are apart by blank lines. One that is too long is cut after a sentence, else
    between words; only its last piece ends with the empty line. Tags stay text.

    Args:
        l_max: largest number of tokens of a sequence, `SHORTEST` at least.
    """
    room = l_max - _AROUND
    text, begins = b"", 0
    for line in lines:
        if line.cut:
            yield Block(line.number, "", 0, b"", f"a line over {MAX_LINE:,} characters")
        words = "" if line.cut else line.text.strip()
        if words:
            begins = begins if text else line.number
            text += b" " * bool(text) + words.encode("utf-8", "surrogateescape")
            while len(text) > room:
                end = _cut(text, room)
                yield _block(begins, text[:end].rstrip())
                text, begins = text[end:].lstrip(), line.number
        elif text:
            yield _block(begins, text + END_OF_PARAGRAPH)
            text = b""
    if text:
        yield _block(begins, text + END_OF_PARAGRAPH)


def _cut(text: bytes, room: int) -> int:
    """Where to cut a text that is too long: 1 to `room`."""
    ends = [match.end() for match in _SENTENCE_ENDS.finditer(text, 0, room)]
    if ends and ends[-1] > room // 2:
        return ends[-1]
    blank = text.rfind(b" ", 1, room + 1)
    if blank > 0:
        return blank
    end = room
    while end > room - 3 and text[end] & 0xC0 == 0x80:  # inside a character
        end -= 1
    return end


def _block(line: int, text: bytes) -> Block:
    tokens = f"{chr(BOS)}{chr(ATN)}{text.decode('latin-1')}{chr(EOS)}"
    return Block(line, tokens, 1, md5(text, usedforsecurity=False).digest())
