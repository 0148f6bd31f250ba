"""The CALM vocabulary: 256 bytes, 22 special tokens, 42 reserved ones (FORMATS §4)."""

import re
from collections.abc import Iterable

from calmgrad.config import VOCAB

PAD = 256
BOS = 257
EOS = 258
ATN = 259
CWD = 260
GIT = 261
HIST = 262
EXIT = 263
CMD = 264
ENV = 265
COMP = 266
QUERY = 267
NEXT = 268
END = 269
WORD = 270
POS = 271
NOTE = 272
IPA = 273
DEF = 274
QUOTE = 275
BY = 276
REF = 277

# Token -> name, in order; 278 to 319 are reserved and have none.
NAMES = dict(
    enumerate(
        "PAD BOS EOS ATN CWD GIT HIST EXIT CMD ENV COMP QUERY NEXT END"
        " WORD POS NOTE IPA DEF QUOTE BY REF".split(),
        start=PAD,
    )
)
# FILE is an older name of QUERY: understood in raw text and in templates, never written.
BY_NAME = {name: token for token, name in NAMES.items()} | {"FILE": QUERY}


def encode(text: str | bytes) -> list[int]:
    """One token for each byte of the text in UTF-8; `<NAME>` in it stays text.

    Bytes that Python could not decode (a file name, an argument) come back as they were.
    """
    return list(text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape"))


def encode_raw(text: str) -> list[int]:
    """Tokens of a text in which `<NAME>` and `<:ID:>` stand for tokens; the rest are bytes.

    Raises:
        ValueError: a name that no token has, or an id outside the vocabulary.
    """
    tokens: list[int] = []
    done = 0
    for match in re.finditer("<([A-Z]+)>|<:([0-9]+):>", text):
        tokens += encode(text[done : match.start()])
        tokens.append(_token_of(match))
        done = match.end()
    return tokens + encode(text[done:])


def _token_of(match: re.Match[str]) -> int:
    name, digits = match.groups()
    if name is None:
        significant = digits.lstrip("0") or "0"
        if len(significant) > len(str(VOCAB)) or int(significant) >= VOCAB:
            where = f"<:{digits:.9}{'…' if len(digits) > 9 else ''}:>"
            raise ValueError(f"{where} at character {match.start()}: expected 0 to {VOCAB - 1}")
        return int(significant)
    if name not in BY_NAME:
        raise ValueError(f"<{name}> at character {match.start()}: there is no such token")
    return BY_NAME[name]


def decode(tokens: Iterable[int], special: bool = False) -> str:
    """The bytes among the tokens as UTF-8, broken characters replaced by U+FFFD.

    Special tokens are left out, so that bytes on both sides of one meet; with `special` they
    stand as `<NAME>`, reserved ones as `<:ID:>`.

    Raises:
        ValueError: a token outside the vocabulary.
    """
    text = bytearray()
    for position, token in enumerate(tokens):
        if not 0 <= token < VOCAB:
            raise ValueError(f"token {token} at position {position}: expected 0 to {VOCAB - 1}")
        if token < PAD:
            text.append(token)
        elif special:
            text += f"<{NAMES.get(token, f':{token}:')}>".encode()
    return text.decode("utf-8", "replace")
